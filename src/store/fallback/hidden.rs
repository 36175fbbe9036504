//! The keys that were deleted or renamed away through the mount: a durable set.
//!
//! The files in `output/` are not touched, so without it they would reappear.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::super::Key;
use crate::disk;

const FILE: &str = "hidden-keys.json";

/// A durable set of keys whose local copy is not shown any more.
#[derive(Debug)]
pub struct HiddenKeys {
    path: PathBuf,
    /// Held while the file is written: the file must not go back to an older set.
    writing: Mutex<()>,
    /// Taken after `writing`. Sorted, so that a folder's keys lie together.
    keys: Mutex<BTreeSet<Key>>,
}

impl HiddenKeys {
    /// Loads the set from its file in `dir`; without a file it is empty. A damaged file is an
    /// error: taking it for empty would bring deleted files back.
    pub fn open(dir: &Path) -> io::Result<HiddenKeys> {
        let path = dir.join(FILE);
        let names: Vec<String> = match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let keys = names.iter().filter_map(|name| Key::new(name)).collect();
        Ok(HiddenKeys {
            path,
            writing: Mutex::new(()),
            keys: Mutex::new(keys),
        })
    }

    /// Whether the key's local copy is not shown.
    pub fn contains(&self, key: &Key) -> bool {
        self.keys.lock().contains(&key.folded())
    }

    /// Whether any key with this prefix is hidden.
    pub fn any_below(&self, prefix: &str) -> bool {
        let Some(start) = Key::new(prefix) else {
            return !self.keys.lock().is_empty();
        };
        let keys = self.keys.lock();
        let mut from = keys.range((Bound::Included(start.folded()), Bound::Unbounded));
        from.next()
            .is_some_and(|key| key.as_str().starts_with(start.folded().as_str()))
    }

    /// Hides a key. Blocks on the disk; after success the key stays hidden over a power cut.
    pub fn hide(&self, key: &Key) -> io::Result<()> {
        let key = key.folded();
        let _writing = self.writing.lock();
        let mut keys = self.keys.lock().clone();
        if !keys.insert(key) {
            return Ok(());
        }
        let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
        disk::write_atomic(&self.path, &serde_json::to_vec(&names)?)?;
        *self.keys.lock() = keys;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_keys_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| Key::new(name).unwrap();
        let hidden = HiddenKeys::open(dir.path()).unwrap();
        hidden.hide(&key("a/b")).unwrap();
        // In R2 the two spellings are one object.
        hidden.hide(&key("e\u{301}")).unwrap();
        let hidden = HiddenKeys::open(dir.path()).unwrap();
        assert!(hidden.contains(&key("a/b")) && hidden.contains(&key("\u{e9}")));
        assert!(!hidden.contains(&key("a")));
        assert!(hidden.any_below("a/") && !hidden.any_below("b/") && hidden.any_below(""));
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "[").unwrap();
        assert!(HiddenKeys::open(dir.path()).is_err());
    }
}
