//! One process owns a staging directory: the lock that says which.
//!
//! The lock is `flock` on `STAGING_DIR/lock`; it goes when the process does, however that ends. The
//! file's content only tells others who holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The name of the lock file.
const NAME: &str = "lock";

/// The most bytes that are read of the lock file.
const MAX_BYTES: u64 = 64 * 1024;

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Where it mounts.
    pub mountpoint: PathBuf,
    /// Whether it has unmounted and only finishes what it had begun.
    pub draining: bool,
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    holder: Holder,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, perhaps one that has not yet written who it is.
    #[error("held")]
    Held(Option<Holder>),
    /// It cannot be tried.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the lock of `staging_dir` for this process, or tells at once who holds it.
    pub fn take(staging_dir: &Path, mountpoint: &Path) -> Result<Lock, LockError> {
        let path = staging_dir.join(NAME);
        // Not truncated on opening: the holder's words must survive a failed attempt.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held(read_holder(&mut file))),
            Err(error) => return Err(LockError::Io(error.into())),
        }
        let holder = Holder {
            pid: std::process::id(),
            mountpoint: mountpoint.into(),
            draining: false,
        };
        let mut lock = Lock { file, holder };
        lock.write()?;
        Ok(lock)
    }

    /// Tells whoever asks that the mount is gone and this process will be, too.
    pub fn set_draining(&mut self) -> io::Result<()> {
        self.holder.draining = true;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        let text = serde_json::to_string(&self.holder).map_err(io::Error::from)?;
        self.file.set_len(0)?;
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = Lock::take(folder.path(), Path::new("/mnt/a")).unwrap();
        let second = || match Lock::take(folder.path(), Path::new("/mnt/b")) {
            Err(LockError::Held(Some(holder))) => holder,
            other => panic!("the lock was given twice: {other:?}"),
        };
        let mountpoint = PathBuf::from("/mnt/a");
        let expected = Holder {
            pid: std::process::id(),
            mountpoint,
            draining: false,
        };
        assert_eq!(second(), expected);
        lock.set_draining().unwrap();
        assert!(second().draining);
        drop(lock);
        Lock::take(folder.path(), Path::new("/a much shorter or longer one")).unwrap();
        Lock::take(folder.path(), Path::new("/b")).unwrap();
    }

    #[test]
    fn a_holder_that_has_not_written_is_still_a_holder() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join(NAME)).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let result = Lock::take(folder.path(), Path::new("/mnt"));
        assert!(matches!(result, Err(LockError::Held(None))));
    }
}
