//! What the cache keeps, and what it forgets: restarts, TTL, eviction, staging, removal by hand.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use super::*;
use crate::store::ListedObject;
use crate::store::Origin;

#[test]
fn whole_and_partial_files_survive_a_clean_end() {
    let mut bench = Bench::new();
    let (whole, bytes) = bench.filled("whole", 100 * KIB);
    let (part, part_bytes) = bench.object("part", 8 * MIB);
    {
        let file = bench.cache.open_file(&part, 8 << 20).unwrap();
        let stream = ReadStream::default();
        let read = file.read(&stream, 1 << 20, 100 * KIB);
        bench.runtime.block_on(read).unwrap();
        bench.settle_fetches(&file);
    }
    let asked = bench.store.asked_bytes();
    bench.end();
    bench.reopen();
    let file = bench.cache.get(&whole).unwrap();
    assert!(file.is_complete() && file.is_named());
    let mut buf = vec![0; 100 * KIB];
    file.file().read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(buf, bytes);
    let file = bench.cache.get(&part).unwrap();
    assert!(!file.is_complete());
    file.try_read(1 << 20, &mut buf).unwrap().unwrap();
    assert_eq!(buf, part_bytes[MIB..MIB + 100 * KIB]);
    assert!(file.try_read(0, &mut buf).is_none());
    bench.runtime.block_on(file.fill()).unwrap();
    assert_eq!(bench.store.asked_bytes() - asked, (8 << 20) - (256 << 10));
    assert_eq!(bench.cache.stats().bytes, (8 << 20) + (100 << 10));
}

#[test]
fn a_killed_process_keeps_what_was_whole_and_removes_what_has_no_row() {
    let mut bench = Bench::new();
    let (whole, _) = bench.filled("whole", 100 * KIB);
    // Its row is written by the thread that has verified it.
    bench.wait_until(|| matches!(bench.cache.index().find(&whole), Ok(Some(row)) if row.complete));
    let (part, _) = bench.object("part", 8 * MIB);
    let file = bench.cache.open_file(&part, 8 << 20).unwrap();
    let stream = ReadStream::default();
    bench.runtime.block_on(file.read(&stream, 0, 10)).unwrap();
    drop((file, stream));
    bench.reopen();
    assert_eq!(bench.cache_files(), 2);
    let report = bench.cache.cleanup(true);
    assert_eq!((report.orphans, bench.cache_files()), (1, 1));
    assert!(bench.cache.get(&whole).unwrap().is_complete());
    assert!(bench.cache.get(&part).is_none());
}

#[test]
fn a_file_of_the_wrong_length_or_none_is_a_miss() {
    let mut bench = Bench::new();
    let (short, _) = bench.filled("short", 100 * KIB);
    let (gone, _) = bench.filled("gone", 100 * KIB);
    let path = |version| bench.cache.path_of(bench.cache.get(version).unwrap().id());
    let (short_path, gone_path) = (path(&short), path(&gone));
    bench.end();
    File::options()
        .write(true)
        .open(short_path)
        .unwrap()
        .set_len(5)
        .unwrap();
    fs::remove_file(gone_path).unwrap();
    bench.reopen();
    assert!(bench.cache.get(&short).is_none());
    assert!(bench.cache.get(&gone).is_none());
    assert_eq!(bench.cache.stats().bytes, 0);
    assert_eq!(bench.cache.stats().files, 0);
    assert_eq!(bench.cache_files(), 0);
}

#[test]
fn expired_entries_go_unless_open_or_the_bucket_is_unreachable() {
    let bench = Bench::new();
    let (old, _) = bench.filled("old", KIB);
    let (open, _) = bench.filled("open", KIB);
    let (fresh, _) = bench.filled("fresh", KIB);
    let held = bench.cache.get(&open).unwrap();
    bench.clock.advance(TTL + Duration::from_secs(1));
    assert!(held.is_expired());
    bench.cache.revalidated(&fresh);
    assert_eq!(bench.cache.cleanup(false).expired_files, 0);
    let report = bench.cache.cleanup(true);
    assert_eq!((report.expired_files, report.freed_bytes), (1, 1024));
    assert!(bench.cache.get(&old).is_none());
    assert!(
        bench
            .cache
            .get(&fresh)
            .is_some_and(|file| !file.is_expired())
    );
    drop(held);
    assert_eq!(bench.cache.cleanup(true).expired_files, 1);
    assert_eq!(bench.cache.stats().files, 1);
}

#[test]
fn the_budget_holds_and_the_least_used_go_first() {
    let bench = Bench::with(|options| options.max_bytes = Some(10 << 20));
    let mut versions = Vec::new();
    for i in 0..40 {
        bench.clock.advance(Duration::from_secs(1));
        versions.push(bench.filled(&format!("f{i}"), MIB).0);
        // The first stays in use.
        assert!(bench.cache.get(&versions[0]).is_some());
        let stats = bench.cache.stats();
        assert!(stats.bytes <= stats.max_bytes, "{stats:?}");
        assert!(bench.cache_files() <= 10);
    }
    assert!(bench.cache.get(&versions[39]).is_some());
    assert!(bench.cache.get(&versions[1]).is_none());
}

#[test]
fn what_a_scan_has_looked_at_is_evicted_last() {
    let bench = Bench::with(|options| options.max_bytes = Some(8 << 20));
    let look = |key: &str| {
        let (version, _) = bench.object(key, 5 * MIB);
        let file = bench.cache.open_file(&version, 5 << 20).unwrap();
        file.prefetch(&ReadStream::default());
        bench.settle_fetches(&file);
        version
    };
    let used_next = || bench.clock.advance(Duration::from_secs(120));
    let header = look("header");
    for number in 0..12 {
        used_next();
        bench.filled(&format!("f{number}"), MIB);
    }
    assert!(
        bench
            .cache
            .get(&header)
            .is_some_and(|file| file.held_bytes() > 0)
    );
    // They are a small part of the cache, or go like all others.
    for number in 0..3 {
        used_next();
        look(&format!("h{number}"));
    }
    for number in 12..24 {
        used_next();
        bench.filled(&format!("f{number}"), MIB);
    }
    assert!(bench.cache.get(&header).is_none());
}

#[test]
fn open_files_are_not_evicted_even_over_the_budget() {
    let bench = Bench::with(|options| options.max_bytes = Some(2 << 20));
    let open: Vec<_> = (0..4)
        .map(|i| {
            let (version, _) = bench.filled(&format!("f{i}"), MIB);
            bench.cache.get(&version)
        })
        .collect();
    let files: Vec<_> = open.into_iter().flatten().collect();
    assert!(files.len() >= 2);
    let (version, bytes) = bench.object("large", 5 * MIB);
    let file = bench.cache.open_file(&version, 5 << 20).unwrap();
    bench.runtime.block_on(file.fill()).unwrap();
    let mut buf = vec![0; 5 * MIB];
    file.try_read(0, &mut buf).unwrap().unwrap();
    assert_eq!(buf, bytes);
    assert!(files.iter().all(|file| file.is_named()));
    drop((files, file));
    bench.cache.cleanup(false);
    assert!(bench.cache.stats().bytes <= 2 << 20);
}

#[test]
fn what_came_first_of_files_in_use_makes_way_and_is_fetched_again() {
    const LIMIT: u64 = 8 << 20;
    let bench = Bench::with(|options| options.max_bytes = Some(LIMIT));
    let objects = ["a", "b"].map(|key| bench.object(key, 20 * MIB));
    let files = objects
        .each_ref()
        .map(|(version, _)| bench.cache.open_file(version, 20 << 20).unwrap());
    let streams = [ReadStream::default(), ReadStream::default()];
    let path = |file: &Arc<CacheFile>| bench.options.dir.join(file.id().cache_name());
    let on_disk = |file: &Arc<CacheFile>| fs::metadata(path(file)).unwrap().blocks() * 512;
    for at in (0..20 * MIB).step_by(256 * KIB).chain([0]) {
        for ((file, stream), (_, bytes)) in files.iter().zip(&streams).zip(&objects) {
            let read = file.read(stream, at as u64, 256 * KIB);
            assert!(bench.runtime.block_on(read).unwrap() == bytes[at..at + 256 * KIB]);
        }
        let held: u64 = files.iter().map(on_disk).sum();
        assert!(held <= LIMIT + (4 << 20), "{held} at {at}");
    }
    // Who needs all of one gets it.
    bench.runtime.block_on(files[0].fill()).unwrap();
    assert!(files[0].is_complete());
    // No row tells of the other's bytes, and it goes with its last user.
    bench.wait_until(|| files[1].content.state.lock().fetches.is_empty());
    bench.cache.round();
    let (version, id) = (files[1].version().clone(), files[1].id());
    assert!(!bench.cache.index().has_file(id).unwrap());
    drop((files, streams));
    // Its verification may hold the whole one a moment longer.
    bench.wait_until(|| {
        bench.cache.cleanup(false);
        bench.cache.stats().bytes <= LIMIT
    });
    assert!(bench.cache.get(&version).is_none());
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let bench = Bench::new();
    bench.filled("a", MIB);
    let options = CacheOptions {
        source: "a".into(),
        min_free_bytes: u64::MAX / 2,
        ..bench.options.clone()
    };
    bench.end();
    let cache = open_cache(&options, &bench.store, &bench.clock, &bench.runtime);
    assert_eq!(cache.cleanup(false).evicted_files, 1);
    // A read is answered all the same.
    let (version, bytes) = bench.object("b", 100 * KIB);
    let file = cache.open_file(&version, 100 << 10).unwrap();
    let stream = ReadStream::default();
    let read = file.read(&stream, 0, 100 * KIB);
    assert_eq!(bench.runtime.block_on(read).unwrap(), bytes);
}

#[test]
fn removing_the_directory_costs_downloads_and_nothing_else() {
    let bench = Bench::new();
    let (idle, _) = bench.filled("idle", 100 * KIB);
    let (open, bytes) = bench.filled("open", 100 * KIB);
    let (filling, filling_bytes) = bench.object("filling", 8 * MIB);
    let open_file = bench.cache.get(&open).unwrap();
    let filling_file = bench.cache.open_file(&filling, 8 << 20).unwrap();
    let stream = ReadStream::default();
    let read = filling_file.read(&stream, 0, 100 * KIB);
    bench.runtime.block_on(read).unwrap();

    fs::remove_dir_all(&bench.options.dir).unwrap();
    assert!(!open_file.is_named());
    let mut buf = vec![0; 100 * KIB];
    open_file.try_read(0, &mut buf).unwrap().unwrap();
    assert_eq!(buf, bytes);
    bench.runtime.block_on(filling_file.fill()).unwrap();
    let mut all = vec![0; 8 * MIB];
    filling_file.try_read(0, &mut all).unwrap().unwrap();
    assert_eq!(all, filling_bytes);
    let taken = bench.cache.take(&open_file, &bench.dir.path().join("x"));
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::NotFound);

    assert!(bench.cache.get(&idle).is_none());
    bench.filled("new", 100 * KIB);
    let mode = fs::metadata(&bench.options.dir)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(bench.cache_files(), 1);
    assert_eq!(bench.cache.stats().bytes, 100 << 10);
    drop((open_file, filling_file));
    bench.cache.round();
    assert!(bench.cache.get(&open).is_none());
    assert!(bench.options.dir.join("index.db").exists());
}

#[test]
fn a_damaged_index_is_replaced_while_running() {
    let bench = Bench::new();
    let (idle, bytes) = bench.filled("idle", 100 * KIB);
    fs::remove_file(bench.options.dir.join("index.db")).unwrap();
    bench.cache.round();
    // What was in memory is entered again.
    assert!(bench.cache.get(&idle).unwrap().is_complete());
    assert_eq!(bench.cache.stats().bytes, bytes.len() as u64);
    let mut bench = bench;
    bench.end();
    bench.reopen();
    assert!(bench.cache.get(&idle).unwrap().is_complete());
}

#[test]
fn an_uploaded_file_is_adopted_settled_and_taken_back() {
    let mut bench = Bench::new();
    let bytes = content(5, 100 * KIB);
    let version = bench.store.put_bytes("take", &bytes);
    let (id, reader, path) = bench.staged(&bytes);
    let file = bench.cache.adopt(&version, id, reader, path.clone());
    assert!(file.is_complete() && path.exists());
    assert_eq!(bench.cache.get(&version).unwrap().id(), id);
    assert_eq!(bench.cache.held_below("ta").len(), 1);
    assert_eq!(bench.cache.stats().files, 0);

    fs::remove_dir_all(&bench.options.dir).unwrap();
    bench.cache.settle(&file).unwrap();
    assert!(!path.exists() && file.is_named());
    assert_eq!(bench.cache.stats().bytes, 100 << 10);
    assert_eq!(bench.cache.held_below("").len(), 1);
    drop(file);
    bench.end();
    bench.reopen();

    let file = bench.cache.get(&version).unwrap();
    bench.cache.take(&file, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(file.is_named(), "the same inode");
    assert!(bench.cache.get(&version).is_none());
    assert_eq!(bench.cache.stats().bytes, 0);
    assert!(bench.store.gets().is_empty());
}

#[test]
fn a_file_that_was_taken_or_forgotten_is_not_settled() {
    let bench = Bench::new();
    let bytes = content(5, KIB);
    let version = bench.store.put_bytes("a", &bytes);
    let (id, reader, path) = bench.staged(&bytes);
    let file = bench.cache.adopt(&version, id, reader, path.clone());
    bench.cache.take(&file, &path).unwrap();
    bench.cache.settle(&file).unwrap();
    assert!(path.exists() && bench.cache.get(&version).is_none());

    let (id, reader, path) = bench.staged(&bytes);
    let file = bench.cache.adopt(&version, id, reader, path.clone());
    bench.cache.forget(&version);
    assert!(path.exists());
    bench.cache.settle(&file).unwrap();
    assert!(!path.exists() && bench.cache_files() == 0);
}

#[test]
fn a_partial_file_cannot_be_taken() {
    let bench = Bench::new();
    let (version, _) = bench.object("a", MIB);
    let file = bench.cache.open_file(&version, MIB as u64).unwrap();
    let taken = bench.cache.take(&file, &bench.dir.path().join("x"));
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_forgotten_file_is_read_to_its_end_by_those_who_hold_it() {
    let bench = Bench::new();
    let (version, bytes) = bench.filled("a", 100 * KIB);
    let file = bench.cache.get(&version).unwrap();
    bench.cache.forget(&version);
    assert!(bench.cache.get(&version).is_none());
    assert_eq!((bench.cache_files(), bench.cache.stats().bytes), (0, 0));
    let mut buf = vec![0; 100 * KIB];
    file.try_read(0, &mut buf).unwrap().unwrap();
    assert_eq!(buf, bytes);
}

#[test]
fn a_copied_object_takes_its_bytes_along() {
    let mut bench = Bench::new();
    let bytes = content(3, 8 * MIB);
    let from = bench.store.put_bytes("from", &bytes);
    let open = bench.cache.open_file(&from, 8 << 20).unwrap();
    let stream = ReadStream::default();
    bench.runtime.block_on(open.read(&stream, 0, 10)).unwrap();
    bench.settle_fetches(&open);
    let to = bench.store.put_bytes("to", &bytes);
    bench.store.put_bytes("from", &content(4, 10));
    bench.cache.rename_version(&from, &to);
    assert!(bench.cache.get(&from).is_none());
    let renamed = bench.cache.get(&to).unwrap();
    assert_eq!((renamed.id(), renamed.version()), (open.id(), &to));
    // The handle of the former name reads on, from the new key.
    let read = open.read(&stream, 5 << 20, 100);
    assert_eq!(
        bench.runtime.block_on(read).unwrap(),
        bytes[5 * MIB..5 * MIB + 100]
    );
    bench.runtime.block_on(renamed.fill()).unwrap();
    drop((open, renamed));
    bench.end();
    bench.reopen();
    assert!(bench.cache.get(&to).unwrap().is_complete());
    assert!(bench.cache.get(&from).is_none());
    assert_eq!(bench.cache.stats().files, 1);
}

#[test]
fn a_version_has_one_file_at_a_time() {
    let bench = Bench::new();
    let (version, _) = bench.object("a", MIB);
    let opened: Vec<_> = std::thread::scope(|scope| {
        let open = || bench.cache.open_file(&version, MIB as u64).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(opened.iter().all(|file| Arc::ptr_eq(file, &opened[0])));
    assert_eq!(bench.cache_files(), 1);
    assert!(bench.cache.get(&version).is_none(), "it holds nothing");
}

#[test]
fn many_files_are_kept_without_being_kept_open() {
    let bench = Bench::new();
    for i in 0..700 {
        bench.filled(&format!("f{i}"), 100);
    }
    assert!(bench.cache.table.all().len() < 400);
    assert_eq!(bench.cache.stats().files, 700);
    assert_eq!(bench.cache.held_below("f").len(), 700);
    for i in 0..700 {
        let (version, bytes) = bench.object(&format!("f{i}"), 100);
        let mut buf = vec![0; 100];
        let file = bench.cache.get(&version).unwrap();
        file.try_read(0, &mut buf).unwrap().unwrap();
        assert_eq!(buf, bytes);
    }
}

#[test]
fn listings_are_there_at_once_and_after_a_restart() {
    let mut bench = Bench::new();
    let object = ListedObject {
        version: version("a/b", "\"t\""),
        size: 3,
        last_modified: std::time::UNIX_EPOCH,
        origin: Origin::Primary,
    };
    let folders = ["a/c/".to_owned()];
    bench
        .cache
        .save_listing("a/", std::slice::from_ref(&object), &folders);
    for _ in 0..2 {
        let listing = bench.cache.load_listing("a/").unwrap();
        assert_eq!(listing.objects, std::slice::from_ref(&object));
        assert_eq!(listing.prefixes, folders);
        assert_eq!(bench.cache.load_listing("b/"), None);
        bench.end();
        bench.reopen();
    }
}

#[test]
fn the_export_names_each_entry() {
    let bench = Bench::new();
    let (version, _) = bench.filled("a \"quoted\" name", 100 * KIB);
    bench.filled("b", KIB);
    bench.end();
    let text = fs::read(bench.options.dir.join("metadata.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["key"], version.key.as_str());
    assert_eq!(entries[0]["held_bytes"], 100 << 10);
    assert_eq!(entries[0]["complete"], true);
    let file = entries[0]["file"].as_str().unwrap();
    assert!(bench.options.dir.join(file).exists());
}

#[test]
fn housekeeping_cleans_up_at_start_and_ends_with_the_cache() {
    let mut bench = Bench::new();
    let (old, _) = bench.filled("old", KIB);
    bench.end();
    bench.clock.advance(TTL + Duration::from_secs(1));
    bench.reopen();
    bench.cache.spawn_housekeeping(Arc::new(|| true));
    bench.wait_until(|| bench.cache.stats().files == 0);
    assert!(bench.cache.get(&old).is_none());
    bench.cache.save_listing("", &[], &[]);
    bench.wait_until(|| bench.cache.pending.lock().is_empty());
    bench.cache.shutdown();
    bench.cache.shutdown();
}

#[test]
fn hits_and_misses_are_counted() {
    let bench = Bench::new();
    bench.cache.note_open(true);
    bench.cache.note_open(true);
    bench.cache.note_open(false);
    let stats = bench.cache.stats();
    assert_eq!((stats.hits, stats.misses), (2, 1));
}
