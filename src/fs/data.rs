//! Reading, writing, truncating, syncing.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attr::{Fh, Ino, Kind};
use super::handle::{FileHandle, Handle};
use super::inode::{Content, Inode, Remote, Writing};
use super::{Fs, KernelNote};
use crate::cache::CacheFile;
use crate::error::{FsError, FsResult};
use crate::staging::{Edit, JournalError, StagedFile, StandsFor};
use crate::store::{ETag, Key, Origin};

/// As many bytes are copied by one call of `copy_file_range` at most.
const COPY_BYTES: usize = 4 << 20;

impl Fs {
    /// Inline lane: fills `buf` from staged, cached or local bytes; `None` if some are missing.
    /// Returns fewer bytes than asked only at the end of the file.
    pub fn try_read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> Option<FsResult<usize>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(error) => return Some(Err(error)),
        };
        match &*handle {
            Handle::Local { ino, fh } => {
                let local = self.local(*ino)?;
                Some(local.read(*fh, offset, buf))
            }
            Handle::Folder { .. } => Some(Err(FsError::IsADirectory)),
            Handle::File(file) => {
                if file.direct {
                    self.forget_spliced_pages(file);
                }
                match self.bytes_of(&file.inode) {
                    Ok(Bytes::Staged(staged)) => {
                        Some(read_fully(staged.file(), offset, buf).map_err(FsError::from))
                    }
                    Ok(Bytes::Cached(cached)) => {
                        let read = cached.try_read(offset, buf)?;
                        cached.note_read(&file.stream, offset, buf.len());
                        Some(read.map_err(FsError::from))
                    }
                    Err(error) => Some(Err(error)),
                }
            }
        }
    }

    /// A writer beside readers that pass through has read something, maybe by sendfile(2): the kernel
    /// does that by pages of its own, which later stores through maps do not reach. They go as soon
    /// as they are used.
    fn forget_spliced_pages(&self, file: &FileHandle) {
        if let Some(notes) = self.notes.get() {
            let _ = notes.send(KernelNote::Pages(file.inode.ino));
        }
    }

    /// Remote lane: waits for the missing bytes.
    ///
    /// # Errors
    /// `Stale` if the object is gone or another by now; `DeadlineExceeded` when no byte has come
    /// for the deadline.
    pub async fn read(&self, fh: Fh, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        let handle = self.handles.get(fh)?;
        let Handle::File(file) = &*handle else {
            return Err(FsError::BadHandle);
        };
        match self.bytes_of(&file.inode)? {
            Bytes::Staged(staged) => {
                let mut buf = vec![0; len];
                let read = read_fully(staged.file(), offset, &mut buf)?;
                buf.truncate(read);
                Ok(buf)
            }
            Bytes::Cached(cached) => {
                if cached.was_waited_for_in_vain(self.clock.instant()) {
                    return Err(FsError::DeadlineExceeded);
                }
                let begun = self.clock.instant();
                let read = cached.read(&file.stream, offset, len).await;
                let read = read.map_err(FsError::from);
                if read.as_ref().is_err_and(FsError::is_outage) {
                    cached.note_wait_in_vain(begun, self.clock.instant());
                }
                read
            }
        }
    }

    fn bytes_of(&self, inode: &Inode) -> FsResult<Bytes> {
        let mut state = inode.state.lock();
        let size = state.meta.size;
        match &mut state.content {
            Content::Folder => Err(FsError::IsADirectory),
            Content::Special(_) => Err(FsError::BadHandle),
            Content::Staged(staged) => Ok(Bytes::Staged(staged.file.clone())),
            Content::Remote(remote) => {
                if let Some(file) = &remote.file {
                    return Ok(Bytes::Cached(file.clone()));
                }
                let file = self.cache.open_file(&remote.version, size)?;
                remote.file = Some(file.clone());
                Ok(Bytes::Cached(file))
            }
        }
    }

    /// Inline lane: writes to a file that is open in the journal; `None` if it must be made
    /// writable first ([`Fs::write_when_here`]).
    /// `page` says that it is a page of a shared map, whose place no O_APPEND may change.
    pub fn try_write(
        &self,
        fh: Fh,
        offset: u64,
        data: &[u8],
        page: bool,
    ) -> Option<FsResult<usize>> {
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(error) => return Some(Err(error)),
        };
        match &*handle {
            Handle::Local { ino, fh } => {
                let local = self.local(*ino)?;
                Some(match page {
                    true => local.write_page(*fh, offset, data),
                    false => local.write(*fh, offset, data),
                })
            }
            Handle::Folder { .. } => Some(Err(FsError::IsADirectory)),
            // The cache gives way, or the writer is slowed: neither can be done here.
            Handle::File(_) if self.is_short_of_room(data.len()) => None,
            Handle::File(file) => self.try_write_file(file, offset, data),
        }
    }

    fn try_write_file(
        &self,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
    ) -> Option<FsResult<usize>> {
        if !handle.writes {
            return Some(Err(FsError::BadHandle));
        }
        if let Err(error) = self.staging.check_room() {
            return Some(Err(error.into()));
        }
        let end = offset + data.len() as u64;
        let open = open_file(&handle.inode)?;
        let _changing = open.change(offset..end);
        let writable = match &mut handle.inode.state.lock().content {
            Content::Staged(staged) if staged.is_open_as(&open) => staged.writable(),
            _ => return None,
        };
        // The handle counts as a writer, so the version cannot be sealed under this write.
        let written = match writable.and_then(|file| write_fully(file.file(), offset, data)) {
            Ok(written) => written,
            Err(error) => return Some(Err(error.into())),
        };
        let now = self.clock.now();
        let mut state = handle.inode.state.lock();
        let end = offset + written as u64;
        // The disk knows what became of it beside a truncation.
        let length = state.staged().map(|staged| staged.file.file().metadata());
        state.meta.size = match length {
            Some(Ok(status)) => status.len(),
            _ => state.meta.size.max(end),
        };
        state.meta.mtime = now;
        state.meta.ctime = now;
        Some(Ok(written))
    }

    /// Remote lane: writes after making the file writable, which may take its whole base version
    /// from the bucket.
    ///
    /// # Errors
    /// When the base cannot be had; nothing has been changed then.
    pub async fn write_when_here(
        self: &Arc<Self>,
        fh: Fh,
        offset: u64,
        data: &[u8],
    ) -> FsResult<usize> {
        let handle = self.handles.get(fh)?;
        let Handle::File(file) = &*handle else {
            return Err(FsError::BadHandle);
        };
        self.wait_for_room(data.len()).await;
        loop {
            self.make_writable(&file.inode).await?;
            if let Some(written) = self.try_write_file(file, offset, data) {
                return written;
            }
        }
    }

    /// Copies bytes between two open files of the mount, as many as go at once; returns how many. The
    /// kernel's own way would read the source through pages, which are not always its bytes where
    /// others pass through to it.
    pub async fn copy_file_range(
        self: &Arc<Self>,
        (from, from_offset): (Fh, u64),
        (to, to_offset): (Fh, u64),
        length: u64,
    ) -> FsResult<usize> {
        let length = usize::try_from(length).map_or(COPY_BYTES, |length| length.min(COPY_BYTES));
        let mut bytes = vec![0; length];
        match self.try_read(from, from_offset, &mut bytes) {
            Some(read) => bytes.truncate(read?),
            None => bytes = self.read(from, from_offset, length).await?,
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = match self.try_write(to, to_offset, &bytes, false) {
            Some(written) => written,
            None => self.write_when_here(to, to_offset, &bytes).await,
        };
        if from_offset == 0 && to_offset == 0 && written.is_ok() {
            self.note_original(from, to);
        }
        written
    }

    /// A copy has begun that may become one of a whole object: the bucket can make it by itself then.
    fn note_original(&self, from: Fh, to: Fh) {
        let (Ok(from), Ok(to)) = (self.handles.get(from), self.handles.get(to)) else {
            return;
        };
        let (Handle::File(from), Handle::File(to)) = (&*from, &*to) else {
            return;
        };
        let remote = from.inode.state.lock().remote().cloned();
        if let (Some(remote), Some(staged)) = (remote, to.inode.staged_file())
            && remote.origin == Origin::Primary
        {
            staged.set_original(remote.version);
        }
    }

    /// Finds data or holes (`SEEK_DATA`, `SEEK_HOLE`). What is in the bucket has no holes.
    pub fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64> {
        let handle = self.handles.get(fh)?;
        let from = u64::try_from(offset).map_err(|_| no_such_offset())?;
        let file = match &*handle {
            Handle::Folder { .. } => return Err(FsError::InvalidArgument("a folder")),
            Handle::Local { ino, fh } => {
                let local = self.local(*ino).ok_or(FsError::BadHandle)?;
                return Ok(local.lseek(*fh, from, whence)? as i64);
            }
            Handle::File(file) => file,
        };
        let state = file.inode.state.lock();
        let size = state.meta.size;
        let staged = state.staged().map(|staged| staged.file.clone());
        drop(state);
        if from >= size {
            return Err(no_such_offset());
        }
        let Some(staged) = staged else {
            return Ok(if whence == libc::SEEK_HOLE {
                size as i64
            } else {
                offset
            });
        };
        let whence = match whence {
            libc::SEEK_DATA => rustix::fs::SeekFrom::Data(from),
            libc::SEEK_HOLE => rustix::fs::SeekFrom::Hole(from),
            _ => return Err(FsError::InvalidArgument("whence")),
        };
        let found = rustix::fs::seek(staged.file(), whence).map_err(std::io::Error::from)?;
        Ok(found as i64)
    }

    pub(super) fn apply(&self, edits: Vec<Edit>) -> FsResult<()> {
        match self.journal().apply(edits) {
            Ok(_) => Ok(()),
            Err(JournalError::Full) => Err(FsError::StagingFull),
            Err(error) => Err(FsError::Journal(error.to_string())),
        }
    }

    /// What the bucket holds under a key, as far as is known here: by the journal's record, else
    /// by what was put under a further name, else by the version that the name shows.
    pub(super) fn base_of(&self, key: &Key, remote: Option<&Remote>) -> Option<ETag> {
        if let Some(record) = self.journal().record(key) {
            return record.base;
        }
        if let Some(name) = self.journal().local_name(key) {
            return match name.stands_for {
                StandsFor::Link { copy, .. } => copy,
                StandsFor::Special(..) => None,
            };
        }
        let remote = remote.filter(|remote| remote.origin == Origin::Primary)?;
        (remote.version.key.folded() == key.folded()).then(|| remote.version.etag.clone())
    }

    /// Sets a file's length; a version is settled at once when nobody has it open for writing.
    pub(super) async fn truncate(self: &Arc<Self>, inode: &Arc<Inode>, size: u64) -> FsResult<()> {
        let done = self.truncate_content(inode, size).await;
        if inode.state.lock().writers == 0 {
            self.close_version(inode);
        }
        done
    }

    pub(super) async fn truncate_content(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        size: u64,
    ) -> FsResult<()> {
        // Counts as a writer, so that a close meanwhile does not seal what is about to change.
        let _writing = Writing::begin(inode);
        while !self.try_truncate(inode, size)? {
            if size > 0 || !self.start_empty(inode)? {
                self.make_writable(inode).await?;
            }
        }
        Ok(())
    }

    /// Sets the length of a file that is open in the journal; false if it is not.
    fn try_truncate(&self, inode: &Inode, size: u64) -> FsResult<bool> {
        self.staging.check_health()?;
        let Some(open) = open_file(inode) else {
            return match inode.kind {
                Kind::Folder => Err(FsError::IsADirectory),
                _ => Ok(false),
            };
        };
        let _changing = open.change(size.min(open.file().metadata()?.len())..u64::MAX);
        let mut state = inode.state.lock();
        let writable = match &mut state.content {
            Content::Staged(staged) if staged.is_open_as(&open) => staged.writable()?,
            _ => return Ok(false),
        };
        writable.file().set_len(size)?;
        let now = self.clock.now();
        state.meta.size = size;
        state.meta.mtime = now;
        state.meta.ctime = now;
        Ok(true)
    }

    /// Reserves or frees room in a file (fallocate(2)), as far as the disk below can.
    pub async fn fallocate(
        self: &Arc<Self>,
        fh: Fh,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        match &*handle {
            Handle::Local { ino, fh } => match self.local(*ino) {
                Some(local) => local.fallocate(*fh, offset, length, mode),
                None => Err(FsError::BadHandle),
            },
            Handle::Folder { .. } => Err(FsError::IsADirectory),
            Handle::File(file) if !file.writes => Err(FsError::BadHandle),
            Handle::File(file) => {
                self.wait_for_room(usize::try_from(length).unwrap_or(usize::MAX))
                    .await;
                self.staging.check_room()?;
                self.make_writable(&file.inode).await?;
                let open = open_file(&file.inode).ok_or(FsError::Stale)?;
                let _changing = open.change(offset..u64::MAX);
                let mut state = file.inode.state.lock();
                let Content::Staged(staged) = &mut state.content else {
                    return Err(FsError::Stale);
                };
                let writable = staged.writable()?;
                let flags = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
                rustix::fs::fallocate(writable.file(), flags, offset, length)
                    .map_err(std::io::Error::from)?;
                let now = self.clock.now();
                state.meta.size = writable.file().metadata()?.len();
                state.meta.mtime = now;
                state.meta.ctime = now;
                Ok(())
            }
        }
    }

    /// Makes what was written durable on this disk: data, name, journal. Does not wait for the
    /// bucket.
    pub fn fsync(&self, fh: Fh, datasync: bool) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        match &*handle {
            Handle::Local { ino, fh } => match self.local(*ino) {
                Some(local) => local.fsync(*fh, datasync),
                None => Err(FsError::BadHandle),
            },
            Handle::Folder { .. } => Ok(self.staging.sync_names()?),
            Handle::File(file) => {
                match file.inode.staged_file() {
                    Some(staged) => Ok(self.staging.sync_file(&staged)?),
                    // A rename or new attributes may be on their way.
                    None => Ok(self.staging.sync_names()?),
                }
            }
        }
    }

    /// Makes a folder's names durable on this disk.
    pub fn fsyncdir(&self, ino: Ino) -> FsResult<()> {
        match self.local(ino) {
            Some(local) => local.fsyncdir(ino),
            None => Ok(self.staging.sync_names()?),
        }
    }
}

enum Bytes {
    Staged(Arc<StagedFile>),
    Cached(Arc<CacheFile>),
}

/// Returns the staged file of an inode that the journal knows as open.
pub(super) fn open_file(inode: &Inode) -> Option<Arc<StagedFile>> {
    let state = inode.state.lock();
    let staged = state.staged().filter(|staged| staged.open)?;
    Some(staged.file.clone())
}

fn no_such_offset() -> FsError {
    std::io::Error::from_raw_os_error(libc::ENXIO).into()
}

/// Writes all, or as much as the disk has room for; an error only if that is nothing, so that the
/// caller knows of every byte that was written.
fn write_fully(file: &std::fs::File, offset: u64, data: &[u8]) -> std::io::Result<usize> {
    let mut written = 0;
    while written < data.len() {
        match file.write_at(&data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if written == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(written)
}

/// Reads until the buffer is full or the file ends.
fn read_fully(file: &std::fs::File, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
