//! Counts what is asked of a bucket, by R2's price classes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreError, StoreResult, Upload, WriteCondition,
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

    /// Sends one request: counts it when it is sent, and its time and failure when it is answered.
    async fn sent<T>(
        &self,
        class: PriceClass,
        operation: &str,
        answer: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        self.operations.count(class);
        let begun = Instant::now();
        let answer = answer.await;
        let failed = answer.as_ref().is_err_and(is_failure);
        let requests = self.operations.requests();
        requests.count(operation, begun.elapsed(), failed);
        answer
    }
}

/// Whether this is more than an answer that somebody asked for by a condition.
fn is_failure(error: &StoreError) -> bool {
    use StoreError::*;
    !matches!(
        error,
        NotFound | NotModified | PreconditionFailed | SourceChanged | UploadGone | InvalidRange
    )
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for CountedStore<S> {
    fn time(&self) -> Option<SystemTime> {
        self.inner.time()
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        let answer = self.inner.head(key, condition);
        self.sent(PriceClass::B, "head", answer).await
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        let answer = self.inner.get(request);
        let mut response = self.sent(PriceClass::B, "get", answer).await?;
        let operations = Arc::clone(&self.operations);
        let counted = response.body.inspect(move |chunk| {
            operations.note_received(chunk.as_ref().map_or(0, Bytes::len));
        });
        response.body = counted.boxed();
        Ok(response)
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        let bytes = request.body.len();
        let answer = self.inner.put(request);
        let tag = self.sent(PriceClass::A, "put", answer).await?;
        self.operations.note_sent(bytes);
        Ok(tag)
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        let answer = self.inner.create_multipart(key, headers);
        self.sent(PriceClass::A, "create_multipart", answer).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        let bytes = body.len();
        let answer = self.inner.upload_part(upload, number, body, md5);
        let tag = self.sent(PriceClass::A, "upload_part", answer).await?;
        self.operations.note_sent(bytes);
        Ok(tag)
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        let answer = self.inner.upload_part_copy(upload, number, source, range);
        self.sent(PriceClass::A, "upload_part_copy", answer).await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        let answer = self.inner.list_parts(upload);
        self.sent(PriceClass::A, "list_parts", answer).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let answer = self.inner.complete_multipart(upload, parts, condition);
        self.sent(PriceClass::A, "complete_multipart", answer).await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        let answer = self.inner.abort_multipart(upload);
        self.sent(PriceClass::Free, "abort_multipart", answer).await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        let answer = self.inner.copy(request);
        self.sent(PriceClass::A, "copy", answer).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        let answer = self.inner.delete(key);
        self.sent(PriceClass::Free, "delete", answer).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        let answer = self.inner.list(request);
        self.sent(PriceClass::A, "list", answer).await
    }
}
