//! Multipart uploads that a restart cuts: what is in the bucket is not sent again, nothing wrong is
//! taken for it, and nothing is left open.

use super::*;
use crate::store::StoreError;

const PARTS: usize = 12;

/// Saves a file of twelve parts, and stops when some of them are in the bucket; returns its bytes.
async fn stop_in_the_middle(bench: &Bench) -> Vec<u8> {
    let bytes = take(PARTS << 15, 5);
    bench.save("mix", None, &bytes);
    let mut sent = Vec::new();
    while sent.len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        sent.extend(part_calls(bench));
    }
    bench.uploader.stop().await;
    sent.extend(part_calls(bench));
    assert!(sent.len() < PARTS, "it was too fast");
    assert_eq!(bench.store.open_uploads(), 1);
    bytes
}

fn part_calls(bench: &Bench) -> Vec<String> {
    let mut calls = bench.store.take_calls();
    calls.retain(|call| call == "part");
    calls
}

/// Returns how many parts of the file the bucket has.
fn held(bench: &Bench) -> usize {
    let mut count = 0;
    bench.store.with_parts(|parts| count = parts.len());
    count
}

#[track_caller]
fn assert_whole(bench: &Bench, bytes: &[u8]) {
    assert!(bench.bytes("mix").unwrap() == bytes);
    assert_eq!(bench.store.open_uploads(), 0);
    assert_eq!(bench.journal().open_uploads(), []);
    assert_eq!(bench.uploader.status().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_rest_is_sent_after_a_restart() {
    let bench = Bench::new();
    let bytes = stop_in_the_middle(&bench).await;
    let before = held(&bench);
    let bench = bench.restart().await;
    bench.drain().await;
    assert_whole(&bench, &bytes);
    let calls = bench.store.take_calls();
    let count = |name: &str| calls.iter().filter(|call| *call == name).count();
    assert_eq!(count("part"), PARTS - before);
    assert_eq!((count("create"), count("list parts")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_tell_its_parts_is_believed_what_it_has_answered() {
    let bench = Bench::new();
    let bytes = stop_in_the_middle(&bench).await;
    let before = held(&bench);
    let refused = || Fault::Before(StoreError::Refused("501".into()));
    bench.store.fail("list parts", usize::MAX, refused);
    let bench = bench.restart().await;
    bench.drain().await;
    assert_whole(&bench, &bytes);
    assert_eq!(part_calls(&bench).len(), PARTS - before);
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_lost_and_not_told_of_make_it_begin_anew() {
    let bench = Bench::new();
    let bytes = stop_in_the_middle(&bench).await;
    let mut completions = 0;
    bench.store.script(move |operation, _| {
        completions += u32::from(operation == "complete");
        match operation {
            "list parts" => Fault::Before(StoreError::Refused("501".into())),
            "complete" if completions == 1 => Fault::Before(StoreError::Refused("part".into())),
            _ => Fault::None,
        }
    });
    let bench = bench.restart().await;
    bench.drain().await;
    assert_whole(&bench, &bytes);
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_lost_or_others_are_sent_again() {
    let bench = Bench::new();
    let bytes = stop_in_the_middle(&bench).await;
    let before = held(&bench);
    bench.store.with_parts(|parts| {
        parts.remove(&1);
        parts.insert(2, vec![7; PART as usize].into());
        parts.insert(3, vec![7; 10].into());
    });
    let bench = bench.restart().await;
    bench.drain().await;
    assert_whole(&bench, &bytes);
    assert_eq!(part_calls(&bench).len(), PARTS - before + 3);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_server_has_forgotten_begins_anew() {
    let bench = Bench::new();
    let bytes = stop_in_the_middle(&bench).await;
    bench.store.forget_uploads();
    let bench = bench.restart().await;
    bench.drain().await;
    assert_whole(&bench, &bytes);
    assert_eq!(part_calls(&bench).len(), PARTS);
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_a_file_that_was_deleted_or_saved_anew_is_taken_back() {
    for is_saved in [false, true] {
        let bench = Bench::new();
        stop_in_the_middle(&bench).await;
        match is_saved {
            true => bench.save("mix", None, b"anew"),
            false => {
                let edit = Edit::Remove { key: key("mix") };
                bench.journal().apply(vec![edit]).unwrap();
                FileId::random()
            }
        };
        let unavailable = || Fault::Before(unavailable());
        bench.store.fail("abort", 1, unavailable);
        let bench = bench.restart().await;
        // The first try to take it back fails; a later operation brings the next.
        bench.save("other", None, b"x");
        bench.drain().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.store.open_uploads(), 0);
        assert_eq!(bench.journal().open_uploads(), []);
        let expected = is_saved.then(|| b"anew".to_vec());
        assert_eq!(bench.bytes("mix"), expected);
    }
}

/// A power cut may take bytes of a file whose parts are in the bucket already.
#[tokio::test(start_paused = true)]
async fn parts_of_bytes_that_are_not_here_any_more_are_not_mixed_with_those_that_are() {
    let bench = Bench::new();
    let mut bytes = stop_in_the_middle(&bench).await;
    let file = bench.journal().record(&key("mix")).unwrap().change.file();
    bytes[5..9].copy_from_slice(b"lost");
    let bench = bench
        .restart_with(|staging| {
            let file = staging.open_file(file.unwrap()).unwrap();
            file.file().write_all_at(b"lost", 5).unwrap();
        })
        .await;
    bench.drain().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_whole(&bench, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_copy_by_parts_that_a_restart_cuts_begins_anew_and_leaves_nothing() {
    let bench = Bench::new();
    let bytes = take(PARTS << 15, 5);
    bench.save("mix", None, &bytes);
    bench.drain().await;
    let source = version("mix", bench.store.object("mix").unwrap().etag);
    let unavailable = || Fault::Before(unavailable());
    bench.store.fail("abort", 1, unavailable);
    bench.copy("copy", None, source);
    while !bench.store.take_calls().contains(&"part copy".to_owned()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.uploader.stop().await;
    let bench = bench.restart().await;
    bench.drain().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_whole(&bench, &bytes);
    assert!(bench.bytes("copy").unwrap() == bytes);
}
