//! Files and folders that are kept on this disk: the pins, and the task that brings what they lack.
//!
//! A pin is a path. It outlives the process in `pins.json` beside the journal, not in the cache,
//! which anybody may remove at any time. The task lists the pinned folders again and again, so that
//! a pin follows what others put there; the cache keeps from eviction what lies below a pin.

mod renamed;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Fs;
use crate::cache::{CacheError, CacheFile, NoRoom};
use crate::disk;
use crate::staging::Change;
use crate::store::{Key, ListRequest, ObjectVersion, ReadCondition, StoreError, StoreResult};

const FILE_NAME: &str = "pins.json";
/// The most pins: each costs a listing every `LIST_TTL_SECONDS`.
const MAX_PINS: usize = 1_000;
/// Files that are brought at once; their requests share the line.
pub(super) const FILES_AT_ONCE: usize = 4;
/// Folders are listed anew no more often than this.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Why something is not pinned or brought.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Nothing has that name.
    #[error("{0}: no such file or folder in the bucket")]
    NotFound(String),
    /// It is no path of the bucket.
    #[error("{0} is on this disk already: only what is in the bucket can be fetched")]
    Local(String),
    /// It does not fit.
    #[error("{0}")]
    NoRoom(String),
    /// There are too many pins.
    #[error("more than {MAX_PINS} pins: pin the folder that they lie in")]
    TooMany,
    /// The bucket could not be asked.
    #[error("{0}: {1}")]
    Store(String, #[source] StoreError),
    /// The list of pins could not be written.
    #[error("the list of pins cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// How much of something is here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are here as a whole.
    pub held_files: u64,
    /// Bytes that are here.
    pub held_bytes: u64,
    /// Why the rest does not come.
    pub failure: Option<String>,
}

impl Fill {
    fn add(&mut self, other: &Fill) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.held_files += other.held_files;
        self.held_bytes += other.held_bytes;
    }
}

/// An object that is to be here.
pub(super) struct Wanted {
    pub(super) version: ObjectVersion,
    pub(super) size: u64,
}

/// What was found at and below a path.
#[derive(Default)]
pub(super) struct Survey {
    /// Also what needs not be brought, since it is staged.
    fill: Fill,
    pub(super) missing: Vec<Wanted>,
    /// Where the bytes are of what was renamed here, as long as the bucket has not: keys, and folders.
    elsewhere: Vec<String>,
}

/// The pins of one mount.
pub struct Keeper {
    fs: Arc<Fs>,
    path: PathBuf,
    /// One pin or unpin at a time, over the bucket's answers.
    changing: tokio::sync::Mutex<()>,
    /// Held while the file is written: it must not go back to older pins.
    writing: Mutex<()>,
    /// By path, with what was last found there. Taken after `writing`.
    pins: Mutex<BTreeMap<String, Fill>>,
    /// Keys and folders that hold the bytes of pins under other names. Taken after `pins`.
    elsewhere: Mutex<BTreeSet<String>>,
    changed: Notify,
}

/// How far the bringing of some files has got, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Warming {
    files: AtomicU64,
    bytes: AtomicU64,
    done: Mutex<Fill>,
    open: Mutex<Vec<Arc<CacheFile>>>,
}

impl Warming {
    /// Returns that of files none of which is here as a whole.
    pub(super) fn of(files: &[Wanted]) -> Warming {
        let warming = Warming::default();
        warming.files.store(files.len() as u64, Ordering::Relaxed);
        let bytes = files.iter().map(|wanted| wanted.size).sum();
        warming.bytes.store(bytes, Ordering::Relaxed);
        warming
    }

    /// Returns how many bytes those files lack that are being brought now.
    pub(super) fn missing_bytes(&self) -> u64 {
        let open = self.open.lock();
        let missing = |file: &Arc<CacheFile>| file.size().saturating_sub(file.held_bytes());
        open.iter().map(missing).sum()
    }

    /// Returns how much is here by now.
    pub fn fill(&self) -> Fill {
        let mut fill = self.done.lock().clone();
        fill.files = self.files.load(Ordering::Relaxed);
        fill.bytes = self.bytes.load(Ordering::Relaxed);
        let open = self.open.lock();
        fill.held_bytes += open.iter().map(|file| file.held_bytes()).sum::<u64>();
        fill
    }

    fn plan(&self, survey: &Survey) {
        self.files.fetch_add(survey.fill.files, Ordering::Relaxed);
        self.bytes.fetch_add(survey.fill.bytes, Ordering::Relaxed);
        let missing: u64 = survey.missing.iter().map(|wanted| wanted.size).sum();
        let mut done = self.done.lock();
        done.held_files += survey.fill.held_files;
        done.held_bytes += survey.fill.bytes - missing;
    }

    fn end(&self, file: &Arc<CacheFile>, result: Result<(), CacheError>) {
        self.open.lock().retain(|other| !Arc::ptr_eq(other, file));
        let mut done = self.done.lock();
        done.held_bytes += file.held_bytes();
        match result {
            Ok(()) => done.held_files += 1,
            Err(error) => done.failure = Some(format!("{}: {error}", file.version().key)),
        }
    }
}

impl Keeper {
    /// Loads the pins that are kept in `dir`. A damaged list is an error: taken for empty, what
    /// somebody wanted to have on stage would be evicted.
    pub fn open(fs: Arc<Fs>, dir: &Path) -> io::Result<Keeper> {
        let path = dir.join(FILE_NAME);
        let paths: Vec<String> = match std::fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        fs.cache.set_pinned(paths.iter().cloned());
        let pins = paths.into_iter().map(|path| (path, Fill::default()));
        Ok(Keeper {
            fs,
            path,
            changing: tokio::sync::Mutex::default(),
            writing: Mutex::default(),
            pins: Mutex::new(pins.collect()),
            elsewhere: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Returns the pins at or below a path (all, if it is empty), and what is here of each.
    pub fn pins(&self, path: &str) -> Vec<(String, Fill)> {
        let pins = self.pins.lock();
        let within = pins.iter().filter(|(pin, _)| is_within(pin, path));
        within
            .map(|(pin, fill)| (pin.clone(), fill.clone()))
            .collect()
    }

    /// Pins files and folders: all of them, or none. They are brought behind.
    ///
    /// # Errors
    /// Why they are not.
    pub async fn pin(&self, paths: &[String]) -> Result<Vec<(String, Fill)>, PinError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut pins = self.pins.lock().clone();
        let mut added = Vec::new();
        for path in self.fs.bucket_paths(paths)? {
            let survey = self.survey(&path).await?;
            add(&mut pins, &path, &survey.fill);
            added.push((path, survey.fill));
        }
        if pins.len() > MAX_PINS {
            return Err(PinError::TooMany);
        }
        let mut sum = Fill::default();
        pins.values().for_each(|fill| sum.add(fill));
        self.fs.check_room(&sum)?;
        self.keep(|pins| {
            let each = added.iter();
            each.for_each(|(path, fill)| add(pins, path, fill));
        })?;
        Ok(added)
    }

    /// Unpins these paths, and all pins below them. Returns which there were.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn unpin(&self, paths: &[String]) -> Result<Vec<String>, PinError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut gone = Vec::new();
        self.keep(|pins| {
            for path in paths {
                let path = path_of(path);
                let unpinned = pins.extract_if(.., |pin, _| is_within(pin, &path));
                gone.extend(unpinned.map(|(pin, _)| pin));
            }
        })?;
        gone.sort();
        Ok(gone)
    }

    /// Changes the pins, on the disk and then here.
    fn keep(&self, change: impl FnOnce(&mut BTreeMap<String, Fill>)) -> io::Result<()> {
        let _writing = self.writing.lock();
        let mut pins = self.pins.lock().clone();
        change(&mut pins);
        let paths: Vec<&String> = pins.keys().collect();
        disk::write_atomic(&self.path, &serde_json::to_vec_pretty(&paths)?)?;
        *self.pins.lock() = pins;
        self.tell_cache();
        self.changed.notify_one();
        Ok(())
    }

    /// Has the cache hold what is pinned, under all its names.
    fn tell_cache(&self) {
        let pins = self.pins.lock();
        let elsewhere = self.elsewhere.lock();
        let held = pins.keys().chain(elsewhere.iter());
        self.fs.cache.set_pinned(held.cloned());
    }

    /// Notes where bytes of pins lie under other names, from a look at all pins.
    fn note_elsewhere(&self, found: BTreeSet<String>, is_all: bool) {
        let mut elsewhere = self.elsewhere.lock();
        let before = elsewhere.clone();
        match is_all {
            true => *elsewhere = found,
            false => elsewhere.extend(found),
        }
        let changed = *elsewhere != before;
        drop(elsewhere);
        if changed {
            self.tell_cache();
        }
    }

    /// Brings files and folders into the cache, when nobody else needs the line, and returns when
    /// they are there. They may be evicted again. Dropping the future stops it.
    ///
    /// # Errors
    /// Why nothing was begun; what fails later is told in the result.
    pub async fn warm(&self, paths: &[String], warming: &Warming) -> Result<Fill, PinError> {
        let mut missing = Vec::new();
        let mut sum = Fill::default();
        for path in self.fs.bucket_paths(paths)? {
            let survey = self.survey(&path).await?;
            warming.plan(&survey);
            sum.add(&survey.fill);
            missing.extend(survey.missing);
        }
        for (pin, fill) in self.pins("") {
            if !paths.iter().any(|path| is_within(&pin, &path_of(path))) {
                sum.add(&fill);
            }
        }
        self.fs.check_room(&sum)?;
        self.bring(missing, warming).await;
        Ok(warming.fill())
    }

    /// Looks what a path stands for.
    async fn survey(&self, path: &str) -> Result<Survey, PinError> {
        let surveyed = self.fs.survey(path).await;
        let survey = surveyed.map_err(|error| PinError::Store(path.to_owned(), error))?;
        survey.ok_or_else(|| PinError::NotFound(path.to_owned()))
    }

    async fn bring(&self, missing: Vec<Wanted>, warming: &Warming) {
        let files = futures::stream::iter(missing)
            .map(async |wanted| self.fs.bring_file(&wanted, warming).await);
        files.buffer_unordered(FILES_AT_ONCE).collect::<()>().await;
    }

    /// Starts the task that keeps what is pinned here, and follows renames.
    pub fn spawn(self: &Arc<Self>) {
        let keeper = Arc::downgrade(self);
        self.fs.attach_keeper(keeper.clone());
        self.fs.runtime.spawn(async move {
            // Without pins it asks for nothing; it ends with the last holder of the keeper.
            while let Some(keeper) = keeper.upgrade() {
                if keeper.fs.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let paths = keeper.pins.lock().keys().cloned().collect::<Vec<_>>();
                tokio::select! {
                    () = keeper.round(paths) => {}
                    () = keeper.changed.notified() => {}
                }
            }
        });
    }

    /// Looks at all pins, brings what is missing, and waits until it is time for the next look.
    async fn round(&self, paths: Vec<String>) {
        let pause = self.fs.options.list_ttl.max(LEAST_PAUSE);
        let mut missing = Vec::new();
        let (mut elsewhere, mut is_all) = (BTreeSet::new(), true);
        for path in paths {
            let found = self.survey(&path).await;
            is_all &= found.is_ok();
            let found = found.map(|survey| {
                missing.extend(survey.missing);
                elsewhere.extend(survey.elsewhere);
                survey.fill
            });
            self.note(&path, found);
        }
        self.note_elsewhere(elsewhere, is_all);
        let mut sum = Fill::default();
        self.pins.lock().values().for_each(|fill| sum.add(fill));
        if let Err(error) = self.fs.check_room(&sum) {
            self.tell_unfilled(&error.to_string());
            missing.clear();
        }
        let brought = !missing.is_empty();
        let warming = Warming::default();
        self.bring(missing, &warming).await;
        let failure = warming.fill().failure;
        if let Some(text) = &failure {
            self.tell_unfilled(text);
            log::warn!("what is pinned is not all here: {text}");
        }
        // What was brought is counted soon.
        let is_filled = brought && failure.is_none();
        tokio::time::sleep(if is_filled { LEAST_PAUSE } else { pause }).await;
    }

    /// Notes why pins lack what they lack.
    fn tell_unfilled(&self, reason: &str) {
        let mut pins = self.pins.lock();
        let unfilled = pins
            .values_mut()
            .filter(|fill| fill.held_files < fill.files);
        unfilled.for_each(|fill| fill.failure = Some(reason.to_owned()));
    }

    fn note(&self, path: &str, found: Result<Fill, PinError>) {
        let mut pins = self.pins.lock();
        let Some(fill) = pins.get_mut(path) else {
            return;
        };
        match found {
            Ok(found) => *fill = found,
            // What was found before may still be right.
            Err(error) => fill.failure = Some(error.to_string()),
        }
    }
}

impl Fs {
    /// Brings a file when nobody else needs the line, and waits until it is here.
    pub(super) async fn bring_file(&self, wanted: &Wanted, warming: &Warming) {
        let file = match self.cache.open_file(&wanted.version, wanted.size) {
            Ok(file) => file,
            Err(error) => {
                let text = format!("{}: {error}", wanted.version.key);
                warming.done.lock().failure = Some(text);
                return;
            }
        };
        warming.open.lock().push(file.clone());
        let result = file.fill_behind().await;
        if result.is_ok() {
            self.cache.drop_superseded(&wanted.version);
        }
        warming.end(&file, result);
    }

    /// Returns the paths in the bucket that paths of the mount stand for.
    fn bucket_paths(&self, paths: &[String]) -> Result<Vec<String>, PinError> {
        let mut found = Vec::new();
        for path in paths {
            let path = path_of(path);
            let top = path.split('/').next().unwrap_or_default();
            match top {
                "" => found.extend(self.options.collections.iter().cloned()),
                "samples" => return Err(PinError::Local(path)),
                _ => found.push(path),
            }
        }
        Ok(found)
    }

    /// Looks for the objects that a file or folder stands for; `None` if there is no such thing.
    async fn survey(&self, path: &str) -> StoreResult<Option<Survey>> {
        let mut survey = Survey::default();
        if let Some(key) = Key::new(path)
            && self.survey_file(&key, &mut survey).await?
        {
            return Ok(Some(survey));
        }
        self.survey_folder(path, usize::MAX, &mut survey).await?;
        let is_known = survey.fill.files > 0 || self.tree.lock().find(path).is_some();
        Ok(is_known.then_some(survey))
    }

    /// Looks for the objects below a folder in as many requests at the most; whether that was all.
    pub(super) async fn survey_folder(
        &self,
        path: &str,
        mut pages: usize,
        survey: &mut Survey,
    ) -> StoreResult<bool> {
        let below = format!("{path}/");
        for record in self.journal().records_below(&below) {
            match record.change {
                Change::Copy { source, size, .. } => self.want_renamed(source, size, survey),
                Change::Put { .. } => survey.is_here(record.change.length()),
                Change::Folder { .. } | Change::Delete(_) => {}
            }
        }
        let moves = self.journal().moves();
        for lower in moves.lowers(&below) {
            if lower.prefix != below {
                survey.elsewhere.push(path_of(&lower.prefix));
            }
            let mut request = ListRequest {
                prefix: lower.prefix,
                ..ListRequest::default()
            };
            loop {
                if pages == 0 {
                    return Ok(false);
                }
                pages -= 1;
                let page = self.list_page(request.clone()).await?;
                for object in page.objects {
                    let key = &object.version.key;
                    let shown = Key::new(&moves.shown_at(key.as_str()));
                    let record = shown.and_then(|shown| self.journal().record(&shown));
                    if !key.is_folder_marker() && record.is_none() {
                        self.want(object.version, object.size, survey);
                    }
                }
                request.continuation = page.next;
                if request.continuation.is_none() {
                    break;
                }
            }
        }
        Ok(true)
    }

    /// The same for a file; whether it is one.
    pub(super) async fn survey_file(&self, key: &Key, survey: &mut Survey) -> StoreResult<bool> {
        match self.journal().record(key).map(|record| record.change) {
            Some(Change::Copy { source, size, .. }) => self.want_renamed(source, size, survey),
            Some(change @ Change::Put { .. }) => survey.is_here(change.length()),
            Some(Change::Folder { .. } | Change::Delete(_)) => return Ok(false),
            None => match self.store.head(key, ReadCondition::None).await {
                Ok(info) => self.want(info.version, info.size, survey),
                Err(StoreError::NotFound) => return Ok(false),
                Err(error) => return Err(error),
            },
        }
        Ok(true)
    }

    fn want_renamed(&self, source: ObjectVersion, size: u64, survey: &mut Survey) {
        survey.elsewhere.push(path_of(source.key.as_str()));
        self.want(source, size, survey);
    }

    pub(super) fn want(&self, version: ObjectVersion, size: u64, survey: &mut Survey) {
        let fill = &mut survey.fill;
        fill.files += 1;
        fill.bytes += size;
        let held = self.cache.get(&version);
        if held.as_ref().is_some_and(|file| file.is_complete()) {
            fill.held_files += 1;
            fill.held_bytes += size;
            return;
        }
        fill.held_bytes += held.map_or(0, |file| file.held_bytes());
        survey.missing.push(Wanted { version, size });
    }

    fn check_room(&self, sum: &Fill) -> Result<(), PinError> {
        let wanted = sum.bytes;
        let told = |text: String| PinError::NoRoom(format!("it does not fit: {text}"));
        self.cache
            .check_room(wanted, sum.held_bytes)
            .map_err(|no_room| match no_room {
                NoRoom::Budget { max_bytes } => told(format!(
                    "with what is pinned already it is {wanted} bytes, and the cache may hold \
                     {max_bytes} (CACHE_MAX_BYTES)"
                )),
                NoRoom::Disk { available } => told(format!(
                    "with what is pinned already it is {wanted} bytes, of which {} are here, and \
                     the disk of the cache has {available} for the rest (CACHE_MIN_FREE_BYTES)",
                    sum.held_bytes
                )),
            })
    }
}

impl Survey {
    /// A file that is staged is here, and comes into the cache when it is uploaded.
    fn is_here(&mut self, bytes: u64) {
        self.fill.files += 1;
        self.fill.bytes += bytes;
        self.fill.held_files += 1;
        self.fill.held_bytes += bytes;
    }
}

/// Adds a pin, which takes the place of those below it, unless it lies below another.
fn add(pins: &mut BTreeMap<String, Fill>, path: &str, fill: &Fill) {
    pins.retain(|pin, _| !is_within(pin, path));
    if !pins.keys().any(|pin| is_within(path, pin)) {
        pins.insert(path.to_owned(), fill.clone());
    }
}

/// Returns a path as it is kept: folded, without slashes at its ends.
fn path_of(path: &str) -> String {
    Key::of_path(path).map_or_else(String::new, |key| key.as_str().to_owned())
}

/// Whether `path` is `above` or lies below it; all lie below the empty one.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    above.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_within_itself_and_folders_above() {
        assert!(is_within("a/b", "a") && is_within("a", "a") && is_within("a", ""));
        assert!(!is_within("ab", "a") && !is_within("a", "a/b"));
        assert_eq!(path_of("/projects/e\u{301}/"), "projects/\u{e9}");
        assert_eq!(path_of("/"), "");
    }
}
