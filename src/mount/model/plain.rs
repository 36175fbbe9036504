//! What the file system is compared with: a map of names, and contents by number.

use std::collections::{BTreeMap, BTreeSet};

/// What is to be seen: files with their bytes, folders with none.
pub(super) type Shown = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Folder,
    File(usize),
}

/// Names, contents, and the files that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    names: BTreeMap<String, Node>,
    contents: Vec<Vec<u8>>,
    slots: [Option<usize>; 2],
}

/// What an operation answers: nothing, or an error number.
pub(super) type Answer = Result<(), i32>;

impl Plain {
    pub(super) fn shown(&self) -> Shown {
        let bytes = |node: &Node| match node {
            Node::Folder => None,
            Node::File(number) => Some(self.contents[*number].clone()),
        };
        let names = self.names.iter();
        names
            .map(|(path, node)| (path.clone(), bytes(node)))
            .collect()
    }

    /// The files that the bucket is to hold in the end.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let shown = self.shown().into_iter();
        shown
            .filter_map(|(path, bytes)| Some((path, bytes?)))
            .collect()
    }

    /// The names of each file that has several.
    pub(super) fn groups(&self) -> BTreeSet<BTreeSet<String>> {
        let mut groups: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (path, node) in &self.names {
            if let Node::File(number) = node {
                groups.entry(*number).or_default().insert(path.clone());
            }
        }
        groups
            .into_values()
            .filter(|names| names.len() > 1)
            .collect()
    }

    fn names_of(&self, node: Node) -> usize {
        self.names.values().filter(|other| **other == node).count()
    }

    /// The bytes of the file that is open in a slot.
    pub(super) fn open_bytes(&self, slot: usize) -> Option<&[u8]> {
        self.slots[slot].map(|number| &self.contents[number][..])
    }

    /// Forgets what is open, as a kill does.
    pub(super) fn close_all(&mut self) {
        self.slots = [None; 2];
    }

    pub(super) fn is_folder(&self, path: &str) -> bool {
        // The collections themselves are always there.
        !path.contains('/') || self.names.get(path) == Some(&Node::Folder)
    }

    pub(super) fn is_file(&self, path: &str) -> bool {
        matches!(self.names.get(path), Some(Node::File(_)))
    }

    /// Whether the folder that a name is in exists: without it the kernel does not ask.
    pub(super) fn has_parent(&self, path: &str) -> bool {
        path.rsplit_once('/')
            .is_some_and(|(parent, _)| self.is_folder(parent))
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.names.keys().any(|name| name.starts_with(&below))
    }

    pub(super) fn create(&mut self, path: &str, slot: usize) -> Answer {
        if self.names.contains_key(path) {
            return Err(libc::EEXIST);
        }
        self.contents.push(Vec::new());
        let number = self.contents.len() - 1;
        self.names.insert(path.to_owned(), Node::File(number));
        self.slots[slot] = Some(number);
        Ok(())
    }

    pub(super) fn open(&mut self, path: &str, slot: usize, truncate: bool) {
        let Some(Node::File(number)) = self.names.get(path) else {
            unreachable!("the caller has looked")
        };
        self.slots[slot] = Some(*number);
        if truncate {
            self.contents[*number].clear();
        }
    }

    pub(super) fn close(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    pub(super) fn write(&mut self, slot: usize, offset: usize, data: &[u8]) {
        let number = self.slots[slot].expect("the caller has looked");
        let bytes = &mut self.contents[number];
        let end = offset + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset..end].copy_from_slice(data);
    }

    pub(super) fn resize_open(&mut self, slot: usize, size: usize) {
        let number = self.slots[slot].expect("the caller has looked");
        self.contents[number].resize(size, 0);
    }

    pub(super) fn resize(&mut self, path: &str, size: usize) {
        if let Some(Node::File(number)) = self.names.get(path) {
            self.contents[*number].resize(size, 0);
        }
    }

    pub(super) fn make_folder(&mut self, path: &str) -> Answer {
        if self.names.contains_key(path) {
            return Err(libc::EEXIST);
        }
        self.names.insert(path.to_owned(), Node::Folder);
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &str) -> Answer {
        match self.names.get(path) {
            None => Err(libc::ENOENT),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            Some(Node::Folder) if !self.is_empty(path) => Err(libc::ENOTEMPTY),
            Some(Node::Folder) => {
                self.names.remove(path);
                Ok(())
            }
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> Answer {
        match self.names.get(path) {
            None => Err(libc::ENOENT),
            Some(Node::Folder) => Err(libc::EISDIR),
            Some(Node::File(_)) => {
                self.names.remove(path);
                Ok(())
            }
        }
    }

    pub(super) fn link(&mut self, from: &str, to: &str) -> Answer {
        if self.names.contains_key(to) {
            return Err(libc::EEXIST);
        }
        self.names.insert(to.to_owned(), self.names[from]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Answer {
        let source = *self.names.get(from).ok_or(libc::ENOENT)?;
        if matches!(source, Node::File(_)) && self.names.get(to) == Some(&source) {
            // Two names of one file: both stay.
            return Ok(());
        }
        match (source, self.names.get(to)) {
            (Node::Folder, Some(Node::File(_))) => return Err(libc::ENOTDIR),
            (Node::File(_), Some(Node::Folder)) => return Err(libc::EISDIR),
            (Node::Folder, Some(Node::Folder)) if !self.is_empty(to) => {
                return Err(libc::ENOTEMPTY);
            }
            _ => {}
        }
        let below = format!("{from}/");
        let moved: Vec<String> = self
            .names
            .keys()
            .filter(|path| *path == from || path.starts_with(&below))
            .cloned()
            .collect();
        for path in moved {
            let node = self.names.remove(&path).expect("just listed");
            self.names
                .insert(format!("{to}{}", &path[from.len()..]), node);
        }
        Ok(())
    }

    pub(super) fn exchange(&mut self, one: &str, other: &str) -> Answer {
        let (a, b) = (self.names[one], self.names[other]);
        if self.names_of(a).max(self.names_of(b)) > 1 {
            return Err(libc::EINVAL);
        }
        self.names.insert(one.to_owned(), b);
        self.names.insert(other.to_owned(), a);
        Ok(())
    }
}
