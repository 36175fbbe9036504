//! Why the journal could not do something.

use rusqlite::ErrorCode;

use crate::disk::FileId;

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A sync or a commit has failed before; what is on the disk is not known any more, so nothing
    /// more is promised. Only a restart helps.
    #[error("the journal has failed and takes no more changes: {0}")]
    Failed(String),
    /// The disk is full; nothing was changed.
    #[error("no space left for the journal")]
    Full,
    /// The staged file is being unlinked and cannot be taken back.
    #[error("the staged file {0} is gone already")]
    Gone(FileId),
    /// The database failed; nothing was changed.
    #[error("journal.db: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the database holds makes no sense.
    #[error("journal.db is damaged: {0}")]
    Damaged(String),
    /// The database was written by a newer version of this program.
    #[error(
        "journal.db has schema version {found}, this program knows up to {known}: \
         use the newer program"
    )]
    NewerSchema {
        /// Version found.
        found: i64,
        /// Newest version known.
        known: i64,
    },
}

impl JournalError {
    pub(super) fn io(error: std::io::Error) -> JournalError {
        JournalError::Database(Box::new(error))
    }
}

/// Result of a journal operation.
pub type JournalResult<T> = Result<T, JournalError>;

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> JournalError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => JournalError::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                JournalError::Damaged(error.to_string())
            }
            _ => JournalError::Database(Box::new(error)),
        }
    }
}
