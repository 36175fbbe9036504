//! Whether the bytes on this disk are right: the answer behind `doctor --verify`.

use serde::{Deserialize, Serialize};

/// What a look at all bytes on this disk found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Staged files that were compared with the journal.
    pub staged_files: u64,
    /// Paths of those that are not what was closed.
    pub staged_damaged: Vec<String>,
    /// Cached files that were compared with their tags.
    pub cached_files: u64,
    /// Paths of those that were others; they were dropped.
    pub cached_damaged: Vec<String>,
}
