//! What is on this disk of the bucket's files, and what is kept there: the answers behind `cache`.

use serde::{Deserialize, Serialize};

/// What the cache holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// Object versions, ordered by path.
    pub entries: Vec<CachedEntry>,
    /// How many more there are.
    pub left_out: u64,
    /// The pins, ordered by path.
    pub pins: Vec<PinEntry>,
}

/// One object version in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedEntry {
    /// The object's key, which is the path below the mount point.
    pub path: String,
    /// The length of the file.
    pub bytes: u64,
    /// How many of its bytes are here.
    pub held_bytes: u64,
    /// Whether all of them are here and verified.
    pub complete: bool,
    /// Whether it stays when others are evicted.
    pub pinned: bool,
    /// When it was last used, RFC 3339 in UTC, known to the minute.
    pub used: String,
}

/// A pin, and how much of what it covers is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinEntry {
    /// A file or folder.
    pub path: String,
    /// How much of it is here.
    #[serde(flatten)]
    pub fill: Filled,
}

/// How much of something is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are here as a whole.
    pub held_files: u64,
    /// Bytes that are here.
    pub held_bytes: u64,
    /// Why the rest does not come; null if nothing is wrong.
    pub failure: Option<String>,
}
