//! What a file on disk tells about the object that it is.
//!
//! mtime and permission bits are the file's own; all else is JSON in one extended attribute.

use std::fs::{File, FileTimes, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use rustix::fs::Statx;
use serde::{Deserialize, Serialize};

use super::super::attributes::{self, FileAttributes};
use super::super::{ETag, Key, ObjectHeaders, ObjectInfo, ObjectVersion, Origin, UserMetadata};
use super::super::{StoreError, StoreResult};
use super::tree;

/// How the tag of each object of a local store begins.
const TAG_START: &str = "\"local-";

/// Content of the extended attribute.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct About {
    /// Content type, if it is not the one that the name tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Metadata that the file itself does not tell.
    #[serde(default, skip_serializing_if = "UserMetadata::is_empty")]
    metadata: UserMetadata,
    /// The folder was made for the sake of what is in it, so it is no folder marker and goes with
    /// its last entry, as in a bucket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) implicit: bool,
}

impl About {
    /// Reads the attribute of a file or folder; one that is damaged counts as none.
    pub(super) fn read(file: impl AsFd) -> StoreResult<About> {
        let value = tree::xattr(file)?.unwrap_or_default();
        Ok(serde_json::from_slice(&value).unwrap_or_default())
    }

    /// Writes the attribute, if there is anything to say or to replace.
    pub(super) fn write(&self, file: impl AsFd) -> StoreResult<()> {
        static WARNING: Once = Once::new();
        let value = serde_json::to_vec(self).map_err(|error| {
            StoreError::Refused(format!("metadata that cannot be written: {error}"))
        })?;
        if !tree::set_xattr(file, &value)? {
            WARNING.call_once(|| {
                log::warn!("this disk has no extended attributes: user metadata is not kept");
            });
        }
        Ok(())
    }

    /// Says that a folder was made for the sake of what is in it.
    pub(super) fn implicit() -> About {
        About {
            implicit: true,
            ..About::default()
        }
    }

    /// Returns what a folder marker's headers leave to keep: all of them, since a folder's own
    /// times change with each entry.
    pub(super) fn of_folder(headers: &ObjectHeaders) -> About {
        About {
            content_type: Some(headers.content_type.clone()),
            metadata: headers.metadata.clone(),
            implicit: false,
        }
    }
}

/// Gives a new file its headers. Its content must be complete: a write would move its mtime.
pub(super) fn set_headers(file: &File, key: &Key, headers: &ObjectHeaders) -> StoreResult<()> {
    let mut about = About {
        content_type: Some(headers.content_type.clone())
            .filter(|told| told != attributes::content_type(key.as_str())),
        metadata: headers.metadata.clone(),
        implicit: false,
    };
    let attributes = FileAttributes::from_metadata(&headers.metadata);
    if attributes.mtime.is_some() {
        about.metadata.remove("mtime");
    }
    if attributes.mode.is_some_and(|mode| on_disk(mode) == mode) {
        about.metadata.remove("mode");
    }
    about.write(file)?;
    if let Some(mtime) = attributes.mtime {
        file.set_times(FileTimes::new().set_modified(mtime))?;
    }
    if let Some(mode) = attributes.mode {
        file.set_permissions(Permissions::from_mode(on_disk(mode)))?;
    }
    Ok(())
}

/// The permission bits that a file gets: never unreadable to us, never set-id. A mode that
/// differs is kept in the attribute.
fn on_disk(mode: u32) -> u32 {
    mode & 0o777 | 0o400
}

/// Describes an open file.
pub(super) fn info(key: &Key, file: &File, stat: &Statx) -> StoreResult<ObjectInfo> {
    let About {
        content_type,
        mut metadata,
        ..
    } = About::read(file)?;
    let mtime = time(stat.stx_mtime);
    let mode = u32::from(stat.stx_mode) & 0o7777;
    // A kept mode counts as long as nobody has changed the file's own.
    let kept = FileAttributes::from_metadata(&metadata)
        .mode
        .filter(|kept| on_disk(*kept) == mode);
    let attributes = FileAttributes {
        mtime: Some(mtime),
        mode: kept.or(Some(mode)),
        ..FileAttributes::default()
    };
    attributes.add_to(&mut metadata);
    Ok(ObjectInfo {
        version: version(key, stat),
        size: stat.stx_size,
        last_modified: mtime,
        content_type: content_type.or_else(|| Some(attributes::content_type(key.as_str()).into())),
        metadata,
        origin: Origin::Primary,
    })
}

/// Describes a folder marker.
pub(super) fn folder_info(key: &Key, folder: impl AsFd, stat: &Statx) -> StoreResult<ObjectInfo> {
    let about = About::read(folder)?;
    Ok(ObjectInfo {
        version: version(key, stat),
        size: 0,
        last_modified: time(stat.stx_mtime),
        content_type: about.content_type,
        metadata: about.metadata,
        origin: Origin::Primary,
    })
}

/// Returns key and tag. The tag of a file changes when its content does: a write through this
/// store is a new file (inode and birth time), one by other programs moves mtime. It is no MD5.
pub(super) fn version(key: &Key, stat: &Statx) -> ObjectVersion {
    let nanos = |time| attributes::nanos_since_epoch(time);
    let born = nanos(time(stat.stx_btime));
    let tag = if key.is_folder_marker() {
        format!("{TAG_START}{:x}-{born:x}\"", stat.stx_ino)
    } else {
        let modified = nanos(time(stat.stx_mtime));
        let size = stat.stx_size;
        format!(
            "{TAG_START}{:x}-{born:x}-{modified:x}-{size:x}\"",
            stat.stx_ino
        )
    };
    ObjectVersion {
        key: key.clone(),
        etag: ETag::new(&tag),
    }
}

/// Whether a tag is one of a local store's.
pub(super) fn is_local(etag: &ETag) -> bool {
    etag.as_str().starts_with(TAG_START)
}

pub(super) fn time(time: rustix::fs::StatxTimestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.tv_nsec.into());
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    if time.tv_sec < 0 {
        SystemTime::UNIX_EPOCH - seconds + nanos
    } else {
        SystemTime::UNIX_EPOCH + seconds + nanos
    }
}
