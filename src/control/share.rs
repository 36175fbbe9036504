//! An address for one file: the answer behind `share`.

use serde::{Deserialize, Serialize};

/// An address under which anybody may read a file for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The path of the file below the mount point.
    pub path: String,
    /// The address.
    pub url: String,
    /// Until when it works, RFC 3339 in UTC.
    pub until: String,
}

/// What became of the wish to see the bucket as it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// Folders that were listed anew.
    pub listed: u64,
    /// Folders whose listing failed.
    pub failed: u64,
}
