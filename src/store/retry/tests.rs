use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::store::StoreError::*;

/// A store that fails as told and then finds nothing to complain of.
#[derive(Debug, Default)]
struct Scripted {
    failures: Mutex<VecDeque<StoreError>>,
    calls: Mutex<u32>,
}

impl Scripted {
    fn answer<T>(&self, success: T) -> StoreResult<T> {
        *self.calls.lock() += 1;
        self.failures.lock().pop_front().map_or(Ok(success), Err)
    }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn head(&self, _: &Key, _: ReadCondition) -> StoreResult<ObjectInfo> {
        self.answer(()).and(Err(NotFound))
    }
    async fn get(&self, _: GetRequest) -> StoreResult<GetResponse> {
        self.answer(()).and(Err(NotFound))
    }
    async fn put(&self, _: PutRequest) -> StoreResult<ETag> {
        self.answer(ETag::new("\"put\""))
    }
    async fn create_multipart(&self, _: &Key, _: ObjectHeaders) -> StoreResult<Upload> {
        self.answer(upload())
    }
    async fn upload_part(&self, _: &Upload, _: u16, _: Bytes, _: Md5) -> StoreResult<ETag> {
        self.answer(ETag::new("\"part\""))
    }
    async fn upload_part_copy(
        &self,
        _: &Upload,
        _: u16,
        _: &ObjectVersion,
        _: Range<u64>,
    ) -> StoreResult<ETag> {
        self.answer(ETag::new("\"part\""))
    }
    async fn list_parts(&self, _: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.answer(BTreeMap::new())
    }
    async fn complete_multipart(
        &self,
        _: &Upload,
        _: &[ETag],
        _: WriteCondition,
    ) -> StoreResult<ETag> {
        self.answer(ETag::new("\"done\""))
    }
    async fn abort_multipart(&self, _: &Upload) -> StoreResult<()> {
        self.answer(())
    }
    async fn copy(&self, _: CopyRequest) -> StoreResult<ETag> {
        self.answer(ETag::new("\"copy\""))
    }
    async fn delete(&self, _: &Key) -> StoreResult<()> {
        self.answer(())
    }
    async fn list(&self, _: ListRequest) -> StoreResult<ListPage> {
        self.answer(ListPage::default())
    }
}

/// Lets time pass at once, and remembers the pauses.
#[derive(Debug, Default)]
struct Pauses {
    clock: Arc<ManualClock>,
    taken: Mutex<Vec<Duration>>,
}

impl Sleeper for Pauses {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.advance(duration);
        self.taken.lock().push(duration);
        Box::pin(async {})
    }
}

struct Bench {
    store: RetryStore,
    inner: Arc<Scripted>,
    pauses: Arc<Pauses>,
}

fn bench(failures: impl IntoIterator<Item = StoreError>) -> Bench {
    let inner = Arc::new(Scripted::default());
    inner.failures.lock().extend(failures);
    let pauses = Arc::new(Pauses::default());
    let store = RetryStore::new(
        inner.clone(),
        RetryPolicy::default(),
        pauses.clock.clone(),
        pauses.clone(),
    );
    Bench {
        store,
        inner,
        pauses,
    }
}

fn unavailable() -> StoreError {
    Unavailable {
        message: "502".into(),
        retry_after: None,
    }
}

fn throttled(seconds: Option<u64>) -> StoreError {
    Throttled {
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn key() -> Key {
    Key::new("k").unwrap()
}

fn upload() -> Upload {
    Upload {
        key: key(),
        id: "u".into(),
    }
}

fn put() -> PutRequest {
    PutRequest {
        key: key(),
        body: Bytes::new(),
        md5: Md5::of(b""),
        condition: WriteCondition::Always,
        headers: ObjectHeaders::default(),
    }
}

#[tokio::test]
async fn a_read_rides_out_what_passes() {
    let bench = bench([unavailable(), throttled(None), Damaged("short".into())]);
    bench.store.list(ListRequest::default()).await.unwrap();
    let pauses = bench.pauses.taken.lock().clone();
    assert_eq!(pauses.len(), 3);
    for (pause, longest_ms) in pauses.iter().zip([200, 400, 800]) {
        let longest = Duration::from_millis(longest_ms);
        assert!(*pause >= longest / 2 && *pause <= longest, "{pauses:?}");
    }
}

#[tokio::test]
async fn a_read_ends_with_its_patience() {
    let bench = bench((0..1000).map(|_| unavailable()));
    let begun = bench.pauses.clock.instant();
    let answer = bench.store.list(ListRequest::default()).await;
    assert!(matches!(answer, Err(Unavailable { .. })));
    assert!(bench.pauses.clock.instant() - begun <= RetryPolicy::default().reads);
    assert!(*bench.inner.calls.lock() > 3);
}

#[tokio::test]
async fn what_will_not_change_is_not_tried_again() {
    for error in [
        NotFound,
        PreconditionFailed,
        Denied(String::new()),
        ClockSkew(String::new()),
    ] {
        let bench = bench([error]);
        bench.store.list(ListRequest::default()).await.unwrap_err();
        assert_eq!(*bench.inner.calls.lock(), 1);
    }
}

#[tokio::test]
async fn the_server_is_given_the_time_it_asks_for() {
    let patient = bench([throttled(Some(5))]);
    patient
        .store
        .head(&key(), ReadCondition::None)
        .await
        .unwrap_err();
    assert_eq!(*patient.pauses.taken.lock(), [Duration::from_secs(5)]);
    // Longer than anybody waits: the caller is told at once.
    let hopeless = bench([throttled(Some(60))]);
    let answer = hopeless.store.head(&key(), ReadCondition::None).await;
    assert!(matches!(answer, Err(Throttled { .. })));
    assert!(hopeless.pauses.taken.lock().is_empty());
}

#[tokio::test]
async fn a_write_is_repeated_only_if_it_surely_was_not_done() {
    let lost = bench([unavailable()]);
    assert!(matches!(
        lost.store.put(put()).await,
        Err(Unavailable { .. })
    ));
    assert_eq!(*lost.inner.calls.lock(), 1);
    let lost = bench([unavailable()]);
    lost.store.delete(&key()).await.unwrap_err();
    let refused = bench([throttled(None)]);
    refused.store.put(put()).await.unwrap();
    assert!(refused.pauses.taken.lock()[0] >= Duration::from_millis(1500));
}

#[tokio::test]
async fn a_part_may_be_sent_again() {
    let bench = bench([unavailable(), unavailable()]);
    let upload = upload();
    let part = bench
        .store
        .upload_part(&upload, 1, Bytes::new(), Md5::of(b""));
    part.await.unwrap();
    let pauses = bench.pauses.taken.lock().clone();
    assert_eq!(pauses, [Duration::from_millis(1500); 2]);
}

#[tokio::test]
async fn while_nobody_is_answered_reads_fail_at_once_until_a_probe_is_answered() {
    let bench = bench((0..60).map(|_| unavailable()));
    let list = || bench.store.list(ListRequest::default());
    list().await.unwrap_err();
    assert!(!bench.store.is_reachable());
    let calls = *bench.inner.calls.lock();
    for _ in 0..20 {
        assert!(matches!(list().await, Err(Unavailable { .. })));
    }
    assert_eq!(*bench.inner.calls.lock(), calls);
    // A write may be the one that gets through.
    bench.store.put(put()).await.unwrap_err();
    assert_eq!(*bench.inner.calls.lock(), calls + 1);
    // The probe has its turn now, and asks until the script has ended.
    while !bench.store.is_reachable() {
        tokio::task::yield_now().await;
    }
    list().await.unwrap();
}

#[tokio::test]
async fn who_gives_up_waiting_does_not_hide_an_outage() {
    let bench = bench([]);
    for _ in 0..4 {
        let given_up = Try {
            store: &bench.store,
            class: Class::Read,
            begun: bench.pauses.clock.instant(),
            ended: false,
        };
        bench.pauses.clock.advance(Duration::from_secs(2));
        drop(given_up);
    }
    assert!(!bench.store.is_reachable());
}

#[tokio::test]
async fn failing_writes_alone_are_no_outage() {
    let bench = bench((0..60).map(|_| throttled(Some(4))));
    for _ in 0..4 {
        bench.store.put(put()).await.unwrap_err();
    }
    assert!(bench.store.is_reachable());
}
