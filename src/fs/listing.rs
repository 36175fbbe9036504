//! Keeping a folder's names: from the saved listing, the journal, and the bucket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::{Content, Inode, Listed, Meta, Remote, Staged, State, Writer};
use super::lower::{Part, Parts};
use super::name::fold;
use super::tree::Tree;
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Lower, Moves, Record};
use crate::store::attributes::FileAttributes;
use crate::store::xattrs::Xattrs;
use crate::store::{
    Key, ListPage, ListRequest, MAX_KEY_BYTES, ObjectInfo, ObjectVersion, Origin, StoreResult,
};

/// How often a listing is made anew since its folder was renamed meanwhile.
const RENAMED_AT_MOST: u32 = 8;
/// How often a long listing lets others take the tree's lock, in names.
const MERGE_LOG_NAMES: usize = 10_000;

/// How many folders a refresh lists at once.
const REFRESH_AT_ONCE: usize = 8;

/// Listings under way, one per folder: who needs one that is running waits for it.
#[derive(Default)]
pub(super) struct Running(pub(super) Mutex<HashMap<Ino, Refresh>>);

/// A listing under way.
#[derive(Clone)]
pub(super) struct Refresh {
    pub(super) ended: watch::Receiver<bool>,
    /// Since when somebody waits for it who does not wait for long.
    pub(super) waited_for: Option<Instant>,
}

impl Fs {
    /// Makes sure that a folder shows what is known without the network: the saved listing, and
    /// above it the journal's records. Reads the local disk once per folder.
    pub(super) fn load_dir(&self, ino: Ino) -> FsResult<String> {
        let path = {
            let tree = self.tree.lock();
            let path = tree.path(ino).ok_or(FsError::NotFound)?;
            let dir = tree.dir(ino).ok_or(FsError::NotADirectory)?;
            if dir.loaded {
                return Ok(path);
            }
            path
        };
        let begun = self.clock.instant();
        let lowers = self.journal().moves().lowers(&path);
        let mut parts = self.saved_parts(&path, &lowers);
        let changes = self.changes.lock();
        let uploaded_at = self.tree.lock().dir(ino).and_then(|dir| dir.uploaded_at);
        if uploaded_at.is_some_and(|at| at >= begun) {
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
            let emptied = match lower.since {
                None => self.emptied_folders(path),
                Some(_) => Vec::new(),
            };
            parts.push(Part {
                hollow: emptied
                    .iter()
                    .map(|name| format!("{path}{name}/"))
                    .collect(),
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

    /// Whether a folder's listing is missing or older than it may be.
    pub(super) fn is_listing_old(&self, ino: Ino) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        let now = self.clock.instant();
        let listed_at = self.tree.lock().dir(ino).and_then(|dir| dir.listed_at);
        listed_at.is_none_or(|listed| now.saturating_duration_since(listed) > self.options.list_ttl)
    }

    /// Whether all names of a folder are known, however old the knowledge is.
    pub(super) fn is_listing_complete(&self, ino: Ino) -> bool {
        self.tree
            .lock()
            .dir(ino)
            .is_some_and(|dir| dir.listed_at.is_some())
    }

    /// Starts a listing of the folder unless one is running; returns when it ends through the
    /// receiver: true if it was completed.
    pub(super) fn refresh(self: &Arc<Self>, ino: Ino, path: &str) -> watch::Receiver<bool> {
        let mut running = self.listings.0.lock();
        if let Some(refresh) = running.get(&ino) {
            return refresh.ended.clone();
        }
        let (sender, receiver) = watch::channel(false);
        let refresh = Refresh {
            ended: receiver.clone(),
            waited_for: None,
        };
        running.insert(ino, refresh);
        drop(running);
        let (fs, path) = (self.clone(), path.to_owned());
        self.runtime.spawn(async move {
            let done = fs.list_folder(ino).await;
            match &done {
                Err(error) if error.is_transient() => log::debug!("listing {path:?}: {error}"),
                Err(error) => log::warn!("listing {path:?}: {error}"),
                Ok(_) => {}
            }
            fs.listings.0.lock().remove(&ino);
            let _ = sender.send(done.unwrap_or(false));
        });
        receiver
    }

    /// Waits for a fresh listing as long as `patience` says; true if there is one.
    pub(super) async fn refreshed(
        self: &Arc<Self>,
        ino: Ino,
        path: &str,
        patience: Duration,
    ) -> bool {
        done_within(self.refresh(ino, path), patience).await
    }

    /// Waits for a fresh listing, all callers together for as long as `patience` says: the kernel lets
    /// those of one folder in one after the other.
    pub(super) async fn refreshed_soon(
        self: &Arc<Self>,
        ino: Ino,
        path: &str,
        patience: Duration,
    ) -> bool {
        let ended = self.refresh(ino, path);
        let now = self.clock.instant();
        let since = match self.listings.0.lock().get_mut(&ino) {
            Some(refresh) => *refresh.waited_for.get_or_insert(now),
            None => now,
        };
        let left = patience.saturating_sub(now.saturating_duration_since(since));
        done_within(ended, left).await
    }

    /// Lists anew the folders at and below `path` that were listed before; for a file the folder it
    /// lies in; for an empty path all. Returns how many were listed, and how many could not be.
    pub async fn refresh_below(self: &Arc<Self>, path: &str) -> (usize, usize) {
        let folders = self.listed_below(path);
        let patience = self.options.request_deadline;
        let listings = futures::stream::iter(folders).map(async |(ino, path)| {
            // One that is running may have been begun before the change that is looked for.
            let running = self.listings.0.lock().get(&ino).cloned();
            if let Some(Refresh { mut ended, .. }) = running {
                let _ = tokio::time::timeout(patience, ended.changed()).await;
            }
            self.refreshed(ino, &path, patience).await
        });
        let listed: Vec<bool> = listings.buffer_unordered(REFRESH_AT_ONCE).collect().await;
        let done = listed.iter().filter(|&&done| done).count();
        (done, listed.len() - done)
    }

    fn listed_below(&self, path: &str) -> Vec<(Ino, String)> {
        let path = Key::of_path(path).map_or(String::new(), |key| format!("{key}/"));
        let parent = path.trim_end_matches('/').rsplit_once('/');
        let parent = parent.map(|(parent, _)| format!("{parent}/"));
        let tree = self.tree.lock();
        let listed: Vec<(Ino, String)> = tree
            .inodes()
            .into_iter()
            .filter(|inode| {
                tree.dir(inode.ino)
                    .is_some_and(|dir| dir.listed_at.is_some())
            })
            .filter_map(|inode| Some((inode.ino, tree.path(inode.ino)?)))
            .filter(|(ino, _)| *ino != Ino::ROOT)
            .collect();
        let below = |(_, listed): &&(Ino, String)| fold(listed).starts_with(&path);
        let found: Vec<_> = listed.iter().filter(below).cloned().collect();
        let is_parent =
            |(_, listed): &(Ino, String)| Some(fold(listed)) == parent.as_deref().map(Into::into);
        match found.is_empty() {
            false => found,
            true => listed.into_iter().filter(is_parent).collect(),
        }
    }

    /// Lists a folder, anew if it was renamed meanwhile; false if it was removed, or renamed all the
    /// time.
    async fn list_folder(self: &Arc<Self>, ino: Ino) -> StoreResult<bool> {
        for _ in 0..RENAMED_AT_MOST {
            let Some(path) = self.tree.lock().path(ino) else {
                return Ok(false);
            };
            let begun = self.clock.instant();
            let moves = self.journal().moves();
            let parts = self.list_parts(ino, &path, &moves).await?;
            let objects: usize = parts.parts.iter().map(|part| part.objects.len()).sum();
            if objects > MERGE_LOG_NAMES {
                log::info!("listed {path:?}: {objects} objects");
            }
            if self.merge((ino, &path), &moves, &parts, begun) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn list_page(&self, request: ListRequest) -> StoreResult<ListPage> {
        if request.prefix.len() > MAX_KEY_BYTES {
            return Ok(ListPage::default());
        }
        let page = self.store.list(request).await;
        self.note_result(&page);
        page
    }

    /// Lays listings under what is known; false if they are about another folder by now.
    fn merge(
        &self,
        (ino, path): (Ino, &str),
        moves: &Moves,
        parts: &Parts,
        begun: Instant,
    ) -> bool {
        let _changes = self.changes.lock();
        if self.tree.lock().path(ino).as_deref() != Some(path) || *self.journal().moves() != *moves
        {
            return false;
        }
        let uploaded_at = self.tree.lock().dir(ino).and_then(|dir| dir.uploaded_at);
        let (listing, own) = self.assemble_listing(ino, path, parts, begun);
        self.hidden.note(path, &listing.hidden);
        let stale = self.tree.lock().apply_listing(ino, listing, &own);
        self.tell_stale(stale);
        // One that may lack a change of ours must not be found by the next start, when the journal
        // does not speak of it any more; the one saved before has been amended.
        if uploaded_at.is_none_or(|at| at < begun) {
            for part in parts.parts.iter().filter(|part| part.complete) {
                self.save_part(ino, part);
            }
        }
        true
    }

    /// Saves a listing, without folders that were removed or renamed away here: nothing else would
    /// say that what the bucket still has of them is about to go.
    fn save_part(&self, ino: Ino, part: &Part) {
        let prefix = &part.lower.prefix;
        let kept: Vec<String> = {
            let tree = self.tree.lock();
            let dir = tree.dir(ino);
            let shows = |folder: &&String| {
                let name = below(folder, prefix).map(|name| name.trim_end_matches('/'));
                dir.zip(name)
                    .is_some_and(|(dir, name)| dir.entry(name).is_some())
            };
            part.prefixes.iter().filter(shows).cloned().collect()
        };
        self.cache.save_listing(prefix, &part.objects, &kept);
    }

    /// Takes over what an answer of the bucket told about an object beside its bytes.
    pub(super) fn learn(&self, info: &ObjectInfo) {
        let mut attributes = FileAttributes::from_metadata(&info.metadata);
        // What is on its way to the bucket is newer.
        if self.journal().record(&info.version.key).is_some() {
            return;
        }
        let kept = self.journal().attributes(&info.version);
        let here = kept.as_ref().and_then(|kept| kept.xattrs.as_ref());
        attributes.xattrs = Xattrs::merged(attributes.xattrs, here);
        if attributes == FileAttributes::default() {
            return;
        }
        if kept.as_ref() != Some(&attributes) {
            let keep = crate::staging::Edit::KeepAttributes {
                version: info.version.clone(),
                attributes: attributes.clone(),
            };
            if let Err(error) = self.journal().apply(vec![keep]) {
                log::warn!("attributes of {} are not kept: {error}", info.version.key);
            }
        }
        let inode = {
            let moves = self.journal().moves();
            let tree = self.tree.lock();
            let found = tree.find(&moves.shown_at(info.version.key.as_str()));
            found.and_then(|(_, entry)| tree.inode(entry.ino)).cloned()
        };
        let Some(inode) = inode else { return };
        let mut state = inode.state.lock();
        if state
            .remote()
            .is_some_and(|remote| remote.version == info.version)
        {
            let before = state.meta.mtime;
            state.learn(&attributes);
            if before != state.meta.mtime {
                drop(state);
                self.tell_attributes(inode.ino);
            }
        }
    }

    /// Gives an inode that has just come into memory the attributes that are kept for its version.
    pub(super) fn apply_kept_attributes(&self, inode: &Inode) {
        let key = self.tree.lock().key(inode.ino);
        let record = key.and_then(|key| self.journal().record(&key));
        let mut state = inode.state.lock();
        let Some(version) = state.remote().map(|remote| remote.version.clone()) else {
            return;
        };
        let attributes = match record.map(|record| record.change) {
            // On their way to the bucket.
            Some(Change::Copy { attributes, .. }) => Some(attributes),
            _ => {
                let kept = self.journal().attributes(&version);
                state.told |= kept.is_some();
                kept
            }
        };
        if let Some(attributes) = attributes {
            state.learn(&attributes);
        }
    }
}

/// Waits for the end of a listing; true if it was completed.
async fn done_within(mut ended: watch::Receiver<bool>, patience: Duration) -> bool {
    // An error of `changed` means that the task has ended: its last word counts.
    let _ = tokio::time::timeout(patience, ended.changed()).await;
    *ended.borrow()
}

/// Returns what follows `path` in `key`, if the key lies below; both spellings of a name count.
pub(super) fn below<'a>(key: &'a str, path: &str) -> Option<&'a str> {
    if let Some(rest) = key.strip_prefix(path) {
        return (!rest.is_empty()).then_some(rest);
    }
    let depth = path.matches('/').count();
    let cut = key.match_indices('/').nth(depth.checked_sub(1)?)?.0 + 1;
    (fold(&key[..cut]) == fold(path) && cut < key.len()).then(|| &key[cut..])
}

/// A version with the key in the spelling that was asked for; used to look a file up.
pub(super) fn listed_from_info(info: &ObjectInfo, now: Instant) -> Listed {
    Listed {
        version: ObjectVersion {
            key: info.version.key.clone(),
            etag: info.version.etag.clone(),
        },
        origin: info.origin,
        size: info.size,
        last_modified: info.last_modified,
        checked_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn both_spellings_of_a_folder_lie_above() {
        assert_eq!(below("a/b/c", "a/"), Some("b/c"));
        assert_eq!(below("a/", "a/"), None);
        assert_eq!(below("cafe\u{301}/x", "café/"), Some("x"));
        assert_eq!(below("b/x", "a/"), None);
        assert_eq!(below("x", ""), Some("x"));
    }
}
