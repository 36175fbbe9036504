//! A tree over one local directory: `samples/`, and the files that never leave this disk.
//!
//! What it owns: the inode numbers `base..base + SPAN`, their lookup counts, and the open files
//! behind the handles of the same range. What it does not: bytes and attributes, which are the
//! disk's own. Everything here is answered by the local disk, so every operation belongs to the
//! inline lane.
//!
//! No path leads out of the directory (see `beneath`), and an operation on a number reaches the
//! very file that the number was given for, or none: a path is only a way to find it, its identity
//! on disk decides.

mod beneath;
mod files;
mod names;
mod nodes;
#[cfg(test)]
mod tests;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use self::beneath::{Root, SameFile, Status, child, disk_error, reopen, status};
use self::nodes::{FileKey, Nodes};
use super::attr::{Attr, DirEntry, Fh, Ino, Kind, SetAttr, Space};
use crate::error::{FsError, FsResult};

/// How many inode numbers and handles a tree may give out, counted from its base: more than a
/// machine can use up in its life. The bases of two trees lie at least this far apart.
pub const SPAN: u64 = 1 << 48;

/// How often the way to a known file is looked for. A rename by another thread can defeat one
/// attempt.
const FIND_ATTEMPTS: usize = 8;

/// A loop-back tree over one local directory.
pub struct LocalTree {
    base: u64,
    root: Root,
    /// When the tree was made: the times of a directory that does not exist yet.
    since: SystemTime,
    /// The only lock held across more than one step, and never across a call to the disk.
    nodes: Mutex<Nodes>,
}

/// A file or folder of a known number, found on disk and held by a descriptor that only names it.
struct Place {
    number: u64,
    fd: OwnedFd,
    status: Status,
}

/// What an operation on a number works on: the file at its path, or one that is open.
enum Target {
    Path(Place),
    Open(Arc<File>),
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Target::Path(place) => place.fd.as_fd(),
            Target::Open(file) => file.as_fd(),
        }
    }
}

impl LocalTree {
    /// Returns the tree over `root`, whose inode numbers are `base + n`. The directory need not
    /// exist yet: it is an empty folder until it is made, and may be replaced later.
    pub fn new(root: PathBuf, base: u64) -> LocalTree {
        LocalTree {
            base,
            root: Root::new(root),
            since: SystemTime::now(),
            nodes: Mutex::new(Nodes::default()),
        }
    }

    /// Whether the number is one of this tree's.
    pub fn owns(&self, ino: Ino) -> bool {
        ino.0.wrapping_sub(self.base) < SPAN
    }

    /// Returns the number of the directory itself.
    pub fn root(&self) -> Ino {
        Ino(self.base)
    }

    /// Looks a name up. Raises the lookup count.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        let found = child(&folder.fd, name).and_then(status);
        Ok(self.enter(&folder, name, &found.map_err(disk_error)?))
    }

    /// Lowers the lookup count; at zero the number is given up.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.nodes.lock().forget(self.number(ino), count);
    }

    /// Returns the attributes, as they are on disk.
    pub fn getattr(&self, ino: Ino, fh: Option<Fh>) -> FsResult<Attr> {
        match self.target(ino, fh) {
            Ok(target) => {
                let status = status(target.as_fd()).map_err(disk_error)?;
                Ok(status.attr(ino))
            }
            Err(FsError::NotFound) if ino == self.root() => Ok(self.unmade_root()),
            Err(error) => Err(error),
        }
    }

    /// Changes attributes. Returns the new ones.
    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, change: &SetAttr) -> FsResult<Attr> {
        let target = self.target(ino, fh)?;
        // In this order: a new length moves mtime, and a new owner takes the set-id bits away.
        if let Some(size) = change.size {
            truncate(target.as_fd(), size)?;
        }
        change_owner(target.as_fd(), change.uid, change.gid).map_err(disk_error)?;
        if let Some(mode) = change.mode {
            change_mode(target.as_fd(), mode).map_err(disk_error)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            rustix::fs::utimensat(&target, "", &times, AtFlags::EMPTY_PATH).map_err(disk_error)?;
        }
        let status = status(target.as_fd()).map_err(disk_error)?;
        Ok(status.attr(ino))
    }

    /// Returns where a symbolic link points to.
    pub fn readlink(&self, ino: Ino) -> FsResult<OsString> {
        let place = self.place(ino)?;
        if place.status.kind != Kind::Symlink {
            return Err(FsError::InvalidArgument("not a symbolic link"));
        }
        let target = rustix::fs::readlinkat(&place.fd, "", Vec::new()).map_err(disk_error)?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Returns the names in a folder, without `.` and `..`, each with the number that a lookup
    /// gives it.
    pub fn entries(&self, ino: Ino) -> FsResult<Vec<DirEntry>> {
        let folder = match self.folder(ino) {
            Err(FsError::NotFound) if ino == self.root() => return Ok(Vec::new()),
            folder => folder?,
        };
        let listed = list(&folder).map_err(disk_error)?;
        let mut nodes = self.nodes.lock();
        let entries = listed.into_iter().map(|(name, key, kind)| {
            let ino = Ino(self.base + nodes.number_ahead(key));
            DirEntry { name, ino, kind }
        });
        Ok(entries.collect())
    }

    /// Syncs a folder: names made, renamed and removed in it before survive a power cut.
    pub fn fsyncdir(&self, ino: Ino) -> FsResult<()> {
        let folder = match self.folder(ino) {
            Err(FsError::NotFound) if ino == self.root() => return Ok(()),
            folder => folder?,
        };
        let fd = open_folder(&folder).map_err(disk_error)?;
        rustix::fs::fsync(fd).map_err(disk_error)
    }

    /// Returns the room on the disk.
    pub fn statfs(&self) -> FsResult<Space> {
        let disk = self.root.disk().map_err(disk_error)?;
        let room = rustix::fs::fstatvfs(disk).map_err(disk_error)?;
        Ok(Space {
            block_bytes: u32::try_from(room.f_frsize).unwrap_or(4096),
            blocks: room.f_blocks,
            blocks_free: room.f_bfree,
            blocks_available: room.f_bavail,
            files: room.f_files,
            files_free: room.f_ffree,
        })
    }

    fn number(&self, ino: Ino) -> u64 {
        ino.0.wrapping_sub(self.base)
    }

    /// Finds the file of a number by the paths it is known under.
    fn place(&self, ino: Ino) -> FsResult<Place> {
        let number = self.number(ino);
        let root = self.root.descriptor().map_err(disk_error)?;
        if number == nodes::ROOT {
            let fd = beneath::open(&root, &[]).map_err(disk_error)?;
            let status = status(&fd).map_err(disk_error)?;
            return Ok(Place { number, fd, status });
        }
        for _ in 0..FIND_ATTEMPTS {
            let (paths, identity) = {
                let nodes = self.nodes.lock();
                (nodes.paths(number), nodes.identity(number))
            };
            for path in paths {
                let found = beneath::open(&root, &path).and_then(|fd| Ok((status(&fd)?, fd)));
                match found {
                    Ok((status, fd)) if Some(&status.identity) == identity.as_ref() => {
                        return Ok(Place { number, fd, status });
                    }
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                    Err(error) => return Err(disk_error(error)),
                }
            }
        }
        // The kernel looks the name up again when it hears this.
        Err(FsError::Stale)
    }

    fn folder(&self, ino: Ino) -> FsResult<Place> {
        let place = self.place(ino)?;
        match place.status.kind {
            Kind::Folder => Ok(place),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Finds the file of a handle, or of a number: by its path, else through a handle that is open
    /// on it, which is all that is left of a file whose names are gone.
    fn target(&self, ino: Ino, fh: Option<Fh>) -> FsResult<Target> {
        if let Some(file) = fh.and_then(|fh| self.file(fh)) {
            return Ok(Target::Open(file));
        }
        match self.place(ino) {
            Err(error @ (FsError::Stale | FsError::NotFound)) => {
                let open = self.nodes.lock().open_file(self.number(ino));
                open.map(Target::Open).ok_or(error)
            }
            place => place.map(Target::Path),
        }
    }

    /// Gives a file that was just seen under a name its number, and raises the lookup count.
    fn enter(&self, folder: &Place, name: &OsStr, seen: &Status) -> Attr {
        let number = self.nodes.lock().enter(folder.number, name, &seen.identity);
        seen.attr(Ino(self.base + number))
    }

    fn unmade_root(&self) -> Attr {
        Attr {
            ino: self.root(),
            kind: Kind::Folder,
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            mode: 0o755,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
        }
    }
}

/// The kernel sends nothing else; a name with more in it would be a path.
fn check_name(name: &OsStr) -> FsResult<()> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(FsError::InvalidArgument("not a name"));
    }
    Ok(())
}

fn open_folder(folder: &Place) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&folder.fd, ".", flags, Mode::empty())
}

/// Each file is asked about, although the folder tells a number and a kind too: on a disk made of
/// several, as an overlay is, those of the folder are others than a lookup finds.
fn list(folder: &Place) -> Result<Vec<(OsString, FileKey, Kind)>, Errno> {
    let mut listed = Vec::new();
    for entry in Dir::new(open_folder(folder)?)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let (key, kind) = match beneath::key_of_child(&folder.fd, name) {
            Ok(found) => found,
            // Removed since.
            Err(Errno::NOENT) => continue,
            // A folder that may be listed but not entered.
            Err(_) => {
                let device = folder.status.identity.key.device;
                let inode = entry.ino();
                let kind = beneath::kind(entry.file_type()).unwrap_or(Kind::File);
                (FileKey { device, inode }, kind)
            }
        };
        listed.push((name.to_owned(), key, kind));
    }
    Ok(listed)
}

fn truncate(fd: BorrowedFd<'_>, size: u64) -> FsResult<()> {
    match status(fd).map_err(disk_error)?.kind {
        Kind::File => {}
        Kind::Folder => return Err(FsError::IsADirectory),
        _ => return Err(FsError::InvalidArgument("only a file has a length")),
    }
    // A handle that may write may do so whatever the mode says by now; the rest opens the file
    // anew.
    let truncated = match rustix::fs::ftruncate(fd, size) {
        Err(Errno::INVAL | Errno::BADF) => {
            reopen(&fd, OFlags::WRONLY).and_then(|fd| rustix::fs::ftruncate(fd, size))
        }
        truncated => truncated,
    };
    truncated.map_err(disk_error)
}

fn change_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    // The highest number means "leave it" to the system call.
    let uid = uid.filter(|uid| *uid != u32::MAX).map(Uid::from_raw);
    let gid = gid.filter(|gid| *gid != u32::MAX).map(Gid::from_raw);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

fn change_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // `fchmod` refuses a descriptor that only names a file.
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let file = SameFile::new(&fd);
    rustix::fs::chmodat(rustix::fs::CWD, file.path(), mode, AtFlags::empty())
}

fn timespec(time: Option<SystemTime>) -> Timespec {
    let Some(time) = time else {
        return Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        };
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            tv_sec: after.as_secs() as i64,
            tv_nsec: after.subsec_nanos().into(),
        },
        Err(error) => {
            // Before the epoch seconds are rounded down and nanoseconds still count upwards.
            let before = error.duration();
            let up = before.subsec_nanos() > 0;
            let nanos = if up {
                1_000_000_000 - before.subsec_nanos()
            } else {
                0
            };
            Timespec {
                tv_sec: -(before.as_secs() as i64) - i64::from(up),
                tv_nsec: nanos.into(),
            }
        }
    }
}

fn system_time(seconds: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    at.and_then(|at| at.checked_add(Duration::from_nanos(nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}
