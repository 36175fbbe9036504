//! What the journal says: plain types, without behaviour that touches a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::local_name::LocalName;
use super::moves::Move;
use crate::disk::FileId;
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, Key, Md5, ObjectVersion, PartNumber, Upload};

/// The order of the last change of a record. Grows with every change, also over restarts, and so
/// names one state of one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seq(pub u64);

/// What the bucket is to hold under one key, and does not hold yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The key, spelled as it was given. There is one record for all spellings of a key
    /// ([`Key::folded`]).
    pub key: Key,
    /// Which state of the record this is.
    pub seq: Seq,
    /// The version that the bucket is known to hold now; `None`: the key holds nothing.
    pub base: Option<ETag>,
    /// What is to become of it.
    pub change: Change,
    /// Why it cannot succeed; a parked record is kept and shown, and not tried.
    pub parked: Option<String>,
    /// When the record was last changed.
    pub changed_at: SystemTime,
    /// How often it was tried in vain since.
    pub attempts: u32,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

/// What a key is to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The bytes of a staged file.
    Put {
        /// Where the bytes are.
        file: FileId,
        /// How far they are settled.
        state: PutState,
        /// What goes with them; without an `mtime` the staged file's own counts.
        attributes: FileAttributes,
    },
    /// A folder's marker: an empty object whose key ends in `/`.
    Folder {
        /// What goes with it.
        attributes: FileAttributes,
    },
    /// The bytes of another object: the rename of an uploaded one; or, when the source is the key
    /// itself, new attributes.
    Copy {
        /// What is copied.
        source: ObjectVersion,
        /// Its length in bytes.
        size: u64,
        /// What goes with the copy.
        attributes: FileAttributes,
    },
    /// Nothing: a tombstone.
    Delete(Deleted),
}

/// Why a key is to hold nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Deleted {
    /// A program removed the file or folder: somebody may want it back.
    Here {
        /// The file's length in bytes, for those who look for it.
        size: u64,
        /// The name it was removed under, if its rename to that name was still on its way.
        name: Option<Key>,
        /// Whether it may be carried out.
        hold: Hold,
    },
    /// Nothing is lost by it: what the key holds has another name by then, or never had this one.
    Moved,
}

/// Whether a delete may be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// It goes by itself.
    #[default]
    Free,
    /// It is one of so many that somebody has to confirm it.
    Held,
    /// Somebody has.
    Confirmed,
}

impl Deleted {
    /// A program removed a file of that length.
    pub fn here(size: u64) -> Deleted {
        Deleted::Here {
            size,
            name: None,
            hold: Hold::Free,
        }
    }
}

/// How far the bytes of a staged file are settled.
#[derive(Clone, Debug, PartialEq)]
pub enum PutState {
    /// A writer may be left.
    Open,
    /// Closed by its last writer.
    Closed {
        /// Length in bytes.
        length: u64,
    },
    /// Closed and hashed: this and nothing else is sent.
    Sealed(Sealed),
}

/// A version of a staged file that is fit to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Length in bytes.
    pub length: u64,
    /// Length of every part but the last.
    pub part_size: u64,
    /// The parts' digests. A single part goes by one PUT, more by a multipart upload.
    pub parts: Vec<Md5>,
}

impl Record {
    /// Whether it is a delete that somebody has to confirm first.
    pub fn is_held(&self) -> bool {
        self.change.hold() == Some(Hold::Held)
    }

    /// Whether it does not go by itself as things are.
    pub fn waits_for_somebody(&self) -> bool {
        self.parked.is_some() || self.is_held()
    }
}

impl Sealed {
    /// Returns the length of a part, counted from 0.
    pub fn part_length(&self, at: usize) -> u64 {
        let offset = self.part_size.saturating_mul(at as u64);
        self.part_size.min(self.length.saturating_sub(offset))
    }

    /// Returns the tag that an object with these bytes gets, sent in these parts.
    pub fn etag(&self) -> ETag {
        if let [md5] = self.parts[..] {
            return ETag::of_md5(md5);
        }
        let digests: Vec<u8> = self.parts.iter().flat_map(|part| part.0).collect();
        let Md5(digest) = Md5::of(&digests);
        ETag::new(&format!("\"{}-{}\"", hex::encode(digest), self.parts.len()))
    }
}

impl PutState {
    /// Returns the length in bytes, if it is settled.
    pub fn length(&self) -> Option<u64> {
        match self {
            PutState::Open => None,
            PutState::Closed { length } => Some(*length),
            PutState::Sealed(sealed) => Some(sealed.length),
        }
    }
}

impl Change {
    /// Returns the staged file that this change needs.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Change::Put { file, .. } => Some(*file),
            Change::Folder { .. } | Change::Copy { .. } | Change::Delete(_) => None,
        }
    }

    /// Returns the digests of the bytes, if they are settled.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Change::Put {
                state: PutState::Sealed(sealed),
                ..
            } => Some(sealed),
            _ => None,
        }
    }

    /// Returns how many bytes this change brings into the bucket from here. An open file counts
    /// nothing: its length is not settled.
    pub fn length(&self) -> u64 {
        match self {
            Change::Put { state, .. } => state.length().unwrap_or(0),
            Change::Folder { .. } | Change::Copy { .. } | Change::Delete(_) => 0,
        }
    }

    /// Whether this is a tombstone.
    pub fn is_delete(&self) -> bool {
        matches!(self, Change::Delete(_))
    }

    /// Returns whether a delete may be carried out that may have been unwanted.
    pub fn hold(&self) -> Option<Hold> {
        match self {
            Change::Delete(Deleted::Here { hold, .. }) => Some(*hold),
            _ => None,
        }
    }

    /// Whether a writer may be left.
    pub fn is_open(&self) -> bool {
        matches!(
            self,
            Change::Put {
                state: PutState::Open,
                ..
            }
        )
    }
}

/// One step of a change to the journal. [`Journal::apply`](super::Journal::apply) takes several
/// and carries out all or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Says what the bucket is to hold under a key. Replaces the record of that key.
    Set {
        /// The key.
        key: Key,
        /// What the bucket is known to hold there now.
        base: Option<ETag>,
        /// What it is to hold.
        change: Change,
    },
    /// Nothing remains to be done for a key: it holds what it is to hold. If that is nothing, and a
    /// write of ours may still land there, a tombstone takes the place of the record, so that the
    /// late write is taken back.
    Remove {
        /// The key.
        key: Key,
    },
    /// A staged file is no longer needed. It is unlinked after this has been synced.
    Discard {
        /// The file.
        file: FileId,
    },
    /// A staged file loses its name and is kept for a while, in case somebody wants it back.
    Keep(Kept),
    /// A kept file is wanted back, or let go.
    Unkeep {
        /// The file.
        file: FileId,
    },
    /// A staged file is to be moved into the cache, after this has been synced.
    Adopt {
        /// The file.
        file: FileId,
        /// The version whose bytes it holds.
        version: ObjectVersion,
    },
    /// Takes back a `Discard` or an `Adopt` that was not carried out yet.
    Unrelease {
        /// The file.
        file: FileId,
    },
    /// Notes that ours is kept as `copy`, since `key` turned out to be somebody else's.
    NoteConflict {
        /// The name that both wanted.
        key: Key,
        /// Where ours is.
        copy: Key,
    },
    /// Forgets a conflict: its copy was renamed or removed, so somebody has dealt with it.
    ForgetConflict {
        /// The copy.
        copy: Key,
    },
    /// Keeps what a listing will not tell about a version. One version a key is kept; attributes
    /// of which none is known forget it.
    KeepAttributes {
        /// The version.
        version: ObjectVersion,
        /// Its attributes.
        attributes: FileAttributes,
    },
    /// Sets what a name stands for that the bucket cannot express.
    SetLocal(LocalName),
    /// Such a name is gone.
    RemoveLocal {
        /// The name.
        key: Key,
    },
    /// Keeps the attributes of all folders below one for those below another.
    MoveFolderAttributes {
        /// The marker's key of the one.
        from: Key,
        /// The marker's key of the other.
        to: Key,
    },
    /// Says where the objects below a prefix show; takes the place of the move of that source.
    SetMove(Move),
    /// Nothing below this prefix shows elsewhere any more.
    EndMove {
        /// The source of the move.
        source: Key,
    },
}

/// Two versions of one file, both kept: somebody else's under the name, ours as a copy beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The name that both wanted.
    pub key: Key,
    /// Where ours is.
    pub copy: Key,
    /// When it was found.
    pub found_at: SystemTime,
}

/// A staged file without a name whose bytes are nowhere else.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The file.
    pub file: FileId,
    /// The key that it had.
    pub key: Key,
    /// Its attributes.
    pub attributes: FileAttributes,
    /// Its length in bytes.
    pub length: u64,
    /// When it lost its name.
    pub at: SystemTime,
    /// Whether another file took its name.
    pub replaced: bool,
}

/// A staged file that was released, and may now leave the staging directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Released {
    /// The file.
    pub file: FileId,
    /// The version whose bytes it holds, if it is to be moved into the cache; else it goes.
    pub adopt_as: Option<ObjectVersion>,
}

/// A multipart upload that was begun and, as far as is known, neither completed nor taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenUpload {
    /// The server's name for it, and the key that the object is for.
    pub upload: Upload,
    /// The state of the record that it was begun for.
    pub seq: Seq,
    /// The write id that its object will carry.
    pub write_id: String,
    /// The parts that the server has confirmed.
    pub parts: BTreeMap<PartNumber, SentPart>,
}

/// A part that was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct SentPart {
    /// Length in bytes.
    pub size: u64,
    /// The digest of its bytes.
    pub md5: Md5,
    /// The tag that the server gave it.
    pub etag: ETag,
}

/// What became of a confirmed operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confirmed {
    /// The record is done and gone.
    Done,
    /// The record has changed meanwhile and remains.
    Superseded,
}

/// Which bucket the journal's records are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Kind of store: `r2` or `local`.
    pub backend: String,
    /// The server's address, or the local store's directory.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The prefix within it; may be empty.
    pub prefix: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            backend,
            endpoint,
            bucket,
            prefix,
        } = self;
        write!(f, "{backend} {endpoint} bucket \"{bucket}\"")?;
        if !prefix.is_empty() {
            write!(f, " prefix \"{prefix}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_sealed_file_is_the_one_r2_gives() {
        let single = Sealed {
            length: 5,
            part_size: 5,
            parts: vec![Md5::of(b"hello")],
        };
        assert_eq!(
            single.etag().as_str(),
            "\"5d41402abc4b2a76b9719d911017c592\""
        );
        let double = Sealed {
            length: 10,
            part_size: 5,
            parts: vec![Md5::of(b"hello"), Md5::of(b"hello")],
        };
        let mut both = Md5::of(b"hello").0.to_vec();
        both.extend(Md5::of(b"hello").0);
        let digest = hex::encode(Md5::of(&both).0);
        assert_eq!(double.etag().as_str(), format!("\"{digest}-2\""));
    }
}
