//! Multipart uploads.

use bytes::Bytes;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::{ETag, HeldPart, Md5, ObjectVersion, StoreResult, Upload, WriteCondition};

use super::subject::{Subject, behaviours, headers, put_request};

behaviours![
    upload_in_parts,
    part_tag_is_md5,
    part_sent_again,
    parts_so_far,
    missing_part,
    parts_of_unequal_size,
    completion_conditions,
    aborted_upload,
    parts_by_copy,
    copied_parts_of_unequal_size,
    part_copy_without_source,
];

/// R2's least size of a part that is not the last.
const PART: usize = 5 * 1024 * 1024;

fn part(fill: u8, size: usize) -> Bytes {
    vec![fill; size].into()
}

async fn begin(subject: &Subject) -> Upload {
    let headers = headers("audio/flac", &[("voicebeatfs-write-id", "w7")]);
    let key = subject.key("a");
    let upload = subject.store.create_multipart(&key, headers);
    upload.await.unwrap()
}

async fn send(subject: &Subject, upload: &Upload, number: u16, body: &Bytes) -> StoreResult<ETag> {
    let md5 = Md5::of(body);
    let part = subject.store.upload_part(upload, number, body.clone(), md5);
    part.await
}

async fn complete(
    subject: &Subject,
    upload: &Upload,
    parts: &[ETag],
    condition: WriteCondition,
) -> StoreResult<ETag> {
    subject
        .store
        .complete_multipart(upload, parts, condition)
        .await
}

async fn upload_in_parts(subject: Subject) {
    let upload = begin(&subject).await;
    let bodies = [part(1, PART), part(2, PART), part(3, 1000)];
    let mut tags = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        tags.push(send(&subject, &upload, number, body).await.unwrap());
    }
    assert!(matches!(subject.head("a").await, Err(NotFound)));
    assert!(subject.names("", false, None).await.is_empty());
    let tag = complete(&subject, &upload, &tags, WriteCondition::IfAbsent).await;
    let info = subject.head("a").await.unwrap();
    assert_eq!(info.version.etag, tag.unwrap());
    assert_eq!(info.version.etag.md5(), None);
    assert_eq!(info.content_type.as_deref(), Some("audio/flac"));
    assert_eq!(info.metadata["voicebeatfs-write-id"], "w7");
    assert!(subject.get("a").await.unwrap() == bodies.concat());
    let again = complete(&subject, &upload, &tags, WriteCondition::Always).await;
    assert!(matches!(again, Err(UploadGone)), "{again:?}");
}

async fn part_tag_is_md5(subject: Subject) {
    let upload = begin(&subject).await;
    let body = part(1, 100);
    let tag = send(&subject, &upload, 1, &body).await.unwrap();
    assert_eq!(tag, ETag::of_md5(Md5::of(&body)));
}

async fn part_sent_again(subject: Subject) {
    let upload = begin(&subject).await;
    let old = send(&subject, &upload, 1, &part(1, 100)).await.unwrap();
    let new = send(&subject, &upload, 1, &part(2, 50)).await.unwrap();
    assert_ne!(old, new);
    complete(&subject, &upload, &[new], WriteCondition::Always)
        .await
        .unwrap();
    assert!(subject.get("a").await.unwrap() == part(2, 50));
}

/// Also the parts that came out of order, and those that were sent twice.
async fn parts_so_far(subject: Subject) {
    let upload = begin(&subject).await;
    let list = || subject.store.list_parts(&upload);
    assert_eq!(list().await.unwrap().len(), 0);
    let body = part(1, PART);
    send(&subject, &upload, 2, &part(2, 10)).await.unwrap();
    send(&subject, &upload, 1, &part(3, 30)).await.unwrap();
    send(&subject, &upload, 1, &body).await.unwrap();
    let held = list().await.unwrap();
    let wanted = [(1, body), (2, part(2, 10))].map(|(number, body)| {
        let etag = ETag::of_md5(Md5::of(&body));
        let size = body.len() as u64;
        (number, HeldPart { size, etag })
    });
    assert_eq!(held, wanted.into());
    subject.store.abort_multipart(&upload).await.unwrap();
    let gone = list().await;
    assert!(matches!(gone, Err(UploadGone)), "{gone:?}");
}

/// Puts an object of a part and a half under a key that has to be encoded in a header.
async fn put_source(subject: &Subject) -> ObjectVersion {
    let body = [part(5, PART), part(6, PART / 2)].concat();
    let name = format!("{}take 1 +ü%41?#&.wav", subject.folder);
    let request = put_request(&name, body.into(), WriteCondition::Always);
    let key = request.key.clone();
    let etag = subject.store.put(request).await.unwrap();
    ObjectVersion { key, etag }
}

async fn parts_by_copy(subject: Subject) {
    let source = put_source(&subject).await;
    let upload = begin(&subject).await;
    let store = &subject.store;
    let range = 1000..1000 + PART as u64;
    let tags = [
        store.upload_part_copy(&upload, 1, &source, range).await,
        send(&subject, &upload, 2, &part(7, PART)).await,
        store.upload_part_copy(&upload, 3, &source, 10..60).await,
    ];
    let tags = tags.map(|tag| tag.unwrap());
    complete(&subject, &upload, &tags, WriteCondition::IfAbsent)
        .await
        .unwrap();
    let expected = [
        part(5, PART - 1000),
        part(6, 1000),
        part(7, PART),
        part(5, 50),
    ];
    assert!(subject.get("a").await.unwrap() == expected.concat());
    let info = subject.head("a").await.unwrap();
    assert_eq!(info.metadata["voicebeatfs-write-id"], "w7");
}

async fn copied_parts_of_unequal_size(subject: Subject) {
    let source = put_source(&subject).await;
    let upload = begin(&subject).await;
    let mut tags = Vec::new();
    for (number, size) in (1..).zip([PART, PART + 1, 10]) {
        let range = 0..size as u64;
        let copied = subject
            .store
            .upload_part_copy(&upload, number, &source, range);
        tags.push(copied.await.unwrap());
    }
    let done = complete(&subject, &upload, &tags, WriteCondition::Always).await;
    assert!(matches!(done, Err(Refused(_))), "{done:?}");
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}

async fn part_copy_without_source(subject: Subject) {
    let source = put_source(&subject).await;
    let upload = begin(&subject).await;
    let beyond = 2 * PART as u64..3 * PART as u64;
    let store = &subject.store;
    let copied = store.upload_part_copy(&upload, 1, &source, beyond).await;
    assert!(matches!(copied, Err(SourceChanged)), "{copied:?}");
    store.delete(&source.key).await.unwrap();
    let copied = store.upload_part_copy(&upload, 1, &source, 0..10).await;
    assert!(matches!(copied, Err(SourceChanged)), "{copied:?}");
    store.abort_multipart(&upload).await.unwrap();
    let copied = store.upload_part_copy(&upload, 1, &source, 0..10).await;
    assert!(copied.is_err(), "{copied:?}");
}

async fn missing_part(subject: Subject) {
    let upload = begin(&subject).await;
    let first = send(&subject, &upload, 1, &part(1, PART)).await.unwrap();
    let never = ETag::of_md5(Md5::of(b"never sent"));
    let done = complete(&subject, &upload, &[first, never], WriteCondition::Always).await;
    assert!(matches!(done, Err(Refused(_))), "{done:?}");
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}

async fn parts_of_unequal_size(subject: Subject) {
    let upload = begin(&subject).await;
    let mut tags = Vec::new();
    for (number, size) in (1..).zip([PART, PART + 1, 10]) {
        tags.push(
            send(&subject, &upload, number, &part(1, size))
                .await
                .unwrap(),
        );
    }
    let done = complete(&subject, &upload, &tags, WriteCondition::Always).await;
    assert!(matches!(done, Err(Refused(_))), "{done:?}");
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}

/// A failed condition also ends the upload.
async fn completion_conditions(subject: Subject) {
    let other = subject.put("a", "other").await;
    let stale = ETag::of_md5(Md5::of(b"stale"));
    for condition in [WriteCondition::IfAbsent, WriteCondition::IfMatch(stale)] {
        let upload = begin(&subject).await;
        let tag = send(&subject, &upload, 1, &part(1, 10)).await.unwrap();
        let done = complete(&subject, &upload, std::slice::from_ref(&tag), condition).await;
        assert!(matches!(done, Err(PreconditionFailed)), "{done:?}");
        assert_eq!(subject.get("a").await.unwrap(), "other");
        let again = complete(&subject, &upload, &[tag], WriteCondition::Always).await;
        assert!(matches!(again, Err(UploadGone)), "{again:?}");
    }
    let upload = begin(&subject).await;
    let tag = send(&subject, &upload, 1, &part(1, 10)).await.unwrap();
    complete(&subject, &upload, &[tag], WriteCondition::IfMatch(other))
        .await
        .unwrap();
}

async fn aborted_upload(subject: Subject) {
    let upload = begin(&subject).await;
    send(&subject, &upload, 1, &part(1, 10)).await.unwrap();
    for _ in 0..2 {
        subject.store.abort_multipart(&upload).await.unwrap();
    }
    let sent = send(&subject, &upload, 1, &part(1, 10)).await;
    assert!(matches!(sent, Err(UploadGone)), "{sent:?}");
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}
