//! Files that are no databases.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use r2_model::{Ending, Fault, FaultRule, Operation, Reply};
use serde_json::Value;

use super::*;
use crate::crash::{assert_bytes, assert_object, noise};

/// One write call.
const BLOCK: usize = 16 << 10;

/// A file that is rewritten in place without an end: the `n`th write stamps one block with `n`, and
/// the blocks take turns in an order of their own.
pub(super) struct Pattern {
    blocks: u64,
    pub(super) written: u64,
}

impl Pattern {
    pub(super) fn new(blocks: u64) -> Pattern {
        Pattern { blocks, written: 0 }
    }

    fn place(blocks: u64, write: u64) -> u64 {
        // 7919 is a prime that divides no number of blocks in use.
        (write * 7919) % blocks
    }

    pub(super) fn write(&mut self, file: &File) {
        let at = Pattern::place(self.blocks, self.written) * BLOCK as u64;
        let block = self.written.to_le_bytes().repeat(BLOCK / 8);
        file.write_all_at(&block, at).unwrap();
        self.written += 1;
    }

    pub(super) fn write_round(&mut self, file: &File) {
        (0..self.blocks).for_each(|_| self.write(file));
    }

    /// The file as after that many writes, at least one round.
    pub(super) fn after(blocks: u64, writes: u64) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * BLOCK];
        for write in writes - blocks..writes {
            let at = Pattern::place(blocks, write) as usize * BLOCK;
            bytes[at..at + BLOCK].copy_from_slice(&write.to_le_bytes().repeat(BLOCK / 8));
        }
        bytes
    }

    /// Fails unless these are the bytes between two writes.
    pub(super) fn check(blocks: u64, bytes: &[u8]) {
        let stamps = bytes.chunks(BLOCK);
        let stamps = stamps.map(|block| u64::from_le_bytes(block[..8].try_into().unwrap()));
        let writes = stamps.max().unwrap() + 1;
        let what = format!("after {writes} writes");
        assert_bytes(bytes, &Pattern::after(blocks, writes), &what);
    }
}

fn create(mount: &Mount, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.open(mount.path(name)).unwrap()
}

/// How often something was sent into a key.
fn writes(model: &R2Model, key: &str) -> u64 {
    model.stat(key).map_or(0, |object| object.write_count)
}

#[test]
fn a_file_that_is_rewritten_all_the_time_is_whole_in_every_version() {
    // The second one goes in parts.
    for (name, blocks) in [("projects/small.dat", 200), ("projects/large.dat", 1300)] {
        let model = Arc::new(R2Model::start());
        let mount = Mount::with(&model, &QUICK);
        let watcher = Watcher::start(&model, name, move |bytes| Pattern::check(blocks, bytes));
        let file = create(&mount, name);
        let mut pattern = Pattern::new(blocks);
        pattern.write_round(&file);
        let end = Instant::now() + DEADLINE;
        while writes(&model, name) < 3 {
            // Never quiet for long enough.
            (0..20).for_each(|_| pattern.write(&file));
            assert!(Instant::now() < end, "three snapshots: {}", mount.log());
        }
        drop(file);
        mount.wait_uploaded();
        assert_object(&model, name, &Pattern::after(blocks, pattern.written));
        assert!(watcher.end() >= 4);
        assert_eq!(model.write_rate_violations(), []);
        assert_eq!(model.open_uploads(), []);
        wait_until("snapshots go", &mount, || snapshot_files(&mount) == 0);
    }
}

#[test]
fn a_recording_is_in_the_bucket_as_far_as_it_was() {
    let model = Arc::new(R2Model::start());
    let mount = Mount::with(&model, &QUICK);
    let take = noise(11, 4_000_000);
    let whole = take.clone();
    let watcher = Watcher::start(&model, "segments/take.wav", move |bytes| {
        // Without passthrough the kernel hands a write over in two requests where it crosses a page
        // that it holds only in part (Linux: `fuse_fill_write_pages`).
        let ends = [4000, 4096];
        let is_between = ends.iter().any(|end| bytes.len().is_multiple_of(*end));
        assert!(is_between, "{} bytes, between two writes", bytes.len());
        assert_bytes(bytes, &whole[..bytes.len()], "the beginning of the take");
    });
    let file = create(&mount, "segments/take.wav");
    for (n, piece) in take.chunks(4000).enumerate() {
        file.write_all_at(piece, n as u64 * 4000).unwrap();
        std::thread::sleep(Duration::from_millis(6));
    }
    drop(file);
    mount.wait_uploaded();
    assert_object(&model, "segments/take.wav", &take);
    assert!(watcher.end() >= 3);
}

#[test]
fn what_is_quiet_goes_once_and_its_close_sends_nothing() {
    let model = Arc::new(R2Model::start());
    let mount = Mount::with(&model, &QUICK);
    let file = create(&mount, "projects/song.rpp");
    file.write_all_at(b"song", 0).unwrap();
    wait_until("a snapshot", &mount, || {
        writes(&model, "projects/song.rpp") == 1
    });
    assert_object(&model, "projects/song.rpp", b"song");
    let status = mount.status();
    assert_eq!(status["safe_to_shut_down"], false, "it is open: {status:#}");
    let told = String::from_utf8(mount.run(&["queue"]).stdout).unwrap();
    assert!(
        told.contains("open") && told.contains("protected"),
        "{told}"
    );
    let json: Value = serde_json::from_slice(&mount.run(&["queue", "--json"]).stdout).unwrap();
    assert!(json["entries"][0]["protected_seconds"].is_u64(), "{json}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        writes(&model, "projects/song.rpp"),
        1,
        "nothing has changed"
    );
    drop(file);
    mount.wait_uploaded();
    assert_eq!(
        writes(&model, "projects/song.rpp"),
        1,
        "it was there already"
    );
    assert_eq!(fs::read(mount.path("projects/song.rpp")).unwrap(), b"song");
    let file = OpenOptions::new()
        .write(true)
        .open(mount.path("projects/song.rpp"))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    drop(file);
    mount.wait_uploaded();
    assert_eq!(writes(&model, "projects/song.rpp"), 1, "only opened");
}

/// Opens a file, and kills the mount while its snapshot is on its way.
fn kill_during(operation: Operation, blocks: u64) {
    let model = Arc::new(R2Model::start());
    let mut mount = Mount::with(&model, &QUICK);
    let slow = Fault::latency(Duration::from_secs(2));
    let slow = model.add_fault(FaultRule::new(slow).on(&[operation]).once());
    let file = create(&mount, "layers/l.dat");
    let mut pattern = Pattern::new(blocks);
    pattern.write_round(&file);
    wait_until("a request", &mount, || model.matched(slow) > 0);
    pattern.write(&file);
    mount.kill();
    drop(file);
    assert!(snapshot_files(&mount) > 0);
    mount.mount();
    assert_eq!(snapshot_files(&mount), 0);
    let wanted = Pattern::after(blocks, pattern.written);
    assert_bytes(
        &fs::read(mount.path("layers/l.dat")).unwrap(),
        &wanted,
        "here",
    );
    mount.wait_uploaded();
    // What was on its way may have landed since.
    std::thread::sleep(Duration::from_secs(2));
    assert_object(&model, "layers/l.dat", &wanted);
    let status = mount.status();
    assert_eq!(
        (&status["conflicts"], &status["uploads"]["parked"]),
        (&0.into(), &0.into())
    );
    assert_eq!(model.keys(), ["layers/l.dat"]);
}

#[test]
fn killed_while_a_snapshot_is_on_its_way() {
    kill_during(Operation::PutObject, 10);
    kill_during(Operation::UploadPart, 1300);
    kill_during(Operation::CompleteMultipartUpload, 1300);
}

#[test]
fn killed_after_a_snapshot_has_landed() {
    let model = Arc::new(R2Model::start());
    let mut mount = Mount::with(&model, &QUICK);
    let lost = Fault::Lost(Ending::Silence(Duration::from_secs(20)));
    model.add_fault(FaultRule::new(lost).on(&[Operation::PutObject]).once());
    let file = create(&mount, "layers/l.dat");
    file.write_all_at(b"snapshot", 0).unwrap();
    wait_until("it has landed", &mount, || {
        writes(&model, "layers/l.dat") == 1
    });
    file.write_all_at(b"the end.", 0).unwrap();
    mount.kill();
    drop(file);
    mount.mount();
    mount.wait_uploaded();
    assert_object(&model, "layers/l.dat", b"the end.");
    assert_eq!(mount.status()["conflicts"], 0);
}

#[test]
fn lost_answers_to_snapshots_make_no_conflict() {
    let model = Arc::new(R2Model::start());
    let settings = [&QUICK[..], &[("REQUEST_DEADLINE_SECONDS", "2")]].concat();
    let mount = Mount::with(&model, &settings);
    let endings = [
        Ending::Cut,
        Ending::Reply(Reply::error("InternalError")),
        Ending::Reset,
    ];
    for (nth, ending) in (1..).zip(endings) {
        let lost = FaultRule::new(Fault::Lost(ending)).on(&[Operation::PutObject]);
        model.add_fault(lost.key("projects/a.dat").nth(nth));
    }
    let watcher = Watcher::start(&model, "projects/a.dat", |bytes| Pattern::check(50, bytes));
    let file = create(&mount, "projects/a.dat");
    let mut pattern = Pattern::new(50);
    pattern.write_round(&file);
    let end = Instant::now() + DEADLINE;
    while writes(&model, "projects/a.dat") < 5 {
        pattern.write(&file);
        std::thread::sleep(Duration::from_millis(5));
        assert!(Instant::now() < end, "five snapshots: {}", mount.log());
    }
    drop(file);
    mount.wait_uploaded();
    assert_object(
        &model,
        "projects/a.dat",
        &Pattern::after(50, pattern.written),
    );
    assert!(watcher.end() >= 5);
    let status = mount.status();
    assert_eq!(
        (&status["conflicts"], &status["uploads"]["parked"]),
        (&0.into(), &0.into())
    );
    assert_eq!(model.write_rate_violations(), []);
}

#[test]
fn somebody_else_writes_between_two_snapshots_and_both_are_kept() {
    let model = Arc::new(R2Model::start());
    let mount = Mount::with(&model, &QUICK);
    let file = create(&mount, "projects/song.dat");
    file.write_all_at(b"ours, first", 0).unwrap();
    wait_until("a snapshot", &mount, || {
        writes(&model, "projects/song.dat") == 1
    });
    model.put("projects/song.dat", "theirs");
    file.write_all_at(b"ours, later", 0).unwrap();
    mount.wait_for("a conflict", |status| status["conflicts"] == 1);
    let names = || crate::crash::names(&mount, "projects");
    let copy = names()
        .into_iter()
        .find(|name| name.contains("(conflict "))
        .unwrap();
    let copy = format!("projects/{copy}");
    wait_until("ours is protected under its new name", &mount, || {
        model
            .get(&copy)
            .is_some_and(|object| object.bytes == "ours, later")
    });
    file.write_all_at(b"ours, ended", 0).unwrap();
    drop(file);
    mount.wait_uploaded();
    assert_object(&model, &copy, b"ours, ended");
    assert_object(&model, "projects/song.dat", b"theirs");
    assert_eq!(
        fs::read(mount.path("projects/song.dat")).unwrap(),
        b"theirs"
    );
    assert_eq!(names().len(), 2);
}

#[test]
fn a_renamed_file_is_soon_protected_under_its_new_name() {
    let model = Arc::new(R2Model::start());
    let settings = [&QUICK[..1], &[("SNAPSHOT_SECONDS", "3600")], &QUICK[2..]].concat();
    let mount = Mount::with(&model, &settings);
    let file = create(&mount, "projects/a.dat");
    file.write_all_at(b"take", 0).unwrap();
    wait_until("a snapshot", &mount, || {
        writes(&model, "projects/a.dat") == 1
    });
    fs::rename(mount.path("projects/a.dat"), mount.path("projects/b.dat")).unwrap();
    wait_until("a snapshot of the new name", &mount, || {
        // Not by being quiet.
        file.write_all_at(b"more", 4).unwrap();
        writes(&model, "projects/b.dat") == 1
    });
    wait_until("the old name is gone", &mount, || {
        model.keys() == ["projects/b.dat"]
    });
    drop(file);
    mount.wait_uploaded();
    assert_object(&model, "projects/b.dat", b"takemore");
    fs::remove_file(mount.path("projects/b.dat")).unwrap();
    mount.wait_uploaded();
    assert_eq!(model.keys(), [""; 0]);
}
