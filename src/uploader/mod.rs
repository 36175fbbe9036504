//! The uploader: follows the journal and brings the bucket to what it says.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock::SharedClock;
use crate::staging::{Confirmed, JournalResult, Record, Sealed, Staging};
use crate::store::{ETag, ObjectInfo, ObjectStore};

/// What the uploader tells about its success. Implemented by `fs`, which changes the tree and the
/// journal in one step.
pub trait Confirm: Send + Sync {
    /// The operation for this state of a record has succeeded and the key holds `now_holds`. `sent`
    /// are the bytes that were sent, if any. To be passed on to
    /// [`Journal::confirm`](crate::staging::Journal::confirm).
    fn confirm(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
        sent: Option<&Sealed>,
    ) -> JournalResult<Confirmed>;

    /// A `Delete` found somebody else's version: it stays, the tombstone goes, and the file is to
    /// be shown again. To be passed on to
    /// [`Journal::withdraw`](crate::staging::Journal::withdraw).
    fn changed(&self, record: &Record, found: &ObjectInfo) -> JournalResult<Confirmed>;
}

/// How the uploader works.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// How long a record must be left alone before it goes (`WRITE_BACK_SECONDS`).
    pub write_back: Duration,
    /// How many large files are sent at once (`UPLOAD_CONCURRENCY`); twice as many small ones.
    pub concurrency: usize,
    /// Files longer than this go as multipart uploads.
    pub multipart_threshold: u64,
    /// Length of a part, in bytes; grows for files that would need too many.
    pub part_size: u64,
}

impl Default for UploadOptions {
    fn default() -> Self {
        UploadOptions {
            write_back: Duration::from_secs(2),
            concurrency: 8,
            multipart_threshold: 16 << 20,
            part_size: 8 << 20,
        }
    }
}

/// How far the uploader is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UploadStatus {
    /// Records that wait or are on their way; neither parked nor unsealed.
    pub queued: usize,
    /// Bytes they bring into the bucket.
    pub queued_bytes: u64,
    /// Records on their way now.
    pub active: usize,
    /// Queued records whose last try has failed.
    pub failed: usize,
    /// Records that cannot succeed.
    pub parked: usize,
    /// Age of the oldest queued record.
    pub oldest_seconds: u64,
    /// Operations that have succeeded since the start.
    pub done: u64,
    /// Files that are still open for writing.
    pub unsealed: usize,
}

/// The uploader.
pub struct Uploader {
    staging: Arc<Staging>,
}

impl Uploader {
    /// Starts to follow the journal.
    pub fn start(
        _options: UploadOptions,
        staging: Arc<Staging>,
        _store: Arc<dyn ObjectStore>,
        _confirm: Arc<dyn Confirm>,
        _clock: SharedClock,
        _runtime: &Handle,
    ) -> Arc<Uploader> {
        Arc::new(Uploader { staging })
    }

    /// Returns how far it is.
    pub fn status(&self) -> UploadStatus {
        UploadStatus::default()
    }

    /// Whether the bucket holds all that the journal says, apart from parked records.
    pub fn is_idle(&self) -> bool {
        self.staging.journal().records().is_empty()
    }

    /// Whether the store has answered of late.
    pub fn reachable(&self) -> bool {
        true
    }

    /// Uploads without waiting for the quiet time, until nothing is left but parked records, or the
    /// deadline has passed; returns whether nothing is left.
    pub async fn drain(&self, _deadline: Duration) -> bool {
        self.is_idle()
    }

    /// Stops after the current part. What is left stays in the journal.
    pub async fn stop(&self) {}
}
