//! What is done behind: writing to the index, cleaning up hourly, exporting, and the clean end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Cache;

/// A killed process loses what it fetched since the last round.
const ROUND: Duration = Duration::from_secs(5);
/// Between two cleanups.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);
/// How long the clean end may spend on syncing partial files; what is left is dropped.
pub(super) const END_SYNC_TIME: Duration = Duration::from_secs(1);
/// Partial files that were not synced, looked at at once.
const UNSYNCED_PAGE: u32 = 256;
/// Exporting takes at most this part of the time.
const EXPORT_PART: u32 = 20;

/// The housekeeping thread, seen from the others.
#[derive(Debug, Default)]
pub(super) struct Behind {
    state: Mutex<State>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    ended: bool,
    /// There is something to write before the next round.
    due: bool,
}

impl Behind {
    pub(super) fn ring(&self) {
        self.state.lock().due = true;
        self.bell.notify_all();
    }

    /// Waits for the next round; whether there is one.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        if !state.due && !state.ended {
            self.bell.wait_for(&mut state, ROUND);
        }
        state.due = false;
        !state.ended
    }
}

impl Cache {
    /// See [`Cache::spawn_housekeeping`].
    pub(super) fn start_behind(self: &Arc<Self>, reachable: Arc<dyn Fn() -> bool + Send + Sync>) {
        let mut thread = self.behind.thread.lock();
        if thread.is_some() {
            return;
        }
        let cache = Arc::downgrade(self);
        let spawned = std::thread::Builder::new()
            .name("cache".to_owned())
            .spawn(move || keep_house(&cache, &*reachable));
        match spawned {
            Ok(handle) => *thread = Some(handle),
            Err(error) => log::error!("the cache is not cleaned up: no thread: {error}"),
        }
    }

    /// One round of housekeeping.
    pub(super) fn round(&self) {
        self.check_index();
        self.write_listings();
        self.logged(self.index().remove_replaced());
        self.table.touch_used(self.clock.now());
        self.save_changed();
        self.drop_unnamed();
        self.trim();
        self.evict();
        self.logged(self.index().checkpoint());
    }

    /// See [`Cache::shutdown`].
    pub(super) fn end_behind(&self, sync_time: Duration) {
        {
            self.behind.state.lock().ended = true;
        }
        self.behind.bell.notify_all();
        let thread = self.behind.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the cache's housekeeping thread has panicked");
        }
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        self.round();
        for file in self.table.all() {
            if file.is_empty() || file.content.has_holes() {
                self.forget_version(&file.version);
            }
        }
        // From here on nothing is recorded, so what is synced below is all that the index tells.
        self.ended.store(true, Ordering::Relaxed);
        self.sync_partial(sync_time);
        self.export();
        self.logged(self.index().end_run());
    }

    /// Syncs the partial files that the index tells of, and drops those for which time is short.
    fn sync_partial(&self, sync_time: Duration) {
        let begun = Instant::now();
        let index = self.index();
        while begun.elapsed() < sync_time {
            let ids = self
                .logged(index.unsynced(UNSYNCED_PAGE))
                .unwrap_or_default();
            if ids.is_empty() {
                return;
            }
            for id in ids {
                let synced =
                    std::fs::File::open(self.path_of(id)).and_then(|file| file.sync_data());
                let noted = match synced {
                    Ok(()) => index.set_synced(id),
                    Err(_) => index.remove(id).map(drop),
                };
                if self.logged(noted).is_none() || begun.elapsed() >= sync_time {
                    break;
                }
            }
        }
        self.logged(index.drop_unsynced());
    }
}

fn keep_house(cache: &Weak<Cache>, reachable: &(dyn Fn() -> bool + Send + Sync)) {
    let mut cleaned_up: Option<Instant> = None;
    let mut next_export = Instant::now();
    loop {
        let Some(cache) = cache.upgrade() else { return };
        let now = cache.clock.instant();
        if cleaned_up.is_none_or(|at| now.duration_since(at) >= CLEANUP_INTERVAL) {
            let report = cache.clean_up(reachable());
            let level = match report.freed_bytes {
                0 => log::Level::Debug,
                _ => log::Level::Info,
            };
            log::log!(
                level,
                "cache: {} expired, {} evicted, {} without an entry; {} bytes freed",
                report.expired_files,
                report.evicted_files,
                report.orphans,
                report.freed_bytes
            );
            cleaned_up = Some(now);
        }
        cache.round();
        if next_export <= Instant::now() {
            let begun = Instant::now();
            cache.export();
            next_export = Instant::now() + (begun.elapsed() * EXPORT_PART).max(ROUND);
        }
        if !cache.behind.wait() {
            return;
        }
    }
}
