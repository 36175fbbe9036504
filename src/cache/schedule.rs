//! Who is asked for next: the streams that want something ahead share the line by earliest need.
//!
//! What somebody waits for is asked for at once and does not come by here. Of the rest, the bytes
//! come first that will be needed first at the rate at which their stream is read. Files that are
//! filled behind have what is left over.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Cache;
use super::fetch::{Fetch, Wish};
use super::file::{CacheFile, Phase};
use super::read_ahead::{LEAST_FETCH_BYTES, Stream, StreamState};

/// Requests for bytes that nobody waits for yet, of all files together. With what one of them asks
/// for they fill a line of 60 ms and 32 connections of 50 MB/s.
const AHEAD_FETCHES: usize = 32;
/// Requests for the rest of files that are read in order; few, for a reader comes first.
const BACKGROUND_FETCHES: usize = 2;
/// The next bytes of a stream come in requests of this size, so that many connections bring them;
/// those farther away are a quarter of their distance long.
const NEAR_FETCH_BYTES: u64 = 2 * LEAST_FETCH_BYTES;
/// With many streams at work each needs fewer requests at once. So many count.
const MOST_SHARING: u64 = 8;

/// Why a range is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody waits for it, or is about to.
    #[default]
    Needed,
    /// A stream will come to it.
    Ahead,
    /// The file is to be whole.
    Background,
}

/// The streams that want something, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Schedule(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    wanting: Vec<Wanting>,
    needed: usize,
    ahead: usize,
    background: usize,
    /// Of those that nobody waits for.
    bytes: u64,
}

#[derive(Debug)]
struct Wanting {
    file: Weak<CacheFile>,
    stream: Weak<Stream>,
}

/// What is asked for next.
struct Chosen {
    file: Arc<CacheFile>,
    fetch: Arc<Fetch>,
    wish: Wish,
}

impl State {
    fn count(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Needed => &mut self.needed,
            Purpose::Ahead => &mut self.ahead,
            Purpose::Background => &mut self.background,
        }
    }

    fn begin(&mut self, purpose: Purpose, bytes: u64) {
        *self.count(purpose) += 1;
        if purpose != Purpose::Needed {
            self.bytes += bytes;
        }
    }
}

impl Schedule {
    /// A request for what is needed begins.
    pub(super) fn begin_needed(&self) {
        self.0.lock().begin(Purpose::Needed, 0);
    }

    /// A request has ended.
    pub(super) fn end(&self, purpose: Purpose, bytes: u64) {
        let mut state = self.0.lock();
        *state.count(purpose) -= 1;
        if purpose != Purpose::Needed {
            state.bytes -= bytes;
        }
    }
}

impl Cache {
    /// Puts a stream among those that want something ahead, and asks for it as far as there is
    /// room.
    pub(super) fn want(self: &Arc<Self>, file: &Arc<CacheFile>, stream: &Arc<Stream>) {
        {
            let mut schedule = self.fetcher.schedule.0.lock();
            let listed = std::mem::replace(&mut stream.state.lock().listed, true);
            if !listed {
                schedule.wanting.push(Wanting {
                    file: Arc::downgrade(file),
                    stream: Arc::downgrade(stream),
                });
            }
        }
        self.pump();
    }

    /// Starts the requests that there is room for.
    pub(super) fn pump(self: &Arc<Self>) {
        while let Some(chosen) = self.choose() {
            chosen.file.start(self, chosen.fetch, chosen.wish);
        }
    }

    fn choose(&self) -> Option<Chosen> {
        let line = &self.fetcher.line;
        let mut schedule = self.fetcher.schedule.0.lock();
        if schedule.wanting.is_empty() {
            return None;
        }
        if schedule.ahead >= AHEAD_FETCHES || schedule.bytes >= line.most_in_flight() {
            line.note_full();
            return None;
        }
        let is_idle =
            schedule.needed == 0 && schedule.ahead == 0 && schedule.background < BACKGROUND_FETCHES;
        let (mut soonest, mut behind, mut sharing) = (None, None, 0);
        schedule.wanting.retain(|wanting| {
            let Some((file, stream)) = wanting.file.upgrade().zip(wanting.stream.upgrade()) else {
                return false;
            };
            let mut wishes = stream.state.lock();
            match file.next_need(&wishes) {
                Need::Within(seconds) => {
                    sharing += 1;
                    let later = |(known, _, _): &(f64, _, _)| seconds < *known;
                    if soonest.as_ref().is_none_or(later) {
                        drop(wishes);
                        soonest = Some((seconds, file, stream));
                    }
                    true
                }
                Need::Sometime => {
                    drop(wishes);
                    behind.get_or_insert((file, stream));
                    true
                }
                Need::Nothing => {
                    wishes.listed = false;
                    false
                }
            }
        });
        let (purpose, file, stream) = match (soonest, behind.filter(|_| is_idle)) {
            (Some((_, file, stream)), _) => (Purpose::Ahead, file, stream),
            (None, Some((file, stream))) => (Purpose::Background, file, stream),
            (None, None) => return None,
        };
        let near = NEAR_FETCH_BYTES * u64::clamp(sharing, 1, MOST_SHARING);
        let (fetch, run) = file.register_next(&stream, near, line.fetch_bytes())?;
        schedule.begin(purpose, fetch.range.end - fetch.range.start);
        let wish = Wish {
            stream: Arc::downgrade(&stream),
            run: Some(run),
            permit: None,
            purpose,
        };
        Some(Chosen { file, fetch, wish })
    }
}

/// When a stream needs the first byte that it wants and that is not under way.
enum Need {
    Within(f64),
    /// It is only for the file to be whole.
    Sometime,
    Nothing,
}

impl CacheFile {
    fn next_need(&self, wishes: &StreamState) -> Need {
        let state = self.content.state.lock();
        if state.phase != Phase::Filling {
            return Need::Nothing;
        }
        match state.first_gap(wishes.wanted(self.size())) {
            Some(gap) => Need::Within(wishes.seconds_until(gap.start)),
            None if state.gap_to_whole(wishes, self.size()).is_some() => Need::Sometime,
            None => Need::Nothing,
        }
    }
}
