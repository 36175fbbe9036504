//! The staging directory: files being written or waiting for upload, and the journal that says
//! what they are.
//!
//! This module owns `<id>.staged`, `<id>.snapshot`, `journal.db` and `local/`. It knows neither names nor inodes
//! (see `fs`), nor what is sent when (see the uploader).
//!
//! **Release order.** A staged file leaves the directory only after the commit that releases it has
//! been synced. Otherwise a power cut could bring back the record and not the file.

mod behind;
mod changes;
#[cfg(test)]
pub(crate) mod crash_point;
mod file;
pub mod journal;
mod kept;
mod local_name;
mod moves;
mod pool;
pub mod record;
mod replay;
mod reserve;
mod snapshot;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use self::behind::Behind;
pub use self::changes::Changing;
pub use self::file::StagedFile;
use self::file::{Names, OpenFiles};
pub use self::journal::{Journal, JournalError, JournalResult};
pub use self::local_name::{LocalName, Special, StandsFor};
pub use self::moves::{Lower, Move, Moves};
use self::pool::Pool;
pub use self::record::{
    Change, Confirmed, Conflict, Deleted, Edit, Hold, Identity, Kept, OpenUpload, PutState, Record,
    Released, Sealed, SentPart, Seq,
};
pub use self::replay::{Orphan, Replay};
pub use self::snapshot::{Snapshot, SnapshotError, SnapshotFile, SnapshotSource, Snapshots};
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
        found: Box<Identity>,
        /// Which bucket was asked for.
        asked: Box<Identity>,
    },
    /// The journal cannot be used.
    #[error("{dir}: {source}")]
    Journal {
        /// The staging directory.
        dir: PathBuf,
        /// Why.
        source: JournalError,
    },
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The staging directory. Its background work ends with it.
#[derive(Debug)]
pub struct Staging {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the background threads share with their owner.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    journal: Arc<Journal>,
    open: Arc<OpenFiles>,
    names: Names,
    pool: Pool,
    behind: Behind,
    snapshots: Snapshots,
}

impl Staging {
    /// Opens the directory, makes it if need be, and replays the journal: what was open is closed
    /// with the length it has, what was discarded is removed. One process at a time may do this.
    pub fn open(
        dir: &Path,
        identity: &Identity,
        clock: SharedClock,
    ) -> Result<(Arc<Staging>, Replay), StagingError> {
        let io_error = |source| StagingError::Io {
            path: dir.to_owned(),
            source,
        };
        let journal_error = |source| StagingError::Journal {
            dir: dir.to_owned(),
            source,
        };
        disk::create_private_dir(&dir.join("local")).map_err(io_error)?;
        let journal = Journal::open(&dir.join("journal.db"), clock).map_err(journal_error)?;
        journal.take_reserve();
        if let Some((records, found)) = journal.bind(identity).map_err(journal_error)? {
            return Err(StagingError::OtherIdentity {
                dir: dir.to_owned(),
                records,
                found: Box::new(found),
                asked: Box::new(identity.clone()),
            });
        }
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            journal: Arc::new(journal),
            open: Arc::default(),
            names: Names::new(dir),
            pool: Pool::new(dir),
            behind: Behind::default(),
            snapshots: Snapshots::default(),
        });
        let replay = replay::run(&shared).map_err(|error| match error {
            replay::Error::Io(error) => io_error(error),
            replay::Error::Journal(error) => journal_error(error),
        })?;
        let staging = Arc::new(Staging {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        });
        let pool = Arc::clone(&shared);
        staging.spawn("staging-pool", move || pool.pool.run());
        staging.spawn("staging-behind", move || behind::run(&shared));
        Ok((staging, replay))
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        match thread::Builder::new().name(name.into()).spawn(work) {
            Ok(thread) => self.threads.lock().push(thread),
            Err(error) => self
                .shared
                .journal
                .fail(&format!("no thread for {name}: {error}")),
        }
    }

    /// Returns the journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.shared.journal
    }

    /// Returns the staging directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Returns the directory of the files that never leave this disk.
    pub fn local_dir(&self) -> PathBuf {
        self.shared.dir.join("local")
    }

    /// Returns where a staged file lies.
    pub fn path(&self, id: FileId) -> PathBuf {
        self.shared.dir.join(id.staged_name())
    }

    /// Returns a new, empty staged file. It is removed at the next start unless a record speaks of
    /// it by then.
    pub fn create_file(&self) -> io::Result<Arc<StagedFile>> {
        self.check_room()?;
        if let Some((id, file)) = self.shared.pool.take() {
            return Ok(self.shared.open.share(id, file));
        }
        let (id, file) = file::create(&self.shared.dir)?;
        Ok(self.received(id, file))
    }

    /// Fails with `EIO` after a failed sync: what is on the disk is not known any more, so nothing
    /// more is acknowledged.
    pub fn check_health(&self) -> io::Result<()> {
        match self.shared.journal.has_failed() {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// Keeps room for the journal again, if the disk has any.
    pub fn take_reserve(&self) {
        self.shared.journal.take_reserve();
    }

    /// Fails with `ENOSPC` while the journal needs all the room that the disk has left, and as
    /// [`Staging::check_health`].
    pub fn check_room(&self) -> io::Result<()> {
        self.check_health()?;
        match self.shared.journal.needs_all_room() {
            true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    /// Opens a staged file. All who have it open at one time share one [`StagedFile`].
    pub fn open_file(&self, id: FileId) -> io::Result<Arc<StagedFile>> {
        match self.shared.open.get(id) {
            Some(file) => Ok(file),
            None => Ok(self
                .shared
                .open
                .share(id, file::open(&self.shared.dir, id)?)),
        }
    }

    /// Takes in a file that the caller has renamed to `path(id)`; the name is not synced yet.
    pub fn received(&self, id: FileId, file: File) -> Arc<StagedFile> {
        self.shared.names.add(id);
        self.shared.open.replace(id, file)
    }

    /// Carries out `fsync`: the file's bytes and every record committed before survive a power
    /// cut. Bytes first, then the name, then the journal, so that no record that survives speaks
    /// of bytes that did not. After a failure the journal takes no more changes.
    pub fn sync_file(&self, file: &StagedFile) -> io::Result<()> {
        let synced = file.file().sync_data();
        let synced = synced.and_then(|()| self.shared.names.sync(file.id()));
        if let Err(error) = synced {
            let reason = format!("a staged file cannot be synced: {error}");
            self.shared.journal.fail(&reason);
            return Err(error);
        }
        self.sync_names()
    }

    /// Has a closed file synced within a second or two, in the background.
    pub fn sync_behind(&self, file: Arc<StagedFile>) {
        self.shared.behind.add(&file);
    }

    /// Carries out `fsyncdir`: every change of names survives a power cut.
    pub fn sync_names(&self) -> io::Result<()> {
        self.shared.journal.sync().map_err(io::Error::other)
    }

    /// Returns how many bytes the disk has left for recording.
    pub fn available_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.shared.dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Syncs what is left to sync and ends the background work.
    pub fn shutdown(&self) {
        self.shared.pool.stop();
        self.shared.behind.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that has panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;
