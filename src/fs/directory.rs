//! Reading folders.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Fs;
use super::attr::{Attr, DirEntry, Fh, Ino, Kind};
use super::handle::Handle;
use crate::error::{FsError, FsResult};

impl Fs {
    /// Opens a folder for reading. Waits for the bucket only when the folder's names are not known.
    ///
    /// # Errors
    /// `DeadlineExceeded` if the bucket does not answer and nothing is known of the folder.
    pub async fn opendir(self: &Arc<Self>, ino: Ino) -> FsResult<Fh> {
        let names = self.names(ino).await?;
        Ok(self.handles.insert(Handle::Folder {
            names: Mutex::new(Arc::new(names)),
            begun: AtomicBool::new(false),
        }))
    }

    /// Returns the names of an open folder; `.` and `..` are the first two. They stay as they were
    /// when reading began while others add and remove, so that offsets are stable; reading from
    /// the start a second time (`rewinddir`) reads anew.
    pub async fn readdir(
        self: &Arc<Self>,
        ino: Ino,
        fh: Fh,
        offset: u64,
    ) -> FsResult<Arc<Vec<DirEntry>>> {
        let handle = self.handles.get(fh)?;
        let Handle::Folder { names, begun } = &*handle else {
            return Err(FsError::BadHandle);
        };
        if offset == 0 && begun.swap(true, Ordering::Relaxed) {
            let fresh = Arc::new(self.names(ino).await?);
            *names.lock() = fresh;
        }
        let names = names.lock().clone();
        Ok(names)
    }

    /// Returns the attributes of a name just read, and raises its lookup count; `None` if it is
    /// gone by now.
    pub fn entry_attr(&self, parent: Ino, entry: &DirEntry) -> Option<Attr> {
        if let Some(local) = self.local(parent) {
            return local.lookup(parent, &entry.name).ok();
        }
        if parent == Ino::ROOT {
            if entry.name == "samples" {
                return self.samples_root().ok();
            }
            if let Some(side) = self.local_at_root(&entry.name) {
                return side.lookup(side.root(), &entry.name).ok();
            }
        }
        self.lookup_known(parent, entry.name.to_str()?)
    }

    /// Closes a folder.
    pub fn releasedir(&self, fh: Fh) {
        self.handles.remove(fh);
    }

    async fn names(self: &Arc<Self>, ino: Ino) -> FsResult<Vec<DirEntry>> {
        let dot = |name: &str, ino| DirEntry {
            name: name.into(),
            ino,
            kind: Kind::Folder,
        };
        let mut names = vec![dot(".", ino)];
        if let Some(local) = self.local(ino) {
            names.push(dot("..", Ino::ROOT));
            names.extend(local.entries(ino)?);
            return Ok(names);
        }
        if ino == Ino::ROOT {
            names.push(dot("..", Ino::ROOT));
            names.push(dot("samples", self.samples.root()));
            names.extend(self.side.entries(self.side.root())?);
        } else {
            let path = self.load_dir(ino)?;
            self.freshen(ino, &path).await?;
            self.show_links(ino, &path).await;
        }
        let tree = self.tree.lock();
        if ino != Ino::ROOT {
            names.push(dot(
                "..",
                tree.place(ino).map_or(Ino::ROOT, |place| place.parent),
            ));
        }
        let dir = tree.dir(ino).ok_or(FsError::NotADirectory)?;
        names.extend(dir.entries().map(|entry| DirEntry {
            name: OsString::from(&*entry.spelling),
            ino: entry.ino,
            kind: entry.kind,
        }));
        Ok(names)
    }
}
