//! Closed files on their way to being settled, behind the callers.
//!
//! A file that was closed stays open in the journal for a moment, and many are settled in one
//! commit. Nothing depends on the moment: a start settles what is still open just the same, from
//! the file itself, and a file that is opened again within it needs no commit at all.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Fs;
use super::inode::Inode;

/// How long a closed file waits for others to be settled with it. A burst closes some hundred files
/// in this time.
const GATHER: Duration = Duration::from_millis(20);
/// So many are settled in one commit: names cannot change meanwhile.
const SETTLED_AT_ONCE: usize = 32;

/// The closed files that wait, and the way to the thread that settles them.
#[derive(Default)]
pub(super) struct Closing(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Held from when files are taken until they are settled. Taken before `Fs::changes`.
    settling: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: Vec<Arc<Inode>>,
    /// Whether there is a thread that settles them.
    attended: bool,
    stopping: bool,
}

impl Closing {
    /// Has a file settled behind; false if nobody is there to do it.
    pub(super) fn hand_over(&self, inode: &Arc<Inode>) -> bool {
        let mut state = self.0.state.lock();
        if !state.attended || state.stopping {
            return false;
        }
        state.closed.push(inode.clone());
        if state.closed.len() == 1 {
            self.0.changed.notify_one();
        }
        true
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.state.lock().stopping = true;
        self.0.changed.notify_one();
    }
}

impl Fs {
    /// Settles the files that were closed before the call.
    pub fn settle_closed(self: &Arc<Self>) {
        let _settling = self.closing.0.settling.lock();
        let closed = std::mem::take(&mut self.closing.0.state.lock().closed);
        for inodes in closed.chunks(SETTLED_AT_ONCE) {
            self.close_versions(inodes);
        }
    }

    /// Starts the thread that settles closed files. Until then they are settled as they are closed.
    pub(super) fn spawn_closing(self: &Arc<Self>) {
        let (fs, shared) = (Arc::downgrade(self), self.closing.0.clone());
        let spawned = thread::Builder::new()
            .name("closing".into())
            .spawn(move || settle_behind(&fs, &shared));
        match spawned {
            Ok(_) => self.closing.0.state.lock().attended = true,
            Err(error) => log::warn!("files are settled as they are closed: no thread: {error}"),
        }
    }
}

/// Ends when the file system is dropped.
fn settle_behind(fs: &Weak<Fs>, shared: &Shared) {
    loop {
        let mut state = shared.state.lock();
        while state.closed.is_empty() && !state.stopping {
            shared.changed.wait(&mut state);
        }
        if state.stopping {
            return;
        }
        drop(state);
        thread::sleep(GATHER);
        match fs.upgrade() {
            Some(fs) => fs.settle_closed(),
            None => return,
        }
    }
}
