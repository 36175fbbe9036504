//! One operation for one record: what is asked of the store, in which order, and what its answers
//! mean. Bytes are sent by [`super::bytes`], and copied by [`super::copying`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::multipart::Unfinished;
use super::pace::Pace;
use super::plan::{Outcome, Task};
use super::verdict::{self, Failure, Verdict};
use super::{Confirm, UploadOptions};
use crate::clock::SharedClock;
use crate::disk::FileId;
use crate::staging::journal::ATTEMPT_SETTLES;
use crate::staging::{Change, Journal, JournalError, Record, Sealed, Snapshot, Staging};
use crate::store::attributes::{FileAttributes, WRITE_ID, content_type};
use crate::store::{
    ETag, Key, MAX_KEY_BYTES, Md5, ObjectHeaders, ObjectInfo, ObjectStore, PutRequest,
    ReadCondition, StoreError, StoreResult,
};

/// Tries with "no right to this key" before a record is parked; with the waits between them they
/// last for a minute and more.
const DENIED_TRIES: u32 = 8;
/// How long a delete whose answer was lost may still land: nothing is written to its key
/// meanwhile, since a delete has no condition that would spare what came after it (design.md §7).
const DELETE_SETTLES: Duration = Duration::from_secs(30);
/// How soon to look again at a key that is held.
const HELD_LOOK: Duration = Duration::from_millis(500);
/// How often to look whether a write that may still land has landed under a tombstone.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// What all operations share.
pub(super) struct Sender {
    pub(super) options: UploadOptions,
    pub(super) staging: Arc<Staging>,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) confirm: Arc<dyn Confirm>,
    pub(super) clock: SharedClock,
    /// Bounds the bytes held in memory by all uploads.
    pub(super) memory: Arc<Semaphore>,
    /// Multipart uploads that nobody works on, to be gone on with or taken back.
    pub(super) unfinished: parking_lot::Mutex<Vec<Unfinished>>,
    /// When a delete of a key was sent whose answer was lost. Keys are folded.
    pub(super) lost_deletes: parking_lot::Mutex<HashMap<Key, Instant>>,
    /// Keys whose records are to go without their quiet time, for the loop to take. Folded.
    pub(super) flushes: parking_lot::Mutex<Vec<Key>>,
    /// Keys of our own that were written beside an operation's, for the loop to let them rest. Folded.
    pub(super) set_aside: parking_lot::Mutex<Vec<Key>>,
    /// How fast uploads have been.
    pub(super) pace: parking_lot::Mutex<Pace>,
    /// Which keys have had a version put into the trash lately.
    pub(super) trashed: super::trash::Recent,
    pub(super) stopping: AtomicBool,
    pub(super) reachable: AtomicBool,
    pub(super) done: AtomicU64,
}

impl Sender {
    /// Describes a record for the plan. An open one goes as its snapshot, if there is one: `snapshot` is
    /// its length.
    pub(super) fn task(&self, record: &Record, snapshot: Option<u64>) -> Task {
        let options = &self.options;
        let is_new_file = matches!(record.change, Change::Put { .. }) && record.base.is_none();
        let quiet = match is_new_file && options.temporary_names.has(record.key.as_str()) {
            true => options.temporary_age.max(options.write_back),
            false => options.write_back,
        };
        let now = (self.clock.now(), self.clock.instant());
        let mut task = Task::of(record, snapshot, now, quiet);
        task.ready &= !self.staging.journal().stays_here(record);
        task
    }
}

/// Why an operation ends before its success.
#[derive(Debug)]
pub(super) enum Stop {
    /// The store failed.
    Store(StoreError),
    /// The journal failed.
    Journal(JournalError),
    /// The staged file failed.
    File(io::Error),
    /// The record or its file has changed, or the uploader stops: whatever the journal says now is
    /// to be done.
    Changed,
    /// The staged file has other bytes than it was sealed with.
    Unsealed,
    /// It cannot succeed.
    Park(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Store(error)
    }
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Stop {
        Stop::Journal(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::File(error)
    }
}

/// An operation on its way.
pub(super) struct Operation {
    pub(super) sender: Arc<Sender>,
    pub(super) record: Record,
    /// The write id that is sent.
    pub(super) write_id: String,
    /// Whether a write with that id may have been sent before.
    uncertain: bool,
    /// Whether the store has answered anything.
    pub(super) heard: bool,
    /// What is sent of a file that is still open.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) begun_at: Instant,
}

fn too_long(key: &Key) -> String {
    let bytes = key.as_str().len();
    format!(
        "its path has {bytes} bytes, and the bucket takes at most {MAX_KEY_BYTES}; it is uploaded when \
         it, or a folder above it, has a shorter name"
    )
}

impl Sender {
    /// Carries out one record. Returns how that ended, and whether the store was heard of.
    pub(super) async fn carry_out(self: Arc<Sender>, record: Record) -> (Outcome, bool) {
        // Somebody still reads what the key holds, and not all of it is here yet.
        if self.confirm.is_held(&record.key) {
            return (Outcome::Later(HELD_LOOK), false);
        }
        // Its folder was renamed since it was planned; the plan is told when the way is free.
        if self.staging.journal().moves().covers(&record.key) {
            return (Outcome::Later(HELD_LOOK), false);
        }
        if !record.change.is_delete()
            && let Some(wait) = self.delete_may_land(&record.key)
        {
            return (Outcome::Later(wait), false);
        }
        let mut operation = Operation::new(self, record);
        let result = match operation.record.change.clone() {
            change if !change.is_delete() && !operation.record.key.fits() => {
                Err(Stop::Park(too_long(&operation.record.key)))
            }
            Change::Put { file, .. } => operation.put(file).await,
            Change::Folder { attributes } => operation.folder(&attributes).await,
            Change::Copy {
                source, attributes, ..
            } => operation.copy(&source, &attributes).await,
            Change::Delete(_) => operation.delete().await,
        };
        let result = match result {
            Err(Stop::Store(StoreError::Locked(reason))) => operation.locked(reason).await,
            other => other,
        };
        let outcome = result.unwrap_or_else(|stop| operation.stopped(stop));
        (outcome, operation.heard)
    }
}

impl Sender {
    /// Returns for how long yet a delete of the key may land whose answer was lost.
    fn delete_may_land(&self, key: &Key) -> Option<Duration> {
        let now = self.clock.instant();
        let mut lost = self.lost_deletes.lock();
        lost.retain(|_, sent| now < *sent + DELETE_SETTLES);
        lost.get(&key.folded())
            .map(|sent| *sent + DELETE_SETTLES - now)
    }

    /// Breaks a circle of renames at one record, by copying its source aside.
    pub(super) async fn detour(self: Arc<Sender>, record: Record) -> (Outcome, bool) {
        let mut operation = Operation::new(self, record);
        let result = operation.copy_aside().await;
        let outcome = result.unwrap_or_else(|stop| operation.stopped(stop));
        (outcome, operation.heard)
    }
}

impl Operation {
    fn new(sender: Arc<Sender>, record: Record) -> Operation {
        Operation {
            begun_at: sender.clock.instant(),
            snapshot: sender.staging.snapshots().of(&record),
            sender,
            record,
            write_id: String::new(),
            uncertain: false,
            heard: false,
        }
    }

    pub(super) fn journal(&self) -> &Journal {
        self.sender.staging.journal()
    }

    /// Notes whether the store has answered.
    pub(super) fn hear<T>(&mut self, result: StoreResult<T>) -> StoreResult<T> {
        let unreachable = matches!(&result, Err(StoreError::Unavailable { .. }));
        self.heard |= !unreachable;
        result
    }

    /// Begins a write, in the journal first: if the answer is lost, the process dies or the power
    /// fails, the write id tells later whether it has landed. Fails if the record has changed.
    pub(super) async fn begin(&mut self) -> Result<(), Stop> {
        let attempts = self.journal().open_attempts(&self.record.key);
        let earlier = attempts.into_iter().find(|a| a.seq == self.record.seq);
        if self.write_id.is_empty() {
            self.uncertain = earlier.is_some();
            self.write_id = match earlier {
                Some(attempt) => attempt.write_id,
                None => FileId::random().to_string(),
            };
        }
        let Record { key, seq, .. } = &self.record;
        if !self.journal().begin_attempt(key, *seq, &self.write_id)? {
            return Err(Stop::Changed);
        }
        self.sync().await
    }

    /// What is about to be changed in the bucket must be known here also after a power cut: else a
    /// rename could be half done there and never begun here, our own write be somebody else's, or
    /// what the cut has left of a file replace what was uploaded whole.
    pub(super) async fn sync(&self) -> Result<(), Stop> {
        let staging = Arc::clone(&self.sender.staging);
        let file = self.record.change.file();
        let synced = tokio::task::spawn_blocking(move || match file {
            Some(file) => staging.sync_file(&*staging.open_file(file)?),
            None => staging.sync_names(),
        });
        Ok(synced.await.map_err(io::Error::other)??)
    }

    /// Forgets the write: it was not sent, or cannot land.
    pub(super) fn end(&self) -> Result<(), Stop> {
        if !self.uncertain && !self.write_id.is_empty() {
            self.journal()
                .end_attempt(&self.record.key, &self.write_id)?;
        }
        Ok(())
    }

    /// Nothing is sent any more, but what was sent may land yet.
    fn leave(&self) -> Result<(), JournalError> {
        match self.write_id.is_empty() {
            true => Ok(()),
            false => self
                .journal()
                .leave_attempt(&self.record.key, &self.write_id),
        }
    }

    /// The operation has succeeded.
    pub(super) fn succeeded(
        &self,
        now_holds: Option<ETag>,
        sent: Option<&Sealed>,
    ) -> Result<Outcome, Stop> {
        let sender = &self.sender;
        match (&self.snapshot, now_holds) {
            (Some(_), Some(now_holds)) => {
                let Record { key, seq, .. } = &self.record;
                let took = sender.clock.instant() - self.begun_at;
                sender.confirm.protected(&self.record, now_holds, took)?;
                sender.staging.snapshots().forget(key, *seq);
            }
            (_, now_holds) => {
                sender.confirm.confirm(&self.record, now_holds, sent)?;
            }
        }
        sender.done.fetch_add(1, Ordering::Relaxed);
        sender.pace.lock().file_done(sender.clock.instant());
        // A write that was sent twice may land a second time; it is remembered until it cannot.
        self.end()?;
        Ok(Outcome::Done)
    }

    pub(super) async fn head(&mut self) -> Result<Option<ObjectInfo>, Stop> {
        if !self.record.key.fits() {
            return Ok(None);
        }
        let store = Arc::clone(&self.sender.store);
        let found = store.head(&self.record.key, ReadCondition::None).await;
        match self.hear(found) {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks whether an earlier write has landed, if there is one of unknown end. Returns an
    /// outcome if nothing is left to be sent.
    pub(super) async fn look_first(&mut self) -> Result<Option<Outcome>, Stop> {
        match self.journal().open_attempts(&self.record.key).is_empty() {
            true => Ok(None),
            false => self.look().await,
        }
    }

    /// Looks who was first, after a condition has failed.
    pub(super) async fn look_after(&mut self) -> Result<Outcome, Stop> {
        Ok(match self.look().await? {
            Some(outcome) => outcome,
            // The next try has a better base, or meets whatever came and went.
            None => Outcome::Failed(None),
        })
    }

    async fn look(&mut self) -> Result<Option<Outcome>, Stop> {
        let found = self.head().await?;
        let attempts = self.journal().open_attempts(&self.record.key);
        match verdict::judge(&self.record, &attempts, found.as_ref()) {
            Verdict::Landed(etag) => {
                let sent = self.record.change.sealed().cloned();
                if let Some(found) = &found {
                    self.note_carried(&found.metadata);
                }
                self.uncertain = true;
                log::info!("{} is in the bucket already", self.record.key);
                self.succeeded(Some(etag), sent.as_ref()).map(Some)
            }
            Verdict::Rebase(base) => {
                let Record { key, seq, .. } = &self.record;
                if !self.journal().rebase(key, *seq, base.clone())? {
                    return Err(Stop::Changed);
                }
                self.record.base = base;
                Ok(None)
            }
            Verdict::Unchanged => Ok(None),
            Verdict::Foreign => {
                // Its condition cannot hold any more.
                self.uncertain = false;
                self.end()?;
                let Some(found) = found else {
                    return Err(Stop::Changed);
                };
                if self.sender.confirm.conflict(&self.record, &found)? {
                    return Ok(Some(Outcome::Done));
                }
                let tag = found.version.etag;
                let reason = format!("changed by someone else: the bucket holds version {tag}");
                Err(Stop::Park(reason))
            }
        }
    }

    /// Returns the headers of an object: attributes and write id, and the type that its name says.
    pub(super) fn headers(&self, attributes: &FileAttributes) -> ObjectHeaders {
        let mut headers = ObjectHeaders {
            content_type: content_type(self.record.key.as_str()).into(),
            ..ObjectHeaders::default()
        };
        attributes.add_to(&mut headers.metadata);
        let write_id = self.write_id.clone();
        headers.metadata.insert(WRITE_ID.into(), write_id);
        headers
    }

    async fn folder(&mut self, attributes: &FileAttributes) -> Result<Outcome, Stop> {
        if let Some(outcome) = self.look_first().await? {
            return Ok(outcome);
        }
        self.begin().await?;
        let mut headers = self.headers(attributes);
        headers.content_type = "application/x-directory".into();
        let request = PutRequest {
            key: self.record.key.clone(),
            body: Default::default(),
            md5: Md5::of(b""),
            condition: verdict::condition(&self.record),
            headers,
        };
        let result = self.sender.store.put(request).await;
        match self.hear(result) {
            Ok(etag) => self.succeeded(Some(etag), None),
            Err(StoreError::PreconditionFailed) => self.look_after().await,
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&mut self) -> Result<Outcome, Stop> {
        let attempts = self.journal().open_attempts(&self.record.key);
        if let Some(found) = self.head().await? {
            let own = verdict::own_attempt(&attempts, &found);
            if own.is_none() && self.record.base.as_ref() != Some(&found.version.etag) {
                self.sender.confirm.changed(&self.record, &found)?;
                return Ok(Outcome::Done);
            }
            if !self.keep_deleted(&found.version.etag).await? {
                // Somebody was faster: the next look finds out what is there.
                return Ok(Outcome::Failed(None));
            }
            self.sync().await?;
            // From here on it cannot be withdrawn.
            if !self
                .journal()
                .begin_delete(&self.record.key, self.record.seq)
            {
                return Err(Stop::Changed);
            }
            let result = self.sender.store.delete(&self.record.key).await;
            if !matches!(&result, Err(StoreError::Unavailable { .. })) {
                self.journal().end_delete(&self.record.key);
            }
            if matches!(result, Err(StoreError::Unavailable { .. })) {
                let (key, now) = (self.record.key.folded(), self.sender.clock.instant());
                self.sender.lost_deletes.lock().insert(key, now);
            }
            self.hear(result)?;
            if let Some(own) = own {
                self.journal()
                    .end_attempt(&self.record.key, &own.write_id)?;
            }
            log::info!("Deleted {}", self.record.key);
        }
        // A write that was sent before the delete may land after it.
        let now = self.sender.clock.now();
        let may_land = self.journal().open_attempts(&self.record.key);
        let may_land = may_land.iter().any(|attempt| {
            let age = now.duration_since(attempt.active_at).unwrap_or_default();
            age < ATTEMPT_SETTLES
        });
        if may_land {
            let Record { key, seq, .. } = &self.record;
            self.journal().rebase(key, *seq, None)?;
            return Ok(Outcome::Later(LOOK_AGAIN));
        }
        self.succeeded(None, None)
    }

    /// A rule of the bucket locks what the key holds: it stays, and what was to replace it gets a
    /// name beside it.
    async fn locked(&mut self, reason: String) -> Result<Outcome, Stop> {
        let Record { key, change, .. } = self.record.clone();
        log::warn!("{key} is locked in the bucket and stays as it is: {reason}");
        self.sender.confirm.locked(&key);
        let Some(found) = self.head().await? else {
            return Err(StoreError::Locked(reason).into());
        };
        let gives_attributes =
            matches!(&change, Change::Copy { source, .. } if source.key.folded() == key.folded());
        let settled = match change {
            Change::Delete(_) => {
                self.sender.confirm.changed(&self.record, &found)?;
                true
            }
            _ if gives_attributes => false,
            _ => {
                self.uncertain = false;
                self.end()?;
                self.sender.confirm.conflict(&self.record, &found)?
            }
        };
        match settled {
            true => Ok(Outcome::Done),
            false => Err(StoreError::Locked(reason).into()),
        }
    }

    /// Whether the record still asks for this.
    pub(super) fn is_current(&self) -> bool {
        self.journal().is_current(&self.record.key, self.record.seq)
    }

    /// Says in the journal why the operation has failed, and returns what follows.
    fn stopped(&self, stop: Stop) -> Outcome {
        if let Err(error) = self.leave() {
            log::debug!("{}: {error}", self.record.key);
        }
        let noted = match stop {
            Stop::Changed => return Outcome::Done,
            Stop::Park(reason) => self.park(&reason),
            Stop::Unsealed => self.unseal(),
            Stop::File(error) if error.kind() == io::ErrorKind::NotFound => {
                self.park("its staged file is missing")
            }
            Stop::File(error) => self.failed(&error, Outcome::Failed(None)),
            Stop::Journal(error) => Err(error),
            Stop::Store(error) => match verdict::classify(&error) {
                Failure::Unreachable(asked) => self.failed(&error, Outcome::Unreachable(asked)),
                Failure::Transient(asked) => self.failed(&error, Outcome::Failed(asked)),
                Failure::Condition => self.failed(&error, Outcome::Failed(None)),
                Failure::Credentials => self.failed(&error, Outcome::Refused),
                Failure::Denied if self.record.attempts + 1 < DENIED_TRIES => {
                    self.failed(&error, Outcome::Failed(None))
                }
                Failure::Denied | Failure::Permanent => self.park(&error.to_string()),
            },
        };
        noted.unwrap_or_else(|error| {
            // The journal has said why in the log; nothing more can be noted there.
            log::debug!("{}: {error}", self.record.key);
            Outcome::Failed(None)
        })
    }

    fn park(&self, reason: &str) -> Result<Outcome, JournalError> {
        let Record { key, seq, .. } = &self.record;
        if self.sender.confirm.given_up(&self.record, reason)? {
            log::warn!("others do not get {key} as it is now: {reason}");
            return Ok(Outcome::Done);
        }
        if self.journal().park(key, *seq, reason)? {
            log::warn!("{key} is kept here and not uploaded: {reason}");
        }
        Ok(Outcome::Done)
    }

    fn unseal(&self) -> Result<Outcome, JournalError> {
        let Record {
            key, seq, change, ..
        } = &self.record;
        if self.snapshot.is_some() {
            // The disk has spoiled it; the next one is taken of the file itself.
            log::warn!("The snapshot of {key} has changed on the disk and is dropped");
            self.sender.staging.snapshots().forget(key, *seq);
            return Ok(Outcome::Done);
        }
        log::warn!("{key} has changed since it was closed; it is read again");
        let length = change.file().and_then(|file| {
            let path = self.sender.staging.path(file);
            std::fs::metadata(path).ok().map(|metadata| metadata.len())
        });
        self.journal().unseal(key, *seq, length.unwrap_or(0))?;
        Ok(Outcome::Failed(None))
    }

    fn failed(
        &self,
        error: &dyn std::error::Error,
        outcome: Outcome,
    ) -> Result<Outcome, JournalError> {
        let Record { key, seq, .. } = &self.record;
        let again = self.record.attempts > 0;
        if again || !self.sender.reachable.load(Ordering::Relaxed) {
            log::debug!("{key}: {error}");
        } else {
            log::warn!("{key} waits and is tried again: {error}");
        }
        self.journal().note_failure(key, *seq, &error.to_string())?;
        Ok(outcome)
    }
}
