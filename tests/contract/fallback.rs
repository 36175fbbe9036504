//! The bucket with `output/` behind it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use r2_model::R2Model;
use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::fallback::{FallbackStore, HiddenKeys};
use voicebeatfs::store::local::LocalStore;
use voicebeatfs::store::{ETag, ListRequest, Md5, Origin, ReadCondition, WriteCondition};

use super::subject::{Subject, of_model};

struct Bench {
    model: R2Model,
    output: PathBuf,
    hidden: PathBuf,
    _dir: tempfile::TempDir,
    subject: Subject,
}

impl Bench {
    fn new() -> Bench {
        let model = R2Model::start();
        let dir = tempfile::tempdir().unwrap();
        let (output, hidden) = (dir.path().join("output"), dir.path().join("staging"));
        fs::create_dir_all(&hidden).unwrap();
        let subject = Subject {
            store: Arc::new(open(&model, &output, &hidden)),
            folder: String::new(),
        };
        Bench {
            model,
            output,
            hidden,
            _dir: dir,
            subject,
        }
    }

    fn local(&self, name: &str, content: &str) {
        let path = self.output.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn origin(&self, name: &str) -> Origin {
        self.subject.head(name).await.unwrap().origin
    }
}

fn open(model: &R2Model, output: &std::path::Path, hidden: &std::path::Path) -> FallbackStore {
    FallbackStore::new(
        Arc::new(of_model(model, "")),
        LocalStore::open(output).unwrap(),
        Arc::new(HiddenKeys::open(hidden).unwrap()),
    )
}

#[tokio::test]
async fn the_bucket_wins_and_the_rest_is_local() {
    let bench = Bench::new();
    bench.model.put("both", "bucket");
    bench.local("both", "local");
    bench.local("old/take", "local");
    assert_eq!(bench.subject.get("both").await.unwrap(), "bucket");
    assert_eq!(bench.origin("both").await, Origin::Primary);
    assert_eq!(bench.subject.get("old/take").await.unwrap(), "local");
    assert_eq!(bench.origin("old/take").await, Origin::Fallback);
    assert_eq!(
        bench.subject.names("", false, None).await,
        ["both", "old/", "old/take"]
    );
    let page = bench.subject.page("", false).await;
    let origins: Vec<Origin> = page.objects.iter().map(|object| object.origin).collect();
    assert_eq!(
        origins,
        [Origin::Primary, Origin::Fallback, Origin::Fallback]
    );
    assert!(matches!(bench.subject.get("none").await, Err(NotFound)));
}

#[tokio::test]
async fn an_outage_is_no_absence() {
    let bench = Bench::new();
    bench.model.put("remote", "bucket");
    bench.model.put("both", "bucket");
    bench.local("both", "local");
    let tag = bench.subject.head("both").await.unwrap().version.etag;
    bench.model.stop();
    assert_eq!(bench.subject.get("both").await.unwrap(), "local");
    let found = bench.subject.get("remote").await;
    assert!(matches!(found, Err(Unavailable { .. })), "{found:?}");
    // Whether the bucket's version still holds, no local copy can tell.
    for condition in [
        ReadCondition::IfNoneMatch(tag.clone()),
        ReadCondition::IfMatch(tag),
    ] {
        let found = bench
            .subject
            .store
            .head(&bench.subject.key("both"), condition)
            .await;
        assert!(matches!(found, Err(Unavailable { .. })), "{found:?}");
    }
    let page = bench.subject.page("", false).await;
    assert!(page.incomplete && page.objects.len() == 1, "{page:?}");
    let put = bench
        .subject
        .put_if("new", "x", WriteCondition::IfAbsent)
        .await;
    assert!(matches!(put, Err(Unavailable { .. })), "{put:?}");
    bench.model.restart();
    assert!(!bench.subject.page("", false).await.incomplete);
}

#[tokio::test]
async fn a_local_version_stays_the_same_while_it_is_read() {
    let bench = Bench::new();
    bench.local("a", "local");
    let tag = bench.subject.head("a").await.unwrap().version.etag;
    let pinned = ReadCondition::IfMatch(tag.clone());
    let known = ReadCondition::IfNoneMatch(tag);
    let get = async |condition| bench.subject.get_if("a", None, condition).await;
    assert!(matches!(get(known.clone()).await, Err(NotModified)));
    bench.model.put("a", "bucket");
    assert_eq!(get(pinned.clone()).await.unwrap(), "local");
    assert_eq!(get(known).await.unwrap(), "bucket");
    bench.local("a", "another");
    assert!(matches!(get(pinned).await, Err(PreconditionFailed)));
}

#[tokio::test]
async fn writes_go_to_the_bucket_alone() {
    let bench = Bench::new();
    bench.local("a", "local");
    let tag = bench.subject.head("a").await.unwrap().version.etag;
    let over_local = WriteCondition::IfMatch(tag);
    bench
        .subject
        .put_if("a", "new", over_local.clone())
        .await
        .unwrap();
    assert_eq!(bench.model.get("a").unwrap().bytes, "new");
    assert_eq!(fs::read(bench.output.join("a")).unwrap(), b"local");
    // By now the bucket has something: the local version is not what is there.
    let again = bench.subject.put_if("a", "newer", over_local).await;
    assert!(matches!(again, Err(PreconditionFailed)), "{again:?}");
}

#[tokio::test]
async fn what_was_deleted_stays_deleted() {
    let bench = Bench::new();
    for name in ["d/a", "d/b", "e/c"] {
        bench.local(name, "local");
    }
    bench.model.put("d/a", "bucket");
    for name in ["d/a", "e/c", "e/"] {
        let key = bench.subject.key(name);
        bench.subject.store.delete(&key).await.unwrap();
        assert!(matches!(bench.subject.head(name).await, Err(NotFound)));
    }
    assert!(bench.output.join("d/a").exists());
    assert_eq!(bench.subject.names("", true, None).await, ["d/"]);
    assert_eq!(bench.subject.names("", false, None).await, ["d/", "d/b"]);
    // Also after a restart, and without the bucket.
    let reopened = open(&bench.model, &bench.output, &bench.hidden);
    let subject = Subject {
        store: Arc::new(reopened),
        folder: String::new(),
    };
    assert_eq!(subject.names("", false, None).await, ["d/", "d/b"]);
    bench.model.stop();
    assert!(matches!(subject.head("d/a").await, Err(Unavailable { .. })));
    bench.model.restart();
    subject.put("d/a", "made anew").await;
    assert_eq!(subject.get("d/a").await.unwrap(), "made anew");
}

#[tokio::test]
async fn a_copy_of_a_local_object_is_sent() {
    let bench = Bench::new();
    let large: Vec<u8> = (0..17_000_000_u32).map(|i| (i / 1000) as u8).collect();
    bench.local("small.wav", "RIFF");
    fs::write(bench.output.join("large.wav"), &large).unwrap();
    for (name, content) in [("small.wav", &b"RIFF"[..]), ("large.wav", &large)] {
        let info = bench.subject.head(name).await.unwrap();
        let to = format!("moved/{name}");
        let mut copy = bench.subject.copy_request(name, &info.version.etag, &to);
        copy.condition = WriteCondition::IfAbsent;
        bench.subject.store.copy(copy.clone()).await.unwrap();
        let object = bench.model.get(&to).unwrap();
        assert!(object.bytes == content);
        assert_eq!(object.content_type, "audio/wav");
        let again = bench.subject.store.copy(copy.clone()).await;
        assert!(matches!(again, Err(PreconditionFailed)), "{again:?}");
        copy.source.etag = ETag::new("\"local-1-2-3-4\"");
        let changed = bench.subject.store.copy(copy).await;
        assert!(matches!(changed, Err(SourceChanged)), "{changed:?}");
    }
    assert!(bench.model.open_uploads().is_empty());
}

/// Every page size gives the union, in order, each name once.
#[tokio::test]
async fn listings_are_the_union() {
    let bench = Bench::new();
    let mut remote = BTreeSet::new();
    let mut local = BTreeSet::new();
    for number in 0..60_u32 {
        let name = format!("{}/{:02}", number % 7, number * 37 % 60);
        // Stretches where only one side has anything, and some in common.
        if number % 7 < 4 {
            remote.insert(name.clone());
        }
        if number % 7 > 2 {
            // A folder that somebody made on the disk is one of its own.
            local.insert(format!("{}/", number % 7));
            local.insert(name);
        }
    }
    remote.insert("zz".into());
    for name in &remote {
        bench.model.put(name, Bytes::from_static(b"x"));
    }
    for name in local.iter().filter(|name| !name.ends_with('/')) {
        bench.local(name, "y");
    }
    let union: Vec<String> = remote.union(&local).cloned().collect();
    for max_keys in [None, Some(1), Some(2), Some(3), Some(10), Some(1000)] {
        assert_eq!(bench.subject.names("", false, max_keys).await, union);
        let folded = bench.subject.names("", true, max_keys).await;
        assert_eq!(folded, ["zz", "0/", "1/", "2/", "3/", "4/", "5/", "6/"]);
        assert_eq!(bench.subject.names("5/", true, max_keys).await.len(), 9);
    }
    let md5 = ETag::of_md5(Md5::of(b"x"));
    for object in bench.subject.page("3/1", false).await.objects {
        assert_eq!(object.origin, Origin::Primary);
        assert_eq!(object.version.etag, md5);
    }
}

#[tokio::test]
async fn an_outage_in_the_middle_of_a_listing_shows() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.model.put(name, "x");
        bench.local(&format!("{name}{name}"), "y");
    }
    let mut request = ListRequest {
        max_keys: Some(2),
        ..ListRequest::default()
    };
    let page = bench.subject.store.list(request.clone()).await.unwrap();
    assert!(!page.incomplete);
    bench.model.stop();
    request.continuation = page.next;
    while request.continuation.is_some() {
        let page = bench.subject.store.list(request.clone()).await.unwrap();
        assert!(page.incomplete);
        request.continuation = page.next;
    }
}
