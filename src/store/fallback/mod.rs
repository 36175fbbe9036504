//! `FALLBACK_TO_LOCAL`: what the bucket does not have, or cannot be asked for, is looked up in
//! `output/`.
//!
//! The bucket wins, and only the bucket is written to. That a local copy is shown says
//! [`Origin::Fallback`]; its tag is recognisable as a local one, so that a request about that very
//! version goes to the right side. An unreachable bucket is no absence: a listing made without it
//! says so (`incomplete`), and a version of the bucket is never replaced by a local copy.

mod hidden;
mod list;
mod uploads;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::local::{LocalStore, is_local_tag};
use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, Origin, PartNumber, PutRequest,
    ReadCondition, StoreError, StoreResult, Upload, WriteCondition,
};

pub use hidden::HiddenKeys;
pub use uploads::UploadView;

/// A local copy up to this size is sent with one request; a larger one in parts of this size, or
/// larger where there would be too many of them.
const PART_BYTES: u64 = 16 * 1024 * 1024;

/// R2's limit is 10,000 parts.
const MAX_PARTS: u64 = 9_000;

/// A bucket with a local directory behind it.
#[derive(Debug)]
pub struct FallbackStore {
    primary: Arc<dyn ObjectStore>,
    local: LocalStore,
    hidden: Arc<HiddenKeys>,
}

impl FallbackStore {
    /// Puts a local directory behind a bucket.
    pub fn new(
        primary: Arc<dyn ObjectStore>,
        local: LocalStore,
        hidden: Arc<HiddenKeys>,
    ) -> FallbackStore {
        FallbackStore {
            primary,
            local,
            hidden,
        }
    }

    /// Whoever asks for that very version knows it: a renamed file is read, and copied into the
    /// bucket, from its old key.
    fn hides(&self, key: &Key, condition: &ReadCondition) -> bool {
        self.hidden.contains(key) && !is_pinned_locally(condition)
    }

    /// Describes the local copy, unless it is hidden.
    async fn local_head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        if self.hides(key, &condition) {
            return Err(StoreError::NotFound);
        }
        let mut info = self.local.head(key, condition).await?;
        info.origin = Origin::Fallback;
        Ok(info)
    }

    async fn local_get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        if self.hides(&request.key, &request.condition) {
            return Err(StoreError::NotFound);
        }
        let mut response = self.local.get(request).await?;
        response.info.origin = Origin::Fallback;
        Ok(response)
    }

    /// Copies a local object into the bucket: there is no way for the server to do it.
    async fn send_local(&self, request: CopyRequest) -> StoreResult<ETag> {
        let get = GetRequest {
            key: request.source.key,
            range: None,
            condition: ReadCondition::IfMatch(request.source.etag),
        };
        let source = self.local_get(get).await.map_err(as_source)?;
        let headers = request.headers.unwrap_or_else(|| ObjectHeaders {
            content_type: source.info.content_type.clone().unwrap_or_default(),
            metadata: source.info.metadata.clone(),
        });
        let condition = for_primary(request.condition);
        let size = source.info.size;
        let mut pieces = Pieces(source, BytesMut::new());
        if size <= PART_BYTES {
            let body = pieces.next(size).await?;
            return self
                .primary
                .put(PutRequest {
                    key: request.destination,
                    md5: Md5::of(&body),
                    body,
                    condition,
                    headers,
                })
                .await;
        }
        let key = request.destination;
        let upload = self.primary.create_multipart(&key, headers).await?;
        let sent = self.send_parts(&upload, &mut pieces, size, condition).await;
        if sent.is_err() {
            // What cannot be removed now the bucket's lifecycle rule removes in seven days.
            let _ = self.primary.abort_multipart(&upload).await;
        }
        sent
    }

    /// Makes a part of a local object's bytes.
    async fn send_local_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        let size = range.end.saturating_sub(range.start);
        let get = GetRequest {
            key: source.key.clone(),
            range: Some(range),
            condition: ReadCondition::IfMatch(source.etag.clone()),
        };
        let response = self.local_get(get).await.map_err(as_source)?;
        let size = size.min(response.range.end - response.range.start);
        let body = Pieces(response, BytesMut::new()).next(size).await?;
        let md5 = Md5::of(&body);
        self.primary.upload_part(upload, number, body, md5).await
    }

    async fn send_parts(
        &self,
        upload: &Upload,
        pieces: &mut Pieces,
        size: u64,
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let part_size = PART_BYTES.max(size.div_ceil(MAX_PARTS));
        let mut tags = Vec::new();
        let mut left = size;
        for number in 1.. {
            let body = pieces.next(part_size.min(left)).await?;
            left -= body.len() as u64;
            let md5 = Md5::of(&body);
            let part = self.primary.upload_part(upload, number, body, md5);
            tags.push(part.await?);
            if left == 0 {
                break;
            }
        }
        self.primary
            .complete_multipart(upload, &tags, condition)
            .await
    }
}

/// A local object's bytes in pieces of the sizes asked for.
struct Pieces(GetResponse, BytesMut);

impl Pieces {
    async fn next(&mut self, size: u64) -> StoreResult<Bytes> {
        let Pieces(response, buffer) = self;
        let size = size as usize;
        while buffer.len() < size {
            let chunk = response.body.try_next().await?;
            let chunk = chunk.ok_or_else(|| StoreError::Damaged("a short file".into()))?;
            buffer.extend_from_slice(&chunk);
        }
        Ok(buffer.split_to(size).freeze())
    }
}

/// What the failure to read the source of a copy means for the copy.
fn as_source(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound | StoreError::PreconditionFailed | StoreError::InvalidRange => {
            StoreError::SourceChanged
        }
        error => error,
    }
}

/// Over a local copy the bucket has nothing: that is what the condition means there.
fn for_primary(condition: WriteCondition) -> WriteCondition {
    match condition {
        WriteCondition::IfMatch(tag) if is_local_tag(&tag) => WriteCondition::IfAbsent,
        condition => condition,
    }
}

/// What a read does when the bucket's answer is `error`.
fn falls_back(error: &StoreError, condition: &ReadCondition) -> bool {
    let about_primary = match condition {
        ReadCondition::None => false,
        ReadCondition::IfMatch(tag) | ReadCondition::IfNoneMatch(tag) => !is_local_tag(tag),
    };
    match error {
        StoreError::NotFound => true,
        // Asked whether the bucket's version still holds, a local copy is no answer.
        StoreError::Unavailable { .. } => !about_primary,
        _ => false,
    }
}

/// The condition for the bucket: a local tag is none that it can know.
fn read_for_primary(condition: &ReadCondition) -> ReadCondition {
    match condition {
        ReadCondition::IfNoneMatch(tag) if is_local_tag(tag) => ReadCondition::None,
        condition => condition.clone(),
    }
}

/// Whether a read is about one local version and so for the local side alone.
fn is_pinned_locally(condition: &ReadCondition) -> bool {
    matches!(condition, ReadCondition::IfMatch(tag) if is_local_tag(tag))
}

#[async_trait]
impl ObjectStore for FallbackStore {
    fn is_reachable(&self) -> bool {
        self.primary.is_reachable()
    }

    fn time(&self) -> Option<SystemTime> {
        self.primary.time()
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        if is_pinned_locally(&condition) {
            return self.local_head(key, condition).await;
        }
        match self.primary.head(key, read_for_primary(&condition)).await {
            Err(error) if falls_back(&error, &condition) => {
                either(error, self.local_head(key, condition).await)
            }
            answer => answer,
        }
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        if is_pinned_locally(&request.condition) {
            return self.local_get(request).await;
        }
        let for_primary = GetRequest {
            condition: read_for_primary(&request.condition),
            ..request.clone()
        };
        match self.primary.get(for_primary).await {
            Err(error) if falls_back(&error, &request.condition) => {
                either(error, self.local_get(request).await)
            }
            answer => answer,
        }
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        let condition = for_primary(request.condition);
        self.primary
            .put(PutRequest {
                condition,
                ..request
            })
            .await
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        self.primary.create_multipart(key, headers).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        self.primary.upload_part(upload, number, body, md5).await
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        if is_local_tag(&source.etag) {
            return self.send_local_part(upload, number, source, range).await;
        }
        self.primary
            .upload_part_copy(upload, number, source, range)
            .await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.primary.list_parts(upload).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        self.primary
            .complete_multipart(upload, parts, for_primary(condition))
            .await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        self.primary.abort_multipart(upload).await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        if is_local_tag(&request.source.etag) {
            return self.send_local(request).await;
        }
        let condition = for_primary(request.condition);
        self.primary
            .copy(CopyRequest {
                condition,
                ..request
            })
            .await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        // Hidden first: a crash in between leaves the bucket's object to be seen and deleted
        // again, and never the local copy to be seen instead of it.
        let local = self.local.head(key, ReadCondition::None).await;
        if !matches!(local, Err(StoreError::NotFound)) {
            let (hidden, key) = (self.hidden.clone(), key.clone());
            tokio::task::spawn_blocking(move || hidden.hide(&key))
                .await
                .map_err(io::Error::other)??;
        }
        self.primary.delete(key).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        self.union(request).await
    }
}

/// The local side's answer, unless it has none: then the bucket's error stands, since an
/// unreachable bucket may have the object.
fn either<T>(primary: StoreError, local: StoreResult<T>) -> StoreResult<T> {
    match local {
        Err(StoreError::NotFound) => Err(primary),
        answer => answer,
    }
}
