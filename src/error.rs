//! What a file operation can answer, and the only table that turns it into an error number.

use std::io;

use crate::store::StoreError;

/// Why a file operation failed, as its caller sees it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FsError {
    #[error("no such file or folder")]
    NotFound,
    #[error("not a folder")]
    NotADirectory,
    #[error("is a folder")]
    IsADirectory,
    #[error("the folder is not empty")]
    NotEmpty,
    #[error("exists already")]
    Exists,
    #[error("the bucket cannot hold this name: {0}")]
    InvalidName(&'static str),
    #[error("the name or the path is too long for the bucket")]
    NameTooLong,
    #[error("access denied")]
    Denied,
    #[error("the file system is read-only: {0}")]
    ReadOnly(&'static str),
    #[error("the object has changed under an open file")]
    Stale,
    #[error("no space left for recording")]
    StagingFull,
    #[error("too large")]
    TooLarge,
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("the name is not UTF-8")]
    BadEncoding,
    #[error("across file systems")]
    CrossDevice,
    #[error("no such attribute")]
    NoAttribute,
    #[error("no room for more extended attributes")]
    AttributesFull,
    #[error("the bucket did not answer in time")]
    DeadlineExceeded,
    #[error("not supported")]
    Unsupported,
    #[error("bad file handle")]
    BadHandle,
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
    #[error("bucket: {0}")]
    Store(#[from] StoreError),
    #[error("disk: {0}")]
    Io(#[from] io::Error),
    #[error("journal: {0}")]
    Journal(String),
}

/// Result of a file operation.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// Returns the error number that programs get.
    pub fn errno(&self) -> i32 {
        use FsError::*;
        match self {
            NotFound => libc::ENOENT,
            NotADirectory => libc::ENOTDIR,
            IsADirectory => libc::EISDIR,
            NotEmpty => libc::ENOTEMPTY,
            Exists => libc::EEXIST,
            InvalidName(_) | InvalidArgument(_) => libc::EINVAL,
            NameTooLong => libc::ENAMETOOLONG,
            Denied => libc::EACCES,
            ReadOnly(_) => libc::EROFS,
            Stale => libc::ESTALE,
            StagingFull | AttributesFull => libc::ENOSPC,
            TooLarge => libc::EFBIG,
            NotPermitted(_) => libc::EPERM,
            BadEncoding => libc::EILSEQ,
            CrossDevice => libc::EXDEV,
            NoAttribute => libc::ENODATA,
            DeadlineExceeded => libc::ETIMEDOUT,
            Unsupported => libc::EOPNOTSUPP,
            BadHandle => libc::EBADF,
            Store(error) => store_errno(error),
            Io(error) => io_errno(error),
            Journal(_) => libc::EIO,
        }
    }

    /// Whether the bucket did not answer, or not in time.
    pub fn is_outage(&self) -> bool {
        match self {
            FsError::DeadlineExceeded => true,
            FsError::Store(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether the caller's own request was at fault, so that the log need not speak of it.
    pub fn is_ordinary(&self) -> bool {
        match self {
            FsError::Io(error) => is_about_the_request(error),
            FsError::Store(_) | FsError::Journal(_) => false,
            FsError::DeadlineExceeded | FsError::StagingFull => false,
            _ => true,
        }
    }
}

fn store_errno(error: &StoreError) -> i32 {
    use StoreError::*;
    match error {
        NotFound => libc::ENOENT,
        PreconditionFailed | SourceChanged => libc::ESTALE,
        UnknownCredentials(_) | WrongSecret(_) | Denied(_) => libc::EACCES,
        Locked(_) => libc::EPERM,
        TooLarge(_) => libc::EFBIG,
        Io(error) => io_errno(error),
        NotModified
        | UploadGone
        | InvalidRange
        | ClockSkew(_)
        | NoSuchBucket(_)
        | Refused(_)
        | Throttled { .. }
        | Unavailable { .. }
        | Damaged(_) => libc::EIO,
    }
}

/// The local disk's own word where it says something a program can act upon; EAGAIN and EINTR
/// would make programs repeat what we have given up.
fn io_errno(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(libc::EDQUOT) => libc::ENOSPC,
        Some(libc::EAGAIN | libc::EINTR | libc::ENOSYS) | None => libc::EIO,
        Some(errno) => errno,
    }
}

/// Whether a sound disk answers this: no data or hole behind that place, beyond the largest file,
/// nothing that this disk does.
fn is_about_the_request(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(errno, Some(libc::ENXIO | libc::EFBIG | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_speaks_of_a_disk_that_fails_and_not_of_its_ordinary_answers() {
        for (errno, is_ordinary) in [
            (libc::ENXIO, true),
            (libc::EFBIG, true),
            (libc::EOPNOTSUPP, true),
            (libc::EIO, false),
            (libc::ENOSPC, false),
            (libc::EROFS, false),
        ] {
            let error = FsError::Io(io::Error::from_raw_os_error(errno));
            assert_eq!(error.is_ordinary(), is_ordinary, "{error}");
        }
    }

    #[test]
    fn each_variant_has_its_errno() {
        use FsError::*;
        let table = [
            (NotFound, libc::ENOENT),
            (NotADirectory, libc::ENOTDIR),
            (IsADirectory, libc::EISDIR),
            (NotEmpty, libc::ENOTEMPTY),
            (Exists, libc::EEXIST),
            (InvalidName(""), libc::EINVAL),
            (InvalidArgument(""), libc::EINVAL),
            (NameTooLong, libc::ENAMETOOLONG),
            (Denied, libc::EACCES),
            (ReadOnly(""), libc::EROFS),
            (Stale, libc::ESTALE),
            (StagingFull, libc::ENOSPC),
            (TooLarge, libc::EFBIG),
            (NotPermitted(""), libc::EPERM),
            (BadEncoding, libc::EILSEQ),
            (CrossDevice, libc::EXDEV),
            (NoAttribute, libc::ENODATA),
            (AttributesFull, libc::ENOSPC),
            (DeadlineExceeded, libc::ETIMEDOUT),
            (Unsupported, libc::EOPNOTSUPP),
            (BadHandle, libc::EBADF),
            (Journal(String::new()), libc::EIO),
            (Store(StoreError::NotFound), libc::ENOENT),
            (Store(StoreError::PreconditionFailed), libc::ESTALE),
            (Store(StoreError::Denied(String::new())), libc::EACCES),
            (Store(StoreError::Locked(String::new())), libc::EPERM),
            (
                Store(StoreError::Throttled { retry_after: None }),
                libc::EIO,
            ),
            (Io(io::Error::from_raw_os_error(libc::ENOSPC)), libc::ENOSPC),
            (Io(io::Error::from_raw_os_error(libc::EDQUOT)), libc::ENOSPC),
            (Io(io::Error::from_raw_os_error(libc::EAGAIN)), libc::EIO),
            (Io(io::Error::other("x")), libc::EIO),
        ];
        for (error, errno) in table {
            assert_eq!(error.errno(), errno, "{error:?}");
        }
    }
}
