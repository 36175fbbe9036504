//! How the SDK's client is set up, and how long its requests may take.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::super::{StoreError, StoreResult};
use super::connect::Connections;
use super::credentials::Provider;
use super::limit::UploadLimit;
use crate::config::R2Settings;

/// Bytes handed to the connection at a time: small enough that a slow line still shows progress
/// within [`R2Timeouts::idle`], large enough to cost nothing.
const CHUNK_BYTES: usize = 128 * 1024;

/// How long to wait for what. The SDK has only the first by default (aws-sdk-rust#1141).
#[derive(Clone, Copy, Debug)]
pub struct R2Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the answer to a request without a body.
    pub answer: Duration,
    /// Without a single byte of progress, in either direction.
    pub idle: Duration,
    /// For the answer to an upload, once its last byte was handed to the kernel. That may still
    /// hold megabytes of it (`tcp_wmem`), which a slow line takes long to carry away.
    pub upload_answer: Duration,
    /// For the answer to a copy or a completion, which move the object's bytes within R2.
    pub commit: Duration,
}

impl Default for R2Timeouts {
    fn default() -> R2Timeouts {
        R2Timeouts {
            connect: Duration::from_secs(3),
            answer: Duration::from_secs(20),
            idle: Duration::from_secs(20),
            upload_answer: Duration::from_secs(60),
            commit: Duration::from_secs(300),
        }
    }
}

/// Builds the client. Nothing is sent.
pub(super) fn build(settings: &R2Settings, connections: &Connections) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(with_final_slash(&settings.endpoint))
        .region(Region::new("auto"))
        .credentials_provider(Provider::of(settings))
        // The provider knows best whether they are still good.
        .identity_cache(IdentityCache::no_cache())
        .force_path_style(true)
        // With the SDK's defaults R2 has refused uploads and garbled ranges (cloudflare-docs
        // #19236, #20014).
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // The SDK does not retry 429 and its first retry of a write comes too early for R2
        // (ubiblk#448, #450): see `retry`.
        .retry_config(RetryConfig::disabled())
        // Connections have theirs.
        .timeout_config(TimeoutConfig::disabled())
        // It breaks slow copies and paused downloads (aws-sdk-rust#1141, #1202).
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(connections.http_client())
        .build();
    Client::from_conf(config)
}

/// The SDK joins `https://host/path` and the bucket `b` to `/pathb` (seen on the wire with
/// 1.157.0).
fn with_final_slash(endpoint: &str) -> String {
    format!("{}/", endpoint.trim_end_matches('/'))
}

/// Sets `Accept-Encoding` after the signature: Cloudflare's edge rewrites the header, so it must
/// not be signed (wojtekmach/req#546).
#[derive(Debug)]
pub(super) struct AcceptEncoding(pub String);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for AcceptEncoding {
    fn name(&self) -> &'static str {
        "AcceptEncoding"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        headers.try_insert("accept-encoding", self.0.clone())?;
        Ok(())
    }
}

/// When an upload last moved.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Moved>);

#[derive(Debug)]
struct Moved {
    last: Instant,
    all_sent: bool,
}

impl Progress {
    fn deadline(&self, timeouts: &R2Timeouts) -> Instant {
        let moved = self.0.lock();
        let patience = if moved.all_sent {
            timeouts.upload_answer
        } else {
            timeouts.idle
        };
        moved.last + patience
    }
}

/// A request body that tells how far it is, and keeps to the limit of the line if there is one.
/// Being a stream, it is not hashed for the signature (`UNSIGNED-PAYLOAD`): Content-MD5 covers the
/// bytes already, over http as over https.
pub(super) fn watched(body: Bytes, limit: Option<Arc<UploadLimit>>) -> (ByteStream, Arc<Progress>) {
    let progress = Arc::new(Progress(Mutex::new(Moved {
        last: Instant::now(),
        all_sent: body.is_empty(),
    })));
    let watched = WatchedBody {
        left: body,
        progress: progress.clone(),
        limit,
        turn: None,
    };
    (ByteStream::new(SdkBody::from_body_1_x(watched)), progress)
}

struct WatchedBody {
    left: Bytes,
    progress: Arc<Progress>,
    limit: Option<Arc<UploadLimit>>,
    /// When the next piece may go; it has been given out.
    turn: Option<Pin<Box<Sleep>>>,
}

impl WatchedBody {
    fn piece_bytes(&self) -> usize {
        let piece = self.limit.as_ref().map(|limit| limit.piece_bytes());
        self.left
            .len()
            .min(CHUNK_BYTES)
            .min(piece.unwrap_or(CHUNK_BYTES))
    }

    /// Waits until the line is free for the next piece. That is no standstill: the time without
    /// progress counts from then on.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let length = self.piece_bytes();
        let Some(limit) = self.limit.as_ref().filter(|_| length > 0) else {
            return Poll::Ready(());
        };
        let progress = &self.progress;
        let sleep = self.turn.get_or_insert_with(|| {
            let turn = limit.turn(Instant::now(), length);
            progress.0.lock().last = turn;
            Box::pin(tokio::time::sleep_until(turn))
        });
        std::task::ready!(sleep.as_mut().poll(context));
        self.turn = None;
        Poll::Ready(())
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::ready!(self.poll_turn(context));
        let length = self.piece_bytes();
        let chunk = self.left.split_to(length);
        *self.progress.0.lock() = Moved {
            last: Instant::now(),
            all_sent: self.left.is_empty(),
        };
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Waits for an upload's answer as long as the upload moves.
pub(super) async fn while_moving<T>(
    progress: &Progress,
    timeouts: &R2Timeouts,
    request: impl Future<Output = T>,
) -> StoreResult<T> {
    let mut request = std::pin::pin!(request);
    loop {
        let deadline = progress.deadline(timeouts);
        match tokio::time::timeout_at(deadline, &mut request).await {
            Ok(answer) => return Ok(answer),
            Err(_) if progress.deadline(timeouts) > deadline => {}
            Err(_) => return Err(no_answer()),
        }
    }
}

/// Waits for an answer for a limited time.
pub(super) async fn within<T>(limit: Duration, request: impl Future<Output = T>) -> StoreResult<T> {
    tokio::time::timeout(limit, request)
        .await
        .map_err(|_| no_answer())
}

fn no_answer() -> StoreError {
    StoreError::Unavailable {
        message: "no answer in time".into(),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes pieces until the body ends; returns when each came, and how long it was.
    async fn take(mut body: SdkBody) -> Vec<(Instant, usize)> {
        let mut pieces = Vec::new();
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let Some(Ok(frame)) = next.await else {
                return pieces;
            };
            let bytes = frame.into_data().unwrap_or_default();
            pieces.push((Instant::now(), bytes.len()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_share_the_limit_and_waiting_for_a_turn_is_no_standstill() {
        let begun = Instant::now();
        let limit = Arc::new(UploadLimit::new(1000 << 10));
        let timeouts = R2Timeouts {
            idle: Duration::from_millis(500),
            ..R2Timeouts::default()
        };
        let uploads = (0..32).map(|_| {
            let (body, progress) = watched(vec![7; 100 << 10].into(), Some(limit.clone()));
            async move { while_moving(&progress, &timeouts, take(body.into_inner())).await }
        });
        let pieces = futures::future::try_join_all(uploads).await.unwrap();
        let mut pieces: Vec<_> = pieces.concat();
        pieces.sort();
        let mut gone = 0;
        for (at, length) in pieces {
            gone += length;
            let most = (at - begun).as_millis() as usize * 1024 + 2 * limit.piece_bytes();
            assert!(gone <= most, "{gone} bytes after {:?}", at - begun);
        }
        assert_eq!(gone, 32 * (100 << 10));
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(3300), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_no_bytes_never_waits() {
        let limit = Arc::new(UploadLimit::new(1024));
        limit.turn(Instant::now(), 1 << 20);
        let begun = Instant::now();
        let (body, _) = watched(Bytes::new(), Some(limit));
        assert_eq!(take(body.into_inner()).await, []);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[test]
    fn an_endpoint_ends_in_one_slash() {
        assert_eq!(with_final_slash("https://h"), "https://h/");
        assert_eq!(with_final_slash("https://h/p/"), "https://h/p/");
    }
}
