//! Server-side copies.

use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::{ETag, Md5, WriteCondition};

use super::subject::{Subject, behaviours, headers};

behaviours![
    copy_keeps_headers,
    copy_replaces_headers,
    copy_source_changed,
    copy_conditions
];

async fn copy_keeps_headers(subject: Subject) {
    let mut request = subject.put_request("a", "bytes");
    request.headers = headers("audio/flac", &[("voicebeatfs-write-id", "w1")]);
    let tag = subject.store.put(request).await.unwrap();
    let copy = subject.copy_request("a", &tag, "b/c");
    let copied = subject.store.copy(copy).await.unwrap();
    let info = subject.head("b/c").await.unwrap();
    assert_eq!(info.version.etag, copied);
    assert_eq!(info.content_type.as_deref(), Some("audio/flac"));
    assert_eq!(info.metadata["voicebeatfs-write-id"], "w1");
    assert_eq!(subject.get("b/c").await.unwrap(), "bytes");
    assert_eq!(subject.get("a").await.unwrap(), "bytes");
}

async fn copy_replaces_headers(subject: Subject) {
    let mut request = subject.put_request("a", "bytes");
    request.headers = headers("audio/flac", &[("old", "1")]);
    let tag = subject.store.put(request).await.unwrap();
    let mut copy = subject.copy_request("a", &tag, "a");
    copy.headers = Some(headers("audio/wav", &[("new", "2"), ("mode", "384")]));
    copy.condition = WriteCondition::IfMatch(tag);
    let copied = subject.store.copy(copy).await.unwrap();
    let info = subject.head("a").await.unwrap();
    assert_eq!(info.version.etag, copied);
    assert_eq!(info.content_type.as_deref(), Some("audio/wav"));
    assert_eq!(info.metadata["new"], "2");
    assert_eq!(info.metadata["mode"], "384");
    assert!(!info.metadata.contains_key("old"));
    assert_eq!(subject.get("a").await.unwrap(), "bytes");
}

async fn copy_source_changed(subject: Subject) {
    let old = subject.put("a", "one").await;
    subject.put("a", "two").await;
    for source in ["a", "missing"] {
        for condition in [WriteCondition::Always, WriteCondition::IfAbsent] {
            let mut copy = subject.copy_request(source, &old, "b");
            copy.condition = condition;
            let copied = subject.store.copy(copy).await;
            assert!(matches!(copied, Err(SourceChanged)), "{copied:?}");
        }
    }
    assert!(matches!(subject.head("b").await, Err(NotFound)));
}

async fn copy_conditions(subject: Subject) {
    let tag = subject.put("a", "one").await;
    let copy = async |condition| {
        let mut copy = subject.copy_request("a", &tag, "b");
        copy.condition = condition;
        subject.store.copy(copy).await
    };
    let first = copy(WriteCondition::IfAbsent).await.unwrap();
    let second = copy(WriteCondition::IfAbsent).await;
    assert!(matches!(second, Err(PreconditionFailed)), "{second:?}");
    let stale = WriteCondition::IfMatch(ETag::of_md5(Md5::of(b"stale")));
    let third = copy(stale).await;
    assert!(matches!(third, Err(PreconditionFailed)), "{third:?}");
    copy(WriteCondition::IfMatch(first)).await.unwrap();
}
