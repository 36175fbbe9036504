//! One file or folder of the bucket as long as the kernel knows it: where its bytes are now, and
//! its attributes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use super::attr::{Attr, Ino, Kind};
use super::passthrough::IoGate;
use crate::cache::CacheFile;
use crate::staging::{Special, StagedFile};
use crate::store::attributes::FileAttributes;
use crate::store::xattrs::Xattrs;
use crate::store::{ListedObject, ObjectVersion, Origin};

/// A file or folder.
pub(super) struct Inode {
    /// Its number.
    pub(super) ino: Ino,
    /// File or folder.
    pub(super) kind: Kind,
    /// Everything that changes. Lock order: `Fs::changes`, `Fs::tree`, then this; no other
    /// inode's state while it is held.
    pub(super) state: Mutex<State>,
}

/// What changes about an inode.
pub(super) struct State {
    /// Attributes.
    pub(super) meta: Meta,
    /// Those that the bucket told or that were set here; the others are shown by default and are
    /// not to be written into the bucket over what it may know better.
    pub(super) known: FileAttributes,
    /// Whether the bucket has told all attributes of its version.
    pub(super) told: bool,
    /// Where its bytes are.
    pub(super) content: Content,
    /// How many names it has, once it has any.
    pub(super) names: u32,
    /// How the kernel does its I/O.
    pub(super) gate: IoGate,
    /// Handles open for writing.
    pub(super) writers: u32,
    /// When its version was last known to be the bucket's.
    pub(super) checked_at: Instant,
    /// When it was looked up for a program whose open was stale: that open asks no more.
    pub(super) rechecked_at: Option<Instant>,
    /// The bytes are about to move to a file that readers cannot pass through to: no new handle may
    /// pass through meanwhile.
    pub(super) moving: bool,
    /// The name shows another version by now: a new open must look the name up again.
    pub(super) superseded: bool,
}

/// Attributes that are kept.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    /// Length in bytes.
    pub(super) size: u64,
    /// Last access; not kept beyond the inode.
    pub(super) atime: SystemTime,
    /// Last modification.
    pub(super) mtime: SystemTime,
    /// Last change of attributes.
    pub(super) ctime: SystemTime,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Extended attributes, as far as they are known.
    pub(super) xattrs: Option<Xattrs>,
}

impl Meta {
    /// The attributes as the bucket is to hold them.
    pub(super) fn to_attributes(&self) -> FileAttributes {
        FileAttributes {
            mtime: Some(self.mtime),
            mode: Some(self.mode),
            uid: Some(self.uid),
            gid: Some(self.gid),
            xattrs: self.xattrs.clone(),
        }
    }

    /// Takes over what is known of a file.
    pub(super) fn apply(&mut self, attributes: &FileAttributes) {
        if let Some(mtime) = attributes.mtime {
            self.mtime = mtime;
            self.ctime = mtime;
        }
        self.mode = attributes.mode.unwrap_or(self.mode);
        self.uid = attributes.uid.unwrap_or(self.uid);
        self.gid = attributes.gid.unwrap_or(self.gid);
        if let Some(xattrs) = &attributes.xattrs {
            self.xattrs = Some(xattrs.clone());
        }
    }
}

/// Where the bytes of an inode are.
pub(super) enum Content {
    /// It is a folder.
    Folder,
    /// It is neither: the journal alone knows it.
    Special(Special),
    /// In the bucket, and as far as read in the cache.
    Remote(Remote),
    /// In a staged file: new, or changed since the last upload.
    Staged(Staged),
}

/// Bytes that are in the bucket.
#[derive(Clone)]
pub(super) struct Remote {
    /// Which object; after a rename that is still on its way, under its old key.
    pub(super) version: ObjectVersion,
    /// Which store has it.
    pub(super) origin: Origin,
    /// Its cache entry, once somebody opened it.
    pub(super) file: Option<Arc<CacheFile>>,
}

/// Bytes that are in a staged file.
#[derive(Clone)]
pub(super) struct Staged {
    /// The file.
    pub(super) file: Arc<StagedFile>,
    /// How it is written.
    pub(super) writer: Writer,
    /// Whether the journal knows that it may be written: while set, writes need no commit.
    pub(super) open: bool,
    /// The version it still equals, when it was taken from the cache for a writer that has not
    /// written yet.
    pub(super) pristine: Option<Pristine>,
}

/// Through which descriptor a staged file is written.
#[derive(Clone)]
pub(super) enum Writer {
    /// Through the staged file's own.
    Own,
    /// The staged file's own is read-only, since readers may pass through to it and the proof that
    /// no writer is left needs that we hold none either: opened when first written.
    Reopened(Option<Arc<File>>),
}

/// What a staged file was when it was taken from the cache.
#[derive(Clone)]
pub(super) struct Pristine {
    /// The version.
    pub(super) version: ObjectVersion,
    /// The file's own last modification then: a store through a map moves it.
    pub(super) mtime: SystemTime,
    /// The staged file's generation then: a write raises it.
    pub(super) generation: u64,
}

impl Staged {
    /// Whether the journal knows that this file may be written.
    pub(super) fn is_open_as(&self, file: &Arc<StagedFile>) -> bool {
        self.open && Arc::ptr_eq(&self.file, file)
    }

    /// Returns the bytes for writing.
    pub(super) fn writable(&mut self) -> io::Result<Writable> {
        match &mut self.writer {
            Writer::Own => Ok(Writable::Own(self.file.clone())),
            Writer::Reopened(Some(file)) => Ok(Writable::Reopened(file.clone())),
            Writer::Reopened(writer) => {
                let file = Arc::new(reopen(self.file.file(), true)?);
                *writer = Some(file.clone());
                Ok(Writable::Reopened(file))
            }
        }
    }

    /// Whether nobody can write the bytes any more, proved by a read lease: the kernel refuses one
    /// while a descriptor or a shared map can write (fcntl(2), `F_SETLEASE`). Our own writable
    /// descriptor is given up for it. It does not matter how the last handle did its I/O: the map
    /// may be of an earlier one. A disk that knows no leases leaves it at the closed handles.
    pub(super) fn has_no_writer(&mut self) -> bool {
        match &mut self.writer {
            Writer::Own => true,
            Writer::Reopened(writer) => {
                *writer = None;
                can_lease(self.file.file())
            }
        }
    }
}

/// A staged file that may be written.
pub(super) enum Writable {
    /// Through its own descriptor.
    Own(Arc<StagedFile>),
    /// Through another.
    Reopened(Arc<File>),
}

impl Writable {
    /// Returns the descriptor.
    pub(super) fn file(&self) -> &File {
        match self {
            Writable::Own(file) => file.file(),
            Writable::Reopened(file) => file,
        }
    }
}

/// Opens the file below a descriptor anew, also when it has no name any more.
pub(super) fn reopen(file: &File, write: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(write).open(path)
}

/// `F_SETSIG` of `asm-generic/fcntl.h`, which the libc crate does not name.
const F_SETSIG: libc::c_int = 10;

fn can_lease(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open for as long as `file` lives, and the commands take plain integers. A
    // lease broken meanwhile would signal SIGIO, which ends a process; SIGURG is ignored.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) != 0 {
            return io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN);
        }
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
        true
    }
}

/// Gives a file its own time of the last modification, which the journal does not tell while it is
/// open: what is then written moves it.
pub(super) fn keep_mtime(file: &File, attributes: &FileAttributes) -> io::Result<()> {
    let times = std::fs::FileTimes::new();
    attributes
        .mtime
        .map_or(Ok(()), |mtime| file.set_times(times.set_modified(mtime)))
}

/// Somebody changes a file without a handle.
pub(super) struct Writing<'a>(&'a Inode);

impl Writing<'_> {
    pub(super) fn begin(inode: &Inode) -> Writing<'_> {
        inode.state.lock().writers += 1;
        Writing(inode)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().writers -= 1;
    }
}

impl Inode {
    /// Returns the staged file that holds the bytes, if one does.
    pub(super) fn staged_file(&self) -> Option<Arc<StagedFile>> {
        self.state.lock().staged().map(|staged| staged.file.clone())
    }

    /// Returns the object whose bytes a file shows, as far as it is known; `None` if they are not in
    /// the bucket.
    pub(super) fn listed_object(&self) -> Option<ListedObject> {
        let state = self.state.lock();
        let remote = state.remote()?;
        Some(ListedObject {
            version: remote.version.clone(),
            size: state.meta.size,
            last_modified: state.meta.mtime,
            origin: remote.origin,
        })
    }

    /// Returns the attributes as the kernel is told them.
    pub(super) fn attr(&self) -> Attr {
        self.attr_of(&self.state.lock())
    }

    /// Returns the attributes; for callers that hold the state.
    pub(super) fn attr_of(&self, state: &State) -> Attr {
        let meta = &state.meta;
        Attr {
            ino: self.ino,
            kind: self.kind,
            size: meta.size,
            blocks: meta.size.div_ceil(512),
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            mode: meta.mode,
            nlink: match self.kind {
                Kind::Folder => 2,
                _ => state.names,
            },
            uid: meta.uid,
            gid: meta.gid,
            rdev: match state.content {
                Content::Special(Special::CharDevice(device) | Special::BlockDevice(device)) => {
                    device
                }
                _ => 0,
            },
        }
    }
}

impl State {
    /// A state with these attributes and bytes.
    pub(super) fn new(meta: Meta, content: Content, checked_at: Instant) -> State {
        State {
            meta,
            known: FileAttributes::default(),
            told: false,
            content,
            names: 1,
            gate: IoGate::default(),
            writers: 0,
            checked_at,
            rechecked_at: None,
            moving: false,
            superseded: false,
        }
    }

    /// Takes over attributes that are known of the file.
    pub(super) fn learn(&mut self, attributes: &FileAttributes) {
        self.meta.apply(attributes);
        let known = &mut self.known;
        known.mtime = attributes.mtime.or(known.mtime);
        known.mode = attributes.mode.or(known.mode);
        known.uid = attributes.uid.or(known.uid);
        known.gid = attributes.gid.or(known.gid);
        if let Some(xattrs) = &attributes.xattrs {
            known.xattrs = Some(xattrs.clone());
        }
    }

    /// The bucket has all attributes by now, as they are.
    pub(super) fn all_known(&mut self) {
        self.known = self.meta.to_attributes();
        self.told = true;
    }

    /// Returns the staged bytes, if they are staged.
    pub(super) fn staged(&self) -> Option<&Staged> {
        match &self.content {
            Content::Staged(staged) => Some(staged),
            Content::Remote(_) | Content::Special(_) | Content::Folder => None,
        }
    }

    /// Returns what it is, if it is neither a file nor a folder.
    pub(super) fn special(&self) -> Option<&Special> {
        match &self.content {
            Content::Special(special) => Some(special),
            Content::Staged(_) | Content::Remote(_) | Content::Folder => None,
        }
    }

    /// Returns the bucket's version, if the bytes are there.
    pub(super) fn remote(&self) -> Option<&Remote> {
        match &self.content {
            Content::Remote(remote) => Some(remote),
            Content::Staged(_) | Content::Special(_) | Content::Folder => None,
        }
    }
}

/// What a listing or a HEAD told about a file that nobody has looked up yet.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// Which object.
    pub(super) version: ObjectVersion,
    /// Which store has it.
    pub(super) origin: Origin,
    /// Length in bytes.
    pub(super) size: u64,
    /// When the object was written.
    pub(super) last_modified: SystemTime,
    /// When that was known.
    pub(super) checked_at: Instant,
}

impl Listed {
    /// Takes over an entry of a listing that was begun at `checked_at`.
    pub(super) fn from_object(object: &ListedObject, checked_at: Instant) -> Listed {
        Listed {
            version: object.version.clone(),
            origin: object.origin,
            size: object.size,
            last_modified: object.last_modified,
            checked_at,
        }
    }
}
