//! Extended attributes (`user.*`), and how they lie in an object's metadata: as s3fs keeps them, so
//! that the two agree. See `docs/formats.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Name of the metadata entry that holds them.
pub const XATTRS: &str = "xattr";
/// So much of an object's metadata they may take, written out. R2 gives all metadata of an object
/// 8 KiB (R2: platform/limits), which others may want as well, and a local bucket on ext4 4 KiB.
const MAX_CARRIED_BYTES: usize = 2048;
/// What a header and a path take as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The extended attributes of a file or folder. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(Arc<BTreeMap<String, Vec<u8>>>);

impl Xattrs {
    /// Returns the value of an attribute.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Returns all names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the bytes of all names and values.
    pub fn bytes(&self) -> usize {
        let each = self.0.iter().map(|(name, value)| name.len() + value.len());
        each.sum()
    }

    /// Returns these with one more, or with another value of it.
    pub fn with(&self, name: &str, value: &[u8]) -> Xattrs {
        let mut all = BTreeMap::clone(&self.0);
        all.insert(name.to_owned(), value.to_vec());
        Xattrs(Arc::new(all))
    }

    /// Returns these without one.
    pub fn without(&self, name: &str) -> Xattrs {
        let mut all = BTreeMap::clone(&self.0);
        all.remove(name);
        Xattrs(Arc::new(all))
    }

    /// Writes them as metadata: escaped JSON, the values in Base64.
    pub fn format(&self) -> String {
        let values = self.0.iter();
        let values: BTreeMap<&String, String> = values
            .map(|(name, value)| (name, BASE64.encode(value)))
            .collect();
        let json = serde_json::json!(values).to_string();
        utf8_percent_encode(&json, ESCAPED).to_string()
    }

    /// Reads what [`Xattrs::format`] or s3fs has written; `None` if it makes no sense.
    pub fn parse(text: &str) -> Option<Xattrs> {
        let json = percent_decode_str(text).decode_utf8().ok()?;
        let values: BTreeMap<String, String> = serde_json::from_str(&json).ok()?;
        let decoded = values
            .into_iter()
            .map(|(name, value)| Some((name, BASE64.decode(value).ok()?)));
        Some(Xattrs(Arc::new(decoded.collect::<Option<_>>()?)))
    }

    /// Returns those that an object carries: the smallest first, as many as there is room for.
    pub fn carried(&self) -> Xattrs {
        let mut by_length: Vec<_> = self.0.iter().collect();
        by_length.sort_by_key(|(name, value)| name.len() + value.len());
        let mut carried = Xattrs::default();
        for (name, value) in by_length {
            let more = carried.with(name, value);
            if more.format().len() > MAX_CARRIED_BYTES {
                break;
            }
            carried = more;
        }
        carried
    }

    /// Returns what a version has: what its object tells, and of what is kept here that which the
    /// object had no room for.
    pub fn merged(told: Option<Xattrs>, here: Option<&Xattrs>) -> Option<Xattrs> {
        let Some(here) = here else { return told };
        let carried = here.carried();
        let left = here
            .0
            .iter()
            .filter(|(name, _)| !carried.0.contains_key(*name));
        let left: Vec<_> = left.collect();
        if left.is_empty() {
            return told;
        }
        let all = told.unwrap_or_default();
        Some(
            left.into_iter()
                .fold(all, |all, (name, value)| all.with(name, value)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_survive_metadata_and_are_what_s3fs_reads() {
        let xattrs = Xattrs::default()
            .with("user.DOSATTRIB", b"\0\0\x05\0\xff")
            .with("user.ü \"", b"");
        let text = xattrs.format();
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        assert_eq!(Xattrs::parse(&text), Some(xattrs));
        let of_s3fs = "%7B%22user.mood%22%3A%22c2Fk%22%7D";
        let read = Xattrs::parse(of_s3fs).unwrap();
        assert_eq!(read.get("user.mood"), Some(&b"sad"[..]));
        assert_eq!(read.format(), of_s3fs);
        for damaged in [
            "",
            "{",
            "%7B%22a%22%3A1%7D",
            "%7B%22a%22%3A%22*%22%7D",
            "%ff",
        ] {
            assert_eq!(Xattrs::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn what_an_object_has_no_room_for_is_kept_beside_what_it_tells() {
        let small = Xattrs::default().with("user.a", b"1").with("user.b", b"2");
        assert_eq!(small.carried(), small);
        let all = small.with("user.large", &[7; 4000]);
        assert_eq!(all.carried(), small);
        assert!(all.carried().format().len() <= MAX_CARRIED_BYTES);
        // Somebody else has changed what the object carries.
        let told = Xattrs::default().with("user.b", b"3");
        let merged = Xattrs::merged(Some(told.clone()), Some(&all)).unwrap();
        assert_eq!(merged, told.with("user.large", &[7; 4000]));
        assert_eq!(Xattrs::merged(None, Some(&small)), None);
        assert_eq!(Xattrs::merged(Some(told.clone()), None), Some(told));
    }
}
