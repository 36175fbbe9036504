//! The disposable cache: object versions on local disk, filled by ranged GETs as they are read.
//!
//! It owns `CACHE_DIR` and nothing that is not in the bucket as well: whatever is lost here costs a
//! download. It does not know names, handles or uploads; `fs` and the uploader call it with object
//! versions. A file is adopted from staging and taken back there without a copy.
//!
//! ```text
//! mod        what callers see              table      entries in memory, one per version
//! place      files made, found, removed    exchange   files from and to staging
//! verify     is it what was promised       index/     index.db: rows, listings
//! audit      is all of it so still
//! file       the bytes of one version      ranges     which of them are present
//! fetch      who asks for what is missing  transfer   how it arrives
//! read_ahead what is wanted next           schedule   whose wish comes first
//! line       how much is asked for at once room       budget, eviction, expiry
//! punch      room in files in use
//! behind     the housekeeping thread       export     metadata.json
//! layout     what a file tells as audio     pins       what is never evicted
//! listings   what the bucket's folders held
//! ```
//!
//! Lock order, from the first to the last; a lock is never taken while a later one is held:
//! `Cache::evicting`, `Cache::remaking`, `Content::place`, the table's state, the schedule, a
//! stream's state, `Content::state`; then, each alone and last, the line, the index's connections, `Cache::index`,
//! `Cache::pending`. Only the first three are held across disk I/O, and no read of cached bytes
//! takes one of those.

mod audit;
mod behind;
mod error;
mod exchange;
mod export;
mod fetch;
mod file;
mod index;
mod layout;
mod line;
mod listings;
mod pins;
mod place;
mod punch;
mod ranges;
mod read_ahead;
mod room;
mod schedule;
mod table;
mod transfer;
mod verify;

#[cfg(test)]
mod fake_store;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::clock::SharedClock;
use crate::disk::{self, FileId};
use crate::store::{ObjectInfo, ObjectStore, ObjectVersion};

pub use audit::Audit;
pub use error::CacheError;
pub use file::CacheFile;
pub use listings::{Amendment, Holds, LargeListing, ListingId, SavedListing};
pub use pins::NoRoom;
pub use read_ahead::ReadStream;

use behind::Behind;
use fetch::Fetcher;
use index::Index;
use pins::Pinned;
use room::Usage;
use table::Table;

/// What the cache is told at start.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Which bucket's versions it holds; a directory that held another's is emptied.
    pub source: String,
    /// The cache directory, absolute.
    pub dir: PathBuf,
    /// How long after its last download or revalidation an entry is kept.
    pub ttl: Duration,
    /// The most bytes held; `None` for 50 GiB or a fifth of the disk, whichever is less.
    pub max_bytes: Option<u64>,
    /// How many bytes of the disk are left free.
    pub min_free_bytes: u64,
    /// How long a transfer may stand still, counted from its last byte of progress.
    pub request_deadline: Duration,
}

/// Is called with what the first GET of a file tells about its object. Must not block.
pub type InfoObserver = Box<dyn Fn(&ObjectInfo) + Send + Sync>;

/// Told of each version whose bytes arrived damaged: they may have been read already.
pub type DamageObserver = Box<dyn Fn(&ObjectVersion) + Send + Sync>;

/// A complete object in the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldObject {
    /// Which version.
    pub version: ObjectVersion,
    /// Length in bytes.
    pub size: u64,
    /// When the object was last written, as far as a GET told; else when it came into the cache.
    pub last_modified: SystemTime,
}

/// What the cache holds of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which version.
    pub version: ObjectVersion,
    /// Length in bytes.
    pub size: u64,
    /// How many of them are here.
    pub held_bytes: u64,
    /// Whether they are all here and verified.
    pub complete: bool,
    /// Whether it stays when others are evicted.
    pub pinned: bool,
    /// Last use, known to the minute.
    pub used_at: SystemTime,
}

/// What a cleanup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Entries removed because they were older than the TTL.
    pub expired_files: u64,
    /// Entries removed to keep to the budget or the free space.
    pub evicted_files: u64,
    /// Files removed that no entry knew.
    pub orphans: u64,
    /// Bytes given back in all.
    pub freed_bytes: u64,
}

/// The state of the cache in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes held.
    pub bytes: u64,
    /// The most bytes held.
    pub max_bytes: u64,
    /// Entries.
    pub files: u64,
    /// Opens that needed no bytes from the bucket.
    pub hits: u64,
    /// Opens that did.
    pub misses: u64,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    options: CacheOptions,
    max_bytes: u64,
    clock: SharedClock,
    fetcher: Fetcher,
    table: Table,
    usage: Arc<Usage>,
    /// Replaced when it was removed or is damaged.
    index: RwLock<Arc<Index>>,
    remaking: Mutex<()>,
    evicting: Mutex<()>,
    /// Rung when a verification has ended.
    verified: Notify,
    pinned: Pinned,
    /// Listings that are not in the index yet, by folder.
    pending: Mutex<listings::Pending>,
    behind: Behind,
    /// Whether files without a row were looked for since the index was opened.
    swept: AtomicBool,
    /// After the clean end nothing more is recorded.
    ended: AtomicBool,
    /// The state of the index that `metadata.json` shows.
    exported: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    this: Weak<Cache>,
}

impl Cache {
    /// Opens or makes the cache in `options.dir`. Damage in it is repaired by forgetting.
    pub fn open(
        options: CacheOptions,
        store: Arc<dyn ObjectStore>,
        clock: SharedClock,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Cache>, CacheError> {
        disk::create_private_dir(&options.dir)?;
        let index = Index::open(&options.dir, &options.source)?;
        let (files, bytes) = index.totals()?;
        let usage = Arc::new(Usage::default());
        usage.reset(files, bytes);
        let max_bytes = match options.max_bytes {
            Some(bytes) => bytes,
            None => room::default_max_bytes(disk::disk_space(&options.dir)?.total),
        };
        Ok(Arc::new_cyclic(|this| Cache {
            max_bytes,
            clock,
            fetcher: Fetcher::new(store, runtime, options.request_deadline),
            table: Table::default(),
            usage,
            index: RwLock::new(Arc::new(index)),
            remaking: Mutex::new(()),
            evicting: Mutex::new(()),
            verified: Notify::new(),
            pinned: Pinned::default(),
            pending: Mutex::default(),
            behind: Behind::default(),
            swept: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            exported: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            this: this.clone(),
            options,
        }))
    }

    /// Sets who is told of versions whose bytes arrived damaged, after these have been dropped.
    pub fn observe_damage(&self, observer: DamageObserver) {
        *self.fetcher.damage_observer.lock() = Some(Arc::new(observer));
    }

    /// Sets who is told what the first GET of a file says about its object.
    pub fn observe_info(&self, observer: InfoObserver) {
        *self.fetcher.observer.lock() = Some(Arc::new(observer));
    }

    /// Returns the entry of this version if it holds anything. Inline lane, no network.
    pub fn get(&self, version: &ObjectVersion) -> Option<Arc<CacheFile>> {
        let file = self.find(version)?;
        (file.is_complete() || file.held_bytes() > 0).then_some(file)
    }

    /// Returns the entry of this version, made empty when absent. Inline lane.
    pub fn open_file(
        &self,
        version: &ObjectVersion,
        size: u64,
    ) -> Result<Arc<CacheFile>, CacheError> {
        if let Some(file) = self.find(version) {
            if file.size() == size {
                return Ok(file);
            }
            // One tag, two lengths: the row is wrong, or the listing was. The first GET tells.
            drop(file);
            self.forget(version);
        }
        Ok(self.make(version, size)?)
    }

    /// Makes a complete file that still lies in staging this version's entry. `file` is a
    /// read-only descriptor of `path`. It enters the index only when it is settled.
    pub fn adopt(
        &self,
        version: &ObjectVersion,
        id: FileId,
        file: File,
        path: PathBuf,
    ) -> Arc<CacheFile> {
        self.place_adopted(version, id, file, path)
    }

    /// Moves an adopted file into the cache directory, and enters it in the index. If that is on
    /// another file system the bytes are copied, and [`Cache::get`] returns the copy from then on.
    ///
    /// An error leaves the file where it is, to be tried again. One that was forgotten meanwhile
    /// is removed; one that was taken is left alone.
    pub fn settle(&self, file: &Arc<CacheFile>) -> io::Result<()> {
        self.settle_file(file)
    }

    /// Takes a complete file out of the cache and renames it to `to`, keeping its inode, so that
    /// open descriptors follow it. An adopted file that was not settled already lies in staging,
    /// and is renamed only if it lies elsewhere than `to`.
    ///
    /// Fails with `NotFound` if its name is gone, with `CrossesDevices` if `to` lies on another
    /// file system, with `InvalidInput` if it is not complete; the entry then stays.
    pub fn take(&self, file: &Arc<CacheFile>, to: &Path) -> io::Result<()> {
        self.take_file(file, to)
    }

    /// Takes out by its id a file that was to be taken when the process died. For the start, when
    /// nobody has it open; that it is whole is the caller's knowledge.
    ///
    /// Fails with `NotFound` if it is not here.
    pub fn take_lost(&self, id: FileId, to: &Path) -> io::Result<()> {
        self.take_lost_file(id, to)
    }

    /// Drops an entry; open handles keep reading their descriptor.
    pub fn forget(&self, version: &ObjectVersion) {
        self.forget_version(version);
    }

    /// Notes that the bucket still has this version: its age counts from now.
    pub fn revalidated(&self, version: &ObjectVersion) {
        let now = self.clock.now();
        if let table::Found::File(file) = self.table.find(version) {
            let mut state = file.content.state.lock();
            state.fetched_at = now;
            state.dirty = true;
        }
        self.logged(self.index().revalidated(version, now));
    }

    /// Notes that the same bytes are now another version, after a server-side copy. Open handles
    /// of the old one read on, and what they still miss is asked for as the new one.
    pub fn rename_version(&self, from: &ObjectVersion, to: &ObjectVersion) {
        self.rename(from, to);
    }

    /// Returns the complete entries whose keys begin with `prefix`, ordered by key.
    pub fn held_below(&self, prefix: &str) -> Vec<HeldObject> {
        let held = self.logged(self.index().held_below(prefix));
        let mut held = held.unwrap_or_default();
        for file in self.table.all() {
            if file.is_complete() && file.version.key.as_str().starts_with(prefix) {
                let state = file.content.state.lock();
                held.push(HeldObject {
                    version: file.version.clone(),
                    size: file.size(),
                    last_modified: state.last_modified.unwrap_or(state.fetched_at),
                });
            }
        }
        held.sort_by(|a, b| a.version.cmp(&b.version));
        held.dedup_by(|a, b| a.version == b.version);
        held
    }

    /// Removes what has expired, unless it is open or the bucket cannot be reached, and evicts
    /// down to the budget and the floor of free space.
    pub fn cleanup(&self, reachable: bool) -> CleanupReport {
        self.clean_up(reachable)
    }

    /// Starts the thread that cleans up at start and hourly, writes behind and exports. It ends
    /// with [`Cache::shutdown`], or when the cache is dropped.
    pub fn spawn_housekeeping(self: &Arc<Self>, reachable: Arc<dyn Fn() -> bool + Send + Sync>) {
        self.start_behind(reachable);
    }

    /// Removes entries that nobody uses, the least recently used first, until so many bytes are
    /// freed; for callers that need the disk more. Returns how many were. Waits for the disk.
    pub fn give_way(&self, bytes: u64) -> u64 {
        self.free_bytes(bytes)
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Returns the state of the cache in numbers.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.usage.bytes(),
            max_bytes: self.max_bytes,
            files: self.usage.files(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Counts an open: a hit if it needed no bytes from the bucket.
    pub fn note_open(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes what is present durable, as far as that takes a second or two, exports, and marks a
    /// clean end. Nothing is recorded any more after it.
    pub fn shutdown(&self) {
        self.end_behind(behind::END_SYNC_TIME);
    }

    /// Whether something that was fetched or revalidated at that time is older than the TTL.
    fn is_expired(&self, fetched_at: SystemTime) -> bool {
        let age = self.clock.now().duration_since(fetched_at);
        // A time in the future is a clock that was set back: not old.
        age.is_ok_and(|age| age > self.options.ttl)
    }

    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read())
    }

    /// Says once, here, what went wrong with the index; all who ask it can do without.
    fn logged<T>(&self, result: io::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| log::warn!("cache index: {error}"))
            .ok()
    }
}
