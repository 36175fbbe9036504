//! What is deleted or overwritten in some collections is copied to the trash first.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::send::{Operation, Stop};
use crate::staging::{Change, Deleted};
use crate::store::trash::{self, CUT_KEY, ONE_VERSION_IN, Why};
use crate::store::{
    CopyRequest, ETag, Key, ObjectHeaders, ObjectVersion, ReadCondition, StoreError, WriteCondition,
};

/// What was put into the trash lately. Keys are folded.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// When a version of each key was.
    kept: Mutex<HashMap<Key, SystemTime>>,
    /// Keys that hold a snapshot of a file that is still open: no version that anybody has saved.
    snapshots: Mutex<HashSet<Key>>,
}

impl Recent {
    fn has(&self, key: &Key, now: SystemTime) -> bool {
        let mut recent = self.kept.lock();
        recent.retain(|_, at| {
            now.duration_since(*at)
                .is_ok_and(|age| age < ONE_VERSION_IN)
        });
        recent.contains_key(&key.folded())
    }

    fn note(&self, key: &Key, now: SystemTime) {
        self.kept.lock().insert(key.folded(), now);
    }

    /// Notes what a key is about to hold; returns whether it holds a snapshot yet.
    fn replace_snapshot(&self, key: &Key, is_snapshot: bool) -> bool {
        let mut snapshots = self.snapshots.lock();
        match is_snapshot {
            true => !snapshots.insert(key.folded()),
            false => snapshots.remove(&key.folded()),
        }
    }
}

impl Operation {
    /// Keeps the version `etag` that this record deletes, if it is to be kept. Returns false if the
    /// key does not hold it any more.
    pub(super) async fn keep_deleted(&mut self, etag: &ETag) -> Result<bool, Stop> {
        let Change::Delete(Deleted::Here { name, .. }) = &self.record.change else {
            return Ok(true);
        };
        let original = name.clone().unwrap_or_else(|| self.record.key.clone());
        if !self.has_trash(&original) {
            return Ok(true);
        }
        self.keep(&original, etag.clone(), Why::Deleted).await
    }

    /// Keeps the version that is about to be replaced by one with the tag `new`, unless another
    /// version of the key was kept a short while ago. A version that is no longer there is met by
    /// the condition of the write that follows.
    pub(super) async fn keep_overwritten(&mut self, new: &ETag) -> Result<(), Stop> {
        let key = self.record.key.clone();
        let Some(base) = self.record.base.clone().filter(|base| base != new) else {
            return Ok(());
        };
        let recent = &self.sender.trashed;
        if recent.replace_snapshot(&key, self.snapshot.is_some()) {
            return Ok(());
        }
        let now = self.sender.clock.now();
        if self.has_trash(&key) && !self.sender.trashed.has(&key, now) {
            self.keep(&key, base, Why::Overwritten).await?;
        }
        Ok(())
    }

    fn has_trash(&self, key: &Key) -> bool {
        trash::has_key(&self.sender.options.trash_collections, key)
    }

    async fn keep(&mut self, original: &Key, etag: ETag, why: Why) -> Result<bool, Stop> {
        let named = trash::name(original, &etag, self.record.changed_at, why);
        let source = ObjectVersion {
            key: self.record.key.clone(),
            etag,
        };
        let headers = match named.original {
            Some(_) => None,
            None => self.headers_with_key(&source, original).await?,
        };
        let request = CopyRequest {
            source,
            destination: named.key.clone(),
            condition: WriteCondition::IfAbsent,
            headers,
        };
        match self.copy_version(request, None).await {
            // Copied before: by a try whose answer was lost, or by a process that was killed.
            Ok(_) | Err(Stop::Store(StoreError::PreconditionFailed)) => {}
            Err(Stop::Store(StoreError::SourceChanged | StoreError::NotFound)) => return Ok(false),
            Err(stop) => return Err(stop),
        }
        let now = self.sender.clock.now();
        self.sender.trashed.note(&self.record.key, now);
        log::debug!("Kept {original} in the trash as {}", named.key);
        Ok(true)
    }

    /// A name in the trash without room for the key: the metadata tells it.
    async fn headers_with_key(
        &mut self,
        source: &ObjectVersion,
        original: &Key,
    ) -> Result<Option<ObjectHeaders>, Stop> {
        let condition = ReadCondition::IfMatch(source.etag.clone());
        let found = self.sender.store.head(&source.key, condition).await;
        Ok(match self.hear(found) {
            Ok(info) => {
                let mut metadata = info.metadata;
                metadata.insert(CUT_KEY.into(), hex::encode(original.as_str()));
                Some(ObjectHeaders {
                    content_type: info.content_type.unwrap_or_default(),
                    metadata,
                })
            }
            // The copy finds out the same.
            Err(StoreError::NotFound | StoreError::PreconditionFailed) => None,
            Err(error) => return Err(error.into()),
        })
    }
}
