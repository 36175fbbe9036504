//! The listings that were seen last, kept in the index: small ones as a whole, written behind; large
//! ones page by page as they arrive, and read a few names at a time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::Cache;
use crate::store::{ListedObject, fold};

/// Listings that wait to be written; bounds memory when the disk is slow.
const MAX_PENDING_LISTINGS: usize = 64;

/// Listings by folder.
pub(super) type Pending = HashMap<String, Arc<SavedListing>>;

/// A complete listing of one folder, as it was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedListing {
    /// Objects, in order.
    pub objects: Vec<ListedObject>,
    /// Folders, each a full prefix that ends in `/`, ordered.
    pub prefixes: Vec<String>,
    /// When it was saved.
    pub saved_at: SystemTime,
}

/// A change of one name in a saved listing.
#[derive(Clone, Debug)]
pub struct Amendment {
    /// The folder, as in [`Cache::save_listing`].
    pub folder: String,
    /// The name below it: of a file; of a folder with its `/`; empty for the folder's own marker.
    pub name: String,
    /// What the name is for now.
    pub holds: Holds,
}

/// What a name of a listing is for.
#[derive(Clone, Debug)]
pub enum Holds {
    /// An object.
    Object(ListedObject),
    /// A folder.
    Folder,
    /// Nothing any more.
    Nothing,
}

/// A listing in the index, as long as that is not made anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListingId {
    pub(super) index: u64,
    pub(super) number: i64,
}

/// A saved listing that is read a few names at a time.
#[derive(Clone, Debug)]
pub struct LargeListing {
    /// By which its names are asked for.
    pub id: ListingId,
    /// How many names it has.
    pub names: u64,
    /// The folder's own marker.
    pub marker: Option<ListedObject>,
    /// Folders, as in [`SavedListing`].
    pub prefixes: Vec<String>,
    /// When it was saved.
    pub saved_at: SystemTime,
}

impl Amendment {
    fn apply(&self, listing: &mut SavedListing) {
        let key = |name: &str| format!("{}{name}", self.folder);
        // It may be listed in the other spelling.
        for spelling in [&*self.name, &*fold(&self.name)] {
            let key = key(spelling);
            if let Ok(at) = listing.prefixes.binary_search(&key) {
                listing.prefixes.remove(at);
            }
            if let Ok(at) = place(&listing.objects, &key) {
                listing.objects.remove(at);
            }
        }
        let key = key(&self.name);
        match &self.holds {
            Holds::Object(object) => {
                let at = place(&listing.objects, &key).unwrap_or_else(|at| at);
                listing.objects.insert(at, object.clone());
            }
            Holds::Folder => {
                let at = listing.prefixes.binary_search(&key).unwrap_or_else(|at| at);
                listing.prefixes.insert(at, key);
            }
            Holds::Nothing => {}
        }
    }
}

fn place(objects: &[ListedObject], key: &str) -> Result<usize, usize> {
    objects.binary_search_by(|object| object.version.key.as_str().cmp(key))
}

impl Cache {
    /// Keeps a complete listing of a folder (`""` or `"a/b/"`), replacing the former one. Written
    /// behind; if too many wait to be written it is not kept. `objects` and `prefixes` are ordered by key.
    pub fn save_listing(&self, folder: &str, objects: &[ListedObject], prefixes: &[String]) {
        let mut pending = self.pending.lock();
        if pending.len() >= MAX_PENDING_LISTINGS && !pending.contains_key(folder) {
            log::debug!("the listing of {folder:?} is not kept: too many wait to be written");
            return;
        }
        let listing = SavedListing {
            objects: objects.to_vec(),
            prefixes: prefixes.to_vec(),
            saved_at: self.clock.now(),
        };
        pending.insert(folder.to_owned(), Arc::new(listing));
        drop(pending);
        self.behind.ring();
    }

    /// Brings saved listings to what a change of our own has made of the bucket. Returns when that
    /// survives a killed process. First those that wait to be written, then those that were: one that
    /// is being written now finds that it has been overtaken.
    pub fn amend_listings(&self, amendments: &[Amendment]) {
        for amendment in amendments {
            if let Some(listing) = self.pending.lock().get_mut(&amendment.folder) {
                amendment.apply(Arc::make_mut(listing));
            }
        }
        self.logged(self.index().amend_listings(amendments));
    }

    /// Whether there is a saved listing of a folder and it names nothing, not even a marker.
    pub fn is_saved_listing_empty(&self, folder: &str) -> bool {
        if let Some(listing) = self.pending.lock().get(folder) {
            return listing.objects.is_empty() && listing.prefixes.is_empty();
        }
        self.logged(self.index().is_listing_empty(folder)) == Some(true)
    }

    /// Returns the listing of a folder that was saved last.
    pub fn load_listing(&self, folder: &str) -> Option<SavedListing> {
        if let Some(listing) = self.pending.lock().get(folder) {
            return Some(SavedListing::clone(listing));
        }
        self.logged(self.index().load_listing(folder)).flatten()
    }

    /// Returns the listing of a folder that was saved last if it has more than so many names.
    pub fn large_listing(&self, folder: &str, above: usize) -> Option<LargeListing> {
        if self.pending.lock().contains_key(folder) {
            return None;
        }
        let found = self.index().large_listing(folder, above as u64);
        self.logged(found).flatten()
    }

    /// Begins a listing of a folder that is too large to be held in memory. It is to be finished or
    /// dropped.
    pub fn begin_listing(&self, folder: &str) -> io::Result<ListingId> {
        let index = self.index();
        let number = index.begin_listing(folder, self.clock.now())?;
        Ok(index.listing_id(number))
    }

    /// Adds what a page of the bucket's listing told.
    ///
    /// # Errors
    /// `NotFound` if the index was made anew meanwhile, here and below.
    pub fn add_to_listing(
        &self,
        id: ListingId,
        folder: &str,
        objects: &[ListedObject],
        prefixes: &[String],
    ) -> io::Result<()> {
        let index = self.index_of(id)?;
        index.add_to_listing(id.number, folder, objects, prefixes)?;
        index.checkpoint()
    }

    /// Has a listing that was begun count as the folder's saved one, with some of its names corrected.
    pub fn finish_listing(
        &self,
        id: ListingId,
        folder: &str,
        amendments: &[Amendment],
    ) -> io::Result<()> {
        self.pending.lock().remove(folder);
        self.index_of(id)?
            .finish_listing(id.number, folder, amendments)?;
        self.behind.ring();
        Ok(())
    }

    /// Gives a listing up that was begun.
    pub fn drop_listing(&self, id: ListingId) {
        // In an index that was made anew it is not.
        if let Ok(index) = self.index_of(id) {
            self.logged(index.drop_listing(id.number));
            self.behind.ring();
        }
    }

    /// Returns the object that a file's folded name stands for in a listing.
    pub fn listed_name(
        &self,
        id: ListingId,
        folder: &str,
        name: &str,
    ) -> io::Result<Option<ListedObject>> {
        self.index_of(id)?.listed_name(id.number, folder, name)
    }

    /// Returns up to so many objects of a listing, each with its folded name, in the order of these,
    /// from the first after `after` on. Folders and the marker are not among them.
    pub fn listed_after(
        &self,
        id: ListingId,
        folder: &str,
        after: &str,
        limit: usize,
    ) -> io::Result<Vec<(String, ListedObject)>> {
        self.index_of(id)?
            .listed_after(id.number, folder, after, limit)
    }

    fn index_of(&self, id: ListingId) -> io::Result<Arc<super::index::Index>> {
        let index = self.index();
        match index.instance() == id.index {
            true => Ok(index),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn write_listings(&self) {
        let pending: HashMap<_, _> = self.pending.lock().clone();
        for (folder, listing) in pending {
            let SavedListing {
                objects,
                prefixes,
                saved_at,
            } = &*listing;
            let is_newest = || {
                let pending = self.pending.lock();
                let newest = pending.get(&folder);
                newest.is_some_and(|other| Arc::ptr_eq(other, &listing))
            };
            self.logged(
                self.index()
                    .save_listing(&folder, objects, prefixes, *saved_at, &is_newest),
            );
            let mut pending = self.pending.lock();
            // A newer one stays for the next round.
            if pending
                .get(&folder)
                .is_some_and(|other| Arc::ptr_eq(other, &listing))
            {
                pending.remove(&folder);
            }
        }
    }
}
