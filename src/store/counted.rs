//! Counts what is asked of a bucket, by R2's price classes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreResult, Upload, WriteCondition,
};
use crate::metrics::{Operations, PriceClass};

/// A store that counts. It wraps the store that sends, so that repeated requests count as well.
#[derive(Debug)]
pub struct CountedStore<S> {
    inner: S,
    operations: Arc<Operations>,
}

impl<S: ObjectStore> CountedStore<S> {
    /// Counts what goes to `inner`.
    pub fn new(inner: S, operations: Arc<Operations>) -> CountedStore<S> {
        CountedStore { inner, operations }
    }

    fn sent(&self, class: PriceClass) -> &S {
        self.operations.count(class);
        &self.inner
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for CountedStore<S> {
    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        self.sent(PriceClass::B).head(key, condition).await
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        self.sent(PriceClass::B).get(request).await
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        self.sent(PriceClass::A).put(request).await
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        self.sent(PriceClass::A)
            .create_multipart(key, headers)
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        self.sent(PriceClass::A)
            .upload_part(upload, number, body, md5)
            .await
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        self.sent(PriceClass::A)
            .upload_part_copy(upload, number, source, range)
            .await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.sent(PriceClass::A).list_parts(upload).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        self.sent(PriceClass::A)
            .complete_multipart(upload, parts, condition)
            .await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        self.sent(PriceClass::Free).abort_multipart(upload).await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.sent(PriceClass::A).copy(request).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        self.sent(PriceClass::Free).delete(key).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        self.sent(PriceClass::A).list(request).await
    }
}
