//! The way from the root descriptor to a file, and back from a descriptor to a usable one.
//!
//! Every path is resolved by `openat2` beneath the root and without following any link, so neither
//! a link nor a folder that is swapped between two calls leads out. What is found is held by an
//! `O_PATH` descriptor; from then on the operation works on that file, whatever happens to its
//! name.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::nodes::{FileKey, Identity};
use super::system_time;
use crate::error::FsError;
use crate::fs::attr::{Attr, Ino, Kind};

/// The longest path given to one `openat2`; a deeper one is walked in pieces. The kernel's limit,
/// with room for the last name.
const MAX_PATH_BYTES: usize = 4096 - 256 - 2;

/// How a descriptor is opened that only names a file.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// No link on the way, and nothing above the start.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The directory that the tree shows.
pub(super) struct Root {
    path: PathBuf,
    held: Mutex<Option<(Arc<OwnedFd>, FileKey)>>,
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Root {
        let held = Mutex::new(None);
        Root { path, held }
    }

    /// Returns the descriptor of the directory, opened anew only if its path means another one by
    /// now.
    pub(super) fn descriptor(&self) -> Result<Arc<OwnedFd>, Errno> {
        let there = rustix::fs::statx(CWD, &self.path, AtFlags::empty(), StatxFlags::INO);
        let there = match there {
            Ok(there) => file_key(&there),
            Err(error) => {
                *self.held.lock() = None;
                return Err(error);
            }
        };
        if let Some((fd, key)) = &*self.held.lock()
            && *key == there
        {
            return Ok(fd.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Arc::new(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let key = status(&fd)?.identity.key;
        *self.held.lock() = Some((fd.clone(), key));
        Ok(fd)
    }

    /// Returns a descriptor on the disk that the directory is on, or will be.
    pub(super) fn disk(&self) -> Result<OwnedFd, Errno> {
        let mut last = Errno::NOENT;
        for path in self.path.ancestors().filter(|path| *path != OsStr::new("")) {
            match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Err(error @ Errno::NOENT) => last = error,
                opened => return opened,
            }
        }
        Err(last)
    }
}

/// Opens the file at a path beneath a folder, by name only.
pub(super) fn open(root: &OwnedFd, path: &[OsString]) -> Result<OwnedFd, Errno> {
    let mut folder: Option<OwnedFd> = None;
    let mut piece = Vec::new();
    for name in path {
        if !piece.is_empty() && piece.len() + name.len() > MAX_PATH_BYTES {
            let from = folder.as_ref().unwrap_or(root);
            folder = Some(resolve(from, OsStr::from_bytes(&piece))?);
            piece.clear();
        }
        if !piece.is_empty() {
            piece.push(b'/');
        }
        piece.extend_from_slice(name.as_bytes());
    }
    if piece.is_empty() {
        piece.push(b'.');
    }
    resolve(folder.as_ref().unwrap_or(root), OsStr::from_bytes(&piece))
}

/// Opens one name in a folder, by name only: a link is opened itself, never what it points to.
pub(super) fn child(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    resolve(folder, name)
}

fn resolve(folder: impl AsFd, path: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(folder, path, NAME_ONLY, Mode::empty(), BENEATH)
}

/// A path that means the very file of a descriptor, also when its names are gone. For the system
/// calls that refuse an `O_PATH` descriptor. It holds on to the descriptor, whose number would soon
/// mean another file.
pub(super) struct SameFile<'fd> {
    path: String,
    _fd: BorrowedFd<'fd>,
}

impl<'fd> SameFile<'fd> {
    pub(super) fn new(fd: &'fd impl AsFd) -> SameFile<'fd> {
        let fd = fd.as_fd();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        SameFile { path, _fd: fd }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Opens the file of a descriptor once more, with other flags.
pub(super) fn reopen(fd: &impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let file = SameFile::new(fd);
    rustix::fs::open(file.path(), flags | OFlags::CLOEXEC, Mode::empty())
}

/// What the disk says about a file.
pub(super) struct Status {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    attr: Attr,
}

impl Status {
    /// Returns the attributes, under a number.
    pub(super) fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            ..self.attr.clone()
        }
    }
}

/// Returns what the disk says about the file of a descriptor.
pub(super) fn status(fd: impl AsFd) -> Result<Status, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
    let raw_mode = u32::from(stat.stx_mode);
    let kind = kind(FileType::from_raw_mode(raw_mode)).ok_or(Errno::IO)?;
    let born = StatxFlags::from_bits_retain(stat.stx_mask)
        .contains(StatxFlags::BTIME)
        .then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
    let mode = raw_mode & 0o7777;
    let time = |at: StatxTimestamp| system_time(at.tv_sec, at.tv_nsec);
    let key = file_key(&stat);
    Ok(Status {
        identity: Identity { key, born, kind },
        kind,
        mode,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        attr: Attr {
            ino: Ino(0),
            kind,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            mode,
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            // The kernel's protocol has 32 bits for it, in which this form is the kernel's own.
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor) as u32,
        },
    })
}

/// Returns what the disk calls one name in a folder, and its kind.
pub(super) fn key_of_child(folder: &OwnedFd, name: &OsStr) -> Result<(FileKey, Kind), Errno> {
    let itself = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(folder, name, itself, StatxFlags::INO | StatxFlags::TYPE)?;
    let kind = kind(FileType::from_raw_mode(stat.stx_mode.into())).ok_or(Errno::IO)?;
    Ok((file_key(&stat), kind))
}

fn file_key(stat: &rustix::fs::Statx) -> FileKey {
    FileKey {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
    }
}

/// Returns the kind of a file type, unless the disk did not tell it.
pub(super) fn kind(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Folder),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}

/// Returns the disk's answer as ours. The error number stays the same; what is part of ordinary
/// work is told apart, so that the log need not speak of it.
pub(super) fn disk_error(error: Errno) -> FsError {
    match error {
        Errno::NOENT => FsError::NotFound,
        Errno::NOTDIR => FsError::NotADirectory,
        Errno::ISDIR => FsError::IsADirectory,
        Errno::NOTEMPTY => FsError::NotEmpty,
        Errno::EXIST => FsError::Exists,
        Errno::NAMETOOLONG => FsError::NameTooLong,
        Errno::ACCESS => FsError::Denied,
        Errno::PERM => FsError::NotPermitted("by the local disk"),
        Errno::ROFS => FsError::ReadOnly("the local disk"),
        Errno::XDEV => FsError::CrossDevice,
        Errno::NODATA => FsError::NoAttribute,
        Errno::OPNOTSUPP => FsError::Unsupported,
        Errno::BADF => FsError::BadHandle,
        Errno::INVAL => FsError::InvalidArgument("for the local disk"),
        Errno::STALE => FsError::Stale,
        Errno::FBIG => FsError::TooLarge,
        other => FsError::Io(other.into()),
    }
}
