//! What the journal must say when a name loses what it stood for.

use super::Fs;
use super::inode::{Inode, Remote};
use crate::error::FsResult;
use crate::staging::{Change, Deleted, Edit, Hold};
use crate::store::{ETag, Key};

impl Fs {
    /// What the journal must say when a name loses its file and gets no other.
    pub(super) fn removal(&self, key: &Key, inode: &Inode) -> FsResult<Vec<Edit>> {
        let (remote, staged, size) = {
            let state = inode.state.lock();
            let staged = state.staged().map(|staged| staged.file.id());
            (state.remote().cloned(), staged, state.meta.size)
        };
        self.hide_local_copy(key, remote.as_ref())?;
        let mut edits = Vec::new();
        let moved_from = self.removal_under_old_name(key, remote.as_ref(), size);
        let deleted = match moved_from {
            // Whatever lands under the new name is a copy of that.
            Some(_) => Deleted::Moved,
            None => Deleted::here(size),
        };
        match self.base_of(key, remote.as_ref()) {
            // Nothing of it is in the bucket, nor can anything arrive there that was sent.
            None if self.journal().attempts(key).is_empty() => {
                edits.push(Edit::Remove { key: key.clone() });
            }
            base => edits.push(Edit::Set {
                key: key.clone(),
                base,
                change: Change::Delete(deleted),
            }),
        }
        edits.extend(moved_from);
        edits.extend(staged.map(|file| Edit::Discard { file }));
        edits.push(Edit::ForgetConflict { copy: key.clone() });
        Ok(edits)
    }

    /// A file whose rename is still on its way loses its new name, `key`: its object goes from
    /// under its old name, and that is then no longer the rest of a rename.
    pub(super) fn removal_under_old_name(
        &self,
        key: &Key,
        remote: Option<&Remote>,
        size: u64,
    ) -> Option<Edit> {
        let version = &remote?.version;
        if version.key.folded() == key.folded() {
            return None;
        }
        let record = self.journal().record(&version.key)?;
        let is_left = record.change == Change::Delete(Deleted::Moved);
        if !is_left || record.base.as_ref() != Some(&version.etag) {
            return None;
        }
        Some(Edit::Set {
            key: record.key,
            base: record.base,
            change: Change::Delete(Deleted::Here {
                size,
                name: Some(key.clone()),
                hold: Hold::Free,
            }),
        })
    }

    /// What the journal must say when a folder's marker goes.
    pub(super) fn marker_removal(&self, key: &Key, marker: Option<ETag>, deleted: Deleted) -> Edit {
        let base = self
            .journal()
            .record(key)
            .map_or(marker, |record| record.base);
        if base.is_none() && self.journal().attempts(key).is_empty() {
            return Edit::Remove { key: key.clone() };
        }
        Edit::Set {
            key: key.clone(),
            base,
            change: Change::Delete(deleted),
        }
    }
}
