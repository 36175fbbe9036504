//! Room for recording on a disk that fills up. First the clean cache gives way, down to nothing but
//! what is open; then writers are slowed as long as uploads go through, so that the queue can empty
//! the disk as fast as it is filled; then the disk says `ENOSPC`. The journal's reserve lies below
//! all of this, so what was acknowledged can always be synced and uploaded.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fs;
use super::inode::Content;

/// With less than this left beside what is to be written, the cache gives way.
const CACHE_GIVES_WAY_BYTES: u64 = 64 << 20;
/// So much more is freed each time, so that it is not done for every write.
const FREED_AT_ONCE_BYTES: u64 = 64 << 20;
/// With less than this left, writers are slowed.
const SLOW_BYTES: u64 = 256 << 20;
/// The longest that a MiB is held up, on a disk that has nothing left: a session of thirty tracks
/// (4.5 MB/s) goes on even then.
const LONGEST_WAIT_PER_MIB: Duration = Duration::from_millis(100);
/// The longest that one call is held up.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// Uploads that have gone through so lately count as progress. Without it slowing helps nobody.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long to leave the cache alone that had nothing to give.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When something happened that writers depend on.
#[derive(Debug, Default)]
pub(super) struct WriterPace {
    uploaded: Mutex<Option<Instant>>,
    nothing_freed: Mutex<Option<Instant>>,
}

impl WriterPace {
    /// An upload has gone through.
    pub(super) fn note_upload(&self, now: Instant) {
        *self.uploaded.lock() = Some(now);
    }

    fn uploads_progress(&self, now: Instant) -> bool {
        let uploaded = *self.uploaded.lock();
        uploaded.is_some_and(|at| now.saturating_duration_since(at) < PROGRESS)
    }

    fn may_ask(&self, now: Instant) -> bool {
        let nothing_freed = *self.nothing_freed.lock();
        nothing_freed.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN)
    }
}

/// Returns for how long a write of so many bytes is held up with so many left.
fn wait_for(available: u64, bytes: usize) -> Duration {
    let missing = SLOW_BYTES.saturating_sub(available) as f64 / SLOW_BYTES as f64;
    let mib = bytes as f64 / f64::from(1 << 20);
    // Squared: far from the end hardly anything is felt.
    let wait = LONGEST_WAIT_PER_MIB.as_secs_f64() * mib * missing * missing;
    Duration::from_secs_f64(wait.min(LONGEST_WAIT.as_secs_f64()))
}

impl Fs {
    /// Whether something is to be done about the room before so many bytes are written.
    pub(super) fn is_short_of_room(&self, bytes: usize) -> bool {
        let Ok(available) = self.staging.available_bytes() else {
            return false;
        };
        let now = self.clock.instant();
        self.cache_is_to_give_way(available, bytes, now)
            || (available < SLOW_BYTES && self.pace.uploads_progress(now))
    }

    fn cache_is_to_give_way(&self, available: u64, bytes: usize, now: Instant) -> bool {
        available < CACHE_GIVES_WAY_BYTES.saturating_add(bytes as u64)
            && self.cache.stats().bytes > 0
            && self.pace.may_ask(now)
            && self.shares_disk_with_cache()
    }

    fn shares_disk_with_cache(&self) -> bool {
        let disk = |dir: &std::path::Path| dir.metadata().map(|status| status.dev()).ok();
        disk(self.cache.dir()).is_some_and(|cache| Some(cache) == disk(self.staging.dir()))
    }

    /// Gives back the cache entries that inodes hold although nobody has them open, such as those of
    /// files uploaded a moment ago.
    fn let_go_of_idle_files(&self) {
        let inodes = self.tree.lock().inodes();
        let mut idle = Vec::new();
        for inode in inodes {
            let mut state = inode.state.lock();
            if state.gate.handles() > 0 || state.writers > 0 || state.moving {
                continue;
            }
            if let Content::Remote(remote) = &mut state.content {
                idle.extend(remote.file.take());
            }
        }
    }

    /// Makes room for so many bytes if the cache can, and holds the caller up for a moment if the
    /// disk is nearly full and uploads are emptying it.
    pub(super) async fn wait_for_room(self: &Arc<Self>, bytes: usize) {
        let Ok(mut available) = self.staging.available_bytes() else {
            return;
        };
        let now = self.clock.instant();
        if self.cache_is_to_give_way(available, bytes, now) {
            let fs = Arc::clone(self);
            let wanted = (bytes as u64).saturating_add(FREED_AT_ONCE_BYTES);
            let given = tokio::task::spawn_blocking(move || {
                fs.let_go_of_idle_files();
                let freed = fs.cache.give_way(wanted);
                fs.staging.take_reserve();
                freed
            });
            let freed = given.await.unwrap_or(0);
            *self.pace.nothing_freed.lock() = (freed == 0).then_some(now);
            if freed > 0 {
                log::info!("the disk is nearly full: {freed} bytes of the cache gave way");
            }
            available = self.staging.available_bytes().unwrap_or(available);
        }
        if available < SLOW_BYTES && self.pace.uploads_progress(now) {
            tokio::time::sleep(wait_for(available, bytes)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_slowed_little_by_little_and_never_long() {
        let mib = 1 << 20;
        assert_eq!(wait_for(SLOW_BYTES, mib), Duration::ZERO);
        assert!(wait_for(SLOW_BYTES / 2, mib) <= LONGEST_WAIT_PER_MIB / 4);
        assert_eq!(wait_for(0, mib), LONGEST_WAIT_PER_MIB);
        assert!(wait_for(0, 4096) < Duration::from_millis(1));
        assert_eq!(wait_for(0, usize::MAX), LONGEST_WAIT);
    }

    #[test]
    fn only_uploads_that_go_through_slow_writers() {
        let pace = WriterPace::default();
        let now = Instant::now();
        assert!(!pace.uploads_progress(now));
        pace.note_upload(now);
        assert!(pace.uploads_progress(now));
        assert!(!pace.uploads_progress(now + PROGRESS));
    }
}
