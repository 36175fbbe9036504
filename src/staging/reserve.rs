//! Room for the journal on a full disk: a file of zeros that is given up when a commit finds none.
//!
//! Without it a full disk would stay full: an upload needs commits before its file may go, and so
//! does a delete. While the reserve is given up nothing new is written to the disk; it is taken
//! back when there is room again.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Enough for some hundred commits, and then for bringing them into the database.
const RESERVE_BYTES: u64 = 4 << 20;
/// So much must be free for it to be taken, itself included: what is then written must not find the
/// disk full at once.
const FREE_BYTES: u64 = 2 * RESERVE_BYTES;
const NAME: &str = "reserve";

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// Whether the file is there. Held while it is made or removed.
    held: Mutex<bool>,
    /// Whether it is not there although it should be.
    given_up: AtomicBool,
}

impl Reserve {
    /// Returns the reserve in a directory: that of an earlier process, if it left one.
    pub(super) fn new(dir: &Path) -> Reserve {
        let path = dir.join(NAME);
        let held = fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE_BYTES);
        Reserve {
            path,
            held: Mutex::new(held),
            given_up: AtomicBool::new(!held),
        }
    }

    /// Takes the room, if it is not taken and the disk has it.
    pub(super) fn take(&self) {
        let mut held = self.held.lock();
        if *held {
            return;
        }
        match self.make() {
            Ok(true) => {
                *held = true;
                self.given_up.store(false, Ordering::Relaxed);
            }
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => {
                // Such a disk has to do without.
                log::debug!("no room is kept for the journal: {error}");
                self.given_up.store(false, Ordering::Relaxed);
            }
        }
    }

    fn make(&self) -> io::Result<bool> {
        let space = statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        if space.f_bavail.saturating_mul(space.f_frsize) < FREE_BYTES {
            return Ok(false);
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES);
        if made.is_err() {
            fs::remove_file(&self.path)?;
        }
        Ok(made.map(|()| true)?)
    }

    /// Gives the room up; returns whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let mut held = self.held.lock();
        if !*held {
            return false;
        }
        *held = false;
        self.given_up.store(true, Ordering::Relaxed);
        log::warn!("the staging disk is full: nothing new is written until uploads make room");
        fs::remove_file(&self.path)
            .inspect_err(|error| log::error!("{}: {error}", self.path.display()))
            .is_ok()
    }

    /// Whether it was given up and is not back.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_given_up_once_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path());
        assert!(!reserve.give_up(), "there is none yet");
        reserve.take();
        let again = Reserve::new(dir.path());
        assert!(again.give_up(), "an earlier process left it");
        assert!(again.is_given_up() && !again.give_up());
        again.take();
        assert!(!again.is_given_up());
        let length = fs::metadata(dir.path().join(NAME)).unwrap().len();
        assert_eq!(length, RESERVE_BYTES);
    }
}
