//! Who owns which directory: the cache may go at any moment, the staging directory belongs to one
//! process and to one bucket, and a dead mount of our own does not stand in the way.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r2_model::R2Model;

use super::random::state::State;
use super::random::writer::Writer;
use super::*;
use crate::common::mount::DEADLINE;

/// So many operations go on while the cache is removed again and again.
const OPERATIONS: u64 = 1500;

#[test]
fn the_cache_goes_while_readers_and_writers_are_at_it() {
    let model = R2Model::start();
    let large = noise(1, 9_000_000);
    let small = noise(2, 300_000);
    model.put("segments/large.wav", large.clone());
    for name in ["read", "edited", "reread"] {
        model.put(&format!("segments/{name}.wav"), small.clone());
    }
    let mut mount = holding(&model);
    let path = |name: &str| mount.path(&format!("segments/{name}.wav"));
    for name in ["read", "edited", "reread"] {
        assert_file(&path(name), &small);
    }
    fs::write(path("queued"), &small).unwrap();
    let read = File::open(path("read")).unwrap();
    let mut streamed = File::open(path("large")).unwrap();
    let mut start = vec![0; 1_000_000];
    streamed.read_exact(&mut start).unwrap();
    let edited = OpenOptions::new().write(true).open(path("edited")).unwrap();
    edited.write_all_at(b"before", 10).unwrap();
    let made = File::create(path("made")).unwrap();
    made.write_all_at(b"before", 0).unwrap();

    fs::remove_dir_all(mount.beside("cache")).unwrap();

    edited.write_all_at(b"after", 20).unwrap();
    made.write_all_at(b"after", 10).unwrap();
    let mut bytes = vec![0; small.len()];
    read.read_exact_at(&mut bytes, 0).unwrap();
    assert_bytes(&bytes, &small, "an open reader");
    let mut rest = Vec::new();
    streamed.read_to_end(&mut rest).unwrap();
    assert_bytes(&[start, rest].concat(), &large, "a stream");
    assert_file(&path("reread"), &small);
    let again = OpenOptions::new().write(true).open(path("read")).unwrap();
    again.write_all_at(b"late", 30).unwrap();
    drop((edited, made, again, read, streamed));
    let edit = |edits: &[(usize, &[u8])]| {
        let mut bytes = small.clone();
        for (offset, data) in edits {
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
        bytes
    };
    let wanted = [
        ("queued", small.clone()),
        ("edited", edit(&[(10, b"before"), (20, b"after")])),
        ("read", edit(&[(30, b"late")])),
        ("made", b"before\0\0\0\0after".to_vec()),
    ];
    for (name, bytes) in &wanted {
        assert_file(&path(name), bytes);
    }
    let_go(&mut mount);
    for (name, bytes) in &wanted {
        let key = format!("segments/{name}.wav");
        assert_object(&model, &key, bytes);
        assert_file(&mount.path(&key), bytes);
    }
}

#[test]
fn the_cache_goes_again_and_again_under_work() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let mut writers: Vec<Writer> = (0..2).map(|number| Writer::new(number, number)).collect();
    let acknowledged = AtomicU64::new(0);
    let stopping = AtomicBool::new(false);
    let root = mount.root();
    std::thread::scope(|scope| {
        for writer in &mut writers {
            let (root, acknowledged, stopping) = (&root, &acknowledged, &stopping);
            scope.spawn(move || writer.work(root, acknowledged, stopping));
        }
        let end = Instant::now() + DEADLINE;
        while acknowledged.load(Ordering::Relaxed) < OPERATIONS && Instant::now() < end {
            mount.remove_cache();
            std::thread::sleep(Duration::from_millis(20));
        }
        stopping.store(true, Ordering::Relaxed);
    });
    assert!(acknowledged.into_inner() >= OPERATIONS);
    let check = |writers: &mut [Writer]| {
        for writer in writers {
            let found = State::read(&mount.path(&writer.folder()));
            writer.settle(found).unwrap();
        }
    };
    check(&mut writers);
    mount.wait_uploaded();
    mount.remove_cache();
    check(&mut writers);
    for (key, bytes) in writers.iter().flat_map(Writer::objects) {
        assert_object(&model, &key, &bytes);
    }
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    assert_eq!(model.write_rate_violations(), []);
}

#[test]
fn without_the_cache_nothing_but_downloads_is_missing() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    let bytes = noise(4, 500_000);
    let path = mount.path("rhythms/r.mp3");
    fs::write(&path, &bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    set_times(&path, old_time());
    mount.wait_uploaded();
    mount.unmount();
    fs::remove_dir_all(mount.beside("cache")).unwrap();
    mount.mount();
    assert_eq!(names(&mount, "rhythms"), ["r.mp3"]);
    assert_mode_and_time(&path, 0o640, old_time());
    assert_file(&path, &bytes);
}

#[test]
fn a_dead_mount_of_our_own_is_cleared() {
    let mut mount = Mount::local();
    fs::write(mount.path("layers/l.wav"), "here").unwrap();
    // The kernel remembers the root's attributes for a while, also of a mount that is dead.
    fs::metadata(mount.root()).unwrap();
    mount.kill_and_leave();
    fs::metadata(mount.path("layers/l.wav")).unwrap_err();
    mount.mount();
    assert_file(&mount.path("layers/l.wav"), b"here");
    let dead = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mount.root();
    let ours = dead
        .lines()
        .filter(|line| line.split(' ').nth(1) == root.to_str());
    assert_eq!(ours.count(), 1, "the dead one lies below");
}

#[test]
fn one_staging_directory_is_for_one_mount() {
    let model = R2Model::start();
    let first = Mount::of(&model);
    let staging = first.beside("staging");
    let mut second = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        second.set(&name, &value);
    }
    second.set("STAGING_DIR", staging.to_str().unwrap());
    let refusal = second.try_mount().unwrap_err();
    let pid = first.pid().to_string();
    assert!(refusal.contains(&pid), "no {pid} in: {refusal}");
    fs::write(first.path("segments/s.wav"), "still here").unwrap();
    first.wait_uploaded();
    assert_object(&model, "segments/s.wav", b"still here");
}

#[test]
fn a_queue_goes_to_no_other_bucket() {
    let model = R2Model::builder().other_bucket("another-bucket").start();
    let mut mount = holding(&model);
    fs::write(mount.path("segments/s.wav"), "for the first").unwrap();
    mount.unmount();
    mount.set("R2_BUCKET_NAME", "another-bucket");
    mount.set("WRITE_BACK_SECONDS", "0.2");
    let refusal = mount.try_mount().unwrap_err();
    for bucket in ["another-bucket", model.bucket()] {
        assert!(refusal.contains(bucket), "no {bucket} in: {refusal}");
    }
    mount.set("R2_BUCKET_NAME", model.bucket());
    mount.mount();
    mount.wait_uploaded();
    assert_object(&model, "segments/s.wav", b"for the first");
    mount.unmount();
    mount.set("R2_BUCKET_NAME", "another-bucket");
    mount.mount();
    assert_eq!(names(&mount, "segments"), [""; 0]);
}
