//! One page of a listing: order, prefix, delimiter, position.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::key::fold;
use crate::state::Stored;

/// The most entries of a page.
pub(crate) const MAX_PAGE: usize = 1000;

/// What a listing asks for. Keys are compared in their folded form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    /// Only keys after this one.
    pub(crate) start_after: String,
    /// The last entry of the page before, which may be a common prefix.
    pub(crate) after_entry: String,
    pub(crate) limit: usize,
}

/// A key, or all keys that share a prefix up to the delimiter.
#[derive(Debug, Clone)]
pub(crate) enum Entry<'a> {
    Object(&'a Stored),
    CommonPrefix(String),
}

/// A page and where the next one begins.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
    /// The last entry in folded form, if there is more.
    pub(crate) next: Option<String>,
}

/// Returns the page that the listing asks for.
pub(crate) fn page<'a>(objects: &'a BTreeMap<String, Stored>, listing: &Listing) -> Page<'a> {
    let prefix = fold(&listing.prefix);
    let after = fold(&listing.start_after).max(listing.after_entry.clone());
    let delimiter = listing.delimiter.as_str();
    // A page that ended with a common prefix has shown every key below it.
    let mut from = match common_prefix(&listing.after_entry, &prefix, delimiter) {
        Some(shown) if shown == listing.after_entry => past_prefix(shown),
        _ => Bound::Excluded(after),
    };
    if bound_text(&from) < prefix.as_str() {
        from = Bound::Included(prefix.clone());
    }

    let mut entries = Vec::new();
    let mut last = listing.after_entry.clone();
    loop {
        let next = objects.range((from, Bound::Unbounded)).next();
        let Some((key, object)) = next.filter(|(key, _)| key.starts_with(&prefix)) else {
            return Page {
                entries,
                next: None,
            };
        };
        if entries.len() >= listing.limit {
            // A page of no entries must still lead on, or the client would never get further.
            return Page {
                entries,
                next: Some(last),
            };
        }
        match common_prefix(key, &prefix, delimiter) {
            Some(common) => {
                entries.push(Entry::CommonPrefix(as_spelled(common, &object.spelled)));
                last = common.to_owned();
                from = past_prefix(common);
            }
            None => {
                entries.push(Entry::Object(object));
                last.clone_from(key);
                from = Bound::Excluded(key.clone());
            }
        }
    }
}

/// Returns the part of the key up to the first delimiter behind the prefix.
fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix).filter(|_| !delimiter.is_empty())?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(&key[..prefix.len() + end])
}

/// Returns the bound behind every key that starts with the prefix.
fn past_prefix(prefix: &str) -> Bound<String> {
    // The largest character sorts behind all others, also in UTF-8 order.
    Bound::Excluded(format!("{prefix}{}", char::MAX.to_string().repeat(257)))
}

fn bound_text(bound: &Bound<String>) -> &str {
    match bound {
        Bound::Included(text) | Bound::Excluded(text) => text,
        Bound::Unbounded => "",
    }
}

/// Returns the common prefix in the spelling of the key that it came from.
///
/// Normalisation never touches a slash, so slashes can be counted off in both forms; a prefix
/// that ends otherwise is given in normal form.
fn as_spelled(common: &str, spelled: &str) -> String {
    if spelled.starts_with(common) || !common.ends_with('/') {
        return common.to_owned();
    }
    let slashes = common.matches('/').count();
    let end = spelled
        .match_indices('/')
        .nth(slashes - 1)
        .map(|(at, _)| at + 1);
    end.map_or_else(|| common.to_owned(), |end| spelled[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::condition::Conditions;
    use crate::history::Author;
    use crate::key::Key;
    use crate::state::{Attributes, Bucket, Rules};

    fn bucket(keys: &[&str]) -> Bucket {
        let mut bucket = Bucket::default();
        let rules = Rules {
            min_part_bytes: 1,
            max_request_bytes: u64::MAX,
            write_interval: std::time::Duration::ZERO,
            too_many_requests: None,
        };
        for key in keys {
            let object = Stored::of_bytes(Bytes::new(), Attributes::default());
            let key = Key::new(key).expect("a key");
            bucket
                .put(
                    &key,
                    object,
                    &Conditions::default(),
                    &Author::named("a"),
                    &rules,
                )
                .expect("written");
        }
        bucket
    }

    fn names(page: &Page<'_>) -> Vec<String> {
        let name = |entry: &Entry<'_>| match entry {
            Entry::Object(object) => object.spelled.clone(),
            Entry::CommonPrefix(prefix) => format!("[{prefix}]"),
        };
        page.entries.iter().map(name).collect()
    }

    fn all(bucket: &Bucket, mut listing: Listing) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = page(&bucket.objects, &listing);
            found.extend(names(&page));
            match page.next {
                Some(next) => listing.after_entry = next,
                None => return found,
            }
        }
    }

    fn by(prefix: &str, delimiter: &str, start_after: &str, limit: usize) -> Listing {
        Listing {
            prefix: prefix.into(),
            delimiter: delimiter.into(),
            start_after: start_after.into(),
            after_entry: String::new(),
            limit,
        }
    }

    #[test]
    fn the_order_is_that_of_utf8_bytes() {
        let bucket = bucket(&["b", "a/", "a", "a!", "\u{ffff}", "\u{10000}", "Z"]);
        assert_eq!(
            all(&bucket, by("", "", "", 2)),
            ["Z", "a", "a!", "a/", "b", "\u{ffff}", "\u{10000}"]
        );
    }

    #[test]
    fn every_page_size_gives_the_same_entries() {
        let bucket = bucket(&["a", "a/b", "a/c", "a0", "b/x/y", "b/z", "c//d", "c/e"]);
        let expected = ["a", "[a/]", "a0", "[b/]", "[c/]"];
        for limit in 1..7 {
            assert_eq!(
                all(&bucket, by("", "/", "", limit)),
                expected,
                "limit {limit}"
            );
        }
        assert_eq!(all(&bucket, by("b/", "/", "", 1)), ["[b/x/]", "b/z"]);
        assert_eq!(all(&bucket, by("c/", "/", "", 1)), ["[c//]", "c/e"]);
        assert_eq!(all(&bucket, by("a", "", "", 1)), ["a", "a/b", "a/c", "a0"]);
        assert!(all(&bucket, by("x", "/", "", 1)).is_empty());
    }

    #[test]
    fn start_after_inside_a_prefix_still_yields_it() {
        let bucket = bucket(&["a/b", "a/c", "b"]);
        assert_eq!(all(&bucket, by("", "/", "a/b", 9)), ["[a/]", "b"]);
        assert_eq!(all(&bucket, by("", "/", "a/c", 9)), ["b"]);
        assert_eq!(all(&bucket, by("", "", "a/b", 9)), ["a/c", "b"]);
    }

    #[test]
    fn prefixes_match_in_either_normal_form() {
        let bucket = bucket(&["e\u{301}/a", "\u{e9}/b"]);
        assert_eq!(all(&bucket, by("\u{e9}/", "", "", 9)).len(), 2);
        assert_eq!(all(&bucket, by("", "/", "", 9)), ["[e\u{301}/]"]);
    }

    #[test]
    fn an_empty_page_leads_on() {
        let bucket = bucket(&["a", "b"]);
        let mut listing = by("", "", "", 1);
        listing.after_entry = page(&bucket.objects, &listing).next.expect("more");
        listing.limit = 0;
        let empty = page(&bucket.objects, &listing);
        assert!(empty.entries.is_empty());
        assert_eq!(empty.next.as_deref(), Some("a"));
    }
}
