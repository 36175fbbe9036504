//! From settings to the running parts. The only place that knows all of them.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use fuser::{FileAttr, FileHandle, FileType, Filesystem, INodeNo, Request};
use tokio::runtime::Handle;

use super::{MountError, Parts, Service};
use crate::config::{Config, MountOptions};
use crate::control::{Report, StatusSource};

/// Makes the parts of a mount.
pub(super) fn assemble(
    _config: &Config,
    _options: &MountOptions,
    _runtime: &Handle,
) -> Result<Parts<impl Filesystem + use<>>, MountError> {
    Ok(Parts {
        filesystem: EmptyTree,
        service: std::sync::Arc::new(NoService),
        warnings: Vec::new(),
    })
}

/// A tree with nothing in it, until the file system takes its place.
struct EmptyTree;

const TTL: Duration = Duration::from_secs(1);

impl Filesystem for EmptyTree {
    fn lookup(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &std::ffi::OsStr,
        reply: fuser::ReplyEntry,
    ) {
        reply.error(fuser::Errno::ENOENT);
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let attributes = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&TTL, &attributes);
    }
}

#[derive(Debug)]
struct NoService;

#[async_trait]
impl StatusSource for NoService {
    fn report(&self) -> Report {
        Report {
            online: true,
            safe_to_shut_down: true,
            ..Report::default()
        }
    }

    async fn sync(&self) {}
}

#[async_trait]
impl Service for NoService {
    fn mounted(&self, _notifier: fuser::Notifier) {}

    async fn stop(&self) {}
}
