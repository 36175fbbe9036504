//! Copies files of a local folder into a bucket: each with a condition, and looked at afterwards.
//!
//! What is there already is recognised by its bytes, so a run that was interrupted is begun anew and
//! goes on where it was, also within a large file ([`BegunCopies`]). Which files are meant, and what is told of them, is the caller's business.

mod begun;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use md5::Digest;

pub use self::begun::BegunCopies;

use super::attributes::FileAttributes;
use super::local::LocalStore;
use super::{
    ETag, GetRequest, HeldPart, Key, Md5, ObjectHeaders, ObjectInfo, ObjectStore, PartNumber,
    PutRequest, ReadCondition, StoreError, StoreResult, Upload, WriteCondition,
};

/// Files up to this size go by one request, larger ones in parts of it or more. Held in memory.
const PART_BYTES: u64 = 16 << 20;
/// Parts become larger when there would be more of them than this; R2 takes 10,000.
const MOST_PARTS: u64 = 9_000;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bucket has it now; before, it had nothing there, or what was to be replaced.
    Uploaded,
    /// The bucket had these bytes already.
    Same,
    /// The bucket has something else there, which was left alone.
    Differs,
    /// It would be uploaded.
    Missing,
}

/// Why a file was not copied.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// The local file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] StoreError),
    /// The bucket refuses, or cannot be reached.
    #[error("{0}")]
    Bucket(#[source] StoreError),
    /// The local file is another one than when it was begun.
    #[error("it has changed meanwhile: run the command again")]
    Changed,
    /// An upload in parts cannot be written down, so it was not begun, or not left out.
    #[error("the list of begun uploads cannot be kept: {0}")]
    Note(#[source] io::Error),
    /// The bucket does not show what was sent.
    #[error("the bucket shows {0} in place of what was sent")]
    Unverified(String),
}

/// One file and where it goes.
#[derive(Debug)]
pub struct Replica {
    /// The folder it lies in.
    pub source: LocalStore,
    /// Its path there.
    pub from: Key,
    /// The bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// Its key there.
    pub to: Key,
    /// Whether it takes the place of something else.
    pub replace: bool,
    /// Where uploads in parts are written down; without it nothing is sent.
    pub begun: Option<Arc<BegunCopies>>,
}

/// What the bucket is to show.
struct Expected {
    /// The local file as it is.
    info: ObjectInfo,
    part_bytes: u64,
    etag: ETag,
    md5: Md5,
    parts: Vec<Md5>,
}

impl Replica {
    /// Copies the file unless it is there. `sent` hears of bytes as they are done with.
    ///
    /// # Errors
    /// Why that failed. A later run goes on.
    pub async fn run(&self, sent: &(dyn Fn(u64) + Sync)) -> Result<Outcome, ReplicateError> {
        let expected = self.expected().await.map_err(ReplicateError::Read)?;
        let size = expected.info.size;
        let found = match self.bucket.head(&self.to, ReadCondition::None).await {
            Ok(found) => Some(found),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(ReplicateError::Bucket(error)),
        };
        let condition = match found {
            None => WriteCondition::IfAbsent,
            Some(found) if self.is_same(&expected, &found).await? => {
                sent(size);
                return Ok(Outcome::Same);
            }
            Some(found) if self.replace => WriteCondition::IfMatch(found.version.etag),
            Some(_) => {
                sent(size);
                return Ok(Outcome::Differs);
            }
        };
        let Some(begun) = &self.begun else {
            sent(size);
            return Ok(Outcome::Missing);
        };
        match self.send(&expected, condition, begun, sent).await {
            Ok(()) => {}
            // Somebody else was first.
            Err(ReplicateError::Bucket(StoreError::PreconditionFailed)) => {
                return Ok(Outcome::Differs);
            }
            Err(error) => return Err(error),
        }
        self.check_sent(&expected).await?;
        Ok(Outcome::Uploaded)
    }

    /// Deletes the local file, after another look whether the bucket has what it is.
    ///
    /// # Errors
    /// If it has not, or the file cannot be deleted.
    pub async fn delete_source(&self) -> Result<(), ReplicateError> {
        let expected = self.expected().await.map_err(ReplicateError::Read)?;
        let found = self.bucket.head(&self.to, ReadCondition::None).await;
        let found = found.map_err(ReplicateError::Bucket)?;
        if !self.is_same(&expected, &found).await? {
            return Err(ReplicateError::Unverified(found.version.etag.to_string()));
        }
        let now = self.source.head(&self.from, ReadCondition::None).await;
        if now.map_err(ReplicateError::Read)?.version != expected.info.version {
            return Err(ReplicateError::Changed);
        }
        let deleted = self.source.delete(&self.from).await;
        deleted.map_err(ReplicateError::Read)
    }

    async fn expected(&self) -> StoreResult<Expected> {
        let info = self.source.head(&self.from, ReadCondition::None).await?;
        let part_bytes = info.size.div_ceil(MOST_PARTS).max(PART_BYTES);
        let (mut whole, mut together) = (md5::Md5::new(), md5::Md5::new());
        let mut parts = Vec::new();
        for range in parts_of(info.size, part_bytes) {
            let bytes = read(&self.source, &info, range).await?;
            whole.update(&bytes);
            let md5 = Md5::of(&bytes);
            together.update(md5.0);
            parts.push(md5);
        }
        let md5 = Md5(whole.finalize().into());
        let etag = match parts.len() {
            0 | 1 => ETag::of_md5(md5),
            count => ETag::new(&format!("\"{}-{count}\"", hex::encode(together.finalize()))),
        };
        Ok(Expected {
            info,
            part_bytes,
            etag,
            md5,
            parts,
        })
    }

    /// Whether the bucket has these bytes. Where the tag does not tell, since they went up in other
    /// parts, they are read.
    async fn is_same(
        &self,
        expected: &Expected,
        found: &ObjectInfo,
    ) -> Result<bool, ReplicateError> {
        if found.size != expected.info.size {
            return Ok(false);
        }
        let tag = &found.version.etag;
        if *tag == expected.etag || tag.md5().is_some() {
            return Ok(*tag == expected.etag || tag.md5() == Some(expected.md5));
        }
        let mut digest = md5::Md5::new();
        for range in parts_of(found.size, PART_BYTES) {
            let bytes = read(&*self.bucket, found, range).await;
            digest.update(bytes.map_err(ReplicateError::Bucket)?);
        }
        Ok(Md5(digest.finalize().into()) == expected.md5)
    }

    async fn send(
        &self,
        expected: &Expected,
        condition: WriteCondition,
        begun: &BegunCopies,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ReplicateError> {
        let info = &expected.info;
        let headers = headers(info);
        if info.size <= expected.part_bytes {
            let body = read(&self.source, info, 0..info.size).await;
            let request = PutRequest {
                key: self.to.clone(),
                body: body.map_err(changed)?,
                md5: expected.md5,
                condition,
                headers,
            };
            let put = self.bucket.put(request).await;
            put.map_err(ReplicateError::Bucket)?;
            sent(info.size);
            return Ok(());
        }
        let (upload, held) = self.begin(expected, headers, begun).await?;
        match self
            .send_parts(expected, &upload, &held, condition, sent)
            .await
        {
            Ok(()) => begun.end(&upload).map_err(ReplicateError::Note),
            Err(error) => {
                // What cannot be taken back now stays written down.
                match self.bucket.abort_multipart(&upload).await {
                    Ok(()) => begun.end(&upload).map_err(ReplicateError::Note)?,
                    Err(error) => log::warn!("{}: its parts are not taken back: {error}", self.to),
                }
                Err(error)
            }
        }
    }

    /// Returns the upload of these bytes that was begun before, with the parts that it has, or a new
    /// one.
    async fn begin(
        &self,
        expected: &Expected,
        headers: ObjectHeaders,
        begun: &BegunCopies,
    ) -> Result<(Upload, BTreeMap<PartNumber, HeldPart>), ReplicateError> {
        if let Some(upload) = begun.find(&self.to, &expected.etag) {
            match self.bucket.list_parts(&upload).await {
                Ok(held) => return Ok((upload, held)),
                Err(StoreError::UploadGone | StoreError::NotFound) => {
                    begun.end(&upload).map_err(ReplicateError::Note)?;
                }
                Err(error) => return Err(ReplicateError::Bucket(error)),
            }
        }
        let upload = self.bucket.create_multipart(&self.to, headers).await;
        let upload = upload.map_err(ReplicateError::Bucket)?;
        if let Err(error) = begun.begin(&upload, &expected.etag) {
            let _ = self.bucket.abort_multipart(&upload).await;
            return Err(ReplicateError::Note(error));
        }
        Ok((upload, BTreeMap::new()))
    }

    async fn send_parts(
        &self,
        expected: &Expected,
        upload: &Upload,
        held: &BTreeMap<PartNumber, HeldPart>,
        condition: WriteCondition,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ReplicateError> {
        let info = &expected.info;
        let mut tags = Vec::new();
        let ranges = parts_of(info.size, expected.part_bytes);
        for (range, md5) in ranges.zip(&expected.parts) {
            let length = range.end - range.start;
            let number = tags.len() as PartNumber + 1;
            let is_here = |part: &&HeldPart| part.size == length && part.etag == ETag::of_md5(*md5);
            let tag = match held.get(&number).filter(is_here) {
                Some(part) => part.etag.clone(),
                None => {
                    let body = read(&self.source, info, range).await.map_err(changed)?;
                    let part = self.bucket.upload_part(upload, number, body, *md5).await;
                    part.map_err(ReplicateError::Bucket)?
                }
            };
            tags.push(tag);
            sent(length);
        }
        let completed = self.bucket.complete_multipart(upload, &tags, condition);
        completed.await.map(|_| ()).map_err(ReplicateError::Bucket)
    }

    async fn check_sent(&self, expected: &Expected) -> Result<(), ReplicateError> {
        let found = self.bucket.head(&self.to, ReadCondition::None).await;
        let found = found.map_err(ReplicateError::Bucket)?;
        if !self.is_same(expected, &found).await? {
            return Err(ReplicateError::Unverified(found.version.etag.to_string()));
        }
        let now = self.source.head(&self.from, ReadCondition::None).await;
        match now.map_err(ReplicateError::Read)?.version == expected.info.version {
            true => Ok(()),
            false => Err(ReplicateError::Changed),
        }
    }
}

/// What it means that a range of the local file cannot be read.
fn changed(error: StoreError) -> ReplicateError {
    match error {
        StoreError::PreconditionFailed | StoreError::NotFound => ReplicateError::Changed,
        error => ReplicateError::Read(error),
    }
}

/// Returns what goes with a file that is known by its folder only: at least its time.
fn headers(info: &ObjectInfo) -> ObjectHeaders {
    let mut metadata = info.metadata.clone();
    let mtime = FileAttributes {
        mtime: Some(info.last_modified),
        ..FileAttributes::default()
    };
    if !metadata.contains_key("mtime") {
        mtime.add_to(&mut metadata);
    }
    ObjectHeaders {
        content_type: info.content_type.clone().unwrap_or_default(),
        metadata,
    }
}

fn parts_of(size: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(part_bytes)).map(move |at| {
        let start = at * part_bytes;
        start..(start + part_bytes).min(size)
    })
}

/// Reads a range of this version of an object.
async fn read(store: &dyn ObjectStore, info: &ObjectInfo, range: Range<u64>) -> StoreResult<Bytes> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let length = range.end - range.start;
    let request = GetRequest {
        key: info.version.key.clone(),
        range: Some(range),
        condition: ReadCondition::IfMatch(info.version.etag.clone()),
    };
    let mut body = store.get(request).await?.body;
    let mut bytes = BytesMut::with_capacity(length as usize);
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_file() {
        let ranges = |size, part| parts_of(size, part).collect::<Vec<_>>();
        assert_eq!(ranges(0, 4), [0..0; 0]);
        assert_eq!(ranges(9, 4), [0..4, 4..8, 8..9]);
        assert_eq!(ranges(8, 4), [0..4, 4..8]);
    }
}
