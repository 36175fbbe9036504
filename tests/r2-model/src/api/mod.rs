//! The operations as a client sees them: a whole request in, status, headers and content out.
//!
//! Nothing here waits: bodies have been read, signatures checked, and faults come as a [`Steer`].

mod bucket;
mod integrity;
mod list;
mod multipart;
mod read;
mod write;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::content::Content;
use crate::error::{R2Error, R2Result};
use crate::history::Author;
use crate::key::Key;
use crate::operation::{Operation, Target};
use crate::refused;
use crate::state::State;
use crate::token::Token;

/// A request whose signature is right.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    /// What follows a body in chunks; holds its checksum.
    pub(crate) trailers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) token: Token,
    pub(crate) steer: Steer,
}

/// What faults change inside an operation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steer {
    /// The last byte of the range is moved by this much.
    pub(crate) range_end_moved: Option<i64>,
    /// The range is not looked at.
    pub(crate) range_ignored: bool,
    /// The answer names no length.
    pub(crate) length_omitted: bool,
    /// A listing page has at most this many entries.
    pub(crate) page_limit: Option<usize>,
    /// The write condition fails, whatever it says.
    pub(crate) condition_fails: bool,
    /// The request is carried out long after it was sent.
    pub(crate) is_late: bool,
}

/// What a client gets.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// The body goes out without `Content-Length`.
    pub(crate) length_omitted: bool,
}

impl Answer {
    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            content: Content::Bytes(Bytes::new()),
            length_omitted: false,
        }
    }

    fn xml(document: String) -> Self {
        let mut answer = Self::empty(200);
        answer.set("content-type", "application/xml");
        answer.content = Content::Bytes(document.into());
        answer
    }

    pub(crate) fn of_error(error: &R2Error) -> Self {
        // A 304 has no body; the others have R2's short document.
        let mut answer = match error.status {
            304 => Self::empty(304),
            status => Self {
                status,
                ..Self::xml(error.body())
            },
        };
        if let Some(seconds) = error.retry_after {
            answer.set("retry-after", &seconds.to_string());
        }
        answer
    }

    /// Sets a header; what cannot be one is left out.
    fn set(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            self.headers.insert(name, value);
        }
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn bucket(&self) -> R2Result<&str> {
        self.target
            .bucket
            .as_deref()
            .ok_or_else(R2Error::no_such_bucket)
    }

    fn key(&self) -> R2Result<Key> {
        Key::new(self.target.key.as_deref().unwrap_or_default())
    }

    fn author(&self) -> Author {
        Author {
            client: self.token.access_key.clone(),
            is_late: self.steer.is_late,
        }
    }

    fn required(&self, parameter: &str) -> R2Result<&str> {
        self.target
            .parameter(parameter)
            .ok_or_else(|| R2Error::invalid_argument(format!("{parameter} is missing")))
    }
}

/// Carries the request out.
pub(crate) fn call(state: &Mutex<State>, request: &Request) -> Answer {
    let mut answer = carry_out(state, request).unwrap_or_else(|error| Answer::of_error(&error));
    answer.length_omitted |= request.steer.length_omitted;
    answer
}

fn carry_out(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    refused::check(&request.target, &request.headers)?;
    request
        .token
        .check_session(request.header("x-amz-security-token"))?;
    request.token.check(&request.target)?;
    if let (Some(bucket), false) = (
        &request.target.bucket,
        request.target.operation == Operation::CreateBucket,
    ) {
        state.lock().bucket(bucket)?;
    }
    match request.target.operation {
        Operation::GetObject => read::get(state, request),
        Operation::HeadObject => read::head(state, request),
        Operation::PutObject => write::put(state, request),
        Operation::CopyObject => write::copy(state, request),
        Operation::DeleteObject => write::delete(state, request),
        Operation::DeleteObjects => write::delete_many(state, request),
        Operation::ListObjects => list::v1(state, request),
        Operation::ListObjectsV2 => list::v2(state, request),
        Operation::CreateMultipartUpload => multipart::create(state, request),
        Operation::UploadPart => multipart::upload_part(state, request),
        Operation::UploadPartCopy => multipart::copy_part(state, request),
        Operation::CompleteMultipartUpload => multipart::complete(state, request),
        Operation::AbortMultipartUpload => multipart::abort(state, request),
        Operation::ListMultipartUploads => multipart::list_uploads(state, request),
        Operation::ListParts => multipart::list_parts(state, request),
        Operation::ListBuckets => bucket::list(state, request),
        Operation::HeadBucket => Ok(Answer::empty(200)),
        Operation::CreateBucket => bucket::create(state, request),
        Operation::DeleteBucket => bucket::delete(state, request),
        Operation::GetBucketLocation => Ok(bucket::location()),
        Operation::Setting => bucket::setting(request),
        Operation::Unknown => Err(R2Error::not_implemented("The request is")),
    }
}
