//! Saved listings follow our own changes: what a start finds must show what the bucket holds, also
//! when the journal does not speak of it any more and the bucket cannot be asked.

use std::collections::{BTreeSet, HashSet};

use super::Fs;
use super::link_copies::size_of;
use super::listing::below;
use super::tree::Tree;
use crate::cache::{Amendment, Holds};
use crate::staging::{Change, Record};
use crate::store::{ETag, Key, ListedObject, ObjectVersion};

impl Fs {
    /// Brings the saved listings of the folders above a key to what the bucket holds under it now.
    /// Called before the journal forgets the change, so that one of the two always tells of it.
    pub(super) fn amend_listings(&self, record: &Record, now_holds: Option<&ETag>) {
        let key = record.key.as_str();
        let (folder, name) = key.split_at(key.rfind('/').map_or(0, |at| at + 1));
        let holds = match now_holds {
            Some(etag) => Holds::Object(self.listed_now(record, etag)),
            None => Holds::Nothing,
        };
        self.cache.amend_listings(&[amendment(folder, name, holds)]);
        match now_holds {
            Some(_) => self.show_folders_above(folder),
            None => self.hide_empty_folders_above(folder, name.is_empty()),
        }
    }

    /// A folder was removed, or renamed, and all that it held has tombstones: the saved listing of
    /// the folder above is not to show it any more.
    pub(super) fn forget_listed_folder(&self, folder: &str) {
        if let Some((above, name)) = folders_above(folder).next() {
            self.cache
                .amend_listings(&[amendment(above, name, Holds::Nothing)]);
        }
    }

    /// Returns the folders below `path` that a saved listing may name and whose content has all been
    /// deleted or renamed away here: without a marker nothing else says that they are gone.
    pub(super) fn emptied_folders(&self, path: &str) -> Vec<String> {
        let mut deleted = BTreeSet::new();
        let mut folders = BTreeSet::new();
        for record in self.journal().records_below(path) {
            if !matches!(record.change, Change::Delete(_)) {
                continue;
            }
            let rest = below(record.key.as_str(), path);
            if let Some((name, _)) = rest.and_then(|rest| rest.split_once('/')) {
                folders.insert(name.to_owned());
            }
            deleted.insert(record.key.folded());
        }
        folders.retain(|name| self.is_emptied(&format!("{path}{name}/"), &deleted));
        folders.into_iter().collect()
    }

    /// Returns those folders as prefixes.
    pub(super) fn hollow_folders(&self, path: &str) -> HashSet<String> {
        let emptied = self.emptied_folders(path);
        emptied
            .iter()
            .map(|name| format!("{path}{name}/"))
            .collect()
    }

    fn is_emptied(&self, folder: &str, deleted: &BTreeSet<Key>) -> bool {
        if !self.journal().local_names_below(folder).is_empty() {
            return false;
        }
        let Some(saved) = self.cache.load_listing(folder) else {
            return false;
        };
        let mut objects = saved.objects.iter();
        let mut prefixes = saved.prefixes.iter();
        objects.all(|object| deleted.contains(&object.version.key.folded()))
            && prefixes.all(|prefix| self.is_emptied(prefix, deleted))
    }

    fn listed_now(&self, record: &Record, etag: &ETag) -> ListedObject {
        ListedObject {
            version: ObjectVersion {
                key: record.key.clone(),
                etag: etag.clone(),
            },
            size: size_of(record),
            last_modified: self.clock.now(),
            origin: Default::default(),
        }
    }

    fn show_folders_above(&self, folder: &str) {
        let above = folders_above(folder);
        let amendments: Vec<Amendment> = above
            .map(|(above, name)| amendment(above, name, Holds::Folder))
            .collect();
        self.cache.amend_listings(&amendments);
    }

    /// A folder without a marker goes with its last object.
    fn hide_empty_folders_above(&self, folder: &str, mut marker_is_gone: bool) {
        for (above, name) in folders_above(folder) {
            let path = format!("{above}{name}");
            let is_there = is_there(&self.tree.lock(), above, &path);
            let is_gone = match is_there {
                Some(is_there) => !is_there,
                None => marker_is_gone || self.cache.is_saved_listing_empty(&path),
            };
            if !is_gone {
                return;
            }
            self.cache
                .amend_listings(&[amendment(above, name, Holds::Nothing)]);
            marker_is_gone = false;
        }
    }
}

/// Whether the tree has a folder; `None` if it has not loaded the names of the one above.
fn is_there(tree: &Tree, above: &str, path: &str) -> Option<bool> {
    let (_, entry) = tree.find(above)?;
    tree.dir(entry.ino)
        .is_some_and(|dir| dir.loaded)
        .then(|| tree.find(path).is_some())
}

pub(super) fn amendment(folder: &str, name: &str, holds: Holds) -> Amendment {
    Amendment {
        folder: folder.into(),
        name: name.into(),
        holds,
    }
}

/// Returns the folders from `folder` upwards, each as the path above it and its name with a `/`;
/// without the collections, whose names come from the settings.
fn folders_above(folder: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = folder;
    std::iter::from_fn(move || {
        let end = rest.strip_suffix('/')?.rfind('/')? + 1;
        let (above, name) = rest.split_at(end);
        rest = above;
        Some((above, name))
    })
}

#[cfg(test)]
mod tests {
    use super::folders_above;

    #[test]
    fn folders_are_found_upwards_to_the_collection() {
        let above: Vec<_> = folders_above("projects/a/b/").collect();
        assert_eq!(above, [("projects/a/", "b/"), ("projects/", "a/")]);
        assert_eq!(folders_above("projects/").count(), 0);
        assert_eq!(folders_above("").count(), 0);
    }
}
