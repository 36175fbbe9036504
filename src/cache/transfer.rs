//! Moving the bytes of one range from the bucket into the sparse file.
//!
//! Memory stays bounded: what has arrived is written in batches, and the socket waits meanwhile.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::Fuse;
use futures::{FutureExt, Stream, StreamExt};

use super::fetch::Fetch;
use super::file::{CacheFile, Phase};
use super::room::Reserved;
use super::schedule::Purpose;
use super::{Cache, CacheError};
use crate::store::{GetRequest, GetResponse, ObjectInfo, ReadCondition, StoreError};

/// What is written to disk at once, at most, beyond the chunk that began it.
const BATCH_BYTES: usize = 512 << 10;
/// The first pause before another attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fewer bytes a second are no progress: they would keep a reader for minutes.
const LEAST_RATE: f64 = 1536.0;

/// How far a transfer has got.
struct Progress {
    at: u64,
    /// How far it was at `last`.
    counted: u64,
    /// When it last made progress, or when it began.
    last: Instant,
}

impl Progress {
    /// Bytes have arrived; they count when they are as many as should have come by the deadline.
    fn advance(&mut self, length: u64, now: Instant, deadline: Duration) {
        self.at += length;
        if (self.at - self.counted) as f64 >= LEAST_RATE * deadline.as_secs_f64() {
            self.counted = self.at;
            self.last = now;
        }
    }
}

impl CacheFile {
    /// Brings a range into the file. Retries what is transient, with what is still missing, until
    /// next to nothing has arrived for the deadline; but nobody need wait for a bucket that is known
    /// not to answer. Without room only what somebody waits for comes.
    pub(super) async fn transfer(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        fetch: &Fetch,
        purpose: Purpose,
    ) -> Result<(), CacheError> {
        let deadline = cache.fetcher.deadline;
        let range = &fetch.range;
        let mut reserved = cache.reserve(range.end - range.start);
        if !cache.make_room(self, fetch.ahead, purpose).await && fetch.ahead {
            return Err(CacheError::Cancelled);
        }
        let reachable = cache.fetcher.store.is_reachable();
        let mut progress = Progress {
            at: range.start,
            counted: range.start,
            last: Instant::now(),
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let before = progress.at;
            let attempt = self.attempt(cache, range.end, &mut progress, &mut reserved);
            let Err(error) = attempt.await else {
                return Ok(());
            };
            if progress.at > before {
                pause = FIRST_PAUSE;
            }
            let transient = match &error {
                CacheError::Store(error) if error.is_transient() => error,
                _ => return Err(error),
            };
            let wait = transient.retry_after().unwrap_or(pause).max(pause);
            if !reachable || progress.last.elapsed() + wait >= deadline {
                return Err(error);
            }
            log::debug!("get {} is tried again: {error}", self.version.key);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(
        &self,
        cache: &Arc<Cache>,
        end: u64,
        progress: &mut Progress,
        reserved: &mut Reserved,
    ) -> Result<(), CacheError> {
        let deadline = cache.fetcher.deadline;
        let version = self.content.state.lock().version.clone();
        let request = GetRequest {
            key: version.key.clone(),
            range: Some(progress.at..end),
            condition: ReadCondition::IfMatch(version.etag.clone()),
        };
        let line = &cache.fetcher.line;
        let asked = Instant::now();
        let get = cache.fetcher.store.get(request);
        let response = patiently(deadline, progress.last, get).await??;
        line.note_round_trip(asked.elapsed());
        self.check(&response, progress.at..end)?;
        self.note_info(cache, &response.info);
        let mut body = response.body.fuse();
        let first_byte = Instant::now();
        let from = progress.at;
        while progress.at < end {
            let chunk = patiently(deadline, progress.last, body.next()).await?;
            let chunk = chunk.ok_or_else(|| damaged("it ended early"))??;
            let (batch, failure) = gather(chunk, &mut body, end - progress.at);
            let length = self.write(cache, progress.at, batch).await?;
            self.content.add(progress.at..progress.at + length);
            reserved.arrived(length);
            let now = Instant::now();
            progress.advance(length, now, deadline);
            line.note_arrival(length, now);
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        line.note_connection(end - from, first_byte.elapsed());
        // Lets the connection see the end of the answer, so that it can serve the next request.
        let _ = body.next().now_or_never();
        Ok(())
    }

    /// Refuses an answer about another version or another range before any of it is used.
    fn check(&self, response: &GetResponse, asked: Range<u64>) -> Result<(), StoreError> {
        let version = &self.content.state.lock().version;
        if response.info.version.etag != version.etag || response.info.size != self.size() {
            return Err(StoreError::PreconditionFailed);
        }
        if response.range != asked {
            let got = &response.range;
            return Err(damaged(&format!("bytes {got:?} in place of {asked:?}")));
        }
        Ok(())
    }

    /// Takes over what the answer tells about the object; the first one is passed on.
    fn note_info(&self, cache: &Cache, info: &ObjectInfo) {
        let first = {
            let mut state = self.content.state.lock();
            state.fetched_at = cache.clock.now();
            state.last_modified = Some(info.last_modified);
            !std::mem::replace(&mut state.told, true)
        };
        let observer = cache.fetcher.observer.lock().clone();
        if let Some(observer) = observer.filter(|_| first) {
            observer(info);
        }
    }

    /// Writes a batch at `offset`; returns its length. A full disk is given one eviction.
    async fn write(
        &self,
        cache: &Arc<Cache>,
        offset: u64,
        batch: Vec<Bytes>,
    ) -> Result<u64, CacheError> {
        let writer = {
            let state = self.content.state.lock();
            match (&state.writer, state.phase) {
                (Some(writer), Phase::Filling) => Arc::clone(writer),
                _ => return Err(CacheError::Cancelled),
            }
        };
        let batch = Arc::new(batch);
        let first = write_all(&writer, offset, &batch).await;
        match first {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                cache.make_room_on_full_disk().await;
                Ok(write_all(&writer, offset, &batch).await?)
            }
            other => Ok(other?),
        }
    }
}

/// Waits for a step of a transfer. A silent connection is given up at half the deadline, so that
/// another can still be tried.
async fn patiently<T>(
    deadline: Duration,
    last_progress: Instant,
    step: impl Future<Output = T>,
) -> Result<T, CacheError> {
    let left = deadline.saturating_sub(last_progress.elapsed());
    match tokio::time::timeout(left.min(deadline / 2), step).await {
        Ok(value) => Ok(value),
        Err(_) if last_progress.elapsed() >= deadline => Err(CacheError::Deadline),
        Err(_) => Err(CacheError::Store(StoreError::Unavailable {
            message: format!("no byte for {:?}", deadline / 2),
            retry_after: None,
        })),
    }
}

/// Takes what has arrived beside `chunk` without waiting, `limit` bytes at most, and the error
/// that ended it.
fn gather<S>(chunk: Bytes, body: &mut Fuse<S>, limit: u64) -> (Vec<Bytes>, Option<StoreError>)
where
    S: Stream<Item = Result<Bytes, StoreError>> + Unpin,
{
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut gathered = chunk.len();
    let mut batch = vec![chunk];
    let mut failure = None;
    while gathered < limit.min(BATCH_BYTES) {
        match body.next().now_or_never() {
            Some(Some(Ok(chunk))) => {
                gathered += chunk.len();
                batch.push(chunk);
            }
            Some(Some(Err(error))) => {
                failure = Some(error);
                break;
            }
            Some(None) | None => break,
        }
    }
    if let Some(last) = batch.last_mut() {
        last.truncate(last.len() - gathered.saturating_sub(limit).min(last.len()));
    }
    (batch, failure)
}

/// Writes to the page cache, which may wait for the disk: not on a thread of the runtime.
async fn write_all(writer: &Arc<File>, offset: u64, batch: &Arc<Vec<Bytes>>) -> io::Result<u64> {
    let (writer, batch) = (Arc::clone(writer), Arc::clone(batch));
    let written = tokio::task::spawn_blocking(move || {
        let mut at = offset;
        for bytes in batch.iter() {
            writer.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
        }
        Ok(at - offset)
    });
    written.await.map_err(io::Error::other)?
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}
