//! A listing on its way. Who opens the folder reads what has arrived before the rest is here; what
//! is more than may be held in memory goes into the index page by page.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::lower::Part;
use super::name::{self, fold};
use super::tree::{Entry, entry_of};
use crate::cache::{Cache, ListingId};
use crate::staging::Lower;
use crate::store::{ListPage, ListedObject};

/// So many pages are listed behind a look-up; a folder that has more waits until it is opened.
const PAGES_BEHIND: usize = 4;

/// A listing of one folder.
pub(super) struct Arriving {
    cache: Arc<Cache>,
    /// So many names are held in memory.
    most: usize,
    /// Whether somebody wants all names, and not a single one.
    is_wanted: AtomicBool,
    state: Mutex<State>,
    /// Counts pages, but the last.
    progress: watch::Sender<usize>,
}

struct State {
    begun: Instant,
    prefix: String,
    /// What no file name stands for: markers, and keys that cannot be shown.
    odd: Vec<ListedObject>,
    prefixes: HashSet<String>,
    complete: bool,
    names: u64,
    files: Files,
    /// Up to this name (folded) all has arrived.
    to: String,
}

/// Where the files are.
enum Files {
    Memory(Vec<ListedObject>),
    Index(ListingId),
}

/// What has arrived of a folder.
pub(super) struct ArrivedNames {
    /// Names (folded) in order.
    pub(super) rows: Vec<(Arc<str>, Entry)>,
    /// They are all up to this name.
    pub(super) to: String,
}

/// What is known of a name while its folder's listing arrives.
pub(super) enum Known {
    /// It is a file.
    File(Entry),
    /// There is nothing of that name.
    Nothing,
    /// It is to be asked for.
    NotYet,
}

impl Arriving {
    pub(super) fn new(cache: Arc<Cache>, most: usize, is_wanted: bool, now: Instant) -> Arriving {
        Arriving {
            cache,
            most,
            is_wanted: AtomicBool::new(is_wanted),
            state: Mutex::new(State::new(String::new(), now)),
            progress: watch::Sender::new(0),
        }
    }

    /// Begins anew, for a folder's own prefix.
    pub(super) fn begin(&self, prefix: &str, now: Instant) {
        self.give_up();
        *self.state.lock() = State::new(prefix.into(), now);
        self.progress.send_replace(0);
    }

    /// Somebody wants all names.
    pub(super) fn want(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether to go on although it is long.
    pub(super) fn goes_on(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed) || *self.progress.borrow() < PAGES_BEHIND
    }

    /// Whether a page goes into memory, without waiting for the disk.
    pub(super) fn fits(&self, page: &ListPage) -> bool {
        match &self.state.lock().files {
            Files::Memory(held) => held.len() + page.objects.len() <= self.most,
            Files::Index(_) => false,
        }
    }

    /// Whether names have come, and not all.
    pub(super) fn has_names(&self) -> bool {
        *self.progress.borrow() > 0
    }

    /// Returns what tells of each page.
    pub(super) fn progress(&self) -> watch::Receiver<usize> {
        self.progress.subscribe()
    }

    /// Takes in a page, `to` being the key up to which all has arrived unless that is all. Waits for
    /// the disk; one caller at a time.
    pub(super) fn take(&self, page: ListPage, to: Option<&str>) -> io::Result<()> {
        let mut state = self.state.lock();
        let prefix = state.prefix.clone();
        let name = |key: &str| key.strip_prefix(&*prefix).map(str::to_owned);
        let is_file = |object: &ListedObject| {
            let name = name(object.version.key.as_str());
            name.is_some_and(|name| name::is_showable(&name) && !name.contains('/'))
        };
        let (files, odd): (Vec<_>, Vec<_>) = page.objects.into_iter().partition(is_file);
        state.names += (files.len() + page.prefixes.len()) as u64;
        state.complete &= !page.incomplete;
        state.odd.extend(odd.iter().cloned());
        state.prefixes.extend(page.prefixes.iter().cloned());
        match &mut state.files {
            Files::Memory(held) if held.len() + files.len() <= self.most => held.extend(files),
            Files::Memory(held) => {
                let mut files = [std::mem::take(held), files].concat();
                files.sort_by(|a, b| a.version.key.cmp(&b.version.key));
                // Read from here until they are there.
                *held = files.clone();
                let (odd, prefixes) = (state.odd.clone(), Vec::from_iter(state.prefixes.clone()));
                drop(state);
                let id = self.cache.begin_listing(&prefix)?;
                let added = self.add(id, &prefix, [(&files, &prefixes), (&odd, &Vec::new())]);
                state = self.state.lock();
                state.files = Files::Index(id);
                added?;
            }
            Files::Index(id) => {
                let id = *id;
                drop(state);
                self.add(id, &prefix, [(&files, &page.prefixes), (&odd, &Vec::new())])?;
                state = self.state.lock();
            }
        }
        if let Some(to) = to.and_then(name) {
            state.to = fold(&to).into_owned();
            drop(state);
            self.progress.send_modify(|pages| *pages += 1);
        }
        Ok(())
    }

    fn add(
        &self,
        id: ListingId,
        prefix: &str,
        parts: [(&Vec<ListedObject>, &Vec<String>); 2],
    ) -> io::Result<()> {
        for (objects, prefixes) in parts {
            self.cache.add_to_listing(id, prefix, objects, prefixes)?;
        }
        Ok(())
    }

    /// Returns what has arrived but the files.
    pub(super) fn rest(&self) -> Part {
        let state = self.state.lock();
        let mut part = Part::unknown(Lower {
            prefix: state.prefix.clone(),
            since: None,
        });
        part.complete = state.complete;
        part.objects.extend_from_slice(&state.odd);
        part.prefixes.extend(state.prefixes.iter().cloned());
        part.sort();
        part
    }

    /// Ends it with the files: adds them to `part`, or returns where they are and how many names there
    /// are in all.
    pub(super) fn end(&self, part: &mut Part) -> Option<(ListingId, u64)> {
        let mut state = self.state.lock();
        // What a reader has not read yet it finds in the folder, in a moment, and here no more.
        state.to.clear();
        match std::mem::replace(&mut state.files, Files::Memory(Vec::new())) {
            Files::Index(id) => Some((id, state.names)),
            Files::Memory(files) => {
                part.objects.extend(files);
                part.sort();
                None
            }
        }
    }

    /// Returns what has arrived after a name, up to so many names; `None` if the index cannot be read.
    pub(super) fn after(&self, after: &str, limit: usize) -> Option<ArrivedNames> {
        let state = self.state.lock();
        let mut to = state.to.clone();
        let listed = match &state.files {
            Files::Memory(files) => {
                let named = files.iter().filter_map(|object| {
                    let name = object.version.key.as_str().strip_prefix(&*state.prefix)?;
                    Some((fold(name).into_owned(), object.clone()))
                });
                let mut named: Vec<_> = named.filter(|(name, _)| **name > *after).collect();
                named.sort_by(|(a, _), (b, _)| a.cmp(b));
                named
            }
            Files::Index(id) => self
                .cache
                .listed_after(*id, &state.prefix, after, limit)
                .inspect_err(|error| log::warn!("listing {:?}: {error}", state.prefix))
                .ok()?,
        };
        let mut rows: Vec<_> = listed
            .into_iter()
            .take_while(|(name, _)| *name <= to)
            .collect();
        if rows.len() >= limit {
            rows.truncate(limit);
            to = rows.last().map(|(name, _)| name.clone()).unwrap_or(to);
        }
        let entry = |(name, object): (String, ListedObject)| {
            let entry = entry_of(&object, &state.prefix, state.begun)?;
            Some((name.into(), entry))
        };
        let rows = rows.into_iter().filter_map(entry).collect();
        Some(ArrivedNames { rows, to })
    }

    /// Returns what is known by now of a name (folded).
    pub(super) fn name(&self, folded: &str) -> Known {
        let state = self.state.lock();
        let is_it = |key: &str, name: &str| {
            let below = key.strip_prefix(&*state.prefix);
            below.is_some_and(|below| fold(below) == name)
        };
        let found = match &state.files {
            Files::Memory(files) => {
                let mut files = files.iter();
                files
                    .find(|file| is_it(file.version.key.as_str(), folded))
                    .cloned()
            }
            Files::Index(id) => match self.cache.listed_name(*id, &state.prefix, folded) {
                Ok(found) => found,
                Err(_) => return Known::NotYet,
            },
        };
        let entry = found.and_then(|object| entry_of(&object, &state.prefix, state.begun));
        let folder = format!("{folded}/");
        match entry {
            Some(entry) => Known::File(entry),
            // A folder may come where its slash stands in the order.
            None if folder > state.to => Known::NotYet,
            None if state.prefixes.iter().any(|prefix| is_it(prefix, &folder)) => Known::NotYet,
            None => Known::Nothing,
        }
    }

    fn give_up(&self) {
        if let Files::Index(id) = self.state.lock().files {
            self.cache.drop_listing(id);
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl State {
    fn new(prefix: String, begun: Instant) -> State {
        State {
            begun,
            prefix,
            odd: Vec::new(),
            prefixes: HashSet::new(),
            complete: true,
            names: 0,
            files: Files::Memory(Vec::new()),
            to: String::new(),
        }
    }
}
