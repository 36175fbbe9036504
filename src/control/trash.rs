//! What can be brought back: the answers behind `trash`.

use serde::{Deserialize, Serialize};

/// What can come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trash {
    /// The newest first.
    pub entries: Vec<TrashEntry>,
    /// How many more there are.
    pub left_out: u64,
    /// Why the trash in the bucket is not among them, if it is not.
    pub unlisted: Option<String>,
}

/// One version that can come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashEntry {
    /// The path it had below the mount point; a folder's ends in `/`.
    pub path: String,
    /// What `--at` takes for this version.
    pub id: String,
    /// Why it is here.
    pub why: Why,
    /// When it went, RFC 3339 in UTC.
    pub at: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where it is.
    pub place: Place,
}

/// Why something is in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was deleted.
    Deleted,
    /// Another version took its place.
    Overwritten,
}

/// Where a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Where it was: its delete waits in the queue.
    Waiting,
    /// In the bucket's trash.
    Bucket,
    /// On this disk only: it was never uploaded.
    Here,
}

/// What became of the wish to have something back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// What is back.
    pub restored: Vec<RestoredEntry>,
    /// What is not.
    pub failed: Vec<FailedEntry>,
}

/// What is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredEntry {
    /// The path it had.
    pub path: String,
    /// The path it has now: another one if something else has the old one.
    pub restored_as: String,
}

/// What is not back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedEntry {
    /// Which path.
    pub path: String,
    /// Why.
    pub reason: String,
}
