//! The file system: what each operation means.
//!
//! `Fs` decides; it knows nothing of FUSE. Operations that may have to ask the bucket are `async`;
//! `fuse` polls them once on its own thread (the inline lane) and moves what is not ready onto the
//! runtime (the remote lane). Nothing here waits for the network while it holds a lock.
//!
//! Lock order: `changes`, then `tree`, then one inode's state, then the locks inside of the cache,
//! the staging area and the journal. `changes` is held over the journal's commit, so that names
//! and journal change in the same order; the others are held for memory only.

mod arriving;
pub mod attr;
mod burst;
mod change;
mod closing;
mod confirm;
mod conflict;
mod data;
mod directory;
mod expand;
mod expiry;
mod folder;
mod handle;
mod held;
mod hidden;
mod inode;
mod lease;
mod link;
mod link_copies;
mod listing;
mod load;
pub mod local;
mod locked;
mod lookup;
mod lower;
mod moved;
mod name;
mod open;
mod orphans;
mod paged;
pub mod passthrough;
pub mod pins;
mod projects;
mod removal;
mod rename;
mod room;
mod saved;
mod snapshot;
mod source;
mod special;
mod take;
mod tree;
mod undo;
pub mod xattr;

pub use self::directory::Window;
pub use self::expiry::TrashSize;
pub use self::held::LocalCopies;
pub use self::lease::{HeldLease, LeaseOptions};
pub use self::open::OpenFlags;
pub use self::snapshot::SnapshotOptions;
pub use self::undo::{At, Lost, Restored, Where};

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use self::attr::{Attr, Ino, Space};
use self::handle::Handles;
use self::inode::{Inode, Meta};
use self::local::LocalTree;
use self::passthrough::{IoChoice, IoGate, Open, Registrar};
use self::tree::{Stale, Tree};
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::error::{FsError, FsResult};
use crate::staging::{Journal, Orphan, Replay, Staging};
use crate::store::{Key, ObjectStore, ObjectVersion};

/// Number of the first inode of `samples/`.
const SAMPLES_BASE: u64 = 1 << 62;
/// Number of the first inode of the names that stay on this disk.
const SIDE_BASE: u64 = 1 << 61;
/// How long a look-up may keep the folder's lock in the kernel while it asks the bucket.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);
/// How long a folder whose listing is old waits for a new one before it shows the old one.
const REFRESH_PATIENCE: Duration = Duration::from_secs(1);
/// How long after a failure the bucket counts as unreachable, so that not every caller waits.
const UNREACHABLE_FOR: Duration = Duration::from_secs(5);
/// So many files of a folder are held in memory: some hundred bytes each.
pub const NAMES_IN_MEMORY: usize = 10_000;

/// What the file system needs to know.
pub struct FsOptions {
    /// Folders at the root that are the bucket's.
    pub collections: Vec<String>,
    /// Of these, the ones that keep what is deleted or overwritten in them.
    pub trash_collections: Vec<String>,
    /// How long they keep it.
    pub trash_age: Duration,
    /// More deletes of files within a minute than this wait until they are confirmed; `None`: no
    /// number of them does.
    pub delete_limit: Option<usize>,
    /// The sample library.
    pub samples_dir: PathBuf,
    /// How long listings and attributes are trusted.
    pub list_ttl: Duration,
    /// Folders with more files are read from the cache's index ([`NAMES_IN_MEMORY`]).
    pub names_in_memory: usize,
    /// How long a caller waits for the bucket, counted from the last sign of progress.
    pub request_deadline: Duration,
    /// The most that is brought for a project that is opened; 0: nothing.
    pub warm_bytes: u64,
    /// Where it is mounted: projects tell the whole paths of files.
    pub mountpoint: PathBuf,
    /// How files that stay open are protected.
    pub snapshots: SnapshotOptions,
    /// Owner of what the bucket names no owner for.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bits that are taken from the permissions of such files.
    pub umask: u32,
}

/// The parts it stands on.
pub struct FsParts {
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// The disk cache.
    pub cache: Arc<Cache>,
    /// The staging area and its journal.
    pub staging: Arc<Staging>,
    /// The local copies behind the bucket (`FALLBACK_TO_LOCAL`), if there are any.
    pub local_copies: Option<LocalCopies>,
    /// Time.
    pub clock: SharedClock,
    /// Where tasks run.
    pub runtime: Runtime,
}

/// What the kernel must be told without being asked. Calls may block until the kernel has taken
/// them, so they are made from a thread of their own.
pub trait Kernel: Send + Sync {
    /// The name must be looked up again.
    fn forget_entry(&self, parent: Ino, name: &OsStr);
    /// The attributes must be asked for again.
    fn forget_attributes(&self, ino: Ino);
    /// The bytes must be asked for again.
    fn forget_pages(&self, ino: Ino);
}

enum KernelNote {
    Entry(Ino, OsString),
    Attributes(Ino),
    Pages(Ino),
}

/// The file system.
pub struct Fs {
    options: FsOptions,
    store: Arc<dyn ObjectStore>,
    cache: Arc<Cache>,
    staging: Arc<Staging>,
    local_copies: Option<LocalCopies>,
    held: held::Held,
    hidden: hidden::Hidden,
    locked: locked::Locked,
    open_files: snapshot::OpenFiles,
    clock: SharedClock,
    runtime: Runtime,
    /// Serialises every change of names together with its journal commit.
    changes: Mutex<()>,
    /// Taken within `changes`.
    burst: Mutex<burst::Burst>,
    trash_size: Mutex<Option<TrashSize>>,
    tree: Mutex<Tree>,
    handles: Handles,
    closing: closing::Closing,
    samples: LocalTree,
    side: LocalTree,
    local_gates: Mutex<std::collections::HashMap<Ino, IoGate>>,
    listings: listing::Running,
    /// Versions below folders on their way that were deleted or replaced while the folder was
    /// renamed: a listing that was begun before may still show them.
    settled: Mutex<HashSet<ObjectVersion>>,
    /// How the work on folders that are on their way has failed, if it has.
    expansion_failure: Mutex<Option<String>>,
    /// Names whose open has found another version: their look-up asks the bucket. Folded.
    rechecks: Mutex<HashSet<Key>>,
    projects: Arc<projects::Projects>,
    registrar: OnceLock<Arc<dyn Registrar>>,
    signer: OnceLock<Arc<dyn xattr::Signer>>,
    /// None if leases are off.
    leases: OnceLock<Arc<lease::Leases>>,
    /// Who keeps the pins, and hears of renames.
    keeper: OnceLock<Weak<pins::Keeper>>,
    notes: OnceLock<std::sync::mpsc::Sender<KernelNote>>,
    last_failure: Mutex<Option<Instant>>,
    /// Folders whose times have moved and are not kept yet.
    touched: Mutex<HashSet<Ino>>,
    /// Read requests that came to this process: passthrough reads do not.
    reads: AtomicU64,
    passthrough_opens: AtomicU64,
    /// Whether what a handle that only writes brings may go past the kernel's pages.
    direct_writes: AtomicBool,
    pace: room::WriterPace,
    /// Staged files that the start found and no record names.
    orphans: Mutex<Vec<Orphan>>,
    stopping: AtomicBool,
}

/// Counters for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FsStats {
    /// Read requests answered by this process.
    pub reads: u64,
    /// Opens that the kernel serves by passthrough.
    pub passthrough_opens: u64,
    /// Files that are open for writing or not yet sealed.
    pub unsealed: u64,
}

impl Fs {
    /// Returns the file system over its parts; `replay` is what the journal found at start.
    pub fn new(options: FsOptions, parts: FsParts, replay: Replay) -> Arc<Fs> {
        let now = parts.clock.now();
        let defaults = Meta {
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            mode: 0o666 & !options.umask,
            uid: options.uid,
            gid: options.gid,
            xattrs: None,
        };
        let tree = Tree::new(&options.collections, defaults, parts.clock.instant());
        let fs = Arc::new(Fs {
            samples: LocalTree::new(options.samples_dir.clone(), SAMPLES_BASE),
            side: LocalTree::new(parts.staging.local_dir(), SIDE_BASE),
            options,
            store: parts.store,
            cache: parts.cache,
            staging: parts.staging,
            local_copies: parts.local_copies,
            held: held::Held::default(),
            hidden: hidden::Hidden::default(),
            locked: locked::Locked::default(),
            open_files: snapshot::OpenFiles::default(),
            clock: parts.clock,
            runtime: parts.runtime,
            changes: Mutex::new(()),
            burst: Mutex::default(),
            trash_size: Mutex::default(),
            tree: Mutex::new(tree),
            handles: Handles::default(),
            closing: closing::Closing::default(),
            local_gates: Mutex::default(),
            listings: listing::Running::default(),
            settled: Mutex::default(),
            expansion_failure: Mutex::default(),
            rechecks: Mutex::default(),
            projects: Arc::default(),
            registrar: OnceLock::new(),
            signer: OnceLock::new(),
            leases: OnceLock::new(),
            keeper: OnceLock::new(),
            notes: OnceLock::new(),
            last_failure: Mutex::default(),
            touched: Mutex::default(),
            reads: AtomicU64::new(0),
            passthrough_opens: AtomicU64::new(0),
            direct_writes: AtomicBool::new(false),
            pace: room::WriterPace::default(),
            orphans: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        fs.show_local_names();
        fs.settle_replay(replay);
        // Whoever reads them at once finds them here, also without a bucket.
        fs.carry_out_releases();
        let observer = Arc::downgrade(&fs);
        fs.cache.observe_damage(Box::new(move |version| {
            if let Some(fs) = observer.upgrade() {
                fs.forget_damaged(version);
            }
        }));
        let observer = Arc::downgrade(&fs);
        fs.cache.observe_info(Box::new(move |info| {
            if let Some(fs) = observer.upgrade() {
                fs.learn(info);
            }
        }));
        fs
    }

    /// Gives it the kernel's ear: passthrough if there is a registrar, and invalidations.
    pub fn attach(&self, kernel: Box<dyn Kernel>, registrar: Option<Arc<dyn Registrar>>) {
        if let Some(registrar) = registrar {
            let _ = self.registrar.set(registrar);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let _ = self.notes.set(sender);
        // Ends when the file system is dropped and the sender with it.
        let spawned = std::thread::Builder::new()
            .name("kernel-notes".into())
            .spawn(move || {
                for note in receiver {
                    match note {
                        KernelNote::Entry(parent, name) => kernel.forget_entry(parent, &name),
                        KernelNote::Attributes(ino) => kernel.forget_attributes(ino),
                        KernelNote::Pages(ino) => kernel.forget_pages(ino),
                    }
                }
            });
        if let Err(error) = spawned {
            log::error!("changes of others will show late: no thread to tell the kernel: {error}");
        }
    }

    /// Lets what handles bring that only write go past the kernel's pages: it then drops the pages
    /// that are written over by itself.
    pub fn allow_direct_writes(&self) {
        self.direct_writes.store(true, Ordering::Relaxed);
    }

    /// How long the kernel may trust names and attributes of the bucket's files.
    pub fn ttl(&self, ino: Ino) -> Duration {
        // Local files may be changed beside the mount at any time, and asking costs no network.
        if self.local(ino).is_some() {
            Duration::from_secs(1)
        } else {
            self.options.list_ttl
        }
    }

    /// How long the kernel may trust the answer to a look-up: not at all if the name is spelled
    /// otherwise there, since a change can tell the kernel of the one spelling only.
    pub fn name_ttl(&self, parent: Ino, name: &OsStr, ino: Ino) -> Duration {
        let respelled = || {
            let tree = self.tree.lock();
            let dir = tree.dir(parent)?;
            let entry = name.to_str().and_then(|name| dir.entry(name))?;
            (OsStr::new(&*entry.spelling) != name).then_some(Duration::ZERO)
        };
        match name.is_ascii() {
            true => self.ttl(ino),
            false => respelled().unwrap_or_else(|| self.ttl(ino)),
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> FsStats {
        let unsealed = self
            .tree
            .lock()
            .inodes()
            .iter()
            .filter(|inode| {
                inode
                    .state
                    .lock()
                    .staged()
                    .is_some_and(|staged| staged.open)
            })
            .count();
        FsStats {
            reads: self.reads.load(Ordering::Relaxed),
            passthrough_opens: self.passthrough_opens.load(Ordering::Relaxed),
            unsealed: unsealed as u64,
        }
    }

    /// Whether the bucket answered lately, or has not been asked.
    pub fn is_reachable(&self) -> bool {
        let now = self.clock.instant();
        let last_failure = *self.last_failure.lock();
        self.store.is_reachable()
            && last_failure.is_none_or(|failed| now >= failed + UNREACHABLE_FOR)
    }

    /// Returns the room that is really left for recording: that of the staging area's disk.
    pub fn statfs(&self, ino: Ino) -> FsResult<Space> {
        if ino.0 >= SAMPLES_BASE {
            return self.samples.statfs();
        }
        let space = rustix::fs::statvfs(self.staging.dir()).map_err(std::io::Error::from)?;
        Ok(Space {
            block_bytes: u32::try_from(space.f_frsize).unwrap_or(4096),
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
        })
    }

    fn journal(&self) -> &Arc<Journal> {
        self.staging.journal()
    }

    /// Returns the local tree that an inode belongs to, if it is no file of the bucket.
    fn local(&self, ino: Ino) -> Option<&LocalTree> {
        [&self.samples, &self.side]
            .into_iter()
            .find(|tree| tree.owns(ino))
    }

    /// Returns the tree that a name at the root belongs to, if it stays on this disk.
    fn local_at_root(&self, name: &OsStr) -> Option<&LocalTree> {
        let name = name.to_str()?;
        // Before it is made nobody knows whether it will be a file or a folder.
        let is_local = name::is_volume_side_file(name)
            || [name, &format!("{name}/")]
                .iter()
                .any(|path| self.journal().is_side_file(path));
        is_local.then_some(&self.side)
    }

    fn inode(&self, ino: Ino) -> FsResult<Arc<Inode>> {
        self.tree.lock().inode(ino).cloned().ok_or(FsError::Stale)
    }

    fn note_result<T>(&self, result: &Result<T, crate::store::StoreError>) {
        use crate::store::StoreError::{Throttled, Unavailable};
        let failed = matches!(result, Err(Unavailable { .. } | Throttled { .. }));
        let before = {
            let failure = failed.then(|| self.clock.instant());
            std::mem::replace(&mut *self.last_failure.lock(), failure)
        };
        // An outage makes much fail: its begin and its end are told.
        match (before, result) {
            (None, Err(error)) if failed => {
                log::warn!("{error}; what is here is served until it answers again");
            }
            (Some(_), _) if !failed => log::info!("the store answers again"),
            _ => {}
        }
    }

    fn tell_stale(&self, stale: Vec<Stale>) {
        let Some(notes) = self.notes.get() else {
            return;
        };
        for Stale { parent, name } in stale {
            let _ = notes.send(KernelNote::Entry(parent, OsString::from(&*name)));
        }
    }

    /// Bytes of a version that were read turned out to be wrong: the kernel must not keep them.
    fn forget_damaged(&self, version: &ObjectVersion) {
        let inodes = self.tree.lock().inodes();
        for inode in inodes {
            let mut state = inode.state.lock();
            if state
                .remote()
                .is_some_and(|remote| remote.version == *version)
            {
                state.gate.invalidate_pages();
                if let Some(notes) = self.notes.get() {
                    let _ = notes.send(KernelNote::Pages(inode.ino));
                }
            }
        }
    }

    fn tell_attributes(&self, ino: Ino) {
        if let Some(notes) = self.notes.get() {
            let _ = notes.send(KernelNote::Attributes(ino));
        }
    }

    fn choose_io(&self, gate: &mut IoGate, open: &Open<'_>) -> IoChoice {
        let choice = gate.open(open, self.registrar.get().map(|registrar| &**registrar));
        if !matches!(choice, IoChoice::Cached { .. } | IoChoice::Direct) {
            self.passthrough_opens.fetch_add(1, Ordering::Relaxed);
        }
        choice
    }
}

/// What `open` and `create` answer.
pub struct Opened {
    /// The handle.
    pub fh: attr::Fh,
    /// How the kernel is to do its I/O.
    pub io: IoChoice,
}

/// What `create` answers beside the handle.
pub struct Created {
    /// The new file.
    pub attr: Attr,
    /// The handle.
    pub opened: Opened,
}

#[cfg(test)]
mod tests;
