//! Keeping the cache to its budget: what it holds, and what goes first.
//!
//! Entries in use (open, or being filled) are never taken from under their readers, nor are pinned
//! ones; of the others the least recently used go first, and those last of which only what a scan
//! looks at is here. If that is not enough, files in use that are not whole give up what they got first
//! (`punch`); one that would take most of the budget does so before any other file goes. A request reserves
//! its bytes before it is sent, so that the bytes on disk stay within the budget while many requests
//! are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::file::{CacheFile, Place};
use super::index::{Cursor, Row, to_ms};
use super::schedule::Purpose;
use super::{Cache, CleanupReport};
use crate::disk;

/// The largest budget that is taken unasked.
const DEFAULT_MAX_BYTES: u64 = 50 << 30;
/// The part of the disk that is taken unasked.
const DEFAULT_DISK_PART: u64 = 5;
/// Each eviction frees this part of the budget beyond what is needed, so that it is not repeated
/// for each request.
const SLACK_PART: u64 = 50;
/// The slack is no more than this.
const MAX_SLACK_BYTES: u64 = 256 << 20;
/// A partial entry of no more than this is what a scan has looked at: bringing it again costs two
/// round trips for each file of a library, and keeping it next to nothing.
const LOOK_BYTES: u64 = 1 << 20;
/// All of these together are kept longer than others up to this part of the budget.
const LOOKS_PART: u64 = 8;
/// Rows looked at at once.
const PAGE_ROWS: u32 = 256;
/// How long a request waits for files that can go once they are verified. Longer would be heard.
const VERIFICATION_WAIT: Duration = Duration::from_secs(1);
/// Before all others in an order by time.
const START: Cursor = (i64::MIN, None);

/// How many bytes and files the cache holds and is about to hold.
#[derive(Debug, Default)]
pub(super) struct Usage {
    bytes: AtomicU64,
    files: AtomicU64,
    reserved: AtomicU64,
}

impl Usage {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        saturating_sub(&self.bytes, bytes);
    }

    /// Counts a file that holds so many bytes.
    pub(super) fn enter(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.add(bytes);
    }

    /// Counts a file no longer.
    pub(super) fn leave(&self, bytes: u64) {
        saturating_sub(&self.files, 1);
        self.sub(bytes);
    }

    /// Begins anew with what an index holds.
    pub(super) fn reset(&self, files: u64, bytes: u64) {
        self.files.store(files, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// The sums are advisory: after an index was made anew an entry may leave that never entered.
fn saturating_sub(sum: &AtomicU64, less: u64) {
    let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
        Some(sum.saturating_sub(less))
    });
}

/// Bytes that a request will bring.
#[derive(Debug)]
pub(super) struct Reserved {
    usage: Arc<Usage>,
    bytes: u64,
}

impl Reserved {
    /// So many of them are held now.
    pub(super) fn arrived(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        saturating_sub(&self.usage.reserved, bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.arrived(self.bytes);
    }
}

/// Returns the budget that is taken when none is given.
pub(super) fn default_max_bytes(disk_bytes: u64) -> u64 {
    DEFAULT_MAX_BYTES.min(disk_bytes / DEFAULT_DISK_PART)
}

impl Cache {
    /// Counts bytes that a request is about to bring.
    pub(super) fn reserve(&self, bytes: u64) -> Reserved {
        self.usage.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reserved {
            usage: Arc::clone(&self.usage),
            bytes,
        }
    }

    /// Makes room for what is reserved for a file; whether there is. Who needs something waits for files
    /// that can go as soon as they are verified, but not for long; `ahead` says that nobody does yet.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        file: &Arc<CacheFile>,
        ahead: bool,
        purpose: Purpose,
    ) -> bool {
        let begun = Instant::now();
        while self.excess_bytes() > 0 {
            let verified = self.verified.notified();
            tokio::pin!(verified);
            verified.as_mut().enable();
            let (cache, file) = (Arc::clone(self), Arc::clone(file));
            let made = tokio::task::spawn_blocking(move || cache.make_room_now(&file, purpose));
            let left = VERIFICATION_WAIT.saturating_sub(begun.elapsed());
            match made.await {
                Ok(true) => return true,
                Ok(false) if !ahead && self.table.is_verifying_unused() => {
                    if tokio::time::timeout(left, verified).await.is_err() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn make_room_now(&self, file: &CacheFile, purpose: Purpose) -> bool {
        let _one_at_a_time = self.evicting.lock();
        let is_needed_soon = purpose != Purpose::Background;
        // All of it can never be here, or nothing else could.
        let is_large = file.size() > self.max_bytes / 2;
        if is_large && is_needed_soon {
            self.punch(file, self.wanted_bytes());
        }
        if !is_large || is_needed_soon {
            self.evict_wanted();
        }
        if is_needed_soon {
            self.punch_files(self.wanted_bytes());
        }
        self.excess_bytes() == 0
    }

    /// Frees some bytes although the disk claims to have had more.
    pub(super) async fn make_room_on_full_disk(self: &Arc<Self>) {
        let cache = Arc::clone(self);
        let evicted = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = cache.evicting.lock();
            let wanted = cache.slack_bytes().max(1);
            if cache.evict_bytes(wanted).1 < wanted {
                cache.punch_files(wanted);
            }
        });
        let _ = evicted.await;
    }

    /// Returns how many bytes too many there are, or will be with what is reserved.
    fn excess_bytes(&self) -> u64 {
        let reserved = self.usage.reserved.load(Ordering::Relaxed);
        let held = self.usage.bytes() + reserved;
        let over_budget = held.saturating_sub(self.max_bytes);
        // A disk that cannot be asked is not known to be full.
        let under_floor = disk::disk_space(&self.options.dir).map_or(0, |space| {
            (self.options.min_free_bytes + reserved).saturating_sub(space.available)
        });
        over_budget.max(under_floor)
    }

    /// Returns how many bytes can come before anything has to make way for them. What is under way
    /// is not counted.
    pub fn spare_bytes(&self) -> u64 {
        let in_budget = self.max_bytes.saturating_sub(self.usage.bytes());
        // A disk that cannot be asked is not known to be full.
        let on_disk = disk::disk_space(&self.options.dir).map_or(u64::MAX, |space| {
            space.available.saturating_sub(self.options.min_free_bytes)
        });
        in_budget.min(on_disk)
    }

    fn slack_bytes(&self) -> u64 {
        (self.max_bytes / SLACK_PART).min(MAX_SLACK_BYTES)
    }

    /// Removes entries until there is room; returns how many files and bytes went.
    pub(super) fn evict(&self) -> (u64, u64) {
        // Held across the disk's work: another who finds no room waits for what we free.
        let _one_at_a_time = self.evicting.lock();
        self.evict_wanted()
    }

    /// Returns how many bytes are to go, if any.
    fn wanted_bytes(&self) -> u64 {
        match self.excess_bytes() {
            0 => 0,
            excess => excess + self.slack_bytes(),
        }
    }

    fn evict_wanted(&self) -> (u64, u64) {
        match self.wanted_bytes() {
            0 => (0, 0),
            wanted => self.evict_bytes(wanted),
        }
    }

    /// See [`Cache::give_way`].
    pub(super) fn free_bytes(&self, wanted: u64) -> u64 {
        let _one_at_a_time = self.evicting.lock();
        let mut freed = self.evict_bytes(wanted).1;
        if freed < wanted {
            freed += self.evict_unrecorded(wanted - freed);
        }
        if freed < wanted {
            freed += self.punch_files(wanted - freed);
        }
        freed
    }

    /// Removes entries that have no row: on a full disk none can be written.
    fn evict_unrecorded(&self, wanted: u64) -> u64 {
        let files = self.table.all();
        let held =
            |file: &Arc<CacheFile>| (file.version().clone(), file.content.id, file.held_bytes());
        // What is still staging's has to be settled first.
        let settled = |file: &&Arc<CacheFile>| *file.content.place.lock() == Place::Cache;
        let candidates: Vec<_> = files.iter().filter(settled).map(held).collect();
        drop(files);
        let mut freed = 0;
        for (version, id, bytes) in candidates {
            if freed >= wanted {
                break;
            }
            if self.pinned.holds(&version.key) {
                continue;
            }
            if let Some(leaving) = self.table.leave_unused(&version, id) {
                leaving.file().iter().for_each(|file| self.retire(file));
                freed += bytes;
            }
        }
        freed
    }

    fn evict_bytes(&self, wanted: u64) -> (u64, u64) {
        // No row tells of these.
        self.drop_unused(|file| file.content.has_holes());
        self.save_changed();
        let looks = self.logged(self.index().bytes_of_looks(LOOK_BYTES));
        let (mut files, mut bytes) = match looks {
            Some(looks) if looks <= self.max_bytes / LOOKS_PART => {
                self.evict_rows(wanted, Some(LOOK_BYTES))
            }
            _ => (0, 0),
        };
        if bytes < wanted {
            let (more_files, more_bytes) = self.evict_rows(wanted - bytes, None);
            files += more_files;
            bytes += more_bytes;
        }
        log::debug!("cache: evicted {files} files, {bytes} bytes");
        (files, bytes)
    }

    /// Removes entries, the least recently used first, without those that are spared; returns how
    /// many files and bytes went.
    fn evict_rows(&self, wanted: u64, spared: Option<u64>) -> (u64, u64) {
        let index = self.index();
        let (mut files, mut bytes) = (0, 0);
        let mut cursor = START;
        while bytes < wanted {
            let page = self
                .logged(index.least_used(cursor, spared, PAGE_ROWS))
                .unwrap_or_default();
            let Some(last) = page.last() else { break };
            cursor = (to_ms(last.used_at), Some(last.id));
            for row in &page {
                if bytes >= wanted {
                    break;
                }
                if self.remove_unused(row) {
                    files += 1;
                    bytes += row.present.bytes();
                }
            }
        }
        (files, bytes)
    }

    /// Removes what is older than the TTL and not in use; returns how many files and bytes went.
    fn expire(&self, now: SystemTime) -> (u64, u64) {
        let index = self.index();
        let (mut files, mut bytes) = (0, 0);
        let mut cursor = START;
        let Some(before) = now.checked_sub(self.options.ttl) else {
            return (0, 0);
        };
        loop {
            let page = index.fetched_before(before, cursor, PAGE_ROWS);
            let page = self.logged(page).unwrap_or_default();
            let Some(last) = page.last() else {
                return (files, bytes);
            };
            cursor = (to_ms(last.fetched_at), Some(last.id));
            for row in page.iter().filter(|row| self.remove_unused(row)) {
                files += 1;
                bytes += row.present.bytes();
            }
        }
    }

    /// Removes the entry of a row unless it is in use or pinned; whether it did.
    fn remove_unused(&self, row: &Row) -> bool {
        !self.pinned.holds(&row.version.key) && self.remove_unless_used(row)
    }

    /// Removes the entry of a row unless it is in use; whether it did.
    pub(super) fn remove_unless_used(&self, row: &Row) -> bool {
        let Some(leaving) = self.table.leave_unused(&row.version, row.id) else {
            return false;
        };
        match leaving.file() {
            Some(file) => self.retire(file),
            None => self.remove_row(row),
        }
        true
    }

    /// See [`Cache::cleanup`].
    pub(super) fn clean_up(&self, reachable: bool) -> CleanupReport {
        let mut report = CleanupReport::default();
        self.check_index();
        self.drop_unnamed();
        report.orphans = self.sweep_once();
        self.save_changed();
        if reachable {
            let (files, bytes) = self.expire(self.clock.now());
            report.expired_files = files;
            report.freed_bytes += bytes;
        }
        let (files, bytes) = self.evict();
        report.evicted_files = files;
        report.freed_bytes += bytes;
        report
    }

    /// Removes the files that no entry knows, once: later ones are removed as they arise.
    fn sweep_once(&self) -> u64 {
        if self.swept.swap(true, Ordering::Relaxed) {
            return 0;
        }
        self.remove_temporaries();
        // In this order: a file that is made later is not in the directory as we read it; one that
        // leaves memory has its row by then.
        let Ok(ids) = self.cache_files() else {
            return 0;
        };
        let known = self.table.ids();
        let index = self.index();
        let mut orphans = 0;
        for id in ids.into_iter().filter(|id| !known.contains(id)) {
            if matches!(index.has_file(id), Ok(false))
                && std::fs::remove_file(self.path_of(id)).is_ok()
            {
                orphans += 1;
            }
        }
        orphans
    }
}
