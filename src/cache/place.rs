//! Where files lie in the cache directory: made, found, removed; and their rows.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Cache;
use super::file::{CacheFile, Content, Phase, Place};
use super::index::{Index, Row};
use super::ranges::RangeSet;
use super::table::Found;
use crate::disk::{self, FileId};
use crate::store::ObjectVersion;

/// A look-up that keeps meeting removals is answered as a miss.
const LOOKUPS: usize = 8;
/// How often a directory that is being removed is made anew for one file.
const REMAKES: usize = 8;

/// What became of the row of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// The index knows all of it, or there is nothing to know.
    Current,
    /// It is not settled yet and has no row.
    Unsettled,
    Failed,
}

impl Cache {
    pub(super) fn path_of(&self, id: FileId) -> PathBuf {
        self.options.dir.join(id.cache_name())
    }

    /// Returns the ids of all files in the cache directory.
    pub(super) fn cache_files(&self) -> io::Result<Vec<FileId>> {
        let names = fs::read_dir(&self.options.dir)?.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            FileId::from_name(name.to_str()?, "cache")
        });
        Ok(names.collect())
    }

    /// Removes what a killed process was about to rename into place.
    pub(super) fn remove_temporaries(&self) {
        let entries = fs::read_dir(&self.options.dir);
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
            {
                remove_file(&entry.path());
            }
        }
    }

    /// Returns the entry of a version from memory, else as the index knows it.
    pub(super) fn find(&self, version: &ObjectVersion) -> Option<Arc<CacheFile>> {
        for _ in 0..LOOKUPS {
            let removals = match self.table.find(version) {
                Found::File(file) => match self.still_named(file) {
                    Some(file) => {
                        file.content.touch(self.clock.now());
                        return Some(file);
                    }
                    None => continue,
                },
                Found::Leaving => return None,
                Found::Unknown(removals) => removals,
            };
            let row = self.logged(self.index().find(version)).flatten()?;
            let Some(file) = self.load(&row) else {
                self.remove_row(&row);
                return None;
            };
            if let Some(file) = self.table.insert_found(Arc::new(file), removals) {
                file.content.touch(self.clock.now());
                self.trim();
                return Some(file);
            }
        }
        None
    }

    /// Returns an entry whose file has lost its name only if somebody else still reads it.
    fn still_named(&self, file: Arc<CacheFile>) -> Option<Arc<CacheFile>> {
        if file.is_named() {
            return Some(file);
        }
        let (version, id) = (file.version.clone(), file.content.id);
        drop(file);
        match self.table.leave_unused(&version, id) {
            Some(leaving) => {
                if let Some(file) = leaving.file() {
                    self.retire(file);
                }
                None
            }
            None => match self.table.find(&version) {
                Found::File(file) => Some(file),
                _ => None,
            },
        }
    }

    /// Opens the file of a row. It is never made: a missing file, or one of another length, is not
    /// the one whose ranges the row tells.
    fn load(&self, row: &Row) -> Option<CacheFile> {
        let path = self.path_of(row.id);
        let reader = open(&path, false).ok()?;
        let meta = reader.metadata().ok()?;
        if !meta.is_file() || meta.len() != row.size {
            return None;
        }
        let writer = if row.complete {
            None
        } else {
            Some(open(&path, true).ok()?)
        };
        let content = self.content(row.clone(), reader, writer, Place::Cache);
        // The sums have counted it with its row.
        content.state.lock().counted = true;
        Some(self.file_of(row.version.clone(), Arc::new(content)))
    }

    pub(super) fn content(
        &self,
        row: Row,
        reader: File,
        writer: Option<File>,
        place: Place,
    ) -> Content {
        Content::new(row, reader, writer, place, Arc::clone(&self.usage))
    }

    pub(super) fn file_of(&self, version: ObjectVersion, content: Arc<Content>) -> CacheFile {
        CacheFile {
            version,
            content,
            cache: self.this.clone(),
        }
    }

    /// Makes an empty entry: a sparse file of the object's size.
    pub(super) fn make(&self, version: &ObjectVersion, size: u64) -> io::Result<Arc<CacheFile>> {
        self.check_index();
        let id = FileId::random();
        let mut made = self.make_file(id, size);
        for _ in 0..REMAKES {
            if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            disk::create_private_dir(&self.options.dir)?;
            made = self.make_file(id, size);
        }
        let (writer, reader) = made?;
        let now = self.clock.now();
        let row = Row {
            id,
            version: version.clone(),
            size,
            last_modified: None,
            complete: size == 0,
            present: RangeSet::default(),
            synced: false,
            fetched_at: now,
            used_at: now,
        };
        let writer = (size > 0).then_some(writer);
        let content = self.content(row, reader, writer, Place::Cache);
        content.state.lock().dirty = size == 0;
        let made = Arc::new(self.file_of(version.clone(), Arc::new(content)));
        let file = self.table.insert_new(Arc::clone(&made));
        if Arc::ptr_eq(&file, &made) {
            made.content.count(true);
        } else {
            // Another thread was first.
            self.retire(&made);
        }
        drop(made);
        self.trim();
        Ok(file)
    }

    fn make_file(&self, id: FileId, size: u64) -> io::Result<(File, File)> {
        let path = self.path_of(id);
        let writer = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let opened = writer.set_len(size).and_then(|()| open(&path, false));
        match opened {
            Ok(reader) => Ok((writer, reader)),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Brings the row of an entry up to date.
    pub(super) fn save(&self, file: &Arc<CacheFile>) -> Saved {
        let content = &file.content;
        let mut place = content.place.lock();
        match *place {
            Place::Cache => {}
            Place::Staged(_) | Place::Unwanted(_) => return Saved::Unsettled,
            Place::Left => return Saved::Current,
        }
        if !content.is_named() {
            self.leave_place(&mut place, content);
            return Saved::Current;
        }
        let row = {
            let mut state = content.state.lock();
            let touched = content.touched.swap(false, Ordering::Relaxed);
            let changed = std::mem::take(&mut state.dirty) || touched;
            let empty = state.present.bytes() == 0 && state.phase != Phase::Complete;
            let has_no_row = empty || state.has_holes;
            // After the clean end a new range would not be known to be synced.
            if !changed || self.ended.load(Ordering::Relaxed) {
                return Saved::Current;
            }
            (!has_no_row).then(|| content.row(&state))
        };
        let index = self.index();
        let saved = match row {
            Some(row) => index.save(&row),
            // What an earlier row tells was dropped as damaged, or has given way.
            None => index.remove(content.id).map(drop),
        };
        if self.logged(saved).is_some() {
            return Saved::Current;
        }
        content.state.lock().dirty = true;
        Saved::Failed
    }

    /// Brings the rows of all entries in memory up to date.
    pub(super) fn save_changed(&self) {
        for file in self.table.all() {
            self.save(&file);
        }
    }

    /// Lets entries that nobody uses go from memory when there are too many.
    pub(super) fn trim(&self) {
        for file in self.table.surplus() {
            let empty = file.is_empty() || file.content.has_holes();
            match self.save(&file) {
                Saved::Current if !empty => self.table.let_go(file),
                Saved::Unsettled => {}
                // It holds nothing, or nothing that will be found again.
                Saved::Current | Saved::Failed => {
                    let (version, id) = (file.version.clone(), file.content.id);
                    drop(file);
                    if let Some(leaving) = self.table.leave_unused(&version, id) {
                        leaving.file().iter().for_each(|file| self.retire(file));
                    }
                }
            }
        }
    }

    /// Gives up the file of an entry that has left the table; open handles read on.
    pub(super) fn retire(&self, file: &CacheFile) {
        let content = &file.content;
        let mut place = content.place.lock();
        match &*place {
            Place::Cache => {
                remove_file(&self.path_of(content.id));
                self.leave_place(&mut place, content);
            }
            // The bytes are staging's until they are settled.
            Place::Staged(path) => *place = Place::Unwanted(path.clone()),
            Place::Unwanted(_) | Place::Left => {}
        }
    }

    /// Notes that a file is no longer the cache's.
    pub(super) fn leave_place(&self, place: &mut Place, content: &Content) {
        *place = Place::Left;
        content.count(false);
        self.logged(self.index().remove(content.id));
    }

    /// Removes an entry that is not in memory.
    pub(super) fn remove_row(&self, row: &Row) {
        remove_file(&self.path_of(row.id));
        if self.logged(self.index().remove(row.id)) == Some(true) {
            self.usage.leave(row.present.bytes());
        }
    }

    /// See [`Cache::forget`].
    pub(super) fn forget_version(&self, version: &ObjectVersion) {
        let leaving = self.table.leave(version);
        if let Some(file) = leaving.file() {
            self.retire(file);
        }
        if let Some(row) = self.logged(self.index().find(version)).flatten() {
            self.remove_row(&row);
        }
    }

    /// See [`Cache::rename_version`].
    pub(super) fn rename(&self, from: &ObjectVersion, to: &ObjectVersion) {
        if from == to {
            return;
        }
        let Some(file) = self.find(from) else { return };
        self.forget_version(to);
        {
            let mut state = file.content.state.lock();
            state.version = to.clone();
            state.dirty = true;
        }
        let renamed = Arc::new(self.file_of(to.clone(), Arc::clone(&file.content)));
        let _leaving = self.table.leave_file(&file);
        if let Some(former) = self.table.replace(Arc::clone(&renamed)) {
            self.retire(&former);
        }
        // The row is found by its file, so the one of the former version goes with this.
        self.save(&renamed);
    }

    /// Makes directory and index anew if they were removed or are damaged.
    pub(super) fn check_index(&self) {
        if self.index().is_sound() {
            return;
        }
        let _one_at_a_time = self.remaking.lock();
        if self.index().is_sound() {
            return;
        }
        let made = disk::create_private_dir(&self.options.dir).and_then(|()| {
            // What is open in memory is entered again; the rest has no row and goes as orphans.
            Index::erase(&self.options.dir)?;
            Index::open(&self.options.dir, &self.options.source)
        });
        let Some(index) = self.logged(made) else {
            return;
        };
        *self.index.write() = Arc::new(index);
        log::warn!("the cache was emptied or its index damaged: made anew");
        let files = self.table.all();
        for file in &files {
            file.content.count(false);
        }
        self.usage.reset(0, 0);
        for file in &files {
            if *file.content.place.lock() == Place::Cache && file.is_named() {
                file.content.count(true);
                file.content.state.lock().dirty = true;
            }
        }
        drop(files);
        self.swept.store(false, Ordering::Relaxed);
        self.drop_unnamed();
    }

    /// Gives back the space of files that were removed by hand, as far as nobody reads them.
    pub(super) fn drop_unnamed(&self) {
        self.drop_unused(|file| !file.is_named());
    }

    /// Gives up the files in memory that are unwanted and that nobody uses.
    pub(super) fn drop_unused(&self, is_unwanted: impl Fn(&CacheFile) -> bool) {
        let files = self.table.all();
        let unwanted: Vec<_> = files
            .iter()
            .filter(|file| is_unwanted(file))
            .map(|file| (file.version.clone(), file.content.id))
            .collect();
        drop(files);
        for (version, id) in unwanted {
            if let Some(leaving) = self.table.leave_unused(&version, id) {
                leaving.file().iter().for_each(|file| self.retire(file));
            }
        }
    }
}

/// Opens a file of the cache. Never makes one.
pub(super) fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Removes a file; one that is gone already, or whose directory is, is as good.
pub(super) fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}
