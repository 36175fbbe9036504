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
        /// What was put under the further name in the bucket, for others, and no record speaks of.
        copy: Option<ETag>,
    },
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
