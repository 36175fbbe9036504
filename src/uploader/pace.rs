//! How fast uploads have been lately, and how long what is left will take at that pace: pure.
//!
//! Small files are all latency and large ones all bandwidth. So each file counts some bytes more
//! than it has; of a queue like the one before, either kind is then foretold about right.

use std::time::{Duration, Instant};

/// What a file counts beside its bytes: what a link of some MB/s sends in the time of a request.
const FILE_BYTES: f64 = 256.0 * 1024.0;
/// Uploads count less the longer ago they were, by this time in which something was on its way: a
/// pause says nothing about the link.
const MEMORY_SECONDS: f64 = 60.0;
/// Shorter measurements say nothing.
const LEAST_SECONDS: f64 = 0.05;

/// The pace of the last uploads.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Work done, in bytes and what files count, and the seconds it took; both fade.
    work: f64,
    seconds: f64,
    measured_at: Instant,
    busy: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            work: 0.0,
            seconds: 0.0,
            measured_at: now,
            busy: false,
        }
    }

    /// From `now` on something is on its way, or nothing is.
    pub(super) fn set_busy(&mut self, now: Instant, busy: bool) {
        self.pass(now);
        self.busy = busy;
    }

    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.measured_at);
        self.measured_at = now;
        if self.busy {
            let passed = passed.as_secs_f64();
            let faded = (-passed / MEMORY_SECONDS).exp();
            self.work *= faded;
            self.seconds = self.seconds * faded + passed;
        }
    }

    /// So many bytes have arrived.
    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        self.pass(now);
        self.work += bytes as f64;
    }

    /// An operation has succeeded.
    pub(super) fn file_done(&mut self, now: Instant) {
        self.pass(now);
        self.work += FILE_BYTES;
    }

    /// Returns how long so much will take; `None` while nothing is known.
    pub(super) fn time_for(&mut self, now: Instant, files: u64, bytes: u64) -> Option<Duration> {
        self.pass(now);
        if self.work <= 0.0 || self.seconds < LEAST_SECONDS {
            return None;
        }
        let left = bytes as f64 + files as f64 * FILE_BYTES;
        Duration::try_from_secs_f64(left * self.seconds / self.work).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(pace: &mut Pace, now: Instant, files: u64, bytes: u64) -> Option<u64> {
        let time = pace.time_for(now, files, bytes)?;
        Some(time.as_secs_f64().round() as u64)
    }

    #[test]
    fn the_time_left_follows_the_pace_and_pauses_do_not_count() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(seconds(&mut pace, now, 1, 1000), None, "nothing is known");
        pace.set_busy(now, true);
        for _ in 0..10 {
            now += Duration::from_secs(1);
            pace.sent(now, 10_000_000);
        }
        pace.set_busy(now, false);
        let left = || (0, 50_000_000);
        let (files, bytes) = left();
        let before = seconds(&mut pace, now, files, bytes).unwrap();
        assert!((4..=6).contains(&before), "{before}");
        now += Duration::from_secs(3600);
        assert_eq!(seconds(&mut pace, now, files, bytes), Some(before));
        // The link gets ten times slower, and that is noticed within minutes.
        pace.set_busy(now, true);
        for _ in 0..300 {
            now += Duration::from_secs(1);
            pace.sent(now, 1_000_000);
        }
        let after = seconds(&mut pace, now, files, bytes).unwrap();
        assert!((40..=60).contains(&after), "{after}");
    }

    #[test]
    fn many_small_files_are_foretold_by_their_number() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pace.set_busy(now, true);
        for _ in 0..40 {
            now += Duration::from_millis(100);
            pace.sent(now, 500);
            pace.file_done(now);
        }
        let left = seconds(&mut pace, now, 100, 50_000).unwrap();
        assert!((9..=11).contains(&left), "{left}");
    }

    #[test]
    fn time_passes_while_nothing_arrives() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pace.set_busy(now, true);
        now += Duration::from_secs(1);
        pace.sent(now, 1_000_000);
        let before = pace.time_for(now, 0, 1_000_000).unwrap();
        now += Duration::from_secs(10);
        assert!(pace.time_for(now, 0, 1_000_000).unwrap() > 5 * before);
    }
}
