//! Folders that are renamed as a whole: one entry in the journal says where their objects show from
//! then on ([`Moves`]), and only what has a record here is told its new key at once. An object is
//! *expanded* when it gets the records that a rename of the file alone would have made: a copy to
//! the new key, a tombstone for the old one. [`super::expand`] does that for all of them, and a
//! change of a file for that file, before it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use super::Fs;
use super::attr::{Ino, Kind};
use super::folder;
use super::inode::Inode;
use super::listing::below;
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Deleted, Edit, Moves, Record};
use crate::store::{ETag, Key, ListedObject, Origin};

/// Expansions that are to be one transaction, each seeing the ones before it.
pub(super) struct Expansions<'a> {
    fs: &'a Fs,
    moves: Arc<Moves>,
    edits: Vec<Edit>,
    /// What keys (folded) are to hold and are known to hold, as the edits say.
    set: HashMap<Key, (Option<ETag>, Change)>,
}

impl<'a> Expansions<'a> {
    /// Begins a transaction; names may not change until it is committed.
    pub(super) fn new(fs: &'a Fs) -> Expansions<'a> {
        Expansions {
            fs,
            moves: fs.journal().moves(),
            edits: Vec::new(),
            set: HashMap::new(),
        }
    }

    /// Commits it.
    pub(super) fn commit(self) -> FsResult<()> {
        match self.edits.is_empty() {
            true => Ok(()),
            false => self.fs.apply(self.edits),
        }
    }

    fn state(&self, key: &Key) -> Option<(Option<ETag>, Change)> {
        if let Some(state) = self.set.get(&key.folded()) {
            return Some(state.clone());
        }
        let record = self.fs.journal().record(key)?;
        Some((record.base, record.change))
    }

    fn set(&mut self, key: &Key, base: Option<ETag>, change: Change) {
        let state = (base.clone(), change.clone());
        self.set.insert(key.folded(), state);
        let key = key.clone();
        self.edits.push(Edit::Set { key, base, change });
    }

    /// Expands an object. Returns its new key; `None` if it does not move: it is expanded already,
    /// it stays where it is, or the new key is taken, and then it shows under its old name when the
    /// move has been carried out.
    pub(super) fn expand(&mut self, object: &ListedObject) -> FsResult<Option<Key>> {
        let source = &object.version.key;
        let shown = self.moves.shown_at(source.as_str()).into_owned();
        if shown == source.as_str() || self.fs.is_spoken_for(&self.moves, &object.version) {
            return Ok(None);
        }
        if source.is_folder_marker() && object.size > 0 {
            log::warn!("{source} stays where it is: it has bytes, as no folder of ours has");
            return Ok(None);
        }
        let Some(target) = Key::in_bucket(&shown) else {
            log::warn!("{source} stays where it is: {shown} is too long for a key");
            return Ok(None);
        };
        let there = self.state(source);
        let is_known =
            |(base, change): &(Option<ETag>, Change)| base.is_some() || change.is_delete();
        if there.as_ref().is_some_and(is_known) {
            return Ok(None);
        }
        let (base, taken) = match self.state(&target) {
            Some((base, change)) => (base, !change.is_delete()),
            None => (None, self.fs.journal().local_name(&target).is_some()),
        };
        if taken && !source.is_folder_marker() {
            log::warn!("{source} stays where it is: {target} is another file by now");
            return Ok(None);
        }
        if !taken {
            let change = self.arriving(object, &target);
            self.set(&target, base, change);
        }
        self.leave(object, there.map(|(_, change)| change))?;
        Ok(Some(target))
    }

    fn arriving(&self, object: &ListedObject, target: &Key) -> Change {
        if target.is_folder_marker() {
            let attributes = self.fs.folder_attributes(target);
            return Change::Folder { attributes };
        }
        let kept = self.fs.journal().attributes(&object.version);
        Change::Copy {
            source: object.version.clone(),
            size: object.size,
            attributes: kept.unwrap_or_default(),
        }
    }

    /// The old key becomes a tombstone, or the version is known from now on over which a new file
    /// of that name goes.
    fn leave(&mut self, object: &ListedObject, new: Option<Change>) -> FsResult<()> {
        let key = &object.version.key;
        if object.origin == Origin::Fallback {
            if let Some(copies) = &self.fs.local_copies {
                copies.hidden.hide(key)?;
            }
            return Ok(());
        }
        let base = Some(object.version.etag.clone());
        self.set(key, base, new.unwrap_or(Change::Delete(Deleted::Moved)));
        Ok(())
    }
}

impl Fs {
    /// Expands the object of a file that is about to be changed, if its folder is on its way; from
    /// then on it is a file that was renamed by itself. Names may not change meanwhile.
    pub(super) fn expand_file(&self, inode: &Inode) -> FsResult<()> {
        let moves = self.journal().moves();
        let Some(key) = self.tree.lock().key(inode.ino) else {
            return Ok(());
        };
        let Some(object) = inode.listed_object() else {
            return Ok(());
        };
        let record = self.journal().record(&key);
        let is_renamed = record.is_some_and(|record| !record.change.is_delete());
        let shown = moves.shown_at(object.version.key.as_str()).into_owned();
        let shows_here = Key::new(&shown).is_some_and(|shown| shown.folded() == key.folded());
        if is_renamed || !shows_here || !moves.covers(&object.version.key) {
            return Ok(());
        }
        let mut expansions = Expansions::new(self);
        expansions.expand(&object)?;
        expansions.commit()
    }

    /// Renames a folder: one transaction, which asks the bucket for nothing and grows with what has
    /// records here, not with what the folder holds. Only a folder that is replaced must be known to
    /// be empty.
    pub(super) async fn rename_folder(
        self: &Arc<Self>,
        from: (Ino, &str),
        to: (Ino, &str),
    ) -> FsResult<()> {
        if let Ok(replaced) = self.folder_named(to.0, to.1) {
            let path = self.load_dir(replaced)?;
            self.freshen(replaced, &path).await?;
        }
        let _changes = self.changes.lock();
        let ino = self.folder_named(from.0, from.1)?;
        let (old, new) = self.paths_of_rename(ino, to)?;
        // What it holds in the bucket could not follow.
        let target = Key::in_bucket(&new).ok_or(FsError::NameTooLong)?;
        let mut edits = Vec::new();
        let mut marker = self
            .journal()
            .record(&target)
            .and_then(|record| record.base);
        if let Some(kind) = self.kind_of(to) {
            if kind != Kind::Folder {
                return Err(FsError::NotADirectory);
            }
            let replaced = self.folder_named(to.0, to.1)?;
            self.check_empty(replaced)?;
            marker = marker.or_else(|| self.tree.lock().dir(replaced)?.marker(&target));
            edits.extend(self.markers_that_came_along(replaced, &target));
        }
        let now = self.clock.now();
        let moved = self.journal().moves().renamed(&old, &new, now);
        edits.extend(moved.ok_or(FsError::NameTooLong)?);
        self.rename_records(&old, &new, &mut edits)?;
        self.rename_marker((ino, &old), (target, marker), &mut edits)?;
        edits.extend(self.move_local_names(&old, &new));
        self.apply(edits)?;
        self.forget_settled();
        let now = self.clock.instant();
        self.tree.lock().rename(from, to, now);
        self.touch_inodes([self.inode(ino).ok().as_ref()]);
        self.touch_folder(from.0);
        self.touch_folder(to.0);
        Ok(())
    }

    fn paths_of_rename(&self, ino: Ino, to: (Ino, &str)) -> FsResult<(String, String)> {
        let tree = self.tree.lock();
        let mut above = Some(to.0);
        while let Some(at) = above {
            if at == ino {
                return Err(FsError::InvalidArgument("a folder cannot move into itself"));
            }
            above = tree.place(at).map(|place| place.parent);
        }
        let old = tree.path(ino).ok_or(FsError::NotFound)?;
        let new = tree.path(to.0).ok_or(FsError::NotFound)?;
        Ok((old, format!("{new}{}/", to.1)))
    }

    /// What has a record below a renamed folder gets one under its new key.
    fn rename_records(&self, old: &str, new: &str, edits: &mut Vec<Edit>) -> FsResult<()> {
        for record in self.journal().records_below(old) {
            let Some(rest) = below(record.key.as_str(), old) else {
                continue; // Its own marker.
            };
            if record.change.is_delete() {
                continue;
            }
            let target = Key::new(&format!("{new}{rest}")).ok_or(FsError::NameTooLong)?;
            let is_for_others = self.copied_for(&record).is_some();
            if matches!(record.change, Change::Copy { .. }) && !target.fits() && !is_for_others {
                return Err(FsError::NameTooLong);
            }
            self.hide_local_copy(&record.key, None)?;
            if !is_for_others || self.takes_copy(&target) {
                edits.push(self.record_renamed(&record, target));
            }
            let Record { key, base, .. } = record;
            edits.push(Edit::ForgetConflict { copy: key.clone() });
            edits.push(self.cleared(&key, base, Deleted::Moved));
        }
        for conflict in self.journal().conflicts() {
            if below(conflict.copy.as_str(), old).is_some() {
                edits.push(Edit::ForgetConflict {
                    copy: conflict.copy,
                });
            }
        }
        Ok(())
    }

    pub(super) fn record_renamed(&self, record: &Record, target: Key) -> Edit {
        let base = self.journal().record(&target).and_then(|there| there.base);
        if let Change::Copy {
            source, attributes, ..
        } = &record.change
            && source.key.folded() == target.folded()
            && base.as_ref() == Some(&source.etag)
            && !self.journal().moves().covers(&target)
            && *attributes == self.journal().attributes(source).unwrap_or_default()
        {
            // Back where it lies.
            return Edit::Remove { key: target };
        }
        Edit::Set {
            key: target,
            base,
            change: record.change.clone(),
        }
    }

    /// The folder itself: a marker, so that it is there also when it is empty, and its attributes.
    fn rename_marker(
        &self,
        (ino, old): (Ino, &str),
        (target, base): (Key, Option<ETag>),
        edits: &mut Vec<Edit>,
    ) -> FsResult<()> {
        let source = Key::new(old).ok_or(FsError::NameTooLong)?;
        let inode = self.inode(ino)?;
        self.apply_folder_attributes(&inode);
        let attributes = inode.state.lock().meta.to_attributes();
        let marker = self
            .tree
            .lock()
            .dir(ino)
            .and_then(|dir| dir.marker(&source));
        edits.push(self.marker_removal(&source, marker, Deleted::Moved));
        edits.push(Edit::MoveFolderAttributes {
            from: source.clone(),
            to: target.clone(),
        });
        edits.push(folder::forget(source));
        edits.push(folder::keep(target.clone(), attributes.clone()));
        edits.push(Edit::Set {
            key: target,
            base,
            change: Change::Folder { attributes },
        });
        Ok(())
    }

    /// Fails unless a folder is known to be empty.
    pub(super) fn check_empty(&self, ino: Ino) -> FsResult<()> {
        let tree = self.tree.lock();
        let dir = tree.dir(ino).ok_or(FsError::NotFound)?;
        let path = tree.path(ino).ok_or(FsError::NotFound)?;
        let is_empty = dir.is_empty() && self.journal().local_names_below(&path).is_empty();
        match (is_empty, dir.listed_at) {
            (false, _) => Err(FsError::NotEmpty),
            (true, None) => Err(FsError::DeadlineExceeded),
            (true, Some(_)) => Ok(()),
        }
    }

    /// What the journal must say when an empty folder goes of markers that lie where it came from.
    fn markers_that_came_along(&self, ino: Ino, key: &Key) -> Vec<Edit> {
        let moves = self.journal().moves();
        let mut edits = Vec::new();
        let markers = self.tree.lock().dir(ino).map(|dir| dir.markers.clone());
        for marker in markers.unwrap_or_default() {
            let shown = Key::new(&moves.shown_at(marker.key.as_str()));
            let came_along = moves.covers(&marker.key)
                && shown.is_some_and(|shown| shown.folded() == key.folded());
            if came_along && !self.is_spoken_for(&moves, &marker) {
                edits.push(Edit::Set {
                    key: marker.key,
                    base: Some(marker.etag),
                    change: Change::Delete(Deleted::Moved),
                });
            }
        }
        edits
    }

    /// Removes an empty folder.
    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &OsStr) -> FsResult<()> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            return local.rmdir(parent, name);
        }
        self.enter_project_folder((parent, name))?;
        let name = name.to_str().ok_or(FsError::NotFound)?;
        self.load_dir(parent)?;
        let ino = self.folder_named(parent, name)?;
        // Only a listing proves that it is empty.
        let path = self.load_dir(ino)?;
        self.freshen(ino, &path).await?;
        let _changes = self.changes.lock();
        self.check_empty(ino)?;
        let (key, marker) = {
            let tree = self.tree.lock();
            let key = tree.key(ino).ok_or(FsError::NotFound)?;
            let marker = tree.dir(ino).and_then(|dir| dir.marker(&key));
            (key, marker)
        };
        let mut edits = self.markers_that_came_along(ino, &key);
        let moves = self.journal().moves();
        edits.extend(moves.removed(key.as_str(), self.clock.now()));
        edits.push(self.marker_removal(&key, marker, Deleted::here(0)));
        edits.push(folder::forget(key.clone()));
        self.hold_burst(&mut edits)?;
        self.apply(edits)?;
        self.forget_listed_folder(key.as_str());
        self.forget_settled();
        self.tree.lock().remove(parent, name, self.clock.instant());
        self.touch_folder(parent);
        Ok(())
    }
}
