//! Making and removing names, and changing attributes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::attr::{Attr, Caller, Fh, Ino, Kind, SetAttr};
use super::handle::Handle;
use super::inode::{Content, Inode, Meta, Staged, State, Writer};
use super::open::OpenFlags;
use super::{Created, Fs, folder, name};
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Edit, PutState, StagedFile};
use crate::store::attributes::FileAttributes;
use crate::store::{Key, Origin};

impl Fs {
    /// Makes a file and opens it. The journal has it before the reply leaves.
    ///
    /// # Errors
    /// `NotPermitted` at the root; `BadEncoding`, `NameTooLong`, `InvalidName` for what the bucket
    /// cannot hold; before anything is written.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FsResult<Created> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            let (attr, fh, file) = local.create(parent, name, mode, flags.raw, caller)?;
            let opened = self.opened_local(attr.ino, fh, &file);
            return Ok(Created { attr, opened });
        }
        let name = name::check(name)?.to_owned();
        let path = self.load_dir(parent)?;
        if let Some(attr) = self.lookup_known(parent, &name) {
            // Somebody else was first since the kernel looked.
            if flags.exclusive() {
                self.forget(attr.ino, 1);
                return Err(FsError::Exists);
            }
            let opened = match self.open(attr.ino, flags).await {
                Ok(opened) => opened,
                Err(error) => {
                    self.forget(attr.ino, 1);
                    return Err(error);
                }
            };
            return Ok(Created {
                attr: self.getattr(attr.ino, None)?,
                opened,
            });
        }
        name::key_in(&path, &name)?;
        self.enter_project_at((parent, OsStr::new(&name)))?;
        self.wait_for_room(0).await;
        let inode = self.create_staged(parent, &name, mode, caller)?;
        let opened = self.open_handle(&inode, flags, None);
        Ok(Created {
            attr: inode.attr(),
            opened,
        })
    }

    pub(super) async fn make_file(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        let flags = OpenFlags {
            raw: libc::O_WRONLY | libc::O_EXCL,
        };
        let created = self.create(parent, name, mode, flags, caller).await?;
        self.release(created.opened.fh);
        Ok(created.attr)
    }

    fn create_staged(
        &self,
        parent: Ino,
        name: &str,
        mode: u32,
        caller: Caller,
    ) -> FsResult<Arc<Inode>> {
        let file = self.staging.create_file()?;
        let meta = self.new_meta(parent, mode, caller, Kind::File);
        let _changes = self.changes.lock();
        // Only now: the folder may have been renamed meanwhile.
        let key = self.free_key(parent, name)?;
        let forgotten = self.forget_names(&key);
        if !forgotten.is_empty() {
            self.apply(forgotten)?;
        }
        // A tombstone knows what the bucket still holds: its version is overwritten, so that no
        // other machine ever sees a gap.
        let base = self.base_of(&key, None);
        self.set_open(key, base, &file, meta.to_attributes(), None)?;
        let instant = self.clock.instant();
        let staged = Staged {
            file,
            writer: Writer::Own,
            open: true,
            pristine: None,
        };
        let mut state = State::new(meta, Content::Staged(staged), instant);
        state.all_known();
        let state = Mutex::new(state);
        let mut tree = self.tree.lock();
        let inode = Arc::new(Inode {
            ino: tree.new_ino(),
            kind: Kind::File,
            state,
        });
        tree.insert_file(parent, name, &inode, instant);
        tree.looked_up(inode.ino);
        drop(tree);
        self.touch_folder(parent);
        Ok(inode)
    }

    /// Makes a folder: in the bucket an empty object whose key ends in `/`.
    pub async fn mkdir(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            return local.mkdir(parent, name, mode, caller);
        }
        self.enter_project_folder((parent, name))?;
        let name = name::check(name)?;
        self.load_dir(parent)?;
        let meta = self.new_meta(parent, mode, caller, Kind::Folder);
        let _changes = self.changes.lock();
        let path = self.tree.lock().path(parent).ok_or(FsError::NotFound)?;
        let key = name::marker_in(&path, name)?;
        if self
            .tree
            .lock()
            .dir(parent)
            .is_none_or(|dir| dir.entry(name).is_some())
        {
            return Err(FsError::Exists);
        }
        let attributes = meta.to_attributes();
        let base = self.base_of(&key, None);
        let change = Change::Folder {
            attributes: attributes.clone(),
        };
        let kept = folder::keep(key.clone(), attributes.clone());
        self.apply(vec![Edit::Set { key, base, change }, kept])?;
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        let ino = tree.insert_folder(parent, name, now);
        if let Some(dir) = tree.dir_mut(ino) {
            // A folder made here is known to be empty.
            dir.loaded = true;
            dir.attributes_known = true;
            dir.listed_at = Some(now);
        }
        tree.looked_up(ino);
        let inode = tree.inode(ino).cloned().ok_or(FsError::Stale)?;
        drop(tree);
        inode.state.lock().meta.apply(&attributes);
        self.touch_folder(parent);
        Ok(inode.attr())
    }

    /// Removes a file's name. The bytes live on while a handle is open.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &OsStr) -> FsResult<()> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            return local.unlink(parent, name);
        }
        self.enter_project_at((parent, name))?;
        let name = name.to_str().ok_or(FsError::NotFound)?;
        self.load_dir(parent)?;
        let _changes = self.changes.lock();
        let inode = {
            let mut tree = self.tree.lock();
            let entry = tree
                .dir(parent)
                .and_then(|dir| dir.entry(name))
                .map(Cow::into_owned);
            let entry = entry.ok_or(FsError::NotFound)?;
            if entry.kind == Kind::Folder {
                return Err(FsError::IsADirectory);
            }
            tree.materialise(parent, name).ok_or(FsError::NotFound)?
        };
        let key = self.tree.lock().key_of(parent, name);
        let key = key.ok_or(FsError::NotFound)?;
        self.refuse_locked(&key)?;
        self.expand_file(&inode)?;
        let mut edits = self.vacated(&key, &inode)?;
        self.hold_burst(&mut edits)?;
        self.apply(edits)?;
        self.tree.lock().remove(parent, name, self.clock.instant());
        self.touch_inodes([Some(&inode)]);
        self.touch_folder(parent);
        Ok(())
    }

    pub(super) fn folder_named(&self, parent: Ino, name: &str) -> FsResult<Ino> {
        let tree = self.tree.lock();
        let entry = tree
            .dir(parent)
            .and_then(|dir| dir.entry(name))
            .ok_or(FsError::NotFound)?;
        match entry.kind {
            Kind::Folder => Ok(entry.ino),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Changes attributes: those of a staged file with its next upload, those of an uploaded one
    /// by a copy onto itself, behind.
    pub async fn setattr(
        self: &Arc<Self>,
        ino: Ino,
        fh: Option<Fh>,
        change: &SetAttr,
    ) -> FsResult<Attr> {
        if let Some(local) = self.local(ino) {
            return local.setattr(ino, fh.and_then(|fh| self.local_handle(fh)), change);
        }
        let inode = self.inode(ino)?;
        self.refuse_locked_inode(ino)?;
        let only_read = SetAttr {
            atime: None,
            ..*change
        } == SetAttr::default();
        // Who has it open to write it goes on.
        if !only_read && inode.state.lock().writers == 0 {
            self.enter_project_of(ino)?;
        }
        if let Some(size) = change.size {
            match inode.kind {
                Kind::Folder => return Err(FsError::IsADirectory),
                kind if kind.is_special() => {
                    return Err(FsError::InvalidArgument("only a file has a length"));
                }
                _ => {}
            }
            self.truncate(&inode, size).await?;
        }
        let kept = SetAttr {
            size: None,
            atime: None,
            ..*change
        };
        if kept != SetAttr::default() {
            self.change_attributes(&inode, |meta| Ok(asked(&inode, meta, &kept)))?;
        }
        if let Some(atime) = change.atime {
            inode.state.lock().meta.atime = atime;
        }
        self.getattr(ino, None)
    }

    /// Sets those attributes that `change` returns, which is given the ones of now.
    pub(super) fn change_attributes(
        &self,
        inode: &Inode,
        change: impl FnOnce(&Meta) -> FsResult<FileAttributes>,
    ) -> FsResult<()> {
        let _changes = self.changes.lock();
        let key = self.tree.lock().key(inode.ino);
        let mut meta = inode.state.lock().meta.clone();
        let before = meta.clone();
        let set = change(&meta)?;
        meta.apply(&set);
        meta.ctime = self.clock.now();
        let same = before.to_attributes() == meta.to_attributes();
        if !same && let Some(key) = key {
            self.expand_file(inode)?;
            self.record_attributes(inode, key, meta.to_attributes(), &set)?;
        }
        let mut state = inode.state.lock();
        state.meta = meta;
        if !same {
            state.learn(&set);
            state.meta.ctime = self.clock.now();
        }
        Ok(())
    }

    /// Somebody without the right to keep them changes a file's bytes: it loses its set-id bits. The
    /// kernel leaves that to us (`FUSE_HANDLE_KILLPRIV_V2`), and then need not ask before a write.
    ///
    /// # Errors
    /// As a change of the mode.
    pub fn drop_set_id(&self, ino: Ino) -> FsResult<()> {
        if let Some(local) = self.local(ino) {
            let mode = without_set_id(local.getattr(ino, None)?.mode);
            if mode.is_some() {
                let change = SetAttr {
                    mode,
                    ..SetAttr::default()
                };
                local.setattr(ino, None, &change)?;
            }
            return Ok(());
        }
        self.drop_set_id_of(&*self.inode(ino)?)
    }

    /// As [`Fs::drop_set_id`], before a write. Local files have lost theirs when they were opened.
    ///
    /// # Errors
    /// As a change of the mode.
    pub fn drop_set_id_to_write(&self, fh: Fh) -> FsResult<()> {
        match &*self.handles.get(fh)? {
            Handle::File(file) => self.drop_set_id_of(&file.inode),
            Handle::Local { .. } | Handle::Folder { .. } => Ok(()),
        }
    }

    fn drop_set_id_of(&self, inode: &Inode) -> FsResult<()> {
        let mode = without_set_id(inode.state.lock().meta.mode);
        if inode.kind == Kind::Folder || mode.is_none() {
            return Ok(());
        }
        self.change_attributes(inode, |meta| {
            Ok(FileAttributes {
                mode: without_set_id(meta.mode),
                ..FileAttributes::default()
            })
        })
    }

    fn record_attributes(
        &self,
        inode: &Inode,
        key: Key,
        attributes: FileAttributes,
        set: &FileAttributes,
    ) -> FsResult<()> {
        let special = inode.state.lock().special().cloned();
        if let Some(special) = special {
            let edit = Fs::special_attributes(key, special, attributes);
            return self.apply(vec![edit]);
        }
        let (remote, staged, size) = {
            let state = inode.state.lock();
            (
                state.remote().cloned(),
                state.staged().cloned(),
                state.meta.size,
            )
        };
        let record = self.journal().record(&key);
        if let Some(staged) = staged {
            if let Some(mtime) = set.mtime {
                set_mtime(&staged.file, mtime)?;
            }
            let Some(record) = record else { return Ok(()) };
            let Change::Put { file, state, .. } = record.change else {
                return Ok(());
            };
            let mut attributes = attributes;
            if state == PutState::Open {
                // The file itself has it, and what is still written moves it.
                attributes.mtime = None;
            }
            let change = Change::Put {
                file,
                state,
                attributes,
            };
            return self.apply(vec![Edit::Set {
                key,
                base: record.base,
                change,
            }]);
        }
        if let Some(remote) = remote {
            let base = self.base_of(&key, Some(&remote));
            let source = remote.version.clone();
            // What is not known here is left to what the object carries.
            let known = inode.state.lock().known.clone();
            let attributes = FileAttributes {
                mtime: set.mtime.or(known.mtime),
                mode: set.mode.or(known.mode),
                uid: set.uid.or(known.uid),
                gid: set.gid.or(known.gid),
                xattrs: set.xattrs.clone().or(known.xattrs),
            };
            if remote.origin == Origin::Fallback {
                // The copy in the fallback directory is not touched; attributes are kept here.
                let keep = Edit::KeepAttributes {
                    version: source,
                    attributes,
                };
                return self.apply(vec![keep]);
            }
            let change = Change::Copy {
                source,
                size,
                attributes,
            };
            return self.apply(vec![Edit::Set { key, base, change }]);
        }
        // A folder: where it has a marker of its own, that carries them too.
        let marker = self
            .tree
            .lock()
            .dir(inode.ino)
            .and_then(|dir| dir.marker(&key));
        let mut edits = vec![folder::keep(key.clone(), attributes.clone())];
        if record.is_some() || marker.is_some() {
            edits.push(Edit::Set {
                key,
                base: record.map_or(marker, |record| record.base),
                change: Change::Folder { attributes },
            });
        }
        self.apply(edits)
    }

    /// Returns the local tree and its folder in which a name is to be made or removed, if it stays
    /// on this disk; refuses what may not be made at the root.
    pub(super) fn local_parent(
        &self,
        parent: Ino,
        name: &OsStr,
    ) -> FsResult<Option<(&super::local::LocalTree, Ino)>> {
        if let Some(local) = self.local(parent) {
            return Ok(Some((local, parent)));
        }
        if parent != Ino::ROOT {
            return Ok(None);
        }
        match self.local_at_root(name) {
            Some(side) => Ok(Some((side, side.root()))),
            None => Err(FsError::NotPermitted(
                "the root holds the collections and samples only",
            )),
        }
    }
}

/// Returns what a program asks for, and what follows from it: a file that gets another owner loses
/// its set-id bits.
fn asked(inode: &Inode, meta: &Meta, change: &SetAttr) -> FileAttributes {
    let chowned = change.uid.is_some() || change.gid.is_some();
    let mode = match change.mode {
        None if chowned && inode.kind != Kind::Folder => without_set_id(meta.mode),
        mode => mode,
    };
    FileAttributes {
        mtime: change.mtime,
        mode: mode.map(|mode| mode & 0o7777),
        uid: change.uid,
        gid: change.gid,
        xattrs: None,
    }
}

/// Returns a mode without the bits that let a program run as its owner or group; `None` if it has
/// none of them.
fn without_set_id(mode: u32) -> Option<u32> {
    let mut kept = mode & !libc::S_ISUID;
    // Without the right to execute, that of the group means something else.
    if mode & libc::S_IXGRP != 0 {
        kept &= !libc::S_ISGID;
    }
    (kept != mode).then_some(kept)
}

fn set_mtime(file: &StagedFile, mtime: std::time::SystemTime) -> FsResult<()> {
    let times = std::fs::FileTimes::new().set_modified(mtime);
    Ok(file.file().set_times(times)?)
}
