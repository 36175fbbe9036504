//! Renaming files and folders: at once in the tree, journaled, carried out behind.

use std::ffi::OsStr;
use std::sync::Arc;

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::{Content, Inode, Remote};
use super::name::{self, fold};
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Deleted, Edit, JournalResult, Record};
use crate::store::{ETag, Key, ObjectVersion, Origin};

/// One file that gets another key.
pub(super) struct Move {
    pub(super) inode: Arc<Inode>,
    pub(super) from: Key,
    pub(super) to: Key,
}

impl Fs {
    /// Renames a file or folder. What has the new name already, loses it in the same step.
    ///
    /// # Errors
    /// `Exists` with `RENAME_NOREPLACE`; `InvalidArgument` for `RENAME_EXCHANGE` of folders;
    /// `CrossDevice` between the bucket and a local tree.
    pub async fn rename(
        self: &Arc<Self>,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: u32,
    ) -> FsResult<()> {
        let source = self.local_parent(from.0, from.1)?;
        let target = self.local_parent(to.0, to.1)?;
        match (source, target) {
            (Some((a, from_dir)), Some((b, to_dir))) if std::ptr::eq(a, b) => {
                return a.rename(from_dir, from.1, to_dir, to.1, flags);
            }
            (None, None) => {}
            _ => return Err(FsError::CrossDevice),
        }
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(FsError::InvalidArgument("flags of renameat2"));
        }
        let from = (from.0, from.1.to_str().ok_or(FsError::NotFound)?);
        let to = (to.0, name::check(to.1)?);
        self.load_dir(from.0)?;
        self.load_dir(to.0)?;
        let kind = self.kind_of(from).ok_or(FsError::NotFound)?;
        for (parent, name) in [from, to] {
            match kind {
                Kind::Folder => self.enter_project_folder((parent, OsStr::new(name)))?,
                _ => self.enter_project_at((parent, OsStr::new(name)))?,
            }
        }
        if flags & libc::RENAME_NOREPLACE != 0 && self.kind_of(to).is_some() {
            return Err(FsError::Exists);
        }
        if from.0 == to.0 && fold(from.1) == fold(to.1) {
            return self.respell(from, to.1);
        }
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let pins = self.follow_pins(from, to, exchange);
        let renamed = match exchange {
            true => self.exchange(from, to, kind),
            false => self.replace(from, to, kind).await,
        };
        if let Some(pins) = pins {
            pins.end(renamed.is_ok());
        }
        renamed
    }

    fn exchange(&self, from: (Ino, &str), to: (Ino, &str), kind: Kind) -> FsResult<()> {
        match (kind, self.kind_of(to)) {
            (_, None) => Err(FsError::NotFound),
            (Kind::File, Some(Kind::File)) => self.exchange_files(from, to),
            _ => Err(FsError::InvalidArgument("only files can change names")),
        }
    }

    async fn replace(
        self: &Arc<Self>,
        from: (Ino, &str),
        to: (Ino, &str),
        kind: Kind,
    ) -> FsResult<()> {
        match (kind, self.kind_of(to)) {
            (Kind::Folder, Some(Kind::Folder) | None) => self.rename_folder(from, to).await,
            (Kind::Folder, Some(_)) => Err(FsError::NotADirectory),
            (_, Some(Kind::Folder)) => Err(FsError::IsADirectory),
            _ => self.rename_file(from, to),
        }
    }

    pub(super) fn kind_of(&self, (parent, name): (Ino, &str)) -> Option<Kind> {
        Some(self.tree.lock().dir(parent)?.entry(name)?.kind)
    }

    /// Only the normal form of the name changes: for R2 it is the same key, which a copy and a
    /// delete would lose.
    fn respell(&self, from: (Ino, &str), to: &str) -> FsResult<()> {
        let _changes = self.changes.lock();
        let now = self.clock.instant();
        self.tree
            .lock()
            .rename(from, (from.0, to), now)
            .ok_or(FsError::NotFound)
    }

    fn rename_file(self: &Arc<Self>, from: (Ino, &str), to: (Ino, &str)) -> FsResult<()> {
        let _changes = self.changes.lock();
        let (inode, replaced, source, target) = {
            let mut tree = self.tree.lock();
            let inode = tree.materialise(from.0, from.1).ok_or(FsError::NotFound)?;
            let replaced = tree.materialise(to.0, to.1);
            let source = tree.key_of(from.0, from.1).ok_or(FsError::NotFound)?;
            let path = tree.path(to.0).ok_or(FsError::NotFound)?;
            (inode, replaced, source, name::key_in(&path, to.1)?)
        };
        if replaced
            .as_ref()
            .is_some_and(|other| other.ino == inode.ino)
        {
            // Two names of one file: both stay.
            return Ok(());
        }
        self.refuse_locked(&source)?;
        self.refuse_locked(&target)?;
        self.expand_file(&inode)?;
        if let Some(replaced) = &replaced {
            self.expand_file(replaced)?;
        }
        if self.is_local_name(&source) {
            let inodes = (&inode, replaced.as_ref());
            return self.rename_local_name((from, &source), (to, &target), inodes);
        }
        let mut edits = self.first_name_moved(&source, &target, &inode);
        let moved = Move {
            inode,
            from: source,
            to: target,
        };
        self.replace_edits(&moved, replaced.as_ref(), &mut edits)?;
        self.apply(edits)?;
        let now = self.clock.instant();
        self.tree.lock().rename(from, to, now);
        self.touch_inodes([Some(&moved.inode), replaced.as_ref()]);
        self.touch_folder(from.0);
        self.touch_folder(to.0);
        Ok(())
    }

    /// Two files change names, at once for every caller.
    fn exchange_files(&self, a: (Ino, &str), b: (Ino, &str)) -> FsResult<()> {
        let _changes = self.changes.lock();
        let (one, other) = {
            let mut tree = self.tree.lock();
            let one = tree.materialise(a.0, a.1).ok_or(FsError::NotFound)?;
            let other = tree.materialise(b.0, b.1).ok_or(FsError::NotFound)?;
            let from = tree.key(one.ino).ok_or(FsError::NotFound)?;
            let to = tree.key(other.ino).ok_or(FsError::NotFound)?;
            let back = Move {
                inode: other,
                from: to.clone(),
                to: from.clone(),
            };
            let there = Move {
                inode: one,
                from,
                to,
            };
            (there, back)
        };
        self.refuse_locked(&one.from)?;
        self.refuse_locked(&one.to)?;
        if [&one, &other]
            .iter()
            .any(|moved| moved.inode.state.lock().names > 1)
        {
            return Err(FsError::InvalidArgument(
                "a file of several names cannot change them",
            ));
        }
        self.expand_file(&one.inode)?;
        self.expand_file(&other.inode)?;
        let mut edits = Vec::new();
        for (moved, replaced) in [(&one, &other), (&other, &one)] {
            let own = moved.inode.state.lock().remote().cloned();
            self.hide_local_copy(&moved.from, own.as_ref())?;
            let remote = replaced.inode.state.lock().remote().cloned();
            let base = self.base_of(&moved.to, remote.as_ref());
            edits.push(self.arrival(moved, base)?);
        }
        self.apply(edits)?;
        let now = self.clock.instant();
        self.tree.lock().exchange(a, b, now);
        self.touch_folder(a.0);
        self.touch_folder(b.0);
        Ok(())
    }

    /// What the journal must say when a file gets another key, which may have been another's.
    fn replace_edits(
        self: &Arc<Self>,
        moved: &Move,
        replaced: Option<&Arc<Inode>>,
        edits: &mut Vec<Edit>,
    ) -> FsResult<()> {
        let Some(replaced) = replaced else {
            edits.extend(self.forget_names(&moved.to));
            return self.move_edits(moved, self.base_of(&moved.to, None), edits);
        };
        let (remote, size, names) = {
            let state = replaced.state.lock();
            (state.remote().cloned(), state.meta.size, state.names)
        };
        let remote = remote.as_ref();
        let base = self.base_of(&moved.to, remote);
        if names > 1 || self.is_local_name(&moved.to) {
            edits.extend(self.vacated(&moved.to, replaced)?);
            return self.move_edits(moved, base, edits);
        }
        self.move_edits(moved, base, edits)?;
        edits.extend(self.removal_under_old_name(&moved.to, remote, size));
        edits.extend(self.let_go(&moved.to, replaced, true));
        self.hold_for_readers(replaced);
        Ok(())
    }

    /// What the journal must say when a file moves from one key to another, under which the bucket
    /// holds `base`.
    pub(super) fn move_edits(
        &self,
        moved: &Move,
        base: Option<ETag>,
        edits: &mut Vec<Edit>,
    ) -> FsResult<()> {
        let arrival = self.arrival(moved, base)?;
        let remote = moved.inode.state.lock().remote().cloned();
        self.leave(moved, remote.as_ref(), edits)?;
        edits.push(arrival);
        edits.push(Edit::ForgetConflict {
            copy: moved.from.clone(),
        });
        Ok(())
    }

    /// What the journal must say of the new key of a move, which holds `base` in the bucket.
    fn arrival(&self, moved: &Move, base: Option<ETag>) -> FsResult<Edit> {
        let record = self.journal().record(&moved.from);
        // It may have come into memory only now.
        self.apply_kept_attributes(&moved.inode);
        let (remote, attributes, size) = {
            let state = moved.inode.state.lock();
            let attributes = state.known.clone();
            (state.remote().cloned(), attributes, state.meta.size)
        };
        let key = moved.to.clone();
        let Some(remote) = remote else {
            let change = record.ok_or(FsError::Stale)?.change;
            return Ok(Edit::Set { key, base, change });
        };
        let is_back = remote.origin == Origin::Primary
            && remote.version.key.folded() == key.folded()
            && base.as_ref() == Some(&remote.version.etag)
            // Without a record it would show elsewhere.
            && !self.journal().moves().covers(&key);
        if is_back && self.keeps_attributes(moved) {
            // Renamed back before anything was done: the bucket is right as it is.
            return Ok(Edit::Remove { key });
        }
        if !key.fits() {
            // Its bytes are in the bucket, and could not get there.
            return Err(FsError::NameTooLong);
        }
        let change = Change::Copy {
            source: remote.version,
            size,
            attributes,
        };
        Ok(Edit::Set { key, base, change })
    }

    fn keeps_attributes(&self, moved: &Move) -> bool {
        let state = moved.inode.state.lock();
        let Some(remote) = state.remote() else {
            return false;
        };
        let kept = self.journal().attributes(&remote.version);
        kept.unwrap_or_default() == state.known
    }

    /// The old key of a move becomes a tombstone, if the bucket has or may come to have it.
    fn leave(&self, moved: &Move, remote: Option<&Remote>, edits: &mut Vec<Edit>) -> FsResult<()> {
        self.hide_local_copy(&moved.from, remote)?;
        let base = self.base_of(&moved.from, remote);
        edits.push(self.cleared(&moved.from, base, Deleted::Moved));
        Ok(())
    }

    /// A rename that waits for others that wait for it goes on from a copy of its source that the
    /// uploader has put aside; the copy goes when the rename is done. Returns false if the rename
    /// is no longer wanted.
    ///
    /// # Errors
    /// Those of the journal; nothing has changed then.
    pub fn detour(&self, record: &Record, aside: &ObjectVersion) -> JournalResult<bool> {
        let _changes = self.changes.lock();
        let Change::Copy {
            size, attributes, ..
        } = &record.change
        else {
            return Ok(false);
        };
        if !self.journal().is_current(&record.key, record.seq) {
            return Ok(false);
        }
        let change = Change::Copy {
            source: aside.clone(),
            size: *size,
            attributes: attributes.clone(),
        };
        self.journal().apply(vec![
            Edit::Set {
                key: record.key.clone(),
                base: record.base.clone(),
                change,
            },
            // It waits for the copy from it.
            Edit::Set {
                key: aside.key.clone(),
                base: Some(aside.etag.clone()),
                change: Change::Delete(Deleted::Moved),
            },
        ])?;
        let inode = {
            let mut tree = self.tree.lock();
            let found = tree.find(record.key.as_str());
            let found = found.map(|(parent, entry)| (parent, entry.spelling.clone()));
            found.and_then(|(parent, name)| tree.materialise(parent, &name))
        };
        if let Some(inode) = inode
            && self.copied_for(record).is_none()
        {
            self.version_moved(&inode, aside);
        }
        Ok(true)
    }

    /// After a rename or an upload the object lies under its new key.
    pub(super) fn version_moved(&self, inode: &Inode, to: &ObjectVersion) {
        let mut state = inode.state.lock();
        state.checked_at = self.clock.instant();
        let Content::Remote(remote) = &mut state.content else {
            return;
        };
        let from = std::mem::replace(&mut remote.version, to.clone());
        remote.origin = Origin::Primary;
        if from == *to {
            return;
        }
        // With the state held: whoever opens the file meanwhile must find the bytes that are open.
        self.cache.rename_version(&from, to);
        if let Some(file) = &mut remote.file
            && let Some(renamed) = self.cache.get(to)
            && renamed.id() == file.id()
        {
            *file = renamed;
        }
    }
}
