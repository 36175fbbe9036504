//! Copies of what is too large for one request.

use super::*;

/// More than one request copies, in the bench's options.
const LARGE: usize = 100_000;

impl Bench {
    /// Returns the version of a large object that was uploaded in parts.
    async fn upload_large(&self, name: &str) -> ObjectVersion {
        self.save(name, None, &take(LARGE, 3));
        self.drain().await;
        self.store.take_calls();
        version(name, self.store.object(name).unwrap().etag)
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_object_is_renamed_and_amended_by_part_copies() {
    let bench = Bench::new();
    let source = bench.upload_large("a.wav").await;
    bench.copy("b.wav", None, source.clone());
    bench.drain().await;
    let mut expected = vec!["head", "head", "create"];
    expected.extend(["part copy"; 4]);
    expected.extend(["head", "complete"]);
    assert_eq!(bench.store.take_calls(), expected);
    let renamed = bench.store.object("b.wav").unwrap();
    assert_eq!(renamed.bytes, take(LARGE, 3));
    assert_eq!(renamed.etag, source.etag, "equal bytes, equal parts");
    assert_eq!(renamed.headers.metadata[PART_SIZE], PART.to_string());
    assert_eq!(renamed.headers.metadata["mode"], "384");

    bench.copy("a.wav", Some(source.etag.clone()), source.clone());
    bench.drain().await;
    assert!(!bench.store.take_calls().contains(&"copy".to_owned()));
    let amended = bench.store.object("a.wav").unwrap();
    assert_eq!(amended.headers.metadata["mode"], "384");
    assert_eq!(amended.etag, source.etag);
    assert_eq!(bench.store.open_uploads(), 0);
    assert!(bench.journal().attempts(&key("a.wav")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_between_two_parts_is_never_mixed() {
    let bench = Bench::new();
    let source = bench.upload_large("a.wav").await;
    let store = Arc::clone(&bench.store);
    let mut parts = 0;
    bench.store.script(move |operation, _| {
        parts += usize::from(operation == "part copy");
        if operation == "part copy" && parts == 3 {
            store.write("a.wav", &[7; LARGE]);
        }
        Fault::None
    });
    bench.copy("b.wav", None, source);
    bench.drain().await;
    assert!(bench.store.object("b.wav").is_none());
    let record = bench.journal().record(&key("b.wav")).unwrap();
    assert!(record.parked.unwrap().contains("a.wav was changed"));
    assert_eq!(bench.store.open_uploads(), 0, "taken back");
    assert!(bench.journal().attempts(&key("b.wav")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_by_parts_survives_lost_answers_and_failed_parts() {
    let bench = Bench::new();
    let source = bench.upload_large("a.wav").await;
    bench
        .store
        .fail("part copy", 2, || Fault::Before(unavailable()));
    bench.copy("b.wav", None, source.clone());
    bench.drain().await;
    assert_eq!(bench.bytes("b.wav"), Some(take(LARGE, 3)));
    bench.store.take_calls();
    bench
        .store
        .fail("complete", 1, || Fault::After(unavailable()));
    bench.copy("c.wav", None, source);
    bench.drain().await;
    assert_eq!(bench.bytes("c.wav"), Some(take(LARGE, 3)));
    let calls = bench.store.take_calls();
    let completions = calls.iter().filter(|call| *call == "complete").count();
    assert_eq!(
        completions, 1,
        "the write id tells that it has landed: {calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_by_parts_that_is_not_wanted_any_more_is_taken_back() {
    let bench = Bench::new();
    let source = bench.upload_large("a.wav").await;
    let staging = Arc::clone(&bench.staging);
    let mut parts = 0;
    bench.store.script(move |operation, _| {
        parts += usize::from(operation == "part copy");
        if operation == "part copy" && parts == 2 {
            let edit = Edit::Remove { key: key("b.wav") };
            staging.journal().apply(vec![edit]).unwrap();
        }
        Fault::None
    });
    bench.copy("b.wav", None, source);
    bench.drain().await;
    assert!(bench.store.object("b.wav").is_none());
    assert_eq!(bench.store.open_uploads(), 0);
    assert!(!bench.store.take_calls().contains(&"complete".to_owned()));
}
