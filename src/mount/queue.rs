//! What the commands show of the journal.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::undo::rfc3339;
use crate::control::OrphanStatus;
use crate::control::queue::{
    ConflictEntry, MAX_ENTRIES, Operation, OrphanEntry, Queue, QueueEntry, State,
};
use crate::fs::Fs;
use crate::staging::{Change, Move, Record, Seq, Staging};

/// Returns what waits for the bucket, the oldest first.
pub(super) fn list(fs: &Arc<Fs>, staging: &Staging) -> Queue {
    fs.settle_closed();
    let now = SystemTime::now();
    let mut records = sendable(staging);
    records.sort_by_key(|record| record.changed_at);
    let left_out = records.len().saturating_sub(MAX_ENTRIES) as u64;
    records.truncate(MAX_ENTRIES);
    let sent = sent_bytes(staging);
    let moves = staging.journal().moves();
    let failure = fs.expansion_failure();
    let folders = moves.pending();
    let folders = folders.map(|found| folder_entry(found, failure.clone(), now));
    let files = records.into_iter().map(|record| {
        let protected = record.change.file().filter(|_| record.change.is_open());
        let protected = protected.and_then(|file| fs.protected_for(file));
        let is_link = staging.journal().first_name(&record.key).is_some();
        let sent_bytes = sent.get(&record.seq).copied().unwrap_or_default();
        let entry = entry(record, protected, now);
        let operation = match entry.operation {
            Operation::Rename if is_link => Operation::Link,
            operation => operation,
        };
        QueueEntry {
            operation,
            sent_bytes,
            ..entry
        }
    });
    let entries = folders.chain(files).collect();
    Queue { entries, left_out }
}

/// Returns the paths that wait for the bucket, those of folders on their way included.
pub(super) fn waiting(staging: &Staging) -> Vec<String> {
    let journal = staging.journal();
    let moves = journal.moves();
    let folders = moves.pending().map(|found| found.target.to_string());
    let files = sendable(staging).into_iter();
    folders
        .chain(files.map(|record| record.key.to_string()))
        .collect()
}

/// Returns the records that are sent, or would be if nothing were in their way.
fn sendable(staging: &Staging) -> Vec<Record> {
    let journal = staging.journal();
    let mut records = journal.records();
    records.retain(|record| !journal.stays_here(record));
    records
}

/// Returns how many files have names that stay on this disk.
pub(super) fn local_files(staging: &Staging) -> usize {
    let journal = staging.journal();
    let records = journal.records();
    records
        .iter()
        .filter(|record| journal.stays_here(record))
        .count()
}

/// Returns how much of each state of a record the bucket has in parts.
fn sent_bytes(staging: &Staging) -> HashMap<Seq, u64> {
    let uploads = staging.journal().open_uploads().into_iter();
    let sent = uploads.map(|open| (open.seq, open.parts.values().map(|part| part.size).sum()));
    sent.collect()
}

/// Returns the conflicts that nobody has dealt with yet.
pub(super) fn conflicts(staging: &Staging) -> Vec<ConflictEntry> {
    let conflicts = staging.journal().conflicts();
    conflicts
        .into_iter()
        .take(MAX_ENTRIES)
        .map(|conflict| ConflictEntry {
            path: conflict.key.to_string(),
            copy: conflict.copy.to_string(),
            found_at: OffsetDateTime::from(conflict.found_at)
                .format(&Rfc3339)
                .unwrap_or_default(),
        })
        .collect()
}

/// Returns the staged files that no record names.
pub(super) fn orphans(fs: &Fs) -> Vec<OrphanEntry> {
    let orphans = fs.orphans().into_iter().take(MAX_ENTRIES);
    let entries = orphans.map(|orphan| OrphanEntry {
        bytes: orphan.length,
        modified: rfc3339(orphan.modified),
        name: orphan.name,
        file: orphan.path,
    });
    entries.collect()
}

/// Returns what the status says of them.
pub(super) fn orphan_status(fs: &Fs, directory: &Path) -> Option<OrphanStatus> {
    let (files, bytes) = fs.orphan_size();
    (files > 0).then(|| OrphanStatus {
        files,
        bytes,
        directory: directory.into(),
    })
}

/// Returns the entry of a folder that was renamed and is on its way as a whole.
fn folder_entry(found: &Move, failure: Option<String>, now: SystemTime) -> QueueEntry {
    let waiting = now.duration_since(found.since).unwrap_or_default();
    QueueEntry {
        path: found.target.to_string(),
        operation: Operation::Rename,
        state: State::Waiting,
        bytes: 0,
        sent_bytes: 0,
        waiting_seconds: waiting.as_secs(),
        attempts: u32::from(failure.is_some()),
        reason: failure,
        protected_seconds: None,
    }
}

fn entry(record: Record, protected: Option<Duration>, now: SystemTime) -> QueueEntry {
    let operation = match &record.change {
        Change::Put { .. } => Operation::Upload,
        Change::Folder { .. } => Operation::Folder,
        Change::Copy { source, .. } if source.key == record.key => Operation::Attributes,
        Change::Copy { .. } => Operation::Rename,
        Change::Delete(_) => Operation::Delete,
    };
    let state = match (&record.parked, record.change.is_open()) {
        (Some(_), _) => State::Parked,
        (None, _) if record.is_held() => State::Held,
        (None, true) => State::Open,
        (None, false) => State::Waiting,
    };
    QueueEntry {
        operation,
        state,
        bytes: record.change.length(),
        sent_bytes: 0,
        waiting_seconds: now
            .duration_since(record.changed_at)
            .unwrap_or_default()
            .as_secs(),
        protected_seconds: protected.map(|since| since.as_secs()),
        attempts: record.attempts,
        path: record.key.to_string(),
        reason: record.parked.or(record.last_error),
    }
}
