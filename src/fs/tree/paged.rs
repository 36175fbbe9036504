//! Folders with more names than are held in memory. Their listing is in the cache's index and read a
//! few names at a time; a folder's entries in memory lie over it: what the kernel knows, what is open
//! and what was changed here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::super::attr::{Ino, Kind};
use super::super::inode::Listed;
use super::super::name::{self, fold};
use super::{Dir, Entry, Listing, Stale, Tree, folded_of};
use crate::cache::{Cache, ListingId};
use crate::store::fallback::HiddenKeys;
use crate::store::{ListedObject, ObjectVersion, Origin};

/// Number of the first inode whose number is made of its version; those of local trees lie above.
const FIRST: u64 = 1 << 60;
/// So many names are read at once where all are wanted.
const WINDOW: usize = 1000;

/// The listing that lies below a folder's entries.
pub(in crate::fs) struct Paged {
    pub(in crate::fs) cache: Arc<Cache>,
    /// Which listing.
    pub(in crate::fs) id: ListingId,
    /// What its keys begin with.
    pub(in crate::fs) prefix: String,
    /// When it was begun.
    pub(in crate::fs) begun: Instant,
    /// How many names it has.
    pub(in crate::fs) names: u64,
    /// Local copies that are not to be seen, also if they were listed before.
    pub(in crate::fs) hidden: Option<Arc<HiddenKeys>>,
    /// The index could not be read: the folder counts as not listed.
    pub(in crate::fs) broken: AtomicBool,
}

impl Paged {
    fn entry(&self, folded: &str) -> Option<Entry> {
        let found = self.cache.listed_name(self.id, &self.prefix, folded);
        self.entry_of(&self.read(found).flatten()?)
    }

    fn after(&self, after: &str, limit: usize) -> Vec<(String, ListedObject)> {
        let found = self.cache.listed_after(self.id, &self.prefix, after, limit);
        self.read(found).unwrap_or_default()
    }

    fn entry_of(&self, object: &ListedObject) -> Option<Entry> {
        let hidden = self.hidden.as_ref();
        if object.origin == Origin::Fallback
            && hidden.is_some_and(|hidden| hidden.contains(&object.version.key))
        {
            return None;
        }
        entry_of(object, &self.prefix, self.begun)
    }

    fn read<T>(&self, result: io::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                if !self.broken.swap(true, Ordering::Relaxed) {
                    log::warn!("{:?} is listed anew: the index: {error}", self.prefix);
                }
            })
            .ok()
    }
}

/// Returns the entry that a listed object makes below `prefix`; `None` if no name can stand for it.
pub(in crate::fs) fn entry_of(
    object: &ListedObject,
    prefix: &str,
    begun: Instant,
) -> Option<Entry> {
    let spelling = object.version.key.as_str().strip_prefix(prefix)?;
    (name::is_showable(spelling) && !spelling.contains('/')).then(|| Entry {
        spelling: spelling.into(),
        ino: number_of(&object.version),
        kind: Kind::File,
        listed: Some(Box::new(Listed::from_object(object, begun))),
    })
}

/// Returns the number of a version that is not in memory: the same whenever it is asked for.
fn number_of(version: &ObjectVersion) -> Ino {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    Ino(FIRST | (hasher.finish() >> 4))
}

impl Dir {
    /// Returns what a name stands for.
    pub(in crate::fs) fn entry(&self, name: &str) -> Option<Cow<'_, Entry>> {
        self.entry_folded(&fold(name))
    }

    pub(super) fn entry_folded(&self, folded: &str) -> Option<Cow<'_, Entry>> {
        match self.entries.get(folded) {
            Some(entry) => Some(Cow::Borrowed(entry)),
            None if self.gone.contains(folded) => None,
            None => self.paged.as_ref()?.entry(folded).map(Cow::Owned),
        }
    }

    /// Takes a name out, also of what lies below.
    pub(super) fn take(&mut self, folded: &str) -> Option<Entry> {
        if self.paged.is_some() {
            self.gone.insert(folded.into());
        }
        self.entries.remove(folded)
    }

    /// Returns up to so many names in order, from the first after `after` on, both folded; none only
    /// at the end.
    pub(in crate::fs) fn window(&self, after: &str, limit: usize) -> Vec<(Arc<str>, Entry)> {
        let mut after = after.to_owned();
        loop {
            let rows = match &self.paged {
                Some(paged) => paged.after(&after, limit),
                None => Vec::new(),
            };
            let end = (rows.len() == limit).then(|| rows.last().map(|(name, _)| name.clone()));
            let rows = rows.into_iter().filter_map(|(name, object)| {
                let entry = self.paged.as_ref()?.entry_of(&object)?;
                (!self.gone.contains(&*name)).then(|| (name.into(), entry))
            });
            let (found, end) = self.laid_over(rows, &after, end.flatten(), limit);
            match end {
                Some(end) if found.is_empty() => after = end,
                _ => return found,
            }
        }
    }

    /// Lays the entries in memory over rows of what lies below, which are all after `after` up to
    /// `end`. Returns them, and up to where they are all.
    pub(in crate::fs) fn laid_over(
        &self,
        rows: impl Iterator<Item = (Arc<str>, Entry)>,
        after: &str,
        mut end: Option<String>,
        limit: usize,
    ) -> (Vec<(Arc<str>, Entry)>, Option<String>) {
        let above = (Excluded(after), Unbounded);
        let here: Vec<_> = self.entries.range::<str, _>(above).take(limit).collect();
        if here.len() == limit
            && let Some((last, _)) = here.last()
            && end.as_deref().is_none_or(|end| ***last < *end)
        {
            end = Some(last.to_string());
        }
        let is_within = |name: &str| end.as_deref().is_none_or(|end| name <= end);
        let rows = rows.filter(|(name, _)| is_within(name) && !self.entries.contains_key(name));
        let mut found: Vec<_> = rows.collect();
        let here = here.into_iter().filter(|(name, _)| is_within(name));
        found.extend(here.map(|(name, entry)| (name.clone(), entry.clone())));
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        (found, end)
    }

    /// Returns the entries in memory in order: of a folder that is not paged, all.
    pub(in crate::fs) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether it holds nothing.
    pub(in crate::fs) fn is_empty(&self) -> bool {
        let holds_below = || !self.window("", 1).is_empty() || self.is_broken();
        self.entries.is_empty() && (self.paged.is_none() || !holds_below())
    }

    /// Whether not all that lies below could be read.
    pub(in crate::fs) fn is_broken(&self) -> bool {
        let paged = self.paged.as_ref();
        paged.is_some_and(|paged| paged.broken.load(Ordering::Relaxed))
    }

    /// Whether a name of what lies below shows this version, so that it need not be in memory.
    pub(super) fn is_below(&self, folded: &str, listed: &Listed) -> bool {
        let found = self.paged.as_ref().and_then(|paged| paged.entry(folded));
        found.and_then(|entry| entry.listed).is_some_and(|below| {
            below.version == listed.version
                && below.size == listed.size
                && below.origin == listed.origin
        })
    }

    /// Forgets a listing that could not be read.
    pub(in crate::fs) fn forget_broken(&mut self) {
        if self.is_broken() {
            self.unpage();
            self.listed_at = None;
        }
    }

    pub(super) fn unpage(&mut self) {
        self.paged = None;
        self.gone.clear();
    }
}

impl Tree {
    /// Brings a name of what lies below into memory, to be changed.
    pub(super) fn page_in(&mut self, parent: Ino, folded: &str) {
        let Some(dir) = self.dirs.get(&parent) else {
            return;
        };
        let Some(Cow::Owned(mut entry)) = dir.entry_folded(folded) else {
            return;
        };
        if self.nodes.contains_key(&entry.ino) {
            // The same version had a name here before, and is still open.
            entry.ino = self.new_ino();
        }
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.entries.insert(folded_of(&entry.spelling), entry);
        }
    }

    /// Brings names into memory that stay as they are whatever is listed: our own (`own`, folded) and
    /// those that were changed here of late. The kernel may have forgotten them since.
    pub(super) fn page_in_kept(&mut self, ino: Ino, own: &HashSet<String>) {
        let Some(dir) = self.dirs.get(&ino).filter(|dir| dir.paged.is_some()) else {
            return;
        };
        let recent = dir.recent.keys().map(|name| name.to_string());
        let kept: Vec<String> = own.iter().cloned().chain(recent).collect();
        for name in kept {
            self.page_in(ino, &name);
        }
    }

    /// Brings all names at and below a folder into memory: it gets another name, and what lies below
    /// is found by the former.
    pub(super) fn page_in_all(&mut self, folder: Ino) {
        let paged = self.dirs.iter().filter(|(_, dir)| dir.paged.is_some());
        let paged: Vec<Ino> = paged.map(|(ino, _)| *ino).collect();
        for ino in paged {
            if !self.is_at_or_below(ino, folder) {
                continue;
            }
            let mut after = String::new();
            while let Some(dir) = self.dirs.get_mut(&ino) {
                let window = dir.window(&after, WINDOW);
                let Some((last, _)) = window.last() else {
                    dir.forget_broken();
                    dir.unpage();
                    break;
                };
                after = last.to_string();
                for (name, _) in window {
                    self.page_in(ino, &name);
                }
            }
        }
    }

    fn is_at_or_below(&self, mut ino: Ino, folder: Ino) -> bool {
        while ino != folder {
            match self.place(ino) {
                Some(place) => ino = place.parent,
                None => return false,
            }
        }
        true
    }

    /// Returns the names (folded) of the files of a folder that are in memory.
    pub(in crate::fs) fn files_in_memory(&self, ino: Ino) -> Vec<Arc<str>> {
        let entries = self.dirs.get(&ino).into_iter().flat_map(|dir| &dir.entries);
        let files = entries.filter(|(_, entry)| entry.kind == Kind::File);
        files.map(|(name, _)| name.clone()).collect()
    }

    /// Lays a complete listing under what is known whose files are in the index; `listing` has the
    /// rest of it, and those of its files that are in memory (`files_in_memory`). As
    /// [`Tree::apply_listing`], but names with a record of our own show only what is in memory.
    pub(in crate::fs) fn apply_paged(
        &mut self,
        ino: Ino,
        paged: Paged,
        listing: Listing,
        own: &HashSet<String>,
    ) -> Option<Vec<Stale>> {
        let begun = listing.begun;
        let is_newer = |dir: &Dir| dir.listed_at.is_some_and(|newer| newer > begun);
        if self.dirs.get(&ino).is_none_or(is_newer) {
            return None;
        }
        let stale = self.apply_listing(ino, listing, own);
        let dir = self.dirs.get_mut(&ino)?;
        let recent = dir.recent.keys().cloned();
        dir.gone = own
            .iter()
            .map(|name| (&**name).into())
            .chain(recent)
            .collect();
        dir.paged = Some(paged);
        // What equals its row need not stay in memory.
        let names: Vec<Arc<str>> = dir.entries.keys().cloned().collect();
        for name in names {
            let listed = dir
                .entries
                .get(&name)
                .and_then(|entry| entry.listed.as_ref());
            if listed.is_some_and(|listed| dir.is_below(&name, listed)) {
                dir.entries.remove(&name);
                dir.gone.remove(&name);
            }
        }
        Some(stale)
    }
}
