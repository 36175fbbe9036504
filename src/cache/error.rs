//! What can go wrong in the cache, and what a file operation makes of it.

use std::io;

use crate::error::FsError;
use crate::store::StoreError;

/// Why bytes could not be had. A variant exists where a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The bucket refuses, has another version by now, or kept failing until the deadline.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No byte arrived for as long as a request may take.
    #[error("the bucket did not answer in time")]
    Deadline,
    /// What arrived is not what the ETag promises, twice in a row.
    #[error("the object arrived damaged twice")]
    Damaged,
    /// The fetch was given up: its stream is gone, or the program ends.
    #[error("the fetch was given up")]
    Cancelled,
    /// The local disk failed.
    #[error("cache: {0}")]
    Io(#[from] io::Error),
}

impl CacheError {
    /// Returns the same error once more, for another one who waited for the same bytes.
    pub(super) fn share(&self) -> CacheError {
        match self {
            CacheError::Store(error) => CacheError::Store(share_store_error(error)),
            CacheError::Deadline => CacheError::Deadline,
            CacheError::Damaged => CacheError::Damaged,
            CacheError::Cancelled => CacheError::Cancelled,
            CacheError::Io(error) => CacheError::Io(share_io_error(error)),
        }
    }
}

fn share_io_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn share_store_error(error: &StoreError) -> StoreError {
    use StoreError::*;
    match error {
        NotFound => NotFound,
        NotModified => NotModified,
        PreconditionFailed => PreconditionFailed,
        SourceChanged => SourceChanged,
        UploadGone => UploadGone,
        InvalidRange => InvalidRange,
        UnknownCredentials(text) => UnknownCredentials(text.clone()),
        WrongSecret(text) => WrongSecret(text.clone()),
        Denied(text) => Denied(text.clone()),
        Locked(text) => Locked(text.clone()),
        ClockSkew(text) => ClockSkew(text.clone()),
        NoSuchBucket(text) => NoSuchBucket(text.clone()),
        TooLarge(text) => TooLarge(text.clone()),
        Refused(text) => Refused(text.clone()),
        Throttled { retry_after } => Throttled {
            retry_after: *retry_after,
        },
        Unavailable {
            message,
            retry_after,
        } => Unavailable {
            message: message.clone(),
            retry_after: *retry_after,
        },
        Damaged(text) => Damaged(text.clone()),
        Io(error) => Io(share_io_error(error)),
    }
}

impl From<CacheError> for FsError {
    /// A version that is no longer in the bucket is stale, not absent: the caller holds it open.
    fn from(error: CacheError) -> FsError {
        use StoreError::{InvalidRange, NotFound, PreconditionFailed};
        match error {
            CacheError::Store(PreconditionFailed | NotFound | InvalidRange) => FsError::Stale,
            CacheError::Store(error) => FsError::Store(error),
            CacheError::Deadline => FsError::DeadlineExceeded,
            CacheError::Damaged => {
                FsError::Store(StoreError::Damaged("MD5 or length differ".to_owned()))
            }
            CacheError::Cancelled => FsError::Io(io::ErrorKind::Interrupted.into()),
            CacheError::Io(error) => FsError::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_gone_is_stale() {
        for error in [StoreError::NotFound, StoreError::PreconditionFailed] {
            assert!(matches!(
                FsError::from(CacheError::Store(error)),
                FsError::Stale
            ));
        }
        assert!(matches!(
            FsError::from(CacheError::Deadline),
            FsError::DeadlineExceeded
        ));
    }

    #[test]
    fn a_shared_error_keeps_its_error_number() {
        let errors = [
            CacheError::Store(StoreError::Denied("token".to_owned())),
            CacheError::Io(io::Error::from_raw_os_error(libc::ENOSPC)),
            CacheError::Deadline,
            CacheError::Damaged,
        ];
        for error in errors {
            let shared = error.share();
            assert_eq!(error.to_string(), shared.to_string());
            assert_eq!(FsError::from(error).errno(), FsError::from(shared).errno());
        }
    }
}
