//! Which mounts run on this machine, and where their control sockets are.
//!
//! Each mount leaves one small file, named by its process, in a directory that only its user
//! writes: `/run/voicebeatfs` for root, `$XDG_RUNTIME_DIR/voicebeatfs` for others. The files are
//! advice: a record counts only while its process lives, and the socket itself decides who answers.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The most bytes of a record, and the most records of a directory that are read.
const MAX_BYTES: u64 = 64 * 1024;
const MAX_RECORDS: usize = 256;

/// The directory of root's mounts.
const SYSTEM: &str = "/run/voicebeatfs";

/// The folder of the users' runtime directories.
const USERS: &str = "/run/user";

/// The directory's name in a user's runtime directory.
const NAME: &str = "voicebeatfs";

/// A mount that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its process.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The directory that holds its socket.
    pub staging_dir: PathBuf,
    /// The device number of the mount, by which its remains are told from another mount there.
    #[serde(default)]
    pub device: String,
}

/// The directories that records are kept in.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Where this user's mounts are recorded, if there is such a place.
    own: Option<PathBuf>,
    /// Where mounts are looked for.
    all: Vec<PathBuf>,
    /// Whose records are believed, beside root's; root believes everyone's.
    uid: u32,
}

/// A record that is taken back when this is dropped.
#[derive(Debug)]
pub struct Registration(PathBuf);

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Registry {
    /// Returns the registry of this machine, as this user sees it.
    pub fn of_this_user() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        if uid == 0 {
            let users = fs::read_dir(USERS).into_iter().flatten().flatten();
            let mut all = vec![PathBuf::from(SYSTEM)];
            all.extend(users.map(|user| user.path().join(NAME)));
            return Self {
                own: Some(SYSTEM.into()),
                all,
                uid,
            };
        }
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let usual = || Some(Path::new(USERS).join(uid.to_string())).filter(|path| path.is_dir());
        let own = runtime_dir.filter(|path| path.is_absolute()).or_else(usual);
        let own = own.map(|path| path.join(NAME));
        Self {
            all: own.iter().cloned().chain([SYSTEM.into()]).collect(),
            own,
            uid,
        }
    }

    /// Returns a registry in a directory of its own.
    pub fn in_directory(directory: &Path) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self {
            own: Some(directory.into()),
            all: vec![directory.into()],
            uid,
        }
    }

    /// Records a mount of this process, and removes the records of processes that have died, but
    /// for those whose mount still `lies` there.
    pub fn register(
        &self,
        record: &Record,
        lies: impl Fn(&Record) -> bool,
    ) -> io::Result<Registration> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "XDG_RUNTIME_DIR is not set");
        let own = self.own.as_ref().ok_or_else(missing)?;
        DirBuilder::new().recursive(true).mode(0o700).create(own)?;
        if fs::metadata(own)?.uid() != self.uid {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} belongs to another user", own.display()),
            ));
        }
        for (path, record) in self.records_in(own) {
            if !is_alive(record.pid) && !lies(&record) {
                let _ = fs::remove_file(path);
            }
        }
        let path = own.join(format!("{}.json", record.pid));
        let text = serde_json::to_string(record).map_err(io::Error::from)?;
        // A reader that comes in between finds half a record, and leaves it out.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Registration(path))
    }

    /// Returns the mounts whose process lives, as far as this user may know.
    pub fn running(&self) -> Vec<Record> {
        self.records()
            .filter(|record| is_alive(record.pid))
            .collect()
    }

    /// Returns the processes that have recorded the mount with that device number, alive or dead.
    pub fn owners(&self, mountpoint: &Path, device: &str) -> Vec<u32> {
        self.records()
            .filter(|record| record.mountpoint == mountpoint && record.device == device)
            .map(|record| record.pid)
            .collect()
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let records = self
            .all
            .iter()
            .flat_map(|directory| self.records_in(directory));
        records.map(|(_, record)| record)
    }

    fn records_in(&self, directory: &Path) -> Vec<(PathBuf, Record)> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let read = |path: PathBuf| Some((self.read(&path)?, path));
        entries
            .take(MAX_RECORDS)
            .filter_map(|entry| read(entry.path()))
            .map(|(record, path)| (path, record))
            .collect()
    }

    /// Reads a record of somebody who is believed; anything else is as if it were not there.
    fn read(&self, path: &Path) -> Option<Record> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .ok()?;
        let metadata = file.metadata().ok()?;
        let believed = self.uid == 0 || metadata.uid() == 0 || metadata.uid() == self.uid;
        if !metadata.is_file() || !believed {
            return None;
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// Waits until process `pid` has ended, at most `limit`. Returns whether it has.
pub fn wait_until_ended(pid: u32, limit: Duration) -> bool {
    /// Short enough that nobody notices, long enough to cost nothing.
    const STEP: Duration = Duration::from_millis(10);
    let end = Instant::now() + limit;
    while is_alive(pid) {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(STEP);
    }
    true
}

/// Returns whether the process runs. One that has ended but was not yet waited for by its parent
/// does not: in a container, the first process may never wait for it. Nor does one that was killed
/// and of which a thread is left in the kernel.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // `pid (name) state …`, where the name may hold anything, parentheses included.
    let after_name = stat.rsplit(|&byte| byte == b')').next().unwrap_or_default();
    !matches!(
        after_name.trim_ascii_start().first(),
        None | Some(b'Z' | b'X')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32) -> Record {
        Record {
            pid,
            mountpoint: "/mnt/a".into(),
            staging_dir: "/staging".into(),
            device: "0:41".into(),
        }
    }

    #[test]
    fn a_mount_is_listed_from_registration_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::in_directory(&folder.path().join("run"));
        assert_eq!(registry.running(), []);
        let own = record(std::process::id());
        let registration = registry.register(&own, |_| false).unwrap();
        assert_eq!(registry.running(), std::slice::from_ref(&own));
        drop(registration);
        assert_eq!(registry.running(), []);
    }

    #[test]
    fn the_dead_are_left_out_and_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::in_directory(folder.path());
        // No kernel gives a process this number (PID_MAX_LIMIT is 2^22).
        let dead = folder.path().join("dead.json");
        fs::write(&dead, serde_json::to_string(&record(1 << 30)).unwrap()).unwrap();
        assert_eq!(registry.running(), []);
        let own = record(std::process::id());
        let register = |lies: bool| registry.register(&own, |_| lies).unwrap();
        let owners = |device| registry.owners(Path::new("/mnt/a"), device);
        assert_eq!(owners("0:41"), [1 << 30]);
        assert!(owners("0:42").is_empty());
        drop(register(true));
        assert!(dead.exists());
        drop(register(false));
        assert!(!dead.exists());
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1.json"), "{").unwrap();
        fs::create_dir(folder.path().join("2.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("3.json")).unwrap();
        assert_eq!(Registry::in_directory(folder.path()).running(), []);
    }
}
