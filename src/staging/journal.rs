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

mod database;
mod error;
mod follow;
mod holder;
mod local_names;
mod log_sync;
mod mirror;
mod schema;
mod side_files;
mod step;
mod uploads;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::watch;

use self::database::Database;
pub use self::error::{JournalError, JournalResult};
use self::log_sync::LogSync;
pub use self::mirror::Attempt;
use self::mirror::Mirror;
use self::step::Step;
use super::moves::Moves;
use super::record::{
    Change, Conflict, Deleted, Edit, Identity, Kept, PutState, Record, Released, Seq,
};
use super::reserve::Reserve;
use crate::clock::SharedClock;
use crate::config::NamePatterns;
use crate::disk::{self, FileId};
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, ObjectVersion};

/// Name of the entry in `meta` that says which sequence numbers are reserved.
const SEQ_RESERVED: &str = "seq_reserved";
/// Name of the entry in `meta` that says whether uploads are paused: `1` if they are.
const PAUSED: &str = "paused";

/// So long after its request has ended, a write whose answer was lost has landed or never will: what
/// proxies and the bucket's own queues may hold back.
pub const ATTEMPT_SETTLES: Duration = Duration::from_secs(180);
/// How many writes of unknown end are remembered for one key; a key that fails for days while its
/// file is saved again and again would gather more.
const MAX_ATTEMPTS: usize = 32;
/// So many sequence numbers are reserved at a time, so that not every change writes the counter.
const SEQS_RESERVED: u64 = 1024;
/// A log of more pages than this (16 MiB) is brought into the database with writers held up.
const MAX_LOG_PAGES: i64 = 4096;

/// The journal. All methods may be called from any thread.
#[derive(Debug)]
pub struct Journal {
    /// Held from the first statement of a transaction until the mirror shows it, so that both see
    /// the same order. Taken before `mirror`.
    writer: Mutex<Writer>,
    mirror: Mutex<Mirror>,
    log: LogSync,
    /// For attributes, so that a listing does not wait for writers.
    reader: Mutex<Connection>,
    /// For bringing the log into the database, so that nobody else waits for that.
    checkpointer: Mutex<Connection>,
    /// Room for commits on a full disk.
    reserve: Reserve,
    failed: OnceLock<String>,
    /// Whether the operator has paused uploads; as `meta` says.
    paused: AtomicBool,
    /// The names of files that stay on this disk.
    side_files: OnceLock<NamePatterns>,
    changed: watch::Sender<u64>,
    clock: SharedClock,
}

#[derive(Debug)]
struct Writer {
    database: Database,
    /// The last sequence number given.
    last_seq: u64,
    /// Numbers up to this one are reserved on disk.
    reserved: u64,
}

impl Journal {
    /// Opens the journal, makes it if need be, and reads it. After success the database itself
    /// survives a power cut, and so does all that is in it.
    pub(super) fn open(path: &Path, clock: SharedClock) -> JournalResult<Journal> {
        let reserve = Reserve::new(path.parent().unwrap_or(Path::new(".")));
        match schema::open(path) {
            // Whatever SQLite says of a full disk when it makes its files.
            Err(JournalError::Full | JournalError::Database(_)) if reserve.give_up() => {
                Journal::open_with(schema::open(path)?, path, reserve, clock)
            }
            opened => Journal::open_with(opened?, path, reserve, clock),
        }
    }

    fn open_with(
        connection: Connection,
        path: &Path,
        reserve: Reserve,
        clock: SharedClock,
    ) -> JournalResult<Journal> {
        let database = Database(connection);
        let mut mirror = database.load()?;
        mirror.leave_attempts(clock.now());
        let reserved = match database.meta(SEQ_RESERVED)? {
            Some(text) => text
                .parse()
                .map_err(|_| JournalError::Damaged(format!("{SEQ_RESERVED}: {text:?}")))?,
            None => 0,
        };
        let paused = database.meta(PAUSED)?.is_some_and(|text| text == "1");
        let last_seq = mirror.max_seq().map_or(0, |seq| seq.0).max(reserved);
        let log = LogSync::open(path).map_err(JournalError::io)?;
        let journal = Journal {
            writer: Mutex::new(Writer {
                database,
                last_seq,
                reserved: 0,
            }),
            mirror: Mutex::new(mirror),
            log,
            reader: Mutex::new(schema::open_another(path)?),
            checkpointer: Mutex::new(schema::open_another(path)?),
            reserve,
            failed: OnceLock::new(),
            paused: AtomicBool::new(paused),
            side_files: OnceLock::new(),
            changed: watch::Sender::new(0),
            clock,
        };
        // What an earlier process left unsynced counts as synced from here on.
        journal.commit(&mut journal.writer.lock(), Vec::new())?;
        journal.sync()?;
        if let Some(dir) = path.parent() {
            disk::sync_dir(dir).map_err(JournalError::io)?;
        }
        Ok(journal)
    }

    /// Binds the journal to a bucket. While it has records for another one it is refused: how many,
    /// and for which.
    pub(super) fn bind(&self, identity: &Identity) -> JournalResult<Option<(usize, Identity)>> {
        let mut writer = self.writer.lock();
        let value = |name| writer.database.meta(name).map(Option::unwrap_or_default);
        let found = Identity {
            backend: value("backend")?,
            endpoint: value("endpoint")?,
            bucket: value("bucket")?,
            prefix: value("prefix")?,
        };
        if found == *identity {
            return Ok(None);
        }
        let waiting = {
            let mirror = self.mirror.lock();
            mirror.records().count() + mirror.moves().pending().count()
        };
        if waiting > 0 {
            return Ok(Some((waiting, found)));
        }
        let mut steps = vec![
            Step::Meta("backend", identity.backend.clone()),
            Step::Meta("endpoint", identity.endpoint.clone()),
            Step::Meta("bucket", identity.bucket.clone()),
            Step::Meta("prefix", identity.prefix.clone()),
            // They are another bucket's, as are the versions that files were to be adopted as.
            Step::ForgetAttributes,
        ];
        let released = self.mirror.lock().released(u64::MAX);
        steps.extend(released.into_iter().map(|file| Step::Release(file, None)));
        let locals = self.local_names();
        steps.extend(
            locals
                .iter()
                .map(|name| Step::RemoveLocal(name.key.folded())),
        );
        let uploads = self.open_uploads();
        steps.extend(
            uploads
                .into_iter()
                .map(|open| Step::EndUpload(open.upload.id)),
        );
        for kept in self.kept() {
            steps.extend([Step::Unkeep(kept.file), Step::Release(kept.file, None)]);
        }
        self.commit(&mut writer, steps)?;
        drop(writer);
        self.sync()?;
        Ok(None)
    }

    /// Carries out all edits or none. Committed when it returns: survives a killed process, and a
    /// power cut after the next [`Journal::sync`]. Returns the sequence number of each `Set`, in
    /// order.
    pub fn apply(&self, edits: Vec<Edit>) -> JournalResult<Vec<Seq>> {
        let mut writer = self.writer.lock();
        let mut steps = Vec::with_capacity(edits.len());
        let mut seqs = Vec::new();
        for edit in edits {
            let step = self.step(&mut writer, edit, &steps)?;
            if let Step::Set(record) = &step {
                seqs.push(record.seq);
            }
            steps.push(step);
        }
        self.commit(&mut writer, steps)?;
        Ok(seqs)
    }

    /// Returns what an edit comes to, after `earlier` steps of the same transaction.
    fn step(&self, writer: &mut Writer, edit: Edit, earlier: &[Step]) -> JournalResult<Step> {
        Ok(match edit {
            Edit::Set { key, base, change } => {
                Step::Set(self.new_record(writer, key, base, change))
            }
            Edit::Remove { key } => self.removal(writer, key, earlier),
            Edit::Discard { file } => Step::Release(file, None),
            Edit::Keep(kept) => Step::Keep(kept),
            Edit::Unkeep { file } if !self.is_kept(file) => return Err(JournalError::Gone(file)),
            Edit::Unkeep { file } => Step::Unkeep(file),
            Edit::Adopt { file, version } => Step::Release(file, Some(version)),
            Edit::Unrelease { file } if self.mirror.lock().is_claimed(file) => {
                return Err(JournalError::Gone(file));
            }
            Edit::Unrelease { file } => Step::Unrelease(file),
            Edit::NoteConflict { key, copy } => Step::NoteConflict(Conflict {
                key,
                copy,
                found_at: self.clock.now(),
            }),
            Edit::ForgetConflict { copy } => Step::ForgetConflict(copy),
            Edit::KeepAttributes {
                version,
                attributes,
            } => Step::KeepAttributes(version, attributes),
            Edit::SetLocal(name) => Step::SetLocal(name),
            Edit::RemoveLocal { key } => Step::RemoveLocal(key.folded()),
            Edit::MoveFolderAttributes { from, to } => Step::MoveFolderAttributes(from, to),
            Edit::SetMove(new) => Step::SetMove(new),
            Edit::EndMove { source } => Step::EndMove(source),
        })
    }

    fn new_record(
        &self,
        writer: &mut Writer,
        key: Key,
        base: Option<ETag>,
        change: Change,
    ) -> Record {
        writer.last_seq += 1;
        Record {
            key,
            seq: Seq(writer.last_seq),
            base,
            change,
            parked: None,
            changed_at: self.clock.now(),
            attempts: 0,
            last_error: None,
        }
    }

    /// Removes a record, unless the key holds nothing and a write of ours may still land there: then
    /// a tombstone waits for it.
    fn removal(&self, writer: &mut Writer, key: Key, earlier: &[Step]) -> Step {
        let folded = key.folded();
        let mirror = self.mirror.lock();
        let in_batch = earlier.iter().rev().find_map(|step| match step {
            Step::Set(record) if record.key.folded() == folded => Some(record),
            _ => None,
        });
        let record = in_batch.or_else(|| mirror.record(&folded));
        let holds_nothing = record.is_some_and(|record| record.base.is_none());
        let may_land = !mirror.attempts(&folded).is_empty();
        drop(mirror);
        if holds_nothing && may_land {
            return Step::Set(self.new_record(writer, key, None, Change::Delete(Deleted::Moved)));
        }
        Step::Remove(folded)
    }

    fn commit(&self, writer: &mut Writer, mut steps: Vec<Step>) -> JournalResult<()> {
        if let Some(reason) = self.failed.get() {
            return Err(JournalError::Failed(reason.clone()));
        }
        let mut reserved = writer.reserved;
        if writer.last_seq >= reserved {
            reserved = writer.last_seq + SEQS_RESERVED;
            steps.push(Step::Meta(SEQ_RESERVED, reserved.to_string()));
        }
        #[cfg(test)]
        super::crash_point::reach("before a commit");
        let mut written = writer.database.write(&steps);
        #[cfg(test)]
        super::crash_point::reach("after a commit");
        if matches!(written, Err(JournalError::Full)) && self.reserve.give_up() {
            written = writer.database.write(&steps);
        }
        if let Err(error) = written {
            if let JournalError::Damaged(reason) = &error {
                self.fail(reason);
            }
            return Err(error);
        }
        writer.reserved = reserved;
        let commit = self.log.committed();
        let mut mirror = self.mirror.lock();
        let is_news = steps.iter().any(|step| mirror.is_news(step));
        for step in steps {
            mirror.apply(step, commit);
        }
        drop(mirror);
        if is_news {
            self.wake();
        }
        Ok(())
    }

    /// Syncs: everything committed before the call survives a power cut. Callers that come while a
    /// sync runs share the next one. After a failed sync the journal takes no more changes.
    pub fn sync(&self) -> JournalResult<()> {
        if let Some(reason) = self.failed.get() {
            return Err(JournalError::Failed(reason.clone()));
        }
        self.log.sync().map_err(|error| {
            let reason = format!("the journal cannot be synced: {error}");
            self.fail(&reason);
            JournalError::Failed(reason)
        })
    }

    /// Whether everything committed survives a power cut.
    #[cfg(test)]
    pub(crate) fn is_synced(&self) -> bool {
        self.log.is_synced()
    }

    /// Brings the records to what was found on the disk at start: whatever was open is closed with
    /// the length it has. Returns the records whose file is missing.
    pub(super) fn settle(&self, lengths: &HashMap<FileId, u64>) -> JournalResult<Vec<Record>> {
        let mut writer = self.writer.lock();
        let (mut steps, mut missing) = (Vec::new(), Vec::new());
        for mut record in self.records() {
            let Change::Put { file, state, .. } = &mut record.change else {
                continue;
            };
            match lengths.get(file) {
                None => missing.push(record),
                Some(length) if state.length() != Some(*length) => {
                    if *state != PutState::Open {
                        log::warn!("{} has another length than it was closed with", record.key);
                    }
                    *state = PutState::Closed { length: *length };
                    // Another state than the one that snapshots were uploaded for: what of them is
                    // in the bucket is not this version.
                    writer.last_seq += 1;
                    record.seq = Seq(writer.last_seq);
                    steps.push(Step::Set(record));
                }
                Some(_) => {}
            }
        }
        self.commit(&mut writer, steps)?;
        Ok(missing)
    }

    /// Brings the log into the database, so that it does not grow without end. Waits for the disk.
    pub(super) fn checkpoint(&self) -> JournalResult<()> {
        let (pages, done) = database::checkpoint(&self.checkpointer.lock())?;
        if done < pages && pages > MAX_LOG_PAGES {
            // Writers have been faster than we; the log can only start anew when it is all done.
            let _writer = self.writer.lock();
            database::checkpoint(&self.checkpointer.lock())?;
        }
        Ok(())
    }

    /// Keeps room for commits on a full disk, if there is any.
    pub(super) fn take_reserve(&self) {
        self.reserve.take();
    }

    /// Whether the journal takes no more changes.
    pub fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Whether the disk is so full that the journal needs all of it.
    pub(super) fn needs_all_room(&self) -> bool {
        self.reserve.is_given_up()
    }

    /// Forgets writes that can neither land any more nor need to be known again.
    pub(super) fn forget_settled_attempts(&self) -> JournalResult<()> {
        let mut writer = self.writer.lock();
        let before = self.clock.now() - ATTEMPT_SETTLES;
        let settled = self.mirror.lock().settled_attempts(before);
        if settled.is_empty() {
            return Ok(());
        }
        let steps = settled
            .into_iter()
            .map(|(key, id)| Step::EndAttempt(key, id));
        self.commit(&mut writer, steps.collect())
    }

    /// Pauses uploads, or lets them go on. Survives a power cut, for the one who paused expects it to
    /// last until the word to go on.
    pub fn set_paused(&self, paused: bool) -> JournalResult<()> {
        let value = if paused { "1" } else { "0" };
        let mut writer = self.writer.lock();
        self.commit(&mut writer, vec![Step::Meta(PAUSED, value.to_owned())])?;
        self.paused.store(paused, Ordering::Relaxed);
        drop(writer);
        self.wake();
        self.sync()
    }

    /// Whether uploads are paused.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Refuses every further change: a sync of something the journal speaks of has failed.
    pub fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            log::error!("The journal takes no more changes: {reason}");
        }
    }

    /// Returns the time that the journal goes by.
    pub(super) fn now(&self) -> std::time::SystemTime {
        self.clock.now()
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

    /// Returns the folders on their way, as they are now.
    pub fn moves(&self) -> Arc<Moves> {
        self.mirror.lock().moves().clone()
    }

    /// Returns the conflicts that nobody has dealt with yet.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.mirror.lock().conflicts().cloned().collect()
    }

    /// Returns the staged files that are kept without a name.
    pub fn kept(&self) -> Vec<Kept> {
        self.mirror.lock().kept().cloned().collect()
    }

    /// Whether a staged file is kept without a name.
    pub fn is_kept(&self, file: FileId) -> bool {
        self.mirror.lock().is_kept(file)
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

    /// Has the follower look at a key again.
    pub(super) fn note_changed(&self, key: &Key) {
        self.mirror.lock().note_changed(key.folded());
        self.wake();
    }

    /// Wakes those who wait for a change.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Returns a receiver that is woken by each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the released files whose release has been synced and was not carried out yet; what is
    /// to become of each, [`Journal::due_release`] tells. Those that only go, [`super::Staging`] unlinks
    /// itself.
    pub fn released(&self) -> Vec<FileId> {
        let synced = self.log.synced();
        self.mirror.lock().released(synced)
    }

    /// Returns what is to become of a file whose release may be carried out now; it may be taken back
    /// for a writer, or its version renamed, at any time before.
    pub fn due_release(&self, file: FileId) -> Option<Released> {
        let synced = self.log.synced();
        self.mirror.lock().due_release(file, synced)
    }

    /// Whether some release waits for a sync.
    pub(super) fn has_unsynced_release(&self) -> bool {
        let synced = self.log.synced();
        self.mirror.lock().has_release_after(synced)
    }

    /// Returns files to be unlinked now. They cannot be taken back any more; when they are gone,
    /// [`Journal::release_done`] forgets them.
    pub(super) fn claim_discarded(&self, limit: usize) -> Vec<FileId> {
        let synced = self.log.synced();
        self.mirror.lock().claim_discarded(synced, limit)
    }

    /// Whether a file was released and its release is neither carried out nor taken back.
    pub fn is_released(&self, file: FileId) -> bool {
        self.mirror.lock().is_released(file)
    }

    /// Notes that releases have been carried out.
    pub fn release_done(&self, files: &[FileId]) -> JournalResult<()> {
        if files.is_empty() {
            return Ok(());
        }
        let steps = files.iter().copied().map(Step::Unrelease).collect();
        self.commit(&mut self.writer.lock(), steps)
    }

    /// Returns the kept attributes of a version. Reads the disk; what cannot be read is not known.
    pub fn attributes(&self, version: &ObjectVersion) -> Option<FileAttributes> {
        let kept = database::attributes(&self.reader.lock(), version);
        kept.inspect_err(|error| log::warn!("Attributes of {}: {error}", version.key))
            .unwrap_or_default()
    }

    /// Returns the kept attributes of the versions directly in a folder (`prefix` ends in `/` or is
    /// empty), the markers of its subfolders included. Reads the disk; what cannot be read is not
    /// known.
    pub fn attributes_below(&self, prefix: &str) -> HashMap<ObjectVersion, FileAttributes> {
        let folder = Key::new(prefix).map(|prefix| prefix.folded());
        let folder = folder.as_ref().map_or("", Key::as_str);
        let kept = database::attributes_in(&self.reader.lock(), folder);
        kept.inspect_err(|error| log::warn!("Attributes in {folder}: {error}"))
            .unwrap_or_default()
    }

    /// Returns the record of a key, if it is in that state.
    fn current(&self, key: &Key, seq: Seq) -> Option<Record> {
        let record = self.record(key)?;
        (record.seq == seq).then_some(record)
    }
}

#[cfg(test)]
mod tests;
