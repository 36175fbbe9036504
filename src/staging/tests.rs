use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use super::*;
use crate::clock::SystemClock;
use crate::store::Key;
use crate::store::attributes::FileAttributes;

fn identity(bucket: &str) -> Identity {
    Identity {
        backend: "r2".into(),
        endpoint: "https://example.test".into(),
        bucket: bucket.into(),
        prefix: String::new(),
    }
}

fn open(dir: &Path) -> (Arc<Staging>, Replay) {
    Staging::open(dir, &identity("takes"), Arc::new(SystemClock)).unwrap()
}

fn put(name: &str, file: FileId, state: PutState) -> Edit {
    Edit::Set {
        key: Key::new(name).unwrap(),
        base: None,
        change: Change::Put {
            file,
            state,
            attributes: FileAttributes::default(),
        },
    }
}

/// Copies what a process killed now would leave.
fn after_kill(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.metadata().unwrap().is_file() && !name.to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), copy.path().join(name)).unwrap();
        }
    }
    copy
}

fn staged_names(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap();
    names
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().ends_with(".staged")
        })
        .count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, replay) = open(dir.path());
    assert_eq!((replay.records, replay.orphans.len()), (0, 0));
    let file = staging.create_file().unwrap();
    staging
        .journal()
        .apply(vec![put("a", file.id(), PutState::Open)])
        .unwrap();
    file.touch();
    file.file().write_all_at(b"take", 0).unwrap();
    let (lost, gone) = (FileId::random(), FileId::random());
    let closed = PutState::Closed { length: 9 };
    staging
        .journal()
        .apply(vec![put("lost", lost, closed)])
        .unwrap();
    staging
        .journal()
        .apply(vec![Edit::Discard { file: gone }])
        .unwrap();
    fs::write(staging.path(gone), b"old").unwrap();
    fs::write(staging.path(FileId::random()), b"whose?").unwrap();

    let copy = after_kill(dir.path());
    let (restarted, replay) = open(copy.path());
    assert_eq!(replay.records, 2);
    let missing: Vec<_> = replay.missing.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(missing, ["lost"]);
    assert_eq!(replay.orphans.len(), 1, "reported, and left where it is");
    assert_eq!(fs::read(&replay.orphans[0].path).unwrap(), b"whose?");
    assert!(!restarted.path(gone).exists());
    let record = restarted.journal().record(&Key::new("a").unwrap()).unwrap();
    assert_eq!(record.change.length(), 4);
    assert!(!record.change.is_open());
    let file = restarted.open_file(record.change.file().unwrap()).unwrap();
    let mut bytes = [0; 4];
    file.file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"take");
    restarted.shutdown();
    assert_eq!(staged_names(copy.path()), 2, "the pool is emptied");
}

#[test]
fn nobodys_takes_go_to_another_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, _) = open(dir.path());
    let key = Key::new("a").unwrap();
    staging
        .journal()
        .apply(vec![put("a", FileId::random(), PutState::Open)])
        .unwrap();
    drop(staging);
    let clock = || Arc::new(SystemClock);
    let refused = Staging::open(dir.path(), &identity("other"), clock()).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("\"takes\"") && text.contains("\"other\""),
        "{text}"
    );
    let (staging, _) = open(dir.path());
    staging.journal().apply(vec![Edit::Remove { key }]).unwrap();
    drop(staging);
    Staging::open(dir.path(), &identity("other"), clock()).unwrap();
    open(dir.path());
}

#[test]
fn a_file_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, _) = open(dir.path());
    let file = staging.create_file().unwrap();
    let id = file.id();
    let same = staging.open_file(id).unwrap();
    assert!(Arc::ptr_eq(&file, &same));
    assert_eq!(same.generation(), 0);
    file.touch();
    assert_eq!(same.generation(), 1);
    drop((file, same));
    assert!(staging.shared.open.get(id).is_none());
    assert_eq!(staging.open_file(id).unwrap().id(), id);
    let mode = fs::metadata(staging.path(id)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = fs::metadata(staging.local_dir())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let mode = fs::metadata(dir.path().join("journal.db-wal"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_pool_serves_more_files_than_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, _) = open(dir.path());
    let files: Vec<_> = (0..400).map(|_| staging.create_file().unwrap()).collect();
    let mut ids: Vec<_> = files.iter().map(|file| file.id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), files.len());
    for file in &files {
        let mut writer = file.file();
        writer.write_all(b"x").unwrap();
    }
    staging.sync_file(&files[0]).unwrap();
    assert!(staging.available_bytes().unwrap() > 0);
}

#[test]
fn released_files_go_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, _) = open(dir.path());
    let file = staging.create_file().unwrap();
    let path = staging.path(file.id());
    staging
        .journal()
        .apply(vec![Edit::Discard { file: file.id() }])
        .unwrap();
    staging.sync_behind(Arc::clone(&file));
    wait_until("the file is unlinked", || !path.exists());
    wait_until("and forgotten", || {
        !staging.journal().is_released(file.id())
    });
    assert_eq!(staging.journal().failure(), None);
}

#[test]
fn a_file_from_outside_is_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, _) = open(dir.path());
    let id = FileId::random();
    fs::write(staging.path(id), b"from the cache").unwrap();
    let file = staging.received(id, File::open(staging.path(id)).unwrap());
    staging.sync_file(&file).unwrap();
    assert!(Arc::ptr_eq(&file, &staging.open_file(id).unwrap()));
}
