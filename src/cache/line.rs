//! What the line to the bucket carries, as far as the transfers tell.
//!
//! Long lines need many requests at once, slow ones few and short: what is asked for stands before
//! the next who waits. So the size of a request and the bytes under way follow what was measured.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::read_ahead::LEAST_FETCH_BYTES;

/// The most one request asks for: what a connection of 50 MB/s brings in 160 ms.
const MOST_FETCH_BYTES: u64 = 8 << 20;
/// A request takes so long beside its round trip, and at least twice that: shorter ones leave the
/// connection idle for most of the time, longer ones hold up whoever comes next.
const FETCH_TIME: Duration = Duration::from_millis(160);
/// Bytes under way that nobody waits for, beyond a round trip of the line: as much as keeps it busy
/// while requests end and begin.
const QUEUE_TIME: Duration = Duration::from_millis(400);
/// Bytes under way in any case, and at most.
const IN_FLIGHT_BYTES: (u64, u64) = (4 << 20, 128 << 20);
/// How long bytes are counted for one measurement of the line.
const SAMPLE_TIME: Duration = Duration::from_millis(250);
/// Until something was measured: an ordinary line, on which guessing too much costs a second.
const FIRST_GUESS: State = State {
    round_trip: Duration::from_millis(60),
    connection_rate: 25e6,
    rate: 200e6,
    sample: None,
    is_full: false,
};

/// The line.
#[derive(Debug)]
pub(super) struct Line(Mutex<State>);

#[derive(Debug)]
struct State {
    round_trip: Duration,
    /// Bytes a second of one connection among those at work.
    connection_rate: f64,
    /// Bytes a second of all together.
    rate: f64,
    /// Since when bytes are counted, and how many.
    sample: Option<(Instant, u64)>,
    /// Whether more would have been asked for meanwhile.
    is_full: bool,
}

impl Default for Line {
    fn default() -> Line {
        Line(Mutex::new(FIRST_GUESS))
    }
}

impl Line {
    /// Takes note of the time from a request to its answer.
    pub(super) fn note_round_trip(&self, time: Duration) {
        let mut state = self.0.lock();
        let known = state.round_trip;
        // What is more is mostly a new connection, or the bucket at work.
        state.round_trip = match time.checked_sub(known) {
            Some(more) => known + more / 16,
            None => time,
        };
    }

    /// Takes note of what one connection brought.
    pub(super) fn note_connection(&self, bytes: u64, time: Duration) {
        if bytes >= LEAST_FETCH_BYTES {
            let seen = bytes as f64 / time.as_secs_f64().max(1e-3);
            let mut state = self.0.lock();
            state.connection_rate += (seen - state.connection_rate) / 4.0;
        }
    }

    /// Takes note of bytes that arrived.
    pub(super) fn note_arrival(&self, bytes: u64, now: Instant) {
        let mut state = self.0.lock();
        let (since, counted) = state.sample.unwrap_or((now, 0));
        let time = now.saturating_duration_since(since);
        if time < SAMPLE_TIME {
            state.sample = Some((since, counted + bytes));
            return;
        }
        let seen = counted as f64 / time.as_secs_f64();
        if seen > state.rate {
            state.rate = seen;
        } else if state.is_full {
            state.rate = (state.rate + seen) / 2.0;
        }
        state.sample = Some((now, bytes));
        state.is_full = false;
    }

    /// Takes note that more is wanted than may be asked for.
    pub(super) fn note_full(&self) {
        self.0.lock().is_full = true;
    }

    /// Returns how many bytes that nobody waits for may be under way.
    pub(super) fn most_in_flight(&self) -> u64 {
        let state = self.0.lock();
        let bytes = state.rate * (state.round_trip + QUEUE_TIME).as_secs_f64();
        (bytes as u64).clamp(IN_FLIGHT_BYTES.0, IN_FLIGHT_BYTES.1)
    }

    /// Returns the most that one request should ask for.
    pub(super) fn fetch_bytes(&self) -> u64 {
        let state = self.0.lock();
        let time = FETCH_TIME.max(state.round_trip * 2).as_secs_f64();
        ((state.connection_rate * time) as u64).clamp(LEAST_FETCH_BYTES, MOST_FETCH_BYTES)
    }

    /// Returns how long a new connection takes until its first byte.
    pub(super) fn connection_time(&self) -> Duration {
        self.0.lock().round_trip * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets bytes arrive at a rate for so many seconds.
    fn run(line: &Line, now: &mut Instant, rate: u64, seconds: u64, is_full: bool) {
        for _ in 0..seconds * 100 {
            *now += Duration::from_millis(10);
            if is_full {
                line.note_full();
            }
            line.note_arrival(rate / 100, *now);
        }
    }

    #[test]
    fn what_is_under_way_follows_the_line() {
        let (line, mut now) = (Line::default(), Instant::now());
        run(&line, &mut now, 5_000_000, 4, true);
        let slow = line.most_in_flight();
        assert_eq!(slow, 4 << 20);
        run(&line, &mut now, 100_000_000, 1, true);
        let fast = line.most_in_flight();
        assert!((40 << 20..60 << 20).contains(&fast), "{fast}");
        // A reader that takes little says nothing about the line.
        run(&line, &mut now, 400_000, 10, false);
        assert_eq!(line.most_in_flight(), fast);
    }

    #[test]
    fn requests_are_short_on_slow_connections_and_long_on_distant_ones() {
        let line = Line::default();
        for _ in 0..40 {
            line.note_connection(1 << 20, Duration::from_secs(1));
        }
        assert!(line.fetch_bytes() < 300 << 10);
        for _ in 0..40 {
            line.note_round_trip(Duration::from_secs(1));
        }
        assert!(line.fetch_bytes() > 1 << 20);
        for _ in 0..40 {
            line.note_connection(1 << 20, Duration::from_millis(1));
        }
        assert_eq!(line.fetch_bytes(), MOST_FETCH_BYTES);
    }

    #[test]
    fn a_new_connection_is_not_taken_for_a_longer_line() {
        let line = Line::default();
        line.note_round_trip(Duration::from_millis(20));
        line.note_round_trip(Duration::from_millis(60));
        assert!(line.connection_time() < Duration::from_millis(75));
    }
}
