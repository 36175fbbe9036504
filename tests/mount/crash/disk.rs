//! The staging directory on a disk that is full.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use r2_model::R2Model;
use tempfile::TempDir;

use super::*;

/// A disk of a few megabytes.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> SmallDisk {
        let dir = tempfile::Builder::new()
            .prefix("voicebeatfs-disk-")
            .tempdir()
            .unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "a small disk needs root");
        SmallDisk(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn assert_full(error: &io::Error) {
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
}

/// Writes until the disk is full; returns how much was acknowledged.
fn fill(path: &Path, bytes: &[u8]) -> usize {
    let mut file = File::create(path).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write(&bytes[written..(written + 100_000).min(bytes.len())]) {
            Ok(more) => written += more,
            Err(error) => break error,
        }
        assert!(written < bytes.len(), "the disk has room for all of it");
    };
    assert_full(&error);
    written
}

/// Makes files until there is no room for another; returns those that were made.
fn fill_with_small(mount: &Mount) -> Vec<String> {
    let mut made = Vec::new();
    for number in 0..20_000 {
        let key = format!("melodies/{number}.mp3");
        match fs::write(mount.path(&key), format!("melody {number}")) {
            Ok(()) => made.push(key),
            Err(error) => {
                assert_full(&error);
                return made;
            }
        }
    }
    panic!("the disk is never full");
}

#[test]
fn a_full_disk_refuses_and_damages_nothing() {
    let disk = SmallDisk::new(24);
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set("STAGING_DIR", disk.path().to_str().unwrap());
    mount.set("REQUEST_DEADLINE_SECONDS", "2");
    mount.mount();
    // The folders are known, so that names can be made without the bucket.
    for folder in ["segments", "melodies", "layers"] {
        assert_eq!(names(&mount, folder), [""; 0]);
    }
    model.stop();
    let before = noise(1, 1_000_000);
    fs::write(mount.path("segments/before.wav"), &before).unwrap();
    let bytes = noise(2, 40_000_000);
    let written = fill(&mount.path("segments/filling.wav"), &bytes);
    let small = fill_with_small(&mount);
    let check = |mount: &Mount| {
        assert_file(&mount.path("segments/before.wav"), &before);
        assert_file(&mount.path("segments/filling.wav"), &bytes[..written]);
        for key in &small {
            let number = key.trim_start_matches("melodies/").trim_end_matches(".mp3");
            assert_file(&mount.path(key), format!("melody {number}").as_bytes());
        }
    };
    check(&mount);
    revive(&mut mount);
    check(&mount);

    model.restart();
    mount.wait_uploaded();
    check(&mount);
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    assert_object(&model, "segments/before.wav", &before);
    assert_object(&model, "segments/filling.wav", &bytes[..written]);
    for key in &small {
        assert!(model.get(key).is_some(), "{key} is not in the bucket");
    }
    // What is uploaded leaves the staging directory a moment later.
    let end = std::time::Instant::now() + crate::common::mount::DEADLINE;
    while let Err(error) = fs::write(mount.path("layers/after.wav"), &before) {
        assert_full(&error);
        assert!(std::time::Instant::now() < end, "no room again in time");
        std::thread::sleep(Duration::from_millis(100));
    }
    mount.wait_uploaded();
    assert_object(&model, "layers/after.wav", &before);
}
