//! Changes of single names in saved listings.

use std::io;

use rusqlite::OptionalExtension;

use super::Index;
use super::listings::amend;
use crate::cache::Amendment;

const NUMBER: &str = "SELECT number FROM listings WHERE folder = ?1 AND whole = 1";

impl Index {
    /// Brings names of saved listings up to date; folders without one stay without.
    pub(in crate::cache) fn amend_listings(&self, amendments: &[Amendment]) -> io::Result<()> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            for amendment in amendments {
                let number: Option<i64> = transaction
                    .prepare_cached(NUMBER)?
                    .query_row([&amendment.folder], |row| row.get(0))
                    .optional()?;
                if let Some(number) = number {
                    amend(&transaction, number, amendment)?;
                }
            }
            transaction.commit()
        })
    }

    /// Whether there is a saved listing of a folder and it names nothing.
    pub(in crate::cache) fn is_listing_empty(&self, folder: &str) -> io::Result<bool> {
        self.read(|connection| {
            let sql = format!(
                "SELECT NOT EXISTS (SELECT 1 FROM listed WHERE listing = number) FROM ({NUMBER})"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let empty: Option<bool> = statement.query_row([folder], |row| row.get(0)).optional()?;
            Ok(empty.unwrap_or(false))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Holds;
    use crate::cache::index::from_ms;
    use crate::store::{ETag, Key, ListedObject, ObjectVersion, Origin};

    fn object(key: &str, size: u64) -> ListedObject {
        ListedObject {
            version: ObjectVersion {
                key: Key::new(key).unwrap(),
                etag: ETag::new("\"00112233445566778899aabbccddeeff\""),
            },
            size,
            last_modified: from_ms(1_700_000_000_123),
            origin: Origin::Primary,
        }
    }

    fn amendment(folder: &str, name: &str, holds: Holds) -> Amendment {
        Amendment {
            folder: folder.into(),
            name: name.into(),
            holds,
        }
    }

    #[test]
    fn a_saved_listing_follows_our_own_changes() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        let old = [
            object("a/changed", 1),
            object("a/gone", 1),
            object("a/kept", 1),
        ];
        let folders = ["a/deleted/".to_owned()];
        let save = |wanted: bool| {
            let now = from_ms(1);
            index.save_listing("a/", &old, &folders, now, &|| wanted)
        };
        save(true).unwrap();
        let amendments = [
            amendment("a/", "changed", Holds::Object(object("a/changed", 2))),
            amendment("a/", "gone", Holds::Nothing),
            amendment("a/", "new", Holds::Object(object("a/new", 3))),
            amendment("a/", "made/", Holds::Folder),
            amendment("a/", "deleted/", Holds::Nothing),
            amendment("b/", "x", Holds::Object(object("b/x", 3))),
        ];
        index.amend_listings(&amendments).unwrap();
        // One that was overtaken while it was written takes no effect.
        save(false).unwrap();
        let listing = index.load_listing("a/").unwrap().unwrap();
        let wanted = [
            object("a/changed", 2),
            object("a/kept", 1),
            object("a/new", 3),
        ];
        assert_eq!(listing.objects, wanted);
        assert_eq!(listing.prefixes, ["a/made/"]);
        assert_eq!(index.load_listing("b/").unwrap(), None);
        assert!(!index.is_listing_empty("a/").unwrap());
        assert!(!index.is_listing_empty("b/").unwrap());
        for name in ["changed", "kept", "new", "made/"] {
            index
                .amend_listings(&[amendment("a/", name, Holds::Nothing)])
                .unwrap();
        }
        assert!(index.is_listing_empty("a/").unwrap());
    }
}
