//! Several names of one inode. The first is the one whose key the inode goes by.

use std::sync::Arc;
use std::time::Instant;

use super::super::attr::Ino;
use super::super::inode::Inode;
use super::super::name::fold;
use super::{Place, Tree};
use crate::store::Key;

impl Tree {
    /// Gives an inode that has a name one more.
    pub(in crate::fs) fn add_link(
        &mut self,
        parent: Ino,
        name: &str,
        inode: &Arc<Inode>,
        now: Instant,
    ) {
        let place = self.insert_name(parent, name, inode, now);
        if let Some(node) = self.nodes.get_mut(&inode.ino) {
            node.links.extend(place);
        }
        self.count_names(inode.ino);
    }

    /// Returns the keys of all names of an inode, the one it goes by first.
    pub(in crate::fs) fn keys(&self, ino: Ino) -> Vec<Key> {
        let Some(node) = self.nodes.get(&ino) else {
            return Vec::new();
        };
        let places = node.place.iter().chain(&node.links);
        places.filter_map(|place| self.key_at(place)).collect()
    }

    /// Returns the key that a name in a folder has.
    pub(in crate::fs) fn key_of(&self, parent: Ino, name: &str) -> Option<Key> {
        let name = (&*fold(name)).into();
        self.key_at(&Place { parent, name })
    }

    /// An inode loses one of its names; another takes its place if it was the one it went by.
    pub(super) fn lose_place(&mut self, ino: Ino, lost: &Place) {
        self.move_place(ino, lost, None);
    }

    /// One of the names of an inode stands elsewhere from now on, or nowhere.
    pub(super) fn move_place(&mut self, ino: Ino, from: &Place, to: Option<Place>) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if let Some(at) = node.links.iter().position(|link| link == from) {
            match to {
                Some(to) => node.links[at] = to,
                None => drop(node.links.remove(at)),
            }
        } else if to.is_none() && !node.links.is_empty() {
            node.place = Some(node.links.remove(0));
        } else {
            node.place = to;
        }
        self.count_names(ino);
    }

    fn count_names(&self, ino: Ino) {
        if let Some(node) = self.nodes.get(&ino) {
            node.inode.state.lock().names = 1 + node.links.len() as u32;
        }
    }
}
