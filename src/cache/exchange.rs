//! Files that come from staging and go back there, without a copy where the disk allows.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Cache;
use super::file::{CacheFile, Place};
use super::index::Row;
use super::place::{open, remove_file};
use super::ranges::RangeSet;
use super::table::Found;
use crate::disk::{self, FileId};
use crate::store::ObjectVersion;

impl Cache {
    /// See [`Cache::adopt`].
    pub(super) fn place_adopted(
        &self,
        version: &ObjectVersion,
        id: FileId,
        reader: File,
        path: PathBuf,
    ) -> Arc<CacheFile> {
        if let Found::File(known) = self.table.find(version)
            && known.content.id == id
        {
            return known;
        }
        self.forget_version(version);
        let now = self.clock.now();
        let size = reader.metadata().map_or(0, |meta| meta.len());
        let row = Row {
            id,
            version: version.clone(),
            size,
            last_modified: Some(now),
            complete: true,
            present: RangeSet::whole(size),
            synced: true,
            fetched_at: now,
            used_at: now,
        };
        let content = self.content(row, reader, None, Place::Staged(path));
        content.state.lock().dirty = true;
        let file = Arc::new(self.file_of(version.clone(), Arc::new(content)));
        if let Some(former) = self.table.replace(Arc::clone(&file)) {
            self.retire(&former);
        }
        file
    }

    /// See [`Cache::settle`].
    pub(super) fn settle_file(&self, file: &Arc<CacheFile>) -> io::Result<()> {
        self.check_index();
        let content = &file.content;
        {
            let mut place = content.place.lock();
            let path = match &*place {
                Place::Cache | Place::Left => return Ok(()),
                Place::Unwanted(path) => {
                    remove_file(path);
                    *place = Place::Left;
                    return Ok(());
                }
                Place::Staged(path) => path.clone(),
            };
            // Before the row says that the file is whole.
            content.reader().sync_data()?;
            let to = self.path_of(content.id);
            match rename_into(&path, &to) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    self.settle_copy(file, &path, &to)?;
                    *place = Place::Left;
                    return Ok(());
                }
                renamed => renamed?,
            }
            *place = Place::Cache;
            content.count(true);
        }
        self.save(file);
        self.evict();
        Ok(())
    }

    /// Settles by a copy: the entry goes on with it, open descriptors with the original.
    fn settle_copy(&self, file: &Arc<CacheFile>, from: &Path, to: &Path) -> io::Result<()> {
        let id = file.content.id;
        let mut original = open(from, false)?;
        disk::write_atomic_with(to, |copy| io::copy(&mut original, copy).map(drop))?;
        let row = {
            let state = file.content.state.lock();
            file.content.row(&state)
        };
        let version = row.version.clone();
        let content = self.content(row, open(to, false)?, None, Place::Cache);
        content.state.lock().dirty = true;
        let copy = Arc::new(self.file_of(version, Arc::new(content)));
        copy.content.count(true);
        debug_assert_eq!(copy.content.id, id);
        self.table.replace(Arc::clone(&copy));
        self.save(&copy);
        remove_file(from);
        Ok(())
    }

    /// See [`Cache::take`].
    pub(super) fn take_file(&self, file: &Arc<CacheFile>, to: &Path) -> io::Result<()> {
        if !file.is_complete() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let content = &file.content;
        let mut place = content.place.lock();
        match &*place {
            // The row goes after the name: one without a file is dropped when it is met.
            Place::Cache => fs::rename(self.path_of(content.id), to)?,
            // It must be there still, since the caller relies on its name.
            Place::Staged(path) | Place::Unwanted(path) if path == to => {
                fs::symlink_metadata(to).map(drop)?;
            }
            Place::Staged(path) | Place::Unwanted(path) => fs::rename(path, to)?,
            Place::Left => return Err(io::ErrorKind::NotFound.into()),
        }
        let _leaving = self.table.leave_file(file);
        self.leave_place(&mut place, content);
        Ok(())
    }

    /// See [`Cache::take_lost`].
    pub(super) fn take_lost_file(&self, id: FileId, to: &Path) -> io::Result<()> {
        let from = self.path_of(id);
        match fs::rename(&from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut original = open(&from, false)?;
                disk::write_atomic_with(to, |copy| io::copy(&mut original, copy).map(drop))?;
                remove_file(&from);
            }
            renamed => renamed?,
        }
        self.logged(self.index().remove(id));
        if let Some((files, bytes)) = self.logged(self.index().totals()) {
            self.usage.reset(files, bytes);
        }
        Ok(())
    }
}

/// Renames into a directory that is made anew if it is gone.
fn rename_into(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = to.parent() {
                disk::create_private_dir(dir)?;
            }
            fs::rename(from, to)
        }
        renamed => renamed,
    }
}
