//! Bursts of deletes: when programs remove more files in a minute than anybody means to, the rest
//! waits until somebody has confirmed it, together with what has not been carried out yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::undo::Restored;
use super::{Fs, FsResult};
use crate::error::FsError;
use crate::staging::{Change, Deleted, Edit, Hold, JournalResult, Record};
use crate::store::Key;

/// Deletes that come within so long a time belong together.
const WINDOW: Duration = Duration::from_secs(60);

/// When files of the bucket were removed lately.
#[derive(Debug, Default)]
pub(super) struct Burst {
    removed: VecDeque<Instant>,
    /// Whether what was removed before the limit was passed is held as well.
    is_held: bool,
}

impl Burst {
    /// Notes `count` more, and returns whether there are more than `limit` in the window.
    fn note(&mut self, count: usize, limit: usize, now: Instant) -> bool {
        while self.removed.front().is_some_and(|at| *at + WINDOW < now) {
            self.removed.pop_front();
        }
        self.removed.extend(std::iter::repeat_n(now, count));
        // The last ones tell as much as all of them.
        let superfluous = self.removed.len().saturating_sub(limit.saturating_add(1));
        self.removed.drain(..superfluous);
        self.removed.len() > limit
    }
}

impl Fs {
    /// Looks at what is about to be removed, and holds it if it is one too many. The rest of a
    /// rename and what never was in the bucket do not count.
    pub(super) fn hold_burst(&self, edits: &mut [Edit]) -> FsResult<()> {
        let Some(limit) = self.options.delete_limit else {
            return Ok(());
        };
        let mut deletes: Vec<(&Key, &mut Hold)> = edits.iter_mut().filter_map(delete).collect();
        let files = deletes.iter().filter(|(key, _)| !key.is_folder_marker());
        let count = files.count();
        let mut burst = self.burst.lock();
        if deletes.is_empty() || !burst.note(count, limit, self.clock.instant()) {
            burst.is_held &= deletes.is_empty();
            return Ok(());
        }
        deletes.iter_mut().for_each(|(_, hold)| **hold = Hold::Held);
        if std::mem::replace(&mut burst.is_held, true) {
            return Ok(());
        }
        let now = self.clock.now();
        let is_of_it = |record: &Record| {
            let age = now.duration_since(record.changed_at).unwrap_or_default();
            age <= WINDOW && record.change.hold() == Some(Hold::Free)
        };
        let held = self.journal().set_hold(is_of_it, Hold::Held);
        let held = held.map_err(|error| FsError::Journal(error.to_string()))?;
        log::warn!(
            "more than {limit} files were removed within a minute: {held} deletes that are not \
             carried out yet and those that follow wait for voicebeatfs queue confirm or discard"
        );
        Ok(())
    }

    /// Lets held deletes go that `selects` names; returns how many there were.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn confirm_deletes(&self, selects: impl Fn(&Key) -> bool) -> JournalResult<usize> {
        let _changes = self.changes.lock();
        let is_meant = |record: &Record| record.is_held() && selects(&record.key);
        self.journal().set_hold(is_meant, Hold::Confirmed)
    }

    /// Takes held deletes back that `selects` names: the files are there again.
    pub async fn discard_deletes(self: &Arc<Self>, selects: impl Fn(&Key) -> bool) -> Restored {
        let mut held = self.waiting_deletes(|record| record.is_held() && selects(&record.key));
        // Folders first, from the top down.
        held.sort_by_key(|lost| (!lost.path.is_folder_marker(), lost.path.clone()));
        let mut restored = Restored::default();
        self.bring_back(held, &mut restored).await;
        restored
    }
}

/// Returns the key of a delete of something that is in the bucket, and whether it is held.
fn delete(edit: &mut Edit) -> Option<(&Key, &mut Hold)> {
    match edit {
        Edit::Set {
            key,
            base: Some(_),
            change: Change::Delete(Deleted::Here { hold, .. }),
        } => Some((key, hold)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_more_than_the_limit_within_the_window() {
        let mut burst = Burst::default();
        let now = Instant::now();
        assert!(!burst.note(3, 3, now));
        assert!(burst.note(1, 3, now + Duration::from_secs(59)));
        assert!(burst.note(0, 3, now + Duration::from_secs(60)));
        assert!(!burst.note(1, 3, now + Duration::from_secs(61)));
        // Many at once are no more than one too many.
        assert!(burst.note(1000, 3, now + Duration::from_secs(62)));
        assert_eq!(burst.removed.len(), 4);
    }
}
