//! Room in files that are in use: holes are punched where the bytes lie that arrived first.
//!
//! Only files that are not whole give way like this: the kernel may read a whole one past us, and its pages
//! would be zeros. A range leaves [`ContentState::present`] first and counts as under way until its
//! hole is made, so that nobody brings it back meanwhile. Who is reading it finds [`Content::holes`]
//! raised afterwards, and looks again ([`Content::read_present`]). Before the first hole the file's row
//! leaves the index, for good: a row that came back after a power cut would tell of bytes that are a hole. From then on
//! the file has none, and is gone with its last user.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, fallocate};

use super::fetch::{Fetch, overlaps, register};
use super::file::{CacheFile, Content, ContentState, Phase, Place};
use super::{Cache, CacheError};

/// So much of what came last stays: somebody is about to read it.
const KEPT_BYTES: u64 = 2 << 20;
/// What came in a row is given up in pieces of this length.
const PIECE_BYTES: u64 = 1 << 20;

/// What has arrived, in this order.
#[derive(Debug, Default)]
pub(super) struct Arrived(VecDeque<Range<u64>>);

impl Arrived {
    /// Ranges of which nobody knows when they came.
    pub(super) fn before(ranges: impl Iterator<Item = Range<u64>>) -> Arrived {
        Arrived(ranges.collect())
    }

    pub(super) fn push(&mut self, range: Range<u64>) {
        match self.0.back_mut() {
            Some(last) if last.end == range.start && range.end - last.start <= PIECE_BYTES => {
                last.end = range.end;
            }
            _ => self.0.push_back(range),
        }
    }

    /// Takes out what came first, about so many bytes, but nothing that is still `needed` and not what came
    /// last.
    fn take(&mut self, wanted: u64, needed: impl Fn(&Range<u64>) -> bool) -> Vec<Range<u64>> {
        let mut left: u64 = self.0.iter().map(length).sum();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        self.0.retain(|range| {
            let goes = bytes < wanted && left >= KEPT_BYTES + length(range) && !needed(range);
            if goes {
                left -= length(range);
                bytes += length(range);
                taken.push(range.clone());
            }
            !goes
        });
        taken
    }
}

impl Cache {
    /// Frees bytes of files in use, of those first that were not used for the longest time; returns how
    /// many.
    pub(super) fn punch_files(&self, wanted: u64) -> u64 {
        let mut files = self.table.all();
        files.sort_by_key(|file| file.content.used_at_ms());
        let mut freed = 0;
        for file in files {
            if freed >= wanted {
                break;
            }
            freed += self.punch(&file, wanted - freed);
        }
        freed
    }

    /// Frees bytes of one file; returns how many.
    pub(super) fn punch(&self, file: &CacheFile, wanted: u64) -> u64 {
        let content = &file.content;
        let pinned = self.pinned.holds(&file.version.key);
        if wanted == 0 || pinned || !content.may_be_punched() {
            return 0;
        }
        if let Err(error) = self.leave_index(content) {
            log::warn!("{}: cannot give way: {error}", file.version.key);
            return 0;
        }
        content.punch(wanted)
    }

    /// Takes the row of a file out of the index, which from then on gets none of it.
    fn leave_index(&self, content: &Content) -> io::Result<()> {
        // A row is saved under this lock, so that none is on its way.
        let place = content.place.lock();
        if *place == Place::Cache && !content.has_holes() {
            self.index().remove_for_good(content.id)?;
            content.state.lock().has_holes = true;
        }
        Ok(())
    }
}

impl Content {
    /// Whether holes were punched into it, so that it can be used by those who have it and by nobody after
    /// them.
    pub(super) fn has_holes(&self) -> bool {
        self.state.lock().has_holes
    }

    fn may_be_punched(&self) -> bool {
        let state = self.state.lock();
        state.phase == Phase::Filling && state.fills == 0 && state.present.bytes() > KEPT_BYTES
    }

    fn punch(&self, wanted: u64) -> u64 {
        let Some((file, pieces)) = self.take_pieces(wanted) else {
            return 0;
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let mut freed = 0;
        for piece in pieces {
            let range = &piece.range;
            match fallocate(&*file, flags, range.start, length(range)) {
                Ok(()) => freed += length(range),
                // The bytes are still there.
                Err(error) => {
                    log::debug!("no hole in {}: {error}", self.id);
                    self.add(range.clone());
                }
            }
            self.end_piece(&piece);
        }
        freed
    }

    /// Takes the bytes that arrived first from the readers: as if they were on their way.
    fn take_pieces(&self, wanted: u64) -> Option<(Arc<File>, Vec<Arc<Fetch>>)> {
        let mut state = self.state.lock();
        if state.phase != Phase::Filling || state.fills > 0 || !state.has_holes {
            return None;
        }
        let file = Arc::clone(state.writer.as_ref()?);
        let ContentState {
            arrived, readers, ..
        } = &mut *state;
        let needed = |range: &Range<u64>| readers.iter().any(|it| overlaps(&it.range, range));
        let taken = arrived.take(wanted, needed);
        let mut bytes = 0;
        for range in &taken {
            bytes += state.present.remove(range.clone());
        }
        if state.counted {
            self.usage.sub(bytes);
        }
        // Before the first hole is made.
        self.holes.fetch_add(1, Ordering::AcqRel);
        let pieces = taken
            .into_iter()
            .map(|range| register(&mut state, range, true));
        let pieces = pieces.collect();
        Some((file, pieces))
    }

    /// The hole is made: who needs the bytes may ask for them again.
    fn end_piece(&self, piece: &Arc<Fetch>) {
        {
            let mut state = self.state.lock();
            state.fetches.retain(|other| !Arc::ptr_eq(other, piece));
            piece.end(Err(CacheError::Cancelled));
        }
        self.progress.notify_waiters();
        self.ring(&piece.range);
    }

    /// Fills `buf` from `offset` if all of it is present; `None` if not. Ends within the file.
    pub(super) fn read_present(&self, offset: u64, buf: &mut [u8]) -> Option<io::Result<()>> {
        let range = offset..offset + buf.len() as u64;
        loop {
            if self.is_complete() {
                return Some(self.reader().read_exact_at(buf, offset));
            }
            let holes = {
                let state = self.state.lock();
                if !state.present.contains(range.clone()) {
                    return None;
                }
                self.holes.load(Ordering::Acquire)
            };
            let read = self.reader().read_exact_at(buf, offset);
            if self.holes.load(Ordering::Acquire) == holes {
                return Some(read);
            }
        }
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_came_first_goes_first_and_what_came_last_stays() {
        let mut arrived = Arrived::before(std::iter::once(8 * MIB..9 * MIB));
        for at in 0..6 {
            arrived.push(at * MIB..(at + 1) * MIB);
        }
        let needed = |range: &Range<u64>| range.contains(&MIB);
        assert_eq!(arrived.take(2 * MIB, needed), [8 * MIB..9 * MIB, 0..MIB]);
        assert_eq!(
            arrived.take(u64::MAX, needed),
            [2 * MIB..3 * MIB, 3 * MIB..4 * MIB, 4 * MIB..5 * MIB]
        );
        assert_eq!(arrived.take(u64::MAX, |_| false), []);
    }

    #[test]
    fn what_comes_in_a_row_is_one_piece_up_to_a_length() {
        let mut arrived = Arrived::default();
        for at in 0..16 {
            arrived.push(at * MIB / 4..(at + 1) * MIB / 4);
        }
        assert_eq!(
            arrived.0,
            [0..MIB, MIB..2 * MIB, 2 * MIB..3 * MIB, 3 * MIB..4 * MIB]
        );
    }
}
