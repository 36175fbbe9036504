//! The journal in memory: all records and every index over them. Only [`Mirror`]'s methods change
//! them, each right after the same change was committed to the database.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::FileId;
use crate::staging::local_name::{LocalName, StandsFor};
use crate::staging::moves::{Move, Moves};
use crate::staging::record::{Change, Conflict, Kept, OpenUpload, Record, Released, SentPart, Seq};
use crate::store::{Key, ObjectVersion, PartNumber};

/// A write that was begun and whose end is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The write id that the object carries if the write lands.
    pub write_id: String,
    /// Which state of the record was sent.
    pub seq: Seq,
    /// When its request was last on its way.
    pub active_at: SystemTime,
}

/// A release, and how far it is.
#[derive(Clone, Debug)]
struct Release {
    adopt_as: Option<ObjectVersion>,
    /// The number of the commit that released the file.
    commit: u64,
    /// Whether somebody is carrying it out, so that it cannot be taken back.
    claimed: bool,
}

/// What `journal.db` holds, apart from attributes. Every key in here is folded.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    records: BTreeMap<Key, Record>,
    /// Staged files that records need, and how many need each.
    files: HashMap<FileId, usize>,
    /// Source of a copy, and the keys that are to become copies of it.
    copies: HashMap<Key, BTreeSet<Key>>,
    attempts: HashMap<Key, Vec<Attempt>>,
    /// Open uploads by their ids.
    uploads: BTreeMap<String, OpenUpload>,
    released: HashMap<FileId, Release>,
    kept: HashMap<FileId, Kept>,
    /// Conflicts by the key of their copy.
    conflicts: BTreeMap<Key, Conflict>,
    locals: BTreeMap<Key, LocalName>,
    /// What has further names, and those.
    links: HashMap<Key, BTreeSet<Key>>,
    moves: Arc<Moves>,
    /// Keys whose object is being deleted at this moment, or may be, since the answer was lost.
    deleting: HashSet<Key>,
    /// Keys whose record changed since the follower last asked.
    changed: BTreeSet<Key>,
}

impl Mirror {
    pub(super) fn record(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Returns the highest sequence number that a record or an attempt has.
    pub(super) fn max_seq(&self) -> Option<Seq> {
        let records = self.records.values().map(|record| record.seq);
        let attempts = self.attempts.values().flatten().map(|attempt| attempt.seq);
        records.chain(attempts).max()
    }

    /// Returns the records whose folded key begins so.
    pub(super) fn records_below(&self, prefix: &str) -> impl Iterator<Item = &Record> {
        // An empty prefix is no key; every key comes after the shortest one.
        let first = Key::new(prefix).or_else(|| Key::new("\0"));
        first
            .into_iter()
            .flat_map(|first| self.records.range(first..))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, record)| record)
    }

    /// Returns the keys, other than `key` itself, that are to become copies of it.
    pub(super) fn copies_of(&self, key: &Key) -> impl Iterator<Item = &Key> {
        let copies = self.copies.get(key).into_iter().flatten();
        let key = key.clone();
        copies.filter(move |copy| **copy != key)
    }

    pub(super) fn set(&mut self, record: Record) {
        let key = record.key.folded();
        self.unlink(&key);
        if let Some(file) = record.change.file() {
            *self.files.entry(file).or_default() += 1;
        }
        if let Change::Copy { source, .. } = &record.change {
            let source = source.key.folded();
            self.copies.entry(source).or_default().insert(key.clone());
        }
        self.records.insert(key.clone(), record);
        self.changed.insert(key);
    }

    pub(super) fn begin_delete(&mut self, key: Key) {
        self.deleting.insert(key);
    }

    pub(super) fn end_delete(&mut self, key: &Key) {
        self.deleting.remove(key);
    }

    pub(super) fn is_deleting(&self, key: &Key) -> bool {
        self.deleting.contains(key)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.unlink(key);
        self.deleting.remove(key);
        if self.records.remove(key).is_some() {
            self.changed.insert(key.clone());
        }
    }

    /// Takes the record of a key out of the indexes.
    fn unlink(&mut self, key: &Key) {
        let Some(record) = self.records.get(key) else {
            return;
        };
        if let Some(file) = record.change.file()
            && let Entry::Occupied(mut needed) = self.files.entry(file)
        {
            *needed.get_mut() -= 1;
            if *needed.get() == 0 {
                needed.remove();
            }
        }
        let Change::Copy { source, .. } = &record.change else {
            return;
        };
        let source = source.key.folded();
        if let Some(copies) = self.copies.get_mut(&source) {
            copies.remove(key);
            if copies.is_empty() {
                self.copies.remove(&source);
            }
        }
    }

    pub(super) fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values()
    }

    pub(super) fn note_conflict(&mut self, conflict: Conflict) {
        self.conflicts.insert(conflict.copy.folded(), conflict);
    }

    pub(super) fn forget_conflict(&mut self, copy: &Key) {
        self.conflicts.remove(&copy.folded());
    }

    /// Returns the names that this disk alone knows.
    pub(super) fn locals(&self) -> impl Iterator<Item = &LocalName> {
        self.locals.values()
    }

    /// Returns those whose folded key begins so.
    pub(super) fn locals_below(&self, prefix: &str) -> impl Iterator<Item = &LocalName> {
        let first = Key::new(prefix).or_else(|| Key::new("\0"));
        first
            .into_iter()
            .flat_map(|first| self.locals.range(first..))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, name)| name)
    }

    pub(super) fn local(&self, key: &Key) -> Option<&LocalName> {
        self.locals.get(key)
    }

    pub(super) fn set_local(&mut self, name: LocalName) {
        let key = name.key.folded();
        self.remove_local(&key);
        if let StandsFor::Link { to, .. } = &name.stands_for {
            self.links
                .entry(to.folded())
                .or_default()
                .insert(key.clone());
        }
        self.locals.insert(key, name);
    }

    /// Returns the further names of what goes by a key.
    pub(super) fn links_to(&self, key: &Key) -> impl Iterator<Item = &LocalName> {
        let links = self.links.get(key).into_iter().flatten();
        links.filter_map(|link| self.locals.get(link))
    }

    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    pub(super) fn remove_local(&mut self, key: &Key) {
        let Some(name) = self.locals.remove(key) else {
            return;
        };
        if let StandsFor::Link { to, .. } = &name.stands_for
            && let Entry::Occupied(mut links) = self.links.entry(to.folded())
        {
            links.get_mut().remove(key);
            if links.get().is_empty() {
                links.remove();
            }
        }
    }

    pub(super) fn note_changed(&mut self, key: Key) {
        self.changed.insert(key);
    }

    pub(super) fn moves(&self) -> &Arc<Moves> {
        &self.moves
    }

    pub(super) fn set_move(&mut self, new: Move) {
        self.note_below(&new.source);
        Arc::make_mut(&mut self.moves).set(new);
    }

    pub(super) fn end_move(&mut self, source: &Key) {
        self.note_below(source);
        Arc::make_mut(&mut self.moves).end(source);
    }

    /// Whether the records below a moving prefix may go has changed.
    fn note_below(&mut self, source: &Key) {
        let source = source.folded();
        let below = self.records_below(source.as_str());
        let keys: Vec<Key> = below.map(|record| record.key.folded()).collect();
        self.changed.extend(keys);
    }

    pub(super) fn take_changed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    pub(super) fn attempts(&self, key: &Key) -> &[Attempt] {
        self.attempts.get(key).map_or(&[], Vec::as_slice)
    }

    /// Notes a write; one with the same write id is begun again.
    pub(super) fn begin_attempt(&mut self, key: Key, attempt: Attempt) {
        let attempts = self.attempts.entry(key).or_default();
        attempts.retain(|earlier| earlier.write_id != attempt.write_id);
        attempts.push(attempt);
    }

    /// The process that was sending may have died a moment ago: what it sent settles from `now` on.
    pub(super) fn leave_attempts(&mut self, now: SystemTime) {
        for attempt in self.attempts.values_mut().flatten() {
            attempt.active_at = attempt.active_at.max(now);
        }
    }

    pub(super) fn end_attempt(&mut self, key: &Key, write_id: &str) {
        if let Some(attempts) = self.attempts.get_mut(key) {
            attempts.retain(|attempt| attempt.write_id != write_id);
            if attempts.is_empty() {
                self.attempts.remove(key);
            }
        }
    }

    pub(super) fn open_uploads(&self) -> impl Iterator<Item = &OpenUpload> {
        self.uploads.values()
    }

    pub(super) fn begin_upload(&mut self, open: OpenUpload) {
        self.uploads.insert(open.upload.id.clone(), open);
    }

    pub(super) fn note_part(&mut self, id: &str, number: PartNumber, part: SentPart) {
        if let Some(open) = self.uploads.get_mut(id) {
            open.parts.insert(number, part);
        }
    }

    pub(super) fn end_upload(&mut self, id: &str) {
        self.uploads.remove(id);
    }

    /// Returns the writes that were last on their way before `before` to keys that have no record any more.
    pub(super) fn settled_attempts(&self, before: SystemTime) -> Vec<(Key, String)> {
        let unrecorded = self
            .attempts
            .iter()
            .filter(|(key, _)| !self.records.contains_key(key));
        unrecorded
            .flat_map(|(key, attempts)| attempts.iter().map(move |attempt| (key, attempt)))
            .filter(|(_, attempt)| attempt.active_at < before)
            .map(|(key, attempt)| (key.clone(), attempt.write_id.clone()))
            .collect()
    }

    pub(super) fn release(&mut self, file: FileId, adopt_as: Option<ObjectVersion>, commit: u64) {
        let release = Release {
            adopt_as,
            commit,
            claimed: false,
        };
        self.released.insert(file, release);
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept.insert(kept.file, kept);
    }

    pub(super) fn unkeep(&mut self, file: FileId) {
        self.kept.remove(&file);
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.values()
    }

    pub(super) fn is_kept(&self, file: FileId) -> bool {
        self.kept.contains_key(&file)
    }

    pub(super) fn unrelease(&mut self, file: FileId) {
        self.released.remove(&file);
    }

    /// Whether the file is on its way out and cannot be taken back.
    pub(super) fn is_claimed(&self, file: FileId) -> bool {
        self.released.get(&file).is_some_and(|r| r.claimed)
    }

    pub(super) fn is_released(&self, file: FileId) -> bool {
        self.released.contains_key(&file)
    }

    /// Whether some release waits for a sync, when `synced` commits are on the disk.
    pub(super) fn has_release_after(&self, synced: u64) -> bool {
        self.released
            .values()
            .any(|release| release.commit > synced)
    }

    /// Whether a release may be carried out: its commit is on the disk, and no record needs the
    /// file (hard links share one).
    fn is_due(&self, file: FileId, release: &Release, synced: u64) -> bool {
        release.commit <= synced && !release.claimed && !self.files.contains_key(&file)
    }

    /// Returns the files that may go, when `synced` commits are on the disk.
    pub(super) fn released(&self, synced: u64) -> Vec<FileId> {
        let due = self.released.iter();
        due.filter(|(file, release)| self.is_due(**file, release, synced))
            .map(|(file, _)| *file)
            .collect()
    }

    /// Returns what is to become of a file that may go.
    pub(super) fn due_release(&self, file: FileId, synced: u64) -> Option<Released> {
        let release = self.released.get(&file);
        let due = release.filter(|release| self.is_due(file, release, synced));
        due.map(|release| Released {
            file,
            adopt_as: release.adopt_as.clone(),
        })
    }

    /// Claims the files that may be unlinked, at most `limit`.
    pub(super) fn claim_discarded(&mut self, synced: u64, limit: usize) -> Vec<FileId> {
        let due: Vec<FileId> = self
            .released
            .iter()
            .filter(|(file, release)| {
                release.adopt_as.is_none() && self.is_due(**file, release, synced)
            })
            .map(|(file, _)| *file)
            .take(limit)
            .collect();
        for file in &due {
            if let Some(release) = self.released.get_mut(file) {
                release.claimed = true;
            }
        }
        due
    }
}
