//! The disposable cache: object versions on local disk, filled by ranged GETs as they are read.

mod error;
mod file;
mod read_ahead;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::SharedClock;
use crate::disk::FileId;
use crate::store::{ListedObject, ObjectInfo, ObjectStore, ObjectVersion};

pub use error::CacheError;
pub use file::CacheFile;
pub use read_ahead::ReadStream;

/// What the cache is told at start.
#[derive(Clone, Debug)]
pub struct CacheOptions {
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

/// A complete listing of one folder, as it was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedListing {
    /// Objects, ordered by key.
    pub objects: Vec<ListedObject>,
    /// Folders, each a full prefix that ends in `/`, ordered.
    pub prefixes: Vec<String>,
    /// When it was saved.
    pub saved_at: SystemTime,
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
}

impl Cache {
    /// Opens or makes the cache in `options.dir`. Damage in it is repaired by forgetting.
    pub fn open(
        options: CacheOptions,
        _store: Arc<dyn ObjectStore>,
        _clock: SharedClock,
        _runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Cache>, CacheError> {
        Ok(Arc::new(Cache { options }))
    }

    /// Sets who is told what the first GET of a file says about its object.
    pub fn observe_info(&self, _observer: InfoObserver) {}

    /// Returns the entry of this version if it holds anything. Inline lane, no network.
    pub fn get(&self, _version: &ObjectVersion) -> Option<Arc<CacheFile>> {
        None
    }

    /// Returns the entry of this version, made empty when absent. Inline lane.
    pub fn open_file(
        &self,
        version: &ObjectVersion,
        size: u64,
    ) -> Result<Arc<CacheFile>, CacheError> {
        let id = FileId::random();
        let file = File::create_new(self.options.dir.join(id.cache_name()))?;
        Ok(Arc::new(CacheFile::new(version.clone(), id, size, file)))
    }

    /// Makes a complete file that still lies in staging this version's entry. `file` is a
    /// read-only descriptor of `path`. It enters the index only when it is settled.
    pub fn adopt(
        &self,
        version: &ObjectVersion,
        id: FileId,
        file: File,
        _path: PathBuf,
    ) -> Arc<CacheFile> {
        let size = file.metadata().map_or(0, |meta| meta.len());
        Arc::new(CacheFile::new(version.clone(), id, size, file))
    }

    /// Moves an adopted file into the cache directory. An error leaves it where it is, to be
    /// tried again.
    pub fn settle(&self, _file: &Arc<CacheFile>) -> io::Result<()> {
        Ok(())
    }

    /// Takes a complete file out of the cache and renames it to `to`, a path on the same file
    /// system. Fails with `NotFound` if its name is gone.
    pub fn take(&self, _file: &Arc<CacheFile>, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// Drops an entry; open handles keep reading their descriptor.
    pub fn forget(&self, _version: &ObjectVersion) {}

    /// Notes that the bucket still has this version: its age counts from now.
    pub fn revalidated(&self, _version: &ObjectVersion) {}

    /// Notes that the same bytes are now another version, after a server-side copy.
    pub fn rename_version(&self, _from: &ObjectVersion, _to: &ObjectVersion) {}

    /// Returns the complete entries whose keys begin with `prefix`, ordered by key.
    pub fn held_below(&self, _prefix: &str) -> Vec<HeldObject> {
        Vec::new()
    }

    /// Keeps a complete listing of a folder (`""` or `"a/b/"`), replacing the former one.
    pub fn save_listing(&self, _folder: &str, _objects: &[ListedObject], _prefixes: &[String]) {}

    /// Returns the listing of a folder that was saved last.
    pub fn load_listing(&self, _folder: &str) -> Option<SavedListing> {
        None
    }

    /// Removes what has expired, unless it is open or the bucket cannot be reached, and evicts
    /// down to the budget and the floor of free space.
    pub fn cleanup(&self, _reachable: bool) -> CleanupReport {
        CleanupReport::default()
    }

    /// Starts the thread that cleans up at start and hourly, writes behind and exports.
    pub fn spawn_housekeeping(self: &Arc<Self>, _reachable: Arc<dyn Fn() -> bool + Send + Sync>) {}

    /// Returns the state of the cache in numbers.
    pub fn stats(&self) -> CacheStats {
        CacheStats::default()
    }

    /// Counts an open: a hit if it needed no bytes from the bucket.
    pub fn note_open(&self, _hit: bool) {}

    /// Makes what is present durable and marks a clean end. The cache may be dropped after.
    pub fn shutdown(&self) {}
}
