//! What waits for the bucket, and what two sides changed: the answers behind `queue` and
//! `conflicts`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The most entries that one answer holds; a longer queue says how much it left out.
pub const MAX_ENTRIES: usize = 5_000;

/// What is on its way into the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The oldest first.
    pub entries: Vec<QueueEntry>,
    /// How many more there are.
    pub left_out: u64,
}

/// One key that the bucket does not hold yet as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// The path below the mount point; a folder's ends in `/`.
    pub path: String,
    /// What is to be done.
    pub operation: Operation,
    /// Whether it may be done.
    pub state: State,
    /// The bytes to be sent.
    pub bytes: u64,
    /// Those of them that the bucket has: whole parts of a file that goes in parts.
    #[serde(default)]
    pub sent_bytes: u64,
    /// For how long it has waited.
    pub waiting_seconds: u64,
    /// Of a file that is still open: how long ago a snapshot of it reached the bucket.
    #[serde(default)]
    pub protected_seconds: Option<u64>,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// Why it is parked, or why the last try failed.
    pub reason: Option<String>,
}

/// What is to be done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Its bytes are sent.
    Upload,
    /// A folder is made.
    Folder,
    /// It becomes a copy of another object, which is what a rename is in the bucket.
    Rename,
    /// Its attributes are changed.
    Attributes,
    /// It becomes a copy of the object under the first name of a file, of which it is another.
    Link,
    /// It is deleted.
    Delete,
}

/// How far a key's operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The file is open for writing.
    Open,
    /// It goes by itself.
    Waiting,
    /// It is one of so many deletes that somebody has to confirm it.
    Held,
    /// It cannot succeed as things are: kept, and tried again when asked to.
    Parked,
}

/// A staged file that no record names: its bytes are here, and nobody knows what it was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanEntry {
    /// Where it is.
    pub file: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last written, RFC 3339 in UTC.
    pub modified: String,
    /// The name that `queue adopt` gives it.
    pub name: String,
}

/// Two versions of one file, both kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictEntry {
    /// The name that both wanted, which shows the other side's version.
    pub path: String,
    /// Where ours is.
    pub copy: String,
    /// When it was found, RFC 3339 in UTC.
    pub found_at: String,
}
