//! The objects under the further names of files (hard links), for others: server-side copies of the first
//! name's object, made behind when that is settled in the bucket.
//!
//! The journal says of each name whether its copy is due, and what was put under it. A copy never goes over
//! what somebody else has put there: that stays, and here the name goes on to be one of several. When a
//! name goes, a tombstone takes its copy along. What is lost by a kill between the answer of the bucket and
//! its note: the copy of a name that is removed at that moment stays in the bucket, as a file of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use crate::error::FsResult;
use crate::staging::journal::KEY_REST;
use crate::staging::{Change, Deleted, Edit, LinkCopy, LocalName, StandsFor};
use crate::store::attributes::WRITE_ID;
use crate::store::{
    CopyRequest, ETag, Key, ObjectInfo, Origin, ReadCondition, StoreError, WriteCondition,
};

/// The first wait after a failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Looks again whether there is anything to do when nothing wakes the task.
const IDLE: Duration = Duration::from_secs(3600);

impl Fs {
    /// Starts the task that makes the objects under further names.
    pub fn spawn_link_copies(self: &Arc<Self>) {
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
                let done = strong.copy_links().await;
                drop(strong);
                let pause = match done {
                    Ok(true) => IDLE,
                    Ok(false) => KEY_REST,
                    Err(error) => {
                        log::debug!("copies for further names: {error}");
                        wait = (2 * wait).min(WAITS.1);
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                };
                wait = WAITS.0;
                if let Ok(Err(_)) = tokio::time::timeout(pause, changed.changed()).await {
                    return;
                }
            }
        });
    }

    /// Makes the copies that are due; false if some have to wait.
    pub(super) async fn copy_links(&self) -> FsResult<bool> {
        let mut is_all = true;
        for (name, first) in self.journal().link_copies_due() {
            if self.journal().is_paused() {
                return Ok(true);
            }
            if self.journal().rests_until(&name.key).is_some() {
                is_all = false;
                continue;
            }
            self.copy_link(name, &first).await?;
        }
        Ok(is_all)
    }

    async fn copy_link(&self, name: LocalName, first: &Key) -> FsResult<()> {
        let changes = self.link_changes.load(Ordering::Acquire);
        let key = &name.key;
        let former = name.copy.holds.clone();
        let original = match self.store.head(first, ReadCondition::None).await {
            Ok(info) if info.origin == Origin::Primary && key.fits() => info,
            Ok(_) | Err(StoreError::NotFound) => return self.link_copied(&name, former, changes),
            Err(error) => return Err(error.into()),
        };
        self.journal().note_written(key);
        let copied = self.store.copy(CopyRequest {
            source: original.version.clone(),
            destination: key.clone(),
            condition: match &former {
                Some(etag) => WriteCondition::IfMatch(etag.clone()),
                None => WriteCondition::IfAbsent,
            },
            headers: None,
        });
        let copied = copied.await;
        self.journal().note_written(key);
        let holds = match copied {
            Ok(etag) => Some(etag),
            // The next round copies what is there then.
            Err(StoreError::SourceChanged) => return Ok(()),
            Err(StoreError::PreconditionFailed) => {
                match self.store.head(key, ReadCondition::None).await {
                    Ok(found) if is_copy(&found, &original) => Some(found.version.etag),
                    Ok(_) => {
                        log::warn!(
                            "{key} is another name of {first} here, and somebody else's file in the bucket"
                        );
                        None
                    }
                    Err(StoreError::NotFound) => return self.link_lost(&name),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(
                error @ (StoreError::TooLarge(_) | StoreError::Refused(_) | StoreError::Locked(_)),
            ) => {
                log::warn!("{key}, another name of {first}, stays as it is in the bucket: {error}");
                former
            }
            Err(error) => return Err(error.into()),
        };
        self.link_copied(&name, holds, changes)
    }

    /// Nothing is under the name in the bucket any more: it is made anew.
    fn link_lost(&self, name: &LocalName) -> FsResult<()> {
        let _changes = self.changes.lock();
        match self.journal().local_name(&name.key) {
            Some(now) if now == *name => self.apply(vec![Edit::SetLocal(LocalName {
                copy: LinkCopy::default(),
                ..now
            })]),
            _ => Ok(()),
        }
    }

    /// The bucket holds a copy under the name, as far as it will.
    fn link_copied(&self, name: &LocalName, holds: Option<ETag>, changes: u64) -> FsResult<()> {
        let _changes = self.changes.lock();
        let is_outdated = self.link_changes.load(Ordering::Acquire) != changes;
        match self.journal().local_name(&name.key) {
            Some(now) if matches!(now.stands_for, StandsFor::Link(_)) => {
                let due = is_outdated || now.stands_for != name.stands_for;
                let copy = LinkCopy { due, holds };
                self.apply(vec![Edit::SetLocal(LocalName { copy, ..now })])
            }
            // The name went meanwhile, and a file may have come there that knows nothing of this.
            _ => match (self.journal().record(&name.key), holds) {
                (Some(record), Some(holds)) if record.base.is_none() => {
                    let rebased = self.journal().rebase(&record.key, record.seq, Some(holds));
                    rebased
                        .map(drop)
                        .map_err(|error| crate::error::FsError::Journal(error.to_string()))
                }
                (None, Some(holds)) => self.apply(vec![Edit::Set {
                    key: name.key.clone(),
                    base: Some(holds),
                    change: Change::Delete(Deleted::Moved),
                }]),
                _ => Ok(()),
            },
        }
    }

    /// What the journal must say of the further names of a file whose object has changed.
    pub(super) fn outdate_links(&self, first: &Key) -> Vec<Edit> {
        if !self.journal().has_links() {
            return Vec::new();
        }
        self.link_changes.fetch_add(1, Ordering::AcqRel);
        self.journal().links_outdated(first)
    }
}

/// Whether an object is the copy of another whose answer was lost: the copy carries its write id.
fn is_copy(found: &ObjectInfo, original: &ObjectInfo) -> bool {
    let [one, other] = [found, original].map(|object| object.metadata.get(WRITE_ID));
    found.size == original.size
        && (found.version.etag == original.version.etag || (one.is_some() && one == other))
}
