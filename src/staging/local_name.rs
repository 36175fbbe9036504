//! Names that the bucket cannot express: symbolic links, FIFOs, sockets and device nodes, and further
//! names of what has one already (hard links). The journal keeps them for good, not until an upload.

use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key};

/// A name that this disk alone knows.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalName {
    /// The name, as a key of the bucket would be.
    pub key: Key,
    /// What it stands for.
    pub stands_for: StandsFor,
}

/// What a local name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum StandsFor {
    /// A node of its own.
    Special(Special, FileAttributes),
    /// What this other name, the first one, stands for.
    Link {
        /// The first name.
        to: Key,
        /// What was put under the further name in the bucket, for others.
        copy: Option<LinkCopy>,
    },
}

/// The object under a further name of a file: a copy of the one under its first.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkCopy {
    /// Its tag.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
}

/// What is neither a file nor a folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Special {
    /// A symbolic link, with the bytes that it leads to.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, with its number.
    CharDevice(u32),
    /// A block device, with its number.
    BlockDevice(u32),
}
