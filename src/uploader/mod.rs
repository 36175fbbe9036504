//! The uploader: follows the journal and brings the bucket to what it says.
//!
//! It owns no state that matters: all of it is in the journal, and a killed uploader goes on where
//! it was. `plan` says which record goes next, `send`, `bytes` and `copying` carry it out, `verdict`
//! says what an answer means, `follow` is the loop around them. `fs` never calls the uploader;
//! what the uploader has to tell goes through [`Confirm`].

mod bytes;
mod copying;
mod follow;
mod multipart;
mod pace;
mod plan;
mod send;
mod trash;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use self::bytes::{MEMORY_BYTES, MEMORY_UNIT};
use self::follow::{Follower, Orders};
use self::pace::Pace;
use self::send::Sender;
use crate::clock::SharedClock;
use crate::config::NamePatterns;
use crate::staging::{Confirmed, JournalResult, Record, Sealed, Staging};
use crate::store::{ETag, Key, ObjectInfo, ObjectStore, ObjectVersion};

/// What the uploader tells about its success. Implemented by `fs`, which changes the tree and the
/// journal in one step.
pub trait Confirm: Send + Sync {
    /// The operation for this state of a record has succeeded and the key holds `now_holds`. `sent`
    /// are the bytes that were sent, if any; the attributes in `record` are those that went with
    /// them. To be passed on to [`Journal::confirm`](crate::staging::Journal::confirm).
    ///
    /// # Errors
    /// Those of the journal; the operation then counts as one whose answer was lost.
    fn confirm(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
        sent: Option<&Sealed>,
    ) -> JournalResult<Confirmed>;

    /// A snapshot of an open file was uploaded for this state of its record, and the key holds
    /// `now_holds`; it took so long. To be passed on to
    /// [`Journal::protect`](crate::staging::Journal::protect).
    ///
    /// # Errors
    /// Those of the journal; the operation then counts as one whose answer was lost.
    fn protected(
        &self,
        record: &Record,
        now_holds: ETag,
        took: Duration,
    ) -> JournalResult<Confirmed>;

    /// A `Delete` found somebody else's version: it stays, the tombstone goes, and the file is to
    /// be shown again. To be passed on to
    /// [`Journal::withdraw`](crate::staging::Journal::withdraw).
    ///
    /// # Errors
    /// Those of the journal.
    fn changed(&self, record: &Record, found: &ObjectInfo) -> JournalResult<Confirmed>;

    /// Whether the object under a key must stay for now, since its bytes are still being fetched for
    /// somebody who has it open. Held keys come free by themselves.
    fn is_held(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// The bucket refuses to change what a key holds, since a rule locks it.
    fn locked(&self, key: &Key) {
        let _ = key;
    }

    /// A rename that waits, over others, for itself has made a copy of its source aside, `aside`,
    /// and is to go on from there, so that the source comes free. Returns whether it will; if not,
    /// the copy aside is of no use.
    ///
    /// # Errors
    /// Those of the journal.
    fn detoured(&self, record: &Record, aside: &ObjectVersion) -> JournalResult<bool> {
        let _ = (record, aside);
        Ok(false)
    }

    /// What a record is to copy is another version by now, or gone. Returns whether the record has
    /// been dealt with; if not it is parked.
    ///
    /// # Errors
    /// Those of the journal.
    fn source_lost(&self, record: &Record) -> JournalResult<bool> {
        let _ = record;
        Ok(false)
    }

    /// A record cannot be carried out, for this reason. Returns whether it is of no account and has been
    /// withdrawn; if not it is parked.
    ///
    /// # Errors
    /// Those of the journal.
    fn given_up(&self, record: &Record, reason: &str) -> JournalResult<bool> {
        let _ = (record, reason);
        Ok(false)
    }

    /// A write found somebody else's version, `found`, under its key: both are to be kept, ours
    /// under another name. Returns whether the record has been dealt with; if not it is parked.
    ///
    /// # Errors
    /// Those of the journal.
    fn conflict(&self, record: &Record, found: &ObjectInfo) -> JournalResult<bool> {
        let _ = (record, found);
        Ok(false)
    }
}

/// How the uploader works.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// How long a record must be left alone before it goes (`WRITE_BACK_SECONDS`).
    pub write_back: Duration,
    /// How many large files are sent at once (`UPLOAD_CONCURRENCY`). Four times as many
    /// operations in all: small ones are all latency and no bandwidth.
    pub concurrency: usize,
    /// Files longer than this go as multipart uploads: up to here a repeated PUT costs less than
    /// the three requests more.
    pub multipart_threshold: u64,
    /// Longer objects are copied by parts: R2 takes no more in one request (R2: platform/limits;
    /// that it holds for a copy is inferred).
    pub single_copy_bytes: u64,
    /// Length of a part, in bytes; grows for files that would need more than 10,000.
    pub part_size: u64,
    /// What uploads may send, if there is a limit (`UPLOAD_MAX_BYTES_PER_SECOND`); the store keeps to
    /// it.
    pub limit_bytes_per_second: Option<u64>,
    /// What the store is called in the log.
    pub destination: String,
    /// The collections whose deleted and overwritten versions are kept (`TRASH_COLLECTIONS`).
    pub trash_collections: Vec<String>,
    /// The names of files that are not expected to last (`TEMPORARY_NAMES`).
    pub temporary_names: NamePatterns,
    /// How long a new one of them must be left alone before it goes (`TEMPORARY_SECONDS`).
    pub temporary_age: Duration,
}

impl Default for UploadOptions {
    fn default() -> Self {
        UploadOptions {
            write_back: Duration::from_secs(2),
            concurrency: 8,
            multipart_threshold: 16 << 20,
            single_copy_bytes: (5 << 30) - (5 << 20),
            part_size: 8 << 20,
            limit_bytes_per_second: None,
            destination: "R2".into(),
            trash_collections: Vec::new(),
            temporary_names: NamePatterns::default(),
            temporary_age: Duration::from_secs(30),
        }
    }
}

/// How far the uploader is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UploadStatus {
    /// Records that wait or are on their way, neither parked, held nor unsealed; and folders whose
    /// objects are still to be found and moved.
    pub queued: usize,
    /// Bytes they bring into the bucket.
    pub queued_bytes: u64,
    /// Records on their way now.
    pub active: usize,
    /// Queued records whose last try has failed.
    pub failed: usize,
    /// Records that cannot succeed.
    pub parked: usize,
    /// Deletes that somebody has to confirm first.
    pub held: usize,
    /// Files and folders whose names keep them on this disk. No other number counts them.
    pub local: usize,
    /// Age of the oldest queued record.
    pub oldest_seconds: u64,
    /// Operations that have succeeded since the start.
    pub done: u64,
    /// Files that are still open for writing.
    pub unsealed: usize,
}

/// The uploader.
pub struct Uploader {
    sender: Arc<Sender>,
    orders: watch::Sender<Orders>,
    active: Arc<AtomicUsize>,
    progress: watch::Receiver<u64>,
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl Uploader {
    /// Starts to follow the journal.
    pub fn start(
        options: UploadOptions,
        staging: Arc<Staging>,
        store: Arc<dyn ObjectStore>,
        confirm: Arc<dyn Confirm>,
        clock: SharedClock,
        runtime: &Handle,
    ) -> Arc<Uploader> {
        let clock_now = clock.instant();
        let left_open = Sender::left_open(staging.journal().open_uploads());
        let sender = Arc::new(Sender {
            options,
            staging,
            store,
            confirm,
            clock,
            memory: Arc::new(Semaphore::new(MEMORY_BYTES / MEMORY_UNIT)),
            unfinished: Mutex::new(left_open),
            lost_deletes: Mutex::default(),
            flushes: Mutex::default(),
            set_aside: Mutex::default(),
            pace: Mutex::new(Pace::new(clock_now)),
            trashed: trash::Recent::default(),
            stopping: AtomicBool::new(false),
            reachable: AtomicBool::new(true),
            done: AtomicU64::new(0),
        });
        let (orders, orders_receiver) = watch::channel(Orders::default());
        let (progress_sender, progress) = watch::channel(0);
        let active = Arc::new(AtomicUsize::new(0));
        let follower = Follower::new(
            Arc::clone(&sender),
            orders_receiver,
            Arc::clone(&active),
            progress_sender,
        );
        let follower = runtime.spawn(follower.run());
        Arc::new(Uploader {
            sender,
            orders,
            active,
            progress,
            follower: Mutex::new(Some(follower)),
        })
    }

    /// Returns how far it is.
    pub fn status(&self) -> UploadStatus {
        let now = self.sender.clock.now();
        let mut status = UploadStatus {
            active: self.active.load(Ordering::Relaxed),
            done: self.sender.done.load(Ordering::Relaxed),
            ..UploadStatus::default()
        };
        let journal = self.sender.staging.journal();
        journal.visit(|record| {
            if journal.stays_here(record) {
                status.local += 1;
            } else if record.parked.is_some() {
                status.parked += 1;
            } else if record.is_held() {
                status.held += 1;
            } else if record.change.is_open() {
                status.unsealed += 1;
            } else {
                status.queued += 1;
                status.queued_bytes += record.change.length();
                status.failed += usize::from(record.attempts > 0);
                let age = now.duration_since(record.changed_at).unwrap_or_default();
                status.oldest_seconds = status.oldest_seconds.max(age.as_secs());
            }
        });
        for found in journal.moves().pending() {
            status.queued += 1;
            let age = now.duration_since(found.since).unwrap_or_default();
            status.oldest_seconds = status.oldest_seconds.max(age.as_secs());
        }
        status
    }

    /// Whether the bucket holds all that the journal says, apart from parked records.
    pub fn is_idle(&self) -> bool {
        let status = self.status();
        status.queued == 0 && status.unsealed == 0 && status.active == 0
    }

    /// Whether the store takes uploads, as far as the last ones tell.
    pub fn reachable(&self) -> bool {
        self.sender.reachable.load(Ordering::Relaxed)
    }

    /// Uploads without waiting for the quiet time, until nothing is left but parked records, or the
    /// deadline has passed; returns whether nothing is left.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let _hurry = self.hurry();
        let mut progress = self.progress.clone();
        let mut changed = self.sender.staging.journal().changed();
        let drained = async {
            loop {
                progress.borrow_and_update();
                changed.borrow_and_update();
                if self.is_idle() {
                    return;
                }
                tokio::select! {
                    _ = progress.changed() => {}
                    _ = changed.changed() => {}
                }
            }
        };
        tokio::time::timeout(deadline, drained).await.is_ok()
    }

    /// Leaves out the quiet time as long as what this returns lives.
    pub fn hurry(&self) -> Hurry<'_> {
        self.orders.send_modify(|orders| orders.waiting += 1);
        Hurry(&self.orders)
    }

    /// Lets the records of these keys go without their quiet time, as they are now. A paused
    /// uploader keeps that in mind.
    pub fn flush(&self, keys: impl IntoIterator<Item = Key>) {
        let folded = keys.into_iter().map(|key| key.folded());
        self.sender.flushes.lock().extend(folded);
        self.orders.send_modify(|orders| orders.flushes += 1);
    }

    /// Returns how long so much will take at the pace of the last uploads; `None` while nothing is
    /// known of it.
    pub fn time_for(&self, files: u64, bytes: u64) -> Option<Duration> {
        let now = self.sender.clock.instant();
        self.sender.pace.lock().time_for(now, files, bytes)
    }

    /// Stops after the current part. What is left stays in the journal.
    pub async fn stop(&self) {
        self.give_stop();
        let follower = self.follower.lock().take();
        if let Some(follower) = follower {
            // It can only fail by a panic, which has been reported.
            let _ = follower.await;
        }
    }

    fn give_stop(&self) {
        self.sender.stopping.store(true, Ordering::Relaxed);
        self.orders.send_modify(|orders| orders.stop = true);
    }
}

/// Somebody waits until everything is uploaded.
pub struct Hurry<'a>(&'a watch::Sender<Orders>);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|orders| orders.waiting -= 1);
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.give_stop();
    }
}

#[cfg(test)]
mod tests;
