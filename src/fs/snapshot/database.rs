//! Open SQLite databases. A database and the `-wal` or `-journal` beside it mean something together
//! only, and the bucket can hold one new object at a time. So all of them are copied at one instant,
//! SQLite itself makes one whole database of the copies, and that is uploaded; what lies beside an
//! open database is not.
//!
//! A log that the bucket holds from an earlier time would undo pages of the new database: SQLite
//! takes any valid log for that of the database beside it. It is made empty in the bucket before.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use super::group::{JOURNALS, is_database, main_of};
use super::schedule::Stamp;
use super::{NotTaken, Taken, mtime_of, source, stamp};
use crate::disk::FileId;
use crate::error::FsResult;
use crate::fs::Fs;
use crate::fs::attr::Ino;
use crate::fs::inode::{Content, Inode, Writing};
use crate::sqlite;
use crate::staging::{
    Change, Record, Snapshot, SnapshotError, SnapshotFile, SnapshotSource, StagedFile,
};
use crate::store::{ETag, Key};

/// What is known of databases.
#[derive(Default)]
pub(super) struct Databases {
    /// Databases whose bytes are being taken from the bucket.
    taking: Mutex<HashSet<Ino>>,
    /// Logs that are empty in the bucket, and as which version. Keys are folded.
    emptied: Mutex<HashMap<Key, ETag>>,
    /// Files that only look like databases.
    not_databases: Mutex<HashSet<FileId>>,
}

/// A file beside a database.
pub(super) struct Side {
    ending: &'static str,
    inode: Arc<Inode>,
    file: Arc<StagedFile>,
}

impl Side {
    pub(super) fn is_empty(&self) -> bool {
        self.file
            .file()
            .metadata()
            .is_ok_and(|status| status.len() == 0)
    }

    pub(super) fn stamp(&self) -> Stamp {
        stamp(&self.file).unwrap_or_default()
    }
}

/// Where the copy of a side is.
enum Image {
    /// Among the files that were copied while they were written.
    Tracked(usize),
    /// It came while they were copied.
    Copied(SnapshotFile),
}

/// What a database was at one instant.
struct AtInstant {
    sides: Vec<(&'static str, Image)>,
    stamp: Stamp,
    mtime: SystemTime,
    taken_at: Instant,
}

impl Fs {
    /// Returns the database that a file lies beside, if it is of that kind.
    pub(super) fn database_beside(&self, key: &Key) -> Option<Arc<Inode>> {
        let main = self.inode_of(&Key::new(main_of(key.as_str())?)?)?;
        let staged = match &main.state.lock().content {
            Content::Folder | Content::Special(_) => return None,
            // Its bytes are not looked at; by its name it is one.
            Content::Remote(_) => None,
            Content::Staged(staged) => Some(staged.file.clone()),
        };
        let is_one = staged.is_none_or(|file| may_be_database(file.file()));
        is_one.then_some(main)
    }

    /// Whether an open file is a database, or about to become one.
    pub(super) fn is_open_database(&self, key: &Key, file: &StagedFile) -> bool {
        if self
            .open_files
            .databases
            .not_databases
            .lock()
            .contains(&file.id())
        {
            return false;
        }
        is_database(file.file())
            || may_be_database(file.file()) && self.sides_of(key).is_none_or(|s| !s.is_empty())
    }

    /// Returns what lies beside a database; nothing if the bytes of one are in the bucket alone.
    pub(super) fn sides_of(&self, key: &Key) -> Option<Vec<Side>> {
        let mut sides = Vec::new();
        for (ending, inode) in self.inodes_beside(key) {
            let state = inode.state.lock();
            let file = match &state.content {
                Content::Staged(staged) => staged.file.clone(),
                Content::Remote(_) if state.meta.size > 0 => return None,
                _ => continue,
            };
            drop(state);
            sides.push(Side {
                ending,
                inode,
                file,
            });
        }
        Some(sides)
    }

    fn inodes_beside(&self, key: &Key) -> Vec<(&'static str, Arc<Inode>)> {
        let beside = JOURNALS.iter().filter_map(|ending| {
            let key = Key::new(&format!("{key}{ending}"))?;
            Some((*ending, self.inode_of(&key)?))
        });
        beside.collect()
    }

    /// A database in WAL mode is open while only its log is written: it is taken into staging, so
    /// that there is a record of it. Logs that nobody has open any more are closed.
    pub(super) fn look_at_databases(self: &Arc<Self>) {
        let mut logs = Vec::new();
        self.journal().visit(|record| {
            if record.change.is_open() && main_of(record.key.as_str()).is_some() {
                logs.push(record.key.clone());
            }
        });
        for key in logs {
            let (Some(main), Some(log)) = (self.database_beside(&key), self.inode_of(&key)) else {
                continue;
            };
            let (is_remote, has_writer) = {
                let state = main.state.lock();
                (state.remote().is_some(), state.writers > 0)
            };
            let is_empty = log.state.lock().meta.size == 0;
            if !has_writer {
                if log.state.lock().writers == 0 {
                    self.close_version(&log);
                }
            } else if is_remote
                && !is_empty
                && self.open_files.databases.taking.lock().insert(main.ino)
            {
                let fs = self.clone();
                self.runtime.spawn(async move {
                    if let Err(error) = fs.take_open(&main).await {
                        log::debug!("a database cannot be protected yet: {error}");
                    }
                    fs.open_files.databases.taking.lock().remove(&main.ino);
                });
            }
        }
    }

    /// Takes a file that programs have open into staging, before they write to it.
    pub(in crate::fs) async fn take_open(self: &Arc<Self>, inode: &Arc<Inode>) -> FsResult<()> {
        let taken = {
            let _writing = Writing::begin(inode);
            self.make_writable(inode).await
        };
        // Its last writer may have closed it meanwhile, when there was nothing yet to be settled.
        if inode.state.lock().writers == 0 {
            self.close_version(inode);
        }
        taken
    }

    /// Takes what lies beside a database into staging, where it is copied from.
    pub(super) async fn take_sides(self: &Arc<Self>, main: &Inode) {
        let Some(key) = self.tree.lock().key(main.ino) else {
            return;
        };
        for (_, inode) in self.inodes_beside(&key) {
            let is_remote = {
                let state = inode.state.lock();
                state.remote().is_some() && state.meta.size > 0
            };
            if is_remote && let Err(error) = self.take_open(&inode).await {
                log::debug!("the log of a database cannot be had: {error}");
            }
        }
    }

    /// Takes a snapshot of a database as one whole file.
    pub(super) fn take_database(
        &self,
        inode: &Arc<Inode>,
        file: &Arc<StagedFile>,
        key: &Key,
    ) -> Result<Taken, NotTaken> {
        let sides = self.sides_of(key).ok_or(NotTaken::Later)?;
        let mut sources: Vec<SnapshotSource> = vec![source(inode, file)];
        sources.extend(sides.iter().map(|side| source(&side.inode, &side.file)));
        let at_instant = || self.at_instant(inode, file, key, &sources[1..]);
        let (snapshots, instant) = self.staging.take_snapshots(&sources, at_instant)?;
        let mut snapshots: Vec<_> = snapshots.into_iter().map(Some).collect();
        let main = snapshots[0].take().ok_or(NotTaken::Gone)?;
        let mut beside = Vec::new();
        for (ending, image) in instant.sides {
            let copy = match image {
                Image::Tracked(at) => snapshots[1 + at].take(),
                Image::Copied(copy) => Some(copy),
            };
            let mut copy = copy.ok_or(NotTaken::Gone)?;
            copy.lay_beside(&main, ending).map_err(SnapshotError::Io)?;
            beside.push(copy);
        }
        if let Err(error) = sqlite::recover(main.path()) {
            log::warn!("{key} is protected as a plain file while it is open: {error}");
            let not_databases = &self.open_files.databases.not_databases;
            not_databases.lock().insert(file.id());
            return self.take_plain(inode, file);
        }
        Ok(Taken {
            inode: inode.clone(),
            file: file.clone(),
            snapshot: main,
            stamp: instant.stamp,
            mtime: instant.mtime,
            taken_at: instant.taken_at,
        })
    }

    /// Looks at a database with its writers stopped. What lies beside it may have come or gone while
    /// it was copied: each transaction may make a journal of its own.
    fn at_instant(
        &self,
        inode: &Inode,
        file: &Arc<StagedFile>,
        key: &Key,
        tracked: &[SnapshotSource],
    ) -> Option<AtInstant> {
        if self.tree.lock().key(inode.ino).as_ref() != Some(key) {
            return None;
        }
        let mut stamp = stamp(file)?;
        let mut mtime = mtime_of(inode, file)?;
        let mut sides = Vec::new();
        for side in self.sides_of(key)? {
            let mut copied = tracked.iter();
            let image = match copied.position(|source| Arc::ptr_eq(&source.file, &side.file)) {
                Some(at) => Image::Tracked(at),
                None => Image::Copied(self.staging.copy_small(&side.file).ok()??),
            };
            stamp.extend(side.stamp());
            let modified = side
                .file
                .file()
                .metadata()
                .and_then(|status| status.modified());
            mtime = mtime.max(modified.ok()?);
            sides.push((side.ending, image));
        }
        Some(AtInstant {
            sides,
            stamp,
            mtime,
            taken_at: self.clock.instant(),
        })
    }

    /// Sees to it that the bucket holds no log that would be taken for one of the database that is
    /// to be uploaded. Called with the names held.
    pub(super) fn make_way(&self, key: &Key) -> Result<(), NotTaken> {
        for ending in JOURNALS {
            let key = Key::new(&format!("{key}{ending}")).ok_or(NotTaken::Gone)?;
            let Some(record) = self.journal().record(&key) else {
                continue;
            };
            let Some(holds) = &record.base else { continue };
            let emptied = self.open_files.databases.emptied.lock();
            let is_empty = emptied.get(&key.folded()) == Some(holds);
            drop(emptied);
            match &record.change {
                Change::Delete(_) => return Err(NotTaken::Later),
                change if change.is_open() && !is_empty => {
                    self.empty_in_bucket(&key, record)?;
                    return Err(NotTaken::Later);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn empty_in_bucket(&self, key: &Key, record: Record) -> Result<(), NotTaken> {
        if self.staging.snapshots().of(&record).is_some() {
            return Ok(());
        }
        let attributes = match &record.change {
            Change::Put { attributes, .. } => attributes.clone(),
            _ => return Ok(()),
        };
        let file = self.staging.empty_snapshot().map_err(SnapshotError::Io)?;
        let seq = self.set_anew(key, record).map_err(NotTaken::Journal)?;
        let snapshot = Snapshot {
            seq,
            file,
            length: 0,
            attributes,
            sealed: Default::default(),
        };
        if let Some(inode) = self.inode_of(key)
            && let Content::Staged(staged) = &mut inode.state.lock().content
        {
            staged.pristine = None;
        }
        self.staging.offer_snapshot(key, snapshot);
        Ok(())
    }

    /// A log may just have been made empty in the bucket.
    pub(super) fn note_emptied(&self, record: &Record, now_holds: &ETag) {
        if main_of(record.key.as_str()).is_some() && record.change.length() == 0 {
            let mut emptied = self.open_files.databases.emptied.lock();
            emptied.insert(record.key.folded(), now_holds.clone());
        }
    }

    /// Whether an upload has to wait for another of the same database: what lies beside one, while
    /// it is open and until it has been uploaded; and the database, until what was removed beside it
    /// is gone.
    pub(in crate::fs) fn waits_for_database(&self, key: &Key) -> bool {
        let Some(record) = self.journal().record(key) else {
            return false;
        };
        if !matches!(record.change, Change::Put { .. }) {
            return false;
        }
        if let Some(main) = self.database_beside(key) {
            let is_open = {
                let state = main.state.lock();
                state.writers > 0 || state.staged().is_some_and(|staged| staged.open)
            };
            let main = self.tree.lock().key(main.ino);
            let waiting = main.and_then(|main| self.journal().record(&main));
            let waits = waiting.is_some_and(|main| {
                main.parked.is_none() && matches!(main.change, Change::Put { .. })
            });
            // One that is open goes as an empty snapshot only.
            return !record.change.is_open() && (is_open || waits);
        }
        JOURNALS.iter().any(|ending| {
            let beside = Key::new(&format!("{key}{ending}"));
            let beside = beside.and_then(|beside| self.journal().record(&beside));
            beside.is_some_and(|beside| {
                beside.base.is_some() && matches!(beside.change, Change::Delete(_))
            })
        })
    }
}

/// Whether a file begins like a database or is empty, as a new one is.
fn may_be_database(file: &File) -> bool {
    is_database(file) || file.metadata().is_ok_and(|status| status.len() == 0)
}
