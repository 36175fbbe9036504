//! Changes of names: making, linking, removing and renaming.
//!
//! Every call names one entry of a folder that is held by a descriptor, and none of these system
//! calls follows a link in that place.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::beneath::{SameFile, Status, child, disk_error, kind, status};
use super::{LocalTree, Place, change_mode, change_owner, check_name, files, xattr};
use crate::error::{FsError, FsResult};
use crate::fs::attr::{Attr, Caller, Ino, Kind};

/// New entries of a folder with this bit get the folder's group.
const SET_GROUP_ID: u32 = 0o2000;

impl LocalTree {
    /// Makes a file, FIFO, socket or device node. Raises the lookup count.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        // No type at all means a regular file to mknod(2).
        let file_type = match FileType::from_raw_mode(mode) {
            FileType::Unknown if mode & libc::S_IFMT == 0 => FileType::RegularFile,
            given => given,
        };
        match kind(file_type) {
            Some(Kind::File) => {
                let flags = OFlags::RDONLY;
                let file = files::make_file(&folder, name, mode, flags, caller)?;
                Ok(self.enter(&folder, name, &status(&file).map_err(disk_error)?))
            }
            None | Some(Kind::Folder | Kind::Symlink) => {
                Err(FsError::InvalidArgument("mknod cannot make this"))
            }
            Some(kind) => {
                let bits = Mode::from_raw_mode(mode & 0o7777);
                rustix::fs::mknodat(&folder.fd, name, file_type, bits, rdev.into())
                    .map_err(disk_error)?;
                self.enter_made(&folder, name, kind, mode, caller)
            }
        }
    }

    /// Makes a folder. Raises the lookup count.
    pub fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, caller: Caller) -> FsResult<Attr> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        let bits = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mkdirat(&folder.fd, name, bits).map_err(disk_error)?;
        self.enter_made(&folder, name, Kind::Folder, mode, caller)
    }

    /// Makes a symbolic link. Raises the lookup count.
    pub fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> FsResult<Attr> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        rustix::fs::symlinkat(target, &folder.fd, name).map_err(disk_error)?;
        self.enter_made(&folder, name, Kind::Symlink, 0o777, caller)
    }

    /// Gives a file one more name. Raises the lookup count.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> FsResult<Attr> {
        let target = self.target(ino, None)?;
        let folder = self.folder(new_parent)?;
        check_name(new_name)?;
        let file = SameFile::new(&target);
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, file.path(), &folder.fd, new_name, follow).map_err(disk_error)?;
        let linked = status(&target).map_err(disk_error)?;
        Ok(self.enter(&folder, new_name, &linked))
    }

    /// Removes a name of a file.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty folder.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: Ino, name: &OsStr, flags: AtFlags) -> FsResult<()> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        let doomed = Entry::find(&folder, name).map_err(disk_error)?;
        rustix::fs::unlinkat(&folder.fd, name, flags).map_err(disk_error)?;
        self.lose_name(&folder, name, &doomed);
        Ok(())
    }

    /// Renames; `flags` are those of renameat2(2), of which NOREPLACE and EXCHANGE are known.
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> FsResult<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(FsError::InvalidArgument("not a known kind of rename"));
        }
        let (from, to) = (self.folder(parent)?, self.folder(new_parent)?);
        check_name(name)?;
        check_name(new_name)?;
        let moved = Entry::find(&from, name).map_err(disk_error)?;
        let replaced = match Entry::find(&to, new_name) {
            Err(Errno::NOENT) => None,
            found => Some(found.map_err(disk_error)?),
        };
        let exchanged = replaced
            .as_ref()
            .filter(|_| flags.contains(RenameFlags::EXCHANGE));
        // The new name is known before the disk has it, so that whoever looks for the file
        // meanwhile finds it under one of the two.
        self.add_name(&to, new_name, &moved);
        if let Some(exchanged) = exchanged {
            self.add_name(&from, name, exchanged);
        }
        let renamed =
            rustix::fs::renameat_with(&from.fd, name, &to.fd, new_name, flags).map_err(disk_error);
        let same = |other: &Entry| other.status.identity == moved.status.identity;
        if replaced.as_ref().is_some_and(same) {
            // Two names of one file: the disk has left both as they were.
            self.add_name(&from, name, &moved);
            return renamed;
        }
        let ((lost, lost_name), result) = match renamed {
            Ok(()) => ((&from, name), Ok(())),
            Err(error) => ((&to, new_name), Err(error)),
        };
        self.remove_name(lost, lost_name, &moved);
        match (&replaced, exchanged.is_some(), &result) {
            (Some(other), true, Ok(())) => self.remove_name(&to, new_name, other),
            (Some(other), true, Err(_)) => self.remove_name(&from, name, other),
            (Some(other), false, Ok(())) => self.lose_name(&to, new_name, other),
            _ => {}
        }
        result
    }

    /// Enters what was just made under a name, once it is surely that, and gives it to the caller.
    fn enter_made(
        &self,
        folder: &Place,
        name: &OsStr,
        kind: Kind,
        mode: u32,
        caller: Caller,
    ) -> FsResult<Attr> {
        let made = Entry::find(folder, name).map_err(disk_error)?;
        // Somebody who may write to the directory on disk may have put another file in its place,
        // which must not be given away.
        let ours = made.status.kind == kind
            && made.status.uid == rustix::process::geteuid().as_raw()
            && (kind == Kind::Folder || made.status.nlink == 1);
        if !ours {
            return Err(FsError::Stale);
        }
        settle(folder, name, &made.fd, mode, caller)?;
        Ok(self.enter(folder, name, &status(&made.fd).map_err(disk_error)?))
    }

    fn add_name(&self, folder: &Place, name: &OsStr, entry: &Entry) {
        let mut nodes = self.nodes.lock();
        if let Some(number) = nodes.find(&entry.status.identity) {
            nodes.add_link(number, folder.number, name);
        }
    }

    fn remove_name(&self, folder: &Place, name: &OsStr, entry: &Entry) {
        let mut nodes = self.nodes.lock();
        if let Some(number) = nodes.find(&entry.status.identity) {
            nodes.remove_link(number, folder.number, name);
        }
    }

    /// Records that a file has lost a name on disk, which may have been its last.
    fn lose_name(&self, folder: &Place, name: &OsStr, entry: &Entry) {
        let gone = entry.status.kind == Kind::Folder
            || status(&entry.fd).is_ok_and(|status| status.nlink == 0);
        let mut nodes = self.nodes.lock();
        if let Some(number) = nodes.find(&entry.status.identity) {
            nodes.remove_link(number, folder.number, name);
            if gone {
                nodes.bury(number);
            }
        }
    }
}

/// What a name stands for at the moment.
struct Entry {
    fd: OwnedFd,
    status: Status,
}

impl Entry {
    fn find(folder: &Place, name: &OsStr) -> Result<Entry, Errno> {
        let fd = child(&folder.fd, name)?;
        let status = status(&fd)?;
        Ok(Entry { fd, status })
    }
}

/// Gives a new file to its caller, with the mode that was asked for; takes it away again if that
/// fails.
pub(super) fn settle(
    folder: &Place,
    name: &OsStr,
    made: impl AsFd,
    mode: u32,
    caller: Caller,
) -> FsResult<()> {
    let settled = give(folder, made.as_fd(), mode, caller);
    if settled.is_err() {
        let is_folder = status(&made).is_ok_and(|status| status.kind == Kind::Folder);
        let flags = match is_folder {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        let _ = rustix::fs::unlinkat(&folder.fd, name, flags);
    }
    settled.map_err(disk_error)
}

fn give(folder: &Place, made: BorrowedFd<'_>, mode: u32, caller: Caller) -> Result<(), Errno> {
    if rustix::process::geteuid().is_root() {
        let inherits = folder.status.mode & SET_GROUP_ID != 0;
        let gid = (!inherits).then_some(caller.gid);
        change_owner(made, Some(caller.uid), gid)?;
    }
    let now = status(made)?;
    if now.kind == Kind::Symlink {
        return Ok(());
    }
    let inherited = match now.kind {
        Kind::Folder => now.mode & SET_GROUP_ID,
        _ => 0,
    };
    let wanted = mode & 0o7777 | inherited;
    // Our own umask took bits away, or the change of owner did. A default access list of the
    // folder, in whose presence no umask counts, has the last word.
    if now.mode != wanted && !xattr::has_default_acl(&folder.fd) {
        change_mode(made, wanted)?;
    }
    Ok(())
}
