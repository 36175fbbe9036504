//! Leases: the objects that tell who works in a project. Where they lie, and what is in them.
//!
//! They are advice. What others wrote is read with care: it is shown to people, and it may be damaged.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unicode_normalization::UnicodeNormalization;

use super::Key;
use crate::config::{MOST_LEASE_SECONDS, MOST_PERSON_CHARS};

/// All leases lie below this key.
pub(super) const PREFIX: &str = ".voicebeatfs/leases/";
/// Each folder in this collection is a project.
const COLLECTION: &str = "projects";
/// The version of the document.
const VERSION: u32 = 1;
/// What can be shown as a date of four digits: from 1970 on.
const SHOWN_SECONDS: Range<i64> = 0..253_402_300_800;
/// No lease is longer than this; a document is of a few hundred.
pub const MOST_BYTES: u64 = 4_096;

/// Who works in a project, and for how long that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// What the people there call themselves, if they said so.
    pub name: Option<String>,
    /// The machine.
    pub host: String,
    /// The staging directory that it is of: the same after a restart.
    pub id: String,
    /// Since when, to the second.
    pub since: SystemTime,
    /// When it was written.
    pub renewed_at: SystemTime,
    /// How long it counts after that; whole seconds.
    pub ttl: Duration,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    project: String,
    name: Option<String>,
    host: String,
    id: String,
    since: String,
    renewed_at: String,
    ttl_seconds: u64,
}

/// Returns the project that a path lies in, or is; a folder's path ends in `/`. In Unicode NFC, as
/// the bucket compares names.
pub fn project_of(path: &str) -> Option<String> {
    let (collection, below) = path.split_once('/')?;
    let (project, _) = below.split_once('/')?;
    let is_project = collection == COLLECTION && !project.is_empty();
    is_project.then(|| project.nfc().collect())
}

/// Returns the path of a project, without a slash at its end.
pub fn path_of(project: &str) -> String {
    format!("{COLLECTION}/{project}")
}

/// Returns where the lease of a project lies; `None` if its name has no room there.
pub fn key(project: &str) -> Option<Key> {
    Key::in_bucket(&format!("{PREFIX}{project}.json"))
}

impl Lease {
    /// Returns the lease as it is written.
    pub fn to_json(&self, project: &str) -> Vec<u8> {
        let document = Document {
            version: VERSION,
            project: project.to_owned(),
            name: self.name.clone(),
            host: self.host.clone(),
            id: self.id.clone(),
            since: time_text(self.since),
            renewed_at: time_text(self.renewed_at),
            ttl_seconds: self.ttl.as_secs(),
        };
        serde_json::to_vec_pretty(&document).expect("a document of texts and numbers is JSON")
    }

    /// Reads a lease; `None` if it is none. What a later version adds is passed over.
    pub fn parse(bytes: &[u8]) -> Option<Lease> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let time = |text: &str| {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok();
            time.filter(|time| SHOWN_SECONDS.contains(&time.unix_timestamp()))
        };
        let name = document.name.map(|name| shown(&name));
        Some(Lease {
            name: name.filter(|name| !name.is_empty()),
            host: shown(&document.host),
            id: document.id,
            since: time(&document.since)?.into(),
            renewed_at: time(&document.renewed_at)?.into(),
            ttl: Duration::from_secs(document.ttl_seconds.min(MOST_LEASE_SECONDS)),
        })
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("open")?;
        if let Some(name) = &self.name {
            write!(f, " by {name}")?;
        }
        write!(f, " on {} since {}", self.host, time_text(self.since))
    }
}

/// Returns a text without what a terminal would take for a command, and not too long.
fn shown(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    let cut: String = visible.take(MOST_PERSON_CHARS).collect();
    cut.trim().to_owned()
}

/// Returns a time in UTC, to the second (RFC 3339); of one that cannot be shown 1970.
pub fn time_text(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let seconds = i64::try_from(seconds).unwrap_or_default();
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        let since = UNIX_EPOCH + Duration::from_secs(1_796_072_400);
        Lease {
            name: Some("Anna".into()),
            host: "studio-2".into(),
            id: "0f".into(),
            since,
            renewed_at: since + Duration::from_secs(60),
            ttl: Duration::from_secs(180),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let lease = lease();
        assert_eq!(Lease::parse(&lease.to_json("song")), Some(lease.clone()));
        let text = "open by Anna on studio-2 since 2026-11-30T21:00:00Z";
        assert_eq!(lease.to_string(), text);
        let nameless = Lease {
            name: None,
            ..lease
        };
        assert_eq!(
            Lease::parse(&nameless.to_json("song")),
            Some(nameless.clone())
        );
        let text = "open on studio-2 since 2026-11-30T21:00:00Z";
        assert_eq!(nameless.to_string(), text);
    }

    #[test]
    fn what_others_wrote_is_no_command_for_a_terminal_and_ends() {
        let json = String::from_utf8(lease().to_json("song")).unwrap();
        let json = json
            .replace("Anna", &format!("\\u001b[2J\\n{}", "x".repeat(500)))
            .replace("180", "9999999")
            .replacen('{', "{\"more\":1,", 1);
        let read = Lease::parse(json.as_bytes()).unwrap();
        let name = read.name.unwrap();
        assert!(name.starts_with("[2Jxx"), "{name}");
        assert_eq!(name.len(), MOST_PERSON_CHARS);
        assert_eq!(read.ttl.as_secs(), MOST_LEASE_SECONDS);
        // In UTC that is the year 10000, which cannot be shown.
        let late = json.replace("2026-11-30T21:00:00Z", "9999-12-31T23:59:59-01:00");
        for damaged in ["", "{}", "[]", &json[..40], &late] {
            assert_eq!(Lease::parse(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[test]
    fn a_clock_that_is_thousands_of_years_off_is_shown() {
        let year_10000 = UNIX_EPOCH + Duration::from_secs(SHOWN_SECONDS.end as u64);
        let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
        for time in [year_10000, before_1970, UNIX_EPOCH] {
            assert_eq!(time_text(time), "1970-01-01T00:00:00Z");
        }
    }

    #[test]
    fn a_project_is_a_folder_of_its_collection() {
        for (path, project) in [
            ("projects/song/song.rpp", Some("song")),
            ("projects/song/a/b.wav", Some("song")),
            ("projects/song/", Some("song")),
            ("projects/cafe\u{301}/", Some("caf\u{e9}")),
            ("projects/song", None),
            ("projects/", None),
            ("layers/song/a.wav", None),
            ("", None),
        ] {
            assert_eq!(project_of(path).as_deref(), project, "{path}");
        }
        assert_eq!(key("a b").unwrap().as_str(), ".voicebeatfs/leases/a b.json");
        assert_eq!(key(&"x".repeat(1_024)), None);
    }
}
