//! The objects under the further names of files (hard links), for others: copies of the first name's
//! object, made by the bucket.
//!
//! Each is an ordinary record of the uploader under the further name: a copy from the first, renewed with
//! each version that arrives there. The name keeps what was put there; when it goes, a tombstone takes that
//! along, and when the file goes on under it, that is what the file replaces. Nothing is read from these
//! objects here, and nothing waits for them: one that cannot be made, or meets what somebody else has put
//! there, is given up until the next version.

use super::Fs;
use super::inode::Inode;
use crate::staging::{Change, Deleted, Edit, JournalResult, LocalName, Record, StandsFor};
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, ObjectVersion, Origin};

impl Fs {
    /// What the journal must say so that others find a file under its further name `link` as well, which
    /// holds `base` in the bucket; nothing if the first name, `first`, is about to change there: its next
    /// version brings the copy along.
    pub(super) fn copy_under(
        &self,
        link: &Key,
        base: Option<ETag>,
        (inode, first): (&Inode, &Key),
    ) -> Option<Edit> {
        let change = self.copied_from(inode, first)?;
        self.takes_copy(link).then(|| set(link, base, change))
    }

    fn copied_from(&self, inode: &Inode, first: &Key) -> Option<Change> {
        if self.journal().record(first).is_some() || self.journal().moves().covers(first) {
            return None;
        }
        let state = inode.state.lock();
        let remote = state.remote()?;
        let is_first_ones =
            remote.origin == Origin::Primary && remote.version.key.folded() == first.folded();
        is_first_ones.then(|| Change::Copy {
            source: remote.version.clone(),
            size: state.meta.size,
            attributes: state.known.clone(),
        })
    }

    /// What the journal must say of the further names of a file when `version` has arrived under its
    /// first.
    pub(super) fn copies_of(&self, done: &Record, version: &ObjectVersion) -> Vec<Edit> {
        let (Change::Put { attributes, .. } | Change::Copy { attributes, .. }) = &done.change
        else {
            return Vec::new();
        };
        let size = size_of(done);
        let links = self.journal().links_to(&done.key).into_iter();
        let copies = links.filter(|link| self.takes_copy(link)).map(|link| {
            let change = Change::Copy {
                source: version.clone(),
                size,
                attributes: attributes.clone(),
            };
            set(&link, self.base_of(&link, None), change)
        });
        copies.collect()
    }

    /// Whether a copy may go to a key now: one of whose former file no version is to be kept before. When
    /// that has gone, [`Fs::copy_after`] follows.
    pub(super) fn takes_copy(&self, link: &Key) -> bool {
        let record = self.journal().record(link);
        let deletes =
            |record: Record| matches!(record.change, Change::Delete(Deleted::Here { .. }));
        self.may_hold_copy(link) && !record.is_some_and(deletes)
    }

    fn may_hold_copy(&self, link: &Key) -> bool {
        link.fits() && !self.journal().is_side_file(link.as_str())
    }

    /// What the journal must say of a further name whose former file has left the bucket.
    pub(super) fn copy_after(&self, deleted: &Record) -> Option<Edit> {
        // Without one it is the rest of a copy that was given up.
        deleted.base.as_ref()?;
        let first = self.journal().first_name(&deleted.key)?;
        let inode = {
            let mut tree = self.tree.lock();
            let found = tree.find(first.as_str());
            let (parent, name) = found.map(|(parent, entry)| (parent, entry.spelling.clone()))?;
            tree.materialise(parent, &name)?
        };
        let change = self.copied_from(&inode, &first)?;
        self.may_hold_copy(&deleted.key)
            .then(|| set(&deleted.key, None, change))
    }

    /// What the journal must say of the object under a further name that goes.
    pub(super) fn copy_removal(&self, link: &Key) -> Option<Edit> {
        let record = self.journal().record(link);
        let goes = record.is_some_and(|record| record.change.is_delete());
        (!goes).then(|| self.cleared(link, self.base_of(link, None), Deleted::Moved))
    }

    /// Returns the first name of a file, if a record is to put a copy of it under a further one.
    pub(super) fn copied_for(&self, record: &Record) -> Option<Key> {
        let is_copy = matches!(record.change, Change::Copy { .. });
        is_copy.then(|| self.journal().first_name(&record.key))?
    }

    /// What the journal must say of the object under a further name that goes along with its folder, and
    /// what the new key holds of ours. What has a record goes as all records do.
    pub(super) fn copy_moved(&self, name: &LocalName, new: &Key) -> (Vec<Edit>, Option<ETag>) {
        let old = &name.key;
        let there = self.journal().record(new).and_then(|record| record.base);
        if let Some(record) = self.journal().record(old) {
            // Renamed back before it was carried out.
            let is_back = matches!(
                self.record_renamed(&record, new.clone()),
                Edit::Remove { .. }
            );
            return (Vec::new(), there.filter(|_| is_back));
        }
        let StandsFor::Link {
            copy: Some(copy), ..
        } = &name.stands_for
        else {
            return (Vec::new(), None);
        };
        let mut edits = vec![self.cleared(old, Some(copy.clone()), Deleted::Moved)];
        if self.takes_copy(new) {
            let change = Change::Copy {
                source: ObjectVersion {
                    key: old.clone(),
                    etag: copy.clone(),
                },
                // It has them: they are found out and go along.
                size: 0,
                attributes: FileAttributes::default(),
            };
            edits.push(set(new, there, change));
        }
        (edits, None)
    }

    /// Gives up a copy that cannot be made, until the next version under the first name brings another.
    /// Returns false if the record is for none.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn give_up_copy(&self, record: &Record, why: &str) -> JournalResult<bool> {
        let _changes = self.changes.lock();
        self.drop_copy(record, |base| base, why)
    }

    /// Gives up a copy; `left` tells what of ours the key holds then. Names may not change meanwhile.
    pub(super) fn drop_copy(
        &self,
        record: &Record,
        left: impl FnOnce(Option<ETag>) -> Option<ETag>,
        why: &str,
    ) -> JournalResult<bool> {
        let key = &record.key;
        let Some(first) = self.copied_for(record) else {
            return Ok(false);
        };
        if let Some(now) = self.journal().record(key)
            && now.seq == record.seq
        {
            log::debug!("{key}, another name of {first}, has no new copy for others: {why}");
            let edits = vec![
                Edit::Remove { key: key.clone() },
                set_link(key, first, left(now.base)),
            ];
            self.journal().apply(edits)?;
        }
        Ok(true)
    }
}

/// Returns how long the object is that a record has made.
pub(super) fn size_of(done: &Record) -> u64 {
    match &done.change {
        Change::Copy { size, .. } => *size,
        change => change.length(),
    }
}

/// What the journal must say of a further name.
pub(super) fn set_link(key: &Key, to: Key, copy: Option<ETag>) -> Edit {
    Edit::SetLocal(LocalName {
        key: key.clone(),
        stands_for: StandsFor::Link { to, copy },
    })
}

fn set(key: &Key, base: Option<ETag>, change: Change) -> Edit {
    Edit::Set {
        key: key.clone(),
        base,
        change,
    }
}
