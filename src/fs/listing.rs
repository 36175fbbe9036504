//! Keeping a folder's names: from the saved listing, the journal, and the bucket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Fs;
use super::arriving::Arriving;
use super::attr::Ino;
use super::inode::{Inode, Listed};
use super::lower::{Part, Parts};
use super::name::fold;
use crate::staging::{Change, Moves};
use crate::store::attributes::FileAttributes;
use crate::store::xattrs::Xattrs;
use crate::store::{
    Key, ListPage, ListRequest, MAX_KEY_BYTES, ObjectInfo, ObjectVersion, StoreResult,
};

/// How often a listing is made anew since its folder was renamed meanwhile.
const RENAMED_AT_MOST: u32 = 8;
/// A listing of more names is worth a line in the log.
const MERGE_LOG_NAMES: u64 = 10_000;

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
    /// What has come of it.
    pub(super) arriving: Arc<Arriving>,
}

impl Refresh {
    /// Returns it with what is to tell its end: true if it was completed.
    pub(super) fn new(arriving: Arriving) -> (watch::Sender<bool>, Refresh) {
        let (sender, ended) = watch::channel(false);
        let refresh = Refresh {
            ended,
            waited_for: None,
            arriving: Arc::new(arriving),
        };
        (sender, refresh)
    }
}

impl Fs {
    /// Whether a folder's listing is missing or older than it may be.
    pub(super) fn is_listing_old(&self, ino: Ino) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        self.is_listing_older_than(ino, self.listing_ttl(ino))
    }

    /// Whether a folder's listing is missing or older than that.
    pub(super) fn is_listing_older_than(&self, ino: Ino, ttl: Duration) -> bool {
        let now = self.clock.instant();
        let listed_at = self.tree.lock().dir(ino).and_then(|dir| dir.listed_at);
        listed_at.is_none_or(|listed| now.saturating_duration_since(listed) > ttl)
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
    pub(super) fn refresh(self: &Arc<Self>, ino: Ino, path: &str) -> Refresh {
        self.refresh_for(ino, path, true)
    }

    /// Starts a listing behind a look-up. One of a folder with very many names goes on only if all of
    /// them are wanted.
    pub(super) fn refresh_behind(self: &Arc<Self>, ino: Ino, path: &str) {
        let (is_complete, is_long) = {
            let tree = self.tree.lock();
            let dir = tree.dir(ino);
            dir.map_or((false, false), |dir| (dir.listed_at.is_some(), dir.is_long))
        };
        if is_complete || !is_long {
            self.refresh_for(ino, path, is_complete);
        }
    }

    fn refresh_for(self: &Arc<Self>, ino: Ino, path: &str, all: bool) -> Refresh {
        let mut running = self.listings.0.lock();
        if let Some(refresh) = running.get(&ino) {
            if all {
                refresh.arriving.want();
            }
            return refresh.clone();
        }
        let (cache, now) = (self.cache.clone(), self.clock.instant());
        let arriving = Arriving::new(cache, self.options.names_in_memory, all, now);
        let (sender, refresh) = Refresh::new(arriving);
        running.insert(ino, refresh.clone());
        drop(running);
        let (fs, path, arriving) = (self.clone(), path.to_owned(), refresh.arriving.clone());
        self.runtime.spawn(async move {
            let done = fs.list_folder(ino, &arriving).await;
            match &done {
                Err(error) if error.is_transient() => log::debug!("listing {path:?}: {error}"),
                Err(error) => log::warn!("listing {path:?}: {error}"),
                Ok(_) => {}
            }
            fs.listings.0.lock().remove(&ino);
            let _ = sender.send(done.unwrap_or(false));
        });
        refresh
    }

    /// Returns the listing of a folder that is under way.
    pub(super) fn arriving(&self, ino: Ino) -> Option<Refresh> {
        self.listings.0.lock().get(&ino).cloned()
    }

    /// Waits for a fresh listing as long as `patience` says; true if there is one.
    pub(super) async fn refreshed(
        self: &Arc<Self>,
        ino: Ino,
        path: &str,
        patience: Duration,
    ) -> bool {
        done_within(self.refresh(ino, path).ended, patience).await
    }

    /// Waits for a fresh listing, all callers together for as long as `patience` says: the kernel lets
    /// those of one folder in one after the other.
    pub(super) async fn refreshed_soon(
        self: &Arc<Self>,
        ino: Ino,
        path: &str,
        patience: Duration,
    ) -> bool {
        let ended = self.refresh(ino, path).ended;
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
            let running = self.arriving(ino);
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
    async fn list_folder(
        self: &Arc<Self>,
        ino: Ino,
        arriving: &Arc<Arriving>,
    ) -> StoreResult<bool> {
        for _ in 0..RENAMED_AT_MOST {
            let Some(path) = self.tree.lock().path(ino) else {
                return Ok(false);
            };
            let begun = self.clock.instant();
            let moves = self.journal().moves();
            let (parts, stored) = match self.is_plain(&moves, &path) {
                false => (self.list_parts(ino, &path, &moves).await?, None),
                true => match self.list_plain((ino, &path), &moves, arriving).await? {
                    Some(listed) => listed,
                    None => {
                        if let Some(dir) = self.tree.lock().dir_mut(ino) {
                            dir.is_long = true;
                        }
                        return Ok(false);
                    }
                },
            };
            let objects: usize = parts.parts.iter().map(|part| part.objects.len()).sum();
            let names = stored.map_or(objects as u64, |(_, names)| names);
            if names > MERGE_LOG_NAMES {
                log::info!("listed {path:?}: {names} names");
            }
            let merged = match stored {
                None => Ok(self.merge((ino, &path), &moves, &parts, begun)),
                Some(stored) => {
                    let merged = self.merge_paged((ino, &path), &moves, parts, stored, begun);
                    if !matches!(merged, Ok(true)) {
                        self.cache.drop_listing(stored.0);
                    }
                    merged
                }
            };
            if merged? {
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
pub(super) async fn done_within(mut ended: watch::Receiver<bool>, patience: Duration) -> bool {
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
