//! Snapshots of files that stay open.

use super::*;

/// One look at the open files; takes the snapshots that are due.
fn look(bench: &Bench) -> usize {
    let due = bench.fs.look_at_open_files();
    let taken = due.len();
    for (file, inode) in due {
        bench.run(bench.fs.clone().protect(file, inode));
    }
    taken
}

/// Uploads the snapshot of an open file, as the uploader does.
fn send_snapshot(bench: &Bench, key: &str, took: Duration) -> Vec<u8> {
    let record = bench.record(key).unwrap();
    let snapshot = bench
        .fs
        .staging
        .snapshots()
        .of(&record)
        .expect("a snapshot");
    let bytes = std::fs::read(snapshot.file.path()).unwrap();
    let condition = match &record.base {
        Some(etag) => WriteCondition::IfMatch(etag.clone()),
        None => WriteCondition::IfAbsent,
    };
    let put = PutRequest {
        key: record.key.clone(),
        md5: Md5::of(&bytes),
        body: bytes.clone().into(),
        condition,
        headers: ObjectHeaders::default(),
    };
    let etag = bench.run(bench.store.put(put)).unwrap();
    bench.clock.advance(took);
    bench.fs.confirm_snapshot(&record, etag, took).unwrap();
    bench.fs.staging.snapshots().forget(&record.key, record.seq);
    bytes
}

#[test]
fn an_open_file_is_protected_when_quiet_and_stays_open() {
    let bench = Bench::new();
    let (ino, fh) = bench.create("a");
    bench.write(fh, 0, b"one").unwrap();
    assert_eq!(look(&bench), 0);
    bench.clock.advance(Duration::from_secs(29));
    assert_eq!(look(&bench), 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(look(&bench), 1);
    bench.write(fh, 0, b"two").unwrap();
    let sent = send_snapshot(&bench, "layers/a", Duration::from_secs(10));
    assert_eq!(sent, b"one", "as of the instant");
    let record = bench.record("layers/a").unwrap();
    assert!(
        record.change.is_open() && record.base.is_some(),
        "{record:?}"
    );
    let file = record.change.file().unwrap();
    assert_eq!(bench.fs.protected_for(file), Some(Duration::ZERO));
    // The upload took 10 s; 30 s of rest follow.
    look(&bench);
    bench.clock.advance(Duration::from_secs(29));
    assert_eq!(look(&bench), 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(look(&bench), 1);
    assert_eq!(send_snapshot(&bench, "layers/a", Duration::ZERO), b"two");
    bench.fs.release(fh);
    bench.fs.settle_closed();
    bench.upload("layers/a");
    assert_eq!(bench.read(ino).unwrap(), b"two");
    assert_eq!(look(&bench), 0);
}

#[test]
fn a_snapshot_that_its_file_has_outrun_is_dropped() {
    let bench = Bench::new();
    let (ino, fh) = bench.create("a");
    bench.write(fh, 0, b"one").unwrap();
    look(&bench);
    bench.clock.advance(Duration::from_secs(30));
    assert_eq!(look(&bench), 1);
    // It becomes another state of the record, with other attributes.
    bench.chmod(ino, 0o600);
    let record = bench.record("layers/a").unwrap();
    assert!(bench.fs.staging.snapshots().of(&record).is_none());
    assert_eq!(look(&bench), 1, "another one follows");
    bench.fs.release(fh);
    bench.fs.settle_closed();
    let record = bench.record("layers/a").unwrap();
    assert!(bench.fs.staging.snapshots().of(&record).is_none(), "closed");
    look(&bench);
    bench.upload("layers/a");
    assert_eq!(bench.read(ino).unwrap(), b"one");
}

#[test]
fn what_is_taken_for_its_snapshots_after_its_last_writer_left_is_settled() {
    let bench = Bench::new();
    let ino = bench.save("a", b"take");
    bench.fs.settle_closed();
    bench.upload("layers/a");
    let inode = bench.fs.inode(ino).unwrap();
    let writer = bench.open(ino, WRITE).unwrap();
    bench.run(bench.fs.take_open(&inode)).unwrap();
    assert!(bench.record("layers/a").unwrap().change.is_open());
    bench.fs.release(writer);
    bench.fs.settle_closed();
    assert_eq!(bench.record("layers/a"), None);

    let writer = bench.open(ino, WRITE).unwrap();
    // It closes while the look at the open files is on its way.
    bench.fs.release(writer);
    bench.run(bench.fs.take_open(&inode)).unwrap();
    bench.fs.settle_closed();
    assert_eq!(bench.record("layers/a"), None);
    assert_eq!(bench.read(ino).unwrap(), b"take");
}

#[test]
fn a_file_that_others_change_again_and_again_is_opened_at_the_second_try() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"one");
    bench.list();
    let first = bench.lookup("a").unwrap().ino;
    assert_eq!(bench.read(first).unwrap(), b"one");
    bench.others_write("layers/a", b"two");
    bench.list();
    bench.others_write("layers/a", b"three");
    bench.clock.advance(Duration::from_secs(31));
    // As the kernel does: it opens what it knows, looks the name up, and opens that.
    assert!(matches!(bench.open(first, READ), Err(FsError::Stale)));
    let second = bench.lookup("a").unwrap().ino;
    assert_eq!(bench.read(second).unwrap(), b"three");
}
