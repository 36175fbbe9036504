//! The rows of `listings` and `listed`: the last complete listing of each folder.

use std::io;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Index, from_ms, to_ms};
use crate::cache::SavedListing;
use crate::store::{ETag, Key, ListedObject, ObjectVersion, Origin};

/// Rows a transaction writes, so that others wait for a few milliseconds at most.
const ROWS_PER_TRANSACTION: usize = 1000;

/// A row: a name below the folder, and what it names unless it is a folder.
enum Entry<'a> {
    Object(&'a ListedObject),
    Folder(&'a str),
}

impl Index {
    /// Keeps a complete listing in place of the former one. It takes effect as a whole at the end,
    /// if it is still wanted then.
    pub(in crate::cache) fn save_listing(
        &self,
        folder: &str,
        objects: &[ListedObject],
        prefixes: &[String],
        saved_at: SystemTime,
        still_wanted: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let number = self.write(|connection| {
            connection.execute(
                "INSERT INTO listings (folder, saved_at_ms, whole) VALUES (?1, ?2, 0)",
                params![folder, to_ms(saved_at)],
            )?;
            Ok(connection.last_insert_rowid())
        })?;
        let objects = objects.iter().map(Entry::Object);
        let prefixes = prefixes.iter().map(|prefix| Entry::Folder(prefix));
        let entries: Vec<Entry<'_>> = objects.chain(prefixes).collect();
        for chunk in entries.chunks(ROWS_PER_TRANSACTION) {
            self.write(|connection| insert(connection, number, folder, chunk))?;
        }
        self.write(|connection| {
            if !still_wanted() {
                return Ok(());
            }
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE listings SET whole = 0 WHERE folder = ?1 AND whole = 1",
                [folder],
            )?;
            transaction.execute("UPDATE listings SET whole = 1 WHERE number = ?1", [number])?;
            transaction.commit()
        })?;
        self.remove_replaced()
    }

    /// Returns the listing of a folder that was saved last.
    pub(in crate::cache) fn load_listing(&self, folder: &str) -> io::Result<Option<SavedListing>> {
        self.read(|connection| {
            // One snapshot for both tables.
            let transaction = connection.unchecked_transaction()?;
            let found = transaction
                .prepare_cached(
                    "SELECT number, saved_at_ms FROM listings WHERE folder = ?1 AND whole = 1",
                )?
                .query_row([folder], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()?;
            let Some((number, saved_at_ms)) = found else {
                return Ok(None);
            };
            let mut listing = SavedListing {
                objects: Vec::new(),
                prefixes: Vec::new(),
                saved_at: from_ms(saved_at_ms),
            };
            let mut statement = transaction.prepare_cached(
                "SELECT name, etag, size, last_modified_ms, origin FROM listed \
                 WHERE listing = ?1 ORDER BY name",
            )?;
            let mut rows = statement.query([number])?;
            while let Some(row) = rows.next()? {
                read_row(row, folder, &mut listing)?;
            }
            Ok(Some(listing))
        })
    }

    /// Removes listings that were replaced or never finished, a few rows at a time.
    fn remove_replaced(&self) -> io::Result<()> {
        loop {
            let removed = self.write(|connection| {
                connection
                    .prepare_cached(
                        "DELETE FROM listed WHERE (listing, name) IN (SELECT listing, name \
                         FROM listings JOIN listed ON listing = number WHERE whole = 0 LIMIT ?1)",
                    )?
                    .execute([ROWS_PER_TRANSACTION])
            })?;
            if removed < ROWS_PER_TRANSACTION {
                return self.write(|connection| {
                    connection
                        .execute("DELETE FROM listings WHERE whole = 0", [])
                        .map(drop)
                });
            }
        }
    }
}

fn insert(
    connection: &mut Connection,
    number: i64,
    folder: &str,
    entries: &[Entry<'_>],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare_cached(
            "REPLACE INTO listed (listing, name, etag, size, last_modified_ms, origin) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let below = |key: &'_ str| key.strip_prefix(folder).unwrap_or(key).to_owned();
        for entry in entries {
            match entry {
                Entry::Object(object) => statement.execute(params![
                    number,
                    below(object.version.key.as_str()),
                    object.version.etag.as_str(),
                    object.size.cast_signed(),
                    to_ms(object.last_modified),
                    matches!(object.origin, Origin::Fallback),
                ])?,
                Entry::Folder(prefix) => statement.execute(params![
                    number,
                    below(prefix),
                    None::<&str>,
                    None::<i64>,
                    None::<i64>,
                    None::<i64>,
                ])?,
            };
        }
    }
    transaction.commit()
}

fn read_row(
    row: &rusqlite::Row<'_>,
    folder: &str,
    listing: &mut SavedListing,
) -> rusqlite::Result<()> {
    let name = format!("{folder}{}", row.get_ref(0)?.as_str()?);
    let Some(etag) = row.get::<_, Option<String>>(1)? else {
        listing.prefixes.push(name);
        return Ok(());
    };
    let Some(key) = Key::new(&name) else {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, 0));
    };
    listing.objects.push(ListedObject {
        version: ObjectVersion {
            key,
            etag: ETag::new(&etag),
        },
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        last_modified: from_ms(row.get(3)?),
        origin: if row.get(4)? {
            Origin::Fallback
        } else {
            Origin::Primary
        },
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> ListedObject {
        ListedObject {
            version: ObjectVersion {
                key: Key::new(key).unwrap(),
                etag: ETag::new("\"00112233445566778899aabbccddeeff\""),
            },
            size: 12,
            last_modified: from_ms(1_700_000_000_123),
            origin: Origin::Fallback,
        }
    }

    #[test]
    fn a_listing_comes_back_and_replaces_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        assert_eq!(index.load_listing("a/").unwrap(), None);
        let old: Vec<ListedObject> = (0..2500).map(|i| object(&format!("a/{i:05}"))).collect();
        index
            .save_listing("a/", &old, &[], from_ms(1), &|| true)
            .unwrap();
        assert_eq!(index.load_listing("a/").unwrap().unwrap().objects, old);

        let new = [object("a/é"), object("a/")];
        let folders = ["a/b/".to_owned()];
        index
            .save_listing("a/", &new, &folders, from_ms(2), &|| true)
            .unwrap();
        drop(index);
        let index = Index::open(dir.path(), "a").unwrap();
        let listing = index.load_listing("a/").unwrap().unwrap();
        assert_eq!(listing.objects, [object("a/"), object("a/é")]);
        assert_eq!(listing.prefixes, folders);
        assert_eq!(listing.saved_at, from_ms(2));
        let left: i64 = index
            .read(|c| c.query_row("SELECT count(*) FROM listed", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(left, 3);
    }

    #[test]
    fn a_save_that_was_cut_short_leaves_no_name_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        // As of a process that was killed while it saved.
        let cut = "INSERT INTO listings VALUES (1, 'a/', 2, 0); \
                   INSERT INTO listed VALUES (1, 'cut', '\"tag\"', 1, 1, 0)";
        index
            .write(|connection| connection.execute_batch(cut))
            .unwrap();
        drop(index);
        let index = Index::open(dir.path(), "a").unwrap();
        let new = [object("a/new")];
        index
            .save_listing("a/", &new, &[], from_ms(3), &|| true)
            .unwrap();
        assert_eq!(index.load_listing("a/").unwrap().unwrap().objects, new);
    }

    #[test]
    fn an_empty_listing_is_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        index
            .save_listing("", &[], &[], from_ms(1), &|| true)
            .unwrap();
        let listing = index.load_listing("").unwrap().unwrap();
        assert!(listing.objects.is_empty() && listing.prefixes.is_empty());
    }

    #[test]
    fn a_key_costs_less_than_300_bytes_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        let count = 20_000;
        let objects: Vec<ListedObject> = (0..count)
            .map(|i| object(&format!("segments/{i:08}-7d3c-4b5a-9e21-0123456789ab.wav")))
            .collect();
        index
            .save_listing("segments/", &objects, &[], from_ms(1), &|| true)
            .unwrap();
        index.checkpoint().unwrap();
        let bytes = std::fs::metadata(dir.path().join("index.db"))
            .unwrap()
            .len();
        assert!(bytes / count < 300, "{} bytes a key", bytes / count);
    }

    #[test]
    fn what_another_bucket_holds_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        index
            .save_listing("a/", &[object("a/x")], &[], from_ms(1), &|| true)
            .unwrap();
        drop(index);
        let index = Index::open(dir.path(), "b").unwrap();
        assert_eq!(index.load_listing("a/").unwrap(), None);
    }
}
