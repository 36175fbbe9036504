//! The rows of `entries`: one for each version of which bytes are held.

use std::io;
use std::time::SystemTime;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Index, from_ms, set_state, to_ms};
use crate::cache::HeldObject;
use crate::cache::ranges::RangeSet;
use crate::disk::FileId;
use crate::store::{ETag, Key, ObjectVersion};

const COLUMNS: &str = "id, key, etag, size, last_modified_ms, complete, ranges, synced, \
                       fetched_at_ms, used_at_ms";

/// What the index knows of one entry.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cache) struct Row {
    pub(in crate::cache) id: FileId,
    pub(in crate::cache) version: ObjectVersion,
    /// Length of the object in bytes.
    pub(in crate::cache) size: u64,
    /// What the bucket said of it, if it was asked.
    pub(in crate::cache) last_modified: Option<SystemTime>,
    /// Whole and verified.
    pub(in crate::cache) complete: bool,
    /// Which bytes are in the file.
    pub(in crate::cache) present: RangeSet,
    /// Whether those bytes were synced, so that they survive a power cut.
    pub(in crate::cache) synced: bool,
    /// Last download or revalidation.
    pub(in crate::cache) fetched_at: SystemTime,
    /// Last use.
    pub(in crate::cache) used_at: SystemTime,
}

/// A place in an order of entries by a time: that time in ms, and the id.
pub(in crate::cache) type Cursor = (i64, Option<FileId>);

impl Index {
    /// Returns the row of a version.
    pub(in crate::cache) fn find(&self, version: &ObjectVersion) -> io::Result<Option<Row>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM entries WHERE key = ?1 AND etag = ?2"
                ))?
                .query_row([version.key.as_str(), version.etag.as_str()], row_of)
                .optional()
        })
    }

    /// Whether a file belongs to an entry.
    pub(in crate::cache) fn has_file(&self, id: FileId) -> io::Result<bool> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM entries WHERE id = ?1")?
                .exists([blob(id)])
        })
    }

    /// Enters or replaces the row of its version.
    pub(in crate::cache) fn save(&self, row: &Row) -> io::Result<()> {
        let ranges = if row.complete {
            Vec::new()
        } else {
            row.present.encode()
        };
        self.change(|connection| {
            connection
                .prepare_cached(
                    "REPLACE INTO entries (id, key, etag, size, last_modified_ms, complete, \
                     held_bytes, ranges, synced, fetched_at_ms, used_at_ms) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                )?
                .execute(params![
                    blob(row.id),
                    row.version.key.as_str(),
                    row.version.etag.as_str(),
                    row.size.cast_signed(),
                    row.last_modified.map(to_ms),
                    row.complete,
                    row.present.bytes().cast_signed(),
                    ranges,
                    row.synced,
                    to_ms(row.fetched_at),
                    to_ms(row.used_at),
                ])
                .map(drop)
        })
    }

    /// Removes the row of a file, if there is one; whether there was.
    pub(in crate::cache) fn remove(&self, id: FileId) -> io::Result<bool> {
        self.change(|connection| {
            connection
                .prepare_cached("DELETE FROM entries WHERE id = ?1")?
                .execute([blob(id)])
                .map(|count| count > 0)
        })
    }

    /// Removes the row of a file so that it is gone after a power cut as well.
    pub(in crate::cache) fn remove_for_good(&self, id: FileId) -> io::Result<()> {
        self.change(|connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let removed = remove_and_note(connection, id);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            removed
        })
    }

    /// Lets the age of an entry count from `now`.
    pub(in crate::cache) fn revalidated(
        &self,
        version: &ObjectVersion,
        now: SystemTime,
    ) -> io::Result<()> {
        self.change(|connection| {
            connection
                .prepare_cached(
                    "UPDATE entries SET fetched_at_ms = ?3 WHERE key = ?1 AND etag = ?2",
                )?
                .execute(params![
                    version.key.as_str(),
                    version.etag.as_str(),
                    to_ms(now)
                ])
                .map(drop)
        })
    }

    /// Returns the number of entries and the bytes they hold.
    pub(in crate::cache) fn totals(&self) -> io::Result<(u64, u64)> {
        self.read(|connection| {
            connection.query_row(
                "SELECT count(*), coalesce(sum(held_bytes), 0) FROM entries",
                [],
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?.unsigned_abs(),
                        row.get::<_, i64>(1)?.unsigned_abs(),
                    ))
                },
            )
        })
    }

    /// Returns the entries used least recently after `cursor`, at most `limit`. Partial entries of no
    /// more than `spared` bytes are left out.
    pub(in crate::cache) fn least_used(
        &self,
        cursor: Cursor,
        spared: Option<u64>,
        limit: u32,
    ) -> io::Result<Vec<Row>> {
        self.page("used_at_ms", cursor, i64::MAX, spared, limit)
    }

    /// Returns how many bytes are held by partial entries of at most so many bytes each.
    pub(in crate::cache) fn bytes_of_looks(&self, most: u64) -> io::Result<u64> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce(sum(held_bytes), 0) FROM entries \
                     WHERE complete = 0 AND held_bytes <= ?1",
                )?
                .query_row([most.cast_signed()], |row| row.get::<_, i64>(0))
                .map(i64::unsigned_abs)
        })
    }

    /// Returns the entries fetched before a time after `cursor`, the oldest first, at most `limit`.
    pub(in crate::cache) fn fetched_before(
        &self,
        before: SystemTime,
        cursor: Cursor,
        limit: u32,
    ) -> io::Result<Vec<Row>> {
        self.page("fetched_at_ms", cursor, to_ms(before), None, limit)
    }

    /// Returns the entries after `key`, ordered by key, at most `limit`. A version of `key` itself
    /// that was left out by the limit is not returned again.
    pub(in crate::cache) fn after(
        &self,
        version: Option<&ObjectVersion>,
        limit: u32,
    ) -> io::Result<Vec<Row>> {
        let (key, etag) = version.map_or(("", ""), |v| (v.key.as_str(), v.etag.as_str()));
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM entries WHERE (key, etag) > (?1, ?2) \
                     ORDER BY key, etag LIMIT ?3"
                ))?
                .query_map(params![key, etag, limit], row_of)?
                .collect()
        })
    }

    /// Returns the partial entries that were not synced, at most `limit`.
    pub(in crate::cache) fn unsynced(&self, limit: u32) -> io::Result<Vec<FileId>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id FROM entries WHERE complete = 0 AND synced = 0 \
                     ORDER BY used_at_ms DESC LIMIT ?1",
                )?
                .query_map([limit], |row| id_at(row, 0))?
                .collect()
        })
    }

    /// Notes that the bytes of an entry survive a power cut.
    pub(in crate::cache) fn set_synced(&self, id: FileId) -> io::Result<()> {
        self.change(|connection| {
            connection
                .prepare_cached("UPDATE entries SET synced = 1 WHERE id = ?1")?
                .execute([blob(id)])
                .map(drop)
        })
    }

    /// Removes the partial entries that were not synced.
    pub(in crate::cache) fn drop_unsynced(&self) -> io::Result<()> {
        self.change(|connection| {
            connection
                .execute("DELETE FROM entries WHERE complete = 0 AND synced = 0", [])
                .map(drop)
        })
    }

    /// Returns the complete entries whose keys begin with `prefix`, ordered by key.
    pub(in crate::cache) fn held_below(&self, prefix: &str) -> io::Result<Vec<HeldObject>> {
        self.read(|connection| {
            // No bound from above: no string follows all that begin with a prefix.
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM entries WHERE key >= ?1 ORDER BY key"
            ))?;
            let mut rows = statement.query([prefix])?;
            let mut held = Vec::new();
            while let Some(row) = rows.next()? {
                let row = row_of(row)?;
                if !row.version.key.as_str().starts_with(prefix) {
                    break;
                }
                if row.complete {
                    held.push(HeldObject {
                        version: row.version,
                        size: row.size,
                        last_modified: row.last_modified.unwrap_or(row.fetched_at),
                    });
                }
            }
            Ok(held)
        })
    }

    fn page(
        &self,
        order: &str,
        cursor: Cursor,
        before: i64,
        spared: Option<u64>,
        limit: u32,
    ) -> io::Result<Vec<Row>> {
        let (from, id) = cursor;
        let spared = spared.map_or(-1, u64::cast_signed);
        let id = id.map_or(Vec::new(), |id| blob(id).to_vec());
        self.read(|connection: &Connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM entries WHERE ({order}, id) > (?1, ?2) \
                     AND {order} < ?3 AND (complete = 1 OR held_bytes > ?4) \
                     ORDER BY {order}, id LIMIT ?5"
                ))?
                .query_map(params![from, id, before, spared, limit], row_of)?
                .collect()
        })
    }
}

fn blob(id: FileId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

fn id_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<FileId> {
    row.get::<_, [u8; 16]>(column)
        .map(|id| FileId::from_u128(u128::from_be_bytes(id)))
}

/// Checks a row as it is read: damage in the cache is a miss, so a row that cannot be is an error
/// that has the index made anew.
fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let damaged = |column, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.to_owned().into())
    };
    let key: String = row.get(1)?;
    let etag: String = row.get(2)?;
    let size: i64 = row.get(3)?;
    let size = u64::try_from(size).map_err(|_| damaged(3, "negative size"))?;
    let complete: bool = row.get(5)?;
    let present = if complete {
        RangeSet::whole(size)
    } else {
        RangeSet::decode(&row.get::<_, Vec<u8>>(6)?, size).ok_or_else(|| damaged(6, "ranges"))?
    };
    Ok(Row {
        id: id_at(row, 0)?,
        version: ObjectVersion {
            key: Key::new(&key).ok_or_else(|| damaged(1, "key"))?,
            etag: ETag::new(&etag),
        },
        size,
        last_modified: row.get::<_, Option<i64>>(4)?.map(from_ms),
        complete,
        present,
        synced: row.get(7)?,
        fetched_at: from_ms(row.get(8)?),
        used_at: from_ms(row.get(9)?),
    })
}

/// The note makes it a change also if the row is gone already: only a change is synced.
fn remove_and_note(connection: &mut Connection, id: FileId) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("DELETE FROM entries WHERE id = ?1", [blob(id)])?;
    set_state(&transaction, "removed", &id.to_string())?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::index::to_ms;

    fn row(key: &str, used_ms: i64, complete: bool) -> Row {
        let mut present = RangeSet::default();
        present.insert(if complete { 0..100 } else { 10..20 });
        Row {
            id: FileId::random(),
            version: ObjectVersion {
                key: Key::new(key).unwrap(),
                etag: ETag::new("\"tag\""),
            },
            size: 100,
            last_modified: None,
            complete,
            present,
            synced: true,
            fetched_at: from_ms(used_ms),
            used_at: from_ms(used_ms),
        }
    }

    fn index() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        (dir, index)
    }

    #[test]
    fn a_row_comes_back_as_it_was_saved() {
        let (_dir, index) = index();
        for complete in [false, true] {
            let row = row("a/b", 7, complete);
            index.save(&row).unwrap();
            assert_eq!(index.find(&row.version).unwrap(), Some(row.clone()));
            assert!(index.has_file(row.id).unwrap());
        }
        // The second was the same version in another file.
        assert_eq!(index.totals().unwrap(), (1, 100));
    }

    #[test]
    fn the_least_used_come_first_and_page_by_page() {
        let (_dir, index) = index();
        let rows: Vec<Row> = (0..10)
            .map(|i| row(&format!("k{i}"), 50 - i / 2, true))
            .collect();
        for row in &rows {
            index.save(row).unwrap();
        }
        let (mut cursor, mut seen) = ((i64::MIN, None), Vec::new());
        loop {
            let page = index.least_used(cursor, None, 3).unwrap();
            let Some(last) = page.last() else { break };
            cursor = (to_ms(last.used_at), Some(last.id));
            seen.extend(page);
        }
        assert_eq!(seen.len(), 10);
        assert!(
            seen.windows(2)
                .all(|pair| pair[0].used_at <= pair[1].used_at)
        );
        let before = index
            .fetched_before(from_ms(47), (i64::MIN, None), 100)
            .unwrap();
        assert_eq!(before.len(), 2);
    }

    #[test]
    fn an_unclean_boot_drops_partial_entries_and_a_clean_end_keeps_them() {
        for (clean, boot, kept) in [(true, "other", 2), (false, "other", 1), (false, "", 2)] {
            let (dir, index) = index();
            index.save(&row("whole", 1, true)).unwrap();
            index.save(&row("part", 1, false)).unwrap();
            if clean {
                index.end_run().unwrap();
            }
            if !boot.is_empty() {
                index.write(|c| set_state(c, "boot_id", boot)).unwrap();
            }
            drop(index);
            let index = Index::open(dir.path(), "a").unwrap();
            assert_eq!(
                index.totals().unwrap().0,
                kept,
                "clean {clean}, boot {boot}"
            );
        }
    }

    #[test]
    fn only_complete_entries_below_the_prefix_are_held() {
        let (_dir, index) = index();
        for (key, complete) in [("a/1", true), ("a/2", false), ("a/3", true), ("b/1", true)] {
            index.save(&row(key, 1, complete)).unwrap();
        }
        let held = index.held_below("a/").unwrap();
        let keys: Vec<&str> = held.iter().map(|held| held.version.key.as_str()).collect();
        assert_eq!(keys, ["a/1", "a/3"]);
    }

    #[test]
    fn a_row_that_cannot_be_marks_the_index_as_broken() {
        let (_dir, index) = index();
        let row = row("a", 1, false);
        index.save(&row).unwrap();
        index
            .write(|c| c.execute("UPDATE entries SET ranges = x'00'", []).map(drop))
            .unwrap();
        assert!(index.find(&row.version).is_err());
        assert!(!index.is_sound());
    }
}
