//! Which object a name shows.

use super::super::attr::Ino;
use super::super::inode::Remote;
use super::{Entry, Tree};
use crate::store::ObjectVersion;

impl Tree {
    /// Returns the version that a file's name shows, if its bytes are in the bucket.
    pub(in crate::fs) fn version(&self, parent: Ino, name: &str) -> Option<ObjectVersion> {
        let entry = self.dirs.get(&parent)?.entry(name)?;
        self.shown(entry).map(|(version, _)| version)
    }

    /// Returns the version and the length of what a key names, if its bytes are in the bucket.
    pub(in crate::fs) fn object(&self, key: &str) -> Option<(ObjectVersion, u64)> {
        self.shown(self.find(key)?.1)
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
