//! One object version in the cache: a sparse file, and which ranges of it are present.
//!
//! This file owns what is known of the bytes. Asking for those that are missing is `fetch`'s
//! work, and where the file lies and whether the index knows it is `mod.rs`'s.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fetch::Fetch;
use super::index::{Row, from_ms, to_ms};
use super::punch::Arrived;
use super::ranges::RangeSet;
use super::read_ahead::StreamState;
use super::room::Usage;
use super::{Cache, CacheError, ReadStream};
use crate::audio::Layout;
use crate::disk::FileId;
use crate::store::ObjectVersion;

/// So long after a read has waited in vain no other of the same file waits. What a read-ahead did not bring
/// the kernel asks for once more, and for each caller that waited for the same pages: one after the
/// other, so that the last would wait for a deadline as often as there are callers.
const IN_VAIN: Duration = Duration::from_secs(1);

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
    /// How often ranges have left `present` to become holes.
    pub(super) holes: AtomicU64,
    pub(super) usage: Arc<Usage>,
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

/// A read has waited in vain.
#[derive(Clone, Copy, Debug)]
struct Vain {
    at: Instant,
    /// Whether the bucket answered others then.
    reachable: bool,
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
    /// The same in the order in which it came.
    pub(super) arrived: Arrived,
    /// Holes were punched into it: it has no row and gets none until it is whole.
    pub(super) has_holes: bool,
    /// How many wait for all of it: nothing of it gives way meanwhile.
    pub(super) fills: usize,
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
    waited_in_vain: Option<Vain>,
}

impl ContentState {
    /// Returns the first gap of a file that is to be whole. What has given way for want of room is not
    /// brought back until somebody reads it.
    pub(super) fn gap_to_whole(&self, wishes: &StreamState, size: u64) -> Option<Range<u64>> {
        match wishes.whole && !self.has_holes {
            true => self.first_gap(0..size),
            false => None,
        }
    }

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
                arrived: match row.complete {
                    true => Arrived::default(),
                    false => Arrived::before(row.present.iter()),
                },
                present: row.present,
                has_holes: false,
                fills: 0,
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
                waited_in_vain: None,
            }),
            progress: Notify::new(),
            holes: AtomicU64::new(0),
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
        state.arrived.push(range.clone());
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
        state.arrived = Arrived::default();
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
            state.arrived = Arrived::default();
            state.has_holes = false;
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

/// Somebody waits for all bytes of a file.
struct Wanted<'a>(&'a Content);

impl Wanted<'_> {
    fn begin(content: &Content) -> Wanted<'_> {
        content.state.lock().fills += 1;
        Wanted(content)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.state.lock().fills -= 1;
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

    /// Whether nothing of it is here yet.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_complete() && self.held_bytes() == 0
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
        let buf = &mut buf[..(range.end - range.start) as usize];
        let read = self.content.read_present(range.start, buf)?;
        Some(read.map(|()| buf.len()))
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
        let mut bytes = vec![0; (range.end - range.start) as usize];
        loop {
            if !self.is_complete() {
                self.demand(stream, range.clone()).await?;
            }
            // They may have given way again already.
            if let Some(read) = self.content.read_present(range.start, &mut bytes) {
                read?;
                return Ok(bytes);
            }
        }
    }

    /// Whether a read has waited in vain so lately that another need not try: unless the bucket was away
    /// then and is back.
    pub fn was_waited_for_in_vain(&self, now: Instant) -> bool {
        let Some(vain) = self.content.state.lock().waited_in_vain else {
            return false;
        };
        now < vain.at + IN_VAIN && vain.reachable == self.is_reachable()
    }

    /// Takes note that a read has waited in vain. One that has hardly waited keeps nobody else.
    pub fn note_wait_in_vain(&self, begun: Instant, now: Instant) {
        if now.saturating_duration_since(begun) >= IN_VAIN {
            self.content.state.lock().waited_in_vain = Some(Vain {
                at: now,
                reachable: self.is_reachable(),
            });
        }
    }

    fn is_reachable(&self) -> bool {
        let cache = self.cache.upgrade();
        cache.is_some_and(|cache| cache.fetcher.store.is_reachable())
    }

    /// Waits until the file is whole and verified. Remote lane.
    pub async fn fill(self: &Arc<Self>) -> Result<(), CacheError> {
        let _all_of_it = Wanted::begin(&self.content);
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
