//! Several names of one file or special node. The inode goes by the first; the others are rows of
//! the journal that lead to it. What the bucket has under those is for others ([`super::link_copies`]).

use std::ffi::OsStr;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::attr::{Attr, Ino, Kind};
use super::conflict::split;
use super::inode::Inode;
use super::link_copies::set_link;
use super::listing::below;
use super::name;
use super::rename::Move;
use super::{Fs, LOOKUP_DEADLINE};
use crate::error::{FsError, FsResult};
use crate::staging::{Edit, LocalName, StandsFor};
use crate::store::{Key, ReadCondition, StoreError};

impl Fs {
    /// Gives a file or a special node one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        match (self.local(ino), self.local_parent(parent, name)?) {
            (Some(from), Some((to, parent))) if std::ptr::eq(from, to) => {
                return to.link(ino, parent, name);
            }
            (Some(_), _) | (_, Some(_)) => return Err(FsError::CrossDevice),
            (None, None) => {}
        }
        self.enter_project_at((parent, name))?;
        let name = name::check(name)?;
        self.load_dir(parent)?;
        let inode = self.inode(ino)?;
        if inode.kind == Kind::Folder {
            return Err(FsError::NotPermitted("a folder has one name"));
        }
        let _changes = self.changes.lock();
        let key = self.free_key(parent, name)?;
        let to = self.tree.lock().key(ino).ok_or(FsError::NotFound)?;
        let mut edits = self.forget_names(&key);
        edits.push(set_link(&key, to.clone(), None));
        edits.extend(self.copy_under(&key, self.base_of(&key, None), (&inode, &to)));
        self.apply(edits)?;
        let mut tree = self.tree.lock();
        tree.add_link(parent, name, &inode, self.clock.instant());
        tree.looked_up(ino);
        drop(tree);
        self.touch_inodes([Some(&inode)]);
        self.touch_folder(parent);
        Ok(inode.attr())
    }

    /// What the journal must say when a name that nothing has here gets something: what it knows of other
    /// names is of a file that was there once, and that somebody else has removed.
    pub(super) fn forget_names(&self, key: &Key) -> Vec<Edit> {
        let mut names = self.journal().links_to(key);
        names.extend(self.journal().first_name(key).map(|_| key.clone()));
        names
            .iter()
            .flat_map(|name| self.forget_name(name))
            .collect()
    }

    /// What the journal must say when a further name leads nowhere: what the bucket has under it stays.
    fn forget_name(&self, key: &Key) -> Vec<Edit> {
        let record = self.journal().record(key);
        let copied = record.filter(|record| self.copied_for(record).is_some());
        let key = key.clone();
        let withdrawn = copied.map(|_| Edit::Remove { key: key.clone() });
        withdrawn
            .into_iter()
            .chain([Edit::RemoveLocal { key }])
            .collect()
    }

    /// Whether a name is a further one of what has a first, or stands for a special node.
    pub(super) fn is_local_name(&self, key: &Key) -> bool {
        self.journal().local_name(key).is_some()
    }

    /// What the journal must say when a name loses what it stands for.
    pub(super) fn vacated(self: &Arc<Self>, key: &Key, inode: &Arc<Inode>) -> FsResult<Vec<Edit>> {
        let others = self.further_names(key, inode);
        let mut edits = vec![Edit::RemoveLocal { key: key.clone() }];
        match (self.journal().local_name(key), others.split_first()) {
            (Some(name), others) => match (&name.stands_for, others) {
                (StandsFor::Special(..), Some((first, rest))) => {
                    edits.push(set(first, name.stands_for));
                    edits.extend(rest.iter().map(|key| self.led_to(key, first)));
                }
                (StandsFor::Special(..), None) => {}
                (StandsFor::Link { .. }, _) => edits.extend(self.copy_removal(key)),
            },
            // The file goes on under another of its names.
            (None, Some((first, rest))) => {
                edits = vec![Edit::RemoveLocal { key: first.clone() }];
                let moved = Move {
                    inode: inode.clone(),
                    from: key.clone(),
                    to: first.clone(),
                };
                self.move_edits(&moved, self.base_of(first, None), &mut edits)?;
                edits.extend(rest.iter().map(|key| self.led_to(key, first)));
            }
            (None, None) => {
                self.hold_for_readers(inode);
                return self.removal(key, inode);
            }
        }
        Ok(edits)
    }

    /// What the journal must say when the first name of an inode is another one.
    pub(super) fn first_name_moved(&self, from: &Key, to: &Key, inode: &Inode) -> Vec<Edit> {
        let others = self.further_names(from, inode);
        others.iter().map(|key| self.led_to(key, to)).collect()
    }

    /// A local name is replaced by another, which stands for the same.
    pub(super) fn rename_local_name(
        self: &Arc<Self>,
        (from, source): ((Ino, &str), &Key),
        (to, target): ((Ino, &str), &Key),
        (inode, replaced): (&Arc<Inode>, Option<&Arc<Inode>>),
    ) -> FsResult<()> {
        let mut edits = match replaced {
            Some(replaced) => self.vacated(target, replaced)?,
            None => self.forget_names(target),
        };
        let is_deleted = |edit: &Edit| matches!(edit, Edit::Set { key, .. } if key == target);
        let is_to_go = edits.iter().any(is_deleted);
        let name = self.journal().local_name(source);
        let stands_for = name.ok_or(FsError::Stale)?.stands_for;
        edits.push(Edit::RemoveLocal {
            key: source.clone(),
        });
        match stands_for {
            StandsFor::Special(..) => {
                edits.extend(self.first_name_moved(source, target, inode));
                edits.push(set(target, stands_for));
            }
            StandsFor::Link { to, .. } => {
                edits.extend(self.copy_removal(source));
                edits.push(set_link(target, to.clone(), None));
                if !is_to_go {
                    let base = self.base_of(target, None);
                    edits.extend(self.copy_under(target, base, (inode, &to)));
                }
            }
        }
        self.apply(edits)?;
        self.tree.lock().rename(from, to, self.clock.instant());
        self.touch_inodes([Some(inode), replaced]);
        self.touch_folder(from.0);
        self.touch_folder(to.0);
        Ok(())
    }

    /// What the journal must say of all local names when a folder gets another path.
    pub(super) fn move_local_names(&self, old: &str, new: &str) -> Vec<Edit> {
        let moved = |key: &Key| {
            let rest = below(key.as_str(), old)?;
            Key::new(&format!("{new}{rest}"))
        };
        let (mut gone, mut set_anew) = (Vec::new(), Vec::new());
        for name in self.journal().local_names() {
            let key = moved(&name.key);
            let mut stands_for = name.stands_for.clone();
            if let StandsFor::Link { to, .. } = &mut stands_for {
                if moved(to).is_none() && below(to.as_str(), new).is_some() {
                    // Of a file that was there once.
                    gone.extend(self.forget_name(&name.key));
                    continue;
                }
                *to = moved(to).unwrap_or(to.clone());
            }
            if key.is_none() && stands_for == name.stands_for {
                continue;
            }
            if let Some(new) = &key {
                gone.push(Edit::RemoveLocal {
                    key: name.key.clone(),
                });
                let (edits, holds) = self.copy_moved(&name, new);
                set_anew.extend(edits);
                if let StandsFor::Link { copy, .. } = &mut stands_for {
                    *copy = holds;
                }
            }
            set_anew.push(set(&key.unwrap_or(name.key), stands_for));
        }
        gone.extend(set_anew);
        gone
    }

    /// Returns the further names of what goes by `key`, the one that takes its place first.
    fn further_names(&self, key: &Key, inode: &Inode) -> Vec<Key> {
        let mut names = self.journal().links_to(key);
        let in_tree = self.tree.lock().keys(inode.ino);
        let next = in_tree.iter().find(|name| name.folded() != key.folded());
        names.sort_by_key(|name| next.is_none_or(|next| next.folded() != name.folded()));
        names
    }

    /// Brings the further names of a file into the tree, as soon as the kernel comes to know the file:
    /// whoever changes it or its names finds all of them there. Reads the local disk.
    pub(super) fn show_names_of(&self, inode: &Arc<Inode>) {
        if !self.journal().has_links() {
            return;
        }
        let (key, shown) = {
            let tree = self.tree.lock();
            (tree.key(inode.ino), tree.keys(inode.ino).len())
        };
        let Some(key) = key else { return };
        let names = self.journal().links_to(&key);
        if names.len() < shown {
            return;
        }
        for link in names {
            let (path, name) = split(link.as_str());
            let parent = self.folder_at(&mut self.tree.lock(), path);
            let loaded = parent.map(|parent| (parent, self.load_dir(parent)));
            let Some((parent, Ok(_))) = loaded else {
                log::warn!("{link} is not shown: its folder cannot be read");
                continue;
            };
            let _changes = self.changes.lock();
            let mut tree = self.tree.lock();
            if self
                .journal()
                .first_name(&link)
                .is_some_and(|to| to.folded() == key.folded())
                && tree.key(inode.ino).as_ref() == Some(&key)
                && tree
                    .dir(parent)
                    .is_some_and(|dir| dir.entry(name).is_none())
            {
                tree.add_link(parent, name, inode, self.clock.instant());
            }
        }
    }

    /// Brings a further name of a file into the tree, if that is what the journal says of it. Waits
    /// for the bucket if the file is not known.
    ///
    /// # Errors
    /// Those of looking the file up.
    pub(super) async fn show_link(self: &Arc<Self>, path: &str, name: &str) -> FsResult<()> {
        let key = name::key_in(path, name)?;
        while let Some(to) = self.journal().first_name(&key) {
            if self.is_local_name(&to) {
                return Err(FsError::NotFound);
            }
            // Looking it up shows all its names.
            match self.walk(&to).await {
                Err(FsError::NotFound) if self.is_gone(&to).await => self.part_from(&key, &to)?,
                found => {
                    self.forget(found?.ino, 1);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether the bucket says that it has nothing under a key, nor anything that shows there. A look-up
    /// may go by a listing that is old.
    async fn is_gone(&self, key: &Key) -> bool {
        let moves = self.journal().moves();
        let (folder, _) = split(key.as_str());
        let lies_there = moves
            .lowers(folder)
            .iter()
            .all(|lower| lower.since.is_none());
        let found = self.store.head(key, ReadCondition::None);
        lies_there
            && matches!(
                tokio::time::timeout(LOOKUP_DEADLINE, found).await,
                Ok(Err(StoreError::NotFound))
            )
    }

    /// Somebody else has removed the first name of a file: a further one shows what the bucket has under
    /// it from now on.
    fn part_from(&self, key: &Key, first: &Key) -> FsResult<()> {
        let _changes = self.changes.lock();
        let is_known = self.journal().record(first).is_some()
            || self.tree.lock().find(first.as_str()).is_some();
        if self.journal().first_name(key).as_ref() != Some(first) {
            return Ok(()); // Renamed meanwhile.
        }
        if is_known {
            return Err(FsError::NotFound);
        }
        log::warn!("{first} was removed by someone else; {key} was another name of it");
        self.apply(self.forget_name(key))?;
        let now = self.clock.instant();
        let old = now.checked_sub(self.options.list_ttl + Duration::from_secs(1));
        let (folder, _) = split(key.as_str());
        self.tree.lock().age_listings(folder, old.unwrap_or(now));
        Ok(())
    }

    /// Does so for all in a folder.
    pub(super) async fn show_links(self: &Arc<Self>, parent: Ino, path: &str) {
        for local in self.journal().local_names_below(path) {
            let Some(name) = below(local.key.as_str(), path) else {
                continue;
            };
            let is_shown = |fs: &Fs| fs.tree.lock().dir(parent)?.entry(name).map(drop);
            if !name.contains('/')
                && is_shown(self).is_none()
                && let Err(error) = self.show_link(path, name).await
            {
                log::warn!("{} is not shown: {error}", local.key);
            }
        }
    }

    /// A further name that leads to another first name: the file is the same, and so is the copy.
    fn led_to(&self, key: &Key, to: &Key) -> Edit {
        let copy = match self.journal().local_name(key).map(|name| name.stands_for) {
            Some(StandsFor::Link { copy, .. }) => copy,
            _ => None,
        };
        set_link(key, to.clone(), copy)
    }

    /// Looks a key up, folder by folder, and raises the lookup count of what it names.
    fn walk<'a>(
        self: &'a Arc<Self>,
        key: &'a Key,
    ) -> Pin<Box<dyn Future<Output = FsResult<Attr>> + Send + 'a>> {
        Box::pin(async move {
            let mut at = Ino::ROOT;
            let mut found = Err(FsError::NotFound);
            for name in key.as_str().split('/') {
                found = self.lookup(at, OsStr::new(name)).await;
                if at != Ino::ROOT {
                    self.forget(at, 1);
                }
                at = found.as_ref().map_or(Ino::ROOT, |attr| attr.ino);
                if found.is_err() {
                    break;
                }
            }
            found
        })
    }
}

fn set(key: &Key, stands_for: StandsFor) -> Edit {
    Edit::SetLocal(LocalName {
        key: key.clone(),
        stands_for,
    })
}
