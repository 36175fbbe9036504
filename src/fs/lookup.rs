//! Look-up, attributes, forget.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::attr::{Attr, Ino, Kind};
use super::listing::listed_from_info;
use super::{Fs, LOOKUP_DEADLINE, REFRESH_PATIENCE, name};
use crate::error::{FsError, FsResult};
use crate::store::{Key, ListRequest, ReadCondition, StoreError};

/// How long a look-up waits for a running refresh of an old listing before the old one counts.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

impl Fs {
    /// Looks a name up and raises its lookup count. Inline when the folder's names are known; else
    /// one HEAD and one LIST of the name alone.
    ///
    /// # Errors
    /// `NotFound` only from a listing or from a bucket that answers; `Store` within two seconds if
    /// it does not.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        if let Some(local) = self.local(parent) {
            return local.lookup(parent, name);
        }
        if parent == Ino::ROOT {
            return self.lookup_at_root(name);
        }
        let Ok(name) = name::check(name) else {
            return Err(unholdable(name));
        };
        let path = self.load_dir(parent)?;
        if let Some(attr) = self.lookup_known(parent, name) {
            if self.is_listing_old(parent) {
                self.refresh(parent, &path);
            }
            return Ok(attr);
        }
        self.show_link(&path, name).await?;
        if let Some(attr) = self.lookup_known(parent, name) {
            return Ok(attr);
        }
        if self.is_listing_complete(parent) {
            if self.is_listing_old(parent) && self.is_reachable() {
                self.refreshed(parent, &path, LOOKUP_PATIENCE).await;
                return self.lookup_known(parent, name).ok_or(FsError::NotFound);
            }
            return Err(FsError::NotFound);
        }
        self.lookup_remote(parent, &path, name).await
    }

    fn lookup_at_root(&self, name: &OsStr) -> FsResult<Attr> {
        if name == "samples" {
            return self.samples_root();
        }
        if let Some(side) = self.local_at_root(name) {
            return side.lookup(side.root(), name);
        }
        let name = name::check(name).map_err(|_| FsError::NotFound)?;
        self.lookup_known(Ino::ROOT, name).ok_or(FsError::NotFound)
    }

    pub(super) fn samples_root(&self) -> FsResult<Attr> {
        self.samples.getattr(self.samples.root(), None)
    }

    /// Looks a name up in memory.
    pub(super) fn lookup_known(&self, parent: Ino, name: &str) -> Option<Attr> {
        let (inode, fresh) = {
            let mut tree = self.tree.lock();
            let ino = tree.dir(parent)?.entry(name)?.ino;
            let fresh = tree.inode(ino).is_none();
            let inode = tree.materialise(parent, name)?;
            tree.looked_up(inode.ino);
            (inode, fresh)
        };
        if inode.kind == Kind::Folder {
            self.apply_folder_attributes(&inode);
        } else if fresh {
            self.apply_kept_attributes(&inode);
        }
        self.show_names_of(&inode);
        let mut attr = inode.attr();
        if inode.kind == Kind::Folder {
            attr.nlink = self.folder_links(inode.ino);
        }
        Some(attr)
    }

    async fn lookup_remote(
        self: &Arc<Self>,
        parent: Ino,
        path: &str,
        name: &str,
    ) -> FsResult<Attr> {
        let key = name::key_in(path, name)?;
        if self.is_removed_here(parent, &key, name) {
            return Err(FsError::NotFound);
        }
        if !self.is_reachable() {
            return self.lookup_offline(parent, &key, name);
        }
        // The kernel holds the folder's lock meanwhile: only the one name is asked for, and the
        // whole listing comes behind.
        self.refresh(parent, path);
        let asked = tokio::time::timeout(LOOKUP_DEADLINE, self.ask_for(&key)).await;
        let asked = asked.unwrap_or_else(|_| {
            Err(StoreError::Unavailable {
                message: "no answer".into(),
                retry_after: None,
            })
        });
        self.note_result(&asked);
        match asked {
            Ok(Found::Folder) => {
                let now = self.clock.instant();
                self.tree.lock().insert_folder(parent, name, now);
            }
            Ok(Found::File(info)) => {
                let listed = listed_from_info(&info, self.clock.instant());
                self.tree.lock().insert_listed(parent, name, listed);
                self.learn(&info);
            }
            // The listing behind may have come first, and may know what the bucket cannot tell.
            Ok(Found::Nothing) => {}
            Err(error) if error.is_transient() => {
                log::debug!("looking up {key}: {error}");
                return self.lookup_offline(parent, &key, name);
            }
            Err(error) => return Err(error.into()),
        }
        self.lookup_known(parent, name).ok_or(FsError::NotFound)
    }

    /// Whether a name was removed or renamed away here and the bucket has yet to follow: what it
    /// still holds there is not to be seen.
    fn is_removed_here(&self, parent: Ino, key: &Key, name: &str) -> bool {
        if let Some(record) = self.journal().record(key) {
            return record.change.is_delete();
        }
        let changed = self
            .tree
            .lock()
            .dir(parent)
            .is_some_and(|dir| dir.was_changed(name) && dir.entry(name).is_none());
        changed && !self.journal().records_below(&format!("{key}/")).is_empty()
    }

    async fn ask_for(&self, key: &Key) -> Result<Found, StoreError> {
        let below = ListRequest {
            prefix: format!("{key}/"),
            delimited: false,
            continuation: None,
            max_keys: Some(1),
        };
        let (head, below) = futures::join!(
            self.store.head(key, ReadCondition::None),
            self.store.list(below)
        );
        if !below?.objects.is_empty() {
            return Ok(Found::Folder);
        }
        match head {
            Ok(info) => Ok(Found::File(Box::new(info))),
            Err(StoreError::NotFound) => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The bucket does not answer: what is cached is served, what is not known is an error.
    fn lookup_offline(&self, parent: Ino, key: &Key, name: &str) -> FsResult<Attr> {
        if let Some(attr) = self.lookup_known(parent, name) {
            return Ok(attr);
        }
        let now = self.clock.instant();
        let held = self.cache.held_below(key.as_str());
        if let Some(held) = held.into_iter().find(|held| held.version.key == *key) {
            let listed = super::inode::Listed {
                version: held.version,
                origin: Default::default(),
                size: held.size,
                last_modified: held.last_modified,
                checked_at: now,
            };
            self.tree.lock().insert_listed(parent, name, listed);
            return self.lookup_known(parent, name).ok_or(FsError::NotFound);
        }
        Err(StoreError::Unavailable {
            message: "not reachable".into(),
            retry_after: None,
        }
        .into())
    }

    /// The kernel gives back lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        match self.local(ino) {
            Some(local) => local.forget(ino, count),
            None => self.tree.lock().forget(ino, count),
        }
    }

    /// Returns an inode's attributes; always inline.
    pub fn getattr(&self, ino: Ino, fh: Option<super::attr::Fh>) -> FsResult<Attr> {
        if let Some(local) = self.local(ino) {
            return local.getattr(ino, fh.and_then(|fh| self.local_handle(fh)));
        }
        let inode = self.inode(ino)?;
        let mut attr = inode.attr();
        if inode.kind == Kind::Folder {
            attr.nlink = self.folder_links(ino);
        }
        if ino != Ino::ROOT && self.tree.lock().place(ino).is_none() {
            // The kernel then forgets it with its last handle, and its bytes go.
            attr.nlink = 0;
        }
        if inode.kind == Kind::File
            && let Some(staged) = inode.state.lock().staged()
        {
            // Holes and stores through maps show in the staged file alone.
            use std::os::unix::fs::MetadataExt;
            if let Ok(status) = staged.file.file().metadata() {
                attr.blocks = status.blocks();
                attr.mtime = attr.mtime.max(status.modified().unwrap_or(attr.mtime));
            }
        }
        Ok(attr)
    }

    /// Brings a folder's listing up to date if it is old, as far as that goes quickly.
    pub(super) async fn freshen(self: &Arc<Self>, ino: Ino, path: &str) -> FsResult<()> {
        if !self.is_listing_old(ino) {
            return Ok(());
        }
        let complete = self.is_listing_complete(ino);
        let patience = match (complete, self.is_reachable()) {
            (true, false) => {
                self.refresh(ino, path);
                return Ok(());
            }
            (true, true) => REFRESH_PATIENCE,
            (false, true) => self.options.request_deadline,
            (false, false) => LOOKUP_DEADLINE,
        };
        if self.refreshed(ino, path, patience).await || complete {
            return Ok(());
        }
        self.show_held(ino, path)
    }

    /// A folder that could not be listed shows what is in the cache, if there is anything.
    fn show_held(&self, ino: Ino, path: &str) -> FsResult<()> {
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        for held in self.cache.held_below(path) {
            let Some(rest) = held.version.key.as_str().strip_prefix(path) else {
                continue;
            };
            let name = rest.split('/').next().unwrap_or(rest);
            let is_known = tree.dir(ino).is_none_or(|dir| dir.entry(name).is_some());
            let record = self.journal().record(&held.version.key);
            if is_known || record.is_some_and(|record| record.change.is_delete()) {
                continue;
            }
            match rest.split_once('/') {
                Some((folder, _)) => {
                    tree.insert_folder(ino, folder, now);
                }
                None => {
                    let name = rest.to_owned();
                    let listed = super::inode::Listed {
                        version: held.version,
                        origin: Default::default(),
                        size: held.size,
                        last_modified: held.last_modified,
                        checked_at: now,
                    };
                    tree.insert_listed(ino, &name, listed);
                }
            }
        }
        if tree.dir(ino).is_some_and(|dir| !dir.is_empty()) {
            return Ok(());
        }
        Err(FsError::DeadlineExceeded)
    }
}

enum Found {
    Folder,
    File(Box<crate::store::ObjectInfo>),
    Nothing,
}

/// A name that the bucket cannot hold is not there; only making it says why.
fn unholdable(name: &OsStr) -> FsError {
    match name::check(name) {
        Err(FsError::NameTooLong) => FsError::NameTooLong,
        _ => FsError::NotFound,
    }
}
