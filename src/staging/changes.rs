//! What changes in an open staged file, so that it can be copied as of one instant while it is
//! written.
//!
//! Whoever changes bytes holds the gate shared, for the time of that one change; whoever takes a
//! snapshot holds it alone, for as short as can be. In between, what a running copy has missed is
//! noted in blocks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Changes are noted in blocks of this length.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// A writer that a copy cannot keep up with is slowed to so many bytes a second until it is done,
/// and to half of that each time that it is not enough. A recorder writes far less.
const SLOWED_BYTES_PER_SECOND: u64 = 32 << 20;
/// How often it is halved at most.
const HALVED_AT_MOST: u32 = 5;
/// The longest that one write is held back for that.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The changes of one file.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Disk I/O under it is its purpose. Taken before an inode's state, never while that is held.
    gate: RwLock<()>,
    tracked: Mutex<Option<Tracked>>,
    watched: Mutex<Option<Watched>>,
}

/// What a copy that began a while ago has missed.
#[derive(Debug, Default)]
struct Tracked {
    missed: Missed,
    /// How often writers were slowed.
    slowed: u32,
}

/// Parts of a file that have changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Missed {
    /// Numbers of blocks.
    pub(super) blocks: BTreeSet<u64>,
    /// Everything from here on, whatever the length is now.
    pub(super) from: Option<u64>,
}

impl Missed {
    fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if range.end == u64::MAX {
            self.from = Some(self.from.map_or(range.start, |from| from.min(range.start)));
            return;
        }
        let last = (range.end - 1) / BLOCK_BYTES;
        self.blocks.extend(range.start / BLOCK_BYTES..=last);
    }

    /// Adds what another has.
    pub(super) fn join(&mut self, other: Missed) {
        self.blocks.extend(other.blocks);
        if let Some(from) = other.from {
            self.add(from..u64::MAX);
        }
    }

    /// Returns how many bytes have to be copied of a file of that length.
    pub(super) fn bytes(&self, length: u64) -> u64 {
        let tail = self.from.map_or(0, |from| length.saturating_sub(from));
        (self.blocks.len() as u64 * BLOCK_BYTES).saturating_add(tail)
    }
}

/// A file that may also be changed through a shared map that the kernel serves without us. The
/// file's own time of modification, which each of our changes moves as well, tells of that.
#[derive(Debug)]
struct Watched {
    expected: SystemTime,
    moved: bool,
}

impl Watched {
    fn look(&mut self, file: &File) {
        match modified(file) {
            Ok(now) => {
                self.moved |= now != self.expected;
                self.expected = now;
            }
            Err(_) => self.moved = true,
        }
    }
}

/// A change of a file's bytes that is going on.
#[derive(Debug)]
pub struct Changing<'a> {
    file: &'a File,
    changes: &'a Changes,
    range: Range<u64>,
    watched: Option<MutexGuard<'a, Option<Watched>>>,
    _gate: RwLockReadGuard<'a, ()>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(watched) = self.watched.as_mut().and_then(|watched| watched.as_mut())
            && let Ok(now) = modified(self.file)
        {
            watched.expected = now;
        }
        // At its end, with the gate still held: a copy that read half of it would else not know.
        if let Some(tracked) = &mut *self.changes.tracked.lock() {
            tracked.missed.add(self.range.clone());
        }
    }
}

impl Changes {
    /// Begins a change of these bytes, up to `u64::MAX` if it may reach beyond the end. Waits while
    /// a snapshot is being finished.
    pub(super) fn begin<'a>(&'a self, file: &'a File, range: Range<u64>) -> Changing<'a> {
        self.slow_down(range.end.saturating_sub(range.start));
        let gate = self.gate.read();
        let mut watched = self.watched.lock();
        if let Some(watched) = &mut *watched {
            watched.look(file);
        }
        Changing {
            file,
            changes: self,
            range,
            watched: watched.is_some().then_some(watched),
            _gate: gate,
        }
    }

    fn slow_down(&self, length: u64) {
        let slowed = self.tracked.lock().as_ref().map_or(0, |t| t.slowed);
        if slowed == 0 {
            return;
        }
        let rate = SLOWED_BYTES_PER_SECOND >> (slowed - 1).min(HALVED_AT_MOST);
        let micros = length.saturating_mul(1_000_000) / rate;
        std::thread::sleep(Duration::from_micros(micros).min(LONGEST_PAUSE));
    }

    /// Holds all changes up.
    pub(super) fn stop(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }

    /// From now on changes are noted, for a copy that begins. `watched` says that there may be
    /// changes that do not come through here.
    pub(super) fn track(&self, file: &File, watched: bool) -> io::Result<Tracking<'_>> {
        let _gate = self.gate.write();
        *self.tracked.lock() = Some(Tracked::default());
        if watched {
            let expected = modified(file)?;
            *self.watched.lock() = Some(Watched {
                expected,
                moved: false,
            });
        }
        Ok(Tracking(self))
    }
}

/// Changes are noted while it lives.
pub(super) struct Tracking<'a>(&'a Changes);

impl Tracking<'_> {
    /// Returns what has changed since it was last asked.
    pub(super) fn take(&self) -> Missed {
        let mut tracked = self.0.tracked.lock();
        tracked
            .as_mut()
            .map(|tracked| std::mem::take(&mut tracked.missed))
            .unwrap_or_default()
    }

    /// Has writers slowed down once more, so that the copy can keep up with them.
    pub(super) fn slow_down(&self) {
        if let Some(tracked) = &mut *self.0.tracked.lock() {
            tracked.slowed += 1;
        }
    }

    /// Whether the file was changed by somebody who does not come through here.
    pub(super) fn has_moved(&self, file: &File) -> bool {
        let mut watched = self.0.watched.lock();
        watched.as_mut().is_some_and(|watched| {
            watched.look(file);
            watched.moved
        })
    }
}

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        *self.0.tracked.lock() = None;
        *self.0.watched.lock() = None;
    }
}

fn modified(file: &File) -> io::Result<SystemTime> {
    file.metadata()?.modified()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_has_changed_is_noted_in_blocks() {
        let file = tempfile::tempfile().unwrap();
        let changes = Changes::default();
        drop(changes.begin(&file, 0..10));
        let tracking = changes.track(&file, false).unwrap();
        assert_eq!(tracking.take(), Missed::default(), "it came before");
        drop(changes.begin(&file, BLOCK_BYTES - 1..BLOCK_BYTES + 1));
        drop(changes.begin(&file, 5..5));
        let missed = tracking.take();
        assert_eq!(missed.blocks, BTreeSet::from([0, 1]));
        assert_eq!(missed.bytes(0), 2 * BLOCK_BYTES);
        drop(changes.begin(&file, 100..u64::MAX));
        drop(changes.begin(&file, 200..u64::MAX));
        let missed = tracking.take();
        assert_eq!((missed.from, missed.bytes(150)), (Some(100), 50));
        drop(tracking);
        drop(changes.begin(&file, 0..1));
        assert!(changes.tracked.lock().is_none());
    }

    #[test]
    fn a_change_that_does_not_come_through_here_is_told_from_one_that_does() {
        let file = tempfile::tempfile().unwrap();
        let changes = Changes::default();
        let tracking = changes.track(&file, true).unwrap();
        let pause = || std::thread::sleep(Duration::from_millis(20));
        for at in 0..3 {
            pause();
            let changing = changes.begin(&file, at..at + 1);
            file.write_all_at(b"x", at).unwrap();
            drop(changing);
        }
        assert!(!tracking.has_moved(&file));
        pause();
        file.write_all_at(b"y", 0).unwrap();
        drop(changes.begin(&file, 0..1));
        assert!(
            tracking.has_moved(&file),
            "also when a change of ours follows"
        );
    }

    #[test]
    fn changes_wait_while_they_are_stopped() {
        let file = tempfile::tempfile().unwrap();
        let changes = Changes::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let stopped = changes.stop();
            scope.spawn(|| {
                let _changing = changes.begin(&file, 0..1);
                sender.send(()).unwrap();
            });
            let early = receiver.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "nothing changes");
            drop(stopped);
            receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        });
    }
}
