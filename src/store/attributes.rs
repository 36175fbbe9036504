//! File attributes as object metadata: what an object written here carries beside its bytes.
//!
//! `mtime` is written as rclone does (seconds with nanoseconds as a decimal fraction), so that the
//! two agree; `mode`, `uid` and `gid` (decimal) and extended attributes as s3fs does. See `docs/formats.md`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::UserMetadata;
use super::xattrs::{XATTRS, Xattrs};

/// Attributes of a file or folder that a bucket listing does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAttributes {
    /// Last modification, if it was kept.
    pub mtime: Option<SystemTime>,
    /// Permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Extended attributes.
    pub xattrs: Option<Xattrs>,
}

/// Name of the metadata entry that holds the write id.
pub const WRITE_ID: &str = "voicebeatfs-write-id";
/// Name of the metadata entry that holds the part size of a multipart object, in bytes.
pub const PART_SIZE: &str = "voicebeatfs-part-size";

impl FileAttributes {
    /// Reads the attributes from user metadata; what is missing or unreadable is `None`.
    pub fn from_metadata(metadata: &UserMetadata) -> FileAttributes {
        let number = |name: &str| {
            metadata
                .get(name)
                .and_then(|value| value.parse::<u32>().ok())
        };
        FileAttributes {
            mtime: metadata.get("mtime").and_then(|value| parse_time(value)),
            mode: number("mode").map(|mode| mode & 0o7777),
            uid: number("uid"),
            gid: number("gid"),
            xattrs: metadata.get(XATTRS).and_then(|text| Xattrs::parse(text)),
        }
    }

    /// Adds the attributes to user metadata.
    pub fn add_to(&self, metadata: &mut UserMetadata) {
        if let Some(mtime) = self.mtime {
            metadata.insert("mtime".into(), format_time(mtime));
        }
        for (name, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
            if let Some(value) = value {
                metadata.insert(name.into(), value.to_string());
            }
        }
        if let Some(xattrs) = &self.xattrs {
            metadata.insert(XATTRS.into(), xattrs.carried().format());
        }
    }
}

/// Writes a time as decimal seconds since the epoch with nanoseconds: `1700000000.000000001`.
pub fn format_time(time: SystemTime) -> String {
    let nanos = nanos_since_epoch(time);
    let (seconds, fraction) = (
        nanos.div_euclid(1_000_000_000),
        nanos.rem_euclid(1_000_000_000),
    );
    if seconds < 0 && fraction > 0 {
        // "-0.5" is half a second before the epoch.
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - fraction);
    }
    format!("{seconds}.{fraction:09}")
}

/// Reads a time in decimal seconds since the epoch, with any number of decimals.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok().filter(|seconds| *seconds < 1 << 40)?;
    let fraction: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let since = Duration::new(seconds, fraction.parse().ok()?);
    if negative {
        UNIX_EPOCH.checked_sub(since)
    } else {
        UNIX_EPOCH.checked_add(since)
    }
}

/// Returns nanoseconds since the epoch, negative before it.
pub fn nanos_since_epoch(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// Returns the time so many nanoseconds after (or before) the epoch.
pub fn time_from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

/// Returns the content type for a file name by its extension; audio first.
pub fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "wav" | "wave" | "bwf" | "rf64" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" | "oga" => "audio/ogg",
        "opus" => "audio/opus",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "aif" | "aiff" | "aifc" => "audio/aiff",
        "mid" | "midi" => "audio/midi",
        "mp4" | "m4v" => "video/mp4",
        "m3u8" => "application/vnd.apple.mpegurl",
        "json" => "application/json",
        "xml" => "application/xml",
        "txt" => "text/plain",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_as_rclone_writes_them() {
        for nanos in [
            0,
            1,
            1_700_000_000_123_456_789,
            -1,
            -500_000_000,
            -1_500_000_000,
        ] {
            let time = time_from_nanos(nanos);
            assert_eq!(
                parse_time(&format_time(time)),
                Some(time),
                "{}",
                format_time(time)
            );
        }
        assert_eq!(format_time(time_from_nanos(1_500_000_000)), "1.500000000");
        assert_eq!(parse_time("1.5"), Some(time_from_nanos(1_500_000_000)));
        assert_eq!(parse_time("17"), Some(time_from_nanos(17_000_000_000)));
        for damaged in ["", ".", "x", "1.x", "1.2.3", "99999999999999999999", "+1"] {
            let parsed = parse_time(damaged);
            assert!(parsed.is_none() || damaged == "+1", "{damaged}: {parsed:?}");
        }
    }

    #[test]
    fn attributes_survive_metadata() {
        let attributes = FileAttributes {
            mtime: Some(time_from_nanos(1_700_000_000_000_000_001)),
            mode: Some(0o640),
            uid: Some(1000),
            gid: Some(0),
            xattrs: Some(Xattrs::default().with("user.mood", b"sad")),
        };
        let mut metadata = UserMetadata::new();
        attributes.add_to(&mut metadata);
        assert_eq!(metadata["mode"], "416");
        assert_eq!(FileAttributes::from_metadata(&metadata), attributes);
        assert_eq!(
            FileAttributes::from_metadata(&UserMetadata::new()),
            FileAttributes::default()
        );
    }
}
