//! Extended attributes, as the disk keeps them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;

use super::LocalTree;
use super::beneath::{SameFile, disk_error};
use crate::error::{FsError, FsResult};
use crate::fs::attr::Ino;

/// Access control lists: the kernel would have to apply them, and on this mount it does not.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

/// The longest value, and the longest list of names, that the kernel lets a disk have.
const MAX_BYTES: usize = 64 * 1024;

impl LocalTree {
    /// Returns the value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        check(name)?;
        let target = self.target(ino, None)?;
        let file = SameFile::new(&target);
        let mut value = Vec::with_capacity(MAX_BYTES);
        let room = spare_capacity(&mut value);
        rustix::fs::getxattr(file.path(), name, room).map_err(disk_error)?;
        value.shrink_to_fit();
        Ok(value)
    }

    /// Returns the names of all extended attributes.
    pub fn listxattr(&self, ino: Ino) -> FsResult<Vec<OsString>> {
        let target = self.target(ino, None)?;
        let file = SameFile::new(&target);
        let mut list = Vec::with_capacity(MAX_BYTES);
        rustix::fs::listxattr(file.path(), spare_capacity(&mut list)).map_err(disk_error)?;
        let names = list.split(|byte| *byte == 0);
        let names = names.filter(|name| !name.is_empty() && !name.starts_with(ACL_PREFIX));
        Ok(names
            .map(|name| OsString::from_vec(name.to_vec()))
            .collect())
    }

    /// Sets an extended attribute; `flags` are those of setxattr(2).
    pub fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> FsResult<()> {
        check(name)?;
        let target = self.target(ino, None)?;
        let file = SameFile::new(&target);
        let flags = XattrFlags::from_bits_retain(flags as u32);
        rustix::fs::setxattr(file.path(), name, value, flags).map_err(disk_error)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> FsResult<()> {
        check(name)?;
        let target = self.target(ino, None)?;
        let file = SameFile::new(&target);
        rustix::fs::removexattr(file.path(), name).map_err(disk_error)
    }
}

/// Whether new entries of a folder get an access list from it.
pub(super) fn has_default_acl(folder: &impl AsFd) -> bool {
    let file = SameFile::new(folder);
    rustix::fs::getxattr_query(file.path(), "system.posix_acl_default").is_ok()
}

fn check(name: &OsStr) -> FsResult<()> {
    match name.as_bytes().starts_with(ACL_PREFIX) {
        true => Err(FsError::Unsupported),
        false => Ok(()),
    }
}
