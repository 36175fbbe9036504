//! Listings and folders.

use std::sync::atomic::{AtomicUsize, Ordering};

use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::ranges::FolderListing;
use voicebeatfs::store::{ListRequest, Md5, WriteCondition};

use super::subject::{Subject, behaviours, headers};

behaviours![
    order,
    delimiter,
    entries,
    paging,
    long_listing,
    start_after,
    ranges,
    folder_markers,
    folders_that_nobody_made,
    object_beside_folder,
];

/// By bytes of the whole key: a folder's files come where the slash sorts.
async fn order(subject: Subject) {
    for name in ["b", "a/z", "a0", "a.b", "a/b/c", "Z", "é", "a-"] {
        subject.put(name, "").await;
    }
    let listed = subject.names("", false, None).await;
    assert_eq!(listed, ["Z", "a-", "a.b", "a/b/c", "a/z", "a0", "b", "é"]);
}

async fn delimiter(subject: Subject) {
    for name in ["a", "b/1", "b/2", "c/d/e", "c/f", "cc"] {
        subject.put(name, "").await;
    }
    assert_eq!(subject.names("", true, None).await, ["a", "cc", "b/", "c/"]);
    assert_eq!(subject.names("c/", true, None).await, ["c/f", "c/d/"]);
    assert_eq!(subject.names("c", true, None).await, ["cc", "c/"]);
    assert_eq!(subject.names("b/", true, None).await, ["b/1", "b/2"]);
    assert!(subject.names("x/", true, None).await.is_empty());
    assert_eq!(
        subject.names("c", false, None).await,
        ["c/d/e", "c/f", "cc"]
    );
}

async fn entries(subject: Subject) {
    let tag = subject.put("a", "four").await;
    let info = subject.head("a").await.unwrap();
    let page = subject.page("", false).await;
    let [object] = &page.objects[..] else {
        panic!("{page:?}")
    };
    assert_eq!(object.version.key, subject.key("a"));
    assert_eq!(object.version.etag, tag);
    assert_eq!(object.size, 4);
    let listed = object.last_modified.duration_since(info.last_modified);
    // The header has whole seconds, the listing milliseconds.
    assert!(listed.unwrap_or_default().as_millis() < 1000);
}

async fn paging(subject: Subject) {
    for name in ["a", "b/1", "b/2", "c/1", "d", "e/1", "f", "g/1", "g/2/3"] {
        subject.put(name, "").await;
    }
    let all = subject.names("", false, None).await;
    let folded = subject.names("", true, None).await;
    assert_eq!(folded, ["a", "d", "f", "b/", "c/", "e/", "g/"]);
    for max_keys in [1, 2, 3, 7, 1000] {
        assert_eq!(subject.names("", false, Some(max_keys)).await, all);
        assert_eq!(subject.names("", true, Some(max_keys)).await, folded);
    }
}

async fn long_listing(subject: Subject) {
    let names: Vec<String> = (0..1005).map(|number| format!("{number:04}")).collect();
    let mut puts = tokio::task::JoinSet::new();
    for some in names.chunks(64).map(<[String]>::to_vec) {
        let subject = subject.clone();
        puts.spawn(async move {
            for name in some {
                subject.put(&name, "").await;
            }
        });
    }
    puts.join_all().await;
    assert_eq!(subject.page("", false).await.objects.len(), 1000);
    assert_eq!(subject.names("", false, None).await, names);
}

async fn start_after(subject: Subject) {
    for name in ["a", "b/1", "b/2", "c"] {
        subject.put(name, "").await;
    }
    let after = async |name: &str| {
        let request = ListRequest {
            prefix: subject.folder.clone(),
            delimited: true,
            start_after: Some(format!("{}{name}", subject.folder)),
            ..ListRequest::default()
        };
        let page = subject.store.list(request).await.unwrap();
        (page.objects.len(), page.prefixes.len())
    };
    assert_eq!(after("").await, (2, 1));
    assert_eq!(after("a").await, (1, 1));
    assert_eq!(after("aa").await, (1, 1));
    assert_eq!(after("bb").await, (1, 0));
    assert_eq!(after("c").await, (0, 0));
}

/// A listing in ranges has what a plain one has, however its names are spread.
async fn ranges(subject: Subject) {
    let mut names: Vec<String> = (0..120).map(|n| format!("take-2026-{n:06}.wav")).collect();
    names.extend((0..40).map(|n| format!("{:032x}", u128::MAX / 41 * n)));
    names.extend((0..20).map(|n| format!("song {n}/mix")));
    names.extend(["!", "~", "Z", "cafe\u{301}", "caf\u{e8}", "\u{10000}"].map(String::from));
    for some in names.chunks(32) {
        let puts = some.iter().map(|name| subject.put(name, ""));
        futures::future::join_all(puts).await;
    }
    let mut plain = subject.names("", true, None).await;
    plain.sort();
    let most_at_once = AtomicUsize::new(0);
    let under_way = AtomicUsize::new(0);
    let list = |mut request: ListRequest| {
        request.max_keys = Some(3);
        let (store, most_at_once, under_way) = (&subject.store, &most_at_once, &under_way);
        async move {
            most_at_once.fetch_max(
                under_way.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            let page = store.list(request).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            page
        }
    };
    let mut listing = FolderListing::new(&subject.folder, list);
    let (mut listed, mut early) = (Vec::new(), None);
    while let Some(page) = listing.next().await.unwrap() {
        let names = page
            .objects
            .iter()
            .map(|object| object.version.key.to_string());
        listed.extend(names.chain(page.prefixes));
        // What has arrived up to a name is complete up to it.
        if let Some(to) = listing.arrived_to().filter(|_| early.is_none()) {
            let mut names: Vec<String> = listed.clone();
            names.retain(|name| name.is_ascii() && **name <= *to);
            early = Some((to.to_owned(), names));
        }
    }
    assert!(listing.has_ended() && listing.arrived_to().is_none());
    let (to, mut early) = early.unwrap();
    let mut until = listed.clone();
    until.retain(|name| name.is_ascii() && *name <= to);
    early.sort();
    until.sort();
    assert_eq!(early, until);
    let folder = subject.folder.as_str();
    let mut listed: Vec<&str> = listed
        .iter()
        .map(|name| name.strip_prefix(folder).unwrap())
        .collect();
    listed.sort();
    listed.dedup();
    assert_eq!(listed, plain);
    assert!(most_at_once.load(Ordering::Relaxed) > 4);
}

async fn folder_markers(subject: Subject) {
    let mut request = subject.put_request("a/b/", "");
    request.headers = headers("application/x-directory", &[("mode", "448")]);
    request.condition = WriteCondition::IfAbsent;
    let tag = subject.store.put(request.clone()).await.unwrap();
    let again = subject.store.put(request).await;
    assert!(matches!(again, Err(PreconditionFailed)), "{again:?}");
    let info = subject.head("a/b/").await.unwrap();
    assert_eq!((info.size, info.version.etag), (0, tag));
    assert_eq!(info.metadata["mode"], "448");
    assert_eq!(subject.get("a/b/").await.unwrap(), "");
    assert_eq!(subject.names("", false, None).await, ["a/b/"]);
    assert_eq!(subject.names("a/", true, None).await, ["a/b/"]);
    assert_eq!(subject.page("a/", true).await.prefixes.len(), 1);
    // The folder itself is an object among its entries.
    assert_eq!(subject.page("a/b/", true).await.objects.len(), 1);
    subject.put("a/b/c", "").await;
    assert_eq!(subject.names("", false, None).await, ["a/b/", "a/b/c"]);
    subject.store.delete(&subject.key("a/b/")).await.unwrap();
    assert!(matches!(subject.head("a/b/").await, Err(NotFound)));
    assert_eq!(subject.names("", false, None).await, ["a/b/c"]);
    subject.store.delete(&subject.key("a/b/c")).await.unwrap();
    assert!(subject.names("", false, None).await.is_empty());
}

async fn folders_that_nobody_made(subject: Subject) {
    subject.put("a/b/c", "").await;
    assert!(matches!(subject.head("a/").await, Err(NotFound)));
    subject.store.delete(&subject.key("a/b/c")).await.unwrap();
    assert!(subject.names("", true, None).await.is_empty());
    // A marker can come later, with and without something in the folder.
    subject.put("a/x", "").await;
    let mut request = subject.put_request("a/", "");
    request.md5 = Md5::of(b"");
    subject.store.put(request).await.unwrap();
    subject.store.delete(&subject.key("a/x")).await.unwrap();
    assert_eq!(subject.names("", false, None).await, ["a/"]);
}

async fn object_beside_folder(subject: Subject) {
    subject.put("a", "file").await;
    subject.put("a/b", "below").await;
    assert_eq!(subject.get("a").await.unwrap(), "file");
    assert_eq!(subject.names("", true, None).await, ["a", "a/"]);
}
