//! One object version in the cache: a sparse file and the ranges of it that are present.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::{CacheError, ReadStream};
use crate::disk::FileId;
use crate::store::ObjectVersion;

/// One object version in the cache.
#[derive(Debug)]
pub struct CacheFile {
    version: ObjectVersion,
    id: FileId,
    size: u64,
    file: File,
}

impl CacheFile {
    pub(super) fn new(version: ObjectVersion, id: FileId, size: u64, file: File) -> CacheFile {
        CacheFile {
            version,
            id,
            size,
            file,
        }
    }

    /// Returns which version this is.
    pub fn version(&self) -> &ObjectVersion {
        &self.version
    }

    /// Returns the id in the file's name.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the length of the object in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns a read-only descriptor, fit to be registered for passthrough.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file is whole and verified, so that the kernel may read it past us.
    pub fn is_complete(&self) -> bool {
        false
    }

    /// Whether the last download or revalidation is longer ago than the TTL.
    pub fn is_expired(&self) -> bool {
        false
    }

    /// Whether the file still has a name; false after `rm -rf cache/`.
    pub fn is_named(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() > 0)
    }

    /// Returns how many bytes are present.
    pub fn held_bytes(&self) -> u64 {
        0
    }

    /// Fills `buf` from `offset` if all of it, up to the end of the file, is present. Inline lane.
    /// After a success call [`CacheFile::note_read`], so that the read-ahead moves on.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.is_complete().then(|| self.file.read_at(buf, offset))
    }

    /// Tells the read-ahead of a read that [`CacheFile::try_read`] answered. Inline lane: starts
    /// requests, waits for none. Does nothing for a complete file.
    pub fn note_read(self: &Arc<Self>, _stream: &ReadStream, _offset: u64, _len: usize) {}

    /// Returns the bytes from `offset`, at most `len` and fewer only at the end of the file;
    /// waits for those that are missing. Remote lane.
    pub async fn read(
        self: &Arc<Self>,
        _stream: &ReadStream,
        _offset: u64,
        _len: usize,
    ) -> Result<Vec<u8>, CacheError> {
        Err(CacheError::Cancelled)
    }

    /// Waits until the file is whole and verified. Remote lane.
    pub async fn fill(self: &Arc<Self>) -> Result<(), CacheError> {
        Err(CacheError::Cancelled)
    }

    /// Starts the first ranged GET, if its bytes are missing, and returns. Inline lane.
    pub fn prefetch(self: &Arc<Self>, _stream: &ReadStream) {}
}
