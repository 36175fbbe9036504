//! Making a file writable: its bytes move from the bucket and the cache into staging, the journal
//! first.

use std::sync::Arc;

use super::Fs;
use super::inode::{Content, Inode, Pristine, Remote, Staged, Writer, keep_mtime, reopen};
use crate::cache::CacheFile;
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Edit, PutState, Record, StagedFile};
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, Origin};

impl Fs {
    /// Moves a file's bytes into staging and opens them in the journal, whatever they were.
    pub(super) async fn make_writable(self: &Arc<Self>, inode: &Arc<Inode>) -> FsResult<()> {
        loop {
            let base = {
                let state = inode.state.lock();
                match &state.content {
                    Content::Folder => return Err(FsError::IsADirectory),
                    Content::Special(_) => return Err(FsError::BadHandle),
                    Content::Staged(staged) if staged.open => return Ok(()),
                    Content::Staged(_) => None,
                    Content::Remote(_) if state.superseded => return Err(FsError::Stale),
                    Content::Remote(remote) => Some((remote.clone(), state.meta.size)),
                }
            };
            let done = match base {
                None => self.reopen_staged(inode)?,
                Some((remote, size)) => {
                    let file = match &remote.file {
                        Some(file) => file.clone(),
                        None => self.cache.open_file(&remote.version, size)?,
                    };
                    if inode.state.lock().gate.passes_through() && !file.is_named() {
                        // Its readers keep it; the name gets an inode of its own.
                        return Err(self.divorce(inode));
                    }
                    file.fill().await?;
                    self.take_from_cache(inode, &remote, &file)?
                }
            };
            if done {
                return Ok(());
            }
        }
    }

    /// A closed version is written again: its upload is void. False if it has changed meanwhile.
    fn reopen_staged(&self, inode: &Inode) -> FsResult<bool> {
        let _changes = self.changes.lock();
        let key = self.tree.lock().key(inode.ino);
        let (file, attributes) = {
            let state = inode.state.lock();
            let Content::Staged(staged) = &state.content else {
                return Ok(false);
            };
            (staged.file.clone(), state.meta.to_attributes())
        };
        if let Some(key) = key {
            let base = self.journal().record(&key).and_then(|record| record.base);
            self.set_open(key, base, &file, attributes, None)?;
        }
        let mut state = inode.state.lock();
        if let Content::Staged(staged) = &mut state.content {
            staged.open = true;
        }
        Ok(true)
    }

    /// The cache file becomes the staged file: journal first, then a rename, so that readers who
    /// pass through see the same file. False if the content has changed meanwhile.
    pub(super) fn take_from_cache(
        &self,
        inode: &Inode,
        remote: &Remote,
        cached: &Arc<CacheFile>,
    ) -> FsResult<bool> {
        let _changes = self.changes.lock();
        self.expand_file(inode)?;
        let key = self.key_to_write(inode)?;
        let (passes_through, attributes) = {
            let mut state = inode.state.lock();
            if state
                .remote()
                .is_none_or(|now| now.version != remote.version)
            {
                return Ok(false);
            }
            let passes_through = state.gate.passes_through();
            state.moving = true;
            (passes_through, state.meta.to_attributes())
        };
        let _moving = Moving(inode);
        // The journal leaves the time to the file, which writes move.
        keep_mtime(cached.file(), &attributes)?;
        let base = key.as_ref().and_then(|key| self.base_of(key, Some(remote)));
        let former = key.as_ref().and_then(|key| self.journal().record(key));
        let settled = key.is_some() && former.is_none();
        let named = cached.is_named();
        if !named && passes_through {
            return Err(FsError::Stale);
        }
        let id = cached.id();
        let mut taken = None;
        if named && self.journal_take(&key, base.clone(), id, &attributes)? {
            match self.cache.take(cached, &self.staging.path(id)) {
                Ok(()) => taken = Some(self.staging.received(id, reopen(cached.file(), false)?)),
                Err(error) if passes_through => {
                    log::info!("{id} stays with its readers: {error}");
                    self.undo_take(key, former, base)?;
                    return Err(FsError::Stale);
                }
                Err(error) => log::info!("{id} is copied into staging: {error}"),
            }
        }
        let (file, writer) = match taken {
            Some(file) => (file, Writer::Reopened(None)),
            None => (
                self.copy_from_cache(&key, base, cached, attributes)?,
                Writer::Own,
            ),
        };
        let pristine = Pristine {
            version: remote.version.clone(),
            mtime: file.file().metadata()?.modified()?,
            generation: file.generation(),
        };
        // Only what the bucket holds as it is, under this very name, can be given back to the cache.
        let same = settled && key.as_ref() == Some(&remote.version.key);
        let pristine = (same && remote.origin == Origin::Primary).then_some(pristine);
        self.mark_open(inode, file, writer, pristine);
        Ok(true)
    }

    /// The cache file could not be moved: the journal says again what it said before.
    fn undo_take(
        &self,
        key: Option<Key>,
        former: Option<Record>,
        base: Option<ETag>,
    ) -> FsResult<()> {
        let Some(key) = key else { return Ok(()) };
        let edit = match former {
            Some(former) => Edit::Set {
                key,
                base,
                change: former.change,
            },
            None => Edit::Remove { key },
        };
        self.apply(vec![edit])
    }

    /// Commits that the cache file `id` is a staged file from now on. A file without a name needs
    /// no record: it goes with its last handle.
    fn journal_take(
        &self,
        key: &Option<Key>,
        base: Option<ETag>,
        id: crate::disk::FileId,
        attributes: &FileAttributes,
    ) -> FsResult<bool> {
        let Some(key) = key else { return Ok(false) };
        let change = Change::Put {
            file: id,
            state: PutState::Open,
            attributes: FileAttributes {
                mtime: None,
                ..attributes.clone()
            },
        };
        let set = Edit::Set {
            key: key.clone(),
            base,
            change,
        };
        // It may still be on its way from staging into the cache.
        let edits = match self.journal().is_released(id) {
            true => vec![Edit::Unrelease { file: id }, set],
            false => vec![set],
        };
        self.apply(edits)?;
        Ok(true)
    }

    fn copy_from_cache(
        &self,
        key: &Option<Key>,
        base: Option<ETag>,
        cached: &CacheFile,
        attributes: FileAttributes,
    ) -> FsResult<Arc<StagedFile>> {
        let file = self.staging.create_file()?;
        let mut from = cached.file().try_clone()?;
        use std::io::{Seek, SeekFrom};
        from.seek(SeekFrom::Start(0))?;
        let mut to = file.file();
        std::io::copy(&mut from, &mut to)?;
        keep_mtime(to, &attributes)?;
        match key {
            Some(key) => self.set_open(key.clone(), base, &file, attributes, None)?,
            None => self.discard(&file)?,
        }
        Ok(file)
    }

    /// Commits that `key` is to hold the bytes of an open staged file; `discard` names the staged
    /// file that it held before.
    pub(super) fn set_open(
        &self,
        key: Key,
        base: Option<ETag>,
        file: &StagedFile,
        attributes: FileAttributes,
        discard: Option<crate::disk::FileId>,
    ) -> FsResult<()> {
        // The time counts from the writes that are to come: the staged file keeps it.
        let attributes = FileAttributes {
            mtime: None,
            ..attributes
        };
        let change = Change::Put {
            file: file.id(),
            state: PutState::Open,
            attributes,
        };
        let mut edits = vec![Edit::Set { key, base, change }];
        edits.extend(discard.map(|file| Edit::Discard { file }));
        self.apply(edits)
    }

    /// A staged file that no name needs: its bytes live as long as its handles.
    fn discard(&self, file: &StagedFile) -> FsResult<()> {
        self.apply(vec![Edit::Discard { file: file.id() }])
    }

    /// Replaces what is in the bucket by an empty staged file: no base is needed for that. False if
    /// the bytes are not in the bucket, or readers pass through to them.
    pub(super) fn start_empty(&self, inode: &Inode) -> FsResult<bool> {
        let _changes = self.changes.lock();
        self.expand_file(inode)?;
        let key = self.key_to_write(inode)?;
        let (remote, attributes) = {
            let mut state = inode.state.lock();
            match &state.content {
                Content::Remote(remote) if !state.gate.passes_through() => {
                    let remote = remote.clone();
                    state.moving = true;
                    (remote, state.meta.to_attributes())
                }
                _ => return Ok(false),
            }
        };
        let _moving = Moving(inode);
        let file = self.staging.create_file()?;
        match key {
            Some(key) => {
                let base = self.base_of(&key, Some(&remote));
                self.set_open(key, base, &file, attributes, None)?;
            }
            None => self.discard(&file)?,
        }
        self.mark_open(inode, file, Writer::Own, None);
        Ok(true)
    }

    /// Returns the key that a file's bytes go to; none if it was removed here, so that they live as
    /// long as its handles. What others have replaced or removed takes no writes any more: they
    /// would reach nobody.
    fn key_to_write(&self, inode: &Inode) -> FsResult<Option<Key>> {
        let tree = self.tree.lock();
        let key = tree.key(inode.ino);
        let state = inode.state.lock();
        let removed_here = tree.place(inode.ino).is_none() && !state.superseded;
        if key.is_none() && !removed_here && state.remote().is_some() {
            return Err(FsError::Stale);
        }
        Ok(key)
    }

    fn mark_open(
        &self,
        inode: &Inode,
        file: Arc<StagedFile>,
        writer: Writer,
        pristine: Option<Pristine>,
    ) {
        let staged = Staged {
            file,
            writer,
            open: true,
            pristine,
        };
        inode.state.lock().content = Content::Staged(staged);
    }
}

/// While it lives, no new handle of the inode may pass through.
struct Moving<'a>(&'a Inode);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().moving = false;
    }
}
