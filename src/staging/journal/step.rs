//! The smallest changes of the journal. Each is written to the database and to the mirror by one
//! function each, and everything that the journal does is a list of them.

use super::mirror::{Attempt, Mirror};
use crate::disk::FileId;
use crate::staging::local_name::LocalName;
use crate::staging::moves::Move;
use crate::staging::record::{Conflict, Kept, OpenUpload, Record, SentPart};
use crate::store::attributes::FileAttributes;
use crate::store::{Key, ObjectVersion, PartNumber};

/// One change. Keys that stand alone are folded.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Sets the record of its key.
    Set(Record),
    /// Removes the record of a key.
    Remove(Key),
    /// Notes a write that is about to be sent.
    BeginAttempt(Key, Attempt),
    /// Forgets a write whose end is known.
    EndAttempt(Key, String),
    /// Notes an upload that was begun.
    BeginUpload(OpenUpload),
    /// Notes a part of an upload.
    NotePart(String, PartNumber, SentPart),
    /// Forgets an upload that has ended, and its parts.
    EndUpload(String),
    /// Keeps a staged file that has lost its name.
    Keep(Kept),
    /// Keeps it no longer.
    Unkeep(FileId),
    /// Lets a staged file go.
    Release(FileId, Option<ObjectVersion>),
    /// Forgets the release of a file: it was carried out, or is taken back.
    Unrelease(FileId),
    /// Notes a conflict.
    NoteConflict(Conflict),
    /// Forgets the conflict with that copy.
    ForgetConflict(Key),
    /// Keeps attributes of a version. They are in the database only.
    KeepAttributes(ObjectVersion, FileAttributes),
    /// Keeps the attributes of the folders below the one for those below the other.
    MoveFolderAttributes(Key, Key),
    /// Sets the move of its source.
    SetMove(Move),
    /// Ends the move of that source.
    EndMove(Key),
    /// Forgets all kept attributes.
    ForgetAttributes,
    /// Sets what a local name stands for.
    SetLocal(LocalName),
    /// Forgets a local name.
    RemoveLocal(Key),
    /// Sets a value that belongs to the journal as a whole; in the database only.
    Meta(&'static str, String),
}

impl Mirror {
    /// Whether somebody may have to act on a step, which the mirror does not show yet. A new file
    /// that is still written is nobody's business until it is closed, and so are attributes.
    pub(super) fn is_news(&self, step: &Step) -> bool {
        match step {
            Step::Set(record) => {
                !record.change.is_open() || self.record(&record.key.folded()).is_some()
            }
            Step::KeepAttributes(..)
            | Step::MoveFolderAttributes(..)
            | Step::ForgetAttributes
            | Step::SetLocal(_)
            | Step::RemoveLocal(_)
            | Step::BeginUpload(_)
            | Step::NotePart(..)
            | Step::EndUpload(_)
            | Step::Meta(..) => false,
            Step::Remove(_)
            | Step::BeginAttempt(..)
            | Step::EndAttempt(..)
            | Step::Keep(_)
            | Step::Unkeep(_)
            | Step::Release(..)
            | Step::Unrelease(_)
            | Step::NoteConflict(_)
            | Step::ForgetConflict(_)
            | Step::SetMove(_)
            | Step::EndMove(_) => true,
        }
    }

    /// Does in memory what was committed as the commit of that number.
    pub(super) fn apply(&mut self, step: Step, commit: u64) {
        match step {
            Step::Set(record) => self.set(record),
            Step::Remove(key) => self.remove(&key),
            Step::BeginAttempt(key, attempt) => self.begin_attempt(key, attempt),
            Step::EndAttempt(key, write_id) => self.end_attempt(&key, &write_id),
            Step::BeginUpload(open) => self.begin_upload(open),
            Step::NotePart(id, number, part) => self.note_part(&id, number, part),
            Step::EndUpload(id) => self.end_upload(&id),
            Step::Keep(kept) => self.keep(kept),
            Step::Unkeep(file) => self.unkeep(file),
            Step::Release(file, adopt_as) => self.release(file, adopt_as, commit),
            Step::Unrelease(file) => self.unrelease(file),
            Step::NoteConflict(conflict) => self.note_conflict(conflict),
            Step::ForgetConflict(copy) => self.forget_conflict(&copy),
            Step::SetLocal(name) => self.set_local(name),
            Step::RemoveLocal(key) => self.remove_local(&key),
            Step::SetMove(new) => self.set_move(new),
            Step::EndMove(source) => self.end_move(&source),
            Step::KeepAttributes(..)
            | Step::MoveFolderAttributes(..)
            | Step::ForgetAttributes
            | Step::Meta(..) => {}
        }
    }
}
