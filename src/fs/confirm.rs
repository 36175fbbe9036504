//! What the uploader's successes and the journal's replay mean for the tree, and the way of a
//! confirmed file from staging into the cache.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use super::inode::{Content, Inode, Remote, reopen};
use super::link_copies::set_link;
use super::listing::listed_from_info;
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Confirmed, Edit, JournalResult, PutState, Record, Released, Replay};
use crate::store::{ETag, ObjectInfo, ObjectVersion};

/// How often released files are moved or removed; each batch costs one sync of the journal.
const RELEASE_EVERY: Duration = Duration::from_millis(500);

impl Fs {
    /// An operation of the uploader has succeeded and the record's key holds `now_holds`: says so in
    /// the journal, and if the record is still the same, shows it in the tree.
    ///
    /// # Errors
    /// Those of the journal; the operation then counts as not done.
    pub fn confirm_upload(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
    ) -> JournalResult<Confirmed> {
        let _changes = self.changes.lock();
        // Before the journal forgets it: what a start finds must show the change either way.
        self.note_change(record);
        self.amend_listings(record, now_holds.as_ref());
        let version = now_holds.clone().map(|etag| ObjectVersion {
            key: record.key.clone(),
            etag,
        });
        let mut extra = Vec::new();
        let first = self.copied_for(record);
        if record.change.is_delete() {
            extra.extend(self.copy_after(record));
        }
        if let Some((version, first)) = version.clone().zip(first.clone()) {
            extra.push(set_link(&record.key, first, Some(version.etag)));
        } else if let Some(version) = &version {
            extra.extend(self.copies_of(record, version));
            if let Change::Copy { source, .. } = &record.change {
                self.repin_copies(record, source, version)?;
                // The file may not have moved into the cache yet; it is to move as what it is now.
                let held = self.cache.get(source).map(|held| held.id());
                let held = held.filter(|file| self.journal().is_released(*file));
                extra.extend(held.map(|file| Edit::Adopt {
                    file,
                    version: version.clone(),
                }));
            }
            if let Change::Put { file, .. } = &record.change {
                extra.push(Edit::Adopt {
                    file: *file,
                    version: version.clone(),
                });
            }
            if let Change::Put { attributes, .. } | Change::Copy { attributes, .. } = &record.change
            {
                extra.push(Edit::KeepAttributes {
                    version: version.clone(),
                    attributes: attributes.clone(),
                });
            }
        }
        let confirmed = self
            .journal()
            .confirm(&record.key, record.seq, now_holds, extra)?;
        self.pace.note_upload(self.clock.instant());
        if confirmed == Confirmed::Done
            && first.is_none()
            && let Some(version) = version
        {
            self.show_confirmed(record, version);
        }
        Ok(confirmed)
    }

    /// Notes that what the bucket holds under a key has been changed from here: a listing that was
    /// begun before does not count for it.
    fn note_change(&self, record: &Record) {
        let key = &record.key;
        let now = self.clock.instant();
        let moves = self.journal().moves();
        if moves.covers(key) {
            // Sent before its folder was renamed.
            let gone = record.base.clone().map(|etag| ObjectVersion {
                key: key.folded(),
                etag,
            });
            self.settled.lock().extend(gone);
            let shown = moves.shown_at(key.as_str());
            self.tree.lock().note_change(&shown, now);
        }
        self.tree.lock().note_change(key.as_str(), now);
    }

    /// A delete found somebody else's version in the bucket: it stays and shows again.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn keep_changed(&self, record: &Record, found: &ObjectInfo) -> JournalResult<Confirmed> {
        let _changes = self.changes.lock();
        let withdrawn = self.journal().withdraw(&record.key, record.seq)?;
        if withdrawn != Confirmed::Done {
            return Ok(withdrawn);
        }
        log::warn!(
            "{} was changed by someone else, or may not be deleted: it stays",
            record.key
        );
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        tree.note_change(record.key.as_str(), now);
        let path = record.key.as_str().trim_end_matches('/');
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(parent) = tree.find(folder).map(|(_, entry)| entry.ino) {
            if record.key.is_folder_marker() {
                tree.insert_folder(parent, name, now);
            } else if !self.is_local_name(&record.key) {
                tree.insert_listed(parent, name, listed_from_info(found, now));
            }
        }
        Ok(withdrawn)
    }
}

impl Fs {
    /// New attributes were given by a copy of the object onto itself, which may have another tag
    /// since. What else is to become of that version is meant for the new one.
    fn repin_copies(
        &self,
        done: &Record,
        old: &ObjectVersion,
        new: &ObjectVersion,
    ) -> JournalResult<()> {
        if old.key.folded() != new.key.folded() || old.etag == new.etag {
            return Ok(());
        }
        let mut edits = Vec::new();
        let mut keys = Vec::new();
        self.journal().visit(|record| {
            if let Change::Copy {
                source,
                size,
                attributes,
            } = &record.change
                && source == old
                && record.seq != done.seq
            {
                keys.push(record.key.clone());
                edits.push(Edit::Set {
                    key: record.key.clone(),
                    base: record.base.clone(),
                    change: Change::Copy {
                        source: new.clone(),
                        size: *size,
                        attributes: attributes.clone(),
                    },
                });
            }
        });
        if edits.is_empty() {
            return Ok(());
        }
        // Before the confirmation: if the process dies in between, that is found again by its id.
        self.journal().apply(edits)?;
        for key in keys {
            let tree = self.tree.lock();
            let inode = tree.find(key.as_str()).map(|(_, entry)| entry.ino);
            let inode = inode.and_then(|ino| tree.inode(ino).cloned());
            drop(tree);
            if let Some(inode) = inode
                && inode
                    .state
                    .lock()
                    .remote()
                    .is_some_and(|remote| remote.version == *old)
            {
                self.version_moved(&inode, new);
            }
        }
        Ok(())
    }

    fn show_confirmed(&self, record: &Record, version: ObjectVersion) {
        let Some(inode) = self.confirmed_inode(record, &version) else {
            // Nobody has looked since the start. What is here of the source is still of use.
            if let Change::Copy { source, .. } = &record.change {
                self.cache.rename_version(source, &version);
            }
            return;
        };
        match &record.change {
            Change::Put { file, .. } => {
                if let Err(error) = self.show_uploaded(&inode, *file, &version) {
                    log::warn!("{} stays in staging: {error}", record.key);
                }
            }
            Change::Copy { attributes, .. } => {
                self.version_moved(&inode, &version);
                inode.state.lock().learn(attributes);
            }
            Change::Folder { .. } | Change::Delete(_) => {}
        }
        self.tree.lock().forget(inode.ino, 1);
    }

    /// Returns the file whose record was confirmed, held in memory, if the tree knows it; tells a folder of
    /// its marker.
    fn confirmed_inode(&self, record: &Record, version: &ObjectVersion) -> Option<Arc<Inode>> {
        let mut tree = self.tree.lock();
        let found = tree.find(record.key.as_str());
        let (parent, entry) = found.map(|(parent, entry)| (parent, entry.into_owned()))?;
        if let Some(dir) = tree.dir_mut(entry.ino) {
            dir.note_marker(version.clone());
            return None;
        }
        // A renamed file that the kernel forgot is still known by its old key.
        let inode = tree.materialise(parent, &entry.spelling)?;
        // Held meanwhile: what leaves memory leaves it with the version it has.
        tree.looked_up(inode.ino);
        Some(inode)
    }

    /// The bytes are the bucket's from now on, and the staged file is a file of the cache that has
    /// yet to move there.
    fn show_uploaded(
        &self,
        inode: &Inode,
        file: crate::disk::FileId,
        version: &ObjectVersion,
    ) -> io::Result<()> {
        let mut state = inode.state.lock();
        let Content::Staged(staged) = &state.content else {
            return Ok(());
        };
        if staged.file.id() != file {
            return Ok(());
        }
        let bytes = reopen(staged.file.file(), false)?;
        let cached = self
            .cache
            .adopt(version, file, bytes, self.staging.path(file));
        state.checked_at = self.clock.instant();
        state.all_known();
        state.content = Content::Remote(Remote {
            version: version.clone(),
            origin: Default::default(),
            file: Some(cached),
        });
        Ok(())
    }

    /// Starts what works behind: the thread that settles closed files, and the task that moves
    /// confirmed files into the cache and removes discarded ones.
    pub fn spawn_release(self: &Arc<Self>) {
        self.spawn_closing();
        let fs = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(RELEASE_EVERY).await;
                let Some(fs) = fs.upgrade() else { return };
                if fs.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let work = move || {
                    fs.keep_touched_folders();
                    fs.carry_out_releases();
                };
                let _ = tokio::task::spawn_blocking(work).await;
            }
        });
    }

    /// Moves confirmed files into the cache and removes discarded ones, after the commits that
    /// released them have been synced: a crash in between finds either the record or the file.
    pub fn carry_out_releases(&self) {
        let released = self.journal().released();
        if released.is_empty() {
            return;
        }
        if let Err(error) = self.journal().sync() {
            log::error!("released files stay in staging: {error}");
            return;
        }
        for file in released {
            let _changes = self.changes.lock();
            // As it stands now: taken back for a writer, or renamed, since.
            let Some(release) = self.journal().due_release(file) else {
                continue;
            };
            match self.carry_out(&release) {
                Ok(()) => {
                    if let Err(error) = self.journal().release_done(&[file]) {
                        log::error!("the journal cannot forget {file}: {error}");
                    }
                }
                Err(error) => log::warn!("{file} stays in staging: {error}"),
            }
        }
    }

    fn carry_out(&self, release: &Released) -> io::Result<()> {
        let path = self.staging.path(release.file);
        let Some(version) = &release.adopt_as else {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let file = match self
            .cache
            .get(version)
            .filter(|file| file.id() == release.file)
        {
            Some(file) => file,
            None => match std::fs::File::open(&path) {
                Ok(file) => self.cache.adopt(version, release.file, file, path),
                // Moved before the last crash, or removed by hand: the bucket has it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        self.cache.settle(&file)
    }

    /// What the journal found at start: a record whose file is missing is looked for in the cache,
    /// where it lies if the process died between the commit and the rename that takes it out.
    pub(super) fn settle_replay(&self, replay: Replay) {
        for record in replay.missing {
            let file = record.change.file();
            let base = record.base.clone();
            let held = base.and_then(|etag| {
                self.cache.get(&ObjectVersion {
                    key: record.key.clone(),
                    etag,
                })
            });
            if held.is_some_and(|held| Some(held.id()) == file) {
                log::info!("{}: unchanged since it was opened", record.key);
                let remove = Edit::Remove {
                    key: record.key.clone(),
                };
                if let Err(error) = self.journal().apply(vec![remove]) {
                    log::error!("{}: {error}", record.key);
                }
                continue;
            }
            match self.take_lost(&record) {
                Ok(()) => {
                    log::info!("{}: its bytes were found in the cache", record.key);
                    continue;
                }
                Err(error) => log::error!("{}: its staged bytes are missing: {error}", record.key),
            }
            let parked = self
                .journal()
                .park(&record.key, record.seq, "staged bytes are missing");
            if let Err(error) = parked {
                log::error!("{}: {error}", record.key);
            }
        }
        self.note_orphans(replay.orphans);
    }

    /// The process died, or the power went, between the commit that made a cache file a staged one
    /// and its rename. The record may not be given up: what it replaced may have gone since.
    fn take_lost(&self, record: &Record) -> FsResult<()> {
        let Change::Put {
            file, attributes, ..
        } = &record.change
        else {
            return Err(FsError::NotFound);
        };
        let path = self.staging.path(*file);
        self.cache.take_lost(*file, &path)?;
        let bytes = std::fs::File::options().read(true).write(true).open(path)?;
        let length = bytes.metadata()?.len();
        let staged = self.staging.received(*file, bytes);
        let change = Change::Put {
            file: *file,
            state: PutState::Closed { length },
            attributes: attributes.clone(),
        };
        let (key, base) = (record.key.clone(), record.base.clone());
        self.apply(vec![Edit::Set { key, base, change }])?;
        self.staging.sync_behind(staged);
        Ok(())
    }

    /// After the unmount no writer is left: whatever is still open is settled.
    pub fn settle_open(self: &Arc<Self>) {
        self.settle_closed();
        // Bound first: closing a version takes the tree's lock.
        let inodes = self.tree.lock().inodes();
        for inode in inodes {
            let open = inode
                .state
                .lock()
                .staged()
                .is_some_and(|staged| staged.open);
            if open {
                inode.state.lock().writers = 0;
                self.close_version(&inode);
            }
        }
    }

    /// After the unmount: settles what is still open and moves released files.
    pub fn shutdown(self: &Arc<Self>) {
        self.stopping.store(true, Ordering::Relaxed);
        self.settle_open();
        self.keep_touched_folders();
        // What was released last is not synced yet, and moves only then.
        if let Err(error) = self.journal().sync() {
            log::error!("released files stay in staging: {error}");
        }
        self.carry_out_releases();
    }
}
