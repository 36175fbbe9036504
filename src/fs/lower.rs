//! What the bucket's listings show in a folder. That is the folder's own prefix, and while the
//! folder is on its way from another place, the prefix where its objects still lie
//! ([`Moves`]).
//!
//! An object whose key has a record shows by its record. One that lies below a moved prefix and was
//! written by somebody else after the cut-off does not move; it shows where it lies when the move
//! has been carried out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Fs;
use super::attr::Ino;
use super::inode::Listed;
use super::listing::below;
use super::name::{self, fold};
use super::tree::Listing;
use crate::staging::{Lower, Moves};
use crate::store::ranges::FolderListing;
use crate::store::{ListRequest, ListedObject, ObjectVersion, StoreResult};

/// How many pages are looked at to find out whether a folder holds anything that was not deleted
/// here; beyond that it counts as holding something.
const PAGES_TO_LIFE: usize = 100;

/// A listing of one prefix that shows in a folder.
pub(super) struct Part {
    /// Which prefix.
    pub(super) lower: Lower,
    /// Its objects.
    pub(super) objects: Vec<ListedObject>,
    /// Its subfolders, as prefixes.
    pub(super) prefixes: Vec<String>,
    /// Whether what it does not name is absent.
    pub(super) complete: bool,
    /// Those of `prefixes` below which nothing is left but what was deleted here.
    pub(super) hollow: HashSet<String>,
}

impl Part {
    /// A prefix of which nothing is known.
    pub(super) fn unknown(lower: Lower) -> Part {
        Part {
            lower,
            objects: Vec::new(),
            prefixes: Vec::new(),
            complete: false,
            hollow: HashSet::new(),
        }
    }

    /// Ranges end in any order; saved listings are searched by name.
    pub(super) fn sort(&mut self) {
        let key = |object: &ListedObject| object.version.key.clone();
        self.objects
            .sort_by(|a, b| a.version.key.cmp(&b.version.key));
        self.objects.dedup_by_key(|object| key(object));
        self.prefixes.sort();
        self.prefixes.dedup();
    }
}

/// All that was listed of a folder.
#[derive(Default)]
pub(super) struct Parts {
    /// The listings that show in it.
    pub(super) parts: Vec<Part>,
    /// Folders in it that none of them names, since what is in them lies elsewhere.
    pub(super) aside: Vec<String>,
    /// Whether what is not named is absent.
    pub(super) complete: bool,
}

/// A folder's listing that is put together of parts.
struct Assembly<'a> {
    fs: &'a Fs,
    ino: Ino,
    path: &'a str,
    moves: Arc<Moves>,
    /// Names (folded) that are as the journal says, whatever is listed.
    own: HashSet<String>,
    listing: Listing,
    files: HashSet<String>,
}

impl Fs {
    /// Puts the listings of all prefixes that show in a folder together. Returns the listing and the
    /// names (folded) that are as the journal says, whatever is listed.
    pub(super) fn assemble_listing(
        &self,
        ino: Ino,
        path: &str,
        parts: &Parts,
        begun: Instant,
    ) -> (Listing, HashSet<String>) {
        let moves = self.journal().moves();
        let listing = Listing {
            files: Vec::new(),
            folders: parts.aside.clone(),
            hidden: Vec::new(),
            markers: Vec::new(),
            complete: parts.complete && parts.parts.iter().all(|part| part.complete),
            begun,
        };
        let mut assembly = Assembly {
            fs: self,
            ino,
            path,
            own: self.own_names(ino, path),
            moves,
            listing,
            files: HashSet::new(),
        };
        for part in &parts.parts {
            assembly.add(part);
        }
        assembly.hide_covered_files();
        (assembly.listing, assembly.own)
    }

    /// Returns the names (folded) in a folder that the journal alone knows, or below which there are
    /// such.
    pub(super) fn local_names_in(&self, path: &str) -> HashSet<String> {
        let locals = self.journal().local_names_below(path);
        let names = locals.iter().filter_map(|local| {
            let name = below(local.key.as_str(), path)?.split('/').next()?;
            Some(fold(name).into_owned())
        });
        names.collect()
    }

    /// Returns the names (folded) in a folder that the journal makes or whose content it changes.
    fn own_names(&self, ino: Ino, path: &str) -> HashSet<String> {
        let mut own = self.local_names_in(path);
        let tree = self.tree.lock();
        for record in self.journal().records_below(path) {
            let Some(rest) = below(record.key.as_str(), path) else {
                continue;
            };
            let name = rest.split('/').next().unwrap_or(rest);
            // What is deleted says nothing of what else lies under that name.
            let is_here = || tree.dir(ino).is_some_and(|dir| dir.entry(name).is_some());
            if !record.change.is_delete() || (rest.contains('/') && is_here()) {
                own.insert(fold(name).into_owned());
            }
        }
        own
    }

    /// Whether an object below a moved prefix belongs to what was moved: it was there at the
    /// cut-off, or is known here, `known` being the version that its name shows.
    pub(super) fn moves_along(
        &self,
        version: &ObjectVersion,
        last_modified: SystemTime,
        since: SystemTime,
        known: Option<&ObjectVersion>,
    ) -> bool {
        last_modified <= since
            || known == Some(version)
            // Uploaded or looked at here; clocks differ.
            || self.journal().attributes(version).is_some()
    }

    /// Whether what the bucket holds under a key does not show by itself, since the journal says
    /// what becomes of it. Below a folder that is on its way there may be new files whose key still
    /// holds what is to move: their records know no version that the key holds.
    pub(super) fn is_spoken_for(&self, moves: &Moves, version: &ObjectVersion) -> bool {
        let key = &version.key;
        let Some(record) = self.journal().record(key) else {
            return moves.covers(key) && self.is_settled(version);
        };
        let knows = record.base.is_some() || record.change.is_delete();
        // A write that was sent for what has another name by now may have landed.
        let is_own_former = || {
            !self.journal().attempts(key).is_empty() && self.journal().attributes(version).is_none()
        };
        !moves.covers(key) || knows || is_own_former() || self.is_settled(version)
    }

    fn is_settled(&self, version: &ObjectVersion) -> bool {
        let settled = self.settled.lock();
        let is_it =
            |gone: &ObjectVersion| gone.etag == version.etag && gone.key == version.key.folded();
        settled.iter().any(is_it)
    }

    /// Forgets what was settled below folders that are on their way no more.
    pub(super) fn forget_settled(&self) {
        let moves = self.journal().moves();
        self.settled.lock().retain(|gone| moves.covers(&gone.key));
    }

    /// Lists all that shows in a folder.
    pub(super) async fn list_parts(
        &self,
        ino: Ino,
        path: &str,
        moves: &Moves,
    ) -> StoreResult<Parts> {
        let mut listed = Parts {
            complete: true,
            ..Parts::default()
        };
        for lower in moves.lowers(path) {
            listed.parts.push(self.list_lower(ino, lower).await?);
        }
        listed.aside = self.aside(path, moves).await?;
        Ok(listed)
    }

    /// Lists one prefix.
    async fn list_lower(&self, ino: Ino, lower: Lower) -> StoreResult<Part> {
        let mut part = Part::unknown(lower);
        part.complete = true;
        let prefix = part.lower.prefix.clone();
        let mut listing = FolderListing::new(&prefix, |request| self.list_page(request));
        while let Some(page) = listing.next().await? {
            part.complete &= !page.incomplete;
            part.objects.extend(page.objects);
            part.prefixes.extend(page.prefixes);
        }
        part.sort();
        self.find_hollow(ino, &mut part).await?;
        Ok(part)
    }

    /// Finds the subfolders below which nothing is left.
    pub(super) async fn find_hollow(&self, ino: Ino, part: &mut Part) -> StoreResult<()> {
        for prefix in self.doubtful_folders(ino, part) {
            if !self.holds_anything(&prefix).await? {
                part.hollow.insert(prefix);
            }
        }
        Ok(())
    }

    /// Returns the folders that show in a folder and are in none of the listings that do.
    pub(super) async fn aside(&self, path: &str, moves: &Moves) -> StoreResult<Vec<String>> {
        let mut aside = Vec::new();
        for (name, source) in moves.elsewhere(path) {
            if self.holds_anything(source.as_str()).await? {
                aside.push(name);
            }
        }
        Ok(aside)
    }

    /// Returns the subfolders in which something was deleted here, while nothing else says whether
    /// they are still there.
    fn doubtful_folders(&self, ino: Ino, part: &Part) -> Vec<String> {
        let tree = self.tree.lock();
        let prefixes = part.prefixes.iter();
        let is_doubtful = |prefix: &&String| {
            let name = below(prefix, &part.lower.prefix).map(|name| name.trim_end_matches('/'));
            let is_here = tree
                .dir(ino)
                .zip(name)
                .is_some_and(|(dir, name)| dir.entry(name).is_some());
            !is_here && !self.journal().records_below(prefix).is_empty()
        };
        prefixes.filter(is_doubtful).cloned().collect()
    }

    /// Whether an object lies below a prefix of the bucket and shows there.
    pub(super) async fn holds_anything(&self, prefix: &str) -> StoreResult<bool> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        };
        for _ in 0..PAGES_TO_LIFE {
            let page = self.list_page(request.clone()).await?;
            let moves = self.journal().moves();
            let shows = |object: &ListedObject| {
                let version = &object.version;
                let aside = moves.governing(version.key.as_str()) != moves.governing(prefix);
                !aside && !self.is_spoken_for(&moves, version)
            };
            if page.incomplete || page.objects.iter().any(shows) {
                return Ok(true);
            }
            if page.next.is_none() {
                return Ok(false);
            }
            request.continuation = page.next;
        }
        Ok(true)
    }
}

impl Assembly<'_> {
    fn add(&mut self, part: &Part) {
        for object in &part.objects {
            let key = object.version.key.as_str();
            if below(key, &part.lower.prefix).is_none() {
                match object.size {
                    0 => self.add_marker(part, &object.version),
                    // Not ours to remove with the folder.
                    _ => self.listing.hidden.push(key.to_owned()),
                }
                continue;
            }
            match below(key, &part.lower.prefix) {
                Some(name) if name::is_showable(name) && !name.contains('/') => {
                    self.add_file(part, name, object);
                }
                _ => self.listing.hidden.push(key.to_owned()),
            }
        }
        for prefix in &part.prefixes {
            let name = below(prefix, &part.lower.prefix).and_then(|name| name.strip_suffix('/'));
            match name {
                Some(name) if name::is_showable(name) => self.add_folder(part, name, prefix),
                _ => self.listing.hidden.push(prefix.clone()),
            }
        }
    }

    /// A folder wins the name over an object.
    fn hide_covered_files(&mut self) {
        let Listing {
            files,
            folders,
            hidden,
            ..
        } = &mut self.listing;
        let folders: HashSet<_> = folders.iter().map(|name| fold(name)).collect();
        let covered = files
            .iter()
            .filter(|(name, _)| folders.contains(&fold(name)));
        hidden.extend(covered.map(|(_, listed)| listed.version.key.as_str().to_owned()));
    }

    fn add_marker(&mut self, part: &Part, marker: &ObjectVersion) {
        let is_own = part.lower.since.is_none();
        if is_own || !self.fs.is_spoken_for(&self.moves, marker) {
            self.listing.markers.push(marker.clone());
        }
    }

    fn add_file(&mut self, part: &Part, name: &str, object: &ListedObject) {
        let version = &object.version;
        // The journal's record of the key itself has made the name, or taken it away.
        if self.fs.is_spoken_for(&self.moves, version) {
            return;
        }
        if let Some(since) = part.lower.since {
            let known = self.fs.tree.lock().version(self.ino, name);
            let known = known.as_ref();
            if !self
                .fs
                .moves_along(version, object.last_modified, since, known)
            {
                if known.is_some_and(|known| known.key.folded() == version.key.folded()) {
                    // What was overwritten is renamed all the same, and shows until then.
                    self.own.insert(fold(name).into_owned());
                }
                return;
            }
        }
        if self.files.insert(fold(name).into_owned()) {
            let listed = Listed::from_object(object, self.listing.begun);
            self.listing.files.push((name.to_owned(), listed));
        }
    }

    fn add_folder(&mut self, part: &Part, name: &str, prefix: &str) {
        let shown = self.moves.shown_at(prefix);
        let is_here = fold(&shown) == fold(&format!("{}{name}/", self.path));
        let known = self.own.contains(&*fold(name));
        if is_here && (known || !part.hollow.contains(prefix)) {
            self.listing.folders.push(name.to_owned());
        }
    }
}
