//! Writing, reading and deleting single objects.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::attributes::FileAttributes;
use voicebeatfs::store::xattrs::Xattrs;
use voicebeatfs::store::{ETag, Md5, ReadCondition};

use super::subject::{Subject, behaviours, headers};

behaviours![
    put_then_get,
    large_body,
    empty_object,
    missing_object,
    overwrite,
    delete,
    ranges,
    wrong_md5,
    attributes,
    tag_is_md5,
    names_of_all_kinds,
    control_characters,
    longest_key,
    spellings,
];

async fn put_then_get(subject: Subject) {
    let mut request = subject.put_request("a.wav", "RIFF");
    request.headers = headers(
        "audio/wav",
        &[("voicebeatfs-write-id", "w1"), ("other", "x y")],
    );
    let before = SystemTime::now() - Duration::from_secs(2);
    let tag = subject.store.put(request).await.unwrap();
    let info = subject.head("a.wav").await.unwrap();
    assert_eq!(info.version.key, subject.key("a.wav"));
    assert_eq!(info.version.etag, tag);
    assert_eq!(info.size, 4);
    assert_eq!(info.content_type.as_deref(), Some("audio/wav"));
    assert_eq!(info.metadata["voicebeatfs-write-id"], "w1");
    assert_eq!(info.metadata["other"], "x y");
    assert!(info.last_modified >= before);
    assert_eq!(subject.get("a.wav").await.unwrap(), "RIFF");
}

/// Bodies of several chunks arrive as they are, without any framing, also over plain HTTP.
async fn large_body(subject: Subject) {
    let body: Vec<u8> = (0..3_000_001_u32).map(|i| (i / 7) as u8).collect();
    let body = Bytes::from(body);
    let mut request = subject.put_request("a", "");
    request.md5 = Md5::of(&body);
    request.body = body.clone();
    subject.store.put(request).await.unwrap();
    assert!(subject.get("a").await.unwrap() == body);
}

async fn empty_object(subject: Subject) {
    subject.put("a", "").await;
    assert_eq!(subject.head("a").await.unwrap().size, 0);
    assert_eq!(subject.get("a").await.unwrap(), "");
    let range = subject.get_if("a", Some(0..1), ReadCondition::None).await;
    assert!(matches!(range, Err(InvalidRange)), "{range:?}");
}

async fn missing_object(subject: Subject) {
    assert!(matches!(subject.head("a").await, Err(NotFound)));
    assert!(matches!(subject.get("a").await, Err(NotFound)));
    subject.put("a/b", "").await;
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}

async fn overwrite(subject: Subject) {
    let old = subject.put("a", "one").await;
    let new = subject.put("a", "two").await;
    assert_ne!(old, new);
    assert_eq!(subject.get("a").await.unwrap(), "two");
}

async fn delete(subject: Subject) {
    subject.put("a", "x").await;
    for _ in 0..2 {
        subject.store.delete(&subject.key("a")).await.unwrap();
        assert!(matches!(subject.head("a").await, Err(NotFound)));
    }
    subject.store.delete(&subject.key("b/c")).await.unwrap();
}

async fn ranges(subject: Subject) {
    subject.put("a", "0123456789").await;
    for (range, bytes) in [
        (0..10, "0123456789"),
        (2..5, "234"),
        (9..10, "9"),
        (8..99, "89"),
    ] {
        let found = subject.get_if("a", Some(range), ReadCondition::None).await;
        assert_eq!(found.unwrap(), bytes);
    }
    for range in [10..11, 99..100] {
        let found = subject.get_if("a", Some(range), ReadCondition::None).await;
        assert!(matches!(found, Err(InvalidRange)), "{found:?}");
    }
}

async fn wrong_md5(subject: Subject) {
    let mut request = subject.put_request("a", "x");
    request.md5 = Md5::of(b"y");
    let error = subject.store.put(request).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(matches!(subject.head("a").await, Err(NotFound)));
}

async fn attributes(subject: Subject) {
    let attributes = FileAttributes {
        mtime: Some(SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 1)),
        mode: Some(0o640),
        uid: Some(1000),
        gid: Some(100),
        xattrs: Some(Xattrs::default().with("user.mood", b"sad")),
    };
    let mut request = subject.put_request("a", "x");
    attributes.add_to(&mut request.headers.metadata);
    subject.store.put(request).await.unwrap();
    let info = subject.head("a").await.unwrap();
    assert_eq!(FileAttributes::from_metadata(&info.metadata), attributes);
}

async fn tag_is_md5(subject: Subject) {
    let tag = subject.put("a", "x").await;
    assert_eq!(tag, ETag::of_md5(Md5::of(b"x")));
    assert_eq!(tag.md5(), Some(Md5::of(b"x")));
}

/// Every name goes through a URL, a header (as copy source) and a listing.
async fn names_of_all_kinds(subject: Subject) {
    let names = [
        " leading and trailing ",
        "plus+percent%2Bquestion?hash#and&eq=",
        "quotes'\"<>`{}|\\^[]",
        "semi;colon:comma,at@dollar$star*(paren)!~",
        "Größe ✓ 音声 🎹",
        "%",
        "a%zz",
        "deep/er/and deeper/x.wav",
        "..dots..",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let tag = subject.put(name, name).await;
        assert_eq!(subject.get(name).await.unwrap(), name);
        assert_eq!(subject.head(name).await.unwrap().version.etag, tag);
        let found = subject.names(name, false, None).await;
        assert_eq!(found, [name]);
        let copy = format!("copy {number} {name}");
        let request = subject.copy_request(name, &tag, &copy);
        subject.store.copy(request).await.unwrap();
        assert_eq!(subject.get(&copy).await.unwrap(), name);
        subject.store.delete(&subject.key(name)).await.unwrap();
        assert!(matches!(subject.head(name).await, Err(NotFound)));
    }
}

async fn control_characters(subject: Subject) {
    let name = "new\nline\ttab\u{1}\u{7f}";
    subject.put(name, "x").await;
    assert_eq!(subject.get(name).await.unwrap(), "x");
    assert_eq!(subject.names("", false, None).await, [name]);
}

async fn longest_key(subject: Subject) {
    let name = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    let left = 1024 - subject.folder.len() - name.len() - 1;
    let name = format!("{name}/{}", "é/".repeat(left / 3));
    let name = format!("{name}{}", "x".repeat(left - left / 3 * 3));
    let name = name.trim_end_matches('/');
    subject.put(name, "x").await;
    assert_eq!(subject.get(name).await.unwrap(), "x");
    assert_eq!(subject.names("", false, None).await, [name]);
}

/// R2 compares keys in NFC and lists them as last written.
async fn spellings(subject: Subject) {
    subject.put("Gr\u{f6}\u{df}e", "one").await;
    subject.put("Gro\u{308}\u{df}e", "two").await;
    assert_eq!(subject.get("Gr\u{f6}\u{df}e").await.unwrap(), "two");
    assert_eq!(subject.names("", false, None).await.len(), 1);
}
