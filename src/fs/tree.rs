//! The names: folders, what they hold, and which inode each name stands for.
//!
//! The tree is an overlay. Below lies the bucket as last listed, above it the journal's records
//! and what has changed here since a listing was begun: an old listing never brings back what was
//! deleted here, nor hides what was made here. The tree knows names only; what the bytes are is the
//! inode's matter.

mod known;
mod links;
mod merge;
mod paged;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

pub(super) use merge::{Listing, Stale};
pub(super) use paged::{Paged, entry_of};

use super::attr::{Ino, Kind};
use super::inode::{Content, Inode, Listed, Meta, Remote, State};
use super::name::fold;
use crate::store::{ETag, Key, ObjectVersion};

/// All names and inodes that are known.
pub(super) struct Tree {
    nodes: HashMap<Ino, Node>,
    dirs: HashMap<Ino, Dir>,
    next_ino: u64,
    /// Names that were changed by another spelling than their own, by which the kernel knows them.
    respelled: Vec<Stale>,
    /// Attributes of what the bucket tells nothing about.
    pub(super) defaults: Meta,
}

struct Node {
    inode: Arc<Inode>,
    /// `None` once the name is gone (or shows another version).
    place: Option<Place>,
    /// Its further names.
    links: Vec<Place>,
    /// What the kernel still holds; raised before a reply leaves.
    lookups: u64,
}

/// Where an inode's name stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The folder.
    pub(super) parent: Ino,
    /// The name in its folded form.
    pub(super) name: Arc<str>,
}

/// A folder's names.
#[derive(Default)]
pub(super) struct Dir {
    /// By their names in the folded form.
    entries: BTreeMap<Arc<str>, Entry>,
    /// What lies below the entries, if they are not all.
    pub(super) paged: Option<Paged>,
    /// Names (folded) that do not show what lies below.
    gone: HashSet<Arc<str>>,
    /// Names that were changed here, with the time: a listing begun before does not count for them.
    recent: HashMap<Arc<str>, Instant>,
    /// When the listing that the entries come from was begun; `None` if they are not complete.
    pub(super) listed_at: Option<Instant>,
    /// Whether the saved listing and the journal's records have been laid over it.
    pub(super) loaded: bool,
    /// When the last change of our own below it was done in the bucket.
    pub(super) uploaded_at: Option<Instant>,
    /// Whether it has so many names that they are not listed behind a look-up.
    pub(super) is_long: bool,
    /// Whether its kept attributes have been given to its inode.
    pub(super) attributes_known: bool,
    /// Its marker objects: under its own key, and those that came with it from where it was.
    pub(super) markers: Vec<ObjectVersion>,
}

/// One name.
#[derive(Clone)]
pub(super) struct Entry {
    /// As it was last written.
    pub(super) spelling: Arc<str>,
    /// Its inode, which need not be in memory.
    pub(super) ino: Ino,
    /// File or folder.
    pub(super) kind: Kind,
    /// What is known of a file that is not in memory as an inode.
    pub(super) listed: Option<Box<Listed>>,
}

impl Tree {
    /// Returns a tree with the root and its collections, each a folder of the bucket.
    pub(super) fn new(collections: &[String], defaults: Meta, now: Instant) -> Tree {
        let mut tree = Tree {
            nodes: HashMap::new(),
            dirs: HashMap::new(),
            next_ino: Ino::ROOT.0,
            respelled: Vec::new(),
            defaults,
        };
        let root = tree.add_folder(None, now);
        debug_assert_eq!(root, Ino::ROOT);
        for collection in collections {
            tree.insert_folder(root, collection, now);
        }
        if let Some(dir) = tree.dirs.get_mut(&root) {
            dir.loaded = true;
            dir.listed_at = Some(now);
        }
        tree
    }

    /// Returns a number that no inode has had.
    pub(super) fn new_ino(&mut self) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        ino
    }

    /// Returns an inode that is in memory.
    pub(super) fn inode(&self, ino: Ino) -> Option<&Arc<Inode>> {
        self.nodes.get(&ino).map(|node| &node.inode)
    }

    /// Returns all inodes that are in memory.
    pub(super) fn inodes(&self) -> Vec<Arc<Inode>> {
        self.nodes.values().map(|node| node.inode.clone()).collect()
    }

    /// Returns where an inode's name stands, while it has one.
    pub(super) fn place(&self, ino: Ino) -> Option<&Place> {
        self.nodes.get(&ino)?.place.as_ref()
    }

    /// Returns a folder.
    pub(super) fn dir(&self, ino: Ino) -> Option<&Dir> {
        self.dirs.get(&ino)
    }

    /// Returns a folder to be changed.
    pub(super) fn dir_mut(&mut self, ino: Ino) -> Option<&mut Dir> {
        self.dirs.get_mut(&ino)
    }

    /// Returns the key prefix of a folder: empty for the root, else ending in `/`. `None` if the
    /// folder has been removed.
    pub(super) fn path(&self, ino: Ino) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let place = self.place(at)?;
            names.push(
                &*self
                    .dirs
                    .get(&place.parent)?
                    .entries
                    .get(&place.name)?
                    .spelling,
            );
            at = place.parent;
        }
        let mut path = String::new();
        for name in names.into_iter().rev() {
            path.push_str(name);
            path.push('/');
        }
        Some(path)
    }

    /// Returns the key that a file's name makes, or a folder's marker. `None` without a name.
    pub(super) fn key(&self, ino: Ino) -> Option<Key> {
        self.key_at(self.place(ino)?)
    }

    fn key_at(&self, place: &Place) -> Option<Key> {
        let entry = self.dirs.get(&place.parent)?.entry_folded(&place.name)?;
        let slash = if entry.kind == Kind::Folder { "/" } else { "" };
        Key::new(&format!(
            "{}{}{slash}",
            self.path(place.parent)?,
            entry.spelling
        ))
    }

    /// Has the listings of a folder, of the one above and of all below count as being no newer than
    /// `to`, so that they are made anew when they are next asked for.
    pub(super) fn age_listings(&mut self, folder: &str, to: Instant) {
        let above = folder.trim_end_matches('/').rsplit_once('/');
        let above = above.map_or(String::new(), |(above, _)| format!("{above}/"));
        let inos: Vec<Ino> = self.dirs.keys().copied().collect();
        for ino in inos.into_iter().filter(|ino| *ino != Ino::ROOT) {
            let path = self.path(ino).unwrap_or_default();
            if (path == above || path.starts_with(folder))
                && let Some(dir) = self.dirs.get_mut(&ino)
            {
                dir.listed_at = dir.listed_at.map(|listed| listed.min(to));
            }
        }
    }

    /// Notes on each folder above a key that the name below it was changed here, now.
    pub(super) fn note_change(&mut self, key: &str, now: Instant) {
        let mut parent = Ino::ROOT;
        for name in key.split('/').filter(|name| !name.is_empty()) {
            let folded = fold(name);
            let Some(dir) = self.dirs.get_mut(&parent) else {
                return;
            };
            // A folder that is not loaded shows nothing yet that an old listing could take away,
            // and the saved listing that it will be loaded from tells of the change.
            if dir.loaded {
                dir.recent.insert((&*folded).into(), now);
            }
            dir.uploaded_at = Some(now);
            let Some(entry) = dir.entry_folded(&folded) else {
                return;
            };
            parent = entry.ino;
        }
    }

    /// Looks a name up and brings its inode into memory, without raising the lookup count.
    pub(super) fn materialise(&mut self, parent: Ino, name: &str) -> Option<Arc<Inode>> {
        let folded = fold(name);
        self.page_in(parent, &folded);
        let entry = self.dirs.get_mut(&parent)?.entries.get_mut(&*folded)?;
        let (ino, name) = (entry.ino, folded_of(&entry.spelling));
        if let Some(node) = self.nodes.get(&ino) {
            return Some(node.inode.clone());
        }
        let listed = entry.listed.take()?;
        let meta = Meta {
            size: listed.size,
            atime: listed.last_modified,
            mtime: listed.last_modified,
            ctime: listed.last_modified,
            ..self.defaults.clone()
        };
        let remote = Remote {
            version: listed.version,
            origin: listed.origin,
            file: None,
        };
        let state = State::new(meta, Content::Remote(remote), listed.checked_at);
        let inode = Arc::new(Inode {
            ino,
            kind: Kind::File,
            state: Mutex::new(state),
        });
        let place = Some(Place { parent, name });
        self.nodes.insert(
            ino,
            Node {
                inode: inode.clone(),
                place,
                links: Vec::new(),
                lookups: 0,
            },
        );
        Some(inode)
    }

    /// Raises the lookup count; before the reply that tells the kernel of the inode.
    pub(super) fn looked_up(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel gives back lookups. A file that is in the bucket, closed and forgotten leaves
    /// memory and keeps its name and number; a removed folder goes.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        let removed = node.lookups == 0 && node.place.is_none() && ino != Ino::ROOT;
        if removed && node.inode.kind == Kind::Folder {
            self.nodes.remove(&ino);
            self.dirs.remove(&ino);
            return;
        }
        self.release_memory(ino);
    }

    /// Lets a file leave memory when neither the kernel nor a handle needs it.
    pub(super) fn release_memory(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else {
            return;
        };
        if node.lookups > 0 || node.inode.kind == Kind::Folder {
            return;
        }
        let state = node.inode.state.lock();
        if state.gate.handles() > 0 || !node.links.is_empty() {
            return;
        }
        let listed = match (&node.place, &state.content) {
            (None, _) => None,
            (Some(place), Content::Remote(remote)) => Some((
                place.clone(),
                Listed {
                    version: remote.version.clone(),
                    origin: remote.origin,
                    size: state.meta.size,
                    last_modified: state.meta.mtime,
                    checked_at: state.checked_at,
                },
            )),
            // The journal has a record for it; it stays.
            (Some(_), Content::Staged(_) | Content::Folder | Content::Special(_)) => return,
        };
        drop(state);
        if let Some((place, listed)) = listed
            && let Some(dir) = self.dirs.get_mut(&place.parent)
        {
            if dir.is_below(&place.name, &listed) {
                dir.entries.remove(&place.name);
                dir.gone.remove(&place.name);
            } else if let Some(entry) = dir.entries.get_mut(&place.name) {
                entry.listed = Some(Box::new(listed));
            }
        }
        self.nodes.remove(&ino);
    }

    fn insert_name(
        &mut self,
        parent: Ino,
        name: &str,
        inode: &Inode,
        now: Instant,
    ) -> Option<Place> {
        let entry = Entry {
            spelling: name.into(),
            ino: inode.ino,
            kind: inode.kind,
            listed: None,
        };
        self.insert_entry(parent, name, entry, now)
    }

    /// Adds or replaces the name of a file or a special node. What stood there loses its name.
    pub(super) fn insert_file(
        &mut self,
        parent: Ino,
        name: &str,
        inode: &Arc<Inode>,
        now: Instant,
    ) {
        let place = self.insert_name(parent, name, inode, now);
        if let Some(node) = self.nodes.get_mut(&inode.ino) {
            node.place = place;
            return;
        }
        self.nodes.insert(
            inode.ino,
            Node {
                inode: inode.clone(),
                place,
                links: Vec::new(),
                lookups: 0,
            },
        );
    }

    /// Adds a folder's name, or returns the folder that has it.
    pub(super) fn insert_folder(&mut self, parent: Ino, name: &str, now: Instant) -> Ino {
        if let Some(entry) = self.dirs.get(&parent).and_then(|dir| dir.entry(name))
            && entry.kind == Kind::Folder
        {
            return entry.ino;
        }
        let ino = self.add_folder(None, now);
        let entry = Entry {
            spelling: name.into(),
            ino,
            kind: Kind::Folder,
            listed: None,
        };
        let place = self.insert_entry(parent, name, entry, now);
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = place;
        }
        ino
    }

    /// Adds a file that a HEAD found.
    pub(super) fn insert_listed(&mut self, parent: Ino, name: &str, listed: Listed) {
        let ino = self.new_ino();
        let entry = Entry {
            spelling: name.into(),
            ino,
            kind: Kind::File,
            listed: Some(Box::new(listed)),
        };
        if let Some(dir) = self.dirs.get_mut(&parent) {
            let folded = folded_of(&entry.spelling);
            dir.entries.entry(folded).or_insert(entry);
        }
    }

    /// Takes a name out; its inode lives on without a name.
    pub(super) fn remove(&mut self, parent: Ino, name: &str, now: Instant) -> Option<Ino> {
        let folded = fold(name);
        self.page_in(parent, &folded);
        let dir = self.dirs.get_mut(&parent)?;
        dir.recent.insert((&*folded).into(), now);
        let entry = dir.take(&folded)?;
        self.note_respelled(parent, name, &entry.spelling);
        let lost = Place {
            parent,
            name: (&*folded).into(),
        };
        self.lose_place(entry.ino, &lost);
        self.release_memory(entry.ino);
        Some(entry.ino)
    }

    /// Gives a file or folder another name; what stood there loses its name.
    pub(super) fn rename(
        &mut self,
        from: (Ino, &str),
        to: (Ino, &str),
        now: Instant,
    ) -> Option<()> {
        let folded = fold(from.1);
        self.page_in(from.0, &folded);
        let dir = self.dirs.get_mut(&from.0)?;
        dir.recent.insert((&*folded).into(), now);
        let mut entry = dir.take(&folded)?;
        let ino = entry.ino;
        self.note_respelled(from.0, from.1, &entry.spelling);
        entry.spelling = to.1.into();
        let former = Place {
            parent: from.0,
            name: (&*folded).into(),
        };
        if entry.kind == Kind::Folder {
            self.page_in_all(ino);
        }
        let place = self.insert_entry(to.0, to.1, entry, now);
        self.move_place(ino, &former, place);
        Some(())
    }

    /// Two names change what they stand for; each keeps its spelling.
    pub(super) fn exchange(&mut self, a: (Ino, &str), b: (Ino, &str), now: Instant) {
        let mut find = |(parent, name): (Ino, &str)| {
            self.page_in(parent, &fold(name));
            let entry = self.dir(parent)?.entry(name)?.into_owned();
            if entry.kind == Kind::Folder {
                self.page_in_all(entry.ino);
            }
            Some(entry)
        };
        let (Some(one), Some(other)) = (find(a), find(b)) else {
            return;
        };
        let place = |parent, entry: &Entry| Place {
            parent,
            name: (&*fold(&entry.spelling)).into(),
        };
        let (place_a, place_b) = (place(a.0, &one), place(b.0, &other));
        for (name, from, to, former, entry) in [
            (a.1, &place_b, &place_a, &one, &other),
            (b.1, &place_a, &place_b, &other, &one),
        ] {
            self.note_respelled(to.parent, name, &former.spelling);
            let Some(dir) = self.dirs.get_mut(&to.parent) else {
                continue;
            };
            dir.recent.insert(to.name.clone(), now);
            let entry = Entry {
                spelling: former.spelling.clone(),
                ..entry.clone()
            };
            let ino = entry.ino;
            dir.entries.insert(to.name.clone(), entry);
            self.move_place(ino, from, Some(to.clone()));
        }
    }

    fn add_folder(&mut self, place: Option<Place>, now: Instant) -> Ino {
        let ino = self.new_ino();
        let wall = SystemTime::now();
        let mode = 0o755 & !(0o666 & !self.defaults.mode);
        let meta = Meta {
            size: 0,
            atime: wall,
            mtime: wall,
            ctime: wall,
            mode,
            ..self.defaults.clone()
        };
        let state = Mutex::new(State::new(meta, Content::Folder, now));
        let inode = Arc::new(Inode {
            ino,
            kind: Kind::Folder,
            state,
        });
        self.nodes.insert(
            ino,
            Node {
                inode,
                place,
                links: Vec::new(),
                lookups: 0,
            },
        );
        self.dirs.insert(ino, Dir::default());
        ino
    }

    fn note_respelled(&mut self, parent: Ino, name: &str, spelling: &str) {
        if name != spelling {
            self.respelled.push(Stale {
                parent,
                name: spelling.into(),
            });
        }
    }

    /// Returns the names that the kernel must look up again since they were changed by another
    /// spelling, once.
    pub(super) fn take_respelled(&mut self) -> Vec<Stale> {
        std::mem::take(&mut self.respelled)
    }

    fn insert_entry(
        &mut self,
        parent: Ino,
        name: &str,
        entry: Entry,
        now: Instant,
    ) -> Option<Place> {
        let folded = folded_of(&entry.spelling);
        let dir = self.dirs.get_mut(&parent)?;
        dir.recent.insert(folded.clone(), now);
        let place = Place {
            parent,
            name: folded.clone(),
        };
        if let Some(replaced) = dir.entries.insert(folded, entry.clone())
            && replaced.ino != entry.ino
        {
            self.note_respelled(parent, name, &replaced.spelling);
            self.lose_place(replaced.ino, &place);
            self.release_memory(replaced.ino);
        }
        Some(place)
    }
}

/// Returns the folded form of a name: the name itself, where it is that.
fn folded_of(spelling: &Arc<str>) -> Arc<str> {
    match fold(spelling) {
        Cow::Borrowed(_) => spelling.clone(),
        Cow::Owned(folded) => folded.into(),
    }
}

impl Dir {
    /// Returns the tag of the marker object under a key.
    pub(super) fn marker(&self, key: &Key) -> Option<ETag> {
        let found = self.markers.iter().find(|marker| marker.key == *key);
        found.map(|marker| marker.etag.clone())
    }

    /// Notes the marker object under its key.
    pub(super) fn note_marker(&mut self, marker: ObjectVersion) {
        self.markers.retain(|known| known.key != marker.key);
        self.markers.push(marker);
    }

    /// Whether a name was changed here since the folder was last listed.
    pub(super) fn was_changed(&self, name: &str) -> bool {
        self.recent.contains_key(&*fold(name))
    }

    /// Returns the names (folded) that were changed here since the folder was last listed.
    pub(super) fn recent_names(&self) -> impl Iterator<Item = &str> {
        self.recent.keys().map(|name| &**name)
    }

    /// Returns when a name was last changed or confirmed here, if that is not long ago.
    pub(super) fn changed_at(&self, name: &str) -> Option<Instant> {
        self.recent.get(&*fold(name)).copied()
    }
}
