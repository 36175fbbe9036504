//! Which number stands for which file, under which names it was seen, and who still uses it.
//!
//! Plain data: nothing here touches the disk. Numbers are counted from the tree's base and never
//! given twice, so that whatever is kept by number (a registered descriptor, say) never meets
//! another file.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::Arc;

use crate::fs::attr::Kind;

/// The number of the directory itself.
pub(super) const ROOT: u64 = 0;

/// How many names of one file are remembered. More are found again when the kernel looks them up.
const MAX_LINKS: usize = 8;

/// How many paths to one file are tried: names it has, times names that folders above it had.
const MAX_PATHS: usize = 32;

/// How many steps upwards the search for paths takes, all paths together.
const MAX_STEPS: usize = 16 * 1024;

/// How many numbers of listed but never looked-up files are kept for a lookup to come.
const MAX_AHEAD: usize = 64 * 1024;

/// What the disk calls a file. A disk uses it again after the file is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileKey {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What tells a file from all others, also from an earlier one with its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) key: FileKey,
    /// When it was made, where the disk knows.
    pub(super) born: Option<(i64, u32)>,
    pub(super) kind: Kind,
}

/// An open file.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) file: Arc<File>,
    pub(super) number: u64,
    /// Whether every write goes to the end.
    pub(super) append: bool,
}

/// A name in a folder.
#[derive(Clone, PartialEq)]
struct Link {
    folder: u64,
    name: OsString,
}

struct Node {
    identity: Identity,
    /// Where the file was seen, the latest last. An old one may be wrong; the identity decides.
    links: Vec<Link>,
    lookups: u64,
    handles: Vec<u64>,
}

/// All numbers and handles of one tree.
#[derive(Default)]
pub(super) struct Nodes {
    nodes: HashMap<u64, Node>,
    by_file: HashMap<FileKey, u64>,
    handles: HashMap<u64, Handle>,
    last_number: u64,
    last_handle: u64,
    ahead: HashMap<FileKey, u64>,
    ahead_order: VecDeque<FileKey>,
}

impl Nodes {
    /// Records that a file was seen under a name. Raises its lookup count and returns its number.
    pub(super) fn enter(&mut self, folder: u64, name: &OsStr, identity: &Identity) -> u64 {
        let number = match self.find(identity) {
            Some(number) => number,
            None => self.add(identity),
        };
        self.add_link(number, folder, name);
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups += 1;
        }
        number
    }

    /// Returns the number of a known file.
    pub(super) fn find(&self, identity: &Identity) -> Option<u64> {
        let number = *self.by_file.get(&identity.key)?;
        let node = self.nodes.get(&number)?;
        (node.identity == *identity).then_some(number)
    }

    /// Returns the number that a lookup of a listed file will give.
    pub(super) fn number_ahead(&mut self, key: FileKey) -> u64 {
        if let Some(number) = self.by_file.get(&key).or_else(|| self.ahead.get(&key)) {
            return *number;
        }
        self.last_number += 1;
        self.ahead.insert(key, self.last_number);
        self.ahead_order.push_back(key);
        if self.ahead_order.len() > MAX_AHEAD
            && let Some(oldest) = self.ahead_order.pop_front()
        {
            self.ahead.remove(&oldest);
        }
        self.last_number
    }

    /// Lowers a lookup count.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_unused(number);
        }
    }

    /// Returns what a number stands for.
    pub(super) fn identity(&self, number: u64) -> Option<Identity> {
        Some(self.nodes.get(&number)?.identity.clone())
    }

    /// Returns the paths under which a file may be found, the likeliest first.
    pub(super) fn paths(&self, number: u64) -> Vec<Vec<OsString>> {
        let mut paths = Vec::new();
        let mut trails: Vec<(u64, Vec<&Link>)> = vec![(number, Vec::new())];
        for _ in 0..MAX_STEPS {
            let Some((at, trail)) = trails.pop() else {
                break;
            };
            if at == ROOT {
                paths.push(trail.iter().rev().map(|link| link.name.clone()).collect());
                if paths.len() == MAX_PATHS {
                    break;
                }
                continue;
            }
            for link in self.nodes.get(&at).iter().flat_map(|node| &node.links) {
                // Names that folders had one after the other can lead in a circle.
                let passed = link.folder == number
                    || trail.iter().any(|passed| passed.folder == link.folder);
                if !passed {
                    let mut longer = trail.clone();
                    longer.push(link);
                    trails.push((link.folder, longer));
                }
            }
        }
        paths
    }

    /// Records one more name of a known file, as the latest.
    pub(super) fn add_link(&mut self, number: u64, folder: u64, name: &OsStr) {
        self.remove_link(number, folder, name);
        if let Some(node) = self.nodes.get_mut(&number) {
            if node.links.len() == MAX_LINKS {
                node.links.remove(0);
            }
            let name = name.to_owned();
            node.links.push(Link { folder, name });
        }
    }

    /// Records that a file has lost a name.
    pub(super) fn remove_link(&mut self, number: u64, folder: u64, name: &OsStr) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.links
                .retain(|link| link.folder != folder || link.name != name);
        }
    }

    /// Records that a file has lost its last name: the disk may give its key to a new file at once.
    pub(super) fn bury(&mut self, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.links.clear();
            let key = node.identity.key;
            if self.by_file.get(&key) == Some(&number) {
                self.by_file.remove(&key);
            }
        }
    }

    /// Adds an open file. Returns its handle's number.
    pub(super) fn add_handle(&mut self, handle: Handle) -> u64 {
        self.last_handle += 1;
        if let Some(node) = self.nodes.get_mut(&handle.number) {
            node.handles.push(self.last_handle);
        }
        self.handles.insert(self.last_handle, handle);
        self.last_handle
    }

    /// Returns an open file.
    pub(super) fn handle(&self, fh: u64) -> Option<&Handle> {
        self.handles.get(&fh)
    }

    /// Removes an open file, which closes it unless somebody is still using it.
    pub(super) fn remove_handle(&mut self, fh: u64) -> Option<Handle> {
        let handle = self.handles.remove(&fh)?;
        if let Some(node) = self.nodes.get_mut(&handle.number) {
            node.handles.retain(|open| *open != fh);
            self.drop_unused(handle.number);
        }
        Some(handle)
    }

    /// Returns any open file of a number.
    pub(super) fn open_file(&self, number: u64) -> Option<Arc<File>> {
        let fh = self.nodes.get(&number)?.handles.last()?;
        Some(self.handles.get(fh)?.file.clone())
    }

    /// Returns how many numbers are in use and how many are kept ahead.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (
            self.nodes.len(),
            self.ahead_order.len().max(self.ahead.len()),
        )
    }

    fn add(&mut self, identity: &Identity) -> u64 {
        let number = self.ahead.remove(&identity.key).unwrap_or_else(|| {
            self.last_number += 1;
            self.last_number
        });
        // An earlier file with this key is gone from the disk, whoever still uses its number.
        self.by_file.insert(identity.key, number);
        let node = Node {
            identity: identity.clone(),
            links: Vec::new(),
            lookups: 0,
            handles: Vec::new(),
        };
        self.nodes.insert(number, node);
        number
    }

    fn drop_unused(&mut self, number: u64) {
        let unused = |node: &Node| node.lookups == 0 && node.handles.is_empty();
        if self.nodes.get(&number).is_some_and(unused) {
            self.bury(number);
            self.nodes.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, born: i64) -> Identity {
        Identity {
            key: FileKey { device: 1, inode },
            born: Some((born, 0)),
            kind: Kind::Folder,
        }
    }

    #[test]
    fn a_number_lives_as_long_as_it_is_known() {
        let mut nodes = Nodes::default();
        let number = nodes.enter(ROOT, OsStr::new("a"), &identity(7, 1));
        assert_eq!(nodes.enter(ROOT, OsStr::new("b"), &identity(7, 1)), number);
        nodes.forget(number, 1);
        assert_eq!(nodes.find(&identity(7, 1)), Some(number));
        nodes.forget(number, 1);
        assert_eq!(nodes.find(&identity(7, 1)), None);
        assert_eq!(nodes.counts().0, 0);
        assert_ne!(nodes.enter(ROOT, OsStr::new("a"), &identity(7, 1)), number);
    }

    #[test]
    fn a_key_that_is_used_again_is_another_file() {
        let mut nodes = Nodes::default();
        let old = nodes.enter(ROOT, OsStr::new("a"), &identity(7, 1));
        let new = nodes.enter(ROOT, OsStr::new("a"), &identity(7, 2));
        assert_ne!(old, new);
        nodes.forget(old, 1);
        assert_eq!(nodes.find(&identity(7, 2)), Some(new));
    }

    #[test]
    fn the_latest_name_is_tried_first_and_circles_end() {
        let mut nodes = Nodes::default();
        let a = nodes.enter(ROOT, OsStr::new("a"), &identity(1, 1));
        let b = nodes.enter(a, OsStr::new("b"), &identity(2, 1));
        nodes.enter(ROOT, OsStr::new("b2"), &identity(2, 1));
        nodes.enter(b, OsStr::new("a2"), &identity(1, 1));
        let path = |names: &[&str]| names.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(nodes.paths(a), [path(&["b2", "a2"]), path(&["a"])]);
        assert_eq!(nodes.paths(b), [path(&["b2"]), path(&["a", "b"])]);
    }

    #[test]
    fn numbers_ahead_are_kept_within_bounds() {
        let mut nodes = Nodes::default();
        let key = |inode| FileKey { device: 1, inode };
        let first = nodes.number_ahead(key(1));
        assert_eq!(nodes.number_ahead(key(1)), first);
        assert_eq!(nodes.enter(ROOT, OsStr::new("a"), &identity(1, 1)), first);
        for inode in 2..MAX_AHEAD as u64 + 100 {
            nodes.number_ahead(key(inode));
        }
        assert!(nodes.counts().1 <= MAX_AHEAD);
        assert_eq!(nodes.number_ahead(key(1)), first);
    }
}
