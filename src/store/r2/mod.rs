//! Cloudflare R2 over its S3 API: the only user of `aws-sdk-s3`.
//!
//! It sends each request once and says what came of it. When to try again is decided above.

mod client;
mod connect;
mod copy;
mod credentials;
mod errors;
mod limit;
mod list;
mod presign;
mod read;
mod rights;
mod route;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::Uri;

pub use client::R2Timeouts;
pub use presign::LONGEST_LINK;
pub use route::describe as describe_route;

use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreError, StoreResult, Upload, WriteCondition, lease,
};
use crate::config::R2Settings;
use client::{AcceptEncoding, while_moving, within};
use connect::Connections;
use limit::UploadLimit;

/// The coding that objects were most likely stored with if their `Content-Length` is missing.
const USUAL_CODING: &str = "gzip";

/// A bucket, or the part of one below a prefix.
pub struct R2Store {
    client: Client,
    bucket: String,
    prefix: String,
    timeouts: R2Timeouts,
    limit: Option<Arc<UploadLimit>>,
    connections: Connections,
    /// Where connections are opened in advance.
    ahead: Option<Uri>,
}

impl fmt::Debug for R2Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R2Store({}/{})", self.bucket, self.prefix)
    }
}

impl R2Store {
    /// Returns the bucket's store. Nothing is sent yet.
    pub fn new(settings: &R2Settings, timeouts: R2Timeouts) -> R2Store {
        let connections = Connections::new(timeouts.connect, settings);
        R2Store {
            client: client::build(settings, &connections),
            bucket: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            timeouts,
            limit: None,
            connections,
            ahead: None,
        }
    }

    /// Opens connections for many requests at once when the first bytes are asked for.
    pub fn opening_connections_in_advance(mut self, settings: &R2Settings) -> R2Store {
        self.ahead = settings.endpoint.parse().ok();
        self
    }

    /// Lets the bodies of all uploads together have so many bytes a second; not 0.
    pub fn with_upload_limit(mut self, bytes_per_second: Option<u64>) -> R2Store {
        self.limit = bytes_per_second.map(|limit| Arc::new(UploadLimit::new(limit)));
        self
    }

    fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn answer<T, E>(
        &self,
        limit: std::time::Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> StoreResult<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        within(limit, request).await?.map_err(errors::from_sdk)
    }

    async fn send_head(
        &self,
        key: &Key,
        condition: &ReadCondition,
        coding: Option<&str>,
    ) -> StoreResult<HeadObjectOutput> {
        let (if_match, if_none_match) = read_conditions(condition);
        let mut request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .customize();
        if let Some(coding) = coding {
            request = request.interceptor(AcceptEncoding(coding.into()));
        }
        self.answer(self.timeouts.answer, request.send()).await
    }

    /// Returns the headers of the object as it is stored.
    async fn head_as_stored(
        &self,
        key: &Key,
        condition: &ReadCondition,
    ) -> StoreResult<HeadObjectOutput> {
        let output = self.send_head(key, condition, None).await?;
        if output.content_length.is_some() {
            return Ok(output);
        }
        // Stored in a coding that we did not offer, so R2 would decode it on the way and can tell
        // neither its length nor its coding (R2: reference/transparent-decompression).
        let coding = output.content_encoding.as_deref().unwrap_or(USUAL_CODING);
        self.send_head(key, condition, Some(coding)).await
    }

    async fn send_get(
        &self,
        asked: &GetRequest,
        coding: Option<&str>,
    ) -> StoreResult<GetObjectOutput> {
        let (if_match, if_none_match) = read_conditions(&asked.condition);
        let range = asked
            .range
            .as_ref()
            .map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let mut request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full_key(&asked.key))
            .set_range(range)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .customize();
        if let Some(coding) = coding {
            request = request.interceptor(AcceptEncoding(coding.into()));
        }
        self.answer(self.timeouts.answer, request.send()).await
    }
}

fn read_conditions(condition: &ReadCondition) -> (Option<String>, Option<String>) {
    match condition {
        ReadCondition::None => (None, None),
        ReadCondition::IfMatch(tag) => (Some(tag.to_string()), None),
        ReadCondition::IfNoneMatch(tag) => (None, Some(tag.to_string())),
    }
}

/// Returns the values of `If-Match` and `If-None-Match`.
fn write_conditions(condition: &WriteCondition) -> (Option<String>, Option<String>) {
    match condition {
        WriteCondition::IfAbsent => (None, Some("*".into())),
        WriteCondition::IfMatch(tag) => (Some(tag.to_string()), None),
        WriteCondition::Always => (None, None),
    }
}

fn empty_range() -> StoreError {
    StoreError::Refused("an empty range".into())
}

#[async_trait]
impl ObjectStore for R2Store {
    fn time(&self) -> Option<SystemTime> {
        self.connections.time()
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        let output = self.head_as_stored(key, &condition).await?;
        let size = read::size(output.content_length)
            .ok_or_else(|| StoreError::Damaged("no length in the answer".into()))?;
        let told = read::Told {
            e_tag: output.e_tag,
            last_modified: output.last_modified,
            content_type: output.content_type,
            metadata: output.metadata,
        };
        told.info(key, size)
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        if request.range.as_ref().is_some_and(|range| range.is_empty()) {
            return Err(empty_range());
        }
        // Nobody reads on after a lease.
        if let Some(endpoint) = &self.ahead
            && !request.key.as_str().starts_with(lease::PREFIX)
        {
            self.connections.open_in_advance(endpoint);
        }
        let fit = |output: &GetObjectOutput, size: Option<u64>| {
            let content_range = output.content_range.as_deref();
            read::window(request.range.as_ref(), content_range, size)
        };
        let mut output = self.send_get(&request, None).await?;
        let mut window = fit(&output, read::size(output.content_length))?;
        if window.is_none() {
            let coding = output
                .content_encoding
                .clone()
                .unwrap_or(USUAL_CODING.into());
            output = self.send_get(&request, Some(&coding)).await?;
            window = fit(&output, read::size(output.content_length))?;
        }
        if window.is_none() {
            // An ordinary object whose length got lost on the way: another answer has it.
            let version = ReadCondition::IfMatch(read::tag(output.e_tag())?);
            let info = self.head(&request.key, version).await?;
            window = fit(&output, Some(info.size))?;
        }
        let window = window.expect("a window for a known size");
        read::respond(&request, output, window, self.timeouts.idle)
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        let (if_match, if_none_match) = write_conditions(&request.condition);
        let length = request.body.len();
        let (body, progress) = client::watched(request.body, self.limit.clone());
        let sent = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(&request.key))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .content_md5(BASE64.encode(request.md5.0))
            .content_length(length as i64)
            .content_type(request.headers.content_type)
            .set_metadata(Some(request.headers.metadata.into_iter().collect()))
            .body(body)
            .send();
        let output = while_moving(&progress, &self.timeouts, sent).await?;
        let output = output.map_err(errors::from_sdk)?;
        read::tag(output.e_tag())
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .content_type(headers.content_type)
            .set_metadata(Some(headers.metadata.into_iter().collect()));
        let output = self.answer(self.timeouts.answer, request.send()).await?;
        let id = output
            .upload_id
            .ok_or_else(|| StoreError::Damaged("no upload id in the answer".into()))?;
        Ok(Upload {
            key: key.clone(),
            id,
        })
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        let length = body.len();
        let (body, progress) = client::watched(body, self.limit.clone());
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.full_key(&upload.key))
            .upload_id(&upload.id)
            .part_number(number.into())
            .content_md5(BASE64.encode(md5.0))
            .content_length(length as i64)
            .body(body)
            .send();
        let output = while_moving(&progress, &self.timeouts, sent).await?;
        let output = output.map_err(errors::from_sdk)?;
        read::tag(output.e_tag())
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        self.copy_part(upload, number, source, range).await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.list_upload_parts(upload).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let (if_match, if_none_match) = write_conditions(&condition);
        let part = |(number, tag): (i32, &ETag)| {
            CompletedPart::builder()
                .part_number(number)
                .e_tag(tag.as_str())
                .build()
        };
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some((1..).zip(parts).map(part).collect()))
            .build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(&upload.key))
            .upload_id(&upload.id)
            .multipart_upload(parts)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match);
        let output = self.answer(self.timeouts.commit, request.send()).await?;
        done(output.e_tag())
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(&upload.key))
            .upload_id(&upload.id);
        match self.answer(self.timeouts.answer, request.send()).await {
            Ok(_) | Err(StoreError::UploadGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.copy_object(request).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.full_key(key));
        match self.answer(self.timeouts.answer, request.send()).await {
            Ok(_) | Err(StoreError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        self.list_objects(request).await
    }
}

/// Returns the tag of a copy or a completion. A 200 without one (an empty body) says nothing: R2
/// sends the status before it is done.
fn done(e_tag: Option<&str>) -> StoreResult<ETag> {
    read::tag(e_tag).map_err(|_| StoreError::Unavailable {
        message: "success without a result".into(),
        retry_after: None,
    })
}
