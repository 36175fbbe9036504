//! Syncing the journal's write-ahead log, with group commit.
//!
//! A commit lies in `journal.db-wal` when it returns, in the page cache. Syncing that file is all
//! that SQLite itself does for a synced commit (`synchronous = FULL` in WAL mode), but SQLite holds
//! its write lock meanwhile, and every `create` on the mount would wait for the disk. So the log is
//! synced here, through a descriptor of our own, beside the commits.
//!
//! Why that is enough, whatever a checkpoint does at the same time: a checkpoint syncs the log
//! before it copies from it, and syncs the database before the log may be overwritten
//! (`synchronous = NORMAL` leaves out neither). So a commit that is not in the log any more is in
//! the synced database.

use std::fs::File;
use std::io;
use std::path::Path;

use parking_lot::{Condvar, Mutex};

/// The log, and how far it is synced.
#[derive(Debug)]
pub(super) struct LogSync {
    log: File,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the last commit.
    committed: u64,
    /// Number of the last commit known to be on the disk.
    synced: u64,
    running: bool,
    failed: bool,
}

impl LogSync {
    /// Opens the log of a database that is open in WAL mode and stays so.
    pub(super) fn open(database: &Path) -> io::Result<LogSync> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Ok(LogSync::of(File::open(log)?))
    }

    fn of(log: File) -> LogSync {
        LogSync {
            log,
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Says that a commit has returned; it gets the next number. Called under the writer's lock,
    /// so that numbers and commits have one order.
    pub(super) fn committed(&self) -> u64 {
        let mut state = self.state.lock();
        state.committed += 1;
        state.committed
    }

    /// Returns the number of the last commit known to be on the disk.
    pub(super) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        let state = self.state.lock();
        state.synced == state.committed
    }

    /// Returns when all commits made before the call are on the disk. Callers that come while a
    /// sync runs share the next one. After a failure every call fails: the kernel has dropped what
    /// it could not write, and would report success for what is lost.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let wanted = state.committed;
        loop {
            if state.failed {
                return Err(io::Error::other("an earlier sync has failed"));
            }
            if state.synced >= wanted {
                return Ok(());
            }
            if state.running {
                self.ended.wait(&mut state);
                continue;
            }
            state.running = true;
            let covered = state.committed;
            drop(state);
            let result = self.log.sync_data();
            state = self.state.lock();
            state.running = false;
            match &result {
                Ok(()) => state.synced = covered,
                Err(_) => state.failed = true,
            }
            self.ended.notify_all();
            result?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_failed_sync_is_never_followed_by_a_good_one() {
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let log = LogSync::of(File::from(OwnedFd::from(reader)));
        log.sync().expect("nothing to sync");
        log.committed();
        log.sync().unwrap_err();
        log.sync().unwrap_err();
        assert_eq!(log.synced(), 0);
    }

    #[test]
    fn a_sync_covers_all_that_was_committed_before_it() {
        let log = Arc::new(LogSync::of(tempfile::tempfile().unwrap()));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let number = log.committed();
                        log.sync().unwrap();
                        assert!(log.synced() >= number);
                    }
                });
            }
        });
        assert_eq!(log.synced(), 400);
    }
}
