//! Objects of others whose keys no file name can stand for: with `//`, with `.` or `..` between
//! slashes, with parts of more than 255 bytes, with bytes under a folder's own key, or with the name
//! of a folder. They stay as they are in the bucket, and the status tells of them.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::Fs;

/// So many keys are told at most.
const MAX_TOLD: usize = 100;

/// Hidden keys by the folder in whose listing they were found, as last listed.
#[derive(Default)]
pub(super) struct Hidden(Mutex<BTreeMap<String, Vec<String>>>);

impl Hidden {
    /// Notes what a listing of `folder` has that cannot be shown.
    pub(super) fn note(&self, folder: &str, keys: &[String]) {
        let mut hidden = self.0.lock();
        let former = match keys.is_empty() {
            true => hidden.remove(folder),
            false => hidden.insert(folder.to_owned(), keys.to_vec()),
        };
        drop(hidden);
        if !keys.is_empty() && former.is_none_or(|former| former != keys) {
            log::warn!("{folder:?} has objects that cannot be shown as files: {keys:?}");
        }
    }
}

impl Fs {
    /// Returns keys that cannot be shown, a hundred at most; a key that ends in `/` stands for
    /// everything below it.
    pub fn hidden_keys(&self) -> Vec<String> {
        let hidden = self.hidden.0.lock();
        hidden.values().flatten().take(MAX_TOLD).cloned().collect()
    }
}
