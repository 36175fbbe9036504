//! Projects that are opened: the files that they will soon need are brought before anybody asks.
//!
//! Who opens a project file wants its folder next, and what it refers to (see `project`). These come
//! as a file that is filled behind: when nobody waits for the line, never in the place of what is here,
//! and no more than `WARM_MAX_BYTES`. One project is brought at a time, the one that was opened last
//! first. Who opens many does not work on them but searches them, and nothing is brought for that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Fs;
use super::inode::Inode;
use super::name::fold;
use super::pins::{FILES_AT_ONCE, Fill, Survey, Wanted, Warming, is_within};
use crate::cache::CacheFile;
use crate::project::{self, Format, Project};
use crate::store::{Key, ObjectVersion};

/// A project is looked at when for so long no other was opened.
const QUIET: Duration = Duration::from_secs(1);
/// Who opens more projects than this in the time below searches them.
const MOST_OPENED: usize = 4;
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// So many versions are known to have been brought.
const MOST_KNOWN: usize = 1_000;
/// Listing requests for one project: for ten thousand files.
const MOST_PAGES: usize = 10;
/// Files outside of its folder that the bucket is asked for, one request each.
const MOST_ASKED: usize = 256;

/// A project that was opened.
struct Opened {
    path: String,
    version: ObjectVersion,
    size: u64,
}

/// The projects of one mount.
#[derive(Default)]
pub(super) struct Projects {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Not looked at yet, the last one opened last.
    opened: Vec<Opened>,
    /// Opened in the last minute.
    counted: VecDeque<(Instant, ObjectVersion)>,
    /// All that was to be brought for these is here, or did not fit.
    known: VecDeque<ObjectVersion>,
    warming: Option<Arc<Warming>>,
}

impl Projects {
    fn note(&self, opened: Opened, now: Instant) {
        let mut state = self.state.lock();
        let State { counted, known, .. } = &mut *state;
        counted.retain(|(at, _)| now.saturating_duration_since(*at) < COUNTED_FOR);
        let version = &opened.version;
        if known.contains(version) || counted.iter().any(|(_, other)| other == version) {
            return;
        }
        counted.push_back((now, version.clone()));
        if counted.len() > MOST_OPENED {
            // Those that were opened before are part of it.
            counted.truncate(MOST_OPENED + 1);
            state.opened.clear();
        } else {
            state.opened.push(opened);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Returns the projects that were opened, the last one last; none if they are being searched.
    /// Dropped, it loses nothing.
    async fn next(&self) -> Vec<Opened> {
        loop {
            if self.state.lock().opened.is_empty() {
                self.changed.notified().await;
            }
            loop {
                if self.state.lock().counted.len() > MOST_OPENED {
                    return Vec::new();
                }
                let other = tokio::time::timeout(QUIET, self.changed.notified()).await;
                if other.is_err() {
                    break;
                }
            }
            let opened = std::mem::take(&mut self.state.lock().opened);
            if !opened.is_empty() {
                return opened;
            }
        }
    }

    fn set_known(&self, version: &ObjectVersion) {
        let mut state = self.state.lock();
        state.known.push_back(version.clone());
        if state.known.len() > MOST_KNOWN {
            state.known.pop_front();
        }
    }
}

impl Fs {
    /// Takes note of an open if it is that of a project.
    pub(super) fn note_project(&self, inode: &Inode, file: &CacheFile) {
        let version = file.version();
        if self.options.warm_bytes == 0 || Project::of(version.key.as_str()).is_none() {
            return;
        }
        let Some(path) = self.tree.lock().key(inode.ino) else {
            return;
        };
        let opened = Opened {
            path: path.as_str().to_owned(),
            version: version.clone(),
            size: file.size(),
        };
        self.projects.note(opened, Instant::now());
    }

    /// Returns how much of the project that is being brought is not here yet.
    pub fn warming(&self) -> Fill {
        let warming = self.projects.state.lock().warming.clone();
        warming.map_or_else(Fill::default, |warming| warming.fill())
    }

    /// Starts the task that brings what projects need.
    pub fn spawn_warming(self: &Arc<Self>) {
        if self.options.warm_bytes == 0 {
            return;
        }
        let (fs, projects) = (Arc::downgrade(self), self.projects.clone());
        self.runtime.spawn(async move {
            let mut waiting: Vec<Opened> = Vec::new();
            loop {
                let Some(project) = waiting.pop() else {
                    waiting = projects.next().await;
                    continue;
                };
                let fs = fs.upgrade();
                let Some(fs) = fs.filter(|fs| !fs.stopping.load(Ordering::Relaxed)) else {
                    return;
                };
                tokio::select! {
                    biased;
                    newer = projects.next() => {
                        if newer.is_empty() {
                            log::info!("many projects are opened at once: none of them is warmed");
                            waiting.clear();
                        } else {
                            waiting.push(project);
                            waiting.extend(newer);
                            let excess = waiting.len().saturating_sub(MOST_OPENED);
                            waiting.drain(..excess);
                        }
                    }
                    ended = fs.warm_project(&project) => match ended {
                        Ok(()) => projects.set_known(&project.version),
                        Err(error) => log::debug!("warming for {}: {error}", project.path),
                    }
                }
                projects.state.lock().warming = None;
            }
        });
    }

    async fn warm_project(&self, opened: &Opened) -> Result<(), String> {
        let Some(project) = Project::of(&opened.path) else {
            return Ok(());
        };
        let own = Wanted {
            version: opened.version.clone(),
            size: opened.size,
        };
        let Some(budget) = self.options.warm_bytes.checked_sub(own.size) else {
            return Ok(());
        };
        self.bring_if_there_is_room(vec![own]).await?;
        let references = self.references(project.format, opened).await?;
        let wanted = self.files_of(opened, project, references).await;
        let mut room = budget;
        let fitting = wanted?.into_iter().filter(|wanted| {
            let fits = wanted.size <= room;
            room -= if fits { wanted.size } else { 0 };
            fits
        });
        let fitting: Vec<Wanted> = fitting.collect();
        if !fitting.is_empty() {
            let bytes: u64 = fitting.iter().map(|wanted| wanted.size).sum();
            let path = &opened.path;
            log::info!("warming for {path}: {} files, {bytes} bytes", fitting.len());
        }
        self.bring_if_there_is_room(fitting).await
    }

    /// Returns what the project file refers to.
    async fn references(&self, format: Format, opened: &Opened) -> Result<Vec<String>, String> {
        let told = |error| format!("{}: {error}", opened.version.key);
        let file = self.cache.open_file(&opened.version, opened.size);
        let file = file.map_err(|error| told(error.to_string()))?;
        if !file.is_complete() {
            return Err(told("it is not here".to_owned()));
        }
        let found = tokio::task::spawn_blocking(move || {
            project::references(
                format,
                &mut Reading {
                    file: file.file(),
                    at: 0,
                },
            )
        });
        found.await.map_err(|error| told(error.to_string()))
    }

    /// Returns the files that a project needs and that are not here: first those that it refers to,
    /// then the others of its folder.
    async fn files_of(
        &self,
        opened: &Opened,
        project: Project<'_>,
        references: Vec<String>,
    ) -> Result<Vec<Wanted>, String> {
        let mut folder = Folder::default();
        if let Some(path) = project.folder {
            let mut survey = Survey::default();
            let listed = self.survey_folder(path, MOST_PAGES, &mut survey).await;
            let complete = listed.map_err(|error| error.to_string())?;
            folder = Folder::new(path, complete, survey.missing);
        }
        let base = opened.path.rsplit_once('/').map_or("", |(base, _)| base);
        let mountpoint = self.options.mountpoint.to_string_lossy();
        let (mut wanted, mut elsewhere, mut asked) = (Vec::new(), Vec::new(), HashSet::new());
        for reference in references {
            let path = project::resolve(&reference, base, &mountpoint);
            match folder.find(&reference, path.as_deref()) {
                Found::Here(file) => wanted.extend(file),
                Found::Elsewhere(path) => {
                    if self.is_of_bucket(path) && asked.insert(path.to_owned()) {
                        elsewhere.push(path.to_owned());
                    }
                }
            }
        }
        elsewhere.truncate(MOST_ASKED);
        let located = futures::stream::iter(elsewhere)
            .map(async |path| self.locate(&path).await)
            .buffered(FILES_AT_ONCE);
        let located: Vec<Option<Wanted>> = located.collect().await;
        wanted.extend(located.into_iter().flatten());
        wanted.extend(folder.files.into_iter().flatten());
        Ok(wanted)
    }

    fn is_of_bucket(&self, path: &str) -> bool {
        let top = path.split_once('/').map(|(top, _)| top);
        top.is_some_and(|top| self.options.collections.iter().any(|name| name == top))
    }

    /// Returns the file of a path if it is not here. What the tree knows is not asked for.
    async fn locate(&self, path: &str) -> Option<Wanted> {
        let mut survey = Survey::default();
        match self.known_file(path) {
            Known::Remote(version, size) => self.want(version, size, &mut survey),
            Known::Nothing => {}
            Known::NotYet => {
                let asked = self.survey_file(&Key::new(path)?, &mut survey).await;
                asked
                    .inspect_err(|error| log::debug!("looking for {path}: {error}"))
                    .ok()?;
            }
        }
        survey.missing.pop()
    }

    fn known_file(&self, path: &str) -> Known {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let tree = self.tree.lock();
        if tree.find(path).is_some() {
            let object = tree.object(path);
            return object.map_or(Known::Nothing, |(version, size)| {
                Known::Remote(version, size)
            });
        }
        let folder = tree.find(above).map(|(_, entry)| entry.ino);
        let listed = folder.and_then(|ino| tree.dir(ino)?.listed_at);
        match listed {
            Some(_) => Known::Nothing,
            None => Known::NotYet,
        }
    }

    /// Brings files, in this order, as long as nothing has to make way for them.
    async fn bring_if_there_is_room(&self, files: Vec<Wanted>) -> Result<(), String> {
        let warming = Arc::new(Warming::of(&files));
        self.projects.state.lock().warming = Some(warming.clone());
        let is_full = AtomicBool::new(false);
        let files = futures::stream::iter(files).map(async |wanted| {
            let room = self.cache.spare_bytes();
            if !self.is_reachable() || room < wanted.size + warming.missing_bytes() {
                is_full.store(true, Ordering::Relaxed);
            }
            if !is_full.load(Ordering::Relaxed) {
                self.bring_file(&wanted, &warming).await;
            }
        });
        files.buffer_unordered(FILES_AT_ONCE).collect::<()>().await;
        warming.fill().failure.map_or(Ok(()), Err)
    }
}

/// What is known of a path without asking.
enum Known {
    Remote(ObjectVersion, u64),
    /// No file, or one that is here.
    Nothing,
    NotYet,
}

/// The files of a project's folder that are not here.
#[derive(Default)]
struct Folder {
    path: String,
    /// Whether all of it was listed.
    complete: bool,
    files: Vec<Option<Wanted>>,
    paths: HashMap<String, usize>,
    names: HashMap<String, usize>,
}

/// Where a reference leads.
enum Found<'a> {
    /// Into the folder, if there is anything.
    Here(Option<Wanted>),
    Elsewhere(&'a str),
}

impl Folder {
    fn new(path: &str, complete: bool, files: Vec<Wanted>) -> Folder {
        let (mut paths, mut names) = (HashMap::new(), HashMap::new());
        for (at, file) in files.iter().enumerate() {
            let path = fold(file.version.key.as_str()).into_owned();
            names.insert(name_of(&path).to_owned(), at);
            paths.insert(path, at);
        }
        Folder {
            path: path.to_owned(),
            complete,
            files: files.into_iter().map(Some).collect(),
            paths,
            names,
        }
    }

    /// Looks where a reference leads that resolves to `path`. Many a program keeps the bare name of a
    /// file in a folder that only it knows, or the path on another machine.
    fn find<'a>(&mut self, reference: &str, path: Option<&'a str>) -> Found<'a> {
        if let Some(at) = path.and_then(|path| self.paths.get(&*fold(path))) {
            return Found::Here(self.files[*at].take());
        }
        let is_own = |path| !self.path.is_empty() && is_within(path, &self.path);
        match path {
            Some(path) if !is_own(path) || !self.complete => Found::Elsewhere(path),
            _ => {
                let at = self.names.get(&*fold(name_of(reference)));
                Found::Here(at.and_then(|at| self.files[*at].take()))
            }
        }
    }
}

/// Reads a file whose descriptor others use too, from a place of its own.
struct Reading<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buf, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reading<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.file.metadata()?.len(), by),
        };
        let at = from.checked_add_signed(by);
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

fn name_of(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ETag;

    fn version(key: &str) -> ObjectVersion {
        ObjectVersion {
            key: Key::new(key).unwrap(),
            etag: ETag::new("\"1\""),
        }
    }

    #[test]
    fn a_search_leaves_nothing_to_be_brought_until_it_is_over() {
        let (projects, begun) = (Projects::default(), Instant::now());
        let note = |name: &str, seconds| {
            let opened = Opened {
                path: name.to_owned(),
                version: version(name),
                size: 1,
            };
            projects.note(opened, begun + Duration::from_secs(seconds));
            projects.state.lock().opened.len()
        };
        assert_eq!(note("a", 0), 1);
        assert_eq!(note("a", 1), 1, "it is the same");
        assert_eq!((note("b", 1), note("c", 1), note("d", 1)), (2, 3, 4));
        assert_eq!((note("e", 2), note("f", 3), note("g", 59)), (0, 0, 0));
        projects.set_known(&version("h"));
        assert_eq!((note("h", 300), note("a", 300)), (0, 1));
    }

    #[test]
    fn references_lead_into_the_folder_by_path_or_by_name() {
        let folder = |complete| {
            let files = ["projects/s/Media/a.wav", "projects/s/interchange/s/b.wav"];
            let files = files.map(|key| Wanted {
                version: version(key),
                size: 1,
            });
            Folder::new("projects/s", complete, files.into())
        };
        let find = |complete, reference: &str, path: Option<&str>| match folder(complete)
            .find(reference, path)
        {
            Found::Here(file) => file.map(|file| file.version.key.to_string()),
            Found::Elsewhere(path) => Some(format!("elsewhere {path}")),
        };
        let (a, b) = ("projects/s/Media/a.wav", "projects/s/interchange/s/b.wav");
        assert_eq!(find(true, "Media/a.wav", Some(a)).as_deref(), Some(a));
        assert_eq!(
            find(true, "b.wav", Some("projects/s/b.wav")).as_deref(),
            Some(b)
        );
        assert_eq!(find(true, "C:\\x\\a.wav", None).as_deref(), Some(a));
        assert_eq!(find(true, "c.wav", Some("projects/s/c.wav")), None);
        // Nothing is asked for in a folder all of which is known.
        assert!(find(false, "c.wav", Some("projects/s/c.wav")).is_some());
        let other = find(true, "../t/a.wav", Some("projects/t/a.wav"));
        assert_eq!(other.as_deref(), Some("elsewhere projects/t/a.wav"));
    }
}
