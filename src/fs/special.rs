//! Symbolic links, FIFOs, sockets and device nodes: the bucket cannot express them, so the journal
//! alone keeps them. They are in memory from the start, each with its name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Fs;
use super::attr::{Attr, Caller, Ino, Kind};
use super::inode::{Content, Inode, Meta, State};
use super::name;
use super::tree::Tree;
use crate::error::{FsError, FsResult};
use crate::staging::{Edit, LocalName, Special, StandsFor};
use crate::store::Key;
use crate::store::attributes::FileAttributes;

/// Bit of a folder's mode by which what is made in it gets its group.
const SET_GROUP_ID: u32 = libc::S_ISGID;
/// The longest symbolic link that Linux takes, in bytes.
const MAX_TARGET_BYTES: usize = 4095;

impl Kind {
    /// Whether it is neither a file nor a folder.
    pub(super) fn is_special(self) -> bool {
        !matches!(self, Kind::File | Kind::Folder)
    }
}

fn kind_of(special: &Special) -> Kind {
    match special {
        Special::Symlink(_) => Kind::Symlink,
        Special::Fifo => Kind::Fifo,
        Special::Socket => Kind::Socket,
        Special::CharDevice(_) => Kind::CharDevice,
        Special::BlockDevice(_) => Kind::BlockDevice,
    }
}

/// Returns what mknod(2) is asked to make; `None` if that is a file.
fn requested(mode: u32, device: u32) -> FsResult<Option<Special>> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(None),
        libc::S_IFIFO => Ok(Some(Special::Fifo)),
        libc::S_IFSOCK => Ok(Some(Special::Socket)),
        libc::S_IFCHR => Ok(Some(Special::CharDevice(device))),
        libc::S_IFBLK => Ok(Some(Special::BlockDevice(device))),
        _ => Err(FsError::InvalidArgument("mknod cannot make this")),
    }
}

impl Fs {
    /// Makes a file without opening it, or a FIFO, a socket or a device node.
    pub async fn mknod(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        device: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            return local.mknod(parent, name, mode, device, caller);
        }
        match requested(mode, device)? {
            Some(special) => self.make_special(parent, name, special, mode, caller),
            None => self.make_file(parent, name, mode, caller).await,
        }
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> FsResult<Attr> {
        if let Some((local, parent)) = self.local_parent(parent, name)? {
            return local.symlink(parent, name, target, caller);
        }
        if target.len() > MAX_TARGET_BYTES {
            return Err(FsError::NameTooLong);
        }
        let special = Special::Symlink(target.as_bytes().to_vec());
        self.make_special(parent, name, special, 0o777, caller)
    }

    /// Reads a symbolic link.
    pub fn readlink(&self, ino: Ino) -> FsResult<OsString> {
        if let Some(local) = self.local(ino) {
            return local.readlink(ino);
        }
        match self.inode(ino)?.state.lock().special() {
            Some(Special::Symlink(target)) => Ok(OsString::from_vec(target.clone())),
            _ => Err(FsError::InvalidArgument("no symbolic link")),
        }
    }

    fn make_special(
        &self,
        parent: Ino,
        name: &OsStr,
        special: Special,
        mode: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        let name = name::check(name)?;
        self.load_dir(parent)?;
        let meta = self.new_meta(parent, mode, caller, kind_of(&special));
        let _changes = self.changes.lock();
        let key = self.free_key(parent, name)?;
        let stands_for = StandsFor::Special(special.clone(), meta.to_attributes());
        let mut edits = self.forget_names(&key);
        edits.push(Edit::SetLocal(LocalName { key, stands_for }));
        self.apply(edits)?;
        let mut tree = self.tree.lock();
        let inode = self.insert_special(&mut tree, (parent, name), special, meta);
        tree.looked_up(inode.ino);
        drop(tree);
        self.touch_folder(parent);
        Ok(inode.attr())
    }

    /// Returns the key of a name that nothing has yet.
    pub(super) fn free_key(&self, parent: Ino, name: &str) -> FsResult<Key> {
        let tree = self.tree.lock();
        let path = tree.path(parent).ok_or(FsError::NotFound)?;
        let dir = tree.dir(parent).ok_or(FsError::NotADirectory)?;
        match dir.entry(name) {
            Some(_) => Err(FsError::Exists),
            None => {
                let key = name::key_in(&path, name)?;
                match self.journal().local_name(&key) {
                    Some(_) => Err(FsError::Exists),
                    None => Ok(key),
                }
            }
        }
    }

    fn insert_special(
        &self,
        tree: &mut Tree,
        (parent, name): (Ino, &str),
        special: Special,
        mut meta: Meta,
    ) -> Arc<Inode> {
        if let Special::Symlink(target) = &special {
            meta.size = target.len() as u64;
        }
        let now = self.clock.instant();
        let kind = kind_of(&special);
        let inode = Arc::new(Inode {
            ino: tree.new_ino(),
            kind,
            state: Mutex::new(State::new(meta, Content::Special(special), now)),
        });
        tree.insert_file(parent, name, &inode, now);
        inode
    }

    /// Returns the attributes of what is made now: the group of a folder with the set-group-id bit
    /// goes to what is made in it.
    pub(super) fn new_meta(&self, parent: Ino, mode: u32, caller: Caller, kind: Kind) -> Meta {
        let now = self.clock.now();
        let folder = self.tree.lock().inode(parent).cloned();
        let inherited = folder.and_then(|folder| {
            let meta = &folder.state.lock().meta;
            (meta.mode & SET_GROUP_ID != 0).then_some(meta.gid)
        });
        let mut mode = mode & 0o7777;
        if inherited.is_some() && kind == Kind::Folder {
            mode |= SET_GROUP_ID;
        }
        Meta {
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            mode,
            uid: caller.uid,
            gid: inherited.unwrap_or(caller.gid),
            xattrs: None,
        }
    }

    /// What the journal must say when a special node gets other attributes.
    pub(super) fn special_attributes(
        key: Key,
        special: Special,
        attributes: FileAttributes,
    ) -> Edit {
        Edit::SetLocal(LocalName {
            key,
            stands_for: StandsFor::Special(special, attributes),
        })
    }

    /// Shows what the journal alone knows, at start.
    pub(super) fn show_local_names(&self) {
        let (links, nodes): (Vec<_>, Vec<_>) = self
            .journal()
            .local_names()
            .into_iter()
            .partition(|name| matches!(name.stands_for, StandsFor::Link { .. }));
        let mut tree = self.tree.lock();
        for name in nodes.iter().chain(&links) {
            let (path, file) = super::conflict::split(name.key.as_str());
            let Some(parent) = self.folder_at(&mut tree, path) else {
                log::warn!("{} is not shown: it is in none of COLLECTIONS", name.key);
                continue;
            };
            match &name.stands_for {
                StandsFor::Special(special, attributes) => {
                    let mut meta = tree.defaults.clone();
                    meta.apply(attributes);
                    self.insert_special(&mut tree, (parent, file), special.clone(), meta);
                }
                StandsFor::Link { to, .. } => {
                    let found = tree.find(to.as_str()).map(|(_, entry)| entry.ino);
                    // That of a file is found when it is looked for.
                    let Some(inode) = found.and_then(|ino| tree.inode(ino).cloned()) else {
                        continue;
                    };
                    tree.add_link(parent, file, &inode, self.clock.instant());
                }
            }
        }
    }

    /// Returns the folder of that path (empty or with a `/` at its end), made known with those above.
    pub(super) fn folder_at(&self, tree: &mut Tree, path: &str) -> Option<Ino> {
        let mut folders = path.split_terminator('/');
        let collection = folders.next()?;
        let mut at = tree.dir(Ino::ROOT)?.entry(collection)?.ino;
        for name in folders {
            at = tree.insert_folder(at, name, self.clock.instant());
        }
        Some(at)
    }
}
