//! Asking the bucket for missing bytes: one request per missing run, shared by all who wait.
//!
//! A [`Fetch`] is one range under way. It is registered under the lock of the file's ranges before
//! its request starts, so that nobody asks for the same bytes again; what arrives is written to
//! the sparse file and becomes readable batch by batch. Whoever needs bytes has a bell of its own,
//! rung when all of them are there, and looks again. `transfer` moves the bytes, `schedule` says
//! whose turn it is; this file decides what is asked for, and when it is given up.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::file::{CacheFile, ContentState, Phase, Reader};
use super::line::Line;
use super::read_ahead::{ReadStream, Stream, first_fetch};
use super::schedule::{Purpose, Schedule};
use super::{Cache, CacheError, DamageObserver, InfoObserver};
use crate::store::ObjectStore;

/// First requests of files being opened; beyond it a read asks for what it needs.
const FIRST_FETCHES: usize = 64;
/// Requests at once for one whole file that somebody waits for.
const FILL_FETCHES: usize = 8;
/// Requests at once for one read; it is at most 1 MiB long.
const READ_FETCHES: usize = 8;
/// A cancelled request costs its connection, so one that ends within this time may end.
const LONGEST_GRACE: Duration = Duration::from_millis(300);

/// A range of one file that was asked for.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) range: Range<u64>,
    /// Asked for before anybody needed it, so it may be given up.
    pub(super) ahead: bool,
    /// How it ended.
    outcome: OnceLock<Result<(), CacheError>>,
    /// Who would miss it; changes under the lock of the file's ranges only.
    waiters: AtomicUsize,
}

impl Fetch {
    /// Notes how it ended. To be called under the lock of the file's ranges.
    pub(super) fn end(&self, result: Result<(), CacheError>) {
        let _ = self.outcome.set(result);
    }
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
    pub(super) line: Line,
    pub(super) schedule: Schedule,
    first: Arc<Semaphore>,
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
            line: Line::default(),
            schedule: Schedule::default(),
            first: Arc::new(Semaphore::new(FIRST_FETCHES)),
        }
    }
}

/// Whose wish a fetch is.
#[derive(Default)]
pub(super) struct Wish {
    /// Wants nothing more ahead if the fetch fails.
    pub(super) stream: Weak<Stream>,
    /// Ends when the stream no longer wants it; `None` when somebody waits for it.
    pub(super) run: Option<watch::Receiver<()>>,
    /// Its place among the first requests.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) purpose: Purpose,
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
        let first = first_fetch(self.size());
        let mut state = self.content.state.lock();
        let fetch = (state.phase == Phase::Filling)
            .then(|| state.first_gap(first))
            .flatten()
            .map(|gap| register(&mut state, gap, true));
        drop(state);
        match fetch {
            Some(fetch) => {
                let wish = Wish {
                    stream: Arc::downgrade(&stream.0),
                    permit: Some(permit),
                    ..Wish::default()
                };
                self.start_needed(&cache, fetch, wish);
            }
            None => {
                if self.layout().is_none() {
                    self.learn(&cache, &stream.0);
                }
                self.verify_if_due(&cache);
            }
        }
    }

    /// Takes note of a read and starts what is wanted ahead.
    pub(super) fn advance(self: &Arc<Self>, stream: &ReadStream, range: Range<u64>) {
        let layout = self.layout();
        let advice = stream.0.state.lock().on_read(range, self.size(), layout);
        if advice.more
            && let Some(cache) = self.cache.upgrade()
        {
            cache.want(self, &stream.0);
        }
    }

    /// Waits for the bytes of a read.
    pub(super) async fn demand(
        self: &Arc<Self>,
        stream: &ReadStream,
        range: Range<u64>,
    ) -> Result<(), CacheError> {
        let cache = self.cache.upgrade().ok_or(CacheError::Cancelled)?;
        let layout = self.layout();
        let (advice, ask) = {
            let mut wishes = stream.0.state.lock();
            let advice = wishes.on_read(range.clone(), self.size(), layout);
            let ask = match advice.jumped {
                true => wishes.jump(range.clone(), self.size(), layout),
                false => wishes.next(range.clone(), self.size()),
            };
            (advice, ask)
        };
        // What the read needs is registered first, so that the read-ahead leaves it out.
        let mut waiting = Vec::new();
        let need = Need {
            ask: ask.start..ask.end.min(self.size()),
            range,
            segment: u64::MAX,
            fetches: READ_FETCHES,
        };
        let stream = &stream.0;
        let there = self.look(&cache, &need, &mut waiting, Some(stream))?;
        if advice.more {
            cache.want(self, stream);
        }
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
            segment: cache.fetcher.line.fetch_bytes(),
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
        // Listens before it looks, so that no bell is missed between the two.
        let listening = Listening::begin(self, need.range.clone());
        while !self.look(cache, need, &mut waiting, stream)? {
            listening.bell.notified().await;
        }
        Ok(())
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
            self.start_needed(cache, fetch, wish);
        }
        Ok(false)
    }

    /// Registers the next range that a stream wants ahead; `None` if there is none any more. Its
    /// length is `near` for the next bytes, grows with their distance, and is `most` at the most.
    pub(super) fn register_next(
        &self,
        stream: &Stream,
        near: u64,
        most: u64,
    ) -> Option<(Arc<Fetch>, watch::Receiver<()>)> {
        let wishes = stream.state.lock();
        let mut state = self.content.state.lock();
        if state.phase != Phase::Filling {
            return None;
        }
        let gap = match state.first_gap(wishes.wanted(self.size())) {
            Some(gap) => gap,
            None => state.gap_to_whole(&wishes, self.size())?,
        };
        let length = (wishes.distance(gap.start) / 4).max(near).min(most);
        let fetch = register(&mut state, first_part(gap, length), true);
        Some((fetch, wishes.run.subscribe()))
    }

    /// Runs a registered fetch that somebody waits for.
    pub(super) fn start_needed(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        fetch: Arc<Fetch>,
        wish: Wish,
    ) {
        cache.fetcher.schedule.begin_needed();
        self.start(cache, fetch, wish);
    }

    /// Runs a registered and counted fetch on the runtime. Nothing waits here.
    pub(super) fn start(self: &Arc<Self>, cache: &Arc<Cache>, fetch: Arc<Fetch>, wish: Wish) {
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
                result = end.file.transfer(&end.cache, &end.fetch, end.wish.purpose) => result,
                () = given_up(&end, run.as_mut()) => Err(CacheError::Cancelled),
            };
            end.learn();
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
        cache.verify_behind(self);
    }
}

/// What somebody waits for.
struct Need {
    /// The bytes that are needed.
    range: Range<u64>,
    /// What may be asked for along with them.
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

impl End {
    /// Looks at the file as audio if an end of it has come for somebody who reads it.
    fn learn(&self) {
        let Range { start, end } = self.fetch.range;
        let is_an_end = start == 0 || end == self.file.size();
        if self.result.is_ok()
            && is_an_end
            && let Some(stream) = self.wish.stream.upgrade()
        {
            self.file.learn(&self.cache, &stream);
        }
    }
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
            self.fetch.end(result);
            content.begin_verification(&mut state)
        };
        content.progress.notify_waiters();
        content.ring(&self.fetch.range);
        self.wish.permit = None;
        if verify {
            self.cache.verify_behind(&self.file);
        }
        if failed && let Some(stream) = self.wish.stream.upgrade() {
            // Asked again by the next read, not at once and for ever.
            stream.state.lock().give_up();
        }
        let bytes = self.fetch.range.end - self.fetch.range.start;
        self.cache.fetcher.schedule.end(self.wish.purpose, bytes);
        self.cache.pump();
    }
}

/// One who waits for all bytes of a range.
struct Listening<'a> {
    file: &'a CacheFile,
    bell: Arc<Notify>,
}

impl Listening<'_> {
    fn begin(file: &CacheFile, range: Range<u64>) -> Listening<'_> {
        let bell = Arc::new(Notify::new());
        file.content.state.lock().readers.push(Reader {
            range,
            bell: Arc::clone(&bell),
        });
        Listening { file, bell }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let mut state = self.file.content.state.lock();
        let same = |reader: &Reader| Arc::ptr_eq(&reader.bell, &self.bell);
        if let Some(at) = state.readers.iter().position(same) {
            state.readers.swap_remove(at);
        }
    }
}

/// Ends when nobody wants the fetch any more: its stream has gone elsewhere and no reader waits.
async fn given_up(end: &End, run: Option<&mut watch::Receiver<()>>) {
    let Some(run) = run else {
        return std::future::pending().await;
    };
    while run.changed().await.is_ok() {}
    let grace = end.cache.fetcher.line.connection_time();
    tokio::time::sleep(grace.min(LONGEST_GRACE)).await;
    {
        let mut state = end.file.content.state.lock();
        if end.fetch.waiters.load(Ordering::Relaxed) == 0 {
            // Nobody can join it from here on.
            state
                .fetches
                .retain(|other| !Arc::ptr_eq(other, &end.fetch));
            return;
        }
    }
    // It is short and somebody waits for it: it runs to its end.
    std::future::pending().await
}

/// Registers a range as under way.
pub(super) fn register(state: &mut ContentState, range: Range<u64>, ahead: bool) -> Arc<Fetch> {
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
    if length <= segment.saturating_add(segment / 4) {
        gap
    } else {
        gap.start..gap.start + segment
    }
}

pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
