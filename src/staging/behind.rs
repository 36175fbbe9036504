//! What staging does behind its callers: syncs closed files, lets released files go, and keeps the
//! journal's log short. One thread, one round a second.

use std::fs;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::file::{self, StagedFile};
use super::{JournalError, Shared};
use crate::disk::{self, FileId};

/// Time between two rounds. A closed file is safe from a power cut after this and its sync.
const ROUND: Duration = Duration::from_secs(1);
/// In every so many rounds the journal is synced whatever happened, as local file systems do.
const ROUNDS_TO_SYNC: u64 = 5;
/// In every so many rounds the journal is tidied.
const ROUNDS_TO_TIDY: u64 = 10;
/// From so many closed files on, one sync of the whole file system is cheaper than one each.
const FILES_SYNCED_ONE_BY_ONE: usize = 32;
/// So many files are unlinked between two commits.
const UNLINKED_AT_ONCE: usize = 256;

/// What waits for the next round.
#[derive(Debug, Default)]
pub(super) struct Behind {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Closed files. Held weakly: thousands of closed files must not stay open until their round.
    closed: Vec<(FileId, Weak<StagedFile>)>,
    stopping: bool,
}

impl Behind {
    pub(super) fn add(&self, file: &Arc<StagedFile>) {
        let closed = (file.id(), Arc::downgrade(file));
        self.state.lock().closed.push(closed);
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_all();
    }

    /// Waits for the next round; returns whether it is the last.
    fn next_round(&self) -> bool {
        let mut state = self.state.lock();
        if !state.stopping {
            self.wake.wait_for(&mut state, ROUND);
        }
        state.stopping
    }
}

/// Works until stopped, and once more then; for a thread of its own.
pub(super) fn run(shared: &Shared) {
    for round in 1.. {
        let last = shared.behind.next_round();
        if let Err(error) = work(shared, last, round) {
            log::debug!("Staging: {error}");
        }
        if last {
            return;
        }
    }
}

fn work(shared: &Shared, last: bool, round: u64) -> Result<(), JournalError> {
    let journal = &shared.journal;
    let closed = std::mem::take(&mut shared.behind.state.lock().closed);
    if !closed.is_empty() {
        sync_closed(shared, &closed).map_err(|error| {
            let reason = format!("closed files cannot be synced: {error}");
            journal.fail(&reason);
            JournalError::Failed(reason)
        })?;
    }
    let releases = journal.has_unsynced_release();
    if releases || !closed.is_empty() || last || round.is_multiple_of(ROUNDS_TO_SYNC) {
        journal.sync()?;
    }
    if releases {
        // Whoever adopts files into the cache may do so now.
        journal.wake();
    }
    super::kept::trim(shared)?;
    unlink_discarded(shared)?;
    journal.take_reserve();
    if last || round.is_multiple_of(ROUNDS_TO_TIDY) {
        journal.forget_settled_attempts()?;
        journal.checkpoint()?;
    }
    Ok(())
}

/// Syncs the files' bytes, then their names; the caller syncs the journal after. In this order a
/// record that survives a power cut never speaks of bytes that did not.
fn sync_closed(shared: &Shared, closed: &[(FileId, Weak<StagedFile>)]) -> io::Result<()> {
    if closed.len() > FILES_SYNCED_ONE_BY_ONE {
        disk::sync_file_system(&shared.dir)?;
        return shared.names.sync_all();
    }
    for (id, file) in closed {
        let result = match file.upgrade() {
            Some(file) => file.file().sync_data(),
            None => file::open(&shared.dir, *id).and_then(|file| file.sync_data()),
        };
        match result {
            // Uploaded and gone already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    shared.names.sync_all()
}

/// Unlinks discarded files whose release is on the disk: a power cut can bring back neither a
/// record without its file, nor lose one.
pub(super) fn unlink_discarded(shared: &Shared) -> Result<(), JournalError> {
    loop {
        let discarded = shared.journal.claim_discarded(UNLINKED_AT_ONCE);
        for file in &discarded {
            match fs::remove_file(shared.dir.join(file.staged_name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It stays as an orphan, reported at the next start.
                    log::warn!("The staged file {file} cannot be removed: {error}");
                }
                _ => {}
            }
        }
        shared.journal.release_done(&discarded)?;
        if discarded.len() < UNLINKED_AT_ONCE {
            return Ok(());
        }
    }
}
