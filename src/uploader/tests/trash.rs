//! What is deleted or overwritten is copied to the trash first, once.

use super::*;

const SONG: &str = "projects/song";

fn trashed(bench: &Bench) -> Vec<String> {
    let names = bench.store.names();
    names
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_delete_keeps_the_version_that_it_deletes() {
    let bench = Bench::new();
    for (name, deleted, kept) in [
        (SONG, Deleted::here(4), 1),
        ("projects/moved", Deleted::Moved, 0),
        ("layers/song", Deleted::here(4), 0),
    ] {
        let etag = bench.store.write(name, b"take");
        bench.set(name, Some(etag), Change::Delete(deleted));
        assert!(bench.uploader.drain(HOUR).await);
        assert!(bench.store.object(name).is_none());
        let left = trashed(&bench);
        let of_this = left.iter().filter(|left| left.ends_with(name));
        assert_eq!(of_this.count(), kept, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_answer_was_lost_is_not_made_twice() {
    let bench = Bench::new();
    let etag = bench.store.write(SONG, b"take");
    bench.store.fail("copy", 3, || Fault::After(unavailable()));
    bench.set(SONG, Some(etag), Change::Delete(Deleted::here(4)));
    assert!(bench.uploader.drain(HOUR).await);
    assert!(bench.store.object(SONG).is_none());
    assert_eq!(trashed(&bench).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_killed_between_copy_and_delete_leaves_one_copy() {
    let bench = Bench::new();
    let etag = bench.store.write(SONG, b"take");
    bench.store.script(|name, _| match name {
        "delete" => Fault::Before(unavailable()),
        _ => Fault::None,
    });
    bench.set(SONG, Some(etag), Change::Delete(Deleted::here(4)));
    assert!(!bench.uploader.drain(Duration::from_secs(5)).await);
    assert_eq!(trashed(&bench).len(), 1);
    let Bench {
        clock,
        staging,
        store,
        uploader,
        dir: _dir,
    } = bench;
    uploader.stop().await;
    drop(uploader);
    store.script(|_, _| Fault::None);
    let uploader = start(&staging, &store, &clock);
    assert!(uploader.drain(HOUR).await);
    assert!(store.object(SONG).is_none());
    let copies = store
        .names()
        .into_iter()
        .filter(|name| name.starts_with('.'));
    assert_eq!(copies.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_or_overwritten_before_its_copy_is_made() {
    let bench = Bench::new();
    let etag = bench.store.write(SONG, b"take");
    let other = bench.store.write("projects/other", b"take");
    bench.store.script(|name, _| match name {
        "copy" => Fault::Before(unavailable()),
        _ => Fault::None,
    });
    bench.set(SONG, Some(etag), Change::Delete(Deleted::here(4)));
    bench.save("projects/other", Some(other), b"new one");
    assert!(!bench.uploader.drain(Duration::from_secs(300)).await);
    for name in [SONG, "projects/other"] {
        assert_eq!(bench.store.object(name).unwrap().bytes, "take");
    }
    bench.store.script(|_, _| Fault::None);
    assert!(bench.uploader.drain(HOUR).await);
    assert_eq!(
        bench.store.object("projects/other").unwrap().bytes,
        "new one"
    );
    assert_eq!(trashed(&bench).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_version_in_ten_minutes_is_kept() {
    let bench = Bench::new();
    let mut etag = bench.store.write(SONG, b"0");
    for (bytes, kept) in [(b"1", 1), (b"2", 1), (b"2", 1)] {
        bench.save(SONG, Some(etag), bytes);
        assert!(bench.uploader.drain(HOUR).await);
        assert_eq!(trashed(&bench).len(), kept);
        etag = bench.store.object(SONG).unwrap().etag;
    }
    tokio::time::sleep(Duration::from_secs(601)).await;
    bench.save(SONG, Some(etag), b"2");
    assert!(bench.uploader.drain(HOUR).await);
    assert_eq!(trashed(&bench).len(), 1, "the same bytes");
    let etag = bench.store.object(SONG).unwrap().etag;
    bench.save(SONG, Some(etag), b"3");
    assert!(bench.uploader.drain(HOUR).await);
    assert_eq!(trashed(&bench).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_one_copy_is_kept_as_well() {
    let bench = Bench::new();
    let etag = bench.store.write(SONG, &[7; SINGLE_COPY_BYTES + 1]);
    let deleted = Deleted::here(SINGLE_COPY_BYTES as u64 + 1);
    bench.set(SONG, Some(etag), Change::Delete(deleted));
    assert!(bench.uploader.drain(HOUR).await);
    assert!(bench.store.object(SONG).is_none());
    let kept = trashed(&bench);
    assert_eq!(kept.len(), 1);
    assert_eq!(bench.bytes(&kept[0]), Some(vec![7; SINGLE_COPY_BYTES + 1]));
    assert_eq!(bench.store.open_uploads(), 0);
}
