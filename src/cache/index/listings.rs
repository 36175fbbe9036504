//! The rows of `listings` and `listed`: the last complete listing of each folder, and those that
//! arrive.
//!
//! Rows are ordered and found by the folded name, as names are in the tree.

use std::io;
use std::time::SystemTime;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{Index, from_ms, to_ms};
use crate::cache::{Amendment, Holds, LargeListing, ListingId, SavedListing};
use crate::store::{ETag, Key, ListedObject, ObjectVersion, Origin, fold};

/// Rows a transaction writes, so that others wait for a few milliseconds at most.
const ROWS_PER_TRANSACTION: usize = 1000;

/// Values of `listings.whole`: it was replaced, or its writing ended before it was whole;
const REPLACED: i64 = 0;
/// it counts;
const WHOLE: i64 = 1;
/// it arrives yet.
const ARRIVING: i64 = 2;

/// A row: a name below the folder, and what it names unless it is a folder.
#[derive(Clone, Copy)]
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
        let number = self.begin_listing(folder, saved_at)?;
        self.add_to_listing(number, folder, objects, prefixes)?;
        self.write(|connection| {
            let transaction = connection.transaction()?;
            match still_wanted() {
                true => replace(&transaction, folder, number)?,
                false => set_whole(&transaction, number, REPLACED)?,
            }
            transaction.commit()
        })?;
        self.remove_replaced()
    }

    /// Begins a listing that counts once it is finished.
    pub(in crate::cache) fn begin_listing(
        &self,
        folder: &str,
        saved_at: SystemTime,
    ) -> io::Result<i64> {
        self.write(|connection| {
            connection.execute(
                "INSERT INTO listings (folder, saved_at_ms, whole) VALUES (?1, ?2, ?3)",
                params![folder, to_ms(saved_at), ARRIVING],
            )?;
            Ok(connection.last_insert_rowid())
        })
    }

    /// Adds names to a listing that was begun. Of several that fold to the same the first stays.
    pub(in crate::cache) fn add_to_listing(
        &self,
        number: i64,
        folder: &str,
        objects: &[ListedObject],
        prefixes: &[String],
    ) -> io::Result<()> {
        let objects = objects.iter().map(Entry::Object);
        let prefixes = prefixes.iter().map(|prefix| Entry::Folder(prefix));
        let entries: Vec<Entry<'_>> = objects.chain(prefixes).collect();
        for chunk in entries.chunks(ROWS_PER_TRANSACTION) {
            self.write(|connection| {
                let transaction = connection.transaction()?;
                for entry in chunk {
                    insert(&transaction, "IGNORE", number, folder, *entry)?;
                }
                transaction.commit()
            })?;
        }
        Ok(())
    }

    /// Has a listing count in place of the folder's former one, with some of its names corrected.
    pub(in crate::cache) fn finish_listing(
        &self,
        number: i64,
        folder: &str,
        amendments: &[Amendment],
    ) -> io::Result<()> {
        self.write(|connection| {
            let transaction = connection.transaction()?;
            for amendment in amendments {
                amend(&transaction, number, amendment)?;
            }
            replace(&transaction, folder, number)?;
            transaction.commit()
        })
    }

    /// Gives a listing up that was begun.
    pub(in crate::cache) fn drop_listing(&self, number: i64) -> io::Result<()> {
        self.write(|connection| set_whole(connection, number, REPLACED))
    }

    /// Returns the listing of a folder that was saved last.
    pub(in crate::cache) fn load_listing(&self, folder: &str) -> io::Result<Option<SavedListing>> {
        self.read(|connection| {
            // One snapshot for both tables.
            let transaction = connection.unchecked_transaction()?;
            let Some((number, saved_at)) = find(&transaction, folder)? else {
                return Ok(None);
            };
            let mut listing = SavedListing {
                objects: Vec::new(),
                prefixes: Vec::new(),
                saved_at,
            };
            let mut statement = transaction.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM listed WHERE listing = ?1 ORDER BY name"
            ))?;
            let mut rows = statement.query([number])?;
            while let Some(row) = rows.next()? {
                match object_of(row, folder)? {
                    Some((_, object)) => listing.objects.push(object),
                    None => listing.prefixes.push(key_of(row, folder)?),
                }
            }
            Ok(Some(listing))
        })
    }

    /// Returns the listing of a folder that was saved last if it has more than so many names,
    /// without the names of files.
    pub(in crate::cache) fn large_listing(
        &self,
        folder: &str,
        above: u64,
    ) -> io::Result<Option<LargeListing>> {
        self.read(|connection| {
            let transaction = connection.unchecked_transaction()?;
            let Some((number, saved_at)) = find(&transaction, folder)? else {
                return Ok(None);
            };
            let is_large = transaction
                .prepare_cached("SELECT 1 FROM listed WHERE listing = ?1 LIMIT 1 OFFSET ?2")?
                .exists(params![number, above])?;
            if !is_large {
                return Ok(None);
            }
            let names: u64 = transaction.query_row(
                "SELECT count(*) FROM listed WHERE listing = ?1",
                [number],
                |row| row.get(0),
            )?;
            let mut prefixes = Vec::new();
            let mut statement = transaction.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM listed WHERE listing = ?1 AND etag IS NULL ORDER BY name"
            ))?;
            let mut rows = statement.query([number])?;
            while let Some(row) = rows.next()? {
                prefixes.push(key_of(row, folder)?);
            }
            Ok(Some(LargeListing {
                id: self.listing_id(number),
                names,
                marker: find_name(&transaction, number, folder, "")?,
                prefixes,
                saved_at,
            }))
        })
    }

    /// Returns the object that a file's folded name stands for in a listing.
    pub(in crate::cache) fn listed_name(
        &self,
        number: i64,
        folder: &str,
        name: &str,
    ) -> io::Result<Option<ListedObject>> {
        self.read(|connection| find_name(connection, number, folder, name))
    }

    /// Returns up to so many objects of a listing, each with its folded name, in the order of these,
    /// from the first after `after` on. Its folders and its marker are left out.
    pub(in crate::cache) fn listed_after(
        &self,
        number: i64,
        folder: &str,
        after: &str,
        limit: usize,
    ) -> io::Result<Vec<(String, ListedObject)>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM listed \
                 WHERE listing = ?1 AND name > ?2 AND etag IS NOT NULL ORDER BY name LIMIT ?3"
            ))?;
            let mut rows = statement.query(params![number, after, limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.extend(object_of(row, folder)?);
            }
            Ok(found)
        })
    }

    /// Removes listings that were replaced or never finished, a few rows at a time.
    pub(in crate::cache) fn remove_replaced(&self) -> io::Result<()> {
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

    pub(in crate::cache) fn listing_id(&self, number: i64) -> ListingId {
        ListingId {
            index: self.instance,
            number,
        }
    }
}

/// In this order [`object_of`] and [`key_of`] read them.
const COLUMNS: &str = "name, spelling, etag, size, last_modified_ms, origin";

fn find(connection: &Connection, folder: &str) -> rusqlite::Result<Option<(i64, SystemTime)>> {
    connection
        .prepare_cached("SELECT number, saved_at_ms FROM listings WHERE folder = ?1 AND whole = 1")?
        .query_row([folder], |row| Ok((row.get(0)?, from_ms(row.get(1)?))))
        .optional()
}

fn find_name(
    connection: &Connection,
    number: i64,
    folder: &str,
    name: &str,
) -> rusqlite::Result<Option<ListedObject>> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM listed WHERE listing = ?1 AND name = ?2"
        ))?
        .query_row(params![number, name], |row| object_of(row, folder))
        .optional()?;
    Ok(found.flatten().map(|(_, object)| object))
}

fn set_whole(connection: &Connection, number: i64, whole: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE listings SET whole = ?2 WHERE number = ?1")?
        .execute([number, whole])
        .map(drop)
}

fn replace(transaction: &Transaction<'_>, folder: &str, number: i64) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE listings SET whole = 0 WHERE folder = ?1 AND whole = 1",
        [folder],
    )?;
    set_whole(transaction, number, WHOLE)
}

/// Brings one name of a listing to what it holds now.
pub(super) fn amend(
    connection: &Connection,
    number: i64,
    amendment: &Amendment,
) -> rusqlite::Result<()> {
    let (folder, key) = (
        &*amendment.folder,
        format!("{}{}", amendment.folder, amendment.name),
    );
    match &amendment.holds {
        Holds::Object(object) => {
            insert(connection, "REPLACE", number, folder, Entry::Object(object))
        }
        Holds::Folder => insert(connection, "REPLACE", number, folder, Entry::Folder(&key)),
        Holds::Nothing => connection
            .prepare_cached("DELETE FROM listed WHERE listing = ?1 AND name = ?2")?
            .execute(params![number, fold(&amendment.name)])
            .map(drop),
    }
}

fn insert(
    connection: &Connection,
    otherwise: &str,
    number: i64,
    folder: &str,
    entry: Entry<'_>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(&format!(
        "INSERT OR {otherwise} INTO listed (listing, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
    ))?;
    let key = match entry {
        Entry::Object(object) => object.version.key.as_str(),
        Entry::Folder(prefix) => prefix,
    };
    let spelling = key.strip_prefix(folder).unwrap_or(key);
    let name = fold(spelling);
    let spelling = (*name != *spelling).then_some(spelling);
    match entry {
        Entry::Object(object) => statement.execute(params![
            number,
            name,
            spelling,
            packed(object.version.etag.as_str()),
            object.size.cast_signed(),
            to_ms(object.last_modified),
            matches!(object.origin, Origin::Fallback),
        ])?,
        Entry::Folder(_) => {
            let none = None::<i64>;
            statement.execute(params![number, name, spelling, none, none, none, none])?
        }
    };
    Ok(())
}

/// Returns a tag as it is kept: one that is a quoted MD5, as most are, in its 16 bytes.
fn packed(etag: &str) -> ToSqlOutput<'_> {
    let hex = etag
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let is_plain = |hex: &&str| hex.len() == 32 && !hex.bytes().any(|b| b.is_ascii_uppercase());
    let number = hex
        .filter(is_plain)
        .and_then(|hex| u128::from_str_radix(hex, 16).ok());
    match number {
        Some(number) => ToSqlOutput::Owned(Value::Blob(number.to_be_bytes().into())),
        None => ToSqlOutput::Borrowed(ValueRef::Text(etag.as_bytes())),
    }
}

/// Returns the tag that [`packed`] was given; `None` for a folder.
fn unpacked(value: ValueRef<'_>) -> rusqlite::Result<Option<ETag>> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => {
            let bytes = <[u8; 16]>::try_from(bytes)
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(2, 0))?;
            let number = u128::from_be_bytes(bytes);
            Ok(Some(ETag::new(&format!("\"{number:032x}\""))))
        }
        text => Ok(Some(ETag::new(text.as_str()?))),
    }
}

/// Returns a row's key.
fn key_of(row: &Row<'_>, folder: &str) -> rusqlite::Result<String> {
    let spelling = match row.get_ref(1)? {
        ValueRef::Null => row.get_ref(0)?,
        spelling => spelling,
    };
    Ok(format!("{folder}{}", spelling.as_str()?))
}

/// Returns a row's folded name and its object; `None` for a folder.
fn object_of(row: &Row<'_>, folder: &str) -> rusqlite::Result<Option<(String, ListedObject)>> {
    let Some(etag) = unpacked(row.get_ref(2)?)? else {
        return Ok(None);
    };
    let Some(key) = Key::new(&key_of(row, folder)?) else {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, 0));
    };
    let object = ListedObject {
        version: ObjectVersion { key, etag },
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        last_modified: from_ms(row.get(4)?),
        origin: match row.get(5)? {
            true => Origin::Fallback,
            false => Origin::Primary,
        },
    };
    Ok(Some((row.get(0)?, object)))
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
                   INSERT INTO listed VALUES (1, 'cut', NULL, 'tag', 1, 1, 0)";
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
