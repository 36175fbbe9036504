//! When keys were written last: R2 takes one write a second to one key.

use std::time::{Duration, Instant};

use super::Journal;
use crate::store::Key;

/// How long a key rests after a write. R2 answers 429 to more than one a second, and a retry after a lost
/// answer may run into it as well (`429 TooManyRequests`, R2: platform/limits).
pub const KEY_REST: Duration = Duration::from_millis(1500);

impl Journal {
    /// Notes that a key is being written now.
    pub fn note_written(&self, key: &Key) {
        let now = self.clock.instant();
        let mut rests = self.rests.lock();
        rests.retain(|_, until| *until > now);
        rests.insert(key.folded(), now + KEY_REST);
    }

    /// Returns until when a key rests, if it does.
    pub fn rests_until(&self, key: &Key) -> Option<Instant> {
        let until = *self.rests.lock().get(&key.folded())?;
        (until > self.clock.instant()).then_some(until)
    }
}
