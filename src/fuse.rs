//! The kernel's requests: decoded, put into a lane, answered. No decision is made here.
//!
//! Inline lane: answered on the FUSE thread from memory or local disk. Remote lane: what has to
//! wait for the bucket goes on as a task on the runtime, which owns the reply; every such wait
//! ends at a deadline of its own. `Fuse::answer` is the one place where the lane is chosen.

mod capabilities;
mod crew;
mod decode;
mod device;
mod lanes;
mod reply;
mod timed;
mod xattr;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

pub use device::DeviceRegistrar;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, KernelConfig, LockOwner, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle as Runtime;

use self::crew::Crew;
use self::decode::{caller, data, empty, time, written};
use self::reply::errno;
use crate::fs::attr::{Fh, Ino, SetAttr};
use crate::fs::{Fs, OpenFlags};
use crate::metrics::FileOperations;

/// The longest name, in bytes.
const NAME_MAX: u32 = 255;

/// The adapter between the kernel and [`Fs`].
pub struct Fuse {
    fs: Arc<Fs>,
    runtime: Runtime,
    passthrough: Arc<AtomicBool>,
    operations: FileOperations,
    crew: Crew,
}

thread_local! {
    /// One buffer a FUSE thread: reads that are answered inline allocate nothing.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Fuse {
    /// Returns the adapter. `passthrough` says whether the kernel is asked for it; afterwards it
    /// says whether the kernel has it. The times of `operations` are counted.
    pub fn new(
        fs: Arc<Fs>,
        runtime: Runtime,
        passthrough: Arc<AtomicBool>,
        operations: FileOperations,
    ) -> Fuse {
        Fuse {
            fs,
            runtime,
            passthrough,
            operations,
            crew: Crew::new(),
        }
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Inline from known names; remote for the first look at a name.
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let future = async move {
            let attr = fs.lookup(Ino(parent.0), &name).await?;
            Ok((fs.name_ttl(Ino(parent.0), &name, attr.ino), attr))
        };
        let answer = |found| reply::looked_up(reply, found);
        self.answer("lookup", parent.0, future, answer);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        // Inline.
        let _turn = self.begin("getattr");
        let result = self.fs.getattr(Ino(ino.0), fh.map(|fh| Fh(fh.0)));
        self.attr(reply)(result.map_err(|error| errno("getattr", ino.0, &error)));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Inline; remote when a length is set of a file whose bytes are not all here.
        if let (Some(_), Err(error)) = (size, self.before_change(request, ino)) {
            return reply.error(error);
        }
        let fs = self.fs.clone();
        let change = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time),
            mtime: mtime.map(time),
        };
        let reply = self.attr(reply);
        let future = async move { fs.setattr(Ino(ino.0), fh.map(|fh| Fh(fh.0)), &change).await };
        self.answer("setattr", ino.0, future, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        // Inline: links are local.
        let _turn = self.begin("readlink");
        match self.fs.readlink(Ino(ino.0)) {
            Ok(target) => reply.data(std::os::unix::ffi::OsStrExt::as_bytes(&*target)),
            Err(error) => reply.error(errno("readlink", ino.0, &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        // Inline; remote for the first look at the folder.
        let (fs, name, caller) = (self.fs.clone(), name.to_owned(), caller(request));
        let reply = self.entry(reply);
        let mode = mode & !(umask & 0o777);
        let future = async move { fs.mknod(Ino(parent.0), &name, mode, rdev, caller).await };
        self.answer("mknod", parent.0, future, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        // Inline: names and journal.
        let (fs, name, caller) = (self.fs.clone(), name.to_owned(), caller(request));
        let reply = self.entry(reply);
        let mode = mode & !(umask & 0o777);
        let future = async move { fs.mkdir(Ino(parent.0), &name, mode, caller).await };
        self.answer("mkdir", parent.0, future, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // Inline: names and journal.
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let future = async move { fs.unlink(Ino(parent.0), &name).await };
        self.answer("unlink", parent.0, future, empty(reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // Inline when the folder's listing is fresh; else remote: only a listing proves it empty.
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let future = async move { fs.rmdir(Ino(parent.0), &name).await };
        self.answer("rmdir", parent.0, future, empty(reply));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        // Inline: local trees only.
        let _turn = self.begin("symlink");
        let result = self
            .fs
            .symlink(Ino(parent.0), name, target.as_os_str(), caller(request));
        let result = result.map_err(|error| errno("symlink", parent.0, &error));
        self.entry(reply)(result);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // Inline for files; remote for folders whose content is not known.
        let (fs, name, new_name) = (self.fs.clone(), name.to_owned(), new_name.to_owned());
        let future = async move {
            let to = (Ino(new_parent.0), &*new_name);
            fs.rename((Ino(parent.0), &name), to, flags.bits()).await
        };
        self.answer("rename", parent.0, future, empty(reply));
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        // Inline: local trees only.
        let _turn = self.begin("link");
        let result = self.fs.link(Ino(ino.0), Ino(new_parent.0), new_name);
        self.entry(reply)(result.map_err(|error| errno("link", ino.0, &error)));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        // Inline; remote once in a while to check the version, and to truncate.
        let fs = self.fs.clone();
        let flags = OpenFlags { raw: flags.0 };
        if fs.changes_by_open(Ino(ino.0), flags)
            && let Err(error) = self.before_change(request, ino)
        {
            return reply.error(error);
        }
        let future = async move { fs.open(Ino(ino.0), flags).await };
        self.answer("open", ino.0, future, move |result| match result {
            Ok(opened) => reply::opened(reply, opened),
            Err(error) => reply.error(error),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        // Inline: a staged file and its journal record.
        let (fs, name, caller) = (self.fs.clone(), name.to_owned(), caller(request));
        let ttl = self.fs.clone();
        let (mode, flags) = (mode & !(umask & 0o777), OpenFlags { raw: flags });
        let future = async move { fs.create(Ino(parent.0), &name, mode, flags, caller).await };
        self.answer("create", parent.0, future, move |result| match result {
            Ok(created) => {
                let ttl = ttl.ttl(created.attr.ino);
                reply::created(reply, &ttl, &created.attr, created.opened);
            }
            Err(error) => reply.error(error),
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Inline from staged or cached bytes; remote for missing ones.
        let mut turn = self.begin("read");
        let (fh, size) = (Fh(fh.0), size as usize);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.fs.try_read(fh, offset, &mut buffer[..size]) {
                Some(Ok(read)) => reply.data(&buffer[..read]),
                Some(Err(error)) => reply.error(errno("read", ino.0, &error)),
                None => {
                    turn.goes_on();
                    let fs = self.fs.clone();
                    let future = async move { fs.read(fh, offset, size).await };
                    self.answer("read", ino.0, future, data(reply));
                }
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Inline; remote for the first write to a file whose bytes are not all here.
        let mut turn = self.begin("write");
        let fh = Fh(fh.0);
        let page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
            && let Err(error) = self.fs.drop_set_id_to_write(fh)
        {
            return reply.error(errno("write", ino.0, &error));
        }
        match self.fs.try_write(fh, offset, data, page) {
            Some(Ok(written)) => reply.written(written as u32),
            Some(Err(error)) => reply.error(errno("write", ino.0, &error)),
            None => {
                turn.goes_on();
                let (fs, data) = (self.fs.clone(), data.to_vec());
                let future = async move { fs.write_when_here(fh, offset, &data).await };
                self.answer("write", ino.0, future, written(reply));
            }
        }
    }

    fn flush(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // On purpose: every write is in its file and in the journal already, so there is nothing to
        // do, and the kernel then never asks again. It still sends the stores through maps before
        // `close` returns.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Inline: memory only.
        let _turn = self.begin("release");
        let _runtime = self.runtime.enter();
        self.fs.release(Fh(fh.0));
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        // Inline: the local disk only.
        let turn = self.begin("fsync");
        turn.will_wait();
        let result = self.fs.fsync(Fh(fh.0), datasync);
        empty(reply)(result.map_err(|error| errno("fsync", ino.0, &error)));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        // Inline when the names are known; remote for the first listing.
        let fs = self.fs.clone();
        let future = async move { fs.opendir(Ino(ino.0)).await };
        self.answer("opendir", ino.0, future, move |result| match result {
            Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        // Inline; remote when it is read anew from the start.
        let fs = self.fs.clone();
        let future = async move { fs.readdir(Ino(ino.0), Fh(fh.0), offset).await };
        self.answer("readdir", ino.0, future, move |result| match result {
            Ok(names) => reply::names(&names, offset, reply),
            Err(error) => reply.error(error),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        // Inline; remote when it is read anew from the start.
        let (fs, names) = (self.fs.clone(), self.fs.clone());
        let future = async move { names.readdir(Ino(ino.0), Fh(fh.0), offset).await };
        self.answer("readdirplus", ino.0, future, move |result| match result {
            Ok(names) => reply::names_with_attributes(&fs, Ino(ino.0), &names, offset, reply),
            Err(error) => reply.error(error),
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(Fh(fh.0));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Inline: the local disk only.
        let turn = self.begin("fsyncdir");
        turn.will_wait();
        let result = self.fs.fsyncdir(Ino(ino.0));
        empty(reply)(result.map_err(|error| errno("fsyncdir", ino.0, &error)));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        // Inline.
        let _turn = self.begin("statfs");
        match self.fs.statfs(Ino(ino.0)) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.files,
                space.files_free,
                space.block_bytes,
                NAME_MAX,
                space.block_bytes,
            ),
            Err(error) => reply.error(errno("statfs", ino.0, &error)),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // Inline; remote for `user.*` of an object that nothing is known of but its listing.
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let future = async move { fs.getxattr(Ino(ino.0), &name).await };
        self.answer("getxattr", ino.0, future, xattr::value(reply, size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        // As `getxattr`.
        let fs = self.fs.clone();
        let future = async move { fs.listxattr(Ino(ino.0)).await };
        self.answer("listxattr", ino.0, future, xattr::names(reply, size));
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        // As `getxattr`.
        let (fs, name, value) = (self.fs.clone(), name.to_owned(), value.to_vec());
        let future = async move { fs.setxattr(Ino(ino.0), &name, &value, flags).await };
        self.answer("setxattr", ino.0, future, empty(reply));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // As `getxattr`.
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let future = async move { fs.removexattr(Ino(ino.0), &name).await };
        self.answer("removexattr", ino.0, future, empty(reply));
    }

    fn access(&self, _: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (`default_permissions`).
        reply.ok();
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Inline; remote for a file whose bytes are not all here.
        if let Err(error) = self.before_change(request, ino) {
            return reply.error(error);
        }
        let fs = self.fs.clone();
        let future = async move { fs.fallocate(Fh(fh.0), offset, length, mode).await };
        self.answer("fallocate", ino.0, future, empty(reply));
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Inline; remote for bytes that are not here.
        if let Err(error) = self.before_change(request, ino_out) {
            return reply.error(error);
        }
        let fs = self.fs.clone();
        let (from, to) = ((Fh(fh_in.0), offset_in), (Fh(fh_out.0), offset_out));
        let future = async move { fs.copy_file_range(from, to, len).await };
        self.answer("copy_file_range", ino_out.0, future, written(reply));
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // Inline: only SEEK_DATA and SEEK_HOLE come here.
        let _turn = self.begin("lseek");
        match self.fs.lseek(Fh(fh.0), offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno("lseek", ino.0, &error)),
        }
    }
}
