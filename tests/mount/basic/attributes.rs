//! Times, modes and owners: kept before the upload, with it, and for a machine that has nothing.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use r2_model::R2Model;

use super::bucket::on_each_bucket;
use super::{Bucket, noise};
use crate::common::mount::Mount;

on_each_bucket!(times_and_modes_are_kept);

fn at(seconds: u64, nanos: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

fn set_mtime(path: &Path, mtime: SystemTime) {
    let times = FileTimes::new().set_modified(mtime);
    File::open(path).unwrap().set_times(times).unwrap();
}

#[track_caller]
fn expect(path: &Path, mode: u32, mtime: SystemTime) {
    let status = fs::metadata(path).unwrap();
    assert_eq!(format!("{:o}", status.mode() & 0o7777), format!("{mode:o}"));
    assert_eq!(status.modified().unwrap(), mtime);
}

fn times_and_modes_are_kept(bucket: &Bucket) {
    let bytes = noise(1, 70_000);
    bucket.put("segments/theirs.wav", bytes.clone());
    let mut mount = bucket.mount_with(&[("WRITE_BACK_SECONDS", "1")]);
    let paths = |mount: &Mount| {
        [
            "segments/early.wav",
            "segments/late.wav",
            "segments/theirs.wav",
        ]
        .map(|name| mount.path(name))
    };
    let [early, late, theirs] = paths(&mount);
    // Before the upload, after it, and of what others wrote.
    fs::write(&early, &bytes).unwrap();
    fs::write(&late, &bytes).unwrap();
    fs::set_permissions(&early, Permissions::from_mode(0o600)).unwrap();
    set_mtime(&early, at(1_500_000_000, 123_456_789));
    expect(&early, 0o600, at(1_500_000_000, 123_456_789));
    mount.wait_uploaded();
    expect(&early, 0o600, at(1_500_000_000, 123_456_789));
    set_mtime(&late, at(1_600_000_000, 1));
    fs::set_permissions(&late, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o444)).unwrap();
    set_mtime(&theirs, at(1_400_000_000, 999_999_999));
    let all_as_set = |mount: &Mount, when: &str| {
        eprintln!("{when}");
        let [early, late, theirs] = paths(mount);
        expect(&early, 0o600, at(1_500_000_000, 123_456_789));
        expect(&late, 0o755, at(1_600_000_000, 1));
        expect(&theirs, 0o444, at(1_400_000_000, 999_999_999));
        for path in [early, late, theirs] {
            assert!(fs::read(path).unwrap() == bytes);
        }
    };
    all_as_set(&mount, "set");
    mount.wait_uploaded();
    all_as_set(&mount, "uploaded");
    mount.remount();
    all_as_set(&mount, "mounted again");
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    all_as_set(&mount, "mounted with an empty cache");
    for (key, mtime, mode) in [
        ("segments/early.wav", "1500000000.123456789", 0o600),
        ("segments/late.wav", "1600000000.000000001", 0o755),
        ("segments/theirs.wav", "1400000000.999999999", 0o444),
    ] {
        let object = bucket.get(key).unwrap();
        assert!(object.bytes == bytes, "{key}");
        assert_eq!(object.content_type, "audio/wav", "{key}");
        assert_eq!(object.metadata["mtime"], mtime, "{key}");
        assert_eq!(object.metadata["mode"], (mode as u32).to_string(), "{key}");
    }
    // Another machine has neither cache nor journal: it knows when it has looked at the files.
    let other = bucket.mount();
    for path in paths(&other) {
        assert!(fs::read(path).unwrap() == bytes);
    }
    let end = std::time::Instant::now() + crate::common::mount::DEADLINE;
    while fs::metadata(other.path("segments/late.wav"))
        .unwrap()
        .mtime()
        != 1_600_000_000
    {
        assert!(
            std::time::Instant::now() < end,
            "another machine never learns the times"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    all_as_set(&other, "on another machine");
}

#[test]
fn a_write_moves_the_time_that_was_set() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let path = mount.path("layers/a.wav");
    fs::write(&path, "first").unwrap();
    set_mtime(&path, at(1_000_000_000, 0));
    let before = SystemTime::now() - Duration::from_secs(1);
    fs::write(&path, "second").unwrap();
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > before);
    mount.wait_uploaded();
    let moved = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(moved > before);
    // Within one open: set, then written.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(at(1_000_000_000, 0)).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().modified().unwrap(),
        at(1_000_000_000, 0)
    );
    std::os::unix::fs::FileExt::write_all_at(&file, b"third!", 0).unwrap();
    drop(file);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > before);
    // And written, then set, as cp -p and rsync do.
    let file = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"fourth", 0).unwrap();
    file.set_modified(at(1_000_000_000, 5)).unwrap();
    file.set_permissions(Permissions::from_mode(0o604)).unwrap();
    drop(file);
    expect(&path, 0o604, at(1_000_000_000, 5));
    mount.wait_uploaded();
    expect(&path, 0o604, at(1_000_000_000, 5));
    let object = model.get("layers/a.wav").unwrap();
    assert_eq!(object.bytes, "fourth");
    assert_eq!(object.metadata["mtime"], "1000000000.000000005");
    assert_eq!(object.metadata["mode"], 0o604.to_string());
}

#[test]
fn folders_keep_their_times_and_modes() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    let folder = mount.path("projects/album");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.wav"), "a").unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    set_mtime(&folder, at(1_300_000_000, 7));
    expect(&folder, 0o700, at(1_300_000_000, 7));
    mount.wait_uploaded();
    expect(&folder, 0o700, at(1_300_000_000, 7));
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    expect(&folder, 0o700, at(1_300_000_000, 7));
}

/// What the kernel leaves to us so that it need not ask before every write.
#[test]
fn what_another_user_changes_loses_its_set_id_bits() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root can be two users");
        return;
    }
    let mut mount = Mount::prepare(&[("USE_R2_STORAGE", "false")]);
    mount.option("allow_other");
    mount.mount();
    fs::set_permissions(mount.beside(""), Permissions::from_mode(0o755)).unwrap();
    for name in ["layers/tool", "samples/tool"] {
        let path = mount.path(name);
        for change in ["printf x >> tool", "printf x > tool", "truncate -s 3 tool"] {
            fs::write(&path, b"#!/bin/sh").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
            // Root keeps them, as on a disk.
            fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(b"\n")
                .unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
            let status = Command::new("sh")
                .args(["-c", change])
                .current_dir(path.parent().unwrap())
                .uid(65534)
                .gid(65534)
                .status();
            assert!(status.unwrap().success(), "{name}: {change}");
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(format!("{mode:o}"), "777", "{name}: {change}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o7777,
            0o755,
            "{name}"
        );
    }
}
