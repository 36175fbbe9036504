//! Laying a listing of the bucket under what is known here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::super::attr::{Ino, Kind};
use super::super::inode::Listed;
use super::super::name::fold;
use super::{Entry, Place, Tree, folded_of};
use crate::store::ObjectVersion;

/// A complete or partial listing of one folder, names only.
pub(in crate::fs) struct Listing {
    /// Files by name.
    pub(in crate::fs) files: Vec<(String, Listed)>,
    /// Folders by name.
    pub(in crate::fs) folders: Vec<String>,
    /// Keys in it that no name can stand for.
    pub(in crate::fs) hidden: Vec<String>,
    /// The folder's markers.
    pub(in crate::fs) markers: Vec<ObjectVersion>,
    /// Whether what it does not name is absent.
    pub(in crate::fs) complete: bool,
    /// When it was begun.
    pub(in crate::fs) begun: Instant,
}

/// A name whose kernel entry is no longer right.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::fs) struct Stale {
    /// The folder.
    pub(in crate::fs) parent: Ino,
    /// The name as the kernel was given it.
    pub(in crate::fs) name: Arc<str>,
}

impl Tree {
    /// Lays a listing under what is known; names with a record of our own (`own`, folded) or
    /// changed here since the listing was begun stay as they are. Returns what the kernel must
    /// look up again.
    pub(in crate::fs) fn apply_listing(
        &mut self,
        ino: Ino,
        listing: Listing,
        own: &HashSet<String>,
    ) -> Vec<Stale> {
        self.page_in_kept(ino, own);
        let Some(dir) = self.dirs.get_mut(&ino) else {
            return Vec::new();
        };
        if dir.listed_at.is_some_and(|newer| newer > listing.begun) {
            return Vec::new();
        }
        let begun = listing.begun;
        dir.recent.retain(|_, changed| *changed >= begun);
        let mut keep: HashSet<String> = own.clone();
        keep.extend(dir.recent.keys().map(|name| name.to_string()));
        if listing.complete {
            dir.listed_at = Some(begun);
            dir.unpage();
        }
        for marker in listing.markers {
            dir.note_marker(marker);
        }
        let mut seen = HashSet::new();
        let mut stale = Vec::new();
        for name in &listing.folders {
            let folded = fold(name);
            seen.insert(folded.to_string());
            if !keep.contains(&*folded) {
                self.list_folder(ino, name, (begun, listing.complete), &mut stale);
            }
        }
        for (name, listed) in listing.files {
            let folded = fold(&name).into_owned();
            // A folder wins the name over an object.
            if !keep.contains(&folded) && !seen.contains(&folded) {
                self.list_file(ino, &name, listed, listing.complete, &mut stale);
            }
            seen.insert(folded);
        }
        if listing.complete {
            self.drop_unlisted((ino, begun), &seen, &keep, &mut stale);
        }
        stale
    }

    /// What is known goes only for what a complete listing shows: one of the local copies alone says
    /// nothing about the bucket.
    fn list_folder(
        &mut self,
        parent: Ino,
        name: &str,
        (begun, complete): (Instant, bool),
        stale: &mut Vec<Stale>,
    ) {
        let known = self
            .dirs
            .get(&parent)
            .and_then(|dir| dir.entry(name))
            .map(Cow::into_owned);
        if let Some(entry) = known {
            if entry.kind == Kind::Folder || !complete || self.is_written(&entry) {
                return;
            }
            self.detach(parent, &entry, stale);
        }
        let ino = self.add_folder(None, begun);
        let entry = Entry {
            spelling: name.into(),
            ino,
            kind: Kind::Folder,
            listed: None,
        };
        let folded = folded_of(&entry.spelling);
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.entries.insert(folded.clone(), entry);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = Some(Place {
                parent,
                name: folded,
            });
        }
    }

    pub(in crate::fs) fn list_file(
        &mut self,
        parent: Ino,
        name: &str,
        listed: Listed,
        complete: bool,
        stale: &mut Vec<Stale>,
    ) {
        let spelling: Arc<str> = name.into();
        let folded = folded_of(&spelling);
        let known = self
            .dirs
            .get(&parent)
            .and_then(|dir| dir.entry_folded(&folded))
            .map(Cow::into_owned);
        let mut ino = None;
        if let Some(entry) = known {
            if self.is_same(&entry, &listed) {
                if let Some(node) = self.nodes.get(&entry.ino) {
                    let mut state = node.inode.state.lock();
                    state.checked_at = state.checked_at.max(listed.checked_at);
                    return;
                }
                ino = Some(entry.ino);
            } else if !complete
                || self.is_written(&entry)
                || self.is_known_since(&entry, listed.checked_at)
            {
                return;
            } else {
                self.detach(parent, &entry, stale);
            }
        }
        let ino = ino.unwrap_or_else(|| self.new_ino());
        let entry = Entry {
            spelling,
            ino,
            kind: Kind::File,
            listed: Some(Box::new(listed)),
        };
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.entries.insert(folded, entry);
        }
    }

    fn is_same(&self, entry: &Entry, listed: &Listed) -> bool {
        if let Some(known) = &entry.listed {
            return known.version == listed.version && known.origin == listed.origin;
        }
        let Some(node) = self.nodes.get(&entry.ino) else {
            return false;
        };
        let state = node.inode.state.lock();
        state
            .remote()
            .is_some_and(|remote| remote.version == listed.version)
    }

    /// Whether somebody has a file open for writing: it keeps its name, so that what is written is
    /// uploaded on top of the version it was opened with, and both are kept.
    fn is_written(&self, entry: &Entry) -> bool {
        let node = self.nodes.get(&entry.ino);
        node.is_some_and(|node| node.inode.state.lock().writers > 0)
    }

    /// Whether the bucket was asked for this very name after a listing was begun, which may be of a time
    /// before what it told.
    fn is_known_since(&self, entry: &Entry, begun: Instant) -> bool {
        let checked_at = match (&entry.listed, self.nodes.get(&entry.ino)) {
            (_, Some(node)) => Some(node.inode.state.lock().checked_at),
            (Some(listed), None) => Some(listed.checked_at),
            (None, None) => None,
        };
        entry.kind == Kind::File && checked_at.is_some_and(|checked_at| checked_at > begun)
    }

    fn drop_unlisted(
        &mut self,
        (ino, begun): (Ino, Instant),
        seen: &HashSet<String>,
        keep: &HashSet<String>,
        stale: &mut Vec<Stale>,
    ) {
        let Some(dir) = self.dirs.get(&ino) else {
            return;
        };
        let gone: Vec<Entry> = dir
            .entries
            .iter()
            .filter(|(name, _)| !seen.contains(&***name) && !keep.contains(&***name))
            .map(|(_, entry)| entry.clone())
            .filter(|entry| !self.is_written(entry) && !self.is_known_since(entry, begun))
            .collect();
        for entry in gone {
            self.detach(ino, &entry, stale);
        }
    }

    /// Takes a name out because the bucket shows it otherwise: open handles keep the old bytes.
    fn detach(&mut self, parent: Ino, entry: &Entry, stale: &mut Vec<Stale>) {
        let folded = fold(&entry.spelling);
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.take(&folded);
        }
        if let Some(node) = self.nodes.get_mut(&entry.ino) {
            node.place = None;
            node.inode.state.lock().superseded = true;
            stale.push(Stale {
                parent,
                name: entry.spelling.clone(),
            });
            // Its further names are looked up anew: they go with the first.
            for link in std::mem::take(&mut node.links) {
                if let Some(dir) = self.dirs.get_mut(&link.parent)
                    && let Some(entry) = dir.take(&link.name)
                {
                    stale.push(Stale {
                        parent: link.parent,
                        name: entry.spelling,
                    });
                }
            }
        }
        self.release_memory(entry.ino);
    }

    /// The name shows another version from now on, of which `listed` is known.
    pub(in crate::fs) fn supersede(&mut self, ino: Ino, listed: Option<Listed>) -> Vec<Stale> {
        let mut stale = Vec::new();
        let Some(place) = self.place(ino).cloned() else {
            return stale;
        };
        let dir = self.dirs.get(&place.parent);
        let entry = dir.and_then(|dir| dir.entry_folded(&place.name));
        let Some(entry) = entry.map(Cow::into_owned) else {
            return stale;
        };
        self.detach(place.parent, &entry, &mut stale);
        if let Some(listed) = listed {
            self.insert_listed(place.parent, &entry.spelling, listed);
        }
        stale
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::super::inode::Meta;
    use super::*;
    use crate::store::{ETag, Key, Origin};

    fn listing(begun: Instant, origin: Origin, etag: &str) -> Listing {
        let listed = Listed {
            version: ObjectVersion {
                key: Key::new("layers/a").unwrap(),
                etag: ETag::new(etag),
            },
            origin,
            size: 1,
            last_modified: SystemTime::UNIX_EPOCH,
            checked_at: begun,
        };
        Listing {
            files: vec![("a".into(), listed)],
            folders: Vec::new(),
            hidden: Vec::new(),
            markers: Vec::new(),
            complete: origin == Origin::Primary,
            begun,
        }
    }

    fn tree(now: Instant) -> (Tree, Ino) {
        let time = SystemTime::UNIX_EPOCH;
        let defaults = Meta {
            size: 0,
            atime: time,
            mtime: time,
            ctime: time,
            mode: 0o644,
            uid: 0,
            gid: 0,
            xattrs: None,
        };
        let tree = Tree::new(&["layers".into()], defaults, now);
        let layers = tree.dir(Ino::ROOT).unwrap().entry("layers").unwrap().ino;
        (tree, layers)
    }

    /// Opened, the entry has an inode whose version was looked at then; before, it is a row of the folder.
    fn older_listings_undo_nothing(is_open: bool) {
        let (then, now) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let (mut tree, layers) = tree(then);
        let looked_up = listing(then + Duration::from_secs(5), Origin::Primary, "second");
        let (name, listed) = looked_up.files.into_iter().next().unwrap();
        tree.insert_listed(layers, &name, listed);
        if is_open {
            tree.materialise(layers, "a").unwrap();
        }
        let shown = |tree: &Tree| tree.version(layers, "a").map(|version| version.etag);
        let (own, second) = (HashSet::new(), Some(ETag::new("second")));
        assert_eq!(
            tree.apply_listing(layers, listing(then, Origin::Primary, "first"), &own),
            []
        );
        assert_eq!(shown(&tree), second);
        let mut empty = listing(then, Origin::Primary, "first");
        empty.files.clear();
        assert_eq!(tree.apply_listing(layers, empty, &own), []);
        assert_eq!(shown(&tree), second);
        let mut empty = listing(now, Origin::Primary, "first");
        empty.files.clear();
        tree.apply_listing(layers, empty, &own);
        assert_eq!(shown(&tree), None);
    }

    #[test]
    fn a_listing_does_not_undo_what_was_learned_of_a_name_after_it_was_begun() {
        older_listings_undo_nothing(false);
        older_listings_undo_nothing(true);
    }

    #[test]
    fn a_local_copy_takes_no_version_of_the_bucket_away() {
        let now = Instant::now();
        let (mut tree, layers) = tree(now);
        let own = HashSet::new();
        tree.apply_listing(layers, listing(now, Origin::Primary, "bucket"), &own);
        let ino = tree.materialise(layers, "a").unwrap().ino;
        // The bucket could not be reached: only the local side is listed.
        tree.apply_listing(layers, listing(now, Origin::Fallback, "local"), &own);
        let inode = tree.materialise(layers, "a").unwrap();
        assert_eq!(inode.ino, ino);
        let state = inode.state.lock();
        assert_eq!(state.remote().unwrap().version.etag, ETag::new("bucket"));
    }
}
