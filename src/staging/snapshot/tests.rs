use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::staging::{Change, Edit, Identity, PutState};

const LENGTH: u64 = 6 << 20;

fn open(dir: &Path) -> Arc<Staging> {
    let identity = Identity {
        backend: "local".into(),
        ..Identity::default()
    };
    let clock = Arc::new(SystemClock);
    Staging::open(dir, &identity, clock).unwrap().0
}

fn source(file: &Arc<StagedFile>) -> SnapshotSource {
    SnapshotSource {
        file: file.clone(),
        is_mapped: false,
    }
}

fn write(file: &StagedFile, bytes: &[u8], at: u64) {
    let _changing = file.change(at..at + bytes.len() as u64);
    file.file().write_all_at(bytes, at).unwrap();
}

fn read(snapshot: &SnapshotFile) -> Vec<u8> {
    fs::read(snapshot.path()).unwrap()
}

/// Writes the same number into many places of a file, and then its successor, without an end.
fn keep_stamping(file: &StagedFile, ended: &AtomicBool) {
    let mut number = 0u64;
    while !ended.load(Ordering::Relaxed) {
        number += 1;
        let _changing = file.change(0..LENGTH);
        for at in (0..LENGTH).step_by(1 << 20) {
            file.file().write_all_at(&number.to_le_bytes(), at).unwrap();
        }
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_snapshot_is_of_one_instant_however_quickly_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let staging = open(dir.path());
    let files = [(); 2].map(|()| staging.create_file().unwrap());
    for file in &files {
        write(file, &vec![7; LENGTH as usize], 0);
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also after a failure.
        let _end = Ended(&ended);
        for file in &files {
            scope.spawn(|| keep_stamping(file, &ended));
        }
        for _ in 0..5 {
            let sources = files.each_ref().map(source);
            let snapshots = (0..20).find_map(|_| {
                // On a machine that is too busy to copy, one may be thrown away.
                staging.take_snapshots(&sources, || Some(())).ok()
            });
            let (snapshots, ()) = snapshots.expect("writers are slowed until it is done");
            for snapshot in &snapshots {
                let bytes = read(snapshot);
                assert_eq!(bytes.len() as u64, LENGTH);
                let stamps = bytes.chunks(1 << 20).map(|chunk| &chunk[..8]);
                let first = &bytes[..8];
                assert!(stamps.into_iter().all(|stamp| stamp == first), "torn");
                assert!(bytes[8..1 << 20].iter().all(|byte| *byte == 7));
            }
        }
    });
}

#[test]
fn lengths_and_holes_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let staging = open(dir.path());
    let file = staging.create_file().unwrap();
    write(&file, b"head", 0);
    write(&file, b"tail", 1 << 30);
    let (snapshots, ()) = staging
        .take_snapshots(&[source(&file)], || Some(()))
        .unwrap();
    let status = snapshots[0].file().metadata().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(status.len(), (1 << 30) + 4);
    assert!(status.blocks() * 512 < 1 << 20, "holes take no room");
    let mut tail = [0; 4];
    snapshots[0]
        .file()
        .read_exact_at(&mut tail, 1 << 30)
        .unwrap();
    assert_eq!(&tail, b"tail");
}

/// A copy that has missed truncations and writes comes to what the file is.
#[test]
fn what_was_missed_is_copied_again() {
    let dir = tempfile::tempdir().unwrap();
    let staging = open(dir.path());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let file = staging.create_file().unwrap();
        write(&file, &vec![1; random.usize(0..1 << 20)], 0);
        let target = SnapshotFile::create(dir.path()).unwrap();
        let tracking = file.changes().track(file.file(), false).unwrap();
        copy_tail(file.file(), &target.file, 0).unwrap();
        for _ in 0..random.usize(0..6) {
            let at = random.u64(0..1 << 20);
            if random.bool() {
                write(&file, &vec![random.u8(..); random.usize(1..200_000)], at);
            } else {
                let length = file.file().metadata().unwrap().len();
                let _changing = file.change(at.min(length)..u64::MAX);
                file.file().set_len(at).unwrap();
            }
            if random.u8(0..3) == 0 {
                let missed = [tracking.take()];
                copy_missed(&[source(&file)], std::slice::from_ref(&target), &missed).unwrap();
            }
        }
        let missed = [tracking.take()];
        copy_missed(&[source(&file)], std::slice::from_ref(&target), &missed).unwrap();
        assert!(read(&target) == fs::read(staging.path(file.id())).unwrap());
    }
}

#[test]
fn a_copy_that_a_map_has_changed_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let staging = open(dir.path());
    let file = staging.create_file().unwrap();
    write(&file, &[1; 100_000], 0);
    let mapped = SnapshotSource {
        file: file.clone(),
        is_mapped: true,
    };
    let taken = staging.take_snapshots(std::slice::from_ref(&mapped), || Some(()));
    taken.expect("nothing has moved");
    let store_unseen = || {
        std::thread::sleep(Duration::from_millis(20));
        file.file().write_all_at(b"stored", 50_000).unwrap();
        Some(())
    };
    let taken = staging.take_snapshots(&[mapped], store_unseen);
    assert!(matches!(taken, Err(SnapshotError::Moved)));
}

#[test]
fn snapshots_go_with_their_last_user_and_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let staging = open(dir.path());
    let file = staging.create_file().unwrap();
    write(&file, b"take", 0);
    let key = Key::new("a").unwrap();
    let set = || {
        let edit = Edit::Set {
            key: key.clone(),
            base: None,
            change: Change::Put {
                file: file.id(),
                state: PutState::Open,
                attributes: FileAttributes::default(),
            },
        };
        staging.journal().apply(vec![edit]).unwrap()[0]
    };
    let offer = |seq| {
        let (snapshots, ()) = staging
            .take_snapshots(&[source(&file)], || Some(()))
            .unwrap();
        let snapshot = Snapshot {
            seq,
            file: snapshots.into_iter().next().unwrap(),
            length: 4,
            attributes: FileAttributes::default(),
            sealed: OnceLock::new(),
        };
        staging.offer_snapshot(&key, snapshot);
    };
    let count = || {
        let names = fs::read_dir(dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".snapshot")).count()
    };
    let seq = set();
    offer(seq);
    let record = staging.journal().record(&key).unwrap();
    assert!(staging.snapshots().of(&record).is_some());
    offer(seq);
    assert_eq!(count(), 1, "the former is gone");
    set();
    let record = staging.journal().record(&key).unwrap();
    assert!(
        staging.snapshots().of(&record).is_none(),
        "of another state"
    );
    staging.forget_outdated_snapshots();
    assert_eq!(count(), 0);
    let left = SnapshotFile::create(dir.path()).unwrap();
    fs::write(left.path().with_extension("snapshot-wal"), "by SQLite").unwrap();
    drop(staging);
    assert_eq!(count(), 2);
    let staging = open(dir.path());
    assert_eq!(count(), 0);
    let record = staging.journal().record(&key).unwrap();
    assert!(!record.change.is_open());
    assert_ne!(record.seq, seq, "no snapshot was of this state");
}
