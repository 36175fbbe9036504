//! A store in memory for the cache's tests: ranges, `If-Match`, and answers that misbehave.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::store::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, Origin, PartNumber, PutRequest,
    ReadCondition, StoreError, StoreResult, Upload, UserMetadata, WriteCondition,
};

/// How the store answers one GET.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// As it should, in chunks of that many bytes.
    Chunks(usize),
    /// Each chunk of that many bytes waits for a permit.
    Gated(usize, Arc<Semaphore>),
    /// 503.
    Fail,
    /// No answer ever.
    Hang,
    /// The body breaks off after so many bytes.
    Cut(usize),
    /// So many bytes, and then nothing ever.
    Stall(usize),
    /// Every byte is wrong.
    Damaged,
    /// Another range than asked.
    WrongRange,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Key, (ETag, Bytes)>,
    /// Answers to come; after them `usual`.
    script: VecDeque<Answer>,
    usual: Option<Answer>,
    gets: Vec<(Key, Range<u64>)>,
}

#[derive(Debug, Default)]
pub(super) struct FakeStore(Mutex<State>);

/// Returns bytes that differ at each place and for each seed.
pub(super) fn content(seed: u64, size: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes = (0..size).map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    });
    bytes.collect()
}

impl FakeStore {
    /// Puts an object with the tag that R2 would give it.
    pub(super) fn put_bytes(&self, key: &str, bytes: &Bytes) -> ObjectVersion {
        self.put_tagged(key, bytes, ETag::of_md5(Md5::of(bytes)))
    }

    pub(super) fn put_tagged(&self, key: &str, bytes: &Bytes, etag: ETag) -> ObjectVersion {
        let key = Key::new(key).unwrap();
        let object = (etag.clone(), bytes.clone());
        self.0.lock().objects.insert(key.clone(), object);
        ObjectVersion { key, etag }
    }

    /// Answers the next GETs so.
    pub(super) fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().script.extend(answers);
    }

    /// Answers all GETs that no script is for so.
    pub(super) fn usually(&self, answer: Answer) {
        self.0.lock().usual = Some(answer);
    }

    /// Returns the ranges asked for so far, in order.
    pub(super) fn gets(&self) -> Vec<Range<u64>> {
        let state = self.0.lock();
        state.gets.iter().map(|(_, range)| range.clone()).collect()
    }

    /// Returns the ranges of one object asked for so far, in order.
    pub(super) fn gets_of(&self, version: &ObjectVersion) -> Vec<Range<u64>> {
        let state = self.0.lock();
        let gets = state.gets.iter().filter(|(key, _)| *key == version.key);
        gets.map(|(_, range)| range.clone()).collect()
    }

    /// Returns how many bytes were asked for so far.
    pub(super) fn asked_bytes(&self) -> u64 {
        self.gets()
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

fn body(bytes: Bytes, answer: Answer) -> BoxStream<'static, StoreResult<Bytes>> {
    let broken = || Err(unavailable("connection reset"));
    match answer {
        Answer::Gated(chunk, permits) => {
            let chunks = chunks_of(&bytes, chunk);
            stream::iter(chunks)
                .then(move |chunk| {
                    let permits = Arc::clone(&permits);
                    async move {
                        permits.acquire().await.unwrap().forget();
                        Ok(chunk)
                    }
                })
                .boxed()
        }
        Answer::Cut(after) => {
            let kept = chunks_of(&bytes.slice(..after.min(bytes.len())), 1000);
            let chunks = kept.into_iter().map(Ok).chain([broken()]);
            stream::iter(chunks.collect::<Vec<_>>()).boxed()
        }
        Answer::Stall(after) => {
            let kept = chunks_of(&bytes.slice(..after.min(bytes.len())), 1000);
            let chunks = stream::iter(kept.into_iter().map(Ok));
            chunks.chain(stream::pending()).boxed()
        }
        Answer::Damaged => {
            let flipped: Bytes = bytes.iter().map(|byte| !byte).collect();
            stream::iter([Ok(flipped)]).boxed()
        }
        Answer::Chunks(chunk) => stream::iter(chunks_of(&bytes, chunk).into_iter().map(Ok)).boxed(),
        Answer::Fail | Answer::Hang | Answer::WrongRange => stream::iter([Ok(bytes)]).boxed(),
    }
}

fn chunks_of(bytes: &Bytes, chunk: usize) -> Vec<Bytes> {
    let starts = (0..bytes.len()).step_by(chunk);
    starts
        .map(|at| bytes.slice(at..bytes.len().min(at + chunk)))
        .collect()
}

fn unavailable(message: &str) -> StoreError {
    StoreError::Unavailable {
        message: message.to_owned(),
        retry_after: None,
    }
}

#[async_trait]
impl ObjectStore for FakeStore {
    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        let range = request.range.expect("the cache asks for ranges");
        let (answer, object) = {
            let mut state = self.0.lock();
            state.gets.push((request.key.clone(), range.clone()));
            let answer = state.script.pop_front().or_else(|| state.usual.clone());
            let object = state.objects.get(&request.key).cloned();
            (answer.unwrap_or(Answer::Chunks(16 << 10)), object)
        };
        tokio::task::yield_now().await;
        match answer {
            Answer::Fail => return Err(unavailable("503")),
            Answer::Hang => tokio::time::sleep(Duration::from_secs(3600)).await,
            _ => {}
        }
        let (etag, bytes) = object.ok_or(StoreError::NotFound)?;
        assert!(matches!(request.condition, ReadCondition::IfMatch(_)));
        if request.condition != ReadCondition::IfMatch(etag.clone()) {
            return Err(StoreError::PreconditionFailed);
        }
        let size = bytes.len() as u64;
        assert!(
            range.start < range.end && range.end <= size,
            "{range:?} of {size}"
        );
        let got = match answer {
            Answer::WrongRange => range.start..range.end - 1,
            _ => range,
        };
        Ok(GetResponse {
            info: ObjectInfo {
                version: ObjectVersion {
                    key: request.key,
                    etag,
                },
                size,
                last_modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
                content_type: None,
                metadata: UserMetadata::new(),
                origin: Origin::Primary,
            },
            range: got.clone(),
            body: body(bytes.slice(got.start as usize..got.end as usize), answer),
        })
    }

    async fn head(&self, _: &Key, _: ReadCondition) -> StoreResult<ObjectInfo> {
        unreachable!("the cache only gets")
    }

    async fn put(&self, _: PutRequest) -> StoreResult<ETag> {
        unreachable!("the cache only gets")
    }

    async fn create_multipart(&self, _: &Key, _: ObjectHeaders) -> StoreResult<Upload> {
        unreachable!("the cache only gets")
    }

    async fn upload_part(&self, _: &Upload, _: PartNumber, _: Bytes, _: Md5) -> StoreResult<ETag> {
        unreachable!("the cache only gets")
    }

    async fn upload_part_copy(
        &self,
        _: &Upload,
        _: PartNumber,
        _: &ObjectVersion,
        _: Range<u64>,
    ) -> StoreResult<ETag> {
        unreachable!("the cache only gets")
    }

    async fn list_parts(&self, _: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        unreachable!("the cache only gets")
    }

    async fn complete_multipart(
        &self,
        _: &Upload,
        _: &[ETag],
        _: WriteCondition,
    ) -> StoreResult<ETag> {
        unreachable!("the cache only gets")
    }

    async fn abort_multipart(&self, _: &Upload) -> StoreResult<()> {
        unreachable!("the cache only gets")
    }

    async fn copy(&self, _: CopyRequest) -> StoreResult<ETag> {
        unreachable!("the cache only gets")
    }

    async fn delete(&self, _: &Key) -> StoreResult<()> {
        unreachable!("the cache only gets")
    }

    async fn list(&self, _: ListRequest) -> StoreResult<ListPage> {
        unreachable!("the cache only gets")
    }
}
