//! The entries in memory: one [`CacheFile`] per version at a time.
//!
//! Entries in use are held by their users as well; of the others a bounded number is kept, so that
//! opening one again costs no system call. A version that is being removed is marked as leaving,
//! so that a look-up in the index that overlaps with the removal brings nothing back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::file::{CacheFile, Phase};
use super::index::to_ms;
use crate::disk::FileId;
use crate::store::ObjectVersion;

/// How many entries that nobody uses are kept; each costs a descriptor and a kilobyte.
const MAX_IDLE: usize = 256;
/// Looking for entries to let go costs a walk over all of them, so it is done for so many at once.
const TRIM_STEP: usize = 64;

/// The last use is known to the minute.
const USE_GRAIN_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Table {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<ObjectVersion, Arc<CacheFile>>,
    /// Versions being removed, and by how many.
    leaving: HashMap<ObjectVersion, usize>,
    /// Raised when a removal ends.
    removals: u64,
    /// Entries after the last trim.
    trimmed: usize,
}

/// What a look-up finds in memory.
pub(super) enum Found {
    File(Arc<CacheFile>),
    /// Not in memory: the index may know it. Keeps the state of removals.
    Unknown(u64),
    /// Being removed.
    Leaving,
}

/// A version that is being removed; ends when dropped.
pub(super) struct Leaving<'a> {
    table: &'a Table,
    version: ObjectVersion,
    file: Option<Arc<CacheFile>>,
}

impl Leaving<'_> {
    /// Returns the entry that was in memory.
    pub(super) fn file(&self) -> Option<&Arc<CacheFile>> {
        self.file.as_ref()
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut state = self.table.state.lock();
        state.removals += 1;
        if let Some(count) = state.leaving.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                state.leaving.remove(&self.version);
            }
        }
    }
}

impl Table {
    pub(super) fn find(&self, version: &ObjectVersion) -> Found {
        let state = self.state.lock();
        match state.files.get(version) {
            Some(file) => Found::File(Arc::clone(file)),
            None if state.leaving.contains_key(version) => Found::Leaving,
            None => Found::Unknown(state.removals),
        }
    }

    /// Enters what the index told, unless something was removed since `removals` was read: then
    /// the index is to be asked again. Returns the entry that counts.
    pub(super) fn insert_found(
        &self,
        file: Arc<CacheFile>,
        removals: u64,
    ) -> Option<Arc<CacheFile>> {
        let mut state = self.state.lock();
        if let Some(known) = state.files.get(&file.version) {
            return Some(Arc::clone(known));
        }
        if state.removals != removals || state.leaving.contains_key(&file.version) {
            return None;
        }
        state.files.insert(file.version.clone(), Arc::clone(&file));
        Some(file)
    }

    /// Enters a new file unless there is one; returns the entry that counts.
    pub(super) fn insert_new(&self, file: Arc<CacheFile>) -> Arc<CacheFile> {
        let mut state = self.state.lock();
        Arc::clone(state.files.entry(file.version.clone()).or_insert(file))
    }

    /// Enters a file in place of whatever was there; returns that.
    pub(super) fn replace(&self, file: Arc<CacheFile>) -> Option<Arc<CacheFile>> {
        self.state.lock().files.insert(file.version.clone(), file)
    }

    /// Takes a version out, whoever uses it.
    pub(super) fn leave(&self, version: &ObjectVersion) -> Leaving<'_> {
        let mut state = self.state.lock();
        let file = state.files.remove(version);
        self.leaving(&mut state, version, file)
    }

    /// Takes a version out if it is this very file.
    pub(super) fn leave_file(&self, file: &Arc<CacheFile>) -> Leaving<'_> {
        let mut state = self.state.lock();
        let same = state
            .files
            .get(&file.version)
            .is_some_and(|known| known.content.id == file.content.id);
        let known = if same {
            state.files.remove(&file.version)
        } else {
            None
        };
        self.leaving(&mut state, &file.version, known)
    }

    /// Takes a version out unless somebody uses it or it has another file by now.
    pub(super) fn leave_unused(&self, version: &ObjectVersion, id: FileId) -> Option<Leaving<'_>> {
        let mut state = self.state.lock();
        let known = state.files.get(version);
        if known.is_some_and(|file| is_used(file) || file.content.id != id)
            || state.leaving.contains_key(version)
        {
            return None;
        }
        let file = state.files.remove(version);
        Some(self.leaving(&mut state, version, file))
    }

    fn leaving(
        &self,
        state: &mut State,
        version: &ObjectVersion,
        file: Option<Arc<CacheFile>>,
    ) -> Leaving<'_> {
        *state.leaving.entry(version.clone()).or_default() += 1;
        Leaving {
            table: self,
            version: version.clone(),
            file,
        }
    }

    /// Notes that entries in use are used; their readers may pass us by.
    pub(super) fn touch_used(&self, now: SystemTime) {
        let state = self.state.lock();
        let recent = to_ms(now).saturating_sub(USE_GRAIN_MS);
        for file in state.files.values().filter(|file| is_used(file)) {
            if file.content.used_at_ms() < recent {
                file.content.touch(now);
            }
        }
    }

    /// Returns all entries in memory.
    pub(super) fn all(&self) -> Vec<Arc<CacheFile>> {
        self.state.lock().files.values().cloned().collect()
    }

    /// Whether there are entries that nobody uses and that are still being verified.
    pub(super) fn is_verifying_unused(&self) -> bool {
        let state = self.state.lock();
        let mut files = state.files.values();
        // One count is the table's and one the verification's.
        files.any(|file| {
            Arc::strong_count(file) == 2
                && Arc::strong_count(&file.content) == 1
                && file.content.state.lock().phase == Phase::Verifying
        })
    }

    /// Returns the ids of the entries in memory.
    pub(super) fn ids(&self) -> HashSet<FileId> {
        let state = self.state.lock();
        state.files.values().map(|file| file.content.id).collect()
    }

    /// Returns the entries to let go since nobody has used them for the longest time and there are
    /// too many; mostly none.
    pub(super) fn surplus(&self) -> Vec<Arc<CacheFile>> {
        let mut state = self.state.lock();
        if state.files.len() < MAX_IDLE.max(state.trimmed) + TRIM_STEP {
            return Vec::new();
        }
        let idle = state.files.values().filter(|file| !is_used(file));
        let mut idle: Vec<_> = idle.cloned().collect();
        idle.sort_by_key(|file| file.content.used_at_ms());
        idle.truncate(idle.len().saturating_sub(MAX_IDLE));
        state.trimmed = state.files.len() - idle.len();
        idle
    }

    /// Lets an entry go if nobody but the caller uses it and the index knows all of it.
    pub(super) fn let_go(&self, file: Arc<CacheFile>) {
        let mut state = self.state.lock();
        // One count is the table's and one the caller's.
        let unused = Arc::strong_count(&file) <= 2 && Arc::strong_count(&file.content) == 1;
        let known = state.files.get(&file.version);
        if unused
            && !file.content.state.lock().dirty
            && known.is_some_and(|known| Arc::ptr_eq(known, &file))
        {
            state.files.remove(&file.version);
        }
    }
}

/// Whether anybody but the table holds an entry or its bytes. Only under the table's lock is the
/// answer good: who holds none can get one only there.
fn is_used(file: &Arc<CacheFile>) -> bool {
    Arc::strong_count(file) > 1 || Arc::strong_count(&file.content) > 1
}
