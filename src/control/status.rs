//! The status document: a stable contract with every program that reads `status --json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a mount is, which never changes while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdentity {
    /// The version of the program that serves it.
    pub version: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// `r2` or `local`.
    pub backend: String,
    /// `bucket`, `bucket/prefix` or `local`.
    pub source: String,
    /// The process that serves it.
    pub pid: u32,
}

/// What changes from one look to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the store answered when it was last asked.
    pub online: bool,
    /// Whether nothing can be changed through this mount.
    #[serde(default)]
    pub read_only: bool,
    /// Whether nothing would be missing from the bucket if the machine went away now.
    pub safe_to_shut_down: bool,
    /// What would be missing from it, and how long until it is there.
    #[serde(default)]
    pub shutdown: ShutdownStatus,
    /// Why nothing more is written here, if a sync of the staging disk has failed.
    #[serde(default)]
    pub failure: Option<String>,
    /// The cache.
    pub cache: CacheStatus,
    /// What is being brought for a project that was opened.
    #[serde(default)]
    pub warming: WarmingStatus,
    /// The upload queue.
    pub uploads: UploadStatus,
    /// Who has served the reads.
    #[serde(default)]
    pub reads: ReadStatus,
    /// Files that are open for writing, or not sealed yet.
    #[serde(default)]
    pub open_files: u64,
    /// How many conflict copies there are.
    pub conflicts: u64,
    /// The staged files that no record names; null if there are none.
    #[serde(default)]
    pub orphans: Option<OrphanStatus>,
    /// The leases of projects that count, as far as is known here.
    #[serde(default)]
    pub leases: Vec<LeaseStatus>,
    /// Keys of objects that cannot be shown as files, a hundred at most.
    #[serde(default)]
    pub hidden: Vec<String>,
    /// What the bucket's trash held when it was last looked at; null before that.
    #[serde(default)]
    pub trash: Option<TrashStatus>,
    /// What needs attention, one sentence each.
    pub alerts: Vec<String>,
    /// What the requests so far cost.
    pub operations: OperationsStatus,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// What the mount is.
    #[serde(flatten)]
    pub identity: MountIdentity,
    /// How it is doing.
    #[serde(flatten)]
    pub report: Report,
}

/// The cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// The bytes that it holds.
    pub bytes: u64,
    /// The most that it may hold.
    pub max_bytes: u64,
    /// The object versions in it, whole and partial.
    pub files: u64,
    /// Opens that needed no bytes from the bucket.
    pub hits: u64,
    /// Opens that did.
    pub misses: u64,
    /// Hits by opens, from 0 to 1; null before the first open.
    pub hit_rate: Option<f64>,
}

/// Files that are brought because a project was opened that needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmingStatus {
    /// Files that are not here yet.
    pub files: u64,
    /// Bytes that are not.
    pub bytes: u64,
}

/// Staged files that no record names, as after the loss of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanStatus {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where they are.
    pub directory: PathBuf,
}

/// Who works in a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The path of the project.
    pub path: String,
    /// Whether it is this mount.
    pub held: bool,
    /// What the people there are called, if they said so.
    pub name: Option<String>,
    /// Their machine.
    pub host: String,
    /// Since when (RFC 3339).
    pub since: String,
}

/// The bucket's trash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TrashStatus {
    /// Objects in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What their storage costs in a month.
    pub usd_per_month: f64,
}

/// The upload queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadStatus {
    /// Files that are not in the bucket yet, the unsealed ones included.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Files on their way now.
    pub active: u64,
    /// Attempts that failed since the mount.
    pub failed: u64,
    /// Files that cannot be uploaded as things are: kept, and tried again only when asked to.
    pub parked: u64,
    /// Deletes that wait until they are confirmed.
    #[serde(default)]
    pub held: u64,
    /// Files and folders whose names keep them on this disk; no other number counts them.
    #[serde(default)]
    pub local: u64,
    /// How long the oldest file has waited; null if none does.
    pub oldest_seconds: Option<u64>,
    /// Files uploaded since the mount.
    pub done: u64,
    /// Whether the operator has paused them.
    #[serde(default)]
    pub paused: bool,
}

/// What is not in the bucket yet, whatever it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownStatus {
    /// Names that the bucket does not show as they are here: files, the open ones included, and
    /// folders, renames, deletes and attributes.
    pub files: u64,
    /// Bytes that are only here.
    pub bytes: u64,
    /// How long it will take at the pace of the last uploads; null when that is not known, or when
    /// it does not go by itself.
    pub seconds_left: Option<u64>,
    /// What it waits for; null when nothing is left.
    pub reason: Option<ShutdownReason>,
}

/// What the rest waits for. The one that somebody can do most about is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownReason {
    /// The staging disk has failed: nothing is uploaded until the next mount.
    Failed,
    /// Uploads are paused.
    Paused,
    /// The bucket does not answer, or refuses us.
    Unreachable,
    /// Only what cannot be uploaded as things are is left.
    Parked,
    /// Only what programs still have open is left, and perhaps parked files.
    Open,
    /// It goes by itself.
    Uploading,
}

/// Who has served the reads since the mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadStatus {
    /// Read requests that the kernel sent here. Reads from its own pages and by passthrough are not
    /// among them.
    pub requests: u64,
    /// Opens whose reads the kernel serves by passthrough.
    pub passthrough_opens: u64,
}

/// Requests since the mount, by R2's price classes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationsStatus {
    /// Writes and lists.
    pub class_a: u64,
    /// Reads.
    pub class_b: u64,
    /// Deletes and what else costs nothing.
    pub free: u64,
    /// Bytes of objects that came from the bucket.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes of objects that the bucket has taken.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The price of a month at this rate, in US dollars.
    pub usd_per_month: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_documented_fields() {
        let identity = MountIdentity {
            version: "1".into(),
            mountpoint: "/mnt".into(),
            backend: "r2".into(),
            source: "b".into(),
            pid: 1,
        };
        let document = StatusDocument {
            identity,
            report: Report::default(),
        };
        let json = serde_json::to_value(&document).unwrap();
        let expected = serde_json::json!({
            "version": "1", "mountpoint": "/mnt", "backend": "r2", "source": "b", "pid": 1,
            "online": false, "read_only": false, "safe_to_shut_down": false,
            "shutdown": {"files": 0, "bytes": 0, "seconds_left": null, "reason": null},
            "failure": null,
            "cache": {"bytes": 0, "max_bytes": 0, "files": 0, "hits": 0, "misses": 0,
                "hit_rate": null},
            "warming": {"files": 0, "bytes": 0},
            "uploads": {"queued": 0, "queued_bytes": 0, "active": 0, "failed": 0, "parked": 0,
                "held": 0, "local": 0,
                "oldest_seconds": null, "done": 0, "paused": false},
            "reads": {"requests": 0, "passthrough_opens": 0},
            "open_files": 0, "conflicts": 0, "orphans": null, "leases": [], "hidden": [],
            "trash": null, "alerts": [],
            "operations": {"class_a": 0, "class_b": 0, "free": 0,
                "received_bytes": 0, "sent_bytes": 0, "usd_per_month": 0.0},
        });
        assert_eq!(json, expected);
        assert_eq!(
            serde_json::from_value::<StatusDocument>(json).unwrap(),
            document
        );
    }
}
