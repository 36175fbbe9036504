//! What is pinned, and bringing whole files at low priority.
//!
//! A pin is a path: all versions of its keys, and of those below it, stay when others are evicted or
//! expire. Which files there are to bring, and which version of each, is `fs`'s knowledge.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::file::{CacheFile, Phase};
use super::index::Row;
use super::{Cache, CacheError, Entry, ReadStream};
use crate::disk;
use crate::store::{ETag, Key, ObjectVersion};

/// How often one who fills a file looks whether its requests have been given up: the end of a
/// request is told at once, that nothing follows it is not.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The most versions of one key that are looked at; others go with the next look.
const MOST_VERSIONS: u32 = 64;
/// Rows that are read at once.
const PAGE_ROWS: u32 = 1000;

/// The paths that are pinned, folded and without a slash at their ends.
#[derive(Debug, Default)]
pub(super) struct Pinned(RwLock<HashSet<String>>);

impl Pinned {
    /// Whether the key, or a folder that it lies in, is pinned.
    pub(super) fn holds(&self, key: &Key) -> bool {
        let paths = self.0.read();
        if paths.is_empty() {
            return false;
        }
        let key = key.folded();
        let mut path = key.as_str();
        loop {
            if paths.contains(path) {
                return true;
            }
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => return false,
            }
        }
    }
}

/// Why so much cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The budget of the cache is smaller than all that is pinned.
    Budget {
        /// The most that the cache may hold.
        max_bytes: u64,
    },
    /// The disk is smaller.
    Disk {
        /// What it has for the cache, after all that is not pinned has gone.
        available: u64,
    },
}

impl Cache {
    /// Sets what is pinned: paths, folded and without a slash at their ends.
    pub fn set_pinned(&self, paths: impl IntoIterator<Item = String>) {
        *self.pinned.0.write() = paths.into_iter().collect();
    }

    /// Checks that so many bytes can be held for good, `held_bytes` of which are here already.
    ///
    /// # Errors
    /// What is too small for them.
    pub fn check_room(&self, pinned_bytes: u64, held_bytes: u64) -> Result<(), NoRoom> {
        if pinned_bytes > self.max_bytes {
            let max_bytes = self.max_bytes;
            return Err(NoRoom::Budget { max_bytes });
        }
        // A disk that cannot be asked is not known to be full.
        let Ok(space) = disk::disk_space(&self.options.dir) else {
            return Ok(());
        };
        let evictable = self.usage.bytes().saturating_sub(held_bytes);
        let available = (space.available + evictable).saturating_sub(self.options.min_free_bytes);
        match pinned_bytes.saturating_sub(held_bytes) > available {
            true => Err(NoRoom::Disk { available }),
            false => Ok(()),
        }
    }

    /// Returns what is held below a path, or of all if it is empty; ordered by key. Waits for the
    /// disk.
    pub fn entries(&self, path: &str) -> Vec<Entry> {
        self.save_changed();
        let index = self.index();
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = index.after(after.as_ref(), PAGE_ROWS);
            let page = self.logged(page).unwrap_or_default();
            let Some(last) = page.last() else { break };
            after = Some(last.version.clone());
            rows.extend(page);
        }
        // What has just been uploaded has no row yet.
        rows.extend(self.table.all().iter().map(|file| {
            let state = file.content.state.lock();
            file.content.row(&state)
        }));
        let path = Key::new(path);
        let is_within = |row: &Row| {
            let above = path.as_ref();
            row.present.bytes() > 0 && above.is_none_or(|path| row.version.key.is_at_or_below(path))
        };
        let entries = rows.into_iter().filter(is_within).map(|row| Entry {
            pinned: self.pinned.holds(&row.version.key),
            held_bytes: row.present.bytes(),
            size: row.size,
            complete: row.complete,
            used_at: row.used_at,
            version: row.version,
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_by(|a, b| a.version.cmp(&b.version));
        entries.dedup_by(|a, b| a.version == b.version);
        entries
    }

    /// Removes what is held of other versions of this key, unless it is open: a pin keeps it from
    /// being evicted, and nobody asks for it any more.
    pub fn drop_superseded(&self, current: &ObjectVersion) {
        let before_all = ObjectVersion {
            key: current.key.clone(),
            etag: ETag::new(""),
        };
        let rows = self.index().after(Some(&before_all), MOST_VERSIONS);
        for row in self.logged(rows).unwrap_or_default() {
            let version = &row.version;
            if version.key == current.key && version.etag != current.etag {
                self.remove_unless_used(&row);
            }
        }
    }
}

impl CacheFile {
    /// Brings all bytes when nobody else needs the line, and waits until the file is whole and
    /// verified. Dropping the future stops it.
    ///
    /// # Errors
    /// Why the bytes do not come.
    pub async fn fill_behind(self: &Arc<Self>) -> Result<(), CacheError> {
        let stream = ReadStream::default();
        stream.0.state.lock().whole = true;
        loop {
            let progress = self.content.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let cache = self.cache.upgrade().ok_or(CacheError::Cancelled)?;
            let (phase, gap) = {
                let state = self.content.state.lock();
                (state.phase, state.present.first_missing(0..self.size()))
            };
            match (phase, gap) {
                (Phase::Complete, _) => return Ok(()),
                (Phase::Damaged, _) => return Err(CacheError::Damaged),
                (Phase::Verifying, _) => {}
                (Phase::Filling, None) => self.verify_if_due(&cache),
                (Phase::Filling, Some(gap)) => {
                    let given_up = !stream.0.state.lock().whole;
                    if given_up {
                        // Asked for as a reader would, the bytes come, or it is known why they do
                        // not.
                        self.demand(&stream, gap.start..gap.start + 1).await?;
                        stream.0.state.lock().whole = true;
                    }
                    cache.want(self, &stream.0);
                }
            }
            drop(cache);
            let _ = tokio::time::timeout(LOOK_AGAIN, progress).await;
        }
    }
}
