//! Extended attributes: `user.*` of files and folders as programs set them, and `user.voicebeat.*`,
//! which tell where a file's bytes are, and who else has its project open.
//!
//! The latter are answered by name and not listed: what copies files with their attributes would
//! carry them to others.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use super::attr::{Ino, Kind};
use super::inode::{Content, Inode};
use super::{Fs, LOOKUP_DEADLINE};
use crate::error::{FsError, FsResult};
use crate::staging::{Change, Record};
use crate::store::attributes::FileAttributes;
use crate::store::xattrs::Xattrs;
use crate::store::{Key, ReadCondition, StoreError, StoreResult};

/// Those that programs may set.
const USER: &str = "user.";
/// Those that this file system answers itself.
const OWN: &str = "user.voicebeat.";
/// So many bytes of names and values a file may have: two values as long as Linux takes them.
const MAX_BYTES: usize = 128 << 10;
/// How long an address works that an attribute tells.
const LINK_VALID: Duration = Duration::from_secs(3600);

/// Signs addresses of objects.
#[async_trait::async_trait]
pub trait Signer: Send + Sync {
    /// Returns an address under which anybody may read the object for so long. Asks nobody.
    async fn link(&self, key: &Key, valid: Duration) -> StoreResult<String>;
}

impl Fs {
    /// Lets `user.voicebeat.url` be answered.
    pub fn attach_signer(&self, signer: Arc<dyn Signer>) {
        let _ = self.signer.set(signer);
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`; `Unsupported` for access lists; those of the store when only it knows.
    pub async fn getxattr(self: &Arc<Self>, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        if let Some(own) = name.to_str().and_then(|name| name.strip_prefix(OWN)) {
            return self.own_xattr(ino, own).await;
        }
        if let Some(local) = self.local(ino) {
            return local.getxattr(ino, name);
        }
        let Some(name) = name.to_str().filter(|name| name.starts_with(USER)) else {
            // Before a write the kernel asks for `security.capability`.
            return match name.as_encoded_bytes().starts_with(b"system.") {
                true => Err(FsError::Unsupported),
                false => Err(FsError::NoAttribute),
            };
        };
        let inode = self.inode(ino)?;
        let xattrs = self.xattrs(&inode).await?;
        let value = xattrs.get(name).map(<[u8]>::to_vec);
        value.ok_or(FsError::NoAttribute)
    }

    /// Returns the names of the extended attributes that programs have set.
    ///
    /// # Errors
    /// Those of the store when only it knows.
    pub async fn listxattr(self: &Arc<Self>, ino: Ino) -> FsResult<Vec<OsString>> {
        if let Some(local) = self.local(ino) {
            return local.listxattr(ino);
        }
        let inode = self.inode(ino)?;
        let xattrs = self.xattrs(&inode).await?;
        Ok(xattrs.names().map(OsString::from).collect())
    }

    /// Sets an extended attribute; `flags` are those of setxattr(2).
    ///
    /// # Errors
    /// `Exists` and `NoAttribute` as the flags ask; `NotPermitted` for our own; `AttributesFull`.
    pub async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> FsResult<()> {
        if let Some(local) = self.local(ino) {
            return local.setxattr(ino, name, value, flags);
        }
        let name = settable(ino, name)?;
        let inode = self.inode(ino)?;
        self.enter_project_of(ino)?;
        self.change_xattrs(&inode, |xattrs| {
            let exists = xattrs.get(name).is_some();
            if exists && flags & libc::XATTR_CREATE != 0 {
                return Err(FsError::Exists);
            }
            if !exists && flags & libc::XATTR_REPLACE != 0 {
                return Err(FsError::NoAttribute);
            }
            let more = xattrs.with(name, value);
            match more.bytes() > MAX_BYTES {
                true => Err(FsError::AttributesFull),
                false => Ok(more),
            }
        })
        .await
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute` if it has none of that name; `NotPermitted` for our own.
    pub async fn removexattr(self: &Arc<Self>, ino: Ino, name: &OsStr) -> FsResult<()> {
        if let Some(local) = self.local(ino) {
            return local.removexattr(ino, name);
        }
        let name = settable(ino, name)?;
        let inode = self.inode(ino)?;
        self.enter_project_of(ino)?;
        self.change_xattrs(&inode, |xattrs| match xattrs.get(name) {
            Some(_) => Ok(xattrs.without(name)),
            None => Err(FsError::NoAttribute),
        })
        .await
    }

    async fn change_xattrs(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        change: impl FnOnce(&Xattrs) -> FsResult<Xattrs>,
    ) -> FsResult<()> {
        self.xattrs(inode).await?;
        self.change_attributes(inode, |meta| {
            let xattrs = change(&meta.xattrs.clone().unwrap_or_default())?;
            Ok(FileAttributes {
                xattrs: Some(xattrs),
                ..FileAttributes::default()
            })
        })
    }

    /// Returns those of a file or folder. A listing does not tell them: the bucket is asked once for
    /// each version that nothing else is known of.
    async fn xattrs(self: &Arc<Self>, inode: &Arc<Inode>) -> FsResult<Xattrs> {
        let version = {
            let state = inode.state.lock();
            match (&state.meta.xattrs, state.remote()) {
                (Some(xattrs), _) => return Ok(xattrs.clone()),
                (None, Some(remote)) if !state.told => remote.version.clone(),
                (None, _) => return Ok(Xattrs::default()),
            }
        };
        if !self.is_reachable() {
            return Err(FsError::DeadlineExceeded);
        }
        let condition = ReadCondition::IfMatch(version.etag.clone());
        let asked = self.store.head(&version.key, condition);
        let asked = tokio::time::timeout(LOOKUP_DEADLINE, asked).await;
        let asked = asked.map_err(|_| FsError::DeadlineExceeded)?;
        self.note_result(&asked);
        let info = match asked {
            Ok(info) => info,
            // The next listing shows what is there now.
            Err(StoreError::NotFound | StoreError::PreconditionFailed) => {
                return Ok(Xattrs::default());
            }
            Err(error) => return Err(error.into()),
        };
        self.learn(&info);
        let mut state = inode.state.lock();
        if state.remote().is_some_and(|now| now.version == version) {
            state.told = true;
            if state.meta.xattrs.is_none() {
                // Also under a name that the bucket does not have yet.
                let xattrs = FileAttributes::from_metadata(&info.metadata).xattrs;
                state.learn(&FileAttributes {
                    xattrs,
                    ..FileAttributes::default()
                });
            }
        }
        Ok(state.meta.xattrs.clone().unwrap_or_default())
    }

    async fn own_xattr(&self, ino: Ino, name: &str) -> FsResult<Vec<u8>> {
        if name == "lease" {
            return self.lease_xattr(ino).await;
        }
        if self.local(ino).is_some() {
            return match name {
                "state" => Ok(b"local".to_vec()),
                _ => Err(FsError::NoAttribute),
            };
        }
        let inode = self.inode(ino)?;
        if inode.kind != Kind::File {
            return Err(FsError::NoAttribute);
        }
        let key = self.tree.lock().key(ino);
        let record = key.as_ref().and_then(|key| self.journal().record(key));
        let version = inode.state.lock().remote().map(|now| now.version.clone());
        match name {
            "state" => Ok(self
                .whereabouts(&inode, key.as_ref(), record.as_ref())
                .into()),
            "etag" => {
                let version = version.ok_or(FsError::NoAttribute)?;
                Ok(version.etag.as_str().trim_matches('"').into())
            }
            "upload" => Ok(self.uploaded_percent(record.as_ref()).to_string().into()),
            "url" => {
                let signer = self.signer.get().ok_or(FsError::NoAttribute)?;
                // What is not in the bucket as it is here has no address.
                let version = version.filter(|version| Some(&version.key) == key.as_ref());
                let version = version.filter(|_| record.is_none());
                let version = version.ok_or(FsError::NoAttribute)?;
                Ok(signer.link(&version.key, LINK_VALID).await?.into())
            }
            _ => Err(FsError::NoAttribute),
        }
    }

    fn whereabouts(
        &self,
        inode: &Inode,
        key: Option<&Key>,
        record: Option<&Record>,
    ) -> &'static str {
        if record.is_some_and(|record| self.journal().stays_here(record)) {
            return "local";
        }
        if record.is_some_and(|record| record.parked.is_some()) {
            return "failed";
        }
        let conflicts = self.journal().conflicts();
        if conflicts.iter().any(|conflict| Some(&conflict.copy) == key) {
            return "conflict";
        }
        let state = inode.state.lock();
        let Content::Remote(remote) = &state.content else {
            drop(state);
            let sent = key.is_some_and(|key| !self.journal().attempts(key).is_empty());
            return if sent { "uploading" } else { "staged" };
        };
        match self.cache.get(&remote.version) {
            Some(file) if file.is_complete() => "cached",
            Some(file) if file.held_bytes() > 0 => "partial",
            _ => "remote",
        }
    }

    /// Returns how much of a file the bucket has as it is here, in percent.
    fn uploaded_percent(&self, record: Option<&Record>) -> u64 {
        let Some(record) = record.filter(|record| matches!(record.change, Change::Put { .. }))
        else {
            return 100;
        };
        let uploads = self.journal().open_uploads();
        let own = uploads.iter().find(|open| open.seq == record.seq);
        let parts = own.into_iter().flat_map(|open| open.parts.values());
        let sent: u64 = parts.map(|part| part.size).sum();
        (sent * 100)
            .checked_div(record.change.length())
            .unwrap_or(0)
    }
}

/// Returns the name if a program may set it.
fn settable(ino: Ino, name: &OsStr) -> FsResult<&str> {
    let name = name.to_str().filter(|name| name.starts_with(USER));
    let name = name.ok_or(FsError::Unsupported)?;
    if name.starts_with(OWN) {
        return Err(FsError::NotPermitted("this attribute is told, not set"));
    }
    if ino == Ino::ROOT {
        return Err(FsError::NotPermitted("the root has no attributes to keep"));
    }
    Ok(name)
}
