//! `R2Store` and `RetryStore` against an R2 that fails: nothing wrong is taken for right, reads
//! get through, and a write whose fate is unknown is reported so, not repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use r2_model::{Connections, Ending, Fault, FaultRule, Operation, R2Model, Reply};
use voicebeatfs::clock::SystemClock;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::retry::{RetryPolicy, RetryStore, SystemSleeper};
use voicebeatfs::store::{ETag, Md5, ObjectHeaders, StoreResult, WriteCondition};

use super::subject::{Subject, key, settings_of};

/// Long enough for a loaded machine, short enough for a test that waits for them.
const TIMEOUTS: R2Timeouts = R2Timeouts {
    connect: Duration::from_secs(2),
    answer: Duration::from_secs(2),
    idle: Duration::from_secs(2),
    upload_answer: Duration::from_secs(2),
    commit: Duration::from_secs(2),
};

/// A store with retries whose pauses are short.
fn subject(model: &R2Model) -> Subject {
    let policy = RetryPolicy {
        reads: Duration::from_secs(60),
        writes: Duration::from_secs(60),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        write_pause: Duration::from_millis(5),
    };
    let store = R2Store::new(&settings_of(model, ""), TIMEOUTS);
    let store = RetryStore::new(
        Arc::new(store),
        policy,
        Arc::new(SystemClock),
        Arc::new(SystemSleeper),
    );
    Subject {
        store: Arc::new(store),
        folder: String::new(),
    }
}

fn count(model: &R2Model, operation: Operation) -> usize {
    let requests = model.requests();
    let same = requests
        .iter()
        .filter(|request| request.operation == operation);
    same.count()
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(Unavailable { .. })), "{result:?}");
}

/// Faults that end a request without harm to what is stored.
fn passing_faults() -> Vec<Fault> {
    vec![
        Fault::too_many_requests(None),
        Fault::too_many_requests(Some(1)),
        Fault::error("InternalError"),
        Fault::reply(Reply::html(502)),
        Fault::reply(Reply::html(520)),
        Fault::reply(Reply::html(200)),
        Fault::reply(Reply::empty(503)),
        Fault::Instead(Ending::Cut),
        Fault::Instead(Ending::Reset),
        Fault::Instead(Ending::Silence(Duration::from_secs(6))),
    ]
}

#[tokio::test]
async fn reads_get_through() {
    let model = R2Model::start();
    model.put("a", "0123456789");
    let subject = subject(&model);
    for fault in passing_faults() {
        let name = fault.name();
        model.add_fault(FaultRule::new(fault).on(&[Operation::ListObjectsV2]).once());
        assert_eq!(subject.names("", false, None).await, ["a"], "{name}");
        assert_eq!(count(&model, Operation::ListObjectsV2), 2, "{name}");
        model.clear_faults();
        model.clear_requests();
    }
}

/// Whatever the body of a GET is like, no byte is given that was not asked for, and an end that
/// came too early is an error.
#[tokio::test]
async fn bodies_are_right_or_fail() {
    let model = R2Model::start();
    let content: Vec<u8> = (0..300_000_u32).map(|i| (i / 13) as u8).collect();
    model.put("a", content.clone());
    let subject = subject(&model);
    let range = 1_000..201_000;
    let wanted = &content[1_000..201_000];
    let faults = [
        (Fault::CutBody(5_000), false),
        (Fault::EndBody(5_000), false),
        (Fault::EndBody(0), false),
        (Fault::RangeEndMoved(-7), true),
        (Fault::RangeEndMoved(7), true),
        (Fault::WholeObject, true),
        (Fault::NoContentLength, true),
        (
            Fault::Stall {
                after: 5_000,
                pause: Duration::from_secs(6),
            },
            false,
        ),
        (Fault::SlowBody(400_000), true),
    ];
    for (fault, succeeds) in faults {
        let name = format!("{fault:?}");
        model.add_fault(FaultRule::new(fault).on(&[Operation::GetObject]).once());
        let found = subject
            .get_if("a", Some(range.clone()), Default::default())
            .await;
        match found {
            Ok(bytes) => assert!(bytes == wanted && succeeds, "{name}: {} bytes", bytes.len()),
            Err(error) => assert!(error.is_transient() && !succeeds, "{name}: {error}"),
        }
        model.clear_faults();
    }
    model.add_fault(FaultRule::new(Fault::NoContentLength).on(&[Operation::GetObject]));
    assert!(subject.get("a").await.unwrap() == content);
}

#[tokio::test]
async fn listings_survive_short_pages() {
    let model = R2Model::start();
    for number in 0..7 {
        model.put(&format!("{number}"), "x");
    }
    let subject = subject(&model);
    let empty = Fault::ShortPage(0);
    model.add_fault(FaultRule::new(empty).on(&[Operation::ListObjectsV2]).nth(2));
    let short = Fault::ShortPage(2);
    model.add_fault(FaultRule::new(short).on(&[Operation::ListObjectsV2]));
    assert_eq!(subject.names("", false, None).await.len(), 7);
}

#[tokio::test]
async fn listings_of_parts_survive_short_pages() {
    let model = R2Model::start();
    let store = subject(&model).store;
    let headers = ObjectHeaders::default();
    let upload = store.create_multipart(&key("a"), headers).await.unwrap();
    let md5 = Md5::of(b"x");
    for number in [1, 2, 3, 5, 8, 13, 21] {
        let body = Bytes::from_static(b"x");
        let part = store.upload_part(&upload, number, body, md5);
        part.await.unwrap();
    }
    let parts = [Operation::ListParts];
    model.add_fault(FaultRule::new(Fault::ShortPage(0)).on(&parts).nth(2));
    model.add_fault(FaultRule::new(Fault::ShortPage(2)).on(&parts));
    let held = store.list_parts(&upload).await.unwrap();
    assert_eq!(
        held.into_keys().collect::<Vec<_>>(),
        [1, 2, 3, 5, 8, 13, 21]
    );
}

/// After a lost answer the caller is told that it was lost, after one try.
#[tokio::test]
async fn writes_of_unknown_fate_are_reported() {
    let endings = || {
        [
            Ending::Cut,
            Ending::Reset,
            Ending::Silence(Duration::from_secs(6)),
            Ending::Reply(Reply::error("InternalError")),
            Ending::Reply(Reply::html(503)),
        ]
    };
    for ending in endings() {
        let model = R2Model::start();
        let subject = subject(&model);
        let tag = ETag::of_md5(Md5::of(b"source"));
        model.put("source", "source");
        for operation in [
            Operation::PutObject,
            Operation::CopyObject,
            Operation::DeleteObject,
        ] {
            let lost = Fault::Lost(ending.clone());
            model.add_fault(FaultRule::new(lost).on(&[operation]).once());
        }
        assert_unavailable(subject.put_if("a", "x", WriteCondition::IfAbsent).await);
        assert_eq!(model.get("a").unwrap().bytes, "x");
        let copy = subject.copy_request("source", &tag, "copy");
        assert_unavailable(subject.store.copy(copy).await);
        assert_eq!(model.get("copy").unwrap().bytes, "source");
        assert_unavailable(subject.store.delete(&subject.key("source")).await);
        assert!(model.get("source").is_none());
        assert_eq!(model.requests().len(), 3, "{ending:?}");
    }
}

/// A 200 that ends in an error, or in nothing, is no success.
#[tokio::test]
async fn success_with_an_error_inside_is_none() {
    for reply in [
        Reply::error_with_status(200, "InternalError"),
        Reply::empty(200),
    ] {
        let model = R2Model::start();
        let subject = subject(&model);
        let tag = subject.put("a", "x").await;
        let instead = Fault::Instead(Ending::Reply(reply));
        model.add_fault(
            FaultRule::new(instead)
                .on(&[Operation::CopyObject, Operation::CompleteMultipartUpload]),
        );
        let copy = subject.copy_request("a", &tag, "b");
        assert_unavailable(subject.store.copy(copy).await);
        let key = subject.key("c");
        let upload = subject
            .store
            .create_multipart(&key, ObjectHeaders::default());
        let upload = upload.await.unwrap();
        let body = Bytes::from_static(b"part");
        let md5 = Md5::of(&body);
        let part = subject
            .store
            .upload_part(&upload, 1, body, md5)
            .await
            .unwrap();
        let always = WriteCondition::Always;
        assert_unavailable(
            subject
                .store
                .complete_multipart(&upload, &[part], always)
                .await,
        );
    }
}

#[tokio::test]
async fn parts_get_through() {
    let model = R2Model::start();
    let subject = subject(&model);
    let key = subject.key("a");
    let upload = subject
        .store
        .create_multipart(&key, ObjectHeaders::default());
    let upload = upload.await.unwrap();
    for fault in passing_faults() {
        model.add_fault(FaultRule::new(fault).on(&[Operation::UploadPart]).once());
    }
    model.add_fault(
        FaultRule::new(Fault::CutUpload(2))
            .on(&[Operation::UploadPart])
            .once(),
    );
    let body = Bytes::from_static(b"part");
    let part = subject
        .store
        .upload_part(&upload, 1, body.clone(), Md5::of(&body));
    let parts = [part.await.unwrap()];
    let done = subject
        .store
        .complete_multipart(&upload, &parts, WriteCondition::IfAbsent);
    done.await.unwrap();
    assert_eq!(model.get("a").unwrap().bytes, body);
}

/// An upload that was cut in the middle stored nothing, and says so as an outage.
#[tokio::test]
async fn a_cut_upload_stores_nothing() {
    let model = R2Model::start();
    let subject = subject(&model);
    model.add_fault(FaultRule::new(Fault::CutUpload(1)).once());
    assert_unavailable(subject.put_if("a", "bytes", WriteCondition::Always).await);
    assert!(model.get("a").is_none());
    model.add_fault(FaultRule::new(Fault::ConditionFails).once());
    let put = subject.put_if("a", "bytes", WriteCondition::IfAbsent).await;
    assert!(matches!(put, Err(PreconditionFailed)), "{put:?}");
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_left_in_time() {
    let model = R2Model::start();
    model.put("a", "x");
    let subject = subject(&model);
    subject.get("a").await.unwrap();
    for connections in [
        Connections::BlackHole,
        Connections::Reset,
        Connections::Refuse,
    ] {
        model.set_connections(connections);
        model.cut_connections();
        let begun = Instant::now();
        assert_unavailable(subject.put_if("b", "x", WriteCondition::Always).await);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    model.restart();
    assert_eq!(subject.get("a").await.unwrap(), "x");
}
