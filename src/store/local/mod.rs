//! A directory as a store: `OUTPUT_DIR` with `USE_R2_STORAGE=false`, and behind `FALLBACK_TO_LOCAL`.
//!
//! One object is one file under its key. What a disk cannot do as a bucket does: `a` beside `a/b`,
//! names over 255 bytes, names that differ only in Unicode normal form (two files here, one object
//! in R2), ETags that are MD5s. Without extended attributes user metadata other than mtime and mode
//! is not kept, and a folder does not go with its last file. Other programs may use the directory at
//! the same time, but conditions hold only among the writes of this process.

mod about;
mod list;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod uploads;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, PartNumber, PutRequest, ReadCondition,
    StoreError, StoreResult, Upload, WriteCondition,
};
use about::About;
use tree::{Temporary, Tree};

/// Whether a tag is that of an object in a local store.
pub fn is_local_tag(etag: &ETag) -> bool {
    about::is_local(etag)
}

/// Returns the token with which a local listing goes on behind an entry, a key or a prefix.
pub fn continuation_after(entry: &str) -> String {
    list::continuation_after(entry)
}

/// Returns the entry behind which a listing goes on with this token.
pub fn entry_before(token: &str) -> &str {
    list::entry_before(token)
}

/// A directory as a store.
#[derive(Clone)]
pub struct LocalStore {
    disk: Arc<Disk>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.disk.root.display())
    }
}

impl LocalStore {
    /// Opens the store, making its directory if need be, and removes what crashed writes left.
    pub fn open(root: &Path) -> io::Result<LocalStore> {
        let disk = Disk {
            root: root.to_owned(),
            tree: Tree::open(root)?,
            commits: Mutex::new(()),
        };
        uploads::remove_abandoned(&disk);
        Ok(LocalStore {
            disk: Arc::new(disk),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&disk))
            .await
            .map_err(|error| StoreError::Io(io::Error::other(error)))?
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn time(&self) -> Option<SystemTime> {
        Some(SystemTime::now())
    }

    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        let key = key.clone();
        self.blocking(move |disk| disk.head(&key, &condition)).await
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        self.blocking(move |disk| read::get(disk, request)).await
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        self.blocking(move |disk| disk.put(&request)).await
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        let key = key.clone();
        self.blocking(move |disk| uploads::create(disk, key, headers))
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        let upload = upload.clone();
        self.blocking(move |disk| uploads::write_part(disk, &upload, number, &body, md5))
            .await
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        let (upload, source) = (upload.clone(), source.clone());
        self.blocking(move |disk| uploads::copy_part(disk, &upload, number, &source, range))
            .await
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        let upload = upload.clone();
        self.blocking(move |disk| uploads::list_parts(disk, &upload))
            .await
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let (upload, parts) = (upload.clone(), parts.to_vec());
        self.blocking(move |disk| uploads::complete(disk, &upload, &parts, &condition))
            .await
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        let upload = upload.clone();
        self.blocking(move |disk| uploads::abort(disk, &upload))
            .await
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.blocking(move |disk| disk.copy(&request)).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        let key = key.clone();
        self.blocking(move |disk| disk.delete(&key)).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        self.blocking(move |disk| list::list(&disk.tree, &request))
            .await
    }
}

struct Disk {
    root: PathBuf,
    tree: Tree,
    /// Held from the check of a write's condition until its name is in place, and while folders
    /// are made or removed: these belong together. This is disk work under a lock, on purpose, in
    /// a thread where blocking is allowed; the bytes are written and synced before.
    commits: Mutex<()>,
}

impl Disk {
    fn head(&self, key: &Key, condition: &ReadCondition) -> StoreResult<ObjectInfo> {
        let info = self.find(key)?.ok_or(StoreError::NotFound)?;
        check_read(condition, &info.version.etag)?;
        Ok(info)
    }

    fn find(&self, key: &Key) -> StoreResult<Option<ObjectInfo>> {
        let Some(path) = tree::path_of(key) else {
            return Ok(None);
        };
        if !key.is_folder_marker() {
            let Some(file) = self.tree.file(path)? else {
                return Ok(None);
            };
            return about::info(key, &file, &tree::stat(&file)?).map(Some);
        }
        let Some(folder) = self.tree.folder(path)? else {
            return Ok(None);
        };
        let is_marker = !About::read(&folder)?.implicit
            || tree::entries(&folder, &format!("{path}/"))?.is_empty();
        if !is_marker {
            return Ok(None);
        }
        about::folder_info(key, &folder, &tree::stat(&folder)?).map(Some)
    }

    fn put(&self, request: &PutRequest) -> StoreResult<ETag> {
        verify(&request.body, request.md5)?;
        if request.key.is_folder_marker() {
            return self.put_folder(request);
        }
        let mut temporary = self.tree.temporary()?;
        temporary.file.write_all(&request.body)?;
        self.commit(
            temporary,
            &request.key,
            &request.headers,
            &request.condition,
        )
    }

    fn put_folder(&self, request: &PutRequest) -> StoreResult<ETag> {
        let path = writable_path(&request.key)?;
        if !request.body.is_empty() {
            return Err(StoreError::Refused("a folder cannot hold bytes".into()));
        }
        let _commits = self.commits.lock();
        self.check_write(&request.key, &request.condition)?;
        let folder = self.make_folder(path)?;
        About::of_folder(&request.headers).write(&folder)?;
        sync(&folder)?;
        Ok(about::version(&request.key, &tree::stat(&folder)?).etag)
    }

    /// Makes a folder for the sake of what will be in it.
    fn make_folder(&self, path: &str) -> StoreResult<OwnedFd> {
        self.tree.make_folder(path, |made| {
            // Without the mark the folder merely stays when it becomes empty.
            let _ = About::implicit().write(made);
        })
    }

    /// Puts a complete file in its place if the condition holds. After success it survives a power
    /// cut under its name.
    fn commit(
        &self,
        temporary: Temporary,
        key: &Key,
        headers: &ObjectHeaders,
        condition: &WriteCondition,
    ) -> StoreResult<ETag> {
        let path = writable_path(key)?;
        about::set_headers(&temporary.file, key, headers)?;
        temporary.file.sync_all()?;
        let version = about::version(key, &tree::stat(&temporary.file)?);
        let (parent, name) = tree::split(path);
        let folder = {
            let _commits = self.commits.lock();
            self.check_write(key, condition)?;
            let folder = self.make_folder(parent)?;
            temporary.place(&folder, name)?;
            folder
        };
        sync(&folder)?;
        Ok(version.etag)
    }

    fn check_write(&self, key: &Key, condition: &WriteCondition) -> StoreResult<()> {
        let holds = match condition {
            WriteCondition::Always => true,
            WriteCondition::IfAbsent => self.find(key)?.is_none(),
            WriteCondition::IfMatch(tag) => self
                .find(key)?
                .is_some_and(|info| info.version.etag == *tag),
        };
        if holds {
            Ok(())
        } else {
            Err(StoreError::PreconditionFailed)
        }
    }

    fn copy(&self, request: &CopyRequest) -> StoreResult<ETag> {
        let source = &request.source;
        let path = tree::path_of(&source.key).ok_or(StoreError::SourceChanged)?;
        if source.key.is_folder_marker() || request.destination.is_folder_marker() {
            return self.copy_folder(request);
        }
        let file = self.tree.file(path)?.ok_or(StoreError::SourceChanged)?;
        let info = about::info(&source.key, &file, &tree::stat(&file)?)?;
        let temporary = self.tree.temporary()?;
        copy_bytes(&file, &temporary.file)?;
        // Other programs may write into the file meanwhile.
        let after = about::version(&source.key, &tree::stat(&file)?);
        if info.version != *source || after != *source {
            return Err(StoreError::SourceChanged);
        }
        let headers = request.headers.clone().unwrap_or_else(|| kept(info));
        self.commit(
            temporary,
            &request.destination,
            &headers,
            &request.condition,
        )
    }

    fn copy_folder(&self, request: &CopyRequest) -> StoreResult<ETag> {
        let info = self
            .find(&request.source.key)?
            .filter(|info| info.version == request.source && info.size == 0)
            .ok_or(StoreError::SourceChanged)?;
        self.put(&PutRequest {
            key: request.destination.clone(),
            body: Bytes::new(),
            md5: Md5::of(b""),
            condition: request.condition.clone(),
            headers: request.headers.clone().unwrap_or_else(|| kept(info)),
        })
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        let Some(path) = tree::path_of(key) else {
            return Ok(());
        };
        let _commits = self.commits.lock();
        let (parent, name) = tree::split(path);
        let Some(folder) = self.tree.folder(parent)? else {
            return Ok(());
        };
        if key.is_folder_marker() {
            return self.delete_folder(path);
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => {
                sync(&folder)?;
                self.remove_implicit(parent)
            }
            // A folder of that name is no object of that name.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Takes a marker away: the folder itself, or, while something is in it, the mark that it is
    /// more than that.
    fn delete_folder(&self, path: &str) -> StoreResult<()> {
        let Some(folder) = self.tree.folder(path)? else {
            return Ok(());
        };
        About::implicit().write(&folder)?;
        if !self.remove_if_empty(path)? {
            return sync(&folder);
        }
        self.remove_implicit(tree::split(path).0)
    }

    /// Removes a folder, and those it lies in, as far as they are empty and nobody asked for them.
    fn remove_implicit(&self, path: &str) -> StoreResult<()> {
        let mut path = path;
        while !path.is_empty() {
            let Some(folder) = self.tree.folder(path)? else {
                return Ok(());
            };
            if !About::read(&folder)?.implicit || !self.remove_if_empty(path)? {
                return Ok(());
            }
            path = tree::split(path).0;
        }
        Ok(())
    }

    fn remove_if_empty(&self, path: &str) -> StoreResult<bool> {
        let (parent, name) = tree::split(path);
        let Some(folder) = self.tree.folder(parent)? else {
            return Ok(false);
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
            Ok(()) => sync(&folder).map(|()| true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::BUSY) => {
                Ok(false)
            }
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

fn writable_path(key: &Key) -> StoreResult<&str> {
    tree::path_of(key).ok_or_else(|| {
        StoreError::Refused(format!("no file on this disk can have the name {key:?}"))
    })
}

fn check_read(condition: &ReadCondition, found: &ETag) -> StoreResult<()> {
    match condition {
        ReadCondition::IfMatch(tag) if tag != found => Err(StoreError::PreconditionFailed),
        ReadCondition::IfNoneMatch(tag) if tag == found => Err(StoreError::NotModified),
        _ => Ok(()),
    }
}

/// As R2 does: bytes that are not the promised ones were hurt on the way and may be sent again.
fn verify(body: &[u8], md5: Md5) -> StoreResult<()> {
    if Md5::of(body) == md5 {
        return Ok(());
    }
    Err(StoreError::Unavailable {
        message: "the bytes do not have the promised MD5".into(),
        retry_after: None,
    })
}

/// The headers that a copy takes over from its source.
fn kept(info: ObjectInfo) -> ObjectHeaders {
    ObjectHeaders {
        content_type: info.content_type.unwrap_or_default(),
        metadata: info.metadata,
    }
}

/// Copies a file's bytes, sharing them where the disk can. The standard library's copy goes by
/// `copy_file_range`.
fn copy_bytes(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    io::copy(&mut &*from, &mut &*to).map(|_| ())
}

fn sync(folder: &OwnedFd) -> StoreResult<()> {
    Ok(rustix::fs::fsync(folder).map_err(io::Error::from)?)
}
