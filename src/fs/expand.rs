//! Carrying out the renames of folders: a task lists what still lies under the old prefix, page by
//! page, gives each object the records of a rename ([`super::moved`]) and ends the move. What it has
//! done is in the journal; after a restart it begins anew and passes over what has records.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Fs;
use super::attr::{Ino, Kind};
use super::inode::Listed;
use super::moved::Expansions;
use super::name::fold;
use super::tree::{Stale, Tree};
use crate::error::{FsError, FsResult};
use crate::staging::Move;
use crate::store::{Key, ListRequest, ListedObject, ObjectVersion, StoreError};

/// So many objects are given their records in one transaction, so that a change of a name waits for
/// a few milliseconds at most.
const BATCH: usize = 256;
/// The first wait after a failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Looks again whether there is anything to do when nothing wakes the task.
const IDLE: Duration = Duration::from_secs(3600);

impl Fs {
    /// Starts the task that carries out the renames of folders, those of earlier runs first.
    pub fn spawn_expansion(self: &Arc<Self>) {
        let fs = Arc::downgrade(self);
        let mut changed = self.journal().changed();
        self.runtime.spawn(async move {
            let mut wait = WAITS.0;
            loop {
                changed.borrow_and_update();
                let Some(strong) = fs.upgrade() else { return };
                if strong.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let done = strong.expand_next().await;
                drop(strong);
                match done {
                    Ok(true) => wait = WAITS.0,
                    Ok(false) => {
                        if let Ok(Err(_)) = tokio::time::timeout(IDLE, changed.changed()).await {
                            return;
                        }
                    }
                    Err(_) => {
                        tokio::time::sleep(wait).await;
                        wait = (2 * wait).min(WAITS.1);
                    }
                }
            }
        });
    }

    /// Returns why folders that are on their way come no further, if that is so.
    pub fn expansion_failure(&self) -> Option<String> {
        self.expansion_failure.lock().clone()
    }

    /// Carries out the rename of one folder, the one that waits longest; false if there is none.
    pub(super) async fn expand_next(&self) -> FsResult<bool> {
        let moves = self.journal().moves();
        let next = moves.outermost().min_by_key(|found| found.since).cloned();
        let Some(next) = next else {
            *self.expansion_failure.lock() = None;
            return Ok(false);
        };
        let done = self.expand_all(&next).await;
        let failure = done.as_ref().err().map(ToString::to_string);
        if let Some(failure) = &failure {
            log::debug!("moving {} to {}: {failure}", next.source, next.target);
        }
        *self.expansion_failure.lock() = failure;
        done.map(|()| true)
    }

    async fn expand_all(&self, found: &Move) -> FsResult<()> {
        let mut request = ListRequest {
            prefix: found.source.as_str().to_owned(),
            ..ListRequest::default()
        };
        loop {
            let page = self.list_page(request.clone()).await?;
            if page.incomplete {
                return Err(FsError::Store(StoreError::Unavailable {
                    message: "only local copies were listed".into(),
                    retry_after: None,
                }));
            }
            for batch in page.objects.chunks(BATCH) {
                if !self.is_still(found) {
                    return Ok(());
                }
                self.expand_batch(batch)?;
                tokio::task::yield_now().await;
            }
            request.continuation = page.next;
            if request.continuation.is_none() {
                break;
            }
        }
        self.end_move(found)
    }

    /// Whether a move goes on, wherever to. One that was ended and begun anew is another: what was
    /// listed for the former is too old for it.
    fn is_still(&self, found: &Move) -> bool {
        let moves = self.journal().moves();
        let now = moves.from(&found.source);
        now.is_some_and(|now| now.since == found.since)
    }

    pub(super) fn expand_batch(&self, objects: &[ListedObject]) -> FsResult<()> {
        let _changes = self.changes.lock();
        let moves = self.journal().moves();
        let now = self.clock.instant();
        let mut expansions = Expansions::new(self);
        let mut shown = Vec::new();
        for object in objects {
            let Some(found) = moves.governing(object.version.key.as_str()) else {
                continue; // Renamed back meanwhile.
            };
            let known = self.shown_version(&moves.shown_at(object.version.key.as_str()));
            let (version, modified) = (&object.version, object.last_modified);
            if !self.moves_along(version, modified, found.since, known.as_ref()) {
                log::warn!("{} was written after its folder was renamed", version.key);
                if let Some(former) = known.and_then(|known| self.overwritten(version, &known)) {
                    expansions.expand(&former)?;
                }
                continue;
            }
            if let Some(target) = expansions.expand(object)? {
                shown.push((target, Listed::from_object(object, now)));
            }
        }
        expansions.commit()?;
        let mut stale = Vec::new();
        let mut tree = self.tree.lock();
        for (target, listed) in shown {
            show(&mut tree, &target, listed, &mut stale, now);
        }
        drop(tree);
        self.tell_stale(stale);
        Ok(())
    }

    /// Returns what shows here of an object that somebody else has overwritten since its folder was
    /// renamed. It is renamed all the same, as a file by itself would be: its bytes may be here.
    fn overwritten(&self, by: &ObjectVersion, shown: &ObjectVersion) -> Option<ListedObject> {
        if shown.key.folded() != by.key.folded() {
            return None;
        }
        let moves = self.journal().moves();
        let mut tree = self.tree.lock();
        let found = tree.find(&moves.shown_at(shown.key.as_str()));
        let (parent, name) = found.map(|(parent, entry)| (parent, entry.spelling.clone()))?;
        let inode = tree.materialise(parent, &name)?;
        let object = inode.listed_object();
        tree.release_memory(inode.ino);
        object
    }

    fn shown_version(&self, key: &str) -> Option<ObjectVersion> {
        let tree = self.tree.lock();
        let (parent, entry) = tree.find(key)?;
        tree.version(parent, &entry.spelling)
    }

    /// All that lay below the source has records. What it holds otherwise is seen there again.
    fn end_move(&self, found: &Move) -> FsResult<()> {
        let _changes = self.changes.lock();
        let moves = self.journal().moves();
        let edits = moves.carried_out(&found.source);
        if edits.is_empty() || !self.is_still(found) {
            return Ok(()); // A folder above was renamed meanwhile, or this one back.
        }
        for ended in moves.within(&found.source) {
            self.forget_listed_folder(ended.source.as_str());
        }
        self.apply(edits)?;
        self.forget_settled();
        log::info!("All that was in {} has its new name", found.source);
        let now = self.clock.instant();
        let old = now.checked_sub(self.options.list_ttl + Duration::from_secs(1));
        let mut tree = self.tree.lock();
        for ended in moves.within(&found.source) {
            tree.age_listings(ended.source.as_str(), old.unwrap_or(now));
            tree.age_listings(ended.target.as_str(), old.unwrap_or(now));
        }
        Ok(())
    }
}

/// A file of a folder that is on its way has a record from now on. Where its folder is known, it
/// shows; where it is not, the record will tell.
fn show(tree: &mut Tree, key: &Key, listed: Listed, stale: &mut Vec<Stale>, now: Instant) {
    let mut parent = Ino::ROOT;
    let mut rest = key.as_str();
    while let Some((name, deeper)) = rest.split_once('/') {
        if !tree.dir(parent).is_some_and(|dir| dir.loaded) {
            return;
        }
        let known = tree
            .dir(parent)
            .and_then(|dir| dir.entry(name))
            .map(Cow::into_owned);
        parent = match known {
            Some(entry) if entry.kind == Kind::Folder => entry.ino,
            Some(_) => return,
            None => tree.insert_folder(parent, name, now),
        };
        rest = deeper;
    }
    if !rest.is_empty() && tree.dir(parent).is_some_and(|dir| dir.loaded) {
        tree.list_file(parent, &fold(rest), listed, true, stale);
    }
}
