//! What goes wrong on the way, and what others do meanwhile: nothing is lost, nobody is overwritten.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::fake::{Fault, unavailable};
use super::{Bench, HOUR, closed, key, take, version};
use crate::disk::FileId;
use crate::staging::{Change, Deleted, Edit};
use crate::store::StoreError;

#[tokio::test(start_paused = true)]
async fn lost_answers_are_found_again() {
    let bench = Bench::new();
    let lost = || Fault::After(unavailable());

    bench.store.fail("put", 1, lost);
    bench.save("a", None, b"take");
    bench.drain().await;
    assert_eq!(bench.store.take_calls(), ["put", "head"]);

    bench.store.fail("complete", 1, lost);
    bench.save("b", None, &take(3 << 15, 3));
    bench.drain().await;
    let calls = bench.store.take_calls();
    assert_eq!(
        calls[..6],
        ["create", "part", "part", "part", "complete", "head"]
    );

    bench.store.fail("copy", 1, lost);
    let etag = bench.store.object("a").unwrap().etag;
    bench.copy("c", None, version("a", etag.clone()));
    bench.drain().await;
    assert_eq!(bench.store.take_calls(), ["head", "copy", "head"]);

    bench.store.fail("delete", 1, lost);
    bench.set("c", Some(etag), Change::Delete(Deleted::Moved));
    tokio::time::sleep(Duration::from_secs(200)).await;
    bench.drain().await;
    assert_eq!(bench.bytes("c"), None);
    assert_eq!(bench.uploader.status().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_newer_version() {
    let bench = Bench::new();
    bench.store.fail("put", 1, || Fault::After(unavailable()));
    bench.save("a", None, b"first");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    bench.save("a", None, b"second");
    bench.drain().await;
    assert_eq!(bench.bytes("a").unwrap(), b"second");
    assert_eq!(bench.store.take_calls(), ["put", "head", "put"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_overwritten() {
    let bench = Bench::new();
    let file = bench.save("a", None, b"ours");
    bench.store.write("a", b"theirs");
    let old = bench.store.write("b", b"old");
    bench.save("b", Some(old), b"ours too");
    bench.store.write("b", b"theirs too");
    bench.drain().await;
    assert_eq!(bench.bytes("a").unwrap(), b"theirs");
    assert_eq!(bench.bytes("b").unwrap(), b"theirs too");
    assert_eq!(bench.uploader.status().parked, 2);
    let record = bench.journal().record(&key("a")).unwrap();
    let reason = record.parked.unwrap();
    assert!(reason.starts_with("changed by someone else"), "{reason}");
    assert_eq!(fs::read(bench.staging.path(file)).unwrap(), b"ours");
    // The very same bytes are no conflict.
    bench.save("c", None, b"same");
    bench.store.write("c", b"same");
    bench.drain().await;
    assert_eq!(bench.uploader.status().parked, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_meanwhile_is_written_anew() {
    let bench = Bench::new();
    let old = bench.store.write("a", b"old");
    bench.save("a", Some(old), b"ours");
    bench.store.remove("a");
    bench.drain().await;
    assert_eq!(bench.bytes("a").unwrap(), b"ours");
}

#[tokio::test(start_paused = true)]
async fn a_delete_spares_what_somebody_else_has_written() {
    let bench = Bench::new();
    let old = bench.store.write("a", b"old");
    let gone = bench.store.write("b", b"gone");
    let kept = bench.store.write("c", b"old");
    bench.set("a", Some(old), Change::Delete(Deleted::Moved));
    bench.set("b", Some(gone), Change::Delete(Deleted::Moved));
    bench.set("c", Some(kept), Change::Delete(Deleted::Moved));
    bench.store.remove("b");
    bench.store.write("c", b"theirs");
    bench.drain().await;
    assert_eq!(bench.bytes("a"), None);
    assert_eq!(bench.bytes("c").unwrap(), b"theirs");
    assert_eq!(bench.journal().records(), []);
}

#[tokio::test(start_paused = true)]
async fn a_late_write_does_not_bring_back_what_was_deleted() {
    let bench = Bench::new();
    bench.store.fail("put", 1, || Fault::After(unavailable()));
    bench.save("a", None, b"take");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    // The write is held back on its way, and the file is deleted before it was seen to land.
    let late = bench.store.object("a").unwrap();
    bench.store.remove("a");
    bench
        .journal()
        .apply(vec![Edit::Remove { key: key("a") }])
        .unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.uploader.status().queued, 1, "the tombstone waits");
    bench.store.restore("a", late);
    bench.drain().await;
    assert_eq!(bench.bytes("a"), None);
    assert!(bench.journal().attempts(&key("a")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_took_minutes_may_land_as_late_as_any() {
    let bench = Bench::new();
    bench.store.fail("put", 1, || Fault::After(unavailable()));
    bench.store.take_time(Duration::from_secs(600));
    bench.save("a", None, b"take");
    tokio::time::sleep(Duration::from_secs(603)).await;
    let late = bench.store.object("a").unwrap();
    bench.store.remove("a");
    let removed = vec![Edit::Remove { key: key("a") }];
    bench.journal().apply(removed).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.store.restore("a", late);
    bench.drain().await;
    assert_eq!(bench.bytes("a"), None);
}

#[tokio::test(start_paused = true)]
async fn the_store_is_given_the_time_it_asks_for() {
    let bench = Bench::new();
    let retry_after = Some(Duration::from_secs(300));
    bench.store.fail("put", 1, move || {
        Fault::Before(StoreError::Throttled { retry_after })
    });
    bench.save("a", None, b"take");
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(bench.store.take_calls(), ["put"]);
    let status = bench.uploader.status();
    assert_eq!((status.queued, status.failed, status.parked), (1, 1, 0));
    assert!(status.oldest_seconds >= 280);
    bench.drain().await;
    assert_eq!(bench.bytes("a").unwrap(), b"take");
}

#[tokio::test(start_paused = true)]
async fn an_outage_loses_nothing_and_does_not_hammer() {
    let bench = Bench::new();
    bench.store.script(|_, _| Fault::Before(unavailable()));
    for n in 0..60u8 {
        bench.save(&format!("take {n}"), None, &[n]);
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!bench.uploader.reachable());
    assert_eq!(bench.uploader.status().queued, 60);
    let tries = bench.store.take_calls().len();
    assert!((20..150).contains(&tries), "{tries}");
    bench.store.script(|_, _| Fault::None);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(bench.uploader.reachable());
    assert!(bench.uploader.is_idle());
    for n in 0..60u8 {
        assert_eq!(bench.bytes(&format!("take {n}")).unwrap(), [n]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_parked_and_kept() {
    let bench = Bench::new();
    bench.store.script(|_, key| match key.as_str() {
        "big" => Fault::Before(StoreError::TooLarge("x".into())),
        "forbidden" => Fault::Before(StoreError::Denied("x".into())),
        _ => Fault::None,
    });
    bench.save("big", None, b"1");
    bench.save("forbidden", None, b"2");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        bench.uploader.status().parked,
        1,
        "a new token takes a while"
    );
    bench.drain().await;
    assert_eq!(bench.uploader.status().parked, 2);
    bench.store.script(|_, _| Fault::None);
    for name in ["big", "forbidden"] {
        assert!(bench.journal().unpark(&key(name)).unwrap());
    }
    bench.drain().await;
    assert_eq!(bench.bytes("big").unwrap(), b"1");
    assert_eq!(bench.bytes("forbidden").unwrap(), b"2");
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_park_nothing() {
    let bench = Bench::new();
    bench
        .store
        .script(|_, _| Fault::Before(StoreError::WrongSecret("x".into())));
    for name in ["a", "b", "c"] {
        bench.save(name, None, b"take");
    }
    tokio::time::sleep(HOUR).await;
    assert_eq!(bench.uploader.status().parked, 0);
    assert!(bench.store.take_calls().len() < 70);
    bench.store.script(|_, _| Fault::None);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(bench.uploader.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_parked() {
    let bench = Bench::new();
    bench.set("a", None, closed(FileId::random(), 3));
    bench.drain().await;
    assert_eq!(bench.uploader.status().parked, 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_cut_goes_on_where_it_was() {
    let bench = Bench::new();
    let parts = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&parts);
    bench.store.script(move |operation, _| {
        if operation == "part" && (4..12).contains(&counter.fetch_add(1, Ordering::Relaxed)) {
            return Fault::Before(unavailable());
        }
        Fault::None
    });
    let bytes = take(6 << 15, 5);
    bench.save("mix", None, &bytes);
    bench.drain().await;
    assert!(bench.bytes("mix").unwrap() == bytes);
    let calls = bench.store.take_calls();
    assert_eq!(calls.iter().filter(|call| *call == "create").count(), 1);
    assert_eq!(calls.iter().filter(|call| *call == "complete").count(), 1);
}
