//! One object version in the cache: a sparse file, and which ranges of it are present.
//!
//! This file owns what is known of the bytes. Asking for those that are missing is `fetch`'s
//! work, and where the file lies and whether the index knows it is `mod.rs`'s.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fetch::Fetch;
use super::index::{Row, from_ms, to_ms};
use super::ranges::RangeSet;
use super::room::Usage;
use super::{Cache, CacheError, ReadStream};
use crate::audio::Layout;
use crate::disk::FileId;
use crate::store::ObjectVersion;

/// One object version in the cache. There is one of these per version at a time.
#[derive(Debug)]
pub struct CacheFile {
    pub(super) version: ObjectVersion,
    pub(super) content: Arc<Content>,
    pub(super) cache: Weak<Cache>,
}

/// The bytes of a [`CacheFile`]. Shared by two of them after a server-side copy gave them another
/// version, so that open handles of the old one read on.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) id: FileId,
    pub(super) size: u64,
    /// Read-only: a descriptor that can write would refuse the leases that `fs` takes.
    reader: File,
    complete: AtomicBool,
    used_at_ms: AtomicI64,
    /// Used since the row was saved.
    pub(super) touched: AtomicBool,
    /// Where the file lies. Held while it is moved and while its row changes.
    pub(super) place: Mutex<Place>,
    pub(super) state: Mutex<ContentState>,
    /// Rung when a fetch or the verification has ended.
    pub(super) progress: Notify,
    usage: Arc<Usage>,
}

/// Where a file lies, and whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the cache directory, by its id.
    Cache,
    /// In staging, adopted and not yet settled.
    Staged(PathBuf),
    /// Still in staging; no entry wants it any more.
    Unwanted(PathBuf),
    /// Elsewhere or removed; no longer ours.
    Left,
}

/// How far the bytes have got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Filling,
    /// All there; length and MD5 are being compared.
    Verifying,
    Complete,
    /// Arrived damaged twice.
    Damaged,
}

/// Who waits for all bytes of a range.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) range: Range<u64>,
    /// Rung when they are there, or will not come by themselves.
    pub(super) bell: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct ContentState {
    /// What the bucket is asked for.
    pub(super) version: ObjectVersion,
    pub(super) phase: Phase,
    pub(super) present: RangeSet,
    /// Requests under way; their ranges do not overlap.
    pub(super) fetches: Vec<Arc<Fetch>>,
    /// Who waits for bytes.
    pub(super) readers: Vec<Reader>,
    /// The descriptor that requests write to; gone once the file is complete.
    pub(super) writer: Option<Arc<File>>,
    /// Whether the bytes arrived damaged once already.
    pub(super) damaged_once: bool,
    pub(super) fetched_at: SystemTime,
    pub(super) last_modified: Option<SystemTime>,
    /// The row in the index is older than this.
    pub(super) dirty: bool,
    /// Whether the bytes count in the cache's usage.
    pub(super) counted: bool,
    /// Whether the observer was told of the object.
    pub(super) told: bool,
    /// What the bytes tell of themselves, if they are audio.
    pub(super) layout: Option<Layout>,
    /// Whether all of the head was looked at for that.
    pub(super) looked_at: bool,
}

impl ContentState {
    /// Returns the first run in `within` that is neither present nor under way.
    pub(super) fn first_gap(&self, mut within: Range<u64>) -> Option<Range<u64>> {
        loop {
            let missing = self.present.first_missing(within.clone())?;
            let overlapping = self
                .fetches
                .iter()
                .map(|fetch| &fetch.range)
                .filter(|range| range.start < missing.end && range.end > missing.start)
                .min_by_key(|range| range.start);
            match overlapping {
                None => return Some(missing),
                Some(range) if range.start > missing.start => {
                    return Some(missing.start..range.start);
                }
                Some(range) => within.start = range.end,
            }
            if within.start >= within.end {
                return None;
            }
        }
    }
}

impl Content {
    /// Returns content as a row of the index describes it, with the descriptors given.
    pub(super) fn new(
        row: Row,
        reader: File,
        writer: Option<File>,
        place: Place,
        usage: Arc<Usage>,
    ) -> Content {
        Content {
            id: row.id,
            size: row.size,
            reader,
            complete: AtomicBool::new(row.complete),
            used_at_ms: AtomicI64::new(to_ms(row.used_at)),
            touched: AtomicBool::new(false),
            place: Mutex::new(place),
            state: Mutex::new(ContentState {
                version: row.version,
                phase: if row.complete {
                    Phase::Complete
                } else {
                    Phase::Filling
                },
                present: row.present,
                fetches: Vec::new(),
                readers: Vec::new(),
                writer: writer.map(Arc::new),
                damaged_once: false,
                fetched_at: row.fetched_at,
                last_modified: row.last_modified,
                dirty: false,
                counted: false,
                told: false,
                layout: None,
                looked_at: false,
            }),
            progress: Notify::new(),
            usage,
        }
    }

    /// Returns the row that describes the content now.
    pub(super) fn row(&self, state: &ContentState) -> Row {
        Row {
            id: self.id,
            version: state.version.clone(),
            size: self.size,
            last_modified: state.last_modified,
            complete: state.phase == Phase::Complete,
            present: state.present.clone(),
            synced: state.phase == Phase::Complete,
            fetched_at: state.fetched_at,
            used_at: from_ms(self.used_at_ms.load(Ordering::Relaxed)),
        }
    }

    /// Notes a use, for the order of eviction.
    pub(super) fn touch(&self, now: SystemTime) {
        self.used_at_ms.store(to_ms(now), Ordering::Relaxed);
        self.touched.store(true, Ordering::Relaxed);
    }

    pub(super) fn used_at_ms(&self) -> i64 {
        self.used_at_ms.load(Ordering::Relaxed)
    }

    /// Lets a range that was written be read.
    pub(super) fn add(&self, range: Range<u64>) {
        let mut state = self.state.lock();
        let added = state.present.insert(range);
        state.dirty = true;
        if state.counted {
            self.usage.add(added);
        }
        // Only those who can go on: a reader waits for one of many ranges that are under way.
        for reader in &state.readers {
            if state.present.contains(reader.range.clone()) {
                reader.bell.notify_one();
            }
        }
    }

    /// Has those look again who wait for bytes in `range`.
    pub(super) fn ring(&self, range: &Range<u64>) {
        for reader in &self.state.lock().readers {
            if reader.range.start < range.end && range.start < reader.range.end {
                reader.bell.notify_one();
            }
        }
    }

    /// Drops all bytes, since they are not what the ETag promises.
    fn drop_bytes(&self, state: &mut ContentState) {
        if state.counted {
            self.usage.sub(state.present.bytes());
        }
        state.present = RangeSet::default();
        state.dirty = true;
    }

    /// Counts the bytes in the cache's usage, or no longer.
    pub(super) fn count(&self, counted: bool) {
        let mut state = self.state.lock();
        match (state.counted, counted) {
            (false, true) => self.usage.enter(state.present.bytes()),
            (true, false) => self.usage.leave(state.present.bytes()),
            _ => return,
        }
        state.counted = counted;
    }

    /// Begins the verification if the last byte has arrived; whether the caller is to do it.
    pub(super) fn begin_verification(&self, state: &mut ContentState) -> bool {
        let due = state.phase == Phase::Filling && state.present.bytes() == self.size;
        if due {
            state.phase = Phase::Verifying;
        }
        due
    }

    /// Ends the verification. `sound` tells whether the bytes are right and synced.
    pub(super) fn end_verification(&self, sound: bool) {
        let mut state = self.state.lock();
        if sound {
            state.phase = Phase::Complete;
            state.writer = None;
            state.dirty = true;
            self.complete.store(true, Ordering::Release);
        } else {
            self.drop_bytes(&mut state);
            state.phase = if state.damaged_once {
                Phase::Damaged
            } else {
                Phase::Filling
            };
            state.damaged_once = true;
        }
        drop(state);
        self.progress.notify_waiters();
        self.ring(&(0..self.size));
    }

    pub(super) fn reader(&self) -> &File {
        &self.reader
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn is_named(&self) -> bool {
        self.reader.metadata().is_ok_and(|meta| meta.nlink() > 0)
    }
}

impl CacheFile {
    /// Returns which version this is.
    pub fn version(&self) -> &ObjectVersion {
        &self.version
    }

    /// Returns the id in the file's name.
    pub fn id(&self) -> FileId {
        self.content.id
    }

    /// Returns the length of the object in bytes.
    pub fn size(&self) -> u64 {
        self.content.size
    }

    /// Returns a read-only descriptor, fit to be registered for passthrough. While the file is
    /// complete the cache holds no descriptor that can write.
    pub fn file(&self) -> &File {
        &self.content.reader
    }

    /// Whether the file is whole and verified, so that the kernel may read it past us.
    pub fn is_complete(&self) -> bool {
        self.content.is_complete()
    }

    /// Whether no byte has to come from the bucket any more.
    pub fn is_held(&self) -> bool {
        self.is_complete() || self.held_bytes() == self.size()
    }

    /// Whether the last download or revalidation is longer ago than the TTL.
    pub fn is_expired(&self) -> bool {
        let fetched_at = self.content.state.lock().fetched_at;
        self.cache
            .upgrade()
            .is_some_and(|cache| cache.is_expired(fetched_at))
    }

    /// Whether the file still has a name; false after `rm -rf cache/`.
    pub fn is_named(&self) -> bool {
        self.content.is_named()
    }

    /// Returns how many bytes are present.
    pub fn held_bytes(&self) -> u64 {
        self.content.state.lock().present.bytes()
    }

    /// Fills `buf` from `offset` if all of it, up to the end of the file, is present; returns how
    /// many bytes. Inline lane. After a success call [`CacheFile::note_read`], so that the
    /// read-ahead moves on.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let range = self.clip(offset, buf.len());
        let present =
            self.is_complete() || self.content.state.lock().present.contains(range.clone());
        present.then(|| {
            let buf = &mut buf[..(range.end - range.start) as usize];
            self.content.reader.read_exact_at(buf, offset)?;
            Ok(buf.len())
        })
    }

    /// Tells the read-ahead of a read that [`CacheFile::try_read`] answered. Inline lane: starts
    /// requests, waits for none. Does nothing for a complete file.
    pub fn note_read(self: &Arc<Self>, stream: &ReadStream, offset: u64, len: usize) {
        if !self.is_complete() {
            self.advance(stream, self.clip(offset, len));
        }
    }

    /// Returns the bytes from `offset`, at most `len` and fewer only at the end of the file; waits
    /// for those that are missing. Remote lane.
    pub async fn read(
        self: &Arc<Self>,
        stream: &ReadStream,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, CacheError> {
        let range = self.clip(offset, len);
        if !self.is_complete() {
            self.demand(stream, range.clone()).await?;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // The bytes were just written or are about to be read by the caller: from memory, mostly.
        self.content.reader.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Waits until the file is whole and verified. Remote lane.
    pub async fn fill(self: &Arc<Self>) -> Result<(), CacheError> {
        loop {
            self.demand_all().await?;
            loop {
                let progress = self.content.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                let phase = self.content.state.lock().phase;
                match phase {
                    Phase::Complete => return Ok(()),
                    Phase::Damaged => return Err(CacheError::Damaged),
                    Phase::Filling => break,
                    Phase::Verifying => progress.await,
                }
            }
        }
    }

    /// Starts the first ranged GET, if its bytes are missing, and returns. Inline lane.
    pub fn prefetch(self: &Arc<Self>, stream: &ReadStream) {
        if !self.is_complete() {
            self.ask_first(stream);
        }
    }

    /// Returns the range of a read, ended by the end of the file.
    fn clip(&self, offset: u64, len: usize) -> Range<u64> {
        let start = offset.min(self.size());
        start..start.saturating_add(len as u64).min(self.size())
    }
}
