//! Open staged files, and which of their names are on the disk.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::changes::{Changes, Changing};
use crate::disk::{self, FileId};
use crate::store::ObjectVersion;

/// An open staged file.
#[derive(Debug)]
pub struct StagedFile {
    id: FileId,
    file: File,
    generation: AtomicU64,
    changes: Changes,
    /// The object whose bytes were copied into it first, if that was so.
    original: Mutex<Option<ObjectVersion>>,
    open: Arc<OpenFiles>,
}

impl StagedFile {
    fn new(id: FileId, file: File, open: &Arc<OpenFiles>) -> Arc<StagedFile> {
        Arc::new(StagedFile {
            id,
            file,
            generation: AtomicU64::new(0),
            changes: Changes::default(),
            original: Mutex::default(),
            open: Arc::clone(open),
        })
    }

    /// Returns the file's id.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the file itself, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns a number that every change of the bytes raises.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that the bytes are about to change. Called before each write and truncation, so that
    /// whoever reads the bytes, and then finds the generation unchanged, has read one version.
    pub fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Begins a change of these bytes, up to `u64::MAX` if it may reach beyond the end, and lasts as
    /// long as the answer lives. Waits while a snapshot is being finished, some milliseconds: so no
    /// inode's state may be held.
    pub fn change(&self, range: Range<u64>) -> Changing<'_> {
        let changing = self.changes.begin(&self.file, range);
        self.touch();
        changing
    }

    /// Calls `look` while nothing changes.
    pub fn while_still<T>(&self, look: impl FnOnce() -> T) -> T {
        let _stopped = self.changes.stop();
        look()
    }

    /// Notes that bytes of an object are being copied into it, from the beginning.
    pub fn set_original(&self, version: ObjectVersion) {
        *self.original.lock() = Some(version);
    }

    /// Returns the object that this may be a copy of. Nothing says that it is the whole object, nor that
    /// nothing was changed since: equal digests do. It is not kept beyond the last who has the file open.
    pub fn original(&self) -> Option<ObjectVersion> {
        self.original.lock().clone()
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let mut shared = self.open.shared.lock();
        // Another thread may have opened the file anew since our last reference went.
        if shared.get(&self.id).is_some_and(|w| w.strong_count() == 0) {
            shared.remove(&self.id);
        }
    }
}

/// The staged files that are open. Each is open once, so that all see one generation.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    shared: Mutex<HashMap<FileId, Weak<StagedFile>>>,
}

impl OpenFiles {
    pub(super) fn get(&self, id: FileId) -> Option<Arc<StagedFile>> {
        self.shared.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Shares a file that was just opened; if it is shared already, the one that is.
    pub(super) fn share(self: &Arc<Self>, id: FileId, file: File) -> Arc<StagedFile> {
        let fresh = StagedFile::new(id, file, self);
        let mut shared = self.shared.lock();
        if let Some(earlier) = shared.get(&id).and_then(Weak::upgrade) {
            // `fresh` must not be dropped under the lock that its drop takes.
            drop(shared);
            return earlier;
        }
        shared.insert(id, Arc::downgrade(&fresh));
        fresh
    }
}

impl OpenFiles {
    /// Shares a file that has just come into staging. Who still has an earlier descriptor of it
    /// open is done with it, and may be able to write through that.
    pub(super) fn replace(self: &Arc<Self>, id: FileId, file: File) -> Arc<StagedFile> {
        let fresh = StagedFile::new(id, file, self);
        self.shared.lock().insert(id, Arc::downgrade(&fresh));
        fresh
    }
}

/// The names in the staging directory that may not survive a power cut yet.
#[derive(Debug)]
pub(super) struct Names {
    dir: PathBuf,
    unsynced: Mutex<HashSet<FileId>>,
}

impl Names {
    pub(super) fn new(dir: &Path) -> Names {
        Names {
            dir: dir.to_owned(),
            unsynced: Mutex::default(),
        }
    }

    /// Notes a new name.
    pub(super) fn add(&self, id: FileId) {
        self.unsynced.lock().insert(id);
    }

    /// Syncs the directory if the name may be new there.
    pub(super) fn sync(&self, id: FileId) -> io::Result<()> {
        if !self.unsynced.lock().contains(&id) {
            return Ok(());
        }
        self.sync_all()
    }

    /// Syncs the directory if it has new names. A name that is added meanwhile stays noted.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        let covered = self.unsynced.lock().clone();
        if covered.is_empty() {
            return Ok(());
        }
        disk::sync_dir(&self.dir)?;
        self.unsynced.lock().retain(|id| !covered.contains(id));
        Ok(())
    }
}

/// Makes an empty staged file.
pub(super) fn create(dir: &Path) -> io::Result<(FileId, File)> {
    let id = FileId::random();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    Ok((id, options.open(dir.join(id.staged_name()))?))
}

/// Opens a staged file that is there.
pub(super) fn open(dir: &Path, id: FileId) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(dir.join(id.staged_name()))
}
