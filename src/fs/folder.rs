//! Attributes of folders. A listing tells nothing of them and most folders have no object of their
//! own, so they are kept on this disk, by the folder's path.

use std::sync::Arc;

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::Inode;
use crate::staging::Edit;
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, ObjectVersion};

/// Stands where a file's attributes have the tag of its version: those of a folder belong to its
/// name, whatever its marker is.
const TAG: &str = "folder";

fn version(key: Key) -> ObjectVersion {
    ObjectVersion {
        key,
        etag: ETag::new(TAG),
    }
}

/// What the journal must say when a folder gets attributes; `key` ends in `/`.
pub(super) fn keep(key: Key, attributes: FileAttributes) -> Edit {
    Edit::KeepAttributes {
        version: version(key),
        attributes,
    }
}

/// What the journal must say when a folder is gone.
pub(super) fn forget(key: Key) -> Edit {
    keep(key, FileAttributes::default())
}

impl Fs {
    /// Gives a folder the attributes that are kept for it, when it is first looked at.
    pub(super) fn apply_folder_attributes(&self, inode: &Inode) {
        let key = {
            let mut tree = self.tree.lock();
            let Some(dir) = tree.dir_mut(inode.ino) else {
                return;
            };
            if std::mem::replace(&mut dir.attributes_known, true) {
                return;
            }
            tree.key(inode.ino)
        };
        let Some(key) = key else { return };
        if let Some(attributes) = self.journal().attributes(&version(key)) {
            inode.state.lock().meta.apply(&attributes);
        }
    }

    /// Returns the attributes that are kept for a folder; `key` ends in `/`.
    pub(super) fn folder_attributes(&self, key: &Key) -> FileAttributes {
        let kept = self.journal().attributes(&version(key.clone()));
        kept.unwrap_or_default()
    }

    /// A folder's own times move when a name in it changes. They are not worth a commit each: what
    /// is lost with a killed process is less than a second of them.
    pub(super) fn touch_folder(&self, ino: Ino) {
        let (inode, respelled) = {
            let mut tree = self.tree.lock();
            (tree.inode(ino).cloned(), tree.take_respelled())
        };
        self.tell_stale(respelled);
        let Some(inode) = inode else {
            return;
        };
        let now = self.clock.now();
        let mut state = inode.state.lock();
        state.meta.mtime = now;
        state.meta.ctime = now;
        drop(state);
        self.touched.lock().insert(ino);
    }

    /// Inodes got another name or lost one: that moves the time of their last change.
    pub(super) fn touch_inodes<'a>(
        &self,
        inodes: impl IntoIterator<Item = Option<&'a Arc<Inode>>>,
    ) {
        let now = self.clock.now();
        for inode in inodes.into_iter().flatten() {
            inode.state.lock().meta.ctime = now;
        }
    }

    /// Returns how many links a folder counts: two, and the `..` of each folder in it that is known.
    pub(super) fn folder_links(&self, ino: Ino) -> u32 {
        let tree = self.tree.lock();
        let entries = tree.dir(ino).into_iter().flat_map(|dir| dir.entries());
        2 + entries.filter(|entry| entry.kind == Kind::Folder).count() as u32
    }

    /// Keeps the times of the folders that were touched since the last call.
    pub(super) fn keep_touched_folders(&self) {
        let touched = std::mem::take(&mut *self.touched.lock());
        if touched.is_empty() {
            return;
        }
        let _changes = self.changes.lock();
        let folder = |ino: Ino| -> Option<(Key, Arc<Inode>)> {
            let tree = self.tree.lock();
            let inode = tree.inode(ino).filter(|inode| inode.kind == Kind::Folder)?;
            Some((tree.key(ino)?, inode.clone()))
        };
        let edits = touched
            .into_iter()
            .filter_map(folder)
            .map(|(key, inode)| keep(key, inode.state.lock().meta.to_attributes()));
        if let Err(error) = self.journal().apply(edits.collect()) {
            log::warn!("the times of folders are not kept: {error}");
        }
    }
}
