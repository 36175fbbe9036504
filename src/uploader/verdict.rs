//! What follows from what a key turned out to hold: pure.
//!
//! R2 does not say who was first. A write of ours whose answer was lost, and which is sent again,
//! meets itself as a failed condition; the write id in the metadata tells the two apart.

use std::time::Duration;

use super::UploadOptions;
use crate::staging::journal::Attempt;
use crate::staging::{Change, PutState, Record};
use crate::store::attributes::WRITE_ID;
use crate::store::{ETag, ObjectInfo, StoreError, WriteCondition};

/// R2: an object has at most so many parts.
const MAX_PARTS: u64 = 10_000;
/// Part sizes grow in steps of this.
const PART_STEP: u64 = 1 << 20;

/// What a key's content means for the record that is to replace it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// What the record asks for is there.
    Landed(ETag),
    /// The key holds something else than thought that may be replaced: an earlier write of ours,
    /// or nothing.
    Rebase(Option<ETag>),
    /// The key holds what the record is based on.
    Unchanged,
    /// Somebody else was first.
    Foreign,
}

/// Judges what a key holds, for a record that is not a tombstone.
pub(super) fn judge(record: &Record, attempts: &[Attempt], found: Option<&ObjectInfo>) -> Verdict {
    let Some(found) = found else {
        // A deleted object is nobody's work that could be overwritten.
        return match record.base {
            Some(_) => Verdict::Rebase(None),
            None => Verdict::Unchanged,
        };
    };
    let etag = &found.version.etag;
    match own_attempt(attempts, found) {
        Some(attempt) if attempt.seq == record.seq => return Verdict::Landed(etag.clone()),
        Some(_) if record.base.as_ref() != Some(etag) => {
            return Verdict::Rebase(Some(etag.clone()));
        }
        _ => {}
    }
    if record.base.as_ref() == Some(etag) {
        return Verdict::Unchanged;
    }
    let same = match &record.change {
        // Sent by a machine that lost its journal, or by somebody with the very same bytes.
        Change::Put {
            state: PutState::Sealed(sealed),
            ..
        } => found.size == sealed.length && *etag == sealed.etag(),
        // Whoever made the folder has made it.
        Change::Folder { .. } => true,
        Change::Put { .. } | Change::Copy { .. } | Change::Delete(_) => false,
    };
    match same {
        true => Verdict::Landed(etag.clone()),
        false => Verdict::Foreign,
    }
}

/// Returns the write of ours that made a version, if one of these did.
pub(super) fn own_attempt<'a>(attempts: &'a [Attempt], found: &ObjectInfo) -> Option<&'a Attempt> {
    let write_id = found.metadata.get(WRITE_ID)?;
    attempts
        .iter()
        .find(|attempt| attempt.write_id == *write_id)
}

/// Returns the condition under which a record may be carried out.
pub(super) fn condition(record: &Record) -> WriteCondition {
    match &record.base {
        Some(etag) => WriteCondition::IfMatch(etag.clone()),
        None => WriteCondition::IfAbsent,
    }
}

/// Returns the length of all parts but the last for a file of that length. One part means one PUT.
pub(super) fn part_size(length: u64, options: &UploadOptions) -> u64 {
    if length <= options.multipart_threshold {
        return length.max(1);
    }
    if length <= options.part_size.saturating_mul(MAX_PARTS) {
        return options.part_size;
    }
    length.div_ceil(MAX_PARTS).div_ceil(PART_STEP) * PART_STEP
}

/// What a failure of the store means for the record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// No answer came; what was sent may have been done.
    Unreachable(Option<Duration>),
    /// The same may succeed later.
    Transient(Option<Duration>),
    /// A condition did not hold: look who was first.
    Condition,
    /// The store refuses us, not this record: nothing will succeed until somebody changes a
    /// setting. Such records are not parked; they go by themselves once that is done.
    Credentials,
    /// No right to this key. A new token takes up to a minute to work everywhere, and a token may be
    /// bound to a prefix: patience first, then this record alone is parked.
    Denied,
    /// It will never succeed as it is.
    Permanent,
}

/// Classifies a failure.
pub(super) fn classify(error: &StoreError) -> Failure {
    use StoreError::*;
    match error {
        Unavailable { retry_after, .. } => Failure::Unreachable(*retry_after),
        Throttled { retry_after } => Failure::Transient(*retry_after),
        Damaged(_) | Io(_) | UploadGone => Failure::Transient(None),
        PreconditionFailed => Failure::Condition,
        UnknownCredentials(_) | WrongSecret(_) | ClockSkew(_) | NoSuchBucket(_) => {
            Failure::Credentials
        }
        Denied(_) => Failure::Denied,
        NotFound | NotModified | SourceChanged | InvalidRange | Locked(_) | TooLarge(_)
        | Refused(_) => Failure::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::disk::FileId;
    use crate::staging::{Sealed, Seq};
    use crate::store::attributes::FileAttributes;
    use crate::store::{Key, Md5, ObjectVersion, Origin, UserMetadata};

    fn record(base: Option<&str>, change: Change) -> Record {
        Record {
            key: Key::new("a").unwrap(),
            seq: Seq(7),
            base: base.map(ETag::new),
            change,
            parked: None,
            changed_at: SystemTime::UNIX_EPOCH,
            attempts: 0,
            last_error: None,
        }
    }

    fn put() -> Change {
        Change::Put {
            file: FileId::random(),
            state: PutState::Sealed(Sealed {
                length: 5,
                part_size: 5,
                parts: vec![Md5::of(b"hello")],
            }),
            attributes: FileAttributes::default(),
        }
    }

    fn found(etag: &str, write_id: &str) -> ObjectInfo {
        ObjectInfo {
            version: ObjectVersion {
                key: Key::new("a").unwrap(),
                etag: ETag::new(etag),
            },
            size: 5,
            last_modified: SystemTime::UNIX_EPOCH,
            content_type: None,
            metadata: UserMetadata::from([(WRITE_ID.into(), write_id.into())]),
            origin: Origin::Primary,
        }
    }

    fn attempt(write_id: &str, seq: u64) -> Attempt {
        Attempt {
            write_id: write_id.into(),
            seq: Seq(seq),
            active_at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn who_was_first() {
        let attempts = [attempt("old", 3), attempt("mine", 7)];
        let hello = ETag::of_md5(Md5::of(b"hello"));
        let table = [
            (None, None, Verdict::Unchanged),
            (Some("v1"), None, Verdict::Rebase(None)),
            (Some("v1"), Some(("v1", "x")), Verdict::Unchanged),
            (Some("v1"), Some(("v2", "x")), Verdict::Foreign),
            (None, Some(("v2", "")), Verdict::Foreign),
            (None, Some(("v2", "mine")), Verdict::Landed(ETag::new("v2"))),
            // The same bytes again: the tag does not tell, the write id does.
            (
                Some("v2"),
                Some(("v2", "mine")),
                Verdict::Landed(ETag::new("v2")),
            ),
            (
                Some("v1"),
                Some(("v2", "old")),
                Verdict::Rebase(Some(ETag::new("v2"))),
            ),
            (Some("v2"), Some(("v2", "old")), Verdict::Unchanged),
            (
                Some("v1"),
                Some((hello.as_str(), "x")),
                Verdict::Landed(hello.clone()),
            ),
            (
                Some(hello.as_str()),
                Some((hello.as_str(), "x")),
                Verdict::Unchanged,
            ),
        ];
        for (base, holds, verdict) in table {
            let holds = holds.map(|(etag, id)| found(etag, id));
            let judged = judge(&record(base, put()), &attempts, holds.as_ref());
            assert_eq!(judged, verdict, "base {base:?}, found {holds:?}");
        }
        let folder = Change::Folder {
            attributes: FileAttributes::default(),
        };
        let judged = judge(&record(None, folder), &[], Some(&found("v2", "x")));
        assert_eq!(judged, Verdict::Landed(ETag::new("v2")));
    }

    #[test]
    fn parts_are_equal_and_not_too_many() {
        let options = UploadOptions::default();
        let mib = 1 << 20;
        let table = [
            (0, 1, 0),
            (1, 1, 1),
            (16 * mib, 16 * mib, 1),
            (16 * mib + 1, 8 * mib, 3),
            (300 * mib, 8 * mib, 38),
            (80_000 * mib, 8 * mib, 10_000),
            (80_000 * mib + 1, 9 * mib, 8889),
        ];
        for (length, size, parts) in table {
            assert_eq!(part_size(length, &options), size, "{length}");
            assert_eq!(length.div_ceil(size), parts, "{length}");
        }
    }

    #[test]
    fn what_can_never_succeed_is_told_from_what_may() {
        let unavailable = StoreError::Unavailable {
            message: String::new(),
            retry_after: Some(Duration::from_secs(5)),
        };
        let asked = Some(Duration::from_secs(5));
        assert_eq!(classify(&unavailable), Failure::Unreachable(asked));
        let throttled = StoreError::Throttled { retry_after: asked };
        assert_eq!(classify(&throttled), Failure::Transient(asked));
        assert_eq!(
            classify(&StoreError::PreconditionFailed),
            Failure::Condition
        );
        let skew = StoreError::ClockSkew(String::new());
        assert_eq!(classify(&skew), Failure::Credentials);
        assert_eq!(
            classify(&StoreError::Denied(String::new())),
            Failure::Denied
        );
        for error in [
            StoreError::TooLarge(String::new()),
            StoreError::Refused(String::new()),
            StoreError::Locked(String::new()),
        ] {
            assert_eq!(classify(&error), Failure::Permanent);
        }
    }
}
