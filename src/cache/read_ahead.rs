//! What one open handle is likely to read next.
//!
//! [`ReadAhead`] is the pure part: it sees the reads of one handle and says how far ahead the cache
//! should ask. [`ReadStream`] is what a handle holds; `fetch` turns its wishes into requests.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Files up to this size are fetched whole by their first request: a second one would take longer
/// than the bytes it spares.
pub(super) const SMALL_FILE_BYTES: u64 = 4 * MIB;
/// The first request of a larger file: enough for the header of any audio format, little enough
/// that a tag scan moves less than a hundredth of a library.
pub(super) const FIRST_FETCH_BYTES: u64 = 256 * KIB;
/// The least a request asks for: at 50 MB/s it costs 5 ms beside a round trip of 60 ms.
pub(super) const LEAST_FETCH_BYTES: u64 = 256 * KIB;
/// Reading in order for so long is taken for more than a look at the header.
const SUSPECTED_RUN_BYTES: u64 = 256 * KIB;
/// The window is so many times what was read in order. A reader that takes all it gets has a line
/// of 60 ms and 16 connections of 50 MB/s full after four round trips; one that looks at the first
/// quarter megabyte has cost two megabytes.
const WINDOW_PER_RUN: u64 = 8;
/// The largest window; bounds what a reader that stops has fetched in vain.
const MAX_WINDOW_BYTES: u64 = 128 * MIB;
/// The kernel's own read-ahead sends reads a little out of order.
const REORDER_BYTES: u64 = 512 * KIB;
/// Reading in order for so long, or for a quarter of the file, means that all of it is wanted.
const SUSTAINED_RUN_BYTES: u64 = 16 * MIB;

/// The reads of one handle, as far as they tell about the next.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Where the present run of reads began.
    start: u64,
    /// Where it has got to.
    next: u64,
    /// How many bytes were read in order in this run.
    run: u64,
    /// Up to where this run has been asked for ahead.
    asked_to: u64,
}

/// What to do about a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The read does not continue the run: what was asked for ahead is no longer wanted.
    pub(super) jumped: bool,
    /// What to ask for ahead; may be empty.
    pub(super) ahead: Range<u64>,
    /// Whether the rest of the file is wanted too.
    pub(super) whole: bool,
}

impl ReadAhead {
    /// Takes note of a read of `range` in a file of `size` bytes.
    pub(super) fn on_read(&mut self, range: Range<u64>, size: u64) -> Advice {
        let expected =
            self.next.saturating_sub(REORDER_BYTES)..=self.next.saturating_add(REORDER_BYTES);
        let jumped = !expected.contains(&range.start);
        if jumped {
            *self = ReadAhead {
                start: range.start,
                next: range.end,
                run: range.end - range.start,
                asked_to: range.end,
            };
        } else {
            self.next = self.next.max(range.end);
            self.start = self.start.min(range.start);
            // What is read again counts once; what is skipped does not.
            self.run = (self.run + (range.end - range.start)).min(self.next - self.start);
        }
        Advice {
            jumped,
            ahead: self.refill(size),
            whole: self.run >= SUSTAINED_RUN_BYTES.min(size / 4).max(SUSPECTED_RUN_BYTES),
        }
    }

    /// Forgets what was asked for ahead, since it did not come.
    pub(super) fn ask_again(&mut self) {
        self.asked_to = 0;
    }

    /// Asks for more only when half of the window is used up, so that requests stay large.
    fn refill(&mut self, size: u64) -> Range<u64> {
        if self.run < SUSPECTED_RUN_BYTES {
            return 0..0;
        }
        let window = self
            .run
            .saturating_mul(WINDOW_PER_RUN)
            .min(MAX_WINDOW_BYTES);
        let from = self.asked_to.max(self.next);
        let to = self.next.saturating_add(window).min(size);
        if from - self.next >= window / 2 || from >= to {
            return 0..0;
        }
        self.asked_to = to;
        from..to
    }
}

/// The read-ahead of one open handle. Dropping it stops what it has asked for ahead.
#[derive(Debug, Default)]
pub struct ReadStream(pub(super) Arc<Stream>);

/// The shared part of a [`ReadStream`]. Requests hold it weakly.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Taken before a file's ranges, see the lock order in `cache/mod.rs`.
    pub(super) state: Mutex<StreamState>,
}

/// What a stream wants ahead and how much of it is under way.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) read_ahead: ReadAhead,
    /// What is wanted ahead.
    pub(super) target: Range<u64>,
    /// Whether the rest of the file is wanted, when the target is there.
    pub(super) whole: bool,
    /// Requests under way for it.
    pub(super) in_flight: usize,
    /// Its receivers learn that the run is over when this is dropped.
    pub(super) run: watch::Sender<()>,
}

impl Default for StreamState {
    fn default() -> StreamState {
        StreamState {
            read_ahead: ReadAhead::default(),
            target: 0..0,
            whole: false,
            in_flight: 0,
            run: watch::Sender::new(()),
        }
    }
}

impl StreamState {
    /// Takes note of a read, and changes what is wanted.
    pub(super) fn on_read(&mut self, range: Range<u64>, size: u64) {
        let advice = self.read_ahead.on_read(range, size);
        if advice.jumped {
            self.stop();
        }
        if !advice.ahead.is_empty() {
            self.target = advice.ahead;
        }
        self.whole |= advice.whole;
    }

    /// Wants nothing ahead any more, until the next read.
    pub(super) fn stop(&mut self) {
        self.target = 0..0;
        self.whole = false;
        self.run = watch::Sender::new(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1024 * MIB;
    const READ: u64 = 128 * KIB;

    /// Reads in order from `from`, and returns how far ahead was asked at the most.
    fn read_in_order(state: &mut ReadAhead, from: u64, bytes: u64) -> (u64, bool) {
        let (mut farthest, mut whole) = (0, false);
        for at in (from..from + bytes).step_by(READ as usize) {
            let advice = state.on_read(at..at + READ, SIZE);
            assert!(advice.ahead.end <= SIZE);
            if !advice.ahead.is_empty() {
                farthest = farthest.max(advice.ahead.end - at);
            }
            whole |= advice.whole;
        }
        (farthest, whole)
    }

    #[test]
    fn a_look_at_the_header_asks_nothing_ahead() {
        let mut state = ReadAhead::default();
        assert_eq!(read_in_order(&mut state, 0, 128 * KIB), (0, false));
        assert_eq!(state.on_read(SIZE - READ..SIZE, SIZE).ahead, 0..0);
    }

    #[test]
    fn reading_in_order_widens_the_window_to_its_limit() {
        let mut state = ReadAhead::default();
        let (after_one, _) = read_in_order(&mut state, 0, MIB);
        assert!((MIB..=9 * MIB).contains(&after_one), "{after_one}");
        let (after_all, whole) = read_in_order(&mut state, MIB, 200 * MIB);
        assert!(after_all > 100 * MIB && after_all <= MAX_WINDOW_BYTES + READ);
        assert!(whole);
    }

    #[test]
    fn a_jump_closes_the_window() {
        let mut state = ReadAhead::default();
        read_in_order(&mut state, 0, 4 * MIB);
        for at in [500 * MIB, 100 * MIB, 900 * MIB] {
            let advice = state.on_read(at..at + READ, SIZE);
            assert_eq!(
                advice,
                Advice {
                    jumped: true,
                    ahead: 0..0,
                    whole: false
                }
            );
        }
    }

    #[test]
    fn reads_a_little_out_of_order_continue_the_run() {
        let mut state = ReadAhead::default();
        read_in_order(&mut state, 0, MIB);
        for at in [MIB + READ, MIB, MIB + 3 * READ, MIB + 2 * READ] {
            assert!(!state.on_read(at..at + READ, SIZE).jumped);
        }
        assert_eq!(state.run, MIB + 4 * READ);
    }

    #[test]
    fn reading_one_place_again_is_not_progress() {
        let mut state = ReadAhead::default();
        for _ in 0..1000 {
            let advice = state.on_read(0..READ, SIZE);
            assert!(advice.ahead.is_empty() && !advice.whole);
        }
    }

    #[test]
    fn what_did_not_come_is_asked_for_again() {
        let mut state = ReadAhead::default();
        read_in_order(&mut state, 0, MIB);
        state.ask_again();
        let advice = state.on_read(MIB..MIB + READ, SIZE);
        assert_eq!(advice.ahead.start, MIB + READ);
    }
}
