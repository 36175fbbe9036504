//! Names: what may be a file name here, and the keys that names make.

use std::ffi::OsStr;

use crate::error::{FsError, FsResult};
use crate::store::Key;

pub(super) use crate::store::fold;

/// The longest file name Linux programs can use, in bytes (`NAME_MAX`).
pub(super) const MAX_NAME_BYTES: usize = 255;

/// Returns the name as text, or says why the bucket cannot hold it.
pub(super) fn check(name: &OsStr) -> FsResult<&str> {
    if name.len() > MAX_NAME_BYTES {
        return Err(FsError::NameTooLong);
    }
    let name = name.to_str().ok_or(FsError::BadEncoding)?;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(FsError::InvalidName("empty, '.', '..' or with '/' or NUL"));
    }
    Ok(name)
}

/// Returns the key of a file in a folder; `folder` is a key prefix that is empty or ends in `/`.
pub(super) fn key_in(folder: &str, name: &str) -> FsResult<Key> {
    Key::new(&format!("{folder}{name}")).ok_or(FsError::NameTooLong)
}

/// Returns the key of a folder's marker object.
pub(super) fn marker_in(folder: &str, name: &str) -> FsResult<Key> {
    Key::new(&format!("{folder}{name}/")).ok_or(FsError::NameTooLong)
}

/// Whether an object's name from the bucket can stand in a folder as it is.
pub(super) fn is_showable(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !matches!(name, "" | "." | "..") && !name.contains('\0')
}

/// Whether a name at the root belongs to a desktop and stays on this disk: what file managers and
/// systems make on every volume they see.
pub(super) fn is_volume_side_file(name: &str) -> bool {
    const EXACT: &[&str] = &[
        ".DS_Store",
        ".Trash",
        ".Trashes",
        ".Spotlight-V100",
        ".fseventsd",
        ".TemporaryItems",
        ".VolumeIcon.icns",
        ".xdg-volume-info",
        ".autorun",
        ".hidden",
        "Thumbs.db",
        "desktop.ini",
        "autorun.inf",
        "System Volume Information",
        "$RECYCLE.BIN",
    ];
    name.starts_with("._")
        || name
            .strip_prefix(".Trash-")
            .is_some_and(|uid| uid.parse::<u32>().is_ok())
        || EXACT.iter().any(|exact| name.eq_ignore_ascii_case(exact))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_that_the_bucket_cannot_hold_are_told_apart() {
        let long = "ü".repeat(128);
        assert_eq!(
            check(OsStr::new(&long)).unwrap_err().errno(),
            libc::ENAMETOOLONG
        );
        assert_eq!(
            check(OsStr::from_bytes(b"\xff")).unwrap_err().errno(),
            libc::EILSEQ
        );
        assert_eq!(check(OsStr::new("..")).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(
            check(OsStr::new(" a#%?&+'\"\\\t:\n")).unwrap(),
            " a#%?&+'\"\\\t:\n"
        );
        let deep = "a/".repeat(511);
        assert!(key_in(&deep, "ab").unwrap().fits());
        assert!(!key_in(&deep, "abc").unwrap().fits());
        let deep = "a/".repeat(2047);
        assert!(key_in(&deep, "ab").is_ok());
        assert_eq!(
            key_in(&deep, "abc").unwrap_err().errno(),
            libc::ENAMETOOLONG
        );
    }

    #[test]
    fn both_spellings_fold_to_one() {
        assert_eq!(fold("e\u{301}"), "é");
        assert!(matches!(fold("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn desktops_own_files_are_known() {
        for name in [
            ".Trash-1000",
            "._take.wav",
            ".DS_Store",
            "thumbs.db",
            ".xdg-volume-info",
        ] {
            assert!(is_volume_side_file(name), "{name}");
        }
        for name in ["take.wav", ".Trash-x", ".hidden-take.wav", "segments"] {
            assert!(!is_volume_side_file(name), "{name}");
        }
    }
}
