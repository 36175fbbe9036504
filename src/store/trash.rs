//! Names in the trash: where the copy of a deleted or overwritten object lies in the bucket. The
//! name alone tells what it was, when it went and why, so that a listing is all one needs.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{ETag, Key, MAX_KEY_BYTES, Md5};
use crate::store::attributes::nanos_since_epoch;

/// All trash lies below this key.
pub const PREFIX: &str = ".voicebeatfs/trash/";
/// Name of the metadata entry that holds the key (in hexadecimal digits of its UTF-8) where the name
/// in the trash has no room for all of it.
pub const CUT_KEY: &str = "voicebeatfs-trash-key";

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
/// `20261124T150501Z`.
const TIME_BYTES: usize = 16;
const ID_BYTES: usize = 16;

/// Of a name that is saved again and again, one version in so long a time is kept.
pub const ONE_VERSION_IN: Duration = Duration::from_secs(600);

/// Whether one of these collections has a key; what is deleted or overwritten in them is kept.
pub fn has_key(collections: &[String], key: &Key) -> bool {
    let collection = key.as_str().split('/').next().unwrap_or_default();
    collections.iter().any(|kept| kept == collection)
}

/// Why something is in the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was deleted.
    Deleted,
    /// Another version took its place.
    Overwritten,
}

/// What a name in the trash tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Trashed {
    /// Where the copy lies.
    pub key: Key,
    /// When it went, to the second.
    pub at: SystemTime,
    /// Why.
    pub why: Why,
    /// What tells it from other versions of the same key.
    pub id: String,
    /// The key it had; `None` where the name has no room for it ([`CUT_KEY`]).
    pub original: Option<Key>,
}

/// Returns the name for a version that went at a time. The same for each try, so that what was
/// copied before a crash is not copied again.
pub fn name(original: &Key, etag: &ETag, at: SystemTime, why: Why) -> Trashed {
    let text = format!("{}\n{etag}\n{}", original.folded(), nanos_since_epoch(at));
    let mut id = hex::encode(Md5::of(text.as_bytes()).0);
    id.truncate(ID_BYTES);
    let when = OffsetDateTime::from(at).format(TIME);
    let when = when.unwrap_or_else(|_| "19700101T000000Z".into());
    let is_cut = PREFIX.len() + TIME_BYTES + ID_BYTES + 4 + original.as_str().len() > MAX_KEY_BYTES;
    let letter = match (why, is_cut) {
        (Why::Deleted, false) => 'd',
        (Why::Deleted, true) => 'D',
        (Why::Overwritten, false) => 'o',
        (Why::Overwritten, true) => 'O',
    };
    let head = format!("{PREFIX}{when}-{letter}-{id}");
    let key = match is_cut {
        true => Key::new(&head),
        false => Key::new(&format!("{head}/{original}")),
    };
    Trashed {
        key: key.expect("the head is short, and what is longer was cut"),
        at,
        why,
        id,
        original: (!is_cut).then(|| original.clone()),
    }
}

/// Reads a name; `None` if it is none of ours.
pub fn parse(key: &Key) -> Option<Trashed> {
    let rest = key.as_str().strip_prefix(PREFIX)?;
    let (head, original) = match rest.split_once('/') {
        Some((head, original)) => (head, Some(Key::new(original)?)),
        None => (rest, None),
    };
    let mut parts = head.split('-');
    let (when, letter, id) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || id.len() != ID_BYTES {
        return None;
    }
    let when = time::PrimitiveDateTime::parse(when, TIME).ok()?;
    let why = match (letter, &original) {
        ("d", Some(_)) | ("D", None) => Why::Deleted,
        ("o", Some(_)) | ("O", None) => Why::Overwritten,
        _ => return None,
    };
    Some(Trashed {
        key: key.clone(),
        at: when.assume_utc().into(),
        why,
        id: id.to_owned(),
        original,
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_name_tells_what_it_was_when_it_went_and_why() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_521_115_250);
        let etag = ETag::new("\"1\"");
        for text in ["projects/a b/caf\u{e9}.rpp", "projects/folder/"] {
            let key = Key::new(text).unwrap();
            let named = name(&key, &etag, at, Why::Deleted);
            assert_eq!(named, name(&key, &etag, at, Why::Deleted));
            assert!(
                named
                    .key
                    .as_str()
                    .starts_with(".voicebeatfs/trash/20261124T115155Z-d-")
            );
            let read = parse(&named.key).unwrap();
            assert_eq!((read.original, read.id), (Some(key), named.id));
            assert_eq!(read.at, UNIX_EPOCH + Duration::from_secs(1_795_521_115));
        }
        let later = name(
            &Key::new("a").unwrap(),
            &etag,
            at + Duration::from_nanos(1),
            Why::Overwritten,
        );
        assert_ne!(
            later.id,
            name(&Key::new("a").unwrap(), &etag, at, Why::Overwritten).id
        );
    }

    #[test]
    fn a_key_without_room_is_cut() {
        let long = Key::new(&format!("projects/{}", "é".repeat(500))).unwrap();
        let named = name(&long, &ETag::new("1"), UNIX_EPOCH, Why::Overwritten);
        assert_eq!(named.original, None);
        let read = parse(&named.key).unwrap();
        assert_eq!((read.why, read.original), (Why::Overwritten, None));
        for other in ["x", ".voicebeatfs/trash/a", ".voicebeatfs/trash/2-d-1/a"] {
            assert_eq!(parse(&Key::new(other).unwrap()), None, "{other}");
        }
    }
}
