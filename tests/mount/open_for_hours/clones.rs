//! Snapshots on a disk whose files can share blocks.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A fresh XFS on a loop device.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Needs root and loop devices.
    fn make(megabytes: u64) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { dir };
        let image = disk.dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        std::fs::create_dir(disk.path()).unwrap();
        run(Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}: scripts/test installs it"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
}

#[test]
fn a_snapshot_shares_its_blocks_where_the_disk_can() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: a disk of its own can be mounted by root only");
        return;
    }
    const LENGTH: usize = 160 << 20;
    // A copy would find no room beside the original.
    let disk = Disk::make(400);
    let model = R2Model::start();
    let path = |name: &str| disk.path().join(name).display().to_string();
    let directories = [
        ("STAGING_DIR", path("staging")),
        ("CACHE_DIR", path("cache")),
    ];
    let directories = directories
        .each_ref()
        .map(|(name, path)| (*name, path.as_str()));
    let settings = [&QUICK[..], &directories, &[("CACHE_MIN_FREE_BYTES", "0")]].concat();
    let mut mount = Mount::with(&model, &settings);
    let file = std::fs::File::create(mount.path("projects/song.dat")).unwrap();
    let first = crate::crash::noise(3, 1 << 20);
    for at in (0..LENGTH).step_by(1 << 20) {
        file.write_all_at(&first, at as u64).unwrap();
    }
    // On a busy machine one may have been taken before all was written.
    wait_until("a snapshot", &mount, || {
        let held = model.stat("projects/song.dat");
        held.is_some_and(|held| held.size == LENGTH as u64)
    });
    let sent = model.get("projects/song.dat").unwrap().bytes;
    assert_eq!(sent.len(), LENGTH);
    assert!(sent.chunks(1 << 20).all(|piece| piece == first));
    let available = rustix::fs::statvfs(disk.path()).unwrap();
    let available = available.f_bavail * available.f_frsize;
    assert!(
        available < (LENGTH + (128 << 20)) as u64,
        "it proves nothing"
    );
    file.write_all_at(b"later", 0).unwrap();
    drop(file);
    mount.wait_uploaded();
    assert_eq!(
        model.get("projects/song.dat").unwrap().bytes[..5],
        *b"later"
    );
    mount.unmount();
}
