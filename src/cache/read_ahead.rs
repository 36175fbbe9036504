//! What one open handle is likely to read next.
//!
//! [`ReadAhead`] is the pure part: it sees the reads of one handle and says how far ahead the cache
//! should ask. [`ReadStream`] is what a handle holds; `fetch` turns its wishes into requests.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::audio::Layout;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Files up to this size are fetched whole by their first request: a second one would take longer
/// than the bytes it spares.
pub(super) const SMALL_FILE_BYTES: u64 = 4 * MIB;
/// The first request of a larger file asks for this part of it, so that a tag scan moves less than
/// a hundredth of a library.
const FIRST_PART: u64 = 256;
/// And for so much at least, and at most. The kernel asks for up to two of its windows of 128 KiB more
/// than is read: with less, one who reads all would wait once more before the window opens.
const FIRST_FETCH_BYTES: (u64, u64) = (384 * KIB, MIB);
/// A read elsewhere that begins so near the end of the file looks for a tag or for the last page.
const NEAR_END_BYTES: u64 = 128 * KIB;
/// It asks for so much at least: tags at the end are read from the last byte backwards.
const LAST_FETCH_BYTES: u64 = 8 * KIB;
/// Of tables at the head (a tag with a picture) so much is asked for beyond what was read.
const TABLES_WINDOW_BYTES: u64 = MIB;
/// The most a read elsewhere asks for beyond what it needs. More was tried, up to what a connection brings in half
/// a round trip: its rest is on its way when the next place is asked for, and 1.5 MiB made 20 seeks a tenth slower.
const MOST_JUMP_BYTES: u64 = MIB;
/// The least a request asks for: at 50 MB/s it costs 5 ms beside a round trip of 60 ms.
pub(super) const LEAST_FETCH_BYTES: u64 = 256 * KIB;
/// Reading sound in order for so long is taken for more than a look. `ffprobe` looks at the first 230 kB
/// of a WAVE file, and the kernel asks for up to 480 KiB then: with a tag at the end less than a
/// hundredth of 50 MB.
const SUSPECTED_RUN_BYTES: u64 = 512 * KIB;
/// And so is reading on after this time, where it is known how much of the file is a second of sound. What
/// takes longer to play that run has so much sound in what the first request brings.
const LOOKING_TIME: Duration = Duration::from_secs(5);
/// The window is at most so many times what was read in order: one that goes on has a long line full
/// after two round trips, and one that stops has not asked for all of a large file.
const WINDOW_PER_RUN: u64 = 32;
/// Of a file that is known as audio so much is read in order before more is wanted than it plays in the time
/// below: `mediainfo` looks at the first megabyte of a WAVE file, and the kernel asks for up to half a
/// megabyte beyond that.
const COPIED_RUN_BYTES: u64 = 2 * MIB;
/// The window is what the stream reads in this time. A player has so many seconds of sound before
/// it; one that reads as fast as it can has a window that keeps any line busy.
const WINDOW_TIME: Duration = Duration::from_secs(8);
/// The largest window.
const MAX_WINDOW_BYTES: u64 = 128 * MIB;
/// How fast a stream reads is an average over about this time.
const RATE_TIME: Duration = Duration::from_secs(4);
/// Nobody's rate is known after less.
const LEAST_RATE_TIME: Duration = Duration::from_millis(50);
/// The kernel's own read-ahead sends reads a little out of order.
const REORDER_BYTES: u64 = 512 * KIB;
/// Reading in order for so long, or for a quarter of the file, means that all of it is wanted.
const SUSTAINED_RUN_BYTES: u64 = 16 * MIB;
/// Less is never taken for a sign of that.
const LEAST_SUSTAINED_BYTES: u64 = 4 * MIB;

/// Returns what the first request of a file of `size` bytes asks for.
pub(super) fn first_fetch(size: u64) -> Range<u64> {
    if size <= SMALL_FILE_BYTES {
        return 0..size;
    }
    0..(size / FIRST_PART).clamp(FIRST_FETCH_BYTES.0, FIRST_FETCH_BYTES.1)
}

/// The reads of one handle, as far as they tell about the next.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Where the present run of reads began.
    start: u64,
    /// Where it has got to.
    next: u64,
    /// How many bytes were read in order in this run.
    run: u64,
    /// Since when how many bytes of it are counted, for its rate.
    counted: Option<(Instant, u64)>,
    /// Bytes a second.
    rate: f64,
    /// Up to where this run is wanted.
    wanted_to: u64,
    /// How much of the file is a second of sound; 0 if that is not known.
    playing: u64,
}

/// What to do about a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The read does not continue the run: what was asked for ahead is no longer wanted.
    pub(super) jumped: bool,
    /// More is wanted ahead than before.
    pub(super) more: bool,
    /// The rest of the file is wanted too.
    pub(super) whole: bool,
}

impl ReadAhead {
    /// Takes note of a read of `range` in a file of `size` bytes.
    pub(super) fn on_read(
        &mut self,
        range: Range<u64>,
        size: u64,
        layout: Option<Layout>,
        now: Instant,
    ) -> Advice {
        let expected =
            self.next.saturating_sub(REORDER_BYTES)..=self.next.saturating_add(REORDER_BYTES);
        let jumped = !expected.contains(&range.start);
        let before = self.run;
        if jumped {
            *self = ReadAhead {
                start: range.start,
                next: range.end,
                run: range.end - range.start,
                ..ReadAhead::default()
            };
        } else {
            self.next = self.next.max(range.end);
            self.start = self.start.min(range.start);
            // What is read again counts once; what is skipped does not.
            self.run = (self.run + (range.end - range.start)).min(self.next - self.start);
        }
        self.measure(
            self.run.saturating_sub(if jumped { 0 } else { before }),
            now,
        );
        let playing = layout.and_then(|layout| layout.bytes_per_second);
        self.playing = playing.unwrap_or(0);
        // One who reads slowly or has just begun needs what is played, at least.
        self.rate = self.rate.max(self.playing as f64);
        let looked = self.counted.map(|(since, _)| now - since);
        let is_playing = self.playing > 0 && looked.is_some_and(|time| time >= LOOKING_TIME);
        let sustained = SUSTAINED_RUN_BYTES.min(size / 4).max(LEAST_SUSTAINED_BYTES);
        Advice {
            jumped,
            more: self.widen(size, layout, is_playing),
            whole: self.sound_run(layout) >= sustained,
        }
    }

    /// Returns how many bytes were read in order that are not tables.
    fn sound_run(&self, layout: Option<Layout>) -> u64 {
        let head_end = layout.map_or(0, |layout| layout.head_end);
        self.run.min(self.next.saturating_sub(head_end))
    }

    fn measure(&mut self, bytes: u64, now: Instant) {
        let (since, counted) = self.counted.unwrap_or((now, 0));
        let counted = counted + bytes;
        let time = now.saturating_duration_since(since);
        self.rate = counted as f64 / time.max(LEAST_RATE_TIME).as_secs_f64();
        self.counted = Some(match time > RATE_TIME {
            // The older half is forgotten.
            true => (since + time / 2, counted / 2),
            false => (since, counted),
        });
    }

    /// Forgets what was wanted ahead, since it did not come.
    pub(super) fn ask_again(&mut self) {
        self.wanted_to = 0;
    }

    /// Wants more only when a quarter of the window is used up, so that requests stay large.
    fn widen(&mut self, size: u64, layout: Option<Layout>, is_playing: bool) -> bool {
        let run = self.sound_run(layout);
        let (window, limit) = match layout {
            Some(layout) if self.next < layout.head_end => (TABLES_WINDOW_BYTES, layout.head_end),
            _ if run >= SUSPECTED_RUN_BYTES || is_playing => (self.window(run), size),
            _ => return false,
        };
        let to = self.next.saturating_add(window).min(limit);
        let more = to > self.wanted_to.saturating_add(window / 4)
            || (to == limit && self.wanted_to < limit);
        // A reader that has become slow no longer wants what nobody has begun to bring.
        if more || self.wanted_to > to.saturating_add(window) {
            self.wanted_to = to;
        }
        more
    }

    /// Returns the window of one who has read so much sound in order.
    fn window(&self, run: u64) -> u64 {
        let rate = match self.playing > 0 && run < COPIED_RUN_BYTES {
            true => self.playing as f64,
            false => self.rate,
        };
        (run.saturating_mul(WINDOW_PER_RUN))
            .min((rate * WINDOW_TIME.as_secs_f64()) as u64)
            .clamp(LEAST_FETCH_BYTES, MAX_WINDOW_BYTES)
    }

    /// Returns what a read elsewhere asks for in a file of `size` bytes.
    fn jump(&self, range: Range<u64>, size: u64, layout: Option<Layout>) -> Range<u64> {
        let tail = layout.map_or(size, |layout| layout.tail_start);
        if range.start >= tail.min(size.saturating_sub(NEAR_END_BYTES)) {
            let last = size.saturating_sub(LAST_FETCH_BYTES);
            let end = range.start.saturating_add(TABLES_WINDOW_BYTES);
            return range.start.min(last)..end.max(range.end).min(size);
        }
        // A second of sound, or the player waits again at once.
        let bytes = self.playing.clamp(LEAST_FETCH_BYTES, MOST_JUMP_BYTES);
        range.start..range.end.max(range.start.saturating_add(bytes))
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

/// What a stream wants ahead.
#[derive(Debug)]
pub(super) struct StreamState {
    read_ahead: ReadAhead,
    /// Whether the rest of the file is wanted, when the window is there.
    pub(super) whole: bool,
    /// Whether it is among those that the schedule asks.
    pub(super) listed: bool,
    /// Its receivers learn that the run is over when this is dropped.
    pub(super) run: watch::Sender<()>,
}

impl Default for StreamState {
    fn default() -> StreamState {
        StreamState {
            read_ahead: ReadAhead::default(),
            whole: false,
            listed: false,
            run: watch::Sender::new(()),
        }
    }
}

impl StreamState {
    /// Takes note of a read; whether more is wanted than before.
    pub(super) fn on_read(
        &mut self,
        range: Range<u64>,
        size: u64,
        layout: Option<Layout>,
    ) -> Advice {
        let now = Instant::now();
        let mut advice = self.read_ahead.on_read(range, size, layout, now);
        if advice.jumped {
            self.whole = false;
            self.run = watch::Sender::new(());
        }
        advice.more |= advice.whole && !self.whole;
        self.whole |= advice.whole;
        advice
    }

    /// Returns what is wanted ahead in a file of `size` bytes. The stream may have been another
    /// file's before, when its handle's file was replaced.
    pub(super) fn wanted(&self, size: u64) -> Range<u64> {
        let to = self.read_ahead.wanted_to.min(size);
        self.read_ahead.next.min(to)..to
    }

    /// Returns in how many seconds a byte is read, if all goes on so.
    pub(super) fn seconds_until(&self, offset: u64) -> f64 {
        self.distance(offset) as f64 / self.read_ahead.rate.max(1.0)
    }

    /// Returns how far a byte is ahead.
    pub(super) fn distance(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.read_ahead.next)
    }

    /// Returns what a read in order asks for. One who may only be looking at a file of `size` bytes
    /// gets little beyond what the first request brings.
    pub(super) fn next(&self, range: Range<u64>, size: u64) -> Range<u64> {
        let least = range.start.saturating_add(LEAST_FETCH_BYTES);
        let more = match self.read_ahead.wanted_to {
            0 => least.min(first_fetch(size).end),
            _ => least,
        };
        range.start..range.end.max(more)
    }

    /// Returns what a read elsewhere asks for.
    pub(super) fn jump(&self, range: Range<u64>, size: u64, layout: Option<Layout>) -> Range<u64> {
        self.read_ahead.jump(range, size, layout)
    }

    /// Wants nothing ahead any more, until the next read: what was asked for did not come.
    pub(super) fn give_up(&mut self) {
        self.read_ahead.ask_again();
        self.whole = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1024 * MIB;
    const READ: u64 = 128 * KIB;

    /// A handle's reads, and the time.
    struct Reads {
        state: ReadAhead,
        layout: Option<Layout>,
        now: Instant,
    }

    impl Reads {
        fn new() -> Reads {
            Reads {
                state: ReadAhead::default(),
                layout: None,
                now: Instant::now(),
            }
        }

        fn read(&mut self, at: u64) -> Advice {
            let (range, layout) = (at..at + READ, self.layout);
            self.state.on_read(range, SIZE, layout, self.now)
        }

        /// Reads in order from `from`, each read after `pause`; returns how far ahead was wanted
        /// at the end, and whether all of the file was.
        fn in_order(&mut self, from: u64, bytes: u64, pause: Duration) -> (u64, bool) {
            let mut whole = false;
            for at in (from..from + bytes).step_by(READ as usize) {
                self.now += pause;
                whole |= self.read(at).whole;
                assert!(self.state.wanted_to <= SIZE);
            }
            let ahead = self.state.wanted_to.saturating_sub(from + bytes);
            (ahead, whole)
        }
    }

    const AT_ONCE: Duration = Duration::from_micros(200);

    #[test]
    fn a_look_at_the_header_asks_nothing_ahead() {
        let mut reads = Reads::new();
        assert_eq!(reads.in_order(0, 384 * KIB, AT_ONCE), (0, false));
        let advice = reads.read(SIZE - READ);
        assert!(advice.jumped && !advice.more);
    }

    #[test]
    fn reading_in_order_widens_the_window_to_its_limit() {
        let mut reads = Reads::new();
        let (after_some, _) = reads.in_order(0, 512 * KIB, AT_ONCE);
        assert!((8 * MIB..=16 * MIB).contains(&after_some), "{after_some}");
        let (after_two, _) = reads.in_order(512 * KIB, 1536 * KIB, AT_ONCE);
        assert!(after_two > 48 * MIB, "{after_two}");
        let (after_all, whole) = reads.in_order(2 * MIB, 200 * MIB, AT_ONCE);
        assert!(after_all > 90 * MIB && after_all <= MAX_WINDOW_BYTES);
        assert!(whole);
    }

    #[test]
    fn a_player_has_seconds_of_sound_before_it() {
        let mut reads = Reads::new();
        // 288,000 bytes a second.
        let (ahead, _) = reads.in_order(0, 4 * MIB, Duration::from_millis(455));
        assert!((MIB..3 * MIB).contains(&ahead), "{ahead}");
        // Who then reads all as fast as it comes soon has the line.
        let (ahead, _) = reads.in_order(4 * MIB, 64 * MIB, AT_ONCE);
        assert!(ahead > 32 * MIB, "{ahead}");
    }

    /// A file with tables at both ends, of which so much plays a second.
    const SOUND: Layout = Layout {
        head_end: 3 * MIB,
        tail_start: SIZE - 2 * MIB,
        bytes_per_second: Some(40_000),
    };

    #[test]
    fn reading_tables_asks_for_no_sound() {
        let mut reads = Reads::new();
        reads.layout = Some(SOUND);
        let (ahead, _) = reads.in_order(0, 2 * MIB, AT_ONCE);
        assert!((MIB / 2..=MIB).contains(&ahead), "{ahead}");
        assert_eq!(
            reads.in_order(2 * MIB, MIB + 384 * KIB, AT_ONCE),
            (0, false)
        );
        // The rest of eight seconds of sound, and of the line only for one who copies.
        let (ahead, _) = reads.in_order(3 * MIB + 384 * KIB, 896 * KIB, AT_ONCE);
        assert!((128 * KIB..=320 * KIB).contains(&ahead), "{ahead}");
        let (ahead, _) = reads.in_order(4 * MIB + 256 * KIB, MIB, AT_ONCE);
        assert!(ahead > 8 * MIB, "{ahead}");
    }

    #[test]
    fn a_player_of_small_files_has_its_seconds_before_it_has_read_much() {
        let mut reads = Reads::new();
        let pause = Duration::from_millis(2048);
        assert_eq!(reads.in_order(3 * MIB, 384 * KIB, pause), (0, false));
        reads.layout = Some(SOUND);
        let (ahead, _) = reads.in_order(3 * MIB + 384 * KIB, READ, pause);
        assert!((256 * KIB..=MIB).contains(&ahead), "{ahead}");
    }

    #[test]
    fn a_read_near_the_end_asks_for_what_is_there() {
        let mut reads = Reads::new();
        let jump = |reads: &mut Reads, at: u64| {
            reads.read(at);
            let range = at..at + 4 * KIB;
            reads.state.jump(range, SIZE, reads.layout)
        };
        assert_eq!(jump(&mut reads, SIZE - 4 * KIB), SIZE - 8 * KIB..SIZE);
        assert_eq!(jump(&mut reads, SIZE - 70 * KIB), SIZE - 70 * KIB..SIZE);
        let at = SIZE - 2 * MIB;
        assert_eq!(jump(&mut reads, at), at..at + 256 * KIB);
        reads.layout = Some(SOUND);
        jump(&mut reads, 9 * MIB);
        assert_eq!(jump(&mut reads, at), at..at + MIB);
    }

    #[test]
    fn a_read_elsewhere_asks_for_a_second_of_sound() {
        let mut reads = Reads::new();
        reads.layout = Some(Layout {
            bytes_per_second: Some(768 * KIB),
            ..SOUND
        });
        let at = 100 * MIB;
        reads.read(at);
        let asked = reads.state.jump(at..at + READ, SIZE, reads.layout);
        assert_eq!(asked, at..at + 768 * KIB);
    }

    #[test]
    fn a_jump_closes_the_window() {
        let mut reads = Reads::new();
        reads.in_order(0, 4 * MIB, AT_ONCE);
        for at in [500 * MIB, 100 * MIB, 900 * MIB] {
            let advice = reads.read(at);
            assert!(advice.jumped && !advice.more && !advice.whole);
            assert!(reads.state.wanted_to <= at);
        }
    }

    #[test]
    fn the_first_request_is_a_small_part_of_the_file() {
        assert_eq!(first_fetch(3 * MIB), 0..3 * MIB);
        assert_eq!(first_fetch(30 * MIB), 0..384 * KIB);
        assert_eq!(first_fetch(SIZE), 0..MIB);
    }

    #[test]
    fn reads_a_little_out_of_order_continue_the_run() {
        let mut reads = Reads::new();
        reads.in_order(0, MIB, AT_ONCE);
        for at in [MIB + READ, MIB, MIB + 3 * READ, MIB + 2 * READ] {
            assert!(!reads.read(at).jumped);
        }
        assert_eq!(reads.state.run, MIB + 4 * READ);
    }

    #[test]
    fn reading_one_place_again_is_not_progress() {
        let mut reads = Reads::new();
        for _ in 0..1000 {
            let advice = reads.read(0);
            assert!(!advice.more && !advice.whole);
        }
    }

    #[test]
    fn what_did_not_come_is_asked_for_again() {
        let mut reads = Reads::new();
        reads.in_order(0, MIB, AT_ONCE);
        reads.state.ask_again();
        assert!(reads.read(MIB).more);
    }
}
