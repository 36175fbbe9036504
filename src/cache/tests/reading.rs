//! Reading through the cache: what is asked of the bucket, and what happens when it misbehaves.

use std::time::Instant;

use tokio::sync::Semaphore;

use super::*;
use crate::cache::fake_store::Answer;
use crate::error::FsError;
use crate::store::{ETag, StoreError};

fn read(bench: &Bench, file: &Arc<CacheFile>, offset: usize, len: usize) -> Vec<u8> {
    let stream = ReadStream::default();
    let read = file.read(&stream, offset as u64, len);
    bench.runtime.block_on(read).unwrap()
}

#[test]
fn bytes_come_once_and_then_from_the_disk() {
    let bench = Bench::new();
    let (version, bytes) = bench.object("a", 300 * KIB);
    let file = bench.cache.open_file(&version, 300 << 10).unwrap();
    assert_eq!(read(&bench, &file, 1000, 5000), bytes[1000..6000]);
    bench.wait_until(|| file.held_bytes() >= 257_000);
    let mut buf = vec![0; 5000];
    assert_eq!(file.try_read(1000, &mut buf).unwrap().unwrap(), 5000);
    assert_eq!(buf, bytes[1000..6000]);
    // Past the end a read is short, or empty.
    assert_eq!(
        read(&bench, &file, 300 * KIB - 10, 100),
        bytes[300 * KIB - 10..]
    );
    assert_eq!(file.try_read(300 << 10, &mut buf).unwrap().unwrap(), 0);
    assert_eq!(file.try_read(u64::MAX, &mut buf).unwrap().unwrap(), 0);
    let gets = bench.store.gets();
    assert!(gets.len() <= 2, "{gets:?}");
}

#[test]
fn an_open_asks_for_small_files_whole_and_for_the_head_of_large_ones() {
    let bench = Bench::new();
    for (key, size, asked) in [("small", 3 * MIB, 3 * MIB), ("large", 30 * MIB, 384 * KIB)] {
        let (version, bytes) = bench.object(key, size);
        let file = bench.cache.open_file(&version, size as u64).unwrap();
        let stream = ReadStream::default();
        file.prefetch(&stream);
        drop(stream);
        bench.settle_fetches(&file);
        assert_eq!(file.held_bytes(), asked as u64);
        let mut head = vec![0; 64 * KIB];
        file.try_read(0, &mut head).unwrap().unwrap();
        assert_eq!(head, bytes[..64 * KIB]);
        bench.wait_until(|| file.is_complete() == (asked == size));
    }
    assert_eq!(bench.store.gets(), [0..3 << 20, 0..384 << 10]);
}

#[test]
fn bytes_are_readable_before_the_range_is_complete() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(0));
    bench
        .store
        .usually(Answer::Gated(10_000, Arc::clone(&permits)));
    let (version, bytes) = bench.object("a", MIB);
    let file = bench.cache.open_file(&version, MIB as u64).unwrap();
    file.prefetch(&ReadStream::default());
    permits.add_permits(2);
    assert_eq!(read(&bench, &file, 5_000, 15_000), bytes[5_000..20_000]);
    assert!(file.held_bytes() < 40_000);
    assert_eq!(bench.store.gets().len(), 1);
    permits.add_permits(1000);
    bench.runtime.block_on(file.fill()).unwrap();
}

#[test]
fn many_readers_share_one_request() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(0));
    bench
        .store
        .usually(Answer::Gated(64 * KIB, Arc::clone(&permits)));
    let (version, bytes) = bench.object("a", 200 * KIB);
    let file = bench.cache.open_file(&version, 200 << 10).unwrap();
    let readers: Vec<_> = (0..20)
        .map(|i| {
            let file = Arc::clone(&file);
            bench.runtime.spawn(async move {
                let stream = ReadStream::default();
                file.read(&stream, 0, 100 * KIB + i).await.unwrap()
            })
        })
        .collect();
    permits.add_permits(4);
    for (i, reader) in readers.into_iter().enumerate() {
        let got = bench.runtime.block_on(reader).unwrap();
        assert_eq!(got, bytes[..100 * KIB + i]);
    }
    assert!(bench.store.asked_bytes() <= 200 << 10);
}

#[test]
fn a_random_read_asks_for_little_and_reading_in_order_for_all() {
    let bench = Bench::new();
    let (version, bytes) = bench.object("a", 48 * MIB);
    let file = bench.cache.open_file(&version, 48 << 20).unwrap();
    let stream = ReadStream::default();
    for at in [40 * MIB, 3 * MIB, 20 * MIB] {
        let got = bench
            .runtime
            .block_on(file.read(&stream, at as u64, 128 * KIB));
        assert_eq!(got.unwrap(), bytes[at..at + 128 * KIB]);
    }
    bench.settle_fetches(&file);
    assert!(bench.store.asked_bytes() <= 3 * (400 << 10));

    let mut waited = 0;
    let mut buf = vec![0; 128 * KIB];
    for at in (0..48 * MIB).step_by(128 * KIB) {
        match file.try_read(at as u64, &mut buf) {
            Some(read) => {
                read.unwrap();
                file.note_read(&stream, at as u64, buf.len());
            }
            None => {
                waited += 1;
                let got = bench
                    .runtime
                    .block_on(file.read(&stream, at as u64, buf.len()));
                buf = got.unwrap();
            }
        }
        assert_eq!(buf, bytes[at..at + 128 * KIB]);
    }
    bench.runtime.block_on(file.fill()).unwrap();
    assert_eq!(bench.store.asked_bytes(), 48 << 20, "no byte twice");
    assert!(
        bench.store.gets().len() < 80,
        "{}",
        bench.store.gets().len()
    );
    assert!(waited < 300, "{waited}");
}

#[test]
fn a_dropped_stream_stops_its_read_ahead() {
    let bench = Bench::new();
    let (version, _) = bench.object("a", 64 * MIB);
    let file = bench.cache.open_file(&version, 64 << 20).unwrap();
    let stream = ReadStream::default();
    file.prefetch(&stream);
    bench.settle_fetches(&file);
    let permits = Arc::new(Semaphore::new(0));
    bench
        .store
        .usually(Answer::Gated(64 * KIB, Arc::clone(&permits)));
    for at in (0..MIB).step_by(128 * KIB) {
        file.note_read(&stream, at as u64, 128 * KIB);
    }
    bench.wait_until(|| bench.store.gets().len() > 2);
    drop(stream);
    bench.settle_fetches(&file);
    assert!(file.held_bytes() < 4 << 20);
    // What was given up is asked for again when it is needed.
    permits.add_permits(100_000);
    bench.runtime.block_on(file.fill()).unwrap();
}

#[test]
fn streams_share_the_line_by_earliest_need() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(0));
    let (greedy, _) = bench.object("greedy", 96 * MIB);
    let (late, _) = bench.object("late", 96 * MIB);
    let open = |version: &ObjectVersion| {
        let file = bench.cache.open_file(version, 96 << 20).unwrap();
        let stream = ReadStream::default();
        file.prefetch(&stream);
        bench.settle_fetches(&file);
        (file, stream)
    };
    let ((greedy_file, greedy_stream), (late_file, late_stream)) = (open(&greedy), open(&late));
    bench
        .store
        .usually(Answer::Gated(64 * KIB, Arc::clone(&permits)));
    let read_on = |file: &Arc<CacheFile>, stream: &ReadStream| {
        for at in (0..640 * KIB).step_by(128 * KIB) {
            file.note_read(stream, at as u64, 128 * KIB);
        }
    };
    // One has taken all places, and wants more.
    read_on(&greedy_file, &greedy_stream);
    let under_way = || greedy_file.content.state.lock().fetches.len();
    bench.wait_until(|| bench.store.gets_of(&greedy).len() == under_way() + 1);
    let taken = bench.store.gets_of(&greedy).len();
    assert!(taken > 8, "{taken}");
    read_on(&late_file, &late_stream);
    // Each place that becomes free goes to who needs it sooner.
    permits.add_permits(2 * MIB / (64 * KIB) * taken);
    bench.wait_until(|| bench.store.gets_of(&late).len() > 1);
    let more = bench.store.gets_of(&greedy).split_off(taken);
    let farthest = more.iter().map(|range| range.start).max();
    assert!(farthest.is_none_or(|at| at < 64 << 20), "{farthest:?}");
    permits.add_permits(1_000_000);
}

#[test]
fn a_whole_file_is_filled_once_reading_was_sustained() {
    let bench = Bench::new();
    let (version, _) = bench.object("a", 20 * MIB);
    let file = bench.cache.open_file(&version, 20 << 20).unwrap();
    let stream = ReadStream::default();
    for at in (0..6 * MIB).step_by(128 * KIB) {
        let read = file.read(&stream, at as u64, 128 * KIB);
        bench.runtime.block_on(read).unwrap();
    }
    bench.wait_until(|| file.is_complete());
    drop(stream);
}

#[test]
fn what_is_transient_is_retried_with_what_is_missing() {
    let bench = Bench::new();
    let (version, bytes) = bench.object("a", 200 * KIB);
    bench
        .store
        .script([Answer::Fail, Answer::Cut(70_000), Answer::WrongRange]);
    let file = bench.cache.open_file(&version, 200 << 10).unwrap();
    assert_eq!(read(&bench, &file, 0, 200 * KIB), bytes);
    let all = 200 << 10;
    assert_eq!(
        bench.store.gets(),
        [0..all, 0..all, 70_000..all, 70_000..all]
    );
    bench.runtime.block_on(file.fill()).unwrap();
}

#[test]
fn a_silent_bucket_costs_the_deadline_and_only_those_who_need_it() {
    let bench = Bench::new();
    let (version, bytes) = bench.object("a", 8 * MIB);
    let file = bench.cache.open_file(&version, 8 << 20).unwrap();
    read(&bench, &file, 0, 100 * KIB);
    bench.settle_fetches(&file);
    bench.store.usually(Answer::Hang);
    for answer in [Answer::Hang, Answer::Stall(5_000)] {
        bench.store.script([answer]);
        let begun = Instant::now();
        let stream = ReadStream::default();
        let read = file.read(&stream, 4 << 20, 100 * KIB);
        let error = bench.runtime.block_on(read).unwrap_err();
        assert!(matches!(
            FsError::from(error),
            FsError::DeadlineExceeded | FsError::Store(StoreError::Unavailable { .. })
        ));
        let waited = begun.elapsed();
        assert!(waited < bench.options.request_deadline * 3, "{waited:?}");
        let mut buf = vec![0; 100 * KIB];
        file.try_read(0, &mut buf).unwrap().unwrap();
        assert_eq!(buf, bytes[..100 * KIB]);
    }
    bench.store.usually(Answer::Chunks(50_000));
    assert_eq!(
        read(&bench, &file, 4 * MIB, 100 * KIB),
        bytes[4 * MIB..4 * MIB + 100 * KIB]
    );
}

#[test]
fn a_slow_transfer_lives_as_long_as_bytes_come() {
    let bench = Bench::new();
    let permits = Arc::new(Semaphore::new(0));
    bench
        .store
        .usually(Answer::Gated(16 * KIB, Arc::clone(&permits)));
    let (version, bytes) = bench.object("a", 160 * KIB);
    let file = bench.cache.open_file(&version, 160 << 10).unwrap();
    let feeder = std::thread::spawn(move || {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(120));
            permits.add_permits(1);
        }
    });
    // Twice the deadline in all.
    assert_eq!(read(&bench, &file, 0, 160 * KIB), bytes);
    feeder.join().unwrap();
    assert_eq!(bench.store.gets().len(), 1);
}

#[test]
fn a_changed_object_is_stale() {
    let bench = Bench::new();
    let (version, _) = bench.object("a", 100 * KIB);
    let file = bench.cache.open_file(&version, 100 << 10).unwrap();
    bench.store.put_bytes("a", &content(99, 100 * KIB));
    let stream = ReadStream::default();
    let error = bench
        .runtime
        .block_on(file.read(&stream, 0, 10))
        .unwrap_err();
    assert!(matches!(FsError::from(error), FsError::Stale));
    let gone = version_of_nothing();
    let file = bench.cache.open_file(&gone, 10).unwrap();
    let error = bench.runtime.block_on(file.fill()).unwrap_err();
    assert!(matches!(FsError::from(error), FsError::Stale));
}

fn version_of_nothing() -> ObjectVersion {
    version("nothing", "\"tag\"")
}

#[test]
fn a_damaged_file_is_fetched_once_more_and_then_given_up() {
    let bench = Bench::new();
    let (once, bytes) = bench.object("once", 100 * KIB);
    bench.store.script([Answer::Damaged]);
    let file = bench.cache.open_file(&once, 100 << 10).unwrap();
    bench.runtime.block_on(file.fill()).unwrap();
    assert_eq!(read(&bench, &file, 0, 100 * KIB), bytes);

    let (twice, bytes) = bench.object("twice", 100 * KIB);
    bench.store.script([Answer::Damaged, Answer::Damaged]);
    let file = bench.cache.open_file(&twice, 100 << 10).unwrap();
    let error = bench.runtime.block_on(file.fill()).unwrap_err();
    assert!(matches!(error, CacheError::Damaged));
    bench.wait_until(|| bench.cache.get(&twice).is_none());
    let file = bench.cache.open_file(&twice, 100 << 10).unwrap();
    assert_eq!(read(&bench, &file, 0, 100 * KIB), bytes);
}

#[test]
fn a_tag_that_is_no_md5_is_verified_by_length() {
    let bench = Bench::new();
    let bytes = content(1, 100 * KIB);
    let tag = ETag::new("\"00112233445566778899aabbccddeeff-3\"");
    let version = bench.store.put_tagged("multipart", &bytes, tag);
    let file = bench.cache.open_file(&version, 100 << 10).unwrap();
    bench.runtime.block_on(file.fill()).unwrap();
    assert!(file.is_complete());
    // A listing that told another length than the object has is found out.
    let file = bench.cache.open_file(&version, 90 << 10).unwrap();
    let error = bench.runtime.block_on(file.fill()).unwrap_err();
    assert!(matches!(FsError::from(error), FsError::Stale));
}

#[test]
fn an_empty_object_asks_for_nothing() {
    let bench = Bench::new();
    let (version, _) = bench.object("empty", 0);
    let file = bench.cache.open_file(&version, 0).unwrap();
    file.prefetch(&ReadStream::default());
    assert!(file.is_complete());
    assert!(read(&bench, &file, 0, 100).is_empty());
    bench.runtime.block_on(file.fill()).unwrap();
    assert!(bench.store.gets().is_empty());
}

#[test]
fn the_first_answer_of_a_file_is_passed_on() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observed = Arc::clone(&seen);
    bench.cache.observe_info(Box::new(move |info| {
        observed.lock().push(info.version.clone())
    }));
    let (version, _) = bench.object("a", 2 * MIB);
    let file = bench.cache.open_file(&version, 2 << 20).unwrap();
    read(&bench, &file, 0, 10);
    read(&bench, &file, MIB, 10);
    assert_eq!(*seen.lock(), [version]);
}
