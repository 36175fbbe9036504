//! The journal: every change that is not in the bucket yet, as the desired state of each key.
//!
//! There is one record a key. It says what the bucket is to hold there, and what it is known to
//! hold now; so repeated saves, renames of renames and a create on top of a delete need no rules
//! of their own. The journal owns `journal.db` and its copy in memory, which all queries but those
//! for attributes are answered from. It does not own the staged files (see [`super::Staging`]) and
//! decides nothing about when a record goes (see the uploader).
//!
//! **Levels.** What [`Journal::apply`] has committed survives a killed process. What was committed
//! before a call of [`Journal::sync`] survives a power cut when that has returned.

mod mirror;
mod step;

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::mirror::Attempt;
use self::mirror::Mirror;
use self::step::Step;
use super::record::{Change, Confirmed, Edit, PutState, Record, Released, Sealed, Seq};
use crate::clock::SharedClock;
use crate::disk::FileId;
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, ObjectVersion};

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A sync or a commit has failed before; what is on the disk is not known any more, so nothing
    /// more is promised. Only a restart helps.
    #[error("the journal has failed and takes no more changes: {0}")]
    Failed(String),
    /// The disk is full; nothing was changed.
    #[error("no space left for the journal")]
    Full,
    /// The staged file is being unlinked and cannot be taken back.
    #[error("the staged file {0} is gone already")]
    Gone(FileId),
    /// The database failed; nothing was changed.
    #[error("journal.db: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the database holds makes no sense.
    #[error("journal.db is damaged: {0}")]
    Damaged(String),
    /// The database was written by a newer version of this program.
    #[error(
        "journal.db has schema version {found}, this program knows up to {known}: \
         use the newer program"
    )]
    NewerSchema {
        /// Version found.
        found: i64,
        /// Newest version known.
        known: i64,
    },
}

/// Result of a journal operation.
pub type JournalResult<T> = Result<T, JournalError>;

/// The journal. All methods may be called from any thread.
#[derive(Debug)]
pub struct Journal {
    /// Held from the first statement of a transaction until the mirror shows it, so that both see
    /// the same order. Taken before `mirror`.
    writer: Mutex<Writer>,
    mirror: Mutex<Mirror>,
    failed: OnceLock<String>,
    changed: watch::Sender<u64>,
    clock: SharedClock,
    kept: Mutex<HashMap<ObjectVersion, FileAttributes>>,
    synced: AtomicU64,
}

#[derive(Debug, Default)]
struct Writer {
    next_seq: u64,
    commits: u64,
}

impl Journal {
    pub(super) fn in_memory(clock: SharedClock) -> Journal {
        Journal {
            writer: Mutex::default(),
            mirror: Mutex::default(),
            failed: OnceLock::new(),
            changed: watch::Sender::new(0),
            clock,
            kept: Mutex::default(),
            synced: AtomicU64::new(0),
        }
    }

    /// Carries out all edits or none. Committed when it returns: survives a killed process, and a
    /// power cut after the next [`Journal::sync`]. Returns the sequence number of each `Set`, in
    /// order.
    pub fn apply(&self, edits: Vec<Edit>) -> JournalResult<Vec<Seq>> {
        let mut writer = self.writer.lock();
        let mut steps = Vec::with_capacity(edits.len());
        let mut seqs = Vec::new();
        for edit in edits {
            let step = match edit {
                Edit::Set { key, base, change } => {
                    let record = self.new_record(&mut writer, key, base, change);
                    seqs.push(record.seq);
                    Step::Set(record)
                }
                Edit::Remove { key } => self.removal(&mut writer, key, &steps),
                Edit::Discard { file } => Step::Release(file, None),
                Edit::Adopt { file, version } => Step::Release(file, Some(version)),
                Edit::Unrelease { file } => {
                    if self.mirror.lock().is_claimed(file) {
                        return Err(JournalError::Gone(file));
                    }
                    Step::Unrelease(file)
                }
                Edit::KeepAttributes {
                    version,
                    attributes,
                } => Step::KeepAttributes(version, attributes),
            };
            steps.push(step);
        }
        self.commit(&mut writer, steps)?;
        Ok(seqs)
    }

    fn new_record(
        &self,
        writer: &mut Writer,
        key: Key,
        base: Option<ETag>,
        change: Change,
    ) -> Record {
        writer.next_seq += 1;
        Record {
            key,
            seq: Seq(writer.next_seq),
            base,
            change,
            parked: None,
            changed_at: self.clock.now(),
            attempts: 0,
            last_error: None,
        }
    }

    /// Removes a record, unless a write of ours may still land: then a tombstone waits for it.
    fn removal(&self, writer: &mut Writer, key: Key, steps: &[Step]) -> Step {
        let folded = key.folded();
        let mirror = self.mirror.lock();
        if mirror.attempts(&folded).is_empty() {
            return Step::Remove(folded);
        }
        let earlier = steps.iter().rev().find_map(|step| match step {
            Step::Set(record) if record.key.folded() == folded => Some(record.base.clone()),
            _ => None,
        });
        let base = earlier.unwrap_or_else(|| mirror.record(&folded).and_then(|r| r.base.clone()));
        drop(mirror);
        Step::Set(self.new_record(writer, key, base, Change::Delete))
    }

    fn commit(&self, writer: &mut Writer, steps: Vec<Step>) -> JournalResult<()> {
        if let Some(reason) = self.failed.get() {
            return Err(JournalError::Failed(reason.clone()));
        }
        writer.commits += 1;
        for step in &steps {
            if let Step::KeepAttributes(version, attributes) = step {
                self.kept.lock().insert(version.clone(), attributes.clone());
            }
        }
        let mut mirror = self.mirror.lock();
        for step in steps {
            mirror.apply(step, writer.commits);
        }
        drop(mirror);
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Syncs: everything committed before the call survives a power cut. Callers that come while a
    /// sync runs share the next one. After a failed sync the journal takes no more changes.
    pub fn sync(&self) -> JournalResult<()> {
        self.synced
            .store(self.writer.lock().commits, Ordering::Release);
        Ok(())
    }

    /// Refuses every further change: a sync of something the journal speaks of has failed.
    pub fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            log::error!("The journal takes no more changes: {reason}");
        }
    }

    /// Returns why the journal takes no more changes, if it does not.
    pub fn failure(&self) -> Option<String> {
        self.failed.get().cloned()
    }

    /// Returns the record of a key.
    pub fn record(&self, key: &Key) -> Option<Record> {
        self.mirror.lock().record(&key.folded()).cloned()
    }

    /// Returns all records, ordered by key.
    pub fn records(&self) -> Vec<Record> {
        self.mirror.lock().records().cloned().collect()
    }

    /// Calls `visit` with each record. The journal is locked meanwhile: `visit` must be short and
    /// must not call it.
    pub fn visit(&self, visit: impl FnMut(&Record)) {
        self.mirror.lock().records().for_each(visit);
    }

    /// Returns the records whose key begins with `prefix` (which ends in `/`, or is empty).
    pub fn records_below(&self, prefix: &str) -> Vec<Record> {
        let prefix = Key::new(prefix).map(|prefix| prefix.folded());
        let prefix = prefix.as_ref().map_or("", Key::as_str);
        let mirror = self.mirror.lock();
        mirror.records_below(prefix).cloned().collect()
    }

    /// Whether another key is to become a copy of what the bucket holds under this one.
    pub fn copies_from(&self, key: &Key) -> bool {
        let key = key.folded();
        self.mirror.lock().copies_of(&key).next().is_some()
    }

    /// Returns the keys that changed since the last call. For one follower, the uploader.
    pub fn take_changed(&self) -> Vec<Key> {
        self.mirror.lock().take_changed()
    }

    /// Returns a receiver that is woken by each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the released files whose release has been synced and was not carried out yet. Those
    /// with `adopt_as` are for the caller to move; the others [`super::Staging`] unlinks itself.
    pub fn released(&self) -> Vec<Released> {
        let synced = self.synced.load(Ordering::Acquire);
        self.mirror.lock().released(synced)
    }

    /// Whether a file was released and its release is neither carried out nor taken back.
    pub fn is_released(&self, file: FileId) -> bool {
        self.mirror.lock().is_released(file)
    }

    /// Notes that releases have been carried out.
    pub fn release_done(&self, files: &[FileId]) -> JournalResult<()> {
        let steps = files.iter().copied().map(Step::Unrelease).collect();
        self.commit(&mut self.writer.lock(), steps)
    }

    /// Returns the kept attributes of a version. Reads the disk.
    pub fn attributes(&self, version: &ObjectVersion) -> Option<FileAttributes> {
        self.kept.lock().get(version).cloned()
    }

    /// Returns the kept attributes of the versions directly in a folder (`prefix` ends in `/` or is
    /// empty), the markers of its subfolders included. Reads the disk.
    pub fn attributes_below(&self, prefix: &str) -> HashMap<ObjectVersion, FileAttributes> {
        let kept = self.kept.lock();
        let below = kept
            .iter()
            .filter(|(v, _)| v.key.as_str().starts_with(prefix));
        below.map(|(v, a)| (v.clone(), a.clone())).collect()
    }

    /// Notes a write before it is sent, if the record is still in that state; returns whether it
    /// is. From then on the write may land until it is ended by [`Journal::confirm`] or
    /// [`Journal::end_attempt`].
    pub fn begin_attempt(&self, key: &Key, seq: Seq, write_id: &str) -> JournalResult<bool> {
        let mut writer = self.writer.lock();
        if self.current(key, seq).is_none() {
            return Ok(false);
        }
        let attempt = Attempt {
            write_id: write_id.to_owned(),
            seq,
            begun_at: self.clock.now(),
        };
        let step = Step::BeginAttempt(key.folded(), attempt);
        self.commit(&mut writer, vec![step])?;
        Ok(true)
    }

    /// Notes that a write has not landed and cannot land any more.
    pub fn end_attempt(&self, key: &Key, write_id: &str) -> JournalResult<()> {
        let step = Step::EndAttempt(key.folded(), write_id.to_owned());
        self.commit(&mut self.writer.lock(), vec![step])
    }

    /// Returns the write ids of the writes to a key whose end is not known.
    pub fn attempts(&self, key: &Key) -> Vec<String> {
        let attempts = self.open_attempts(key);
        attempts.into_iter().map(|a| a.write_id).collect()
    }

    /// Returns the writes to a key whose end is not known.
    pub fn open_attempts(&self, key: &Key) -> Vec<Attempt> {
        self.mirror.lock().attempts(&key.folded()).to_vec()
    }

    /// Notes that the operation for state `seq` of a record has succeeded and what the key holds
    /// since. If that is still its state, the record goes, and `extra` is carried out with it; else
    /// it only learns what it is based on now.
    pub fn confirm(
        &self,
        key: &Key,
        seq: Seq,
        now_holds: Option<ETag>,
        extra: Vec<Edit>,
    ) -> JournalResult<Confirmed> {
        let mut writer = self.writer.lock();
        let folded = key.folded();
        let mut steps = vec![Step::EndAttempts(folded.clone())];
        let record = self.mirror.lock().record(&folded).cloned();
        let confirmed = match record {
            Some(record) if record.seq != seq => {
                steps.push(Step::Set(Record {
                    base: now_holds,
                    ..record
                }));
                Confirmed::Superseded
            }
            Some(_) => {
                steps.push(Step::Remove(folded));
                for edit in extra {
                    steps.push(match edit {
                        Edit::Discard { file } => Step::Release(file, None),
                        Edit::Adopt { file, version } => Step::Release(file, Some(version)),
                        Edit::KeepAttributes {
                            version,
                            attributes,
                        } => Step::KeepAttributes(version, attributes),
                        Edit::Set { key, base, change } => {
                            Step::Set(self.new_record(&mut writer, key, base, change))
                        }
                        Edit::Remove { key } => Step::Remove(key.folded()),
                        Edit::Unrelease { file } => Step::Unrelease(file),
                    });
                }
                Confirmed::Done
            }
            None => Confirmed::Superseded,
        };
        self.commit(&mut writer, steps)?;
        Ok(confirmed)
    }

    /// Gives a record up without an operation, if it is still in that state: what the key holds
    /// stays. Another state of the record is left as it is, with its old base.
    pub fn withdraw(&self, key: &Key, seq: Seq) -> JournalResult<Confirmed> {
        let mut writer = self.writer.lock();
        if self.current(key, seq).is_none() {
            return Ok(Confirmed::Superseded);
        }
        let folded = key.folded();
        let steps = vec![Step::EndAttempts(folded.clone()), Step::Remove(folded)];
        self.commit(&mut writer, steps)?;
        Ok(Confirmed::Done)
    }

    /// Notes the digests of a closed file, if the record is still in that state and closed. Returns
    /// whether it is.
    pub fn seal(&self, key: &Key, seq: Seq, sealed: Sealed) -> JournalResult<bool> {
        self.amend(key, seq, |record| match &mut record.change {
            Change::Put { state, .. } if *state != PutState::Open => {
                *state = PutState::Sealed(sealed);
                true
            }
            _ => false,
        })
    }

    /// Notes what the key turned out to hold, if the record is still in that state.
    pub fn rebase(&self, key: &Key, seq: Seq, base: Option<ETag>) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.base = base;
            true
        })
    }

    /// Notes a failed try.
    pub fn note_failure(&self, key: &Key, seq: Seq, error: &str) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.attempts = record.attempts.saturating_add(1);
            record.last_error = Some(error.to_owned());
            true
        })
    }

    /// Parks a record: it is kept and shown, and not tried until [`Journal::unpark`] or its next
    /// change.
    pub fn park(&self, key: &Key, seq: Seq, reason: &str) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.parked = Some(reason.to_owned());
            true
        })
    }

    /// Has a parked record tried again. Returns whether there was one.
    pub fn unpark(&self, key: &Key) -> JournalResult<bool> {
        let Some(record) = self.record(key) else {
            return Ok(false);
        };
        self.amend(key, record.seq, |record| {
            record.attempts = 0;
            record.parked.take().is_some()
        })
    }

    /// Changes a record without a new sequence number, if it is in that state and `change` agrees.
    fn amend(
        &self,
        key: &Key,
        seq: Seq,
        change: impl FnOnce(&mut Record) -> bool,
    ) -> JournalResult<bool> {
        let mut writer = self.writer.lock();
        let Some(mut record) = self.current(key, seq) else {
            return Ok(false);
        };
        if !change(&mut record) {
            return Ok(false);
        }
        self.commit(&mut writer, vec![Step::Set(record)])?;
        Ok(true)
    }

    fn current(&self, key: &Key, seq: Seq) -> Option<Record> {
        let record = self.record(key)?;
        (record.seq == seq).then_some(record)
    }
}
