//! What `R2Store` sends, as the R2 model receives it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use r2_model::{Operation, Permission, R2Model, RetryAfter, Token};
use voicebeatfs::clock::SystemClock;
use voicebeatfs::config::Secret;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::retry::{RetryPolicy, RetryStore, SystemSleeper};
use voicebeatfs::store::{
    ListRequest, ObjectStore, ReadCondition, StoreError, StoreResult, WriteCondition,
};

use super::subject::{Subject, of_model, put_request, settings_of};

fn subject(store: impl ObjectStore + 'static) -> Subject {
    Subject {
        store: Arc::new(store),
        folder: String::new(),
    }
}

/// Cloudflare's service refuses or garbles what the SDK adds by default.
#[tokio::test]
async fn requests_carry_nothing_that_r2_dislikes() {
    let model = R2Model::start();
    let subject = subject(of_model(&model, ""));
    let tag = subject.put("a", "bytes").await;
    subject.get("a").await.unwrap();
    let copy = subject.copy_request("a", &tag, "b");
    subject.store.copy(copy).await.unwrap();
    subject.names("", false, None).await;
    subject.store.delete(&subject.key("a")).await.unwrap();
    let requests = model.requests();
    assert_eq!(requests.len(), 5);
    for request in &requests {
        for (name, value) in &request.headers {
            let refused = name.starts_with("x-amz-checksum")
                || name.starts_with("x-amz-trailer")
                || name.starts_with("x-amz-sdk-checksum")
                || ["accept-encoding", "expect", "transfer-encoding"].contains(&name.as_str())
                || value.contains("aws-chunked");
            assert!(!refused, "{:?}: {name}: {value}", request.operation);
        }
    }
    let put = &requests[0];
    assert_eq!(put.header("content-length"), Some("5"));
    assert_eq!(put.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert_eq!(put.header("content-md5"), Some("SzpiGLs+OnMD6KFxpg/Pkg=="));
    assert_eq!(requests[3].parameter("encoding-type"), Some("url"));
}

#[tokio::test]
async fn keys_are_relative_to_the_prefix() {
    let model = R2Model::start();
    model.put("outside", "x");
    model.put("team/", "");
    let subject = subject(of_model(&model, "team/"));
    let tag = subject.put("a/b", "x").await;
    let copy = subject.copy_request("a/b", &tag, "c");
    subject.store.copy(copy).await.unwrap();
    assert_eq!(model.keys(), ["outside", "team/", "team/a/b", "team/c"]);
    assert_eq!(subject.names("", false, None).await, ["a/b", "c"]);
    assert_eq!(subject.names("", true, Some(1)).await, ["c", "a/"]);
}

/// The stored bytes are read, whatever coding somebody gave them.
#[tokio::test]
async fn encoded_objects_are_read_as_stored() {
    let model = R2Model::start();
    let plain = "the plain text, longer than what is stored";
    model.put_encoded("a", "0123456789", plain, "gzip");
    let subject = subject(of_model(&model, ""));
    assert_eq!(subject.head("a").await.unwrap().size, 10);
    assert_eq!(subject.get("a").await.unwrap(), "0123456789");
    let found = subject.get_if("a", Some(2..5), ReadCondition::None).await;
    assert_eq!(found.unwrap(), "234");
    // New metadata must not make the bytes unreadable for others.
    let tag = subject.head("a").await.unwrap().version.etag;
    let mut copy = subject.copy_request("a", &tag, "a");
    copy.headers = Some(super::subject::headers("text/plain", &[("mode", "420")]));
    subject.store.copy(copy).await.unwrap();
    let copied = model.requests().pop().unwrap();
    assert_eq!(copied.operation, Operation::CopyObject);
    assert_eq!(copied.header("content-encoding"), Some("gzip"));
}

/// R2 takes no condition on the source of a part (501), and the range includes its last byte.
#[tokio::test]
async fn a_part_copy_names_its_source_and_its_range_and_nothing_else() {
    let model = R2Model::builder().min_part_bytes(1).start();
    model.put("team/a + ü", "0123456789");
    let subject = subject(of_model(&model, "team/"));
    let headers = super::subject::headers("audio/wav", &[]);
    let target = subject.key("b");
    let upload = subject.store.create_multipart(&target, headers);
    let upload = upload.await.unwrap();
    let source = subject.head("a + ü").await.unwrap().version;
    let part = subject.store.upload_part_copy(&upload, 1, &source, 2..6);
    let tags = [part.await.unwrap()];
    let sent = model.requests().pop().unwrap();
    assert_eq!(sent.operation, Operation::UploadPartCopy);
    let encoded = format!("{}/team/a%20%2B%20%C3%BC", model.bucket());
    assert_eq!(sent.header("x-amz-copy-source"), Some(encoded.as_str()));
    assert_eq!(sent.header("x-amz-copy-source-range"), Some("bytes=2-5"));
    let condition = "x-amz-copy-source-if-";
    assert!(
        !sent
            .headers
            .iter()
            .any(|(name, _)| name.starts_with(condition))
    );
    let done = subject
        .store
        .complete_multipart(&upload, &tags, WriteCondition::IfAbsent);
    done.await.unwrap();
    assert_eq!(subject.get("b").await.unwrap(), "2345");
}

#[tokio::test]
async fn what_is_too_much_for_one_request_is_too_large() {
    let model = R2Model::builder().max_request_bytes(4).start();
    model.put("large", "12345");
    let subject = subject(of_model(&model, ""));
    let too_large = |result: StoreResult<_>| assert!(matches!(result, Err(TooLarge(_))));
    too_large(subject.put_if("a", "12345", WriteCondition::Always).await);
    let large = subject.head("large").await.unwrap().version;
    let copy = subject.copy_request("large", &large.etag, "a");
    too_large(subject.store.copy(copy).await);
    let headers = super::subject::headers("audio/wav", &[]);
    let target = subject.key("a");
    let upload = subject.store.create_multipart(&target, headers);
    let upload = upload.await.unwrap();
    let body = Bytes::from("12345");
    let md5 = voicebeatfs::store::Md5::of(&body);
    too_large(subject.store.upload_part(&upload, 1, body, md5).await);
    let part = subject.store.upload_part_copy(&upload, 1, &large, 0..5);
    too_large(part.await);
    let part = subject.store.upload_part_copy(&upload, 1, &large, 0..4);
    part.await.unwrap();
}

async fn list(settings: voicebeatfs::config::R2Settings) -> StoreResult<()> {
    let store = R2Store::new(&settings, R2Timeouts::default());
    store.list(ListRequest::default()).await.map(drop)
}

#[tokio::test]
async fn credentials_are_told_apart() {
    let model = R2Model::builder()
        .other_bucket("theirs")
        .token(Token::new("reader", "r", Permission::ObjectReadOnly))
        .token(Token::new("bound", "b", Permission::ObjectReadWrite).for_buckets(&["theirs"]))
        .start();
    let right = settings_of(&model, "");
    list(right.clone()).await.unwrap();
    let with = |access_key_id: &str, secret: &str, bucket: &str| {
        let mut settings = right.clone();
        settings.credentials.access_key_id = access_key_id.into();
        settings.credentials.secret_access_key = Secret::new(secret);
        settings.bucket = bucket.into();
        settings
    };
    let (id, secret) = (model.access_key(), model.secret_key());
    let bucket = model.bucket();
    let found = list(with("nobody", secret, bucket)).await;
    assert!(matches!(found, Err(UnknownCredentials(_))), "{found:?}");
    let found = list(with(id, "wrong", bucket)).await;
    assert!(matches!(found, Err(WrongSecret(_))), "{found:?}");
    let found = list(with("bound", "b", bucket)).await;
    assert!(matches!(found, Err(Denied(_))), "{found:?}");
    let found = list(with(id, secret, "no-such-bucket")).await;
    assert!(matches!(found, Err(NoSuchBucket(_))), "{found:?}");
    let reader = with("reader", "r", bucket);
    list(reader.clone()).await.unwrap();
    let reader = subject(R2Store::new(&reader, R2Timeouts::default()));
    let found = reader.put_if("a", "x", WriteCondition::Always).await;
    assert!(matches!(found, Err(Denied(_))), "{found:?}");
}

#[tokio::test]
async fn temporary_credentials_bring_their_token() {
    let token = Token::new("temporary", "s", Permission::ObjectReadWrite);
    let token = token.session("session", Duration::from_secs(600));
    let model = R2Model::builder().token(token).start();
    let mut settings = settings_of(&model, "");
    settings.credentials.access_key_id = "temporary".into();
    settings.credentials.secret_access_key = Secret::new("s");
    assert!(list(settings.clone()).await.is_err());
    settings.credentials.session_token = Some(Secret::new("session"));
    list(settings).await.unwrap();
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let model = R2Model::start();
    let subject = subject(of_model(&model, ""));
    subject.put("a", "x").await;
    model.stop();
    let found = subject.get("a").await;
    assert!(matches!(found, Err(Unavailable { .. })), "{found:?}");
    model.restart();
    assert_eq!(subject.get("a").await.unwrap(), "x");
}

#[tokio::test]
async fn hurried_writes_are_spaced() {
    let model = R2Model::builder()
        .too_many_requests(RetryAfter::Absent)
        .start();
    let retry = RetryStore::new(
        Arc::new(of_model(&model, "")),
        RetryPolicy::default(),
        Arc::new(SystemClock),
        Arc::new(SystemSleeper),
    );
    let body = Bytes::from_static(b"x");
    let put = || put_request("a", body.clone(), WriteCondition::Always);
    let begun = Instant::now();
    retry.put(put()).await.unwrap();
    retry.put(put()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    assert_eq!(model.write_rate_violations().len(), 1);
    let plain: StoreResult<_> = of_model(&model, "").put(put()).await;
    assert!(
        matches!(plain, Err(StoreError::Throttled { .. })),
        "{plain:?}"
    );
}
