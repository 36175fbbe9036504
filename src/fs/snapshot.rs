//! Files that stay open for hours: snapshots of them go into the bucket while they are written.
//!
//! This decides when one is due and takes it. It then sets the file's record anew, still open, so
//! that the snapshot is a state of its own: an upload whose answer was lost is told from the final
//! version by it. The uploader sends the snapshot as it sends everything, and tells
//! [`Fs::confirm_snapshot`].

mod database;
mod group;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

pub(super) use self::group::{SIDES, is_database};
pub use self::schedule::SnapshotOptions;
use self::schedule::{Stamp, Watch};
use super::Fs;
use super::data::open_file;
use super::inode::{Content, Inode};
use crate::disk::FileId;
use crate::error::{FsError, FsResult};
use crate::staging::{
    Change, Confirmed, Edit, JournalResult, PutState, Record, Seq, Snapshot, SnapshotError,
    SnapshotFile, SnapshotSource, StagedFile,
};
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, ObjectVersion};

/// The longest time between two looks at the open files.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// The shortest.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);
/// So often between two changes of what is due.
const LOOKS: u32 = 4;

/// Open files as they are watched.
#[derive(Default)]
pub(super) struct OpenFiles {
    /// Taken after all other locks.
    watches: Mutex<HashMap<FileId, Watch>>,
    /// One snapshot is taken at a time, which is enough for the disk.
    turn: tokio::sync::Mutex<()>,
    databases: database::Databases,
}

/// An open file, as a look finds it.
struct Found {
    key: Key,
    file: FileId,
    inode: Arc<Inode>,
    stamp: Stamp,
    is_clean: bool,
}

/// What a snapshot is of.
struct Taken {
    inode: Arc<Inode>,
    file: Arc<StagedFile>,
    snapshot: SnapshotFile,
    stamp: Stamp,
    mtime: SystemTime,
    taken_at: Instant,
}

/// Why no snapshot was taken.
enum NotTaken {
    /// The file is not what it was: closed, or without a name.
    Gone,
    /// Something else must reach the bucket before.
    Later,
    /// There is none to be had now.
    Failed(SnapshotError),
    /// The journal does not take it.
    Journal(FsError),
}

impl From<SnapshotError> for NotTaken {
    fn from(error: SnapshotError) -> NotTaken {
        NotTaken::Failed(error)
    }
}

impl Fs {
    /// Starts the task that protects open files.
    pub fn spawn_snapshots(self: &Arc<Self>) {
        let pause = self.options.snapshots.quiet / LOOKS;
        let pause = pause.clamp(SHORTEST_LOOK, LONGEST_LOOK);
        let fs = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(fs) = fs.upgrade() else { return };
                if fs.stopping.load(Ordering::Relaxed) {
                    return;
                }
                fs.look_at_databases();
                for (file, inode) in fs.look_at_open_files() {
                    let fs = fs.clone();
                    tokio::spawn(async move { fs.protect(file, inode).await });
                }
            }
        });
    }

    /// Returns for how long an open file has been in the bucket as a snapshot, if it is.
    pub fn protected_for(&self, file: FileId) -> Option<Duration> {
        let watches = self.open_files.watches.lock();
        let protected_at = watches.get(&file)?.protected_at()?;
        Some(self.clock.instant().saturating_duration_since(protected_at))
    }

    /// A snapshot of an open file is in the bucket, under the record's key as `now_holds`.
    ///
    /// # Errors
    /// Those of the journal; the upload then counts as one whose answer was lost.
    pub fn confirm_snapshot(
        &self,
        record: &Record,
        now_holds: ETag,
        took: Duration,
    ) -> JournalResult<Confirmed> {
        let _changes = self.changes.lock();
        let now = self.clock.instant();
        self.tree.lock().note_change(record.key.as_str(), now);
        self.amend_listings(record, Some(&now_holds));
        let Change::Put {
            file, attributes, ..
        } = &record.change
        else {
            return Ok(Confirmed::Superseded);
        };
        let kept = Edit::KeepAttributes {
            version: ObjectVersion {
                key: record.key.clone(),
                etag: now_holds.clone(),
            },
            attributes: attributes.clone(),
        };
        self.note_emptied(record, &now_holds);
        let journal = self.journal();
        let confirmed = journal.protect(&record.key, record.seq, now_holds, vec![kept])?;
        if confirmed == Confirmed::Done
            && let Some(watch) = self.open_files.watches.lock().get_mut(file)
        {
            watch.protected(record.seq, took, now);
        }
        Ok(confirmed)
    }

    /// Looks at all open files; returns those of which a snapshot is due. Each counts as being
    /// taken until [`Fs::protect`] has ended.
    pub(super) fn look_at_open_files(&self) -> Vec<(FileId, Arc<Inode>)> {
        self.staging.forget_outdated_snapshots();
        let open = self.open_records();
        let files: Vec<FileId> = open.iter().map(|(_, file)| *file).collect();
        let found = open.into_iter();
        let found: Vec<Found> = found
            .filter_map(|(key, file)| self.find(key, file))
            .collect();
        let (now, options) = (self.clock.instant(), &self.options.snapshots);
        let mut watches = self.open_files.watches.lock();
        let mut former = std::mem::take(&mut *watches);
        let mut due = Vec::new();
        for found in found {
            let watch = match former.remove(&found.file) {
                Some(watch) => watch,
                None => Watch::new(found.key.clone(), found.stamp.clone(), found.is_clean, now),
            };
            let watch = watches.entry(found.file).or_insert(watch);
            watch.see(&found.key, found.stamp, now);
            let snapshots = self.staging.snapshots();
            if watch
                .sent_seq()
                .is_some_and(|seq| !snapshots.is_offered(&found.key, seq))
            {
                watch.lost();
            }
            if watch.is_due(options, now) {
                watch.taking();
                due.push((found.file, found.inode));
            }
        }
        // One that is being renamed has its record under the new name already, and is not found there.
        for file in files {
            if let Some(watch) = former.remove(&file) {
                watches.insert(file, watch);
            }
        }
        due
    }

    /// Returns the files that are open, with the keys of their records.
    fn open_records(&self) -> Vec<(Key, FileId)> {
        let mut open = Vec::new();
        let journal = self.journal();
        journal.visit(|record| {
            if let Change::Put {
                file,
                state: PutState::Open,
                ..
            } = &record.change
                && record.parked.is_none()
                && !journal.stays_here(record)
            {
                open.push((record.key.clone(), *file));
            }
        });
        open
    }

    fn find(&self, key: Key, file: FileId) -> Option<Found> {
        // A database and its journals are of use together only.
        if self.database_beside(&key).is_some() {
            return None;
        }
        let inode = self.inode_of(&key)?;
        let (staged, pristine) = {
            let state = inode.state.lock();
            let staged = state.staged()?;
            (staged.file.clone(), staged.pristine.clone())
        };
        if staged.id() != file {
            return None;
        }
        let mut stamp = stamp(&staged)?;
        let mut is_clean =
            pristine.is_some_and(|pristine| stamp == [(file, pristine.generation, pristine.mtime)]);
        if self.is_open_database(&key, &staged) {
            for side in self.sides_of(&key).unwrap_or_default() {
                is_clean &= side.is_empty();
                stamp.extend(side.stamp());
            }
        }
        Some(Found {
            key,
            file,
            inode,
            stamp,
            is_clean,
        })
    }

    pub(super) fn inode_of(&self, key: &Key) -> Option<Arc<Inode>> {
        let tree = self.tree.lock();
        let ino = tree.find(key.as_str())?.1.ino;
        tree.inode(ino).cloned()
    }

    /// Takes a snapshot of an open file and offers it to the uploader.
    pub(super) async fn protect(self: Arc<Self>, file: FileId, inode: Arc<Inode>) {
        let _turn = self.open_files.turn.lock().await;
        self.take_sides(&inode).await;
        let fs = self.clone();
        let taken = tokio::task::spawn_blocking(move || fs.take_and_offer(&inode)).await;
        let Ok(taken) = taken else { return };
        let now = self.clock.instant();
        let mut watches = self.open_files.watches.lock();
        if let Err(reason) = taken
            && let Some(watch) = watches.get_mut(&file)
        {
            match reason {
                NotTaken::Later => watch.postponed(now),
                _ => watch.failed(&self.options.snapshots, now),
            }
            if let Some(text) = reason.text()
                && !std::mem::replace(&mut watch.told, true)
            {
                log::warn!("An open file cannot be protected by a snapshot for now: {text}");
            }
        }
    }

    fn take_and_offer(&self, inode: &Arc<Inode>) -> Result<(), NotTaken> {
        let file = open_file(inode).ok_or(NotTaken::Gone)?;
        let key = self.tree.lock().key(inode.ino).ok_or(NotTaken::Gone)?;
        let taken = match self.is_open_database(&key, &file) {
            true => self.take_database(inode, &file, &key)?,
            false => self.take_plain(inode, &file)?,
        };
        self.offer(taken)
    }

    fn take_plain(&self, inode: &Arc<Inode>, file: &Arc<StagedFile>) -> Result<Taken, NotTaken> {
        let source = source(inode, file);
        let at_instant = || Some((stamp(file)?, mtime_of(inode, file)?, self.clock.instant()));
        let (snapshots, instant) = self.staging.take_snapshots(&[source], at_instant)?;
        let (stamp, mtime, taken_at) = instant;
        Ok(Taken {
            inode: inode.clone(),
            file: file.clone(),
            snapshot: snapshots.into_iter().next().ok_or(NotTaken::Gone)?,
            stamp,
            mtime,
            taken_at,
        })
    }

    /// Makes a snapshot a state of its file's record, and gives it to the uploader.
    fn offer(&self, taken: Taken) -> Result<(), NotTaken> {
        let _changes = self.changes.lock();
        let file = taken.file.id();
        let key = self.tree.lock().key(taken.inode.ino);
        let key = key.ok_or(NotTaken::Gone)?;
        let record = self.journal().record(&key);
        let record = record.filter(|record| record.change.is_open() && record.parked.is_none());
        let record = record.ok_or(NotTaken::Gone)?;
        let attributes = match &record.change {
            Change::Put {
                file: found,
                attributes,
                ..
            } if *found == file => FileAttributes {
                mtime: Some(taken.mtime),
                ..attributes.clone()
            },
            _ => return Err(NotTaken::Gone),
        };
        let length = taken
            .snapshot
            .file()
            .metadata()
            .map_err(SnapshotError::Io)?
            .len();
        if self.is_open_database(&key, &taken.file) {
            self.make_way(&key)?;
        }
        let seq = self.set_anew(&key, record).map_err(NotTaken::Journal)?;
        if let Content::Staged(staged) = &mut taken.inode.state.lock().content {
            // The bucket will hold another version than the one it was taken from.
            staged.pristine = None;
        }
        if let Some(watch) = self.open_files.watches.lock().get_mut(&file) {
            watch.sending(seq, taken.stamp, taken.taken_at);
        }
        let snapshot = Snapshot {
            seq,
            file: taken.snapshot,
            length,
            attributes,
            sealed: Default::default(),
        };
        self.staging.offer_snapshot(&key, snapshot);
        Ok(())
    }

    fn set_anew(&self, key: &Key, record: Record) -> FsResult<Seq> {
        let set = Edit::Set {
            key: key.clone(),
            base: record.base,
            change: record.change,
        };
        let seqs = self.journal().apply(vec![set]);
        let seqs = seqs.map_err(|error| FsError::Journal(error.to_string()))?;
        seqs.first().copied().ok_or(FsError::Stale)
    }
}

impl NotTaken {
    /// Returns what is to be told of it.
    fn text(&self) -> Option<String> {
        match self {
            NotTaken::Gone | NotTaken::Later => None,
            NotTaken::Failed(error) => Some(error.to_string()),
            NotTaken::Journal(error) => Some(error.to_string()),
        }
    }
}

fn source(inode: &Inode, file: &Arc<StagedFile>) -> SnapshotSource {
    SnapshotSource {
        is_mapped: file.while_still(|| may_be_mapped(inode)),
        file: file.clone(),
    }
}

fn stamp(file: &StagedFile) -> Option<Stamp> {
    let modified = file.file().metadata().and_then(|status| status.modified());
    Some(vec![(file.id(), file.generation(), modified.ok()?)])
}

/// Returns when the file was last written, as its close would tell; nothing if the inode's bytes
/// are another file's by now.
fn mtime_of(inode: &Inode, file: &Arc<StagedFile>) -> Option<SystemTime> {
    let state = inode.state.lock();
    state.staged().filter(|staged| staged.is_open_as(file))?;
    let modified = file.file().metadata().and_then(|status| status.modified());
    Some(state.meta.mtime.max(modified.ok()?))
}

/// Whether a shared map may change the file without us. Called while no change is going on, so that
/// nobody holds the descriptor that the proof gives up.
fn may_be_mapped(inode: &Inode) -> bool {
    let mut state = inode.state.lock();
    if state.gate.passes_through() {
        return true;
    }
    match &mut state.content {
        Content::Staged(staged) => !staged.has_no_writer(),
        Content::Remote(_) | Content::Special(_) | Content::Folder => false,
    }
}
