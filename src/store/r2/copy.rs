//! Server-side copies: conditions on both sides, and objects too large for one request.

use std::ops::Range;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::MetadataDirective;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::{
    CopyRequest, ETag, Key, ObjectStore, ObjectVersion, PartNumber, ReadCondition, StoreError,
    StoreResult, Upload, WriteCondition,
};
use super::{R2Store, done, empty_range};

/// The SDK puts the copy source into its header as it is: all but these must be encoded.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl R2Store {
    pub(super) async fn copy_object(&self, request: CopyRequest) -> StoreResult<ETag> {
        match self.send_copy(&request).await {
            Err(StoreError::NotFound) => Err(StoreError::SourceChanged),
            Err(StoreError::PreconditionFailed) => Err(self.which_condition(&request).await?),
            answer => answer,
        }
    }

    async fn send_copy(&self, request: &CopyRequest) -> StoreResult<ETag> {
        let mut copy = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(self.full_key(&request.destination))
            .copy_source(self.copy_source(&request.source.key))
            .copy_source_if_match(request.source.etag.as_str());
        if let Some(headers) = &request.headers {
            let source = self.source_headers(request).await?;
            copy = copy
                .metadata_directive(MetadataDirective::Replace)
                .content_type(&headers.content_type)
                .set_metadata(Some(headers.metadata.clone().into_iter().collect()))
                .set_content_encoding(source.content_encoding)
                .set_content_language(source.content_language)
                .set_content_disposition(source.content_disposition)
                .set_cache_control(source.cache_control);
        }
        // CopyObject has conditions on its destination only by R2's own headers (R2:
        // api/s3/extensions).
        let condition = match &request.condition {
            WriteCondition::IfAbsent => Some(("cf-copy-destination-if-none-match", "*".into())),
            WriteCondition::IfMatch(tag) => Some(("cf-copy-destination-if-match", tag.to_string())),
            WriteCondition::Always => None,
        };
        let copy = copy.customize().mutate_request(move |http| {
            if let Some((name, value)) = &condition {
                http.headers_mut().insert(*name, value.clone());
            }
        });
        let output = self.answer(self.timeouts.commit, copy.send()).await?;
        done(
            output
                .copy_object_result()
                .and_then(|result| result.e_tag()),
        )
    }

    /// Sends no condition on the source: R2 answers 501 to one (R2: api/s3/api).
    pub(super) async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        if range.is_empty() {
            return Err(empty_range());
        }
        let request = self
            .client
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(self.full_key(&upload.key))
            .upload_id(&upload.id)
            .part_number(number.into())
            .copy_source(self.copy_source(&source.key))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
        match self.answer(self.timeouts.commit, request.send()).await {
            Ok(output) => done(output.copy_part_result().and_then(|part| part.e_tag())),
            Err(StoreError::NotFound | StoreError::InvalidRange) => Err(StoreError::SourceChanged),
            Err(error) => Err(error),
        }
    }

    fn copy_source(&self, key: &Key) -> String {
        let source = format!("{}/{}", self.bucket, self.full_key(key));
        utf8_percent_encode(&source, COPY_SOURCE).to_string()
    }

    /// Replacing metadata replaces all of it, also what we know nothing of: without its
    /// `Content-Encoding` a gzipped object of somebody else's would become unreadable.
    async fn source_headers(&self, request: &CopyRequest) -> StoreResult<HeadObjectOutput> {
        let version = ReadCondition::IfMatch(request.source.etag.clone());
        match self.head_as_stored(&request.source.key, &version).await {
            Err(StoreError::NotFound | StoreError::PreconditionFailed) => {
                Err(StoreError::SourceChanged)
            }
            answer => answer,
        }
    }

    /// R2 answers 412 for either side; looking at the source tells which it was.
    async fn which_condition(&self, request: &CopyRequest) -> StoreResult<StoreError> {
        if request.condition == WriteCondition::Always {
            return Ok(StoreError::SourceChanged);
        }
        let version = ReadCondition::IfMatch(request.source.etag.clone());
        match self.head(&request.source.key, version).await {
            Ok(_) => Ok(StoreError::PreconditionFailed),
            Err(StoreError::NotFound | StoreError::PreconditionFailed) => {
                Ok(StoreError::SourceChanged)
            }
            Err(error) => Err(error),
        }
    }
}
