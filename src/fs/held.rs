//! What must stay a while although its name is gone: objects that somebody still reads, and the
//! local copies behind the bucket that must not show instead.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Fs;
use super::inode::{Inode, Remote};
use crate::error::FsResult;
use crate::store::Key;
use crate::store::fallback::HiddenKeys;

/// The directory of local copies behind the bucket.
pub struct LocalCopies {
    /// Names in it that are not to be seen.
    pub hidden: Arc<HiddenKeys>,
    /// Where it is.
    pub dir: PathBuf,
}

/// Keys whose object must stay for now, and for how many inodes.
#[derive(Default)]
pub(super) struct Held(Mutex<HashMap<Key, u32>>);

impl Fs {
    /// Whether the object under a key must stay for now: somebody has it open without a name, and
    /// what is missing of it is still being fetched. Comes free when that has ended, which it does
    /// when no byte has come for the deadline. So does what belongs to a database, when its turn has
    /// come.
    pub fn is_held(&self, key: &Key) -> bool {
        self.held.0.lock().contains_key(&key.folded()) || self.waits_for_database(key)
    }

    /// A file is about to lose its name while somebody reads it: the missing bytes are fetched, and
    /// until then the object stays in the bucket.
    pub(super) fn hold_for_readers(self: &Arc<Self>, inode: &Inode) {
        let (file, key) = {
            let state = inode.state.lock();
            let Some(Remote {
                version,
                file: Some(file),
                ..
            }) = state.remote()
            else {
                return;
            };
            if state.gate.handles() == 0 || file.is_complete() {
                return;
            }
            (file.clone(), version.key.folded())
        };
        *self.held.0.lock().entry(key.clone()).or_default() += 1;
        let fs = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = file.fill().await {
                log::warn!("{key} is removed before its reader has all of it: {error}");
            }
            let mut held = fs.held.0.lock();
            if let Some(count) = held.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&key);
                }
            }
        });
    }

    /// A name loses its file: a local copy behind the bucket must not show instead. What the bucket
    /// holds hides its copy when it is deleted there.
    pub(super) fn hide_local_copy(&self, key: &Key, remote: Option<&Remote>) -> FsResult<()> {
        let Some(copies) = &self.local_copies else {
            return Ok(());
        };
        let is_there = || copies.dir.join(key.as_str()).symlink_metadata().is_ok();
        if self.base_of(key, remote).is_none() && is_there() {
            copies.hidden.hide(key)?;
        }
        Ok(())
    }
}
