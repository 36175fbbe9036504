//! A bar on a terminal for what takes a while. Where stderr is none, nothing is shown.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::status::{size_text, time_text};

/// The rate is that of the last so many seconds.
const RATE_TIME: Duration = Duration::from_secs(10);
/// Cells of the bar itself.
const CELLS: u64 = 24;

/// A bar that is drawn over itself, and is gone when it is dropped.
pub(super) struct Bar {
    shown: bool,
    /// When how many bytes were done, the oldest first.
    seen: VecDeque<(Instant, u64)>,
}

impl Bar {
    pub(super) fn new() -> Bar {
        Bar {
            shown: std::io::stderr().is_terminal(),
            seen: VecDeque::new(),
        }
    }

    /// Shows that so many of so many bytes are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if self.shown {
            let rate = self.rate(done, Instant::now());
            eprint!("\r\x1b[K{}", line(done, total, rate));
            let _ = std::io::stderr().flush();
        }
    }

    /// Takes note of how far it is; returns bytes a second.
    fn rate(&mut self, done: u64, now: Instant) -> f64 {
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && now.duration_since(self.seen[0].0) > RATE_TIME {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let seconds = now.duration_since(since).as_secs_f64();
        match seconds > 0.0 {
            true => done.saturating_sub(before) as f64 / seconds,
            false => 0.0,
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// Returns the bar in words: how much, how fast, how long still.
pub(super) fn line(done: u64, total: u64, rate: f64) -> String {
    let done = done.min(total);
    let part = if total == 0 {
        1.0
    } else {
        done as f64 / total as f64
    };
    let filled = (part * CELLS as f64) as usize;
    let bar = format!(
        "{}{}",
        "#".repeat(filled),
        "-".repeat(CELLS as usize - filled)
    );
    let (percent, done_text) = ((part * 100.0) as u64, size_text(done));
    let mut text = format!(
        "[{bar}] {percent:>3} %  {done_text} of {}",
        size_text(total)
    );
    if rate >= 1.0 {
        let left = ((total - done) as f64 / rate).ceil() as u64;
        text += &format!("  {}/s  {}", size_text(rate as u64), time_text(left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_part_rate_and_rest() {
        assert_eq!(
            line(50_000_000, 200_000_000, 10_000_000.0),
            "[######------------------]  25 %  50.0 MB of 200.0 MB  10.0 MB/s  15 s"
        );
        assert_eq!(
            line(0, 0, 0.0),
            "[########################] 100 %  0 B of 0 B"
        );
        assert!(line(9, 3, 0.0).contains("100 %"));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut bar = Bar::new();
        let begin = Instant::now();
        assert_eq!(bar.rate(0, begin), 0.0);
        for second in 1..=20_u64 {
            let bytes = if second <= 10 {
                0
            } else {
                (second - 10) * 1000
            };
            bar.rate(bytes, begin + Duration::from_secs(second));
        }
        let rate = bar.rate(10_000, begin + Duration::from_secs(20));
        assert!((900.0..1100.0).contains(&rate), "{rate}");
    }
}
