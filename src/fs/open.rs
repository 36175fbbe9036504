//! Opening and closing files.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::attr::{Fh, Ino, Kind};
use super::handle::{FileHandle, Handle};
use super::inode::{Content, Inode, Listed, Pristine, Remote, State, reopen};
use super::passthrough::{IoChoice, Open};
use super::{Fs, Opened};
use crate::cache::{CacheFile, ReadStream};
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Edit, PutState, StagedFile};
use crate::store::{ObjectVersion, ReadCondition, StoreError};

/// What an open file is for.
#[derive(Clone, Copy, Debug)]
pub struct OpenFlags {
    /// The flags of open(2).
    pub raw: i32,
}

impl OpenFlags {
    pub(super) fn writes(self) -> bool {
        self.raw & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn only_writes(self) -> bool {
        self.raw & libc::O_ACCMODE == libc::O_WRONLY
    }

    pub(super) fn truncates(self) -> bool {
        self.raw & libc::O_TRUNC != 0
    }

    pub(super) fn exclusive(self) -> bool {
        self.raw & libc::O_EXCL != 0
    }
}

/// Between the look-up that follows a stale open and the open that follows that lies no longer time.
const RECHECK_HOLDS: Duration = Duration::from_secs(5);

impl Fs {
    /// Opens a file. Inline unless its version must be checked, that is once in the listing's
    /// time to live.
    ///
    /// # Errors
    /// `Stale` if the name shows another version by now: the kernel looks it up again and opens
    /// that one.
    pub async fn open(self: &Arc<Self>, ino: Ino, flags: OpenFlags) -> FsResult<Opened> {
        if self.local(ino).is_some() {
            return self.open_local(ino, flags);
        }
        let inode = self.inode(ino)?;
        match inode.kind {
            Kind::File => {}
            Kind::Folder => return Err(FsError::IsADirectory),
            // The kernel opens these itself; it looks the name up again when it hears this.
            _ => return Err(FsError::Stale),
        }
        if flags.truncates() || flags.writes() {
            self.refuse_locked_inode(ino)?;
            self.enter_project_of(ino)?;
        } else {
            self.look_into_project(ino);
        }
        self.check_version(&inode, self.options.list_ttl).await?;
        match (flags.truncates(), flags.writes()) {
            (true, true) => self.truncate_content(&inode, 0).await?,
            // No writer is to come whose close would settle it.
            (true, false) => self.truncate(&inode, 0).await?,
            (false, _) => {}
        }
        let file = self.open_cache_file(&inode)?;
        if let Some(file) = &file
            && !flags.truncates()
        {
            self.note_project(&inode, file);
        }
        if flags.writes() && inode.state.lock().gate.passes_through() {
            // Readers see the cache file itself: it becomes the staged file, or, if it has lost
            // its name, they keep it and the writer gets an inode of its own.
            self.make_writable(&inode).await?;
        }
        let opened = self.open_handle(&inode, flags, file.as_ref());
        if let (IoChoice::Cached { .. }, Some(file)) = (&opened.io, file)
            && !file.is_complete()
            && !flags.truncates()
        {
            let handle = self.handles.get(opened.fh)?;
            if let Handle::File(handle) = &*handle {
                file.prefetch(&handle.stream);
            }
        }
        Ok(opened)
    }

    /// Whether an open changes a file's bytes, or gives the kernel the right to without asking again,
    /// as for local files.
    pub fn changes_by_open(&self, ino: Ino, flags: OpenFlags) -> bool {
        flags.truncates() || (flags.writes() && self.local(ino).is_some())
    }

    /// Opens the cache entry of a file that is in the bucket, and counts the hit.
    fn open_cache_file(&self, inode: &Inode) -> FsResult<Option<Arc<CacheFile>>> {
        let (version, size) = {
            let state = inode.state.lock();
            match &state.content {
                Content::Remote(remote) => {
                    if let Some(file) = &remote.file {
                        // What is open already decides: readers may pass through to it.
                        self.cache.note_open(file.is_held());
                        return Ok(Some(file.clone()));
                    }
                    (remote.version.clone(), state.meta.size)
                }
                Content::Staged(_) | Content::Special(_) | Content::Folder => return Ok(None),
            }
        };
        let file = self.cache.open_file(&version, size)?;
        self.cache.note_open(file.is_held());
        Ok(Some(file))
    }

    /// Makes a handle. Counts as open from now on, so the caller must reply or release.
    pub(super) fn open_handle(
        &self,
        inode: &Arc<Inode>,
        flags: OpenFlags,
        file: Option<&Arc<CacheFile>>,
    ) -> Opened {
        let mut state = inode.state.lock();
        let writes = flags.writes();
        state.writers += u32::from(writes);
        let file = file.filter(|file| hold(&mut state, file));
        let whole = file
            .filter(|file| !writes && !state.moving && file.is_complete())
            .map(|file| file.file());
        let open = Open {
            file: whole,
            writes_to_us: writes,
            past_pages: flags.only_writes() && self.direct_writes.load(Ordering::Relaxed),
        };
        let io = self.choose_io(&mut state.gate, &open);
        drop(state);
        let handle = FileHandle {
            inode: inode.clone(),
            writes,
            direct: matches!(io, IoChoice::PassthroughDirect(_)),
            stream: ReadStream::default(),
        };
        Opened {
            fh: self.handles.insert(Handle::File(handle)),
            io,
        }
    }

    /// Asks the bucket whether a clean file is still what the name shows, if that is due.
    ///
    /// # Errors
    /// `Stale` if the name shows, or is to show, another inode: the kernel looks it up once more.
    pub(super) async fn check_version(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        trusted_for: Duration,
    ) -> FsResult<()> {
        let (version, due) = {
            let now = self.clock.instant();
            let mut state = inode.state.lock();
            let rechecked = state.rechecked_at.take();
            self.check_superseded(&state)?;
            if rechecked.is_some_and(|at| now < at + RECHECK_HOLDS) {
                return Ok(());
            }
            let Content::Remote(remote) = &state.content else {
                return Ok(());
            };
            if state.writers > 0 {
                // It keeps the name until they have closed it.
                return Ok(());
            }
            let age = now.saturating_duration_since(state.checked_at);
            let held = self.cache.get(&remote.version);
            let expired = held.as_ref().is_some_and(|file| file.is_expired());
            (remote.version.clone(), age > trusted_for || expired)
        };
        // A rename that is on its way reads from the old key, whose version is pinned.
        let moved = self
            .tree
            .lock()
            .key(inode.ino)
            .is_none_or(|key| key != version.key);
        if !due || moved || !self.is_reachable() {
            // A listing may have taken its name since the first look.
            return self.check_superseded(&inode.state.lock());
        }
        // What it tells may be of any moment from here on.
        let begun = self.clock.instant();
        let condition = ReadCondition::IfNoneMatch(version.etag.clone());
        let asked = tokio::time::timeout(
            super::LOOKUP_DEADLINE,
            self.store.head(&version.key, condition),
        )
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::Unavailable {
                message: "no answer".into(),
                retry_after: None,
            })
        });
        self.note_result(&asked);
        match asked {
            Err(StoreError::NotModified) => self.note_checked(inode, &version, begun),
            Ok(info) if info.version.etag == version.etag => {
                self.note_checked(inode, &version, begun);
            }
            Ok(info) => {
                let listed = super::listing::listed_from_info(&info, begun);
                self.learn(&info);
                return Err(self.supersede(inode, &version, Some(listed)));
            }
            Err(StoreError::NotFound) => return Err(self.supersede(inode, &version, None)),
            // Not reachable: what is cached is served, and what is not will say so when read.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn note_checked(&self, inode: &Inode, version: &ObjectVersion, begun: Instant) {
        inode.state.lock().checked_at = begun;
        self.cache.revalidated(version);
    }

    /// Fails if the name shows another version by now.
    fn check_superseded(&self, state: &State) -> FsResult<()> {
        if !state.superseded {
            return Ok(());
        }
        if let Some(remote) = state.remote() {
            self.note_stale(remote.version.key.folded());
        }
        Err(FsError::Stale)
    }

    /// The bucket shows another version: the name is for a new inode from now on.
    fn supersede(&self, inode: &Inode, known: &ObjectVersion, listed: Option<Listed>) -> FsError {
        let _changes = self.changes.lock();
        let mut tree = self.tree.lock();
        if inode
            .state
            .lock()
            .remote()
            .is_none_or(|remote| remote.version != *known)
        {
            // It was changed here meanwhile; the upload will find out about the other.
            return FsError::Stale;
        }
        let stale = tree.supersede(inode.ino, listed);
        drop(tree);
        self.note_stale(known.key.folded());
        self.tell_stale(stale);
        FsError::Stale
    }

    /// Readers keep an inode without a name; the name gets a new one for the writer.
    pub(super) fn divorce(&self, inode: &Inode) -> FsError {
        let known = {
            let state = inode.state.lock();
            let Content::Remote(remote) = &state.content else {
                return FsError::Stale;
            };
            let listed = Listed {
                version: remote.version.clone(),
                origin: remote.origin,
                size: state.meta.size,
                last_modified: state.meta.mtime,
                checked_at: state.checked_at,
            };
            (remote.version.clone(), listed)
        };
        // The nameless file stays with its readers alone.
        self.cache.forget(&known.0);
        self.supersede(inode, &known.0, Some(known.1))
    }

    /// Closes a handle. The last writer's close seals the version for the uploader.
    pub fn release(self: &Arc<Self>, fh: Fh) {
        let Some(handle) = self.handles.remove(fh) else {
            return;
        };
        match &*handle {
            Handle::File(file) => self.release_file(file),
            Handle::Local { ino, fh } => {
                if let Some(local) = self.local(*ino) {
                    local.release(*fh);
                }
                let mut gates = self.local_gates.lock();
                if let Some(gate) = gates.get_mut(ino) {
                    gate.close();
                    if gate.handles() == 0 {
                        gates.remove(ino);
                    }
                }
            }
            Handle::Folder { .. } => {}
        }
    }

    fn release_file(self: &Arc<Self>, handle: &FileHandle) {
        let inode = &handle.inode;
        // Given back without the lock: the kernel may know the inode for days, and what it holds
        // of the cache can be evicted from here on.
        let (given_back, to_settle) = {
            let mut state = inode.state.lock();
            let backing = state.gate.close();
            state.writers -= u32::from(handle.writes);
            // A file may be created by an open that only reads.
            let is_open = state.staged().is_some_and(|staged| staged.open);
            let to_settle = handle.writes || (is_open && state.writers == 0);
            let last = state.gate.handles() == 0;
            let file = match &mut state.content {
                Content::Remote(remote) if last => remote.file.take(),
                _ => None,
            };
            ((backing, file), to_settle)
        };
        drop(given_back);
        if to_settle && !self.closing.hand_over(inode) {
            self.close_version(inode);
        }
        self.tree.lock().release_memory(inode.ino);
    }

    /// No writer is left, it seems: the version is settled and handed to the uploader. A shared
    /// map outlives its descriptor when the kernel passes through, so the file must prove that
    /// nobody can write it any more, also when only an earlier handle passed through; until then
    /// it stays open.
    pub(super) fn close_version(self: &Arc<Self>, inode: &Arc<Inode>) {
        self.close_versions(std::slice::from_ref(inode));
    }

    /// Does so for several files, with one commit for all of them.
    pub(super) fn close_versions(self: &Arc<Self>, inodes: &[Arc<Inode>]) {
        let (closed, written): (Vec<_>, Vec<_>) = inodes
            .iter()
            .cloned()
            .partition(|inode| no_writer_left(inode));
        for inode in &written {
            self.close_version_later(inode);
        }
        match self.settle(&closed) {
            Ok(()) => {}
            Err(FsError::StagingFull) => {
                for inode in &closed {
                    self.close_version_later(inode);
                }
            }
            Err(error) => {
                let inodes: Vec<_> = closed.iter().map(|inode| inode.ino).collect();
                log::error!("closing {inodes:?}: {error}; they stay open in the journal");
            }
        }
    }

    fn close_version_later(self: &Arc<Self>, inode: &Arc<Inode>) {
        let (fs, inode) = (Arc::downgrade(self), inode.clone());
        self.runtime.spawn(async move {
            tokio::time::sleep(CLOSE_AGAIN).await;
            if let Some(fs) = fs.upgrade() {
                fs.close_version(&inode);
            }
        });
    }

    /// Tells the journal that files have no writer any more: of all of them or of none.
    fn settle(&self, inodes: &[Arc<Inode>]) -> FsResult<()> {
        let _changes = self.changes.lock();
        let (mut edits, mut settled) = (Vec::new(), Vec::new());
        for inode in inodes {
            match self.settled(inode) {
                Ok(None) => {}
                Ok(Some((edit, file))) => {
                    edits.push(edit);
                    settled.push((inode, file));
                }
                Err(error) => log::error!(
                    "closing {:?}: {error}; it stays open in the journal",
                    inode.ino
                ),
            }
        }
        if edits.is_empty() {
            return Ok(());
        }
        let applied = self.apply(edits);
        for (inode, file) in settled {
            match applied {
                Ok(()) => self.staging.sync_behind(file),
                Err(_) => set_open(&mut inode.state.lock(), true),
            }
        }
        applied
    }

    /// Returns what the journal must say when a file has no writer any more, and the file to be
    /// synced then; `None` if there is nothing to be said. A writer that comes from here on must
    /// make it open again, and waits for this change of the journal.
    fn settled(&self, inode: &Inode) -> FsResult<Option<(Edit, Arc<StagedFile>)>> {
        let Some(key) = self.tree.lock().key(inode.ino) else {
            return Ok(None);
        };
        let mut state = inode.state.lock();
        let Content::Staged(staged) = &state.content else {
            return Ok(None);
        };
        if state.writers > 0 || !staged.open {
            return Ok(None);
        }
        let staged = staged.clone();
        // Under another name by now, it is not what the bucket holds there.
        if let Some(pristine) = &staged.pristine
            && pristine.version.key == key
            && is_untouched(&staged.file, pristine)
        {
            self.give_back(&mut state, &key, pristine.version.clone())?;
            return Ok(None);
        }
        let status = staged.file.file().metadata()?;
        let length = status.len();
        // A store through a map moved the file's own time only.
        state.meta.mtime = state.meta.mtime.max(status.modified()?);
        state.meta.size = length;
        let attributes = state.meta.to_attributes();
        let base = self.journal().record(&key).and_then(|record| record.base);
        set_open(&mut state, false);
        let change = Change::Put {
            file: staged.file.id(),
            state: PutState::Closed { length },
            attributes,
        };
        Ok(Some((Edit::Set { key, base, change }, staged.file)))
    }

    /// A writer opened the file and wrote nothing: the bytes are still the bucket's.
    fn give_back(
        &self,
        state: &mut State,
        key: &crate::store::Key,
        version: ObjectVersion,
    ) -> FsResult<()> {
        let Content::Staged(staged) = &state.content else {
            return Ok(());
        };
        let id = staged.file.id();
        let adopt = Edit::Adopt {
            file: id,
            version: version.clone(),
        };
        self.apply(vec![Edit::Remove { key: key.clone() }, adopt])?;
        let file = reopen(staged.file.file(), false)?;
        let file = self.cache.adopt(&version, id, file, self.staging.path(id));
        state.content = Content::Remote(Remote {
            version,
            origin: Default::default(),
            file: Some(file),
        });
        Ok(())
    }

    /// A handle of a local file, as the local tree counts it.
    pub(super) fn local_handle(&self, fh: Fh) -> Option<Fh> {
        match &*self.handles.get(fh).ok()? {
            Handle::Local { fh, .. } => Some(*fh),
            Handle::File(_) | Handle::Folder { .. } => None,
        }
    }

    fn open_local(&self, ino: Ino, flags: OpenFlags) -> FsResult<Opened> {
        let local = self.local(ino).ok_or(FsError::NotFound)?;
        let (fh, file) = local.open(ino, flags.raw)?;
        Ok(self.opened_local(ino, fh, &file))
    }

    pub(super) fn opened_local(&self, ino: Ino, fh: Fh, file: &File) -> Opened {
        let backing = self.local(ino).and_then(|local| local.backing(ino, fh));
        let mut gates = self.local_gates.lock();
        let gate = gates.entry(ino).or_default();
        // What does not pass through may have been changed beside the mount.
        gate.invalidate_pages();
        let file = backing.as_deref().unwrap_or(file);
        let io = self.choose_io(
            gate,
            &Open {
                file: Some(file),
                writes_to_us: false,
                past_pages: false,
            },
        );
        drop(gates);
        Opened {
            fh: self.handles.insert(Handle::Local { ino, fh }),
            io,
        }
    }
}

fn set_open(state: &mut State, open: bool) {
    if let Content::Staged(staged) = &mut state.content {
        staged.open = open;
        staged.pristine = None;
    }
}

/// Holds a cache file as the inode's bytes while a handle is open; false if those are elsewhere.
fn hold(state: &mut State, file: &Arc<CacheFile>) -> bool {
    let Content::Remote(remote) = &mut state.content else {
        return false;
    };
    if remote.file.is_none() && remote.version == *file.version() {
        remote.file = Some(file.clone());
    }
    remote
        .file
        .as_ref()
        .is_some_and(|held| Arc::ptr_eq(held, file))
}

/// How often a file is looked at whose map may outlive its descriptor, or whose close finds no room
/// in the journal.
const CLOSE_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether nobody can write the staged file any more, as far as its handles do not tell.
fn no_writer_left(inode: &Inode) -> bool {
    let mut state = inode.state.lock();
    if state.writers > 0 {
        // The last of them closes the version.
        return true;
    }
    match &mut state.content {
        Content::Staged(staged) => staged.has_no_writer(),
        Content::Remote(_) | Content::Special(_) | Content::Folder => true,
    }
}

/// Whether a file that was taken from the cache still has the bytes it had then.
fn is_untouched(file: &StagedFile, pristine: &Pristine) -> bool {
    // Synced first, so that a store through a map moves the modification time.
    file.generation() == pristine.generation
        && file.file().sync_data().is_ok()
        && file
            .file()
            .metadata()
            .and_then(|status| status.modified())
            .is_ok_and(|mtime: SystemTime| mtime == pristine.mtime)
}
