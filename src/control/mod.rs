//! The control socket: how commands ask a running mount.
//!
//! [`server`] answers in the mount's process, [`client`] asks, [`registry`] finds the mounts of
//! this machine. The protocol is one JSON document a line, one request a connection:
//!
//! ```text
//! -> {"v":1,"request":"status"}
//! <- {"v":1,"ok":true,"status":{…}}
//! -> {"v":1,"request":"sync","timeout_seconds":60}
//! <- {"v":1,"progress":{"queued":3,"queued_bytes":1048576}}        each second
//! <- {"v":1,"ok":true}
//! -> {"v":1,"request":"shutdown"}
//! <- {"v":1,"ok":false,"error":{"code":"…","message":"…"}}
//! ```
//!
//! The socket lies in the staging directory, which only its owner enters; who connects is checked
//! once more by the kernel's word for it.

pub mod cache;
pub mod client;
pub mod exposition;
pub mod queue;
pub mod registry;
pub mod scrape;
pub mod server;
pub mod share;
pub mod status;
#[cfg(test)]
mod tests;
pub mod trash;
pub mod verify;

use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::cache::{Cached, Filled, PinEntry};
use self::queue::{ConflictEntry, OrphanEntry, Queue};
use self::share::{Refreshed, Shared};
use self::trash::{Restored, Trash};
use self::verify::Verified;
use crate::metrics::{FileOperations, Requests};
use crate::store::Key;

pub use status::{
    CacheStatus, LeaseStatus, MountIdentity, OperationsStatus, OrphanStatus, ReadStatus, Report,
    ShutdownReason, ShutdownStatus, StatusDocument, TrashStatus, UploadStatus, WarmingStatus,
};

/// The version of the protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// The name of the socket in the staging directory.
pub const SOCKET_NAME: &str = "control.sock";

/// The longest request, in bytes: some dozen of the longest paths.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The longest answer that a client reads, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// What a mount can tell and do for its commands. The assembler of the parts provides it.
#[async_trait]
pub trait StatusSource: Send + Sync {
    /// Returns what is known now, without asking the bucket.
    fn report(&self) -> Report;

    /// Returns times, failures and repetitions of the requests to the bucket, if they are counted.
    fn requests(&self) -> Option<Requests> {
        None
    }

    /// Returns the times of the file system's operations, if they are counted.
    fn file_operations(&self) -> Option<FileOperations> {
        None
    }

    /// Returns what waits for the bucket.
    fn queue(&self) -> Queue {
        Queue::default()
    }

    /// Returns the conflicts that nobody has dealt with yet.
    fn conflicts(&self) -> Vec<ConflictEntry> {
        Vec::new()
    }

    /// Has parked entries tried again: those of `paths`, or all if there are none. Returns how
    /// many there were.
    fn retry(&self, paths: &[String]) -> u64 {
        let _ = paths;
        0
    }

    /// Starts no new upload until [`StatusSource::resume`], also after a restart.
    ///
    /// # Errors
    /// When that cannot be kept.
    fn pause(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Lets uploads go on.
    ///
    /// # Errors
    /// When that cannot be kept.
    fn resume(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Sends what waits now without its quiet time: of `paths`, or all if there are none. Returns
    /// how many there were.
    ///
    /// # Errors
    /// When uploads are paused.
    fn flush(&self, paths: &[String]) -> Result<u64, Refusal> {
        let _ = paths;
        Ok(0)
    }

    /// Lets held deletes go: those of `paths`, or all if there are none. Returns how many there
    /// were.
    ///
    /// # Errors
    /// When that cannot be kept.
    fn confirm(&self, paths: &[String]) -> Result<u64, Refusal> {
        let _ = paths;
        Ok(0)
    }

    /// Brings back what held deletes have removed: of `paths`, or all if there are none.
    async fn discard(&self, paths: &[String]) -> Restored {
        let _ = paths;
        Restored::default()
    }

    /// Returns the staged files that no record names.
    fn orphans(&self) -> Vec<OrphanEntry> {
        Vec::new()
    }

    /// Gives them names in `folder`, or in one of the mount's choice.
    ///
    /// # Errors
    /// If there can be no files in that folder.
    fn adopt(&self, folder: Option<&str>) -> Result<Restored, String> {
        let _ = folder;
        Ok(Restored::default())
    }

    /// Returns what can be brought back at or below these paths; all of it if there are none.
    async fn trash(&self, paths: &[String]) -> Trash {
        let _ = paths;
        Trash::default()
    }

    /// Brings back what was at or below these paths. `at` is a version's id or a time.
    ///
    /// # Errors
    /// If `at` is neither.
    async fn restore(&self, paths: &[String], at: Option<&str>) -> Result<Restored, String> {
        let _ = (paths, at);
        Ok(Restored::default())
    }

    /// Returns an address under which anybody may read a file for so long.
    ///
    /// # Errors
    /// When the bucket does not hold it as it is here.
    async fn share(&self, path: &str, valid: Duration) -> Result<Shared, Refusal> {
        let _ = (path, valid);
        Err(Refusal::new(
            RefusalCode::NotFound,
            "there is no bucket: the local store has no addresses",
        ))
    }

    /// Lists anew the folders at or below these paths that were listed before; all of them if there
    /// are none.
    async fn refresh(&self, paths: &[String]) -> Refreshed {
        let _ = paths;
        Refreshed::default()
    }

    /// Returns what the cache holds at or below these paths, all if there are none; and the pins.
    fn cached(&self, paths: &[String]) -> Cached {
        let _ = paths;
        Cached::default()
    }

    /// Keeps files and folders on this disk, and has brought what is missing.
    ///
    /// # Errors
    /// When they do not exist, or do not fit.
    async fn pin(&self, paths: &[String]) -> Result<Vec<PinEntry>, Refusal> {
        let _ = paths;
        Ok(Vec::new())
    }

    /// Lets them be evicted again; returns which pins there were.
    ///
    /// # Errors
    /// When that cannot be kept.
    async fn unpin(&self, paths: &[String]) -> Result<Vec<String>, Refusal> {
        let _ = paths;
        Ok(Vec::new())
    }

    /// Brings files and folders into the cache; `told` hears once in a while how far it is.
    ///
    /// # Errors
    /// When they do not exist, or do not fit.
    async fn warm(
        &self,
        paths: &[String],
        told: tokio::sync::mpsc::Sender<Filled>,
    ) -> Result<Filled, Refusal> {
        let _ = (paths, told);
        Ok(Filled::default())
    }

    /// Compares all bytes on this disk with what they are to be. Takes as long as the disk does.
    async fn verify(&self) -> Verified {
        Verified::default()
    }

    /// Sends what waits without its quiet time, and returns when nothing of `paths` (of all, if
    /// there are none) is left that is not in the bucket: neither queued nor unsealed. May wait for
    /// ever; the caller sets a deadline.
    ///
    /// # Errors
    /// When nothing goes any more: uploads are paused, or only parked ones are left.
    async fn sync(&self, paths: &[String]) -> Result<(), Refusal>;
}

/// Returns whether one of `paths` names the key, or a folder above it. All do if there are none.
pub fn selects(paths: &[String], key: &Key) -> bool {
    let names = |path: &String| Key::of_path(path).is_some_and(|path| key.is_at_or_below(&path));
    paths.is_empty() || paths.iter().any(names)
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// The status document.
    Status,
    /// What waits for the bucket.
    Queue,
    /// The conflicts.
    Conflicts,
    /// To try parked entries again.
    Retry {
        /// Which; all if empty.
        paths: Vec<String>,
    },
    /// To start no new upload.
    Pause,
    /// To let uploads go on.
    Resume,
    /// To upload now.
    Flush {
        /// Which; all if empty.
        paths: Vec<String>,
    },
    /// To carry out held deletes.
    Confirm {
        /// Which; all if empty.
        paths: Vec<String>,
    },
    /// To bring back what held deletes have removed.
    Discard {
        /// Which; all if empty.
        paths: Vec<String>,
    },
    /// The staged files that no record names.
    Orphans,
    /// To give them names.
    Adopt {
        /// The folder they go to; one of the mount's choice without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<String>,
    },
    /// What can be brought back.
    Trash {
        /// At or below these; all if empty.
        paths: Vec<String>,
    },
    /// To bring something back.
    Restore {
        /// What was at or below these.
        paths: Vec<String>,
        /// Which version: its id, or a time; without it the last that went.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
    },
    /// An address of a file.
    Share {
        /// Which.
        path: String,
        /// How long it is to work.
        seconds: u64,
    },
    /// To list folders anew.
    Refresh {
        /// At or below these; all if empty.
        paths: Vec<String>,
    },
    /// What the cache holds.
    Cached {
        /// At or below these; all if empty.
        paths: Vec<String>,
    },
    /// To keep files and folders on this disk.
    Pin {
        /// Which.
        paths: Vec<String>,
    },
    /// To let them be evicted again.
    Unpin {
        /// Which; and all pins below them.
        paths: Vec<String>,
    },
    /// To bring files and folders into the cache, and wait for them.
    Warm {
        /// Which.
        paths: Vec<String>,
    },
    /// To compare all bytes on this disk with what they are to be.
    Verify,
    /// To wait until the queue is empty.
    Sync {
        /// Which; all if empty.
        #[serde(default)]
        paths: Vec<String>,
        /// How long at most.
        timeout_seconds: f64,
    },
    /// To unmount and end, as on SIGTERM.
    Shutdown,
}

/// A request with the version of the protocol.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    v: u32,
    #[serde(flatten)]
    request: Request,
}

/// What is left to be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files, the unsealed ones included.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// Why a request was not fulfilled, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request cannot be read, or is too long.
    BadRequest,
    /// The mount speaks another version of the protocol.
    UnsupportedVersion,
    /// The asking user is neither the mount's nor root.
    Forbidden,
    /// Too many commands are connected.
    Busy,
    /// The time was up before the queue was empty.
    Timeout,
    /// Uploads are paused.
    Paused,
    /// What is left cannot be uploaded as things are.
    Parked,
    /// The cache is too small for what is to be kept in it.
    NoRoom,
    /// The file is not in the bucket yet as it is here.
    NotUploaded,
    /// There is no such thing.
    NotFound,
    /// The journal could not be written, or the bucket did not answer.
    Failed,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Response {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Queue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflicts: Option<Vec<ConflictEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retried: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flushed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphans: Option<Vec<OrphanEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trash: Option<Trash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<Restored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<Shared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refreshed: Option<Refreshed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached: Option<Cached>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<Vec<PinEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unpinned: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warmed: Option<Filled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

impl Response {
    fn empty() -> Self {
        Response {
            v: PROTOCOL_VERSION,
            ok: None,
            status: None,
            queue: None,
            conflicts: None,
            retried: None,
            flushed: None,
            confirmed: None,
            orphans: None,
            trash: None,
            restored: None,
            shared: None,
            refreshed: None,
            cached: None,
            pinned: None,
            unpinned: None,
            warmed: None,
            verified: None,
            progress: None,
            error: None,
        }
    }

    fn done() -> Self {
        Response {
            ok: Some(true),
            ..Self::empty()
        }
    }

    fn refused(error: Refusal) -> Self {
        Response {
            ok: Some(false),
            error: Some(error),
            ..Self::empty()
        }
    }
}

impl Refusal {
    /// Returns a refusal.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
        }
    }
}

/// Calls `action` with a path of the socket in `folder` that is short enough for a socket address,
/// which holds 108 bytes: through the open folder's descriptor.
fn with_socket_path<T>(
    folder: &Path,
    action: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let open = std::fs::File::open(folder)?;
    action(
        &Path::new("/proc/self/fd")
            .join(open.as_raw_fd().to_string())
            .join(SOCKET_NAME),
    )
}
