//! Telling a mount of ours whose process has died from one that lives.
//!
//! When a process dies the kernel ends its connection, and whoever waits in the mount gets an error.
//! Not so if one of its threads is in the kernel at that moment, to tell it of a stale name, and
//! waits for a folder that a caller holds who waits for the process: neither can be killed, and the
//! connection stays. Telling the kernel that the name has only expired takes the same lock
//! (Linux: `fuse_reverse_inval_entry`). Such a mount has to be known without waiting for it.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::mountinfo::MountEntry;
use crate::control::registry::{self, Registry};

/// How long a mount may take to answer before its process is looked for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Returns whether the process of this mount of ours is known to have died. A live one that is slow
/// to answer is not dead.
pub fn is_dead(entry: &MountEntry) -> bool {
    // Before it is asked: another mount's start may sweep the record away meanwhile.
    let owners = Registry::of_this_user().owners(&entry.mountpoint, &entry.device);
    match ask(&entry.mountpoint) {
        Some(Ok(())) => false,
        Some(Err(error)) => is_without_process(&error),
        None => !owners.is_empty() && !owners.into_iter().any(registry::is_alive),
    }
}

/// Whether nobody answers any more, or whoever did went while we asked.
pub(super) fn is_without_process(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// Asks for the free space, which the kernel never knows by itself. `None`: no answer in time; then
/// the thread that asks is left behind.
fn ask(mountpoint: &Path) -> Option<io::Result<()>> {
    let (sender, answer) = mpsc::channel();
    let mountpoint = mountpoint.to_owned();
    let asked = thread::Builder::new().spawn(move || {
        let asked = rustix::fs::statvfs(&mountpoint);
        // Nobody listens any more if it took too long.
        let _ = sender.send(asked.map(|_| ()).map_err(io::Error::from));
    });
    asked.ok()?;
    answer.recv_timeout(ANSWER_LIMIT).ok()
}
