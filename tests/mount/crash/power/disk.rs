//! A disk whose power can be cut: a file system in a loop-mounted image, which is shut down without
//! writing what it has not written yet.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::mount::{DEADLINE, is_mount_point};

/// xfs makes none smaller than 300 MB.
const BYTES: u64 = 400 << 20;
/// `XFS_IOC_GOINGDOWN` and `EXT4_IOC_SHUTDOWN`, which are the same number.
const SHUT_DOWN: libc::c_ulong = 0x8004_587d;
/// Writes not even the log; the same for both, too.
const WITHOUT_THE_LOG: u32 = 2;

/// Which file system the disk has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Xfs,
    Ext4,
}

pub(super) struct Disk(TempDir);

impl Disk {
    pub(super) fn new(kind: Kind) -> Disk {
        let dir = tempfile::Builder::new()
            .prefix("voicebeatfs-power-")
            .tempdir()
            .unwrap();
        let disk = Disk(dir);
        let image = File::create(disk.image()).unwrap();
        image.set_len(BYTES).unwrap();
        fs::create_dir(disk.path()).unwrap();
        let (command, quiet) = match kind {
            Kind::Xfs => ("mkfs.xfs", "-q"),
            Kind::Ext4 => ("mkfs.ext4", "-qF"),
        };
        run(Command::new(command).arg(quiet).arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// The loop device goes with the mount.
    fn mount(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]);
        run(mount.arg(self.image()).arg(self.path()));
    }

    /// Cuts the power: what is not on the disk now will never be.
    pub(super) fn cut(&self) {
        let root = File::open(self.path()).unwrap();
        let how = WITHOUT_THE_LOG;
        // SAFETY: the call reads one number, which outlives it.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUT_DOWN, &raw const how) };
        let error = std::io::Error::last_os_error();
        assert_eq!(done, 0, "the disk cannot be shut down: {error}");
    }

    /// Takes up the disk after a cut, when nobody has it open any more.
    pub(super) fn take_up(&self) {
        let end = Instant::now() + DEADLINE;
        while is_mount_point(&self.path()) {
            let _ = Command::new("umount").arg(self.path()).output();
            assert!(Instant::now() < end, "the disk cannot be unmounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if is_mount_point(&self.path()) {
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error} (see scripts/test)"));
    assert!(
        output.status.success(),
        "{command:?}: {} (cutting the power of a disk needs root and loop devices)",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Looks into a copy of a journal as a stranger would: with SQLite's own command.
pub(super) fn assert_journal_is_whole(staging: &Path) {
    let copy = tempfile::tempdir().unwrap();
    for name in ["journal.db", "journal.db-wal"] {
        let from = staging.join(name);
        if from.exists() {
            fs::copy(from, copy.path().join(name)).unwrap();
        }
    }
    let mut command = Command::new("sqlite3");
    command.arg(copy.path().join("journal.db"));
    let output = command.arg("PRAGMA integrity_check").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told.trim(), "ok", "{output:?}");
}

/// Makes a cache believe that the machine was booted since: after a power cut it was.
pub(super) fn boot_anew(cache: &Path) {
    let index = cache.join("index.db");
    if index.exists() {
        let mut command = Command::new("sqlite3");
        command.arg(index);
        command.arg("UPDATE state SET value = 'another boot' WHERE name = 'boot_id'");
        // An index that has no table yet knows of no boot either.
        command.output().unwrap();
    }
}
