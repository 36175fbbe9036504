//! What `R2Store` makes of answers, good and bad, and what `RetryStore` makes of them then.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use voicebeatfs::clock::SystemClock;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::r2::R2Store;
use voicebeatfs::store::retry::{RetryPolicy, RetryStore, SystemSleeper};
use voicebeatfs::store::{
    CopyRequest, ETag, GetRequest, GetResponse, ListRequest, ObjectInfo, ObjectStore,
    ObjectVersion, ReadCondition, StoreError, StoreResult, Upload, WriteCondition,
};

use super::canned::{Answer, Canned, TIMEOUTS, answer, error, head, settings, text};
use super::subject::{collect, key, put_request};

const TAG: &str = "etag: \"t\"";

async fn head_of(answer: Answer) -> StoreResult<ObjectInfo> {
    let canned = Canned::start([answer]).await;
    canned.store.head(&key("k"), ReadCondition::None).await
}

async fn list_of(answer: Answer) -> StoreError {
    let canned = Canned::start([answer]).await;
    let answer = canned.store.list(ListRequest::default()).await;
    answer.unwrap_err()
}

async fn get_of(range: Option<(u64, u64)>, answers: Vec<Answer>) -> StoreResult<GetResponse> {
    let canned = Canned::start(answers).await;
    let request = GetRequest {
        key: key("k"),
        range: range.map(|(start, end)| start..end),
        condition: ReadCondition::IfMatch(ETag::new("\"t\"")),
    };
    canned.store.get(request).await
}

async fn bytes_of(range: Option<(u64, u64)>, answers: Vec<Answer>) -> StoreResult<Bytes> {
    collect(get_of(range, answers).await?).await
}

fn copy_request() -> CopyRequest {
    CopyRequest {
        source: ObjectVersion {
            key: key("a"),
            etag: ETag::new("\"t\""),
        },
        destination: key("b"),
        condition: WriteCondition::Always,
        headers: None,
    }
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(Unavailable { .. })), "{result:?}");
}

#[tokio::test]
async fn throttling_tells_how_long() {
    let error_with = |headers| error("429 Too Many Requests", "TooManyRequests", headers);
    let found = list_of(error_with(&["retry-after: 5"])).await;
    assert!(matches!(found, Throttled { retry_after: Some(wait) } if wait.as_secs() == 5));
    let found = list_of(error_with(&[])).await;
    assert!(matches!(found, Throttled { retry_after: None }));
    // HEAD: no body, so no code.
    let found = head_of(answer("429 Too Many Requests", &[], "")).await;
    assert!(matches!(found, Err(Throttled { .. })), "{found:?}");
}

#[tokio::test]
async fn the_edges_own_pages_are_no_answers() {
    let page = "<!DOCTYPE html><html><body>502 Bad gateway";
    for status in [
        "502 Bad Gateway",
        "520 X",
        "524 X",
        "503 X",
        "200 OK",
        "404 Not Found",
    ] {
        let found = list_of(answer(status, &["cf-ray: 8f1-AMS"], page)).await;
        let shown = found.to_string();
        assert!(matches!(found, Unavailable { .. }), "{status}: {found:?}");
        assert!(shown.contains("cf-ray 8f1-AMS"), "{status}: {shown}");
    }
}

#[tokio::test]
async fn rights_and_secrets_are_told_apart() {
    let found = list_of(error("401 Unauthorized", "Unauthorized", &[])).await;
    assert!(matches!(found, UnknownCredentials(_)), "{found:?}");
    let found = list_of(error("403 Forbidden", "SignatureDoesNotMatch", &[])).await;
    assert!(matches!(found, WrongSecret(_)), "{found:?}");
    let found = list_of(error("403 Forbidden", "AccessDenied", &[])).await;
    assert!(matches!(found, Denied(_)), "{found:?}");
    let found = list_of(error("404 Not Found", "NoSuchBucket", &[])).await;
    assert!(matches!(found, NoSuchBucket(_)), "{found:?}");
    let date = "date: Tue, 15 Nov 1994 08:12:31 GMT";
    let found = list_of(error("403 Forbidden", "RequestTimeTooSkewed", &[date])).await;
    assert!(
        matches!(&found, ClockSkew(text) if text.contains("ahead")),
        "{found:?}"
    );
    let found = list_of(error("403 Forbidden", "ObjectLockedByBucketPolicy", &[])).await;
    assert!(matches!(found, Locked(_)), "{found:?}");
}

#[tokio::test]
async fn success_must_have_a_result() {
    let failed = || error("200 OK", "InternalError", &[]);
    let empty = || answer("200 OK", &[], "");
    let upload = Upload {
        key: key("a"),
        id: "u".into(),
    };
    for make in [failed as fn() -> Answer, empty] {
        let canned = Canned::start([make(), make()]).await;
        assert_unavailable(canned.store.copy(copy_request()).await);
        let parts = [ETag::new("\"t\"")];
        let done = canned
            .store
            .complete_multipart(&upload, &parts, WriteCondition::Always);
        assert_unavailable(done.await);
    }
}

#[tokio::test]
async fn bodies_are_counted() {
    let short = text("200 OK", &[TAG], "0123456789");
    let short = short.strip_suffix("56789").unwrap().to_owned();
    assert!(bytes_of(None, vec![Answer::Send(short)]).await.is_err());
    let cut = head("206 Partial Content", &[TAG, "content-range: bytes 0-9/10"]) + "01234";
    let found = bytes_of(Some((0, 10)), vec![Answer::Send(cut)]).await;
    assert!(matches!(found, Err(Damaged(_))), "{found:?}");
    let long = head("206 Partial Content", &[TAG, "content-range: bytes 0-3/10"]) + "01234";
    let found = bytes_of(Some((0, 4)), vec![Answer::Send(long)]).await;
    assert!(matches!(found, Err(Damaged(_))), "{found:?}");
}

#[tokio::test]
async fn ranges_are_checked() {
    let partial = |range: &str, body: &str| {
        let range = format!("content-range: bytes {range}");
        vec![answer("206 Partial Content", &[TAG, &range], body)]
    };
    let found = bytes_of(Some((2, 5)), partial("2-4/10", "234")).await;
    assert_eq!(found.unwrap(), "234");
    for (range, body) in [
        ("1-3/10", "123"),
        ("2-3/10", "23"),
        ("2-5/10", "2345"),
        ("2-4/10", "23"),
    ] {
        let found = bytes_of(Some((2, 5)), partial(range, body)).await;
        assert!(matches!(found, Err(Damaged(_))), "{range}: {found:?}");
    }
    // The whole object in place of its part.
    let whole = |tag| vec![answer("200 OK", &[tag], "0123456789")];
    for (range, bytes) in [((2, 5), "234"), ((0, 3), "012"), ((8, 99), "89")] {
        assert_eq!(bytes_of(Some(range), whole(TAG)).await.unwrap(), bytes);
    }
    let found = bytes_of(Some((2, 5)), whole("etag: \"other\"")).await;
    assert!(matches!(found, Err(Damaged(_))), "{found:?}");
}

#[tokio::test]
async fn a_missing_length_is_asked_for() {
    let chunked = || {
        let headers = [TAG, "transfer-encoding: chunked"];
        Answer::Send(head("200 OK", &headers) + "4\r\n0123\r\n0\r\n\r\n")
    };
    let size = || Answer::Send(head("200 OK", &[TAG, "content-length: 4"]));
    let found = bytes_of(None, vec![chunked(), chunked(), size()]).await;
    assert_eq!(found.unwrap(), "0123");
    let wrong = || Answer::Send(head("200 OK", &[TAG, "content-length: 5"]));
    let found = bytes_of(None, vec![chunked(), chunked(), wrong()]).await;
    assert!(matches!(found, Err(Damaged(_))), "{found:?}");
}

#[tokio::test]
async fn broken_connections_are_outages() {
    assert_unavailable(head_of(Answer::Cut).await);
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let store = R2Store::new(&settings(refused), TIMEOUTS);
    assert_unavailable(store.head(&key("k"), ReadCondition::None).await);
    let request = put_request("k", Bytes::from_static(b"x"), WriteCondition::Always);
    assert_unavailable(store.put(request).await);
}

#[tokio::test]
async fn nobody_waits_for_silence() {
    let begun = Instant::now();
    assert_unavailable(head_of(Answer::Ignore).await);
    let stalled = text("200 OK", &[TAG], "0123456789");
    let stalled = stalled.strip_suffix("56789").unwrap().to_owned();
    assert_unavailable(bytes_of(None, vec![Answer::Stall(stalled)]).await);
    let canned = Canned::start([Answer::Ignore]).await;
    let body = vec![0; 64 << 20].into();
    assert_unavailable(
        canned
            .store
            .put(put_request("k", body, WriteCondition::Always))
            .await,
    );
    let canned = Canned::start([Answer::Ignore]).await;
    assert_unavailable(canned.store.copy(copy_request()).await);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// An upload may take longer than any single wait.
#[tokio::test]
async fn a_slow_upload_that_moves_is_waited_for() {
    let done = text("200 OK", &[TAG], "");
    let canned = Canned::start([Answer::ReadSlowly(400_000, done)]).await;
    let begun = Instant::now();
    let body = vec![0; 24 << 20].into();
    let request = put_request("k", body, WriteCondition::Always);
    canned.store.put(request).await.unwrap();
    assert!(begun.elapsed() > TIMEOUTS.idle, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_listing_that_would_not_end_is_damaged() {
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let found = list_of(answer("200 OK", &[], page)).await;
    assert!(matches!(found, Damaged(_)), "{found:?}");
}

#[tokio::test]
async fn a_listing_that_was_cut_off_is_damaged() {
    let page = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key>\
                <ETag>\"t\"</ETag></Contents><Contents><Key>";
    let found = list_of(answer("200 OK", &[], page)).await;
    assert!(matches!(found, Damaged(_)), "{found:?}");
}

#[tokio::test]
async fn retries_ride_out_a_bad_minute() {
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let canned = Canned::start([
        answer("502 Bad Gateway", &[], "<html>"),
        Answer::Cut,
        error("429 Too Many Requests", "TooManyRequests", &[]),
        answer("200 OK", &[], listing),
    ])
    .await;
    let policy = RetryPolicy {
        first_pause: Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    let store = RetryStore::new(
        Arc::new(canned.store),
        policy,
        Arc::new(SystemClock),
        Arc::new(SystemSleeper),
    );
    store.list(ListRequest::default()).await.unwrap();
    assert_eq!(canned.requests.lock().len(), 3);
}

#[tokio::test]
async fn the_time_is_what_answers_give_as_their_date() {
    let date = "date: Tue, 24 Nov 2026 11:51:55 GMT";
    let headers = [TAG, "content-length: 4", date];
    let canned = Canned::start([
        Answer::Send(head("200 OK", &headers)),
        error("404 Not Found", "NoSuchKey", &[]),
    ])
    .await;
    assert_eq!(canned.store.time(), None);
    let told = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_521_115);
    // The second tells none.
    for _ in 0..2 {
        let _ = canned.store.head(&key("k"), ReadCondition::None).await;
        let since = canned.store.time().unwrap().duration_since(told);
        assert!(since.unwrap() < Duration::from_secs(60));
    }
}
