//! Open files and folders.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::attr::{Fh, Ino};
use super::directory::Names;
use super::inode::Inode;
use crate::cache::ReadStream;
use crate::error::{FsError, FsResult};

/// One open file or folder.
pub(super) enum Handle {
    /// A file of the bucket.
    File(FileHandle),
    /// A file of a local tree, under that tree's own handle.
    Local { ino: Ino, fh: Fh },
    /// A folder, and what is read of it.
    Folder {
        names: tokio::sync::Mutex<Names>,
        /// Whether somebody has read from the start.
        begun: AtomicBool,
    },
}

/// An open file of the bucket.
pub(super) struct FileHandle {
    pub(super) inode: Arc<Inode>,
    pub(super) writes: bool,
    /// Whether its reads and writes come to us while others pass through.
    pub(super) direct: bool,
    pub(super) stream: ReadStream,
}

/// All handles.
#[derive(Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<Fh, Arc<Handle>>>,
    last: AtomicU64,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> Fh {
        let fh = Fh(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        self.open.write().insert(fh, Arc::new(handle));
        fh
    }

    pub(super) fn get(&self, fh: Fh) -> FsResult<Arc<Handle>> {
        self.open.read().get(&fh).cloned().ok_or(FsError::BadHandle)
    }

    /// Returns the files of the bucket that are open.
    pub(super) fn inodes(&self) -> Vec<Arc<Inode>> {
        let open = self.open.read();
        let files = open.values().filter_map(|handle| match &**handle {
            Handle::File(file) => Some(file.inode.clone()),
            Handle::Local { .. } | Handle::Folder { .. } => None,
        });
        files.collect()
    }

    pub(super) fn remove(&self, fh: Fh) -> Option<Arc<Handle>> {
        self.open.write().remove(&fh)
    }
}
