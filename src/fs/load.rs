//! What a folder shows without the network: its saved listing, and above it the journal's records.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::{Content, Inode, Meta, Remote, Staged, State, Writer};
use super::listing::below;
use super::lower::{Part, Parts};
use super::tree::Tree;
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Lower, Record};
use crate::store::Origin;

impl Fs {
    /// Makes sure that a folder shows what is known without the network: the saved listing, and
    /// above it the journal's records. Reads the local disk once per folder.
    pub(super) fn load_dir(&self, ino: Ino) -> FsResult<String> {
        let path = {
            let mut tree = self.tree.lock();
            let path = tree.path(ino).ok_or(FsError::NotFound)?;
            let dir = tree.dir_mut(ino).ok_or(FsError::NotADirectory)?;
            dir.forget_broken();
            if dir.loaded {
                return Ok(path);
            }
            path
        };
        let begun = self.clock.instant();
        let lowers = self.journal().moves().lowers(&path);
        let large = match self.is_plain(&self.journal().moves(), &path) {
            true => self
                .cache
                .large_listing(&path, self.options.names_in_memory),
            false => None,
        };
        let mut parts = match large {
            Some(_) => None,
            None => self.saved_parts(&path, &lowers),
        };
        let changes = self.changes.lock();
        let uploaded_at = self.tree.lock().dir(ino).and_then(|dir| dir.uploaded_at);
        if large.is_none() && uploaded_at.is_some_and(|at| at >= begun) {
            // What was confirmed meanwhile is in neither: not yet in the listing that was read, and
            // not in the journal any more.
            parts = self.saved_parts(&path, &lowers);
        }
        let records = self.journal().records_below(&path);
        let mut tree = self.tree.lock();
        if tree.path(ino).as_deref() != Some(&*path)
            || self.journal().moves().lowers(&path) != lowers
        {
            // Renamed meanwhile: all this is about another folder.
            drop((tree, changes));
            return self.load_dir(ino);
        }
        let Some(dir) = tree.dir_mut(ino) else {
            return Err(FsError::NotFound);
        };
        if std::mem::replace(&mut dir.loaded, true) {
            return Ok(path);
        }
        if let Some((parts, age)) = parts {
            drop(tree);
            let begun = begun.checked_sub(age).unwrap_or(begun);
            let (listing, _) = self.assemble_listing(ino, &path, &parts, begun);
            tree = self.tree.lock();
            tree.apply_listing(ino, listing, &self.local_names_in(&path));
        }
        if let Some(large) = large {
            drop(tree);
            let age = self.clock.now().duration_since(large.saved_at);
            let begun = begun.checked_sub(age.unwrap_or_default()).unwrap_or(begun);
            if let Err(error) = self.show_saved_large((ino, &path), &large, &records, begun) {
                log::warn!("{path:?} is listed anew: the index: {error}");
            }
            tree = self.tree.lock();
        }
        if let Err(error) = self.overlay(&mut tree, ino, &path, records) {
            if let Some(dir) = tree.dir_mut(ino) {
                dir.loaded = false;
            }
            return Err(error);
        }
        Ok(path)
    }

    /// Returns the saved listings of all prefixes that show in a folder, and the age of the oldest;
    /// `None` if one is missing without which the folder is not whole.
    fn saved_parts(&self, path: &str, lowers: &[Lower]) -> Option<(Parts, Duration)> {
        let is_moved = lowers.iter().any(|lower| lower.since.is_some());
        let (mut parts, mut oldest) = (Vec::new(), Duration::ZERO);
        for lower in lowers {
            let Some(mut saved) = self.cache.load_listing(&lower.prefix) else {
                if lower.since.is_none() && is_moved {
                    // It was put where none was, but what was uploaded there since is not known.
                    parts.push(Part::unknown(lower.clone()));
                    continue;
                }
                return None;
            };
            if let Some(copies) = &self.local_copies {
                // Hidden since it was saved.
                saved.objects.retain(|object| {
                    object.origin == Origin::Primary || !copies.hidden.contains(&object.version.key)
                });
            }
            let age = self.clock.now().duration_since(saved.saved_at);
            oldest = oldest.max(age.unwrap_or_default());
            parts.push(Part {
                hollow: match lower.since {
                    None => self.hollow_folders(path),
                    Some(_) => HashSet::new(),
                },
                lower: lower.clone(),
                objects: saved.objects,
                prefixes: saved.prefixes,
                complete: true,
            });
        }
        let parts = Parts {
            parts,
            aside: Vec::new(),
            // Whether there is anything aside, only the bucket knows.
            complete: self.journal().moves().elsewhere(path).is_empty(),
        };
        Some((parts, oldest))
    }

    /// Lays the journal's records over a folder: what is new, renamed or deleted here.
    ///
    /// # Errors
    /// When a staged file cannot be opened for want of descriptors or the like: a folder without a
    /// name that was acknowledged is worse than none.
    fn overlay(
        &self,
        tree: &mut Tree,
        ino: Ino,
        path: &str,
        mut records: Vec<Record>,
    ) -> FsResult<()> {
        let now = self.clock.instant();
        let moves = self.journal().moves();
        let is_moved = moves.lowers(path).iter().any(|lower| lower.since.is_some());
        records.sort_by_key(|record| !matches!(record.change, Change::Delete(_)));
        for record in records {
            let key = record.key.as_str();
            let Some(rest) = below(key, path) else {
                continue;
            };
            match rest.split_once('/') {
                // A copy for others; the name shows the file of which it is one.
                None if self.copied_for(&record).is_some() => {}
                None => self.overlay_file(tree, ino, rest, &record, now)?,
                Some((name, deeper)) => {
                    let deleted = matches!(record.change, Change::Delete(_));
                    if !deleted {
                        tree.insert_folder(ino, name, now);
                    } else if deeper.is_empty() && !is_moved {
                        tree.remove(ino, name, now);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn overlay_file(
        &self,
        tree: &mut Tree,
        parent: Ino,
        name: &str,
        record: &Record,
        now: Instant,
    ) -> FsResult<()> {
        if tree
            .dir(parent)
            .and_then(|dir| dir.entry(name))
            .is_some_and(|entry| {
                tree.inode(entry.ino)
                    .is_some_and(|inode| inode.state.lock().staged().is_some())
            })
        {
            return Ok(());
        }
        let state = match &record.change {
            Change::Delete(_) => {
                // The name may show an object that lies elsewhere.
                let version = tree.version(parent, name);
                if version.is_some_and(|shown| shown.key.folded() == record.key.folded()) {
                    tree.remove(parent, name, now);
                }
                return Ok(());
            }
            Change::Folder { .. } => return Ok(()),
            Change::Put {
                file, attributes, ..
            } => {
                let file = match self.staging.open_file(*file) {
                    Ok(file) => file,
                    // Reported at the start, and parked.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                let mut meta = tree.defaults.clone();
                if let Ok(status) = file.file().metadata() {
                    meta.size = status.len();
                    meta.mtime = status.modified().unwrap_or(meta.mtime);
                    meta.ctime = meta.mtime;
                }
                let staged = Staged {
                    file,
                    writer: Writer::Own,
                    open: false,
                    pristine: None,
                };
                let mut state = State::new(meta, Content::Staged(staged), now);
                state.learn(attributes);
                state
            }
            Change::Copy {
                source,
                size,
                attributes,
            } => {
                let meta = Meta {
                    size: *size,
                    // Shown until the bucket tells another; the time of a rename, not of a mount.
                    mtime: record.changed_at,
                    ..tree.defaults.clone()
                };
                let remote = Remote {
                    version: source.clone(),
                    origin: Origin::Primary,
                    file: None,
                };
                let mut state = State::new(meta, Content::Remote(remote), now);
                state.learn(attributes);
                state
            }
        };
        let ino = tree.new_ino();
        let inode = Arc::new(Inode {
            ino,
            kind: Kind::File,
            state: Mutex::new(state),
        });
        tree.insert_file(parent, name, &inode, now);
        Ok(())
    }
}
