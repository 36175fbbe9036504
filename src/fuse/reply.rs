//! Our answers in the kernel's terms.

use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyCreate,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen,
};
use log::Level;
use parking_lot::Mutex;

use crate::error::FsError;
use crate::fs::attr::{Attr, DirEntry, Ino, Kind};
use crate::fs::passthrough::IoChoice;
use crate::fs::{Fs, Opened, Window};

/// How often calls are told of that fail because the bucket does not answer: while it is away, that
/// may be all of them.
const OUTAGE_EVERY: Duration = Duration::from_secs(60);

static OUTAGE_TOLD: Mutex<Option<Instant>> = Mutex::new(None);

/// Logs what is no fault of the caller's and returns the number.
pub(super) fn errno(op: &str, ino: u64, error: &FsError) -> Errno {
    let is_news = !error.is_ordinary() && (!error.is_outage() || is_due(Instant::now()));
    let level = if is_news { Level::Warn } else { Level::Debug };
    log::log!(level, "{op} #{ino}: {error}");
    Errno::from_i32(error.errno())
}

fn is_due(now: Instant) -> bool {
    let mut told = OUTAGE_TOLD.lock();
    let is_due = told.is_none_or(|told| now.duration_since(told) >= OUTAGE_EVERY);
    if is_due {
        *told = Some(now);
    }
    is_due
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Folder => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers a look-up with how long the name may be trusted, and what it names.
pub(super) fn looked_up(reply: ReplyEntry, found: Result<(Duration, Attr), Errno>) {
    match found {
        Ok((ttl, attr)) => reply.entry(&ttl, &file_attr(&attr), Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn entries_from(window: &Window, offset: u64) -> impl Iterator<Item = (u64, &DirEntry)> {
    let from = offset.saturating_sub(window.first);
    let from = usize::try_from(from)
        .unwrap_or(usize::MAX)
        .min(window.names.len());
    let next = window.first + from as u64 + 1;
    (next..).zip(&window.names[from..])
}

pub(super) fn names_with_attributes(
    fs: &Fs,
    parent: Ino,
    window: &Window,
    offset: u64,
    mut reply: ReplyDirectoryPlus,
) {
    for (next, entry) in entries_from(window, offset) {
        // The kernel takes no lookup for the two dots.
        let dot = entry.name == "." || entry.name == "..";
        let attr = match dot {
            true => fs.getattr(entry.ino, None).ok(),
            false => fs.entry_attr(parent, entry),
        };
        // Gone since it was read. Where all of a window are, an empty answer would end the reading.
        let (ino, attr) = match attr {
            Some(attr) => (attr.ino, attr),
            None => (NO_INODE, no_attributes(entry)),
        };
        let ttl = fs.ttl(ino);
        if reply.add(
            INodeNo(ino.0),
            next,
            &entry.name,
            &ttl,
            &file_attr(&attr),
            Generation(0),
        ) {
            if !dot && ino != NO_INODE {
                fs.forget(ino, 1);
            }
            break;
        }
    }
    reply.ok();
}

/// Tells the kernel that a name comes without attributes (`fuse_direntplus_link` in fs/fuse/readdir.c).
const NO_INODE: Ino = Ino(0);

fn no_attributes(entry: &DirEntry) -> Attr {
    Attr {
        ino: NO_INODE,
        kind: entry.kind,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
    }
}

fn cached_flags(keep_pages: bool) -> FopenFlags {
    if keep_pages {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}

pub(super) fn opened(reply: ReplyOpen, opened: Opened) {
    let fh = FileHandle(opened.fh.0);
    let (backing, flags) = match opened.io {
        IoChoice::Cached { keep_pages } => return reply.opened(fh, cached_flags(keep_pages)),
        IoChoice::Direct => return reply.opened(fh, FopenFlags::FOPEN_DIRECT_IO),
        IoChoice::Passthrough(backing) => (backing, FopenFlags::empty()),
        IoChoice::PassthroughDirect(backing) => (backing, FopenFlags::FOPEN_DIRECT_IO),
    };
    // SAFETY: the id is open and of this session, and stays open while `backing` lives, which the
    // inode's gate keeps as long as a handle is open.
    let id = unsafe { reply.wrap_backing(backing.id()) };
    reply.opened_passthrough(fh, flags, &id);
    // The id is the gate's to close.
    let _ = id.into_raw();
}

pub(super) fn created(reply: ReplyCreate, ttl: &Duration, attr: &Attr, opened: Opened) {
    let (fh, attr) = (FileHandle(opened.fh.0), file_attr(attr));
    let (backing, flags) = match opened.io {
        IoChoice::Cached { keep_pages } => {
            return reply.created(ttl, &attr, Generation(0), fh, cached_flags(keep_pages));
        }
        IoChoice::Direct => {
            let flags = FopenFlags::FOPEN_DIRECT_IO;
            return reply.created(ttl, &attr, Generation(0), fh, flags);
        }
        IoChoice::Passthrough(backing) => (backing, FopenFlags::empty()),
        IoChoice::PassthroughDirect(backing) => (backing, FopenFlags::FOPEN_DIRECT_IO),
    };
    // SAFETY: as in [`opened`].
    let id = unsafe { reply.wrap_backing(backing.id()) };
    reply.created_passthrough(ttl, &attr, Generation(0), fh, flags, &id);
    let _ = id.into_raw();
}

/// Answers with the names of a folder, as many as fit.
pub(super) fn names(window: &Window, offset: u64, mut reply: ReplyDirectory) {
    for (next, entry) in entries_from(window, offset) {
        let ino = INodeNo(entry.ino.0);
        if reply.add(ino, next, file_type(entry.kind), &entry.name) {
            break;
        }
    }
    reply.ok();
}
