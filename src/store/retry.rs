//! Trying again: a decorator for a store behind a network.
//!
//! It rides out what passes within seconds. What lasts longer is for the caller to decide: a read
//! has a deadline, and the uploader repeats writes for ever, one by one and with the journal's
//! knowledge of what was tried. The bytes of a GET are not repeated here either: the cache knows
//! which of them it has.
//!
//! While the bucket answers nobody, reads fail at once. Writes do not: the uploader
//! sends one at a time then, and each may be the one that gets through.

mod breaker;
mod probe;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use self::breaker::{Breaker, is_unanswered};
use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreError, StoreResult, Upload, WriteCondition,
};
use crate::clock::SharedClock;
use crate::metrics::Requests;

/// An answer that has not come after so long counts as missing when its caller gives up.
const IN_VAIN: Duration = Duration::from_secs(1);

/// How a store is retried.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// No read is tried again later than this after its first try.
    pub reads: Duration,
    /// No write is tried again later than this after its first try.
    pub writes: Duration,
    /// Longest pause before the second try; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause of all, unless the server asks for more.
    pub longest_pause: Duration,
    /// Shortest pause between two tries of a write to one key.
    pub write_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            reads: Duration::from_secs(10),
            // Room for the `Retry-After: 5` that R2 gives (ubiblk#447).
            writes: Duration::from_secs(10),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            // R2 takes one write a second to one key (R2: platform/limits), and a try that seemed
            // to fail may have counted (ubiblk#450).
            write_pause: Duration::from_millis(1500),
        }
    }
}

/// A way to wait, injected, so that tests need not.
pub trait Sleeper: Send + Sync + fmt::Debug {
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Waits for real.
#[derive(Debug, Default)]
pub struct SystemSleeper;

impl Sleeper for SystemSleeper {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// What may be tried again, and after which failures.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    /// After any failure that may pass.
    Read,
    /// Writes that may land twice, or late, without harm: the same bytes under the same part
    /// number, an abort. After any failure that may pass.
    Repeatable,
    /// All other writes: only when the server refused to begin, which is what 429 says. After any
    /// other failure the write may have been done, or may still land. Sent again, its condition
    /// would then fail on our own success, and a late first try could undo what came after it.
    /// Only the uploader can tell these cases apart (write ids, unresolved attempts), so the
    /// failure is its to handle.
    Once,
}

impl Class {
    fn may_repeat(self, error: &StoreError) -> bool {
        match error {
            StoreError::Throttled { .. } => true,
            StoreError::Unavailable { .. } | StoreError::Damaged(_) => self != Class::Once,
            // A clock is not set right within seconds, nor a disk mended.
            _ => false,
        }
    }
}

/// A store whose requests are tried again.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    clock: SharedClock,
    sleeper: Arc<dyn Sleeper>,
    breaker: Arc<Breaker>,
    requests: Requests,
}

/// A try under way. Dropped without an answer after a while, it counts as one that got none: who
/// gives up early must not hide an outage from the others.
struct Try<'a> {
    store: &'a RetryStore,
    class: Class,
    begun: Instant,
    ended: bool,
}

impl Try<'_> {
    fn end<T>(mut self, result: StoreResult<T>) -> StoreResult<T> {
        self.ended = true;
        match is_unanswered(&result) {
            true => self.store.note_failure(self.class, self.begun),
            false => self.store.note_answer(),
        }
        result
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let waited = self.store.clock.instant().duration_since(self.begun);
        if !self.ended && waited >= IN_VAIN {
            self.store.note_failure(self.class, self.begun);
        }
    }
}

impl RetryStore {
    /// Wraps a store.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        policy: RetryPolicy,
        clock: SharedClock,
        sleeper: Arc<dyn Sleeper>,
    ) -> RetryStore {
        RetryStore {
            inner,
            policy,
            clock,
            sleeper,
            breaker: Arc::default(),
            requests: Requests::default(),
        }
    }

    /// Counts there what is sent again.
    pub fn counting(self, requests: Requests) -> RetryStore {
        RetryStore { requests, ..self }
    }

    fn note_answer(&self) {
        if self.breaker.answered(self.clock.instant()) {
            log::info!("the bucket answers again");
        }
    }

    /// Failing writes alone say little: they may all be to one key that rests, and take long.
    fn note_failure(&self, class: Class, begun: Instant) {
        if class == Class::Read && self.breaker.failed(begun, self.clock.instant()) {
            log::warn!("the bucket answers nobody: reads fail at once until it does");
            let (clock, sleeper) = (self.clock.clone(), self.sleeper.clone());
            probe::begin(&self.inner, &self.breaker, clock, sleeper);
        }
    }

    async fn try_once<T>(
        &self,
        class: Class,
        request: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let this = Try {
            store: self,
            class,
            begun: self.clock.instant(),
            ended: false,
        };
        this.end(request.await)
    }

    /// Whether somebody is told at once that the bucket cannot be asked.
    fn refuses(&self, class: Class) -> bool {
        class == Class::Read && self.breaker.is_open()
    }

    async fn retry<T, F>(
        &self,
        class: Class,
        what: (&'static str, &str),
        mut send: impl FnMut() -> F + Send,
    ) -> StoreResult<T>
    where
        F: Future<Output = StoreResult<T>> + Send,
        T: Send,
    {
        if self.refuses(class) {
            return Err(nobody_answered());
        }
        let begun = self.clock.instant();
        let patience = match class {
            Class::Read => self.policy.reads,
            Class::Repeatable | Class::Once => self.policy.writes,
        };
        for failures in 0.. {
            let error = match self.try_once(class, send()).await {
                Err(error) if class.may_repeat(&error) => error,
                answer => return answer,
            };
            let pause = self.pause(class, failures, error.retry_after());
            let waited = self.clock.instant().duration_since(begun);
            if waited + pause > patience || self.refuses(class) {
                return Err(error);
            }
            let (operation, key) = what;
            log::debug!("{operation} of {key:?} failed, again in {pause:?}: {error}");
            self.sleeper.sleep(pause).await;
            self.requests.count_retry(operation);
        }
        unreachable!("the loop ends with the patience")
    }

    /// Returns how long to wait after so many earlier failures. Half of it is chance, so that
    /// requests that failed together do not come back together.
    fn pause(&self, class: Class, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.policy.first_pause * 2_u32.saturating_pow(failures.min(16));
        let longest = doubled.min(self.policy.longest_pause);
        let pause = longest.mul_f64(0.5 + 0.5 * fastrand::f64());
        let least = match class {
            Class::Read => Duration::ZERO,
            Class::Repeatable | Class::Once => self.policy.write_pause,
        };
        pause.max(least).max(asked.unwrap_or_default())
    }
}

fn nobody_answered() -> StoreError {
    StoreError::Unavailable {
        message: "it has answered nobody for a while".into(),
        retry_after: None,
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    fn is_reachable(&self) -> bool {
        !self.breaker.is_open()
    }

    fn time(&self) -> Option<SystemTime> {
        self.inner.time()
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        let what = ("head", key.as_str());
        let send = || self.inner.head(key, condition.clone());
        self.retry(Class::Read, what, send).await
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        let what = ("get", request.key.as_str());
        let send = || self.inner.get(request.clone());
        self.retry(Class::Read, what, send).await
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        let what = ("put", request.key.as_str());
        let send = || self.inner.put(request.clone());
        self.retry(Class::Once, what, send).await
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        let what = ("create_multipart", key.as_str());
        let send = || self.inner.create_multipart(key, headers.clone());
        self.retry(Class::Once, what, send).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        let what = ("upload_part", upload.key.as_str());
        let send = || self.inner.upload_part(upload, number, body.clone(), md5);
        self.retry(Class::Repeatable, what, send).await
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        let what = ("upload_part_copy", upload.key.as_str());
        let send = || {
            self.inner
                .upload_part_copy(upload, number, source, range.clone())
        };
        self.retry(Class::Repeatable, what, send).await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        let what = ("list_parts", upload.key.as_str());
        let send = || self.inner.list_parts(upload);
        self.retry(Class::Read, what, send).await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let what = ("complete_multipart", upload.key.as_str());
        let send = || {
            self.inner
                .complete_multipart(upload, parts, condition.clone())
        };
        self.retry(Class::Once, what, send).await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        let what = ("abort_multipart", upload.key.as_str());
        let send = || self.inner.abort_multipart(upload);
        self.retry(Class::Repeatable, what, send).await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        let what = ("copy", request.destination.as_str());
        let send = || self.inner.copy(request.clone());
        self.retry(Class::Once, what, send).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        let what = ("delete", key.as_str());
        let send = || self.inner.delete(key);
        self.retry(Class::Once, what, send).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        let what = ("list", request.prefix.as_str());
        let send = || self.inner.list(request.clone());
        self.retry(Class::Read, what, send).await
    }
}

#[cfg(test)]
mod tests;
