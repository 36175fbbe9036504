//! Folders whose names are too many to be held in memory: listed into the index, and read from there.
//!
//! A listing that was begun before a change of our own does not undo it. While it arrives, such
//! changes are noted at their names (`Dir::recent`); when it takes the place of the former one, the
//! entries in memory lie over it, and the rows of those names are corrected in the index, so that the
//! next start finds them too.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Fs;
use super::arriving::Arriving;
use super::attr::{Ino, Kind};
use super::inode::Listed;
use super::listing::below;
use super::lower::{Part, Parts};
use super::name::fold;
use super::saved::amendment;
use super::tree::{Listing, Paged, Tree};
use crate::cache::{Amendment, Holds, LargeListing, ListingId};
use crate::staging::{Lower, Moves, Record};
use crate::store::ranges::FolderListing;
use crate::store::{Key, ListedObject, StoreResult};

/// A listing is trusted for once its time for each so many names: what it costs grows with them.
const NAMES_PER_TTL: u64 = 10_000;

impl Fs {
    /// Whether exactly the objects below its own prefix show in a folder, so that it can be read from
    /// the index.
    pub(super) fn is_plain(&self, moves: &Moves, path: &str) -> bool {
        let lowers = moves.lowers(path);
        let is_own = |lower: &Lower| lower.since.is_none() && lower.prefix == path;
        lowers.len() == 1 && lowers.iter().all(is_own)
    }

    /// Returns how long a folder's listing is trusted.
    pub(super) fn listing_ttl(&self, ino: Ino) -> Duration {
        let tree = self.tree.lock();
        let paged = tree.dir(ino).and_then(|dir| dir.paged.as_ref());
        let times = paged.map_or(0, |paged| paged.names / NAMES_PER_TTL);
        self.options.list_ttl * (1 + u32::try_from(times).unwrap_or(u32::MAX - 1))
    }

    /// Whether not all of a folder's names are in memory.
    pub(super) fn is_paged(&self, ino: Ino) -> bool {
        let tree = self.tree.lock();
        tree.dir(ino).is_some_and(|dir| dir.paged.is_some())
    }

    /// Lists a folder's own prefix; `None` if it is long and nobody wants all of it, or not all of it
    /// can be listed. Files that are too many to be held in memory are in the index.
    pub(super) async fn list_plain(
        self: &Arc<Self>,
        (ino, path): (Ino, &str),
        moves: &Moves,
        arriving: &Arc<Arriving>,
    ) -> StoreResult<Option<(Parts, Option<(ListingId, u64)>)>> {
        arriving.begin(path, self.clock.instant());
        let mut listing = FolderListing::new(path, |request| self.list_page(request));
        while let Some(page) = listing.next().await? {
            if !arriving.goes_on() && !listing.has_ended() {
                return Ok(None);
            }
            let to = listing.arrived_to().map(str::to_owned);
            let taken = match arriving.fits(&page) {
                true => arriving.take(page, to.as_deref()),
                false => {
                    let arriving = arriving.clone();
                    let take = move || arriving.take(page, to.as_deref());
                    let taken = tokio::task::spawn_blocking(take).await;
                    taken.unwrap_or_else(|error| Err(io::Error::other(error)))
                }
            };
            taken.inspect_err(|error| log::warn!("listing {path:?}: the index: {error}"))?;
        }
        let mut part = arriving.rest();
        self.find_hollow(ino, &mut part).await?;
        let aside = self.aside(path, moves).await?;
        let stored = arriving.end(&mut part);
        if let Some((id, _)) = stored
            && !part.complete
        {
            // One of many local copies alone is of no use to the next start.
            self.cache.drop_listing(id);
            return Ok(None);
        }
        let parts = Parts {
            parts: vec![part],
            aside,
            complete: true,
        };
        Ok(Some((parts, stored)))
    }

    /// Lays a listing that is in the index under what is known; false if it is about another folder
    /// by now. The caller drops it unless this is true.
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn merge_paged(
        &self,
        (ino, path): (Ino, &str),
        moves: &Moves,
        parts: Parts,
        (id, names): (ListingId, u64),
        begun: Instant,
    ) -> io::Result<bool> {
        // Most of it without the locks.
        let mut rows = HashMap::new();
        let early = self.tree.lock().files_in_memory(ino);
        self.read_rows(&early, (id, path), &mut rows)?;
        let _changes = self.changes.lock();
        if self.tree.lock().path(ino).as_deref() != Some(path) || *self.journal().moves() != *moves
        {
            return Ok(false);
        }
        let (mut listing, mut own) = self.assemble_listing(ino, path, &parts, begun);
        own.extend(self.spoken_names(path, &self.journal().records_below(path)));
        self.note_hidden(path, id, &mut listing)?;
        let paged = self.paged((id, path), names, begun);
        let mut tree = self.tree.lock();
        let in_memory = tree.files_in_memory(ino);
        self.read_rows(&in_memory, (id, path), &mut rows)?;
        listing.files = listed_in(&in_memory, &mut rows, path, begun);
        let Some(stale) = tree.apply_paged(ino, paged, listing, &own) else {
            self.cache.drop_listing(id);
            return Ok(true); // A newer one came first.
        };
        let corrections = self.corrections((&tree, ino), path, &parts);
        drop(tree);
        if let Err(error) = self.cache.finish_listing(id, path, &corrections) {
            // It serves until the unmount.
            log::warn!("the listing of {path:?} is not kept: {error}");
        }
        self.tell_stale(stale);
        Ok(true)
    }

    /// Shows a saved listing, of which no name is in memory.
    pub(super) fn show_saved_large(
        &self,
        (ino, path): (Ino, &str),
        large: &LargeListing,
        records: &[Record],
        begun: Instant,
    ) -> io::Result<()> {
        let mut part = Part::unknown(Lower {
            prefix: path.to_owned(),
            since: None,
        });
        part.complete = true;
        part.objects.extend(large.marker.clone());
        part.prefixes = large.prefixes.clone();
        part.hollow = self.hollow_folders(path);
        let parts = Parts {
            parts: vec![part],
            aside: Vec::new(),
            complete: true,
        };
        let (mut listing, _) = self.assemble_listing(ino, path, &parts, begun);
        let paged = self.paged((large.id, path), large.names, begun);
        let own = self.spoken_names(path, records);
        let mut tree = self.tree.lock();
        let (in_memory, mut rows) = (tree.files_in_memory(ino), HashMap::new());
        self.read_rows(&in_memory, (large.id, path), &mut rows)?;
        listing.files = listed_in(&in_memory, &mut rows, path, begun);
        tree.apply_paged(ino, paged, listing, &own);
        // Whether there is anything aside, only the bucket knows.
        let is_complete = self.journal().moves().elsewhere(path).is_empty();
        if let Some(dir) = tree.dir_mut(ino).filter(|_| !is_complete) {
            dir.listed_at = None;
        }
        Ok(())
    }

    /// Reads what a listing in the index has under names (folded) that were not read yet.
    fn read_rows(
        &self,
        names: &[Arc<str>],
        (id, path): (ListingId, &str),
        rows: &mut HashMap<Arc<str>, Option<ListedObject>>,
    ) -> io::Result<()> {
        for name in names {
            if !rows.contains_key(name) {
                rows.insert(name.clone(), self.cache.listed_name(id, path, name)?);
            }
        }
        Ok(())
    }

    fn paged(&self, (id, path): (ListingId, &str), names: u64, begun: Instant) -> Paged {
        Paged {
            cache: self.cache.clone(),
            id,
            prefix: path.to_owned(),
            begun,
            names,
            hidden: self
                .local_copies
                .as_ref()
                .map(|copies| copies.hidden.clone()),
            broken: AtomicBool::new(false),
        }
    }

    /// Returns the names (folded) in a folder of which the journal speaks.
    fn spoken_names(&self, path: &str, records: &[Record]) -> HashSet<String> {
        let mut names = self.local_names_in(path);
        names.extend(records.iter().filter_map(|record| {
            let name = below(record.key.as_str(), path)?;
            (!name.contains('/')).then(|| fold(name).into_owned())
        }));
        names
    }

    /// A folder wins the name over an object.
    fn note_hidden(&self, path: &str, id: ListingId, listing: &mut Listing) -> io::Result<()> {
        for folder in &listing.folders {
            let covered = self.cache.listed_name(id, path, &fold(folder))?;
            let covered = covered.map(|covered| covered.version.key.as_str().to_owned());
            listing.hidden.extend(covered);
        }
        self.hidden.note(path, &listing.hidden);
        Ok(())
    }

    /// Returns how the rows of names that were changed here since a listing was begun must be
    /// corrected, and of folders that were removed or renamed away here: nothing else would say that
    /// what the bucket still has of them is about to go. What has a record is left: the journal knows
    /// it better.
    fn corrections(&self, (tree, ino): (&Tree, Ino), path: &str, parts: &Parts) -> Vec<Amendment> {
        let Some(dir) = tree.dir(ino) else {
            return Vec::new();
        };
        let mut corrections = Vec::new();
        for name in dir.recent_names() {
            let (key, folder) = (format!("{path}{name}"), format!("{name}/"));
            let is_folder = dir
                .entry(name)
                .is_some_and(|entry| entry.kind == Kind::Folder);
            let has_record =
                Key::new(&key).is_some_and(|key| self.journal().record(&key).is_some());
            corrections.push(match is_folder {
                true => amendment(path, &folder, Holds::Folder),
                false => amendment(path, &folder, Holds::Nothing),
            });
            if has_record {
                continue;
            }
            let shown = tree.listed_object(&key);
            let is_own = |object: &ListedObject| object.version.key.folded().as_str() == fold(&key);
            corrections.push(match shown.filter(is_own) {
                Some(object) => amendment(path, name, Holds::Object(object)),
                None => amendment(path, name, Holds::Nothing),
            });
        }
        for prefix in parts.parts.iter().flat_map(|part| &part.prefixes) {
            if let Some(name) = below(prefix, path)
                && dir.entry(name.trim_end_matches('/')).is_none()
            {
                corrections.push(amendment(path, name, Holds::Nothing));
            }
        }
        corrections
    }
}

/// Returns those of some names that a listing has.
fn listed_in(
    names: &[Arc<str>],
    rows: &mut HashMap<Arc<str>, Option<ListedObject>>,
    path: &str,
    begun: Instant,
) -> Vec<(String, Listed)> {
    let listed = names.iter().filter_map(|name| {
        let object = rows.remove(name).flatten()?;
        let spelling = below(object.version.key.as_str(), path)?.to_owned();
        Some((spelling, Listed::from_object(&object, begun)))
    });
    listed.collect()
}
