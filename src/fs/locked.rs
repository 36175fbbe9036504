//! Objects that a lock rule of the bucket protects (R2: buckets/bucket-locks): nobody may overwrite or
//! delete them. No request tells the rules, so a change is refused from the first time on that the
//! bucket has refused one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fs;
use super::attr::Ino;
use crate::error::{FsError, FsResult};
use crate::store::Key;

/// How long a lock is believed: rules are taken back, and they end with the age of an object.
const BELIEVED: Duration = Duration::from_secs(600);

/// The most that are remembered; of others the bucket tells anew.
const MOST: usize = 10_000;

/// Keys that the bucket has refused to change, and when.
#[derive(Default)]
pub(super) struct Locked(Mutex<HashMap<Key, Instant>>);

impl Fs {
    /// The bucket has refused to change what a key holds.
    pub fn note_locked(&self, key: &Key) {
        let now = self.clock.instant();
        let mut locked = self.locked.0.lock();
        if locked.len() >= MOST {
            locked.retain(|_, noted| now < *noted + BELIEVED);
        }
        if locked.len() < MOST {
            locked.insert(key.folded(), now);
        }
    }

    /// Refuses to change what a key holds, if the bucket would.
    pub(super) fn refuse_locked(&self, key: &Key) -> FsResult<()> {
        let mut locked = self.locked.0.lock();
        let Some(noted) = locked.get(&key.folded()) else {
            return Ok(());
        };
        if self.clock.instant() >= *noted + BELIEVED {
            locked.remove(&key.folded());
            return Ok(());
        }
        Err(FsError::NotPermitted("a lock rule of the bucket"))
    }

    /// The same for the file that an inode is.
    pub(super) fn refuse_locked_inode(&self, ino: Ino) -> FsResult<()> {
        let key = self.tree.lock().key(ino);
        key.map_or(Ok(()), |key| self.refuse_locked(&key))
    }
}
