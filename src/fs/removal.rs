//! What the journal must say when a name loses what it stood for.

use super::Fs;
use super::inode::{Inode, Remote};
use super::name;
use crate::error::FsResult;
use crate::staging::{Change, Deleted, Edit, Hold, Kept};
use crate::store::trash::{self, ONE_VERSION_IN};
use crate::store::{ETag, Key};

/// Whether programs make and remove such files all the time.
fn is_made_to_be_removed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    ["-journal", "-wal", "-shm"]
        .iter()
        .any(|end| name.ends_with(end))
        || name::is_volume_side_file(name)
}

impl Fs {
    /// What the journal must say when a name loses its file and gets no other.
    pub(super) fn removal(&self, key: &Key, inode: &Inode) -> FsResult<Vec<Edit>> {
        let (remote, size) = {
            let state = inode.state.lock();
            (state.remote().cloned(), state.meta.size)
        };
        let let_go = self.let_go(key, inode, false);
        self.hide_local_copy(key, remote.as_ref())?;
        let mut edits = Vec::new();
        let moved_from = self.removal_under_old_name(key, remote.as_ref(), size);
        let deleted = match moved_from {
            // Whatever lands under the new name is a copy of that.
            Some(_) => Deleted::Moved,
            // What was sent of it and may land yet is kept here.
            None if matches!(let_go, Some(Edit::Keep(_)))
                && self.base_of(key, remote.as_ref()).is_none() =>
            {
                Deleted::Moved
            }
            None => Deleted::here(size),
        };
        edits.push(self.cleared(key, self.base_of(key, remote.as_ref()), deleted));
        edits.extend(moved_from);
        edits.extend(let_go);
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

    /// What the journal must say of the staged file of an inode that loses its name `key`: where
    /// there is a trash it is kept for a while, since its bytes are nowhere else. Of a name that is
    /// replaced again and again one version in ten minutes is kept.
    pub(super) fn let_go(&self, key: &Key, inode: &Inode, replaced: bool) -> Option<Edit> {
        let state = inode.state.lock();
        let staged = state.staged()?;
        let file = staged.file.id();
        let is_worth_it = staged.pristine.is_none()
            && state.meta.size > 0
            && self.has_trash(key)
            && !is_made_to_be_removed(key.as_str())
            && !self.stays_here(key);
        if !is_worth_it || (replaced && self.is_kept_lately(key)) {
            return Some(Edit::Discard { file });
        }
        Some(Edit::Keep(Kept {
            file,
            key: key.clone(),
            attributes: state.meta.to_attributes(),
            length: state.meta.size,
            at: self.clock.now(),
            replaced,
        }))
    }

    /// What the journal must say when a key that holds `base` in the bucket is to hold nothing: a
    /// tombstone, unless nothing is there, nor can arrive that was sent.
    pub(super) fn cleared(&self, key: &Key, base: Option<ETag>, deleted: Deleted) -> Edit {
        let key = key.clone();
        if base.is_none() && self.journal().attempts(&key).is_empty() {
            return Edit::Remove { key };
        }
        let change = Change::Delete(deleted);
        Edit::Set { key, base, change }
    }

    /// Whether what a key is to hold stays on this disk by its name.
    fn stays_here(&self, key: &Key) -> bool {
        let record = self.journal().record(key);
        record.is_some_and(|record| self.journal().stays_here(&record))
    }

    /// Whether what is deleted under a key is kept.
    pub(super) fn has_trash(&self, key: &Key) -> bool {
        trash::has_key(&self.options.trash_collections, key)
    }

    fn is_kept_lately(&self, key: &Key) -> bool {
        let now = self.clock.now();
        let is_late = |at| now.duration_since(at).is_ok_and(|age| age < ONE_VERSION_IN);
        let kept = self.journal().kept();
        kept.iter()
            .any(|kept| kept.key.folded() == key.folded() && is_late(kept.at))
    }

    /// What the journal must say when a folder's marker goes.
    pub(super) fn marker_removal(&self, key: &Key, marker: Option<ETag>, deleted: Deleted) -> Edit {
        let base = self
            .journal()
            .record(key)
            .map_or(marker, |record| record.base);
        self.cleared(key, base, deleted)
    }
}
