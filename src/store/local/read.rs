//! Reading files as a stream.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::super::{
    ETag, GetRequest, GetResponse, Key, ObjectInfo, ReadCondition, StoreError, StoreResult,
};
use super::{Disk, about, check_read, tree};

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

pub(super) fn get(disk: &Disk, request: GetRequest) -> StoreResult<GetResponse> {
    let key = &request.key;
    let path = tree::path_of(key).ok_or(StoreError::NotFound)?;
    if key.is_folder_marker() {
        let info = disk.head(key, &request.condition)?;
        let range = clamp(request.range, 0)?;
        let body = stream::empty().boxed();
        return Ok(GetResponse { info, range, body });
    }
    let file = disk.tree.file(path)?.ok_or(StoreError::NotFound)?;
    let info = about::info(key, &file, &tree::stat(&file)?)?;
    check(&request.condition, &info)?;
    let range = clamp(request.range, info.size)?;
    let reader = Reader {
        file: Arc::new(file),
        key: key.clone(),
        etag: info.version.etag.clone(),
        left: range.clone(),
    };
    Ok(GetResponse {
        info,
        range,
        body: reader.into_stream(),
    })
}

fn check(condition: &ReadCondition, info: &ObjectInfo) -> StoreResult<()> {
    check_read(condition, &info.version.etag)
}

fn clamp(asked: Option<Range<u64>>, size: u64) -> StoreResult<Range<u64>> {
    match asked {
        None => Ok(0..size),
        Some(range) if range.is_empty() => Err(StoreError::Refused("an empty range".into())),
        Some(range) if range.start >= size => Err(StoreError::InvalidRange),
        Some(range) => Ok(range.start..range.end.min(size)),
    }
}

struct Reader {
    file: Arc<File>,
    key: Key,
    etag: ETag,
    left: Range<u64>,
}

impl Reader {
    fn into_stream(self) -> BoxStream<'static, StoreResult<Bytes>> {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader.filter(|reader| !reader.left.is_empty())?;
            let work = tokio::task::spawn_blocking(move || {
                let chunk = reader.next();
                (chunk, reader)
            });
            match work.await {
                Ok((Ok(chunk), reader)) => Some((Ok(chunk), Some(reader))),
                Ok((Err(error), _)) => Some((Err(error), None)),
                Err(error) => Some((Err(StoreError::Io(io::Error::other(error))), None)),
            }
        })
        .boxed()
    }

    fn next(&mut self) -> StoreResult<Bytes> {
        let length = (self.left.end - self.left.start).min(CHUNK_BYTES);
        let mut chunk = vec![0; length as usize];
        let read = self.file.read_exact_at(&mut chunk, self.left.start);
        // A program that writes into the file meanwhile: what was read may mix two versions.
        let now = about::version(&self.key, &tree::stat(&self.file)?);
        if now.etag != self.etag {
            return Err(StoreError::Damaged(
                "the file changed while it was read".into(),
            ));
        }
        read?;
        self.left.start += length;
        Ok(chunk.into())
    }
}
