//! What a key names, and which object a name shows.

use std::borrow::Cow;

use super::super::attr::Ino;
use super::super::inode::Remote;
use super::{Entry, Tree};
use crate::store::{ListedObject, ObjectVersion};

impl Tree {
    /// Finds what a key names, as far as its folders are known.
    pub(in crate::fs) fn find(&self, key: &str) -> Option<(Ino, Cow<'_, Entry>)> {
        let mut parent = Ino::ROOT;
        let mut rest = key.strip_suffix('/').unwrap_or(key);
        loop {
            let (name, deeper) = match rest.split_once('/') {
                Some((name, deeper)) => (name, Some(deeper)),
                None => (rest, None),
            };
            let entry = self.dirs.get(&parent)?.entry(name)?;
            match deeper {
                None => return Some((parent, entry)),
                Some(deeper) => (parent, rest) = (entry.ino, deeper),
            }
        }
    }

    /// Returns the version that a file's name shows, if its bytes are in the bucket.
    pub(in crate::fs) fn version(&self, parent: Ino, name: &str) -> Option<ObjectVersion> {
        let entry = self.dirs.get(&parent)?.entry(name)?;
        self.shown(&entry).map(|(version, _)| version)
    }

    /// Returns the version and the length of what a key names, if its bytes are in the bucket.
    pub(in crate::fs) fn object(&self, key: &str) -> Option<(ObjectVersion, u64)> {
        self.shown(&self.find(key)?.1)
    }

    /// Returns the object whose bytes a key's file shows, if they are in the bucket.
    pub(in crate::fs) fn listed_object(&self, key: &str) -> Option<ListedObject> {
        let entry = self.find(key)?.1;
        if let Some(listed) = &entry.listed {
            return Some(ListedObject {
                version: listed.version.clone(),
                size: listed.size,
                last_modified: listed.last_modified,
                origin: listed.origin,
            });
        }
        self.nodes.get(&entry.ino)?.inode.listed_object()
    }

    fn shown(&self, entry: &Entry) -> Option<(ObjectVersion, u64)> {
        if let Some(listed) = &entry.listed {
            return Some((listed.version.clone(), listed.size));
        }
        let state = self.nodes.get(&entry.ino)?.inode.state.lock();
        let Remote { version, .. } = state.remote()?;
        Some((version.clone(), state.meta.size))
    }
}
