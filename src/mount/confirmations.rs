//! From the uploader to the file system, which knows nothing of the uploader.

use std::sync::Arc;
use std::time::Duration;

use crate::fs::Fs;
use crate::staging::{Confirmed, JournalResult, Record, Sealed};
use crate::store::{ETag, Key, ObjectInfo, ObjectVersion};
use crate::uploader::Confirm;

/// What the uploader tells goes to the file system, which knows nothing of the uploader.
pub(super) struct Confirmations(pub(super) Arc<Fs>);

impl Confirm for Confirmations {
    fn confirm(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
        _sent: Option<&Sealed>,
    ) -> JournalResult<Confirmed> {
        self.0.confirm_upload(record, now_holds)
    }

    fn protected(
        &self,
        record: &Record,
        now_holds: ETag,
        took: Duration,
    ) -> JournalResult<Confirmed> {
        self.0.confirm_snapshot(record, now_holds, took)
    }

    fn changed(&self, record: &Record, found: &ObjectInfo) -> JournalResult<Confirmed> {
        self.0.keep_changed(record, found)
    }

    fn is_held(&self, key: &Key) -> bool {
        self.0.is_held(key)
    }

    fn locked(&self, key: &Key) {
        self.0.note_locked(key);
    }

    fn detoured(&self, record: &Record, aside: &ObjectVersion) -> JournalResult<bool> {
        self.0.detour(record, aside)
    }

    fn source_lost(&self, record: &Record) -> JournalResult<bool> {
        self.0.replace_lost_source(record)
    }

    fn given_up(&self, record: &Record, reason: &str) -> JournalResult<bool> {
        self.0.give_up_copy(record, reason)
    }

    fn conflict(&self, record: &Record, found: &ObjectInfo) -> JournalResult<bool> {
        self.0.keep_both(record, found)
    }
}
