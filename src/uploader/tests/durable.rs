//! The bucket is not changed before the journal knows of it durably.

use parking_lot::Mutex;

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_changes_in_the_bucket_that_a_power_cut_makes_unknown_here() {
    let bench = Bench::new();
    let journal = bench.staging.journal().clone();
    let changes: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let seen = Arc::clone(&changes);
    bench.store.script(move |operation, _| {
        if ["put", "complete", "copy", "delete"].contains(&operation) {
            seen.lock()
                .push((operation.to_owned(), journal.is_synced()));
        }
        Fault::None
    });
    bench.save("a", None, b"small");
    bench.drain().await;
    bench.save("large", None, &[7; 3 * PART as usize]);
    bench.drain().await;
    let etag = bench.store.object("a").unwrap().etag;
    bench.copy("b", None, version("a", etag.clone()));
    bench.drain().await;
    bench.set("a", Some(etag), Change::Delete(Deleted::here(5)));
    bench.drain().await;
    let synced = |operation: &str| (operation.to_owned(), true);
    let expected = ["put", "complete", "copy", "delete"].map(synced);
    assert_eq!(*changes.lock(), expected);
}
