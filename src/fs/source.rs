//! Renames whose source somebody else has changed or deleted before the copy was made: the bucket
//! has no such bytes any more, but the cache may.

use std::sync::Arc;

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::Inode;
use crate::error::FsError;
use crate::staging::{Change, Confirmed, JournalResult, Record};
use crate::store::Key;

impl Fs {
    /// The object that a record is to copy is another version by now, or gone. If the cache holds
    /// its bytes they go to the new name from here. Else the rename is undone: nobody has them any
    /// more, and what stands under the old name stays. Theirs is not touched in either case: the
    /// tombstone of the old name finds it. Returns false if the record has to be parked.
    ///
    /// # Errors
    /// Those of the journal; the record is as it was then.
    pub fn replace_lost_source(self: &Arc<Self>, record: &Record) -> JournalResult<bool> {
        let Change::Copy { source, .. } = &record.change else {
            return Ok(false);
        };
        if self.give_up_copy(record, "the file has changed meanwhile")? {
            return Ok(true);
        }
        if source.key.folded() == record.key.folded() {
            // Only attributes were to change, of a version that is gone.
            self.journal().withdraw(&record.key, record.seq)?;
            return Ok(true);
        }
        let Some(inode) = self.inode_at(&record.key) else {
            return Ok(!self.journal().is_current(&record.key, record.seq));
        };
        let remote = inode.state.lock().remote().cloned();
        let Some(remote) = remote.filter(|remote| remote.version == *source) else {
            return Ok(!self.journal().is_current(&record.key, record.seq));
        };
        let Some(cached) = self.cache.get(source).filter(|file| file.is_complete()) else {
            return self.undo_rename(record, &inode);
        };
        match self.take_from_cache(&inode, &remote, &cached) {
            Ok(_) => {}
            // It has readers who pass through to a file that cannot move: asked again later.
            Err(FsError::Stale) => return Ok(true),
            Err(error) => {
                log::error!(
                    "{}: its bytes cannot be taken from the cache: {error}",
                    record.key
                );
                return Ok(false);
            }
        }
        log::warn!(
            "{} was changed or deleted by someone else; {} is uploaded from here",
            source.key,
            record.key
        );
        if inode.state.lock().writers == 0 {
            self.close_version(&inode);
        }
        Ok(true)
    }

    /// The new name goes, or shows again what the bucket has under it.
    fn undo_rename(&self, record: &Record, inode: &Inode) -> JournalResult<bool> {
        let _changes = self.changes.lock();
        if self.journal().withdraw(&record.key, record.seq)? != Confirmed::Done {
            // A program has written to it meanwhile: its bytes are here now, and go up from here.
            return Ok(true);
        }
        log::warn!(
            "{} is not there any more: what it was renamed from was changed or deleted by someone \
             else, and its former bytes are not here",
            record.key
        );
        let mut tree = self.tree.lock();
        tree.note_change(record.key.as_str(), self.clock.instant());
        let parent = tree.place(inode.ino).map(|place| place.parent);
        let stale = tree.supersede(inode.ino, None);
        if let Some(dir) = parent.and_then(|parent| tree.dir_mut(parent)) {
            // Whether the bucket has something of that name is to be asked.
            dir.listed_at = None;
        }
        drop(tree);
        self.tell_stale(stale);
        Ok(true)
    }

    /// Returns the file that a key names, with the folders above it loaded. Reads the disk.
    fn inode_at(&self, key: &Key) -> Option<Arc<Inode>> {
        let (folders, name) = key.as_str().rsplit_once('/')?;
        let mut parent = Ino::ROOT;
        for folder in folders.split('/') {
            self.load_dir(parent).ok()?;
            let tree = self.tree.lock();
            let entry = tree.dir(parent)?.entry(folder)?;
            if entry.kind != Kind::Folder {
                return None;
            }
            parent = entry.ino;
        }
        self.load_dir(parent).ok()?;
        self.tree.lock().materialise(parent, name)
    }
}
