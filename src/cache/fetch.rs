//! Asking the bucket for missing bytes: one request per missing run, shared by all who wait.
//!
//! A [`Fetch`] is one range under way. It is registered under the lock of the file's ranges before
//! its request starts, so that nobody asks for the same bytes again; what arrives is written to
//! the sparse file and becomes readable batch by batch. Whoever needs bytes waits for the file's
//! bell and looks again. `transfer` moves the bytes; this file decides what is asked for, and when
//! it is given up.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::file::{CacheFile, ContentState, Phase};
use super::read_ahead::{
    FIRST_FETCH_BYTES, LEAST_FETCH_BYTES, ReadStream, SMALL_FILE_BYTES, Stream,
};
use super::{Cache, CacheError, DamageObserver, InfoObserver};
use crate::store::ObjectStore;

/// Requests for bytes that nobody waits for yet, of all files together. With 4 MiB each they fill
/// a line of 60 ms and 32 connections of 50 MB/s.
const AHEAD_FETCHES: usize = 32;
/// First requests of files being opened; beyond it a read asks for what it needs.
const FIRST_FETCHES: usize = 64;
/// Requests for the rest of a file that is read in order; few, for a reader elsewhere comes first.
const BACKGROUND_FETCHES: usize = 2;
/// Requests at once for one whole file that somebody waits for.
const FILL_FETCHES: usize = 8;
/// Requests at once for one read; it is at most 1 MiB long.
const READ_FETCHES: usize = 8;
/// The most one request asks for: what a connection of 50 MB/s brings in 80 ms.
const MOST_FETCH_BYTES: u64 = 4 << 20;
/// A request takes about so long on a slow line, so that nobody waits long for its last byte.
const FETCH_TIME: Duration = Duration::from_secs(1);

/// A range of one file that was asked for.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) range: Range<u64>,
    /// Asked for before anybody needed it, so it may be given up.
    ahead: bool,
    /// How it ended.
    outcome: OnceLock<Result<(), CacheError>>,
    /// Who would miss it; changes under the lock of the file's ranges only.
    waiters: AtomicUsize,
}

/// One who waits for a fetch.
struct Waiting(Arc<Fetch>);

impl Waiting {
    /// To be called under the lock of the file's ranges.
    fn join(fetch: &Arc<Fetch>) -> Waiting {
        fetch.waiters.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(fetch))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What fetches need beside their file.
pub(super) struct Fetcher {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) runtime: Handle,
    /// How long a transfer may stand still.
    pub(super) deadline: Duration,
    pub(super) observer: Mutex<Option<Arc<InfoObserver>>>,
    pub(super) damage_observer: Mutex<Option<Arc<DamageObserver>>>,
    ahead: Arc<Semaphore>,
    first: Arc<Semaphore>,
    /// Bytes a second that one connection brings, lately.
    rate: AtomicU64,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    pub(super) fn new(store: Arc<dyn ObjectStore>, runtime: Handle, deadline: Duration) -> Fetcher {
        Fetcher {
            store,
            runtime,
            deadline,
            observer: Mutex::new(None),
            damage_observer: Mutex::new(None),
            ahead: Arc::new(Semaphore::new(AHEAD_FETCHES)),
            first: Arc::new(Semaphore::new(FIRST_FETCHES)),
            rate: AtomicU64::new(MOST_FETCH_BYTES),
        }
    }

    /// Takes note of what one connection brought.
    pub(super) fn note_rate(&self, bytes: u64, time: Duration) {
        let seen = (bytes as f64 / time.as_secs_f64().max(1e-3)) as u64;
        let rate = self.rate.load(Ordering::Relaxed);
        // A race between two loses one measurement of many.
        self.rate.store(rate / 4 * 3 + seen / 4, Ordering::Relaxed);
    }

    /// Returns how much one request asks for when `wanted` bytes are: several requests share it,
    /// each large enough to be worth a round trip and small enough for the line.
    fn segment_bytes(&self, wanted: u64) -> u64 {
        let line = self.rate.load(Ordering::Relaxed) * FETCH_TIME.as_secs();
        (wanted / 4)
            .min(line)
            .clamp(LEAST_FETCH_BYTES, MOST_FETCH_BYTES)
    }
}

/// Whose wish a fetch is.
#[derive(Default)]
struct Wish {
    /// Is asked for its next wish when the fetch has ended.
    stream: Weak<Stream>,
    /// Ends when the stream no longer wants it; `None` when somebody waits for it.
    run: Option<watch::Receiver<()>>,
    /// Its place among those of its kind.
    permit: Option<OwnedSemaphorePermit>,
}

impl CacheFile {
    /// Starts the first request of a file that was opened.
    pub(super) fn ask_first(self: &Arc<Self>, stream: &ReadStream) {
        let Some(cache) = self.cache.upgrade() else {
            return;
        };
        let Ok(permit) = Arc::clone(&cache.fetcher.first).try_acquire_owned() else {
            return;
        };
        let first = match self.size() {
            size if size <= SMALL_FILE_BYTES => 0..size,
            _ => 0..FIRST_FETCH_BYTES,
        };
        let mut state = self.content.state.lock();
        let fetch = (state.phase == Phase::Filling)
            .then(|| state.first_gap(first))
            .flatten()
            .map(|gap| register(&mut state, gap, false));
        drop(state);
        match fetch {
            Some(fetch) => {
                let wish = Wish {
                    stream: Arc::downgrade(&stream.0),
                    run: None,
                    permit: Some(permit),
                };
                self.start(&cache, fetch, wish);
            }
            None => self.verify_if_due(&cache),
        }
    }

    /// Takes note of a read and starts what is wanted ahead.
    pub(super) fn advance(self: &Arc<Self>, stream: &ReadStream, range: Range<u64>) {
        stream.0.state.lock().on_read(range, self.size());
        if let Some(cache) = self.cache.upgrade() {
            self.pump(&cache, &stream.0);
        }
    }

    /// Waits for the bytes of a read.
    pub(super) async fn demand(
        self: &Arc<Self>,
        stream: &ReadStream,
        range: Range<u64>,
    ) -> Result<(), CacheError> {
        let cache = self.cache.upgrade().ok_or(CacheError::Cancelled)?;
        stream.0.state.lock().on_read(range.clone(), self.size());
        // What the read needs is registered first, so that the read-ahead leaves it out.
        let mut waiting = Vec::new();
        let least = range.start.saturating_add(LEAST_FETCH_BYTES);
        let need = Need {
            ask: range.start..range.end.max(least).min(self.size()),
            range,
            segment: MOST_FETCH_BYTES,
            fetches: READ_FETCHES,
        };
        let stream = &stream.0;
        let there = self.look(&cache, &need, &mut waiting, Some(stream))?;
        self.pump(&cache, stream);
        if !there {
            self.wait_for(&cache, &need, waiting, Some(stream)).await?;
        }
        Ok(())
    }

    /// Waits for all bytes; they may still be unverified.
    pub(super) async fn demand_all(self: &Arc<Self>) -> Result<(), CacheError> {
        let cache = self.cache.upgrade().ok_or(CacheError::Cancelled)?;
        let need = Need {
            range: 0..self.size(),
            ask: 0..self.size(),
            segment: cache.fetcher.segment_bytes(self.size()),
            fetches: FILL_FETCHES,
        };
        self.wait_for(&cache, &need, Vec::new(), None).await?;
        self.verify_if_due(&cache);
        Ok(())
    }

    async fn wait_for(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        need: &Need,
        mut waiting: Vec<Waiting>,
        stream: Option<&Arc<Stream>>,
    ) -> Result<(), CacheError> {
        loop {
            let progress = self.content.progress.notified();
            tokio::pin!(progress);
            // Listens before it looks, so that no bell is missed between the two.
            progress.as_mut().enable();
            if self.look(cache, need, &mut waiting, stream)? {
                return Ok(());
            }
            progress.await;
        }
    }

    /// Whether all bytes needed are there. If not, joins the fetches that will bring them and
    /// starts those that are missing. Fails if one that was waited for has failed.
    fn look(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        need: &Need,
        waiting: &mut Vec<Waiting>,
        stream: Option<&Arc<Stream>>,
    ) -> Result<bool, CacheError> {
        let mut started = Vec::new();
        {
            let mut state = self.content.state.lock();
            if state.phase == Phase::Damaged {
                return Err(CacheError::Damaged);
            }
            if state.present.contains(need.range.clone()) {
                return Ok(true);
            }
            for Waiting(fetch) in waiting.iter() {
                match fetch.outcome.get() {
                    // Read-ahead that was given up for want of room is asked for by us instead.
                    Some(Err(CacheError::Cancelled)) if fetch.ahead => {}
                    Some(Err(error))
                        if state.present.first_missing(fetch.range.clone()).is_some() =>
                    {
                        return Err(error.share());
                    }
                    _ => {}
                }
            }
            waiting.retain(|Waiting(fetch)| fetch.outcome.get().is_none());
            for fetch in &state.fetches {
                if overlaps(&fetch.range, &need.range)
                    && !waiting
                        .iter()
                        .any(|Waiting(known)| Arc::ptr_eq(known, fetch))
                {
                    waiting.push(Waiting::join(fetch));
                }
            }
            while waiting.len() < need.fetches {
                let gap = state.first_gap(need.ask.clone());
                let Some(gap) = gap.filter(|gap| gap.start < need.range.end) else {
                    break;
                };
                let fetch = register(&mut state, first_part(gap, need.segment), false);
                waiting.push(Waiting::join(&fetch));
                started.push(fetch);
            }
        }
        for fetch in started {
            let wish = Wish {
                stream: stream.map_or_else(Weak::new, Arc::downgrade),
                ..Wish::default()
            };
            self.start(cache, fetch, wish);
        }
        Ok(false)
    }

    /// Starts what a stream wants ahead, as far as there is room among the requests.
    fn pump(self: &Arc<Self>, cache: &Arc<Cache>, stream: &Arc<Stream>) {
        while let Ok(permit) = Arc::clone(&cache.fetcher.ahead).try_acquire_owned() {
            let Some((fetch, run)) = self.next_ahead(cache, stream) else {
                return;
            };
            let wish = Wish {
                stream: Arc::downgrade(stream),
                run: Some(run),
                permit: Some(permit),
            };
            self.start(cache, fetch, wish);
        }
    }

    fn next_ahead(
        &self,
        cache: &Cache,
        stream: &Stream,
    ) -> Option<(Arc<Fetch>, watch::Receiver<()>)> {
        let mut wishes = stream.state.lock();
        let mut state = self.content.state.lock();
        if state.phase != Phase::Filling {
            return None;
        }
        // The stream may have been another file's before, when its handle's file was replaced.
        let target = wishes.target.start..wishes.target.end.min(self.size());
        let (gap, wanted) = match state.first_gap(target.clone()) {
            Some(gap) => (gap, target.end.saturating_sub(target.start)),
            None if wishes.whole && wishes.in_flight < BACKGROUND_FETCHES => {
                (state.first_gap(0..self.size())?, self.size())
            }
            None => return None,
        };
        let part = first_part(gap, cache.fetcher.segment_bytes(wanted));
        let fetch = register(&mut state, part, true);
        wishes.in_flight += 1;
        Some((fetch, wishes.run.subscribe()))
    }

    /// Runs a registered fetch on the runtime. Nothing waits here.
    fn start(self: &Arc<Self>, cache: &Arc<Cache>, fetch: Arc<Fetch>, wish: Wish) {
        let end = End {
            file: Arc::clone(self),
            cache: Arc::clone(cache),
            fetch,
            wish,
            result: Err(CacheError::Cancelled),
        };
        cache.fetcher.runtime.spawn(async move {
            // Owned by the task as a whole, so that it ends the fetch when the task is dropped.
            let mut end = end;
            let mut run = end.wish.run.take();
            end.result = tokio::select! {
                biased;
                result = end.file.transfer(&end.cache, &end.fetch.range, end.fetch.ahead) => result,
                () = given_up(&end.file, &end.fetch, run.as_mut()) => Err(CacheError::Cancelled),
            };
        });
    }

    /// Verifies in the background if the last byte has arrived.
    pub(super) fn verify_if_due(self: &Arc<Self>, cache: &Arc<Cache>) {
        if !self
            .content
            .begin_verification(&mut self.content.state.lock())
        {
            return;
        }
        let (file, cache) = (Arc::clone(self), Arc::clone(cache));
        let runtime = cache.fetcher.runtime.clone();
        runtime.spawn_blocking(move || cache.verify(&file));
    }
}

/// What somebody waits for.
struct Need {
    /// The bytes that are needed.
    range: Range<u64>,
    /// What may be asked for along with them; begins where `range` does.
    ask: Range<u64>,
    /// The most that one request asks for.
    segment: u64,
    /// The most requests at once.
    fetches: usize,
}

/// Ends a fetch when it is dropped, however that comes about: also when its task panics or the
/// runtime ends.
struct End {
    file: Arc<CacheFile>,
    cache: Arc<Cache>,
    fetch: Arc<Fetch>,
    wish: Wish,
    result: Result<(), CacheError>,
}

impl Drop for End {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Err(CacheError::Cancelled));
        let failed = result.is_err();
        let content = &self.file.content;
        let verify = {
            let mut state = content.state.lock();
            state
                .fetches
                .retain(|other| !Arc::ptr_eq(other, &self.fetch));
            let _ = self.fetch.outcome.set(result);
            content.begin_verification(&mut state)
        };
        content.progress.notify_waiters();
        self.wish.permit = None;
        if verify {
            let (file, cache) = (Arc::clone(&self.file), Arc::clone(&self.cache));
            let runtime = cache.fetcher.runtime.clone();
            runtime.spawn_blocking(move || cache.verify(&file));
        }
        let Some(stream) = self.wish.stream.upgrade() else {
            return;
        };
        {
            let mut wishes = stream.state.lock();
            wishes.in_flight -= usize::from(self.fetch.ahead);
            if failed {
                // Asked again by the next read, not at once and for ever.
                wishes.read_ahead.ask_again();
                wishes.target = 0..0;
                wishes.whole = false;
            }
        }
        if !failed {
            self.file.pump(&self.cache, &stream);
        }
    }
}

/// Ends when nobody wants the fetch any more: its stream has gone elsewhere and no reader waits.
async fn given_up(file: &CacheFile, fetch: &Arc<Fetch>, run: Option<&mut watch::Receiver<()>>) {
    let Some(run) = run else {
        return std::future::pending().await;
    };
    while run.changed().await.is_ok() {}
    {
        let mut state = file.content.state.lock();
        if fetch.waiters.load(Ordering::Relaxed) == 0 {
            // Nobody can join it from here on.
            state.fetches.retain(|other| !Arc::ptr_eq(other, fetch));
            return;
        }
    }
    // It is short and somebody waits for it: it runs to its end.
    std::future::pending().await
}

/// Registers a range as under way.
fn register(state: &mut ContentState, range: Range<u64>, ahead: bool) -> Arc<Fetch> {
    let fetch = Arc::new(Fetch {
        range,
        ahead,
        outcome: OnceLock::new(),
        waiters: AtomicUsize::new(0),
    });
    state.fetches.push(Arc::clone(&fetch));
    fetch
}

/// Returns the part of a gap that one request asks for; a small rest is not left for another.
fn first_part(gap: Range<u64>, segment: u64) -> Range<u64> {
    let length = gap.end - gap.start;
    if length <= segment + segment / 4 {
        gap
    } else {
        gap.start..gap.start + segment
    }
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
