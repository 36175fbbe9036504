//! Open files: handles, bytes, and the descriptor that the kernel may read by itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::beneath::{BENEATH, child, disk_error, reopen, status};
use super::nodes::Handle;
use super::{LocalTree, Place, SPAN, check_name, names};
use crate::error::{FsError, FsResult};
use crate::fs::attr::{Attr, Caller, Fh, Ino, Kind};

/// What of a caller's flags reaches the disk. O_APPEND is kept with the handle (see
/// [`LocalTree::write`]), and O_DIRECT would ask more of the buffers than the kernel's requests
/// keep.
const OPEN_FLAGS: OFlags = OFlags::RWMODE.union(OFlags::DSYNC).union(OFlags::SYNC);

impl LocalTree {
    /// Opens a file. O_TRUNC and O_APPEND are honoured.
    pub fn open(&self, ino: Ino, flags: i32) -> FsResult<(Fh, Arc<File>)> {
        let target = self.target(ino, None)?;
        let kind = status(&target).map_err(disk_error)?.kind;
        match kind {
            Kind::File => {}
            Kind::Folder => return Err(FsError::IsADirectory),
            Kind::Symlink => return Err(disk_error(Errno::LOOP)),
            // The kernel opens these itself and does not ask.
            _ => return Err(disk_error(Errno::NXIO)),
        }
        let flags = OFlags::from_bits_retain(flags as u32);
        let wanted = flags & OPEN_FLAGS.union(OFlags::TRUNC);
        let file = File::from(reopen(&target, wanted).map_err(disk_error)?);
        Ok(self.hold(ino, file, flags))
    }

    /// Makes a file and opens it; opens the one that is there, unless O_EXCL is among the flags.
    /// Raises the lookup count.
    pub fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
        caller: Caller,
    ) -> FsResult<(Attr, Fh, Arc<File>)> {
        let folder = self.folder(parent)?;
        check_name(name)?;
        let wanted = OFlags::from_bits_retain(flags as u32);
        match make_file(&folder, name, mode, wanted & OPEN_FLAGS, caller) {
            Err(FsError::Exists) if !wanted.contains(OFlags::EXCL) => {
                self.open_existing(&folder, name, flags)
            }
            made => {
                let file = made?;
                let attr = self.enter(&folder, name, &status(&file).map_err(disk_error)?);
                let (fh, file) = self.hold(attr.ino, file, wanted);
                Ok((attr, fh, file))
            }
        }
    }

    fn open_existing(
        &self,
        folder: &Place,
        name: &OsStr,
        flags: i32,
    ) -> FsResult<(Attr, Fh, Arc<File>)> {
        let found = child(&folder.fd, name).and_then(status);
        let found = found.map_err(disk_error)?;
        if found.kind != Kind::File {
            // The kernel looks the name up again and does what is right for the kind.
            return Err(FsError::Stale);
        }
        let attr = self.enter(folder, name, &found);
        let opened = self.open(attr.ino, flags).and_then(|(fh, file)| {
            let status = status(&*file).map_err(disk_error)?;
            Ok((status.attr(attr.ino), fh, file))
        });
        if opened.is_err() {
            self.forget(attr.ino, 1);
        }
        opened
    }

    /// Returns an open file. Writes to it do not honour O_APPEND: [`LocalTree::write`] does.
    pub fn file(&self, fh: Fh) -> Option<Arc<File>> {
        Some(self.handle(fh).ok()?.file)
    }

    /// Reads at an offset. Returns less than asked only at the end of the file.
    pub fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        let file = self.handle(fh)?.file;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&file, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(disk_error(error)),
            }
        }
        Ok(done)
    }

    /// Writes what a program wrote: at the offset, or at the end of the file through a handle that
    /// was opened with O_APPEND. Returns less than asked only if the disk took no more.
    pub fn write(&self, fh: Fh, offset: u64, data: &[u8]) -> FsResult<usize> {
        let Handle { file, append, .. } = self.handle(fh)?;
        if !append {
            return write_at(&file, offset, data);
        }
        let all = [IoSlice::new(data)];
        loop {
            match rustix::io::pwritev2(&file, &all, offset, ReadWriteFlags::APPEND) {
                Err(Errno::INTR) => {}
                written => return written.map_err(disk_error),
            }
        }
    }

    /// Writes a page that the kernel had in its cache (FUSE_WRITE_CACHE): a shared map's. It goes
    /// to its own place whatever handle the kernel chose to send it through, also one that was
    /// opened with O_APPEND.
    pub fn write_page(&self, fh: Fh, offset: u64, data: &[u8]) -> FsResult<usize> {
        write_at(&self.handle(fh)?.file, offset, data)
    }

    /// Makes what was written durable.
    pub fn fsync(&self, fh: Fh, datasync: bool) -> FsResult<()> {
        let file = self.handle(fh)?.file;
        let synced = match datasync {
            true => rustix::fs::fdatasync(&file),
            false => rustix::fs::fsync(&file),
        };
        synced.map_err(disk_error)
    }

    /// Answers a `close`. Whatever was written is in the kernel's hands already.
    pub fn flush(&self, fh: Fh) -> FsResult<()> {
        self.handle(fh).map(drop)
    }

    /// Gives a handle up.
    pub fn release(&self, fh: Fh) {
        let number = fh.0.wrapping_sub(self.base);
        let handle = self.nodes.lock().remove_handle(number);
        // Closing may write to the disk: not under the lock.
        drop(handle);
    }

    /// Reserves or frees room in a file; `mode` is that of fallocate(2).
    pub fn fallocate(&self, fh: Fh, offset: u64, length: u64, mode: i32) -> FsResult<()> {
        let file = self.handle(fh)?.file;
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        rustix::fs::fallocate(&file, mode, offset, length).map_err(disk_error)
    }

    /// Finds the next data or hole (`SEEK_DATA`, `SEEK_HOLE`); the kernel answers the other kinds
    /// itself.
    pub fn lseek(&self, fh: Fh, offset: u64, whence: i32) -> FsResult<u64> {
        let file = self.handle(fh)?.file;
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(FsError::InvalidArgument("only data and holes are sought")),
        };
        rustix::fs::seek(&file, from).map_err(disk_error)
    }

    /// Returns a read-only descriptor of an open file, to be registered for passthrough; none if
    /// the disk refuses one.
    pub fn backing(&self, ino: Ino, fh: Fh) -> Option<Arc<File>> {
        let handle = self.handle(fh).ok()?;
        if self.base + handle.number != ino.0 {
            return None;
        }
        let flags = rustix::fs::fcntl_getfl(&handle.file).ok()?;
        if flags & OFlags::RWMODE == OFlags::RDONLY {
            return Some(handle.file);
        }
        let fd = reopen(&handle.file, OFlags::RDONLY).ok()?;
        Some(Arc::new(File::from(fd)))
    }

    fn hold(&self, ino: Ino, file: File, flags: OFlags) -> (Fh, Arc<File>) {
        let file = Arc::new(file);
        let number = self.nodes.lock().add_handle(Handle {
            file: file.clone(),
            number: self.number(ino),
            append: flags.contains(OFlags::APPEND),
        });
        debug_assert!(number < SPAN);
        (Fh(self.base + number), file)
    }

    fn handle(&self, fh: Fh) -> FsResult<Handle> {
        let number = fh.0.wrapping_sub(self.base);
        let handle = self.nodes.lock().handle(number).cloned();
        handle.ok_or(FsError::BadHandle)
    }
}

/// Makes a regular file that was not there, and gives it to the caller.
pub(super) fn make_file(
    folder: &Place,
    name: &OsStr,
    mode: u32,
    flags: OFlags,
    caller: Caller,
) -> FsResult<File> {
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bits = Mode::from_raw_mode(mode & 0o7777);
    let fd = rustix::fs::openat2(&folder.fd, name, flags | new, bits, BENEATH);
    let file = File::from(fd.map_err(disk_error)?);
    names::settle(folder, name, &file, mode, caller)?;
    Ok(file)
}

fn write_at(file: &File, offset: u64, data: &[u8]) -> FsResult<usize> {
    let mut done = 0;
    while done < data.len() {
        match file.write_at(&data[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // What was written counts; the next write meets the error again.
            Err(_) if done > 0 => break,
            Err(error) => return Err(Errno::from_io_error(&error).map_or(error.into(), disk_error)),
        }
    }
    Ok(done)
}
