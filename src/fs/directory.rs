//! Reading folders.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;

use super::Fs;
use super::attr::{Attr, DirEntry, Fh, Ino, Kind};
use super::handle::Handle;
use super::name::fold;
use super::tree::Entry;
use crate::error::{FsError, FsResult};

/// So many names are read at once of a folder whose names are not all in memory.
const WINDOW: usize = 1000;

/// What an open folder shows.
pub(super) enum Names {
    /// The names as they were when reading began.
    Whole(Arc<Vec<DirEntry>>),
    /// Names that are read a few at a time.
    Paged(Pages),
}

/// Where the reading of a folder is.
#[derive(Default)]
pub(super) struct Pages {
    window: Window,
    /// The name (folded) after which the next window begins.
    after: String,
    /// The former windows: the offset at which each begins, and after which name.
    former: Vec<(u64, String)>,
    /// Up to this name it was read while the listing arrived: folders among them may have come later
    /// than their place in the order.
    arrived_to: Option<String>,
    /// Folders that were told while it arrived.
    told: HashSet<Arc<str>>,
    ended: bool,
}

/// Some names of an open folder.
#[derive(Clone, Default)]
pub struct Window {
    /// How many names come before.
    pub first: u64,
    /// The names; none at the end.
    pub names: Arc<Vec<DirEntry>>,
}

impl Window {
    fn end(&self) -> u64 {
        self.first + self.names.len() as u64
    }
}

impl Fs {
    /// Opens a folder for reading. Waits for the bucket only when the folder's names are not known,
    /// and of many names only for the first.
    ///
    /// # Errors
    /// `DeadlineExceeded` if the bucket does not answer and nothing is known of the folder.
    pub async fn opendir(self: &Arc<Self>, ino: Ino) -> FsResult<Fh> {
        let names = self.names(ino).await?;
        Ok(self.handles.insert(Handle::Folder {
            names: Mutex::new(names),
            begun: AtomicBool::new(false),
        }))
    }

    /// Returns names of an open folder, among them the one at `offset`; `.` and `..` are the first two.
    /// Others may add and remove meanwhile: names that stay are told once, and offsets are stable.
    /// Reading from the start a second time (`rewinddir`) reads anew.
    ///
    /// # Errors
    /// `DeadlineExceeded` if the names arrive from the bucket and it does not answer any more.
    pub async fn readdir(self: &Arc<Self>, ino: Ino, fh: Fh, offset: u64) -> FsResult<Window> {
        let handle = self.handles.get(fh)?;
        let Handle::Folder { names, begun } = &*handle else {
            return Err(FsError::BadHandle);
        };
        let mut names = names.lock().await;
        if offset == 0 && begun.swap(true, Ordering::Relaxed) {
            *names = self.names(ino).await?;
        }
        match &mut *names {
            Names::Whole(names) => Ok(Window {
                first: 0,
                names: names.clone(),
            }),
            Names::Paged(pages) => {
                self.turn_to(ino, pages, offset).await?;
                Ok(pages.window.clone())
            }
        }
    }

    /// Returns all names of an open folder, as the kernel reads them.
    #[cfg(test)]
    pub(crate) async fn read_all(self: &Arc<Self>, ino: Ino, fh: Fh) -> FsResult<Vec<DirEntry>> {
        let mut names = Vec::new();
        loop {
            let offset = names.len() as u64;
            let window = self.readdir(ino, fh, offset).await?;
            let from = (offset - window.first) as usize;
            if from == window.names.len() {
                return Ok(names);
            }
            names.extend_from_slice(&window.names[from..]);
        }
    }

    /// Returns the attributes of a name just read, and raises its lookup count; `None` if it is
    /// gone by now.
    pub fn entry_attr(&self, parent: Ino, entry: &DirEntry) -> Option<Attr> {
        if let Some(local) = self.local(parent) {
            return local.lookup(parent, &entry.name).ok();
        }
        if parent == Ino::ROOT {
            if entry.name == "samples" {
                return self.samples_root().ok();
            }
            if let Some(side) = self.local_at_root(&entry.name) {
                return side.lookup(side.root(), &entry.name).ok();
            }
        }
        let name = entry.name.to_str()?;
        self.lookup_known(parent, name).or_else(|| {
            self.show_arrived(parent, name)
                .then(|| self.lookup_known(parent, name))?
        })
    }

    /// Closes a folder.
    pub fn releasedir(&self, fh: Fh) {
        self.handles.remove(fh);
    }

    async fn names(self: &Arc<Self>, ino: Ino) -> FsResult<Names> {
        let dot = |name: &str, ino| DirEntry {
            name: name.into(),
            ino,
            kind: Kind::Folder,
        };
        let mut names = vec![dot(".", ino)];
        if let Some(local) = self.local(ino) {
            names.push(dot("..", Ino::ROOT));
            names.extend(local.entries(ino)?);
            return Ok(Names::Whole(Arc::new(names)));
        }
        if ino == Ino::ROOT {
            names.push(dot("..", Ino::ROOT));
            names.push(dot("samples", self.samples.root()));
            names.extend(self.side.entries(self.side.root())?);
        } else {
            let path = self.load_dir(ino)?;
            self.freshen(ino, &path).await?;
            self.show_links(ino, &path).await;
        }
        let arriving = self.arriving(ino);
        let is_arriving = arriving.is_some_and(|refresh| refresh.arriving.has_names());
        let tree = self.tree.lock();
        if ino != Ino::ROOT {
            let above = tree.place(ino).map_or(Ino::ROOT, |place| place.parent);
            names.push(dot("..", above));
        }
        let dir = tree.dir(ino).ok_or(FsError::NotADirectory)?;
        if dir.paged.is_some() || (dir.listed_at.is_none() && is_arriving) {
            let mut pages = Pages::default();
            pages.window.names = Arc::new(names);
            return Ok(Names::Paged(pages));
        }
        names.extend(dir.entries().map(told));
        Ok(Names::Whole(Arc::new(names)))
    }

    /// Turns to the window that has a name at `offset`.
    async fn turn_to(self: &Arc<Self>, ino: Ino, pages: &mut Pages, offset: u64) -> FsResult<()> {
        while offset < pages.window.first
            && let Some((first, after)) = pages.former.pop()
        {
            pages.window = Window {
                first,
                names: Arc::default(),
            };
            (pages.after, pages.ended) = (after, false);
        }
        while offset >= pages.window.end() && !pages.ended {
            let (first, after) = (pages.window.end(), pages.after.clone());
            let names = self.next_names(ino, pages).await?;
            pages.ended = names.is_empty();
            pages.former.push((first, after));
            pages.window = Window {
                first,
                names: Arc::new(names),
            };
        }
        Ok(())
    }

    /// Returns the names after those that were read, some of them; none at the end.
    async fn next_names(self: &Arc<Self>, ino: Ino, pages: &mut Pages) -> FsResult<Vec<DirEntry>> {
        let mut is_begun_anew = false;
        loop {
            let refresh = self.arriving(ino);
            let progress = refresh.as_ref().map(|refresh| refresh.arriving.progress());
            let rows = match &refresh {
                Some(refresh) => refresh.arriving.after(&pages.after, WINDOW),
                None => None,
            };
            let moves = self.journal().moves();
            let is_ours = |entry: &Entry| {
                let listed = entry.listed.as_ref();
                listed.is_some_and(|listed| self.is_spoken_for(&moves, &listed.version))
            };
            let rows = rows.map(|mut arrived| {
                arrived.rows.retain(|(_, entry)| !is_ours(entry));
                arrived
            });
            let (found, to) = {
                let tree = self.tree.lock();
                let dir = tree.dir(ino).ok_or(FsError::NotFound)?;
                match rows {
                    _ if dir.listed_at.is_some() || dir.paged.is_some() => {
                        let found = dir.window(&pages.after, WINDOW);
                        if dir.is_broken() {
                            return Err(io::Error::other("the cache's index cannot be read").into());
                        }
                        let Some((last, _)) = found.last() else {
                            let late = pages.late_folders(dir.entries());
                            return Ok(late.map(told).collect());
                        };
                        (found.clone(), last.to_string())
                    }
                    Some(arrived) => {
                        let rows = arrived.rows.into_iter();
                        let rows = rows.filter(|(name, _)| !dir.was_changed(name));
                        let to = Some(arrived.to);
                        let (found, to) = dir.laid_over(rows, &pages.after, to, WINDOW);
                        let to = to.unwrap_or_default().max(pages.after.clone());
                        pages.note_arrived(&found, &to);
                        (found, to)
                    }
                    None if is_begun_anew => return Err(FsError::DeadlineExceeded),
                    None => {
                        // It broke off, or was one behind a look-up that had gone far enough.
                        let path = tree.path(ino).ok_or(FsError::NotFound)?;
                        drop(tree);
                        self.refresh(ino, &path);
                        is_begun_anew = true;
                        continue;
                    }
                }
            };
            let is_further = to > pages.after;
            pages.after = to;
            if !found.is_empty() {
                return Ok(found.iter().map(|(_, entry)| told(entry)).collect());
            }
            if !is_further && let (Some(mut refresh), Some(mut progress)) = (refresh, progress) {
                let either = async {
                    tokio::select! {
                        _ = progress.changed() => {}
                        _ = refresh.ended.changed() => {}
                    }
                };
                let waited = tokio::time::timeout(self.options.request_deadline, either).await;
                waited.map_err(|_| FsError::DeadlineExceeded)?;
            }
        }
    }
}

impl Pages {
    fn note_arrived(&mut self, found: &[(Arc<str>, Entry)], to: &str) {
        let folders = found.iter().filter(|(_, entry)| entry.kind == Kind::Folder);
        self.told.extend(folders.map(|(name, _)| name.clone()));
        self.arrived_to = Some(to.to_owned());
    }

    /// Returns the folders that came after their place in the order had been read, once.
    fn late_folders<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> impl Iterator<Item = &'a Entry> {
        let (to, told) = (self.arrived_to.take(), std::mem::take(&mut self.told));
        entries.filter(move |entry| {
            let name = fold(&entry.spelling);
            entry.kind == Kind::Folder
                && to.as_deref().is_some_and(|to| *name <= *to)
                && !told.contains(&*name)
        })
    }
}

fn told(entry: &Entry) -> DirEntry {
    DirEntry {
        name: OsString::from(&*entry.spelling),
        ino: entry.ino,
        kind: entry.kind,
    }
}
