//! The pair of stores as the uploader must see it: what the bucket holds, and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{FallbackStore, is_pinned_locally};
use crate::store::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreResult, Upload, WriteCondition,
};

/// A [`FallbackStore`] whose HEAD speaks of the bucket alone, unless it is asked about a version of
/// the local side. The uploader asks who holds a key: a local copy is no answer to that, neither
/// when the bucket has nothing nor when it cannot be reached.
#[derive(Debug)]
pub struct UploadView(Arc<FallbackStore>);

impl UploadView {
    /// Returns the uploader's view of a pair.
    pub fn new(pair: Arc<FallbackStore>) -> UploadView {
        UploadView(pair)
    }
}

#[async_trait]
impl ObjectStore for UploadView {
    fn is_reachable(&self) -> bool {
        self.0.is_reachable()
    }

    fn time(&self) -> Option<SystemTime> {
        self.0.time()
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        match is_pinned_locally(&condition) {
            true => self.0.head(key, condition).await,
            false => self.0.primary.head(key, condition).await,
        }
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        self.0.get(request).await
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        self.0.put(request).await
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        self.0.create_multipart(key, headers).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        self.0.upload_part(upload, number, body, md5).await
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        self.0.upload_part_copy(upload, number, source, range).await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.0.list_parts(upload).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        self.0.complete_multipart(upload, parts, condition).await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        self.0.abort_multipart(upload).await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.0.copy(request).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        self.0.delete(key).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        self.0.list(request).await
    }
}
