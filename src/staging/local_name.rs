//! Names that the bucket cannot express: symbolic links, FIFOs, sockets and device nodes, and further
//! names of what has one already (hard links). The journal keeps them for good, not until an upload. Of a
//! file of several names the bucket has an object under each, a copy of the one under the first.

use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key};

/// A name that this disk alone knows.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalName {
    /// The name, as a key of the bucket would be.
    pub key: Key,
    /// What it stands for.
    pub stands_for: StandsFor,
    /// For a further name of a file: what has been done about its object.
    pub copy: LinkCopy,
}

/// The object under a further name of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkCopy {
    /// Whether it is to be made, or made anew.
    pub due: bool,
    /// What we have put there; `None`: nothing.
    pub holds: Option<ETag>,
}

impl Default for LinkCopy {
    fn default() -> LinkCopy {
        LinkCopy {
            due: true,
            holds: None,
        }
    }
}

/// What a local name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum StandsFor {
    /// A node of its own.
    Special(Special, FileAttributes),
    /// What this other name stands for.
    Link(Key),
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
