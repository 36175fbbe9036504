//! Between HTTP and the operations: `s3s` checks signatures and unpacks chunked bodies, and hands
//! every request on as it is; R2's headers and answers are the business of [`crate::api`].

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::http::Extensions;
use hyper::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;
use s3s::auth::{S3Auth, SecretKey};
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::api::{self, Answer, Steer};
use crate::content::{CHUNK_BYTES, Content};
use crate::error::{R2Error, status_of};
use crate::log::Log;
use crate::operation::Target;
use crate::plan::Faults;
use crate::state::State;
use crate::token::{Token, unauthorized};

/// What all parts of one model share. Each lock is taken alone and for a moment.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) state: Mutex<State>,
    pub(crate) tokens: Mutex<Vec<Token>>,
    pub(crate) log: Mutex<Log>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) connections_failed: AtomicU64,
}

/// What the HTTP layer found out about a request before `s3s` saw it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    pub(crate) target: Target,
    pub(crate) steer: Steer,
}

/// Marks an answer as made here, not by `s3s`.
#[derive(Debug, Clone)]
struct OurOwn;

/// Returns the service that carries out requests which hold a [`Ticket`].
pub(crate) fn service(model: Arc<Model>) -> S3Service {
    let mut builder = S3ServiceBuilder::new(Unused);
    builder.set_auth(Tokens(Arc::clone(&model)));
    builder.set_route(Route(model));
    builder.build()
}

/// Carries a request out; the answer is R2's, also where `s3s` refused the request.
pub(crate) async fn call(
    service: &S3Service,
    mut request: hyper::Request<Body>,
    ticket: Ticket,
) -> hyper::Response<Body> {
    let head = request.method() == Method::HEAD;
    request.extensions_mut().insert(ticket);
    let mut response = match service.call(request).await {
        Ok(response) if response.extensions().get::<OurOwn>().is_some() => response,
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            into_http(Answer::of_error(&translate(
                status,
                &body.unwrap_or_default(),
            )))
        }
        Err(_) => into_http(Answer::of_error(&R2Error::new(
            "InternalError",
            "s3s failed",
        ))),
    };
    if head && response.status().as_u16() >= 300 {
        *response.body_mut() = Body::empty();
        response.headers_mut().remove("content-type");
        response.headers_mut().remove("content-length");
    }
    response
}

/// Returns R2's error for one of `s3s`, which speaks as AWS does.
fn translate(status: u16, document: &[u8]) -> R2Error {
    let text = String::from_utf8_lossy(document);
    let inner = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(inner, _)| inner.to_owned())
    };
    let code = inner("Code").unwrap_or_else(|| "InternalError".to_owned());
    let message = inner("Message").unwrap_or_else(|| code.clone());
    match (code.as_str(), message.as_str()) {
        ("Unauthorized", _) => unauthorized(),
        ("KeyTooLongError" | "InvalidURI", _) => R2Error::new(
            "InvalidObjectName",
            "The specified object name is not valid.",
        ),
        ("AccessDenied", "Request has expired") => R2Error::new("ExpiredRequest", message),
        ("AccessDenied", "Signature is required") => {
            R2Error::invalid_argument("Authorization header is missing")
        }
        ("InternalError", _) => R2Error {
            status,
            ..R2Error::new(&code, message)
        },
        _ => R2Error {
            status: status_of(&code),
            ..R2Error::new(&code, message)
        },
    }
}

/// `s3s` wants an implementation; every request goes to the route instead.
struct Unused;

impl S3 for Unused {}

struct Tokens(Arc<Model>);

#[async_trait]
impl S3Auth for Tokens {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let tokens = self.0.tokens.lock();
        let token = tokens.iter().find(|token| token.access_key == access_key);
        token
            .map(|token| SecretKey::from(token.secret_key.as_str()))
            .ok_or_else(|| {
                let mut error = S3Error::new(S3ErrorCode::Custom("Unauthorized".into()));
                error.set_status_code(StatusCode::UNAUTHORIZED);
                error
            })
    }
}

struct Route(Arc<Model>);

#[async_trait]
impl S3Route for Route {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        true
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let answer = match self.receive(request).await {
            Ok(request) => api::call(&self.0.state, &request),
            Err(error) => Answer::of_error(&error),
        };
        let (parts, body) = into_http(answer).into_parts();
        let mut response = S3Response::with_status(body, parts.status);
        response.headers = parts.headers;
        response.extensions = parts.extensions;
        Ok(response)
    }
}

impl Route {
    /// Reads the body; nothing is carried out before all of it is here.
    async fn receive(&self, request: S3Request<Body>) -> Result<api::Request, R2Error> {
        let Some(Ticket {
            number,
            target,
            steer,
        }) = request.extensions.get().cloned()
        else {
            return Err(R2Error::new(
                "InternalError",
                "The request came past the HTTP layer",
            ));
        };
        let body = match request.input.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Err(body_error(error.as_ref())),
        };
        self.0
            .log
            .lock()
            .update(number, |record| record.bytes_in = body.len() as u64);
        let credentials = request.credentials.ok_or_else(unauthorized)?;
        let token = {
            let tokens = self.0.tokens.lock();
            tokens
                .iter()
                .find(|token| token.access_key == credentials.access_key)
                .cloned()
        };
        Ok(api::Request {
            target,
            headers: request.headers,
            trailers: request
                .trailing_headers
                .and_then(|it| it.take())
                .unwrap_or_default(),
            body,
            token: token.ok_or_else(unauthorized)?,
            steer,
        })
    }
}

/// Returns what a body that ended badly means.
fn body_error(error: &(dyn std::error::Error + 'static)) -> R2Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let message =
            "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return R2Error::new("XAmzContentSHA256Mismatch", message);
    }
    if text.contains("SignatureMismatch") {
        return R2Error::new(
            "SignatureDoesNotMatch",
            "A chunk's signature does not match.",
        );
    }
    if text.contains("Checksum") {
        return R2Error::new("BadDigest", text);
    }
    R2Error::new("IncompleteBody", "The body ended before Content-Length.")
}

fn into_http(answer: Answer) -> hyper::Response<Body> {
    let len = answer.content.len();
    let body = match answer.content {
        Content::Bytes(bytes) if !answer.length_omitted => Body::from(bytes),
        content => Body::http_body_unsync(StreamBody::new(chunks(content))),
    };
    let mut response = hyper::Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or_default();
    *response.headers_mut() = answer.headers;
    if !answer.length_omitted && len > 0 {
        response.headers_mut().insert("content-length", len.into());
    }
    response.extensions_mut().insert(OurOwn);
    response
}

/// Produces content piece by piece, so that a large generated object is never held whole.
fn chunks(
    content: Content,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
    let len = content.len();
    let starts = (0..len).step_by(CHUNK_BYTES as usize);
    let chunk = move |start| content.read(start..len.min(start + CHUNK_BYTES));
    stream::iter(starts.map(move |start| Ok(Frame::data(chunk(start)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_s3s_become_those_of_r2() {
        let document = |code: &str, message: &str| {
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")
        };
        for (code, message, expected) in [
            ("KeyTooLongError", "x", ("InvalidObjectName", 400)),
            (
                "AccessDenied",
                "Request has expired",
                ("ExpiredRequest", 403),
            ),
            (
                "AccessDenied",
                "Signature is required",
                ("InvalidArgument", 400),
            ),
            ("SignatureDoesNotMatch", "", ("SignatureDoesNotMatch", 403)),
            ("RequestTimeTooSkewed", "", ("RequestTimeTooSkewed", 403)),
            ("MissingContentLength", "", ("MissingContentLength", 411)),
        ] {
            let error = translate(400, document(code, message).as_bytes());
            assert_eq!((error.code.as_str(), error.status), expected);
        }
    }
}
