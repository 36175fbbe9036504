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

#[test]
fn the_cache_gives_way_to_a_recording_on_a_full_disk() {
    let disk = SmallDisk::new(100);
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    for (name, folder) in [("STAGING_DIR", "staging"), ("CACHE_DIR", "cache")] {
        mount.set(name, disk.path().join(folder).to_str().unwrap());
    }
    mount.set("CACHE_MIN_FREE_BYTES", "0");
    mount.set("CACHE_MAX_BYTES", "90MB");
    let heard: Vec<Vec<u8>> = (0..6).map(|n| noise(100 + n, 10_000_000)).collect();
    for (number, bytes) in heard.iter().enumerate() {
        model.put(&format!("layers/{number}.wav"), bytes.clone());
    }
    mount.mount();
    for (number, bytes) in heard.iter().enumerate() {
        assert_file(&mount.path(&format!("layers/{number}.wav")), bytes);
    }
    mount.wait_for("the cache is full", |status| {
        status["cache"]["bytes"].as_u64() == Some(60_000_000)
    });
    assert_eq!(names(&mount, "segments"), [""; 0]);
    // Nothing is uploaded: all room has to come from the cache.
    model.stop();
    let bytes = noise(2, 120_000_000);
    let written = fill(&mount.path("segments/take.wav"), &bytes);
    assert!(written > 80_000_000, "only {written} bytes went in");
    assert_file(&mount.path("segments/take.wav"), &bytes[..written]);
    model.restart();
    mount.wait_uploaded();
    assert_object(&model, "segments/take.wav", &bytes[..written]);
    // What is uploaded is clean and gives way in its turn.
    let more = noise(3, 30_000_000);
    let end = std::time::Instant::now() + crate::common::mount::DEADLINE;
    while let Err(error) = fs::write(mount.path("segments/more.wav"), &more) {
        assert_full(&error);
        assert!(std::time::Instant::now() < end, "no room again in time");
        std::thread::sleep(Duration::from_millis(100));
    }
    mount.wait_uploaded();
    assert_object(&model, "segments/more.wav", &more);
    for (number, bytes) in heard.iter().enumerate() {
        assert_file(&mount.path(&format!("layers/{number}.wav")), bytes);
    }
}

/// A disk on a loop device, whose every sync fails from some moment on.
struct FailingDisk(SmallDisk);

impl FailingDisk {
    fn new() -> FailingDisk {
        let dir = tempfile::Builder::new()
            .prefix("voicebeatfs-disk-")
            .tempdir()
            .unwrap();
        let image = dir.path().with_extension("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(dir.path()));
        FailingDisk(SmallDisk(dir))
    }

    /// Shuts the file system down without writing its log (`EXT4_IOC_SHUTDOWN`).
    fn fail(&self) {
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const WITHOUT_LOG: u32 = 2;
        use std::os::fd::AsRawFd;
        let root = File::open(self.0.path()).unwrap();
        // SAFETY: the call reads one number, which lives; it changes this test's own disk.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &WITHOUT_LOG) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        let _ = fs::remove_file(self.0.path().with_extension("image"));
    }
}

#[track_caller]
fn assert_failed<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let disk = FailingDisk::new();
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set(
        "STAGING_DIR",
        disk.0.path().join("staging").to_str().unwrap(),
    );
    mount.mount();
    let uploaded = noise(1, 300_000);
    fs::write(mount.path("segments/uploaded.wav"), &uploaded).unwrap();
    mount.wait_uploaded();
    mount.remount();
    assert_file(&mount.path("segments/uploaded.wav"), &uploaded);
    assert!(mount.status()["failure"].is_null());
    let mut take = File::create(mount.path("segments/take.wav")).unwrap();
    take.write_all(&uploaded).unwrap();
    disk.fail();
    assert_failed(take.sync_all());
    assert_failed(take.write_all(b"more"));
    assert_failed(take.set_len(1));
    assert_failed(File::create(mount.path("segments/other.wav")));
    assert_failed(fs::create_dir(mount.path("projects/new")));
    assert_failed(fs::remove_file(mount.path("segments/uploaded.wav")));
    assert_failed(take.sync_all());
    // What is in the cache is read on.
    assert_file(&mount.path("segments/uploaded.wav"), &uploaded);
    let status = mount.status();
    assert!(status["failure"].is_string(), "{status:#}");
    assert_eq!(status["safe_to_shut_down"], false);
    assert_eq!(status["shutdown"]["reason"], "failed");
    assert!(status["alerts"].to_string().contains("cannot be written"));
    let lines = mount
        .log()
        .matches("The journal takes no more changes")
        .count();
    assert_eq!(lines, 1, "{}", mount.log());
    drop(take);
    mount.kill();
}
