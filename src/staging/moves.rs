//! Folders that were renamed and whose objects still lie under the old prefix: where each object of
//! the bucket shows, and which prefixes of the bucket show in a folder. Pure.
//!
//! The moves divide the bucket's keys: for each key the move with the longest source counts, and
//! says where an object shows that no record speaks of. So there is no order among them. A rename
//! of a moved folder changes the target; a rename of a folder in it adds a longer source; a folder
//! in it that was removed becomes a longer source whose objects stay. Prefixes are empty or end in
//! `/`, and are compared in Unicode NFC, as R2 compares keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::record::Edit;
use crate::store::{Key, fold};

/// The objects below one prefix of the bucket show below another, and are to be moved there.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Where they lie; ends in `/`.
    pub source: Key,
    /// Where they show; ends in `/`. The source itself: they stay, whatever moves around them.
    pub target: Key,
    /// The cut-off: what somebody else writes below the source later than this does not move.
    pub since: SystemTime,
}

impl Move {
    /// Whether its objects stay where they are.
    pub fn stays(&self) -> bool {
        self.source.folded() == self.target.folded()
    }
}

/// A prefix of the bucket whose objects show in a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Lower {
    /// The prefix; empty or ending in `/`.
    pub prefix: String,
    /// The cut-off of the move by which they show there; `None` for the folder's own prefix.
    pub since: Option<SystemTime>,
}

/// All moves that are not carried out yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moves {
    /// By source, folded.
    by_source: BTreeMap<String, Move>,
    /// Sources by target, both folded.
    by_target: BTreeMap<String, BTreeSet<String>>,
}

impl Moves {
    /// Whether nothing moves.
    pub fn is_empty(&self) -> bool {
        self.by_source.is_empty()
    }

    /// Returns the moves that take objects elsewhere, ordered by source.
    pub fn pending(&self) -> impl Iterator<Item = &Move> {
        self.by_source.values().filter(|found| !found.stays())
    }

    /// Returns the move with that source.
    pub fn from(&self, source: &Key) -> Option<&Move> {
        self.by_source.get(source.folded().as_str())
    }

    pub(super) fn set(&mut self, new: Move) {
        self.end(&new.source);
        let (source, target) = (new.source.folded(), new.target.folded());
        let sources = self.by_target.entry(target.as_str().into()).or_default();
        sources.insert(source.as_str().into());
        self.by_source.insert(source.as_str().into(), new);
    }

    pub(super) fn end(&mut self, source: &Key) {
        let source = source.folded();
        let Some(ended) = self.by_source.remove(source.as_str()) else {
            return;
        };
        let target = ended.target.folded();
        if let Some(sources) = self.by_target.get_mut(target.as_str()) {
            sources.remove(source.as_str());
            if sources.is_empty() {
                self.by_target.remove(target.as_str());
            }
        }
    }

    /// Returns the move that counts for a key or prefix of the bucket.
    pub fn governing(&self, key: &str) -> Option<&Move> {
        if self.is_empty() {
            return None;
        }
        let folded = fold(key);
        prefixes(&folded)
            .rev()
            .find_map(|prefix| self.by_source.get(prefix))
    }

    /// Whether an object under this key would show elsewhere, so that what the key holds for the
    /// name itself is not known until the move has been carried out.
    pub fn covers(&self, key: &Key) -> bool {
        let found = self.governing(key.as_str());
        found.is_some_and(|found| !found.stays())
    }

    /// Whether what a name shows may lie elsewhere, or what its key holds may show elsewhere.
    pub fn concern(&self, key: &Key) -> bool {
        let folder = key.as_str().rfind('/').map_or(0, |slash| slash + 1);
        let lowers = self.lowers(&key.as_str()[..folder]);
        self.covers(key) || lowers.iter().any(|lower| lower.since.is_some())
    }

    /// Returns the key under which an object of the bucket shows.
    pub fn shown_at<'a>(&self, key: &'a str) -> Cow<'a, str> {
        match self.governing(key) {
            Some(found) if !found.stays() => {
                let below = rest(key, found.source.as_str());
                Cow::Owned(format!("{}{below}", found.target))
            }
            _ => Cow::Borrowed(key),
        }
    }

    /// Returns the prefixes of the bucket that show in a folder, its own first.
    pub fn lowers(&self, path: &str) -> Vec<Lower> {
        let mut lowers = Vec::new();
        if self.governing(path).is_none_or(Move::stays) {
            lowers.push(Lower {
                prefix: path.to_owned(),
                since: None,
            });
        }
        if self.is_empty() {
            return lowers;
        }
        let folded = fold(path);
        for target in prefixes(&folded).rev() {
            let sources = self.by_target.get(target).into_iter().flatten();
            for found in sources.filter_map(|source| self.by_source.get(source)) {
                let prefix = format!("{}{}", found.source, rest(path, target));
                if !found.stays() && self.governing(&prefix) == Some(found) {
                    let since = Some(found.since);
                    lowers.push(Lower { prefix, since });
                }
            }
        }
        lowers
    }

    /// Returns what makes folders in a folder and is in none of the listings that show there: the
    /// name of each, and a prefix whose objects show in it.
    pub fn elsewhere(&self, path: &str) -> Vec<(String, Key)> {
        let folded = fold(path);
        let lowers = self.lowers(path);
        let is_listed = |found: &&Move| {
            let below = rest(found.target.as_str(), path);
            let mut prefixes = lowers
                .iter()
                .map(|lower| format!("{}{below}", lower.prefix));
            prefixes.any(|prefix| fold(&prefix) == fold(found.source.as_str()))
        };
        let below = self.by_source.values();
        below
            .filter(|found| is_below(found.target.as_str(), &folded) && !is_listed(found))
            .filter_map(|found| {
                let (name, _) = rest(found.target.as_str(), path).split_once('/')?;
                Some((name.to_owned(), found.source.clone()))
            })
            .collect()
    }

    /// Returns the moves that lie in no other one's source. Each is carried out with all that lie in
    /// its own.
    pub fn outermost(&self) -> impl Iterator<Item = &Move> {
        self.by_source.values().filter(|found| {
            let source = found.source.folded();
            let mut above = prefixes(source.as_str()).rev().skip(1);
            !above.any(|prefix| self.by_source.contains_key(prefix))
        })
    }

    /// Returns what the journal must say when a move has been carried out, if it is an outermost
    /// one: it goes with all that lie in its source.
    pub fn carried_out(&self, source: &Key) -> Vec<Edit> {
        let folded = source.folded();
        if !self
            .outermost()
            .any(|found| found.source.folded() == folded)
        {
            return Vec::new();
        }
        self.within(source)
            .map(|found| Edit::EndMove {
                source: found.source.clone(),
            })
            .collect()
    }

    /// Returns a move and those whose source lies in its own.
    pub fn within(&self, source: &Key) -> impl Iterator<Item = &Move> {
        let source = source.folded();
        self.by_source
            .range(source.as_str().to_owned()..)
            .take_while(move |(below, _)| below.starts_with(source.as_str()))
            .map(|(_, found)| found)
    }

    /// Returns what the journal must say of the moves when the folder `old` becomes `new`, in the
    /// place of an empty folder if there is one; `None` if a prefix grows too long for a key.
    pub fn renamed(&self, old: &str, new: &str, now: SystemTime) -> Option<Vec<Edit>> {
        let before = self.without(new, now);
        let mut next = before.clone();
        let folded = fold(old);
        for found in before.by_source.values() {
            if is_below(found.target.as_str(), &folded) || fold(found.target.as_str()) == folded {
                next.set(Move {
                    target: Key::new(&format!("{new}{}", rest(found.target.as_str(), old)))?,
                    since: if found.stays() { now } else { found.since },
                    ..found.clone()
                });
            }
        }
        for lower in before.lowers(old) {
            let is_done = before
                .by_source
                .get(&*fold(&lower.prefix))
                .is_some_and(|found| fold(found.target.as_str()) == folded);
            if !is_done {
                next.set(Move {
                    source: Key::new(&lower.prefix)?,
                    target: Key::new(new)?,
                    since: lower.since.unwrap_or(now),
                });
            }
        }
        Some(self.edits_to(next))
    }

    /// Returns what the journal must say of the moves when a folder is removed: what may still lie
    /// where it came from stays there.
    pub fn removed(&self, path: &str, now: SystemTime) -> Vec<Edit> {
        self.edits_to(self.without(path, now))
    }

    /// Returns the moves as they are when an empty folder is gone.
    fn without(&self, path: &str, now: SystemTime) -> Moves {
        let mut next = self.clone();
        let lowers = self.lowers(path).into_iter();
        for lower in lowers.filter(|lower| lower.since.is_some()) {
            if let Some(source) = Key::new(&lower.prefix) {
                next.set(Move {
                    target: source.clone(),
                    source,
                    since: now,
                });
            }
        }
        next
    }

    /// Returns the edits that lead from here to `next`, without moves that say nothing new.
    fn edits_to(&self, mut next: Moves) -> Vec<Edit> {
        let idle: Vec<Key> = next
            .by_source
            .values()
            .filter(|found| next.around(found).as_deref() == Some(&*fold(found.target.as_str())))
            .map(|found| found.source.clone())
            .collect();
        idle.iter().for_each(|source| next.end(source));
        let ended = self.by_source.iter();
        let ended = ended.filter(|(source, _)| !next.by_source.contains_key(*source));
        let ended = ended.map(|(_, found)| Edit::EndMove {
            source: found.source.clone(),
        });
        let set = next.by_source.iter();
        let set = set.filter(|(source, found)| self.by_source.get(*source) != Some(*found));
        let set = set.map(|(_, found)| Edit::SetMove(found.clone()));
        ended.chain(set).collect()
    }

    /// Returns where a move's objects would show without it, folded.
    fn around(&self, found: &Move) -> Option<String> {
        let source = found.source.folded();
        let mut above = prefixes(source.as_str()).rev().skip(1);
        let outer = above.find_map(|prefix| self.by_source.get(prefix));
        Some(match outer {
            None => source.as_str().to_owned(),
            Some(outer) => {
                let below = rest(source.as_str(), outer.source.as_str());
                fold(&format!("{}{below}", outer.target)).into_owned()
            }
        })
    }
}

/// Returns every prefix of a key that ends in `/`, the shortest first; the key itself if it does.
fn prefixes(key: &str) -> impl DoubleEndedIterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at])
}

/// Whether a prefix lies below another one, which is folded.
fn is_below(prefix: &str, above: &str) -> bool {
    let folded = fold(prefix);
    folded.len() > above.len() && folded.starts_with(above)
}

/// Returns what follows in `key` after as many folders as `prefix` has; both spellings of a prefix
/// have as many.
fn rest<'a>(key: &'a str, prefix: &str) -> &'a str {
    let Some(last) = prefix.matches('/').count().checked_sub(1) else {
        return key;
    };
    let cut = key.match_indices('/').nth(last);
    cut.map_or("", |(at, _)| &key[at + 1..])
}

#[cfg(test)]
mod tests;
