//! Look-up, attributes, forget.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::arriving::Known;
use super::attr::{Attr, Ino, Kind};
use super::inode::Listed;
use super::listing::{done_within, listed_from_info};
use super::name::{self, fold};
use super::{Fs, LOOKUP_DEADLINE, REFRESH_PATIENCE};
use crate::cache::HeldObject;
use crate::error::{FsError, FsResult};
use crate::staging::{Lower, Moves};
use crate::store::{Key, ListRequest, ReadCondition, StoreError};

/// How long a look-up waits for a running refresh of an old listing before the old one counts.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// So many names are noted whose opens were stale; each is looked up a moment later.
const MOST_RECHECKS: usize = 1000;

impl Fs {
    /// Looks a name up and raises its lookup count. Inline when the folder's names are known; else
    /// one HEAD and one LIST of the name alone.
    ///
    /// # Errors
    /// `NotFound` only from a listing or from a bucket that answers; `Store` within two seconds if
    /// it does not.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        let was_stale = self.takes_recheck(parent, name);
        let attr = self.lookup_once(parent, name).await?;
        if attr.kind != Kind::File || !was_stale {
            return Ok(attr);
        }
        // Its open was answered by ESTALE. The kernel opens it once more, and gives up if that is stale too.
        let inode = self.inode(attr.ino)?;
        let begun = self.clock.instant();
        let checked = self.check_version(&inode, self.options.list_ttl / 2).await;
        let attr = match checked {
            Err(FsError::Stale) => {
                self.forget(attr.ino, 1);
                self.lookup_once(parent, name).await?
            }
            _ => attr,
        };
        if let Ok(inode) = self.inode(attr.ino) {
            inode.state.lock().rechecked_at = Some(begun);
        }
        Ok(attr)
    }

    /// Notes that the kernel is about to look a name up again, since its open found another version.
    pub(super) fn note_stale(&self, key: Key) {
        let mut rechecks = self.rechecks.lock();
        if rechecks.len() >= MOST_RECHECKS {
            // Nobody came for them; without it an open is answered by ESTALE twice at worst.
            rechecks.clear();
        }
        rechecks.insert(key);
    }

    /// Whether a name is looked up since its open found another version.
    fn takes_recheck(&self, parent: Ino, name: &OsStr) -> bool {
        let mut rechecks = self.rechecks.lock();
        if rechecks.is_empty() {
            return false;
        }
        let path = self.tree.lock().path(parent);
        let key = path.zip(name.to_str());
        let key = key.and_then(|(path, name)| name::key_in(&path, name).ok());
        key.is_some_and(|key| rechecks.remove(&key.folded()))
    }

    async fn lookup_once(self: &Arc<Self>, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        if let Some(local) = self.local(parent) {
            return local.lookup(parent, name);
        }
        if parent == Ino::ROOT {
            return self.lookup_at_root(name);
        }
        let Ok(name) = name::check(name) else {
            return Err(unholdable(name));
        };
        let path = self.load_dir(parent)?;
        if let Some(attr) = self.lookup_known(parent, name) {
            if self.is_listing_old(parent) {
                self.refresh_behind(parent, &path);
            }
            return Ok(attr);
        }
        self.show_link(&path, name).await?;
        if let Some(attr) = self.lookup_known(parent, name) {
            return Ok(attr);
        }
        if self.is_listing_complete(parent) {
            if !self.is_listing_older_than(parent, self.options.list_ttl) || !self.is_reachable() {
                return Err(FsError::NotFound);
            }
            if !self.is_paged(parent) {
                self.refreshed_soon(parent, &path, LOOKUP_PATIENCE).await;
                return self.lookup_known(parent, name).ok_or(FsError::NotFound);
            }
            // A listing of all its names takes too long.
        } else if self.show_arrived(parent, name) {
            return self.lookup_known(parent, name).ok_or(FsError::NotFound);
        }
        self.lookup_remote(parent, &path, name).await
    }

    fn lookup_at_root(&self, name: &OsStr) -> FsResult<Attr> {
        if name == "samples" {
            return self.samples_root();
        }
        if let Some(side) = self.local_at_root(name) {
            return side.lookup(side.root(), name);
        }
        let name = name::check(name).map_err(|_| FsError::NotFound)?;
        self.lookup_known(Ino::ROOT, name).ok_or(FsError::NotFound)
    }

    pub(super) fn samples_root(&self) -> FsResult<Attr> {
        self.samples.getattr(self.samples.root(), None)
    }

    /// Looks a name up in memory.
    pub(super) fn lookup_known(&self, parent: Ino, name: &str) -> Option<Attr> {
        let (inode, fresh) = {
            let mut tree = self.tree.lock();
            let ino = tree.dir(parent)?.entry(name)?.ino;
            let fresh = tree.inode(ino).is_none();
            let inode = tree.materialise(parent, name)?;
            tree.looked_up(inode.ino);
            (inode, fresh)
        };
        if inode.kind == Kind::Folder {
            self.apply_folder_attributes(&inode);
        } else if fresh {
            self.apply_kept_attributes(&inode);
        }
        self.show_names_of(&inode);
        let mut attr = inode.attr();
        if inode.kind == Kind::Folder {
            attr.nlink = self.folder_links(inode.ino);
        }
        Some(attr)
    }

    async fn lookup_remote(
        self: &Arc<Self>,
        parent: Ino,
        path: &str,
        name: &str,
    ) -> FsResult<Attr> {
        let key = name::key_in(path, name)?;
        if self.is_removed_here(parent, path, &key, name) {
            return Err(FsError::NotFound);
        }
        if !self.is_reachable() {
            return self.lookup_offline(parent, path, name);
        }
        // The kernel holds the folder's lock meanwhile: only the one name is asked for, and the
        // whole listing comes behind.
        self.refresh_behind(parent, path);
        let begun = self.clock.instant();
        let asked = tokio::time::timeout(LOOKUP_DEADLINE, self.ask_as_it_is(parent, path, name));
        let asked = asked.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable {
                message: "no answer".into(),
                retry_after: None,
            })
        });
        self.note_result(&asked);
        match asked {
            Ok(Found::Folder) => {
                let now = self.clock.instant();
                self.tree.lock().insert_folder(parent, name, now);
            }
            Ok(Found::File(info)) => {
                let listed = listed_from_info(&info, begun);
                self.tree.lock().insert_listed(parent, name, listed);
                self.learn(&info);
            }
            // The listing behind may have come first, and may know what the bucket cannot tell.
            Ok(Found::Nothing) => {}
            Err(error) if error.is_transient() => {
                log::debug!("looking up {key}: {error}");
                return self.lookup_offline(parent, path, name);
            }
            Err(error) => return Err(error.into()),
        }
        self.lookup_known(parent, name).ok_or(FsError::NotFound)
    }

    /// Whether a name was removed or renamed away here and the bucket has yet to follow: what it
    /// still holds there is not to be seen.
    fn is_removed_here(&self, parent: Ino, path: &str, key: &Key, name: &str) -> bool {
        let moves = self.journal().moves();
        if moves.lowers(path).iter().any(|lower| lower.since.is_some()) {
            // What lies elsewhere may show there.
            return false;
        }
        if let Some(record) = self.journal().record(key) {
            return record.change.is_delete();
        }
        let changed = self
            .tree
            .lock()
            .dir(parent)
            .is_some_and(|dir| dir.was_changed(name) && dir.entry(name).is_none());
        changed && !self.journal().records_below(&format!("{key}/")).is_empty()
    }

    /// Asks until nothing of that name was confirmed meanwhile: what the bucket said before the last
    /// delete, and the journal does not say any more, would bring back what has moved away.
    async fn ask_as_it_is(&self, parent: Ino, path: &str, name: &str) -> Result<Found, StoreError> {
        loop {
            let begun = self.clock.instant();
            let found = self.ask_for(parent, path, name).await?;
            let is_settled = matches!(found, Found::Nothing) || {
                let tree = self.tree.lock();
                let dir = tree.dir(parent);
                dir.is_none_or(|dir| dir.changed_at(name).is_none_or(|at| at < begun))
            };
            if is_settled {
                return Ok(found);
            }
        }
    }

    async fn ask_for(&self, parent: Ino, path: &str, name: &str) -> Result<Found, StoreError> {
        let moves = self.journal().moves();
        let lowers = moves.lowers(path);
        let asked = lowers
            .iter()
            .map(|lower| self.ask_lower(parent, path, lower, name));
        let mut file = Found::Nothing;
        for found in futures::future::try_join_all(asked).await? {
            match found {
                // A folder wins the name over an object, the folder's own prefix over another.
                Found::Folder => return Ok(Found::Folder),
                Found::File(_) if matches!(file, Found::Nothing) => file = found,
                Found::File(_) | Found::Nothing => {}
            }
        }
        for (_, source) in moves
            .elsewhere(path)
            .into_iter()
            .filter(|(aside, _)| fold(aside) == fold(name))
        {
            if self.holds_anything(source.as_str()).await? {
                return Ok(Found::Folder);
            }
        }
        Ok(file)
    }

    /// Asks for a name below one of the prefixes that show in a folder.
    async fn ask_lower(
        &self,
        parent: Ino,
        path: &str,
        lower: &Lower,
        name: &str,
    ) -> Result<Found, StoreError> {
        let Some(key) = Key::in_bucket(&format!("{}{name}", lower.prefix)) else {
            return Ok(Found::Nothing);
        };
        let (shown, prefix) = (format!("{path}{name}/"), format!("{key}/"));
        let (head, below) = futures::join!(
            self.store.head(&key, ReadCondition::None),
            self.is_folder_below(&shown, &prefix)
        );
        if below? {
            return Ok(Found::Folder);
        }
        let info = match head {
            Ok(info) => info,
            Err(StoreError::NotFound) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let known = self.tree.lock().version(parent, name);
        let belongs = lower.since.is_none_or(|since| {
            self.moves_along(&info.version, info.last_modified, since, known.as_ref())
        });
        match belongs && !self.is_spoken_for(&self.journal().moves(), &info.version) {
            true => Ok(Found::File(Box::new(info))),
            false => Ok(Found::Nothing),
        }
    }

    /// Whether there is anything below a prefix that shows as the folder `path`.
    async fn is_folder_below(&self, path: &str, prefix: &str) -> Result<bool, StoreError> {
        if fold(&self.journal().moves().shown_at(prefix)) != fold(path) {
            return Ok(false);
        }
        let request = ListRequest {
            prefix: prefix.to_owned(),
            max_keys: Some(1),
            ..ListRequest::default()
        };
        let mut page = self.store.list(request).await?;
        let moves = self.journal().moves();
        match page.objects.pop() {
            // It may be all that is left, and about to go.
            Some(object) if self.is_spoken_for(&moves, &object.version) => {
                self.holds_anything(prefix).await
            }
            Some(_) => Ok(true),
            // R2 gives fewer keys than were asked for when it likes, also none.
            None if page.next.is_some() => self.holds_anything(prefix).await,
            None => Ok(false),
        }
    }

    /// Shows a name of a listing that is under way, if it has come by now; false if nobody knows yet
    /// whether there is such a name.
    pub(super) fn show_arrived(&self, parent: Ino, name: &str) -> bool {
        let known = self
            .arriving(parent)
            .map(|refresh| refresh.arriving.name(&fold(name)));
        let entry = match known {
            Some(Known::File(entry)) => entry,
            Some(Known::Nothing) => return true,
            Some(Known::NotYet) | None => return false,
        };
        let moves = self.journal().moves();
        let shows = |listed: &Listed| !self.is_spoken_for(&moves, &listed.version);
        let Some(listed) = entry.listed.filter(|listed| shows(listed)) else {
            return true;
        };
        let mut tree = self.tree.lock();
        if tree.dir(parent).is_some_and(|dir| !dir.was_changed(name)) {
            tree.insert_listed(parent, &entry.spelling, *listed);
        }
        true
    }

    /// The bucket does not answer: what is cached is served, what is not known is an error.
    fn lookup_offline(&self, parent: Ino, path: &str, name: &str) -> FsResult<Attr> {
        if let Some(attr) = self.lookup_known(parent, name) {
            return Ok(attr);
        }
        let moves = self.journal().moves();
        let keys = moves.lowers(path).into_iter();
        let keys = keys.filter_map(|lower| Key::new(&format!("{}{name}", lower.prefix)));
        for key in keys {
            let held = self.cache.held_below(key.as_str());
            let held = held.into_iter().find(|held| held.version.key == key);
            if let Some(held) = held.filter(|held| !self.is_spoken_for(&moves, &held.version)) {
                let listed = self.listed_from_held(held);
                self.tree.lock().insert_listed(parent, name, listed);
                return self.lookup_known(parent, name).ok_or(FsError::NotFound);
            }
        }
        Err(StoreError::Unavailable {
            message: "not reachable".into(),
            retry_after: None,
        }
        .into())
    }

    fn listed_from_held(&self, held: HeldObject) -> Listed {
        Listed {
            version: held.version,
            origin: Default::default(),
            size: held.size,
            last_modified: held.last_modified,
            checked_at: self.clock.instant(),
        }
    }

    /// The kernel gives back lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        match self.local(ino) {
            Some(local) => local.forget(ino, count),
            None => self.tree.lock().forget(ino, count),
        }
    }

    /// Returns an inode's attributes; always inline.
    pub fn getattr(&self, ino: Ino, fh: Option<super::attr::Fh>) -> FsResult<Attr> {
        if let Some(local) = self.local(ino) {
            return local.getattr(ino, fh.and_then(|fh| self.local_handle(fh)));
        }
        let inode = self.inode(ino)?;
        let mut attr = inode.attr();
        if inode.kind == Kind::Folder {
            attr.nlink = self.folder_links(ino);
        }
        if ino != Ino::ROOT && self.tree.lock().place(ino).is_none() {
            // The kernel then forgets it with its last handle, and its bytes go.
            attr.nlink = 0;
        }
        if inode.kind == Kind::File
            && let Some(staged) = inode.state.lock().staged()
        {
            // Holes and stores through maps show in the staged file alone.
            use std::os::unix::fs::MetadataExt;
            if let Ok(status) = staged.file.file().metadata() {
                attr.blocks = status.blocks();
                attr.mtime = attr.mtime.max(status.modified().unwrap_or(attr.mtime));
            }
        }
        Ok(attr)
    }

    /// Brings a folder's listing up to date if it is old, as far as that goes quickly.
    pub(super) async fn freshen(self: &Arc<Self>, ino: Ino, path: &str) -> FsResult<()> {
        if !self.is_listing_old(ino) {
            return Ok(());
        }
        let complete = self.is_listing_complete(ino);
        let patience = match (complete, self.is_reachable()) {
            (true, true) if !self.is_paged(ino) => {
                self.refreshed_soon(ino, path, REFRESH_PATIENCE).await;
                return Ok(());
            }
            (true, _) => {
                self.refresh(ino, path);
                return Ok(());
            }
            (false, true) => self.options.request_deadline,
            (false, false) => LOOKUP_DEADLINE,
        };
        let refresh = self.refresh(ino, path);
        let mut progress = refresh.arriving.progress();
        let is_shown = tokio::select! {
            done = done_within(refresh.ended, patience) => done,
            // It is read as it arrives.
            Ok(_) = progress.wait_for(|pages| *pages > 0) => true,
        };
        match is_shown {
            true => Ok(()),
            false => self.show_held(ino, path),
        }
    }

    /// A folder that could not be listed shows what is in the cache, if there is anything.
    fn show_held(&self, ino: Ino, path: &str) -> FsResult<()> {
        let moves = self.journal().moves();
        for lower in moves.lowers(path) {
            for held in self.cache.held_below(&lower.prefix) {
                self.show_held_object(&moves, (ino, path), &lower.prefix, held);
            }
        }
        let tree = self.tree.lock();
        if tree.dir(ino).is_some_and(|dir| !dir.is_empty()) {
            return Ok(());
        }
        Err(FsError::DeadlineExceeded)
    }

    fn show_held_object(
        &self,
        moves: &Moves,
        (ino, path): (Ino, &str),
        prefix: &str,
        held: HeldObject,
    ) {
        let Some(rest) = held.version.key.as_str().strip_prefix(prefix) else {
            return;
        };
        let rest = rest.to_owned();
        let name = rest.split('/').next().unwrap_or(&rest);
        let shown = moves.shown_at(held.version.key.as_str());
        let shows_here = fold(&shown) == fold(&format!("{path}{rest}"));
        if !shows_here || self.is_spoken_for(moves, &held.version) {
            return;
        }
        let listed = self.listed_from_held(held);
        let mut tree = self.tree.lock();
        if tree.dir(ino).is_none_or(|dir| dir.entry(name).is_some()) {
            return;
        }
        match rest.contains('/') {
            true => {
                tree.insert_folder(ino, name, self.clock.instant());
            }
            false => tree.insert_listed(ino, name, listed),
        }
    }
}

enum Found {
    Folder,
    File(Box<crate::store::ObjectInfo>),
    Nothing,
}

/// A name that the bucket cannot hold is not there; only making it says why.
fn unholdable(name: &OsStr) -> FsError {
    match name::check(name) {
        Err(FsError::NameTooLong) => FsError::NameTooLong,
        _ => FsError::NotFound,
    }
}
