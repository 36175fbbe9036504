//! What only a directory has; what all stores have in common is in `tests/store_contract.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;

use super::*;
use crate::store::ObjectVersion;
use crate::store::attributes::FileAttributes;

fn store() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (dir, store)
}

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn put(name: &str, body: &str, condition: WriteCondition) -> PutRequest {
    let body = Bytes::from(body.to_owned());
    PutRequest {
        key: key(name),
        md5: Md5::of(&body),
        body,
        condition,
        headers: ObjectHeaders::default(),
    }
}

async fn names(store: &LocalStore, prefix: &str, delimited: bool) -> Vec<String> {
    let request = ListRequest {
        prefix: prefix.into(),
        delimited,
        ..ListRequest::default()
    };
    let page = store.list(request).await.unwrap();
    let objects = page
        .objects
        .iter()
        .map(|object| object.version.key.to_string());
    objects.chain(page.prefixes).collect()
}

async fn read(store: &LocalStore, name: &str) -> StoreResult<Vec<u8>> {
    let request = GetRequest {
        key: key(name),
        range: None,
        condition: ReadCondition::None,
    };
    let response = store.get(request).await?;
    let chunks: Vec<Bytes> = response.body.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn no_key_leads_out_of_the_tree() {
    let (dir, store) = store();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    for name in [
        "link/secret",
        "file",
        "../secret",
        "a/../../secret",
        "/etc/passwd",
    ] {
        let found = read(&store, name).await;
        assert!(
            matches!(found, Err(StoreError::NotFound)),
            "{name}: {found:?}"
        );
    }
    for name in ["link/new", "../new", "link/"] {
        let written = store.put(put(name, "", WriteCondition::Always)).await;
        assert!(
            matches!(written, Err(StoreError::Refused(_))),
            "{name}: {written:?}"
        );
    }
    store.delete(&key("link/secret")).await.unwrap();
    assert!(outside.path().join("secret").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(names(&store, "", false).await.is_empty());
    // A link is replaced as a name, not followed.
    store
        .put(put("file", "y", WriteCondition::Always))
        .await
        .unwrap();
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
    assert_eq!(read(&store, "file").await.unwrap(), b"y");
}

#[tokio::test]
async fn files_that_were_there_before_are_objects() {
    let (dir, store) = store();
    fs::create_dir_all(dir.path().join("segments/empty")).unwrap();
    fs::write(dir.path().join("segments/a.wav"), "RIFF").unwrap();
    let listed = names(&store, "", false).await;
    assert_eq!(listed, ["segments/", "segments/a.wav", "segments/empty/"]);
    let info = store
        .head(&key("segments/a.wav"), ReadCondition::None)
        .await
        .unwrap();
    assert_eq!(info.content_type.as_deref(), Some("audio/wav"));
    assert_eq!(info.size, 4);
    assert!(is_local_tag(&info.version.etag));
    // Folders that somebody else made stay when they become empty.
    store.delete(&key("segments/a.wav")).await.unwrap();
    store.delete(&key("segments/empty/")).await.unwrap();
    assert!(dir.path().join("segments").is_dir());
    assert!(!dir.path().join("segments/empty").exists());
}

#[tokio::test]
async fn folders_made_for_a_file_go_with_it() {
    let (dir, store) = store();
    store
        .put(put("a/b/c", "", WriteCondition::Always))
        .await
        .unwrap();
    store
        .put(put("a/m/", "", WriteCondition::Always))
        .await
        .unwrap();
    assert_eq!(names(&store, "", false).await, ["a/b/c", "a/m/"]);
    store.delete(&key("a/b/c")).await.unwrap();
    assert_eq!(names(&store, "", false).await, ["a/m/"]);
    store.delete(&key("a/m/")).await.unwrap();
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn a_tag_changes_with_the_content_whoever_changes_it() {
    let (dir, store) = store();
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let attributes = FileAttributes {
        mtime: Some(mtime),
        mode: Some(0o640),
        ..FileAttributes::default()
    };
    let mut request = put("a", "one", WriteCondition::Always);
    attributes.add_to(&mut request.headers.metadata);
    let mut tags = Vec::new();
    for body in ["one", "two", "one"] {
        request.body = Bytes::from_static(body.as_bytes());
        request.md5 = Md5::of(&request.body);
        tags.push(store.put(request.clone()).await.unwrap());
    }
    fs::write(dir.path().join("a"), "fou").unwrap();
    let info = store.head(&key("a"), ReadCondition::None).await.unwrap();
    tags.push(info.version.etag);
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "{tags:?}");
}

#[tokio::test]
async fn mode_and_mtime_are_the_files_own() {
    let (dir, store) = store();
    let mtime = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    for mode in [0o640, 0o444, 0o4755, 0o000] {
        let attributes = FileAttributes {
            mtime: Some(mtime),
            mode: Some(mode),
            uid: Some(7),
            gid: Some(8),
            ..FileAttributes::default()
        };
        let mut request = put("a", "x", WriteCondition::Always);
        attributes.add_to(&mut request.headers.metadata);
        store.put(request).await.unwrap();
        let metadata = fs::metadata(dir.path().join("a")).unwrap();
        assert_eq!(metadata.modified().unwrap(), mtime);
        assert_eq!(metadata.permissions().mode() & 0o7777, mode & 0o777 | 0o400);
        let info = store.head(&key("a"), ReadCondition::None).await.unwrap();
        assert_eq!(FileAttributes::from_metadata(&info.metadata), attributes);
    }
}

#[tokio::test]
async fn a_file_that_changes_under_a_reader_is_noticed() {
    let (dir, store) = store();
    let body = "x".repeat(1 << 20);
    store
        .put(put("a", &body, WriteCondition::Always))
        .await
        .unwrap();
    let request = GetRequest {
        key: key("a"),
        range: None,
        condition: ReadCondition::None,
    };
    let mut response = store.get(request).await.unwrap();
    response.body.try_next().await.unwrap().unwrap();
    fs::write(dir.path().join("a"), "y".repeat(1 << 20)).unwrap();
    let rest: StoreResult<Vec<Bytes>> = response.body.try_collect().await;
    assert!(matches!(rest, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn names_that_are_in_each_others_way_are_refused() {
    let (_dir, store) = store();
    store
        .put(put("a", "x", WriteCondition::Always))
        .await
        .unwrap();
    store
        .put(put("d/x", "x", WriteCondition::Always))
        .await
        .unwrap();
    for name in ["a/b", "d", "a/"] {
        let written = store.put(put(name, "", WriteCondition::Always)).await;
        assert!(
            matches!(written, Err(StoreError::Refused(_))),
            "{name}: {written:?}"
        );
    }
    assert_eq!(read(&store, "a").await.unwrap(), b"x");
    assert!(matches!(read(&store, "d").await, Err(StoreError::NotFound)));
    assert!(matches!(
        read(&store, "a/b").await,
        Err(StoreError::NotFound)
    ));
}

#[tokio::test]
async fn a_copy_notices_that_its_source_is_another_version() {
    let (_dir, store) = store();
    let old = store
        .put(put("a", "1", WriteCondition::IfAbsent))
        .await
        .unwrap();
    store
        .put(put("a", "2", WriteCondition::Always))
        .await
        .unwrap();
    let request = CopyRequest {
        source: ObjectVersion {
            key: key("a"),
            etag: old,
        },
        destination: key("b"),
        condition: WriteCondition::IfAbsent,
        headers: None,
    };
    let copied = store.copy(request).await;
    assert!(
        matches!(copied, Err(StoreError::SourceChanged)),
        "{copied:?}"
    );
}

#[tokio::test]
async fn nothing_unfinished_is_left_or_listed() {
    let (dir, store) = store();
    store
        .put(put("a", "1", WriteCondition::IfAbsent))
        .await
        .unwrap();
    let second = store.put(put("a", "2", WriteCondition::IfAbsent)).await;
    assert!(matches!(second, Err(StoreError::PreconditionFailed)));
    let upload = store
        .create_multipart(&key("b"), ObjectHeaders::default())
        .await
        .unwrap();
    assert_eq!(names(&store, "", true).await, ["a"]);
    store.abort_multipart(&upload).await.unwrap();
    for own in [tree::TEMPORARY, tree::UPLOADS] {
        let left = fs::read_dir(dir.path().join(own)).unwrap().count();
        assert_eq!(left, 0, "{own}");
    }
}
