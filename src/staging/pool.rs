//! Empty staged files made in advance, with names that are on the disk already: the create of a
//! small file then costs no directory sync, neither at once nor at its `fsync`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::file;
use crate::disk::{self, FileId};

/// How many files are held ready: one directory sync serves half as many creates.
const READY_FILES: usize = 128;
/// How long to wait after a failure to make files, such as a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pool {
    dir: PathBuf,
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<(FileId, File)>,
    stopping: bool,
}

impl Pool {
    pub(super) fn new(dir: &Path) -> Pool {
        Pool {
            dir: dir.to_owned(),
            state: Mutex::default(),
            wanted: Condvar::new(),
        }
    }

    /// Returns a file from the pool, if there is one. Never waits for the disk.
    pub(super) fn take(&self) -> Option<(FileId, File)> {
        let mut state = self.state.lock();
        let taken = state.ready.pop();
        if state.ready.len() <= READY_FILES / 2 {
            self.wanted.notify_one();
        }
        taken
    }

    /// Keeps the pool filled until it is stopped; for a thread of its own.
    pub(super) fn run(&self) {
        loop {
            let missing = {
                let mut state = self.state.lock();
                while !state.stopping && state.ready.len() > READY_FILES / 2 {
                    self.wanted.wait(&mut state);
                }
                if state.stopping {
                    break;
                }
                READY_FILES - state.ready.len()
            };
            match self.make(missing) {
                Ok(files) => self.state.lock().ready.extend(files),
                Err(error) => {
                    log::debug!("No staged files can be made in advance: {error}");
                    let mut state = self.state.lock();
                    if !state.stopping {
                        self.wanted.wait_for(&mut state, PAUSE_AFTER_FAILURE);
                    }
                }
            }
        }
        let unused = std::mem::take(&mut self.state.lock().ready);
        self.remove(&unused);
    }

    fn make(&self, count: usize) -> io::Result<Vec<(FileId, File)>> {
        let mut files = Vec::with_capacity(count);
        let made = (0..count).try_for_each(|_| {
            files.push(file::create(&self.dir)?);
            Ok(())
        });
        match made.and_then(|()| disk::sync_dir(&self.dir)) {
            Ok(()) => Ok(files),
            Err(error) => {
                self.remove(&files);
                Err(error)
            }
        }
    }

    fn remove(&self, files: &[(FileId, File)]) {
        for (id, _) in files {
            // What stays behind is empty, and removed at the next start.
            let _ = fs::remove_file(self.dir.join(id.staged_name()));
        }
    }

    /// Has [`Pool::run`] end.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wanted.notify_all();
    }
}
