//! What was deleted or overwritten, and how it comes back.
//!
//! It is in one of two places: its tombstone still waits in the journal, and the object is where it
//! was; or a copy of it lies in the bucket's trash. A name that is in use again is never touched:
//! what comes back then gets a name of its own.

mod choice;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use self::choice::choose;
pub use self::choice::{At, Lost, Where};
use super::attr::{Ino, Kind};
use super::conflict::{MAX_NAMES, marked_name, split};
use super::inode::{Inode, Listed};
use super::tree::Stale;
use super::{Fs, LOOKUP_DEADLINE, folder};
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Deleted, Edit, Kept, PutState, Record, Seq};
use crate::store::attributes::FileAttributes;
use crate::store::trash::{self, CUT_KEY, Why};
use crate::store::{
    Key, ListRequest, ListedObject, ObjectInfo, ObjectVersion, Origin, ReadCondition, StoreError,
    StoreResult,
};

/// How many objects are asked for at once.
const ASKED_AT_ONCE: usize = 16;
/// How often, and with which pause, a delete that is being carried out is waited for.
const BUSY_ROUNDS: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// What became of the wish to have something back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    /// What is back: the name it had, and the one it has.
    pub done: Vec<(Key, Key)>,
    /// What is not, and why.
    pub failed: Vec<(String, String)>,
}

/// How one attempt has ended.
enum End {
    Back(Key),
    /// Its delete is being carried out at this moment.
    Busy,
}

impl Fs {
    /// Returns what can come back of the names at or below `paths`, or of all if there are none,
    /// the newest first; and why the bucket's trash could not be listed, if it could not.
    pub async fn lost(&self, paths: &[String]) -> (Vec<Lost>, Option<StoreError>) {
        let mut lost = self.waiting_deletes(|_| true);
        lost.extend(self.journal().kept().into_iter().map(lost_here));
        let unlisted = match self.list_trash().await {
            Ok(listed) => {
                lost.extend(listed);
                None
            }
            Err(error) => Some(error),
        };
        let wanted: Vec<Key> = paths.iter().filter_map(|path| Key::of_path(path)).collect();
        lost.retain(|lost| {
            paths.is_empty() || wanted.iter().any(|path| lost.path.is_at_or_below(path))
        });
        lost.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.path.cmp(&b.path)));
        (lost, unlisted)
    }

    /// The deletes that wait in the journal, of those that `select` names.
    pub(super) fn waiting_deletes(&self, select: impl Fn(&Record) -> bool) -> Vec<Lost> {
        let mut waiting = Vec::new();
        self.journal().visit(|record| {
            if !select(record) {
                return;
            }
            let Change::Delete(Deleted::Here { size, name, .. }) = &record.change else {
                return;
            };
            let Some(etag) = record.base.clone() else {
                return;
            };
            let path = name.clone().unwrap_or_else(|| record.key.clone());
            let named = trash::name(&path, &etag, record.changed_at, Why::Deleted);
            waiting.push(Lost {
                path,
                id: named.id,
                why: Why::Deleted,
                at: record.changed_at,
                size: *size,
                place: Where::Waiting {
                    version: ObjectVersion {
                        key: record.key.clone(),
                        etag,
                    },
                    seq: record.seq,
                },
            });
        });
        waiting
    }

    async fn list_trash(&self) -> StoreResult<Vec<Lost>> {
        let mut found = Vec::new();
        for object in self.trash_objects().await? {
            found.extend(self.lost_object(object).await?);
        }
        Ok(found)
    }

    /// Returns what lies in the bucket's trash, without what is on its way back.
    pub(super) async fn trash_objects(&self) -> StoreResult<Vec<ListedObject>> {
        let mut objects = Vec::new();
        let mut continuation = None;
        loop {
            let request = ListRequest {
                prefix: trash::PREFIX.into(),
                continuation,
                ..ListRequest::default()
            };
            let page = self.store.list(request).await;
            self.note_result(&page);
            let page = page?;
            objects.extend(page.objects);
            continuation = page.next;
            if continuation.is_none() {
                break;
            }
        }
        let journal = self.journal();
        objects.retain(|object| {
            let key = &object.version.key;
            let is_wanted = journal.record(key).is_some() || journal.copies_from(key);
            object.origin == Origin::Primary && !is_wanted
        });
        Ok(objects)
    }

    async fn lost_object(&self, object: ListedObject) -> StoreResult<Option<Lost>> {
        let Some(named) = trash::parse(&object.version.key) else {
            return Ok(None);
        };
        let original = match named.original {
            Some(original) => Some(original),
            None => {
                let info = self
                    .store
                    .head(&object.version.key, ReadCondition::None)
                    .await?;
                cut_key(&info)
            }
        };
        Ok(original.map(|path| Lost {
            path,
            id: named.id,
            why: named.why,
            at: named.at,
            size: object.size,
            place: Where::Bucket(object.version),
        }))
    }

    /// Brings back what was deleted at or below each of `paths`: of every name the version that went
    /// last. `at` asks for another one: its id, or the last that went until a time. A file that was
    /// overwritten comes back beside its successor.
    pub async fn restore(self: &Arc<Self>, paths: &[String], at: Option<&At>) -> Restored {
        let mut restored = Restored::default();
        let (lost, unlisted) = self.lost(paths).await;
        let mut chosen: Vec<Lost> = Vec::new();
        for path in paths {
            let found = match Key::of_path(path) {
                Some(wanted) => choose(&lost, &wanted, at),
                None => Vec::new(),
            };
            if found.is_empty() {
                let reason = match &unlisted {
                    Some(error) => format!("the trash in the bucket cannot be read: {error}"),
                    None => "nothing of this name is in the trash".into(),
                };
                restored.failed.push((path.clone(), reason));
            }
            chosen.extend(found);
        }
        // Folders first, from the top down.
        chosen.sort_by_key(|lost| (!lost.path.is_folder_marker(), lost.path.clone()));
        let mut seen = HashSet::new();
        chosen.retain(|lost| seen.insert((lost.path.clone(), lost.id.clone())));
        self.bring_back(chosen, &mut restored).await;
        restored
    }

    /// Brings these back, and waits for deletes that are being carried out.
    pub(super) async fn bring_back(self: &Arc<Self>, chosen: Vec<Lost>, restored: &mut Restored) {
        let asked = stream::iter(chosen.into_iter().map(|lost| self.ask(lost)));
        let asked: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
        for (lost, info) in asked {
            let path = lost.path.clone();
            match self.bring_one_back(lost, info).await {
                Ok(name) => restored.done.push((path, name)),
                Err(error) => restored.failed.push((path.to_string(), error.to_string())),
            }
        }
    }

    /// Asks for what only the object itself can tell; it may also turn out to be gone.
    async fn ask(&self, lost: Lost) -> (Lost, Asked) {
        let (Where::Waiting { version, .. } | Where::Bucket(version)) = &lost.place else {
            return (lost, Ok(None));
        };
        let condition = ReadCondition::IfMatch(version.etag.clone());
        let asked = self.store.head(&version.key, condition);
        let info = match tokio::time::timeout(LOOKUP_DEADLINE, asked).await {
            Ok(info) => info,
            Err(_) => Err(StoreError::Unavailable {
                message: "no answer".into(),
                retry_after: None,
            }),
        };
        (lost, info.map(Some))
    }

    async fn bring_one_back(self: &Arc<Self>, mut lost: Lost, info: Asked) -> FsResult<Key> {
        let is_gone = matches!(
            &info,
            Err(StoreError::NotFound | StoreError::PreconditionFailed)
        );
        let mut info = match info {
            Ok(info) => info,
            // It is in the trash by now, unless nobody keeps one for it.
            Err(_) if is_gone => None,
            // An object that waits for its delete is where it was, as far as anybody knows.
            Err(error) if error.is_transient() && matches!(lost.place, Where::Waiting { .. }) => {
                None
            }
            Err(error) => return Err(error.into()),
        };
        if is_gone {
            lost = self.in_trash(&lost).await?;
            info = self.ask(lost.clone()).await.1?;
        }
        for _ in 0..BUSY_ROUNDS {
            let parent = self.folder_above(lost.path.as_str())?;
            match self.show_again(&lost, info.as_ref(), parent)? {
                End::Back(name) => return Ok(name),
                End::Busy => tokio::time::sleep(BUSY_PAUSE).await,
            }
            if let Where::Waiting { version, seq } = &lost.place
                && !self.journal().is_current(&version.key, *seq)
            {
                lost = self.in_trash(&lost).await?;
                info = self.ask(lost.clone()).await.1?;
            }
        }
        Err(FsError::DeadlineExceeded)
    }

    /// Returns where a version lies whose delete has been carried out.
    async fn in_trash(&self, lost: &Lost) -> FsResult<Lost> {
        let listed = self.list_trash().await?;
        let same = |found: &Lost| found.id == lost.id && found.path == lost.path;
        listed.into_iter().find(same).ok_or(FsError::NotFound)
    }

    /// Returns the folder of a path, and shows it and those above it.
    pub(super) fn folder_above(self: &Arc<Self>, path: &str) -> FsResult<Ino> {
        let (above, _) = split(path.trim_end_matches('/'));
        let mut at = Ino::ROOT;
        for name in above.split('/').filter(|name| !name.is_empty()) {
            self.load_dir(at)?;
            let _changes = self.changes.lock();
            let mut tree = self.tree.lock();
            let found = tree
                .dir(at)
                .and_then(|dir| dir.entry(name))
                .map(Cow::into_owned);
            at = match found {
                Some(entry) if entry.kind == Kind::Folder => entry.ino,
                Some(_) => return Err(FsError::NotADirectory),
                None if at == Ino::ROOT => return Err(FsError::NotFound),
                None => {
                    let now = self.clock.instant();
                    let ino = tree.insert_folder(at, name, now);
                    drop(tree);
                    self.tell_stale(vec![Stale {
                        parent: at,
                        name: name.into(),
                    }]);
                    ino
                }
            };
        }
        self.load_dir(at)?;
        Ok(at)
    }

    fn withdraw(&self, key: &Key, seq: Seq, edits: Vec<Edit>) -> FsResult<bool> {
        let withdrawn = self.journal().withdraw_delete(key, seq, edits);
        withdrawn.map_err(|error| FsError::Journal(error.to_string()))
    }

    fn show_again(
        self: &Arc<Self>,
        lost: &Lost,
        info: Option<&ObjectInfo>,
        parent: Ino,
    ) -> FsResult<End> {
        match &lost.place {
            Where::Here(kept) => {
                let unkeep = Edit::Unkeep { file: kept.file };
                self.show_kept_again(kept, parent, vec![unkeep])
                    .map(End::Back)
            }
            _ if lost.path.is_folder_marker() => self.show_folder_again(lost, info, parent),
            Where::Waiting { version, .. } | Where::Bucket(version) => {
                self.show_file_again(lost, version, info, parent)
            }
        }
    }

    fn show_folder_again(
        &self,
        lost: &Lost,
        info: Option<&ObjectInfo>,
        parent: Ino,
    ) -> FsResult<End> {
        let _changes = self.changes.lock();
        let key = lost.path.clone();
        let (_, name) = split(key.as_str().trim_end_matches('/'));
        let attributes = info.map(|info| FileAttributes::from_metadata(&info.metadata));
        let attributes = attributes.unwrap_or_default();
        let keep = folder::keep(key.clone(), attributes.clone());
        match &lost.place {
            Where::Waiting { version, seq } if version.key == key => {
                let mut edits = vec![keep];
                if self.journal().moves().covers(&key) {
                    // Without a record it would go along with the folder that was here.
                    edits.push(Edit::Set {
                        key: key.clone(),
                        base: Some(version.etag.clone()),
                        change: Change::Folder {
                            attributes: attributes.clone(),
                        },
                    });
                }
                if !self.withdraw(&key, *seq, edits)? {
                    return Ok(End::Busy);
                }
            }
            _ => {
                let set = Edit::Set {
                    key: key.clone(),
                    base: self.base_of(&key, None),
                    change: Change::Folder {
                        attributes: attributes.clone(),
                    },
                };
                let mut edits = vec![set, keep];
                edits.extend(remains(&lost.place));
                self.apply(edits)?;
            }
        }
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        tree.note_change(key.as_str(), now);
        let ino = tree.insert_folder(parent, name, now);
        if let (Where::Waiting { version, .. }, Some(dir)) = (&lost.place, tree.dir_mut(ino)) {
            dir.note_marker(version.clone());
        }
        let inode = tree.inode(ino).cloned();
        drop(tree);
        if let Some(inode) = inode {
            inode.state.lock().meta.apply(&attributes);
        }
        self.tell_stale(vec![Stale {
            parent,
            name: name.into(),
        }]);
        Ok(End::Back(key))
    }

    fn show_file_again(
        self: &Arc<Self>,
        lost: &Lost,
        version: &ObjectVersion,
        info: Option<&ObjectInfo>,
        parent: Ino,
    ) -> FsResult<End> {
        let _changes = self.changes.lock();
        let (folder, old_name) = split(lost.path.as_str());
        let name = self.free_name_for(parent, folder, old_name)?;
        let key = Key::in_bucket(&format!("{folder}{name}")).ok_or(FsError::NameTooLong)?;
        let size = info.map_or(lost.size, |info| info.size);
        let known = || self.journal().attributes(version).unwrap_or_default();
        let attributes =
            info.map_or_else(known, |info| FileAttributes::from_metadata(&info.metadata));
        let copy = Edit::Set {
            key: key.clone(),
            base: self.base_of(&key, None),
            change: Change::Copy {
                source: version.clone(),
                size,
                attributes: attributes.clone(),
            },
        };
        let now = self.clock.instant();
        match &lost.place {
            Where::Waiting { seq, .. } => {
                let is_same = version.key.folded() == key.folded();
                // Without a record it would go along with the folder that was here.
                let stays = is_same && !self.journal().moves().covers(&key);
                let mut edits = Vec::new();
                if !stays {
                    edits.push(copy);
                }
                if !is_same {
                    edits.extend(remains(&lost.place));
                }
                if !self.withdraw(&version.key, *seq, edits)? {
                    return Ok(End::Busy);
                }
                if stays {
                    let mut tree = self.tree.lock();
                    tree.note_change(key.as_str(), now);
                    let listed = Listed {
                        version: version.clone(),
                        origin: Origin::Primary,
                        size,
                        last_modified: info.map_or(lost.at, |info| info.last_modified),
                        checked_at: now,
                    };
                    tree.insert_listed(parent, &name, listed);
                }
            }
            Where::Bucket(_) | Where::Here(_) => {
                let mut edits = vec![copy];
                edits.extend(remains(&lost.place));
                self.apply(edits)?;
            }
        }
        if let Some(record) = self.journal().record(&key) {
            let mut tree = self.tree.lock();
            tree.note_change(key.as_str(), now);
            self.overlay_file(&mut tree, parent, &name, &record, now)?;
        } else {
            let edit = Edit::KeepAttributes {
                version: version.clone(),
                attributes,
            };
            self.apply(vec![edit])?;
        }
        self.tell_stale(vec![Stale {
            parent,
            name: (&*name).into(),
        }]);
        self.touch_folder(parent);
        Ok(End::Back(key))
    }

    /// Gives a staged file its name back, with `edits` in the same commit.
    pub(super) fn show_kept_again(
        self: &Arc<Self>,
        kept: &Kept,
        parent: Ino,
        mut edits: Vec<Edit>,
    ) -> FsResult<Key> {
        let _changes = self.changes.lock();
        let is_open = |inode: &Arc<Inode>| {
            let state = inode.state.lock();
            let is_it = state.staged().is_some_and(|s| s.file.id() == kept.file);
            is_it && state.gate.handles() > 0
        };
        if self.tree.lock().inodes().iter().any(is_open) {
            return Err(FsError::InvalidArgument("a program still has it open"));
        }
        let (folder, old_name) = split(kept.key.as_str());
        let name = self.free_name_for(parent, folder, old_name)?;
        let key = Key::new(&format!("{folder}{name}")).ok_or(FsError::NameTooLong)?;
        let length = std::fs::metadata(self.staging.path(kept.file))?.len();
        edits.push(Edit::Set {
            key: key.clone(),
            base: self.base_of(&key, None),
            change: Change::Put {
                file: kept.file,
                state: PutState::Closed { length },
                attributes: kept.attributes.clone(),
            },
        });
        self.apply(edits)?;
        let now = self.clock.instant();
        if let Some(record) = self.journal().record(&key) {
            let mut tree = self.tree.lock();
            tree.note_change(key.as_str(), now);
            self.overlay_file(&mut tree, parent, &name, &record, now)?;
        }
        self.tell_stale(vec![Stale {
            parent,
            name: (&*name).into(),
        }]);
        self.touch_folder(parent);
        Ok(key)
    }

    /// Returns the old name if it is free, else one that tells what it is.
    fn free_name_for(&self, parent: Ino, folder: &str, name: &str) -> FsResult<String> {
        let tree = self.tree.lock();
        let dir = tree.dir(parent).ok_or(FsError::NotFound)?;
        let is_free = |name: &str| {
            let key = Key::new(&format!("{folder}{name}"));
            let record = key.as_ref().and_then(|key| self.journal().record(key));
            dir.entry(name).is_none()
                && record.is_none_or(|record| record.change.is_delete())
                && !key.is_some_and(|key| self.is_local_name(&key))
        };
        if is_free(name) {
            return Ok(name.to_owned());
        }
        (1..MAX_NAMES)
            .map(|n| marked_name(name, "restored", self.clock.now(), n))
            .find(|name| is_free(name))
            .ok_or(FsError::Exists)
    }
}

/// What an object told of itself; `None` of what lies on this disk.
type Asked = StoreResult<Option<ObjectInfo>>;

fn lost_here(kept: Kept) -> Lost {
    let mut id = kept.file.to_string();
    id.truncate(16);
    Lost {
        path: kept.key.clone(),
        id,
        why: match kept.replaced {
            true => Why::Overwritten,
            false => Why::Deleted,
        },
        at: kept.at,
        size: kept.length,
        place: Where::Here(Box::new(kept)),
    }
}

/// What is to become of the object that something is brought back from, when that is done: it has
/// the old name by then.
fn remains(place: &Where) -> Option<Edit> {
    let (Where::Waiting { version, .. } | Where::Bucket(version)) = place else {
        return None;
    };
    Some(Edit::Set {
        key: version.key.clone(),
        base: Some(version.etag.clone()),
        change: Change::Delete(Deleted::Moved),
    })
}

fn cut_key(info: &ObjectInfo) -> Option<Key> {
    let bytes = hex::decode(info.metadata.get(CUT_KEY)?).ok()?;
    Key::new(std::str::from_utf8(&bytes).ok()?)
}
