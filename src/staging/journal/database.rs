//! The journal's rows: every statement that reads or writes them. What is read is checked; a row
//! that makes no sense is an error, never skipped.

use std::collections::HashMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params};

use super::local_names;
use super::mirror::{Attempt, Mirror};
use super::step::Step;
use super::uploads;
use super::{JournalError, JournalResult};
use crate::disk::FileId;
use crate::staging::moves::Move;
use crate::staging::record::{
    Change, Conflict, Deleted, Hold, Kept, PutState, Record, Sealed, Seq,
};
use crate::store::attributes::{FileAttributes, nanos_since_epoch, time_from_nanos};
use crate::store::xattrs::Xattrs;
use crate::store::{ETag, Key, Md5, ObjectVersion};

/// The writing connection.
#[derive(Debug)]
pub(super) struct Database(pub(super) Connection);

impl Database {
    /// Writes all steps in one transaction, or none.
    pub(super) fn write(&mut self, steps: &[Step]) -> JournalResult<()> {
        // As rusqlite's own transactions, but with statements that stay prepared: each create of a
        // file waits for them.
        let connection = &self.0;
        let control = |sql| run(connection.prepare_cached(sql), []);
        control("BEGIN IMMEDIATE")?;
        let written = steps
            .iter()
            .try_for_each(|step| write_step(connection, step))
            .and_then(|()| control(end_of_transaction()));
        if written.is_err() && !connection.is_autocommit() {
            // What cannot be undone here is undone when the journal is opened again.
            let _ = control("ROLLBACK");
        }
        written
    }

    pub(super) fn meta(&self, name: &str) -> JournalResult<Option<String>> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        let mut statement = self.0.prepare_cached(sql)?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    /// Reads everything that is mirrored.
    pub(super) fn load(&self) -> JournalResult<Mirror> {
        let mut mirror = Mirror::default();
        let sql = format!("SELECT {RECORD_COLUMNS} FROM records");
        self.each(&sql, |row| {
            mirror.set(read_record(row)?);
            Ok(())
        })?;
        let sql = "SELECT folded, write_id, seq, begun_at FROM attempts ORDER BY seq";
        self.each(sql, |row| {
            let attempt = Attempt {
                write_id: row.get(1)?,
                seq: Seq(unsigned(row.get(2)?)?),
                active_at: time_from_nanos(row.get(3)?),
            };
            mirror.begin_attempt(key(row.get(0)?)?, attempt);
            Ok(())
        })?;
        let sql = "SELECT file, adopt_key, adopt_etag FROM released";
        self.each(sql, |row| {
            let adopt_as = match (row.get(1)?, row.get::<_, Option<String>>(2)?) {
                (Some(text), Some(etag)) => Some(ObjectVersion {
                    key: key(text)?,
                    etag: ETag::new(&etag),
                }),
                _ => None,
            };
            mirror.release(file(row.get(0)?)?, adopt_as, 0);
            Ok(())
        })?;
        self.each("SELECT * FROM kept", |row| {
            mirror.keep(read_kept(row)?);
            Ok(())
        })?;
        self.each("SELECT * FROM local_names", |row| {
            mirror.set_local(local_names::read(row)?);
            Ok(())
        })?;
        uploads::load(self, &mut mirror)?;
        self.each("SELECT copy, key, found_at FROM conflicts", |row| {
            mirror.note_conflict(Conflict {
                copy: key(row.get(0)?)?,
                key: key(row.get(1)?)?,
                found_at: time_from_nanos(row.get(2)?),
            });
            Ok(())
        })?;
        self.each("SELECT source, target, since FROM moves", |row| {
            mirror.set_move(Move {
                source: key(row.get(0)?)?,
                target: key(row.get(1)?)?,
                since: time_from_nanos(row.get(2)?),
            });
            Ok(())
        })?;
        Ok(mirror)
    }

    pub(super) fn each(
        &self,
        sql: &str,
        mut visit: impl FnMut(&Row<'_>) -> JournalResult<()>,
    ) -> JournalResult<()> {
        let mut statement = self.0.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            visit(row)?;
        }
        Ok(())
    }
}

fn end_of_transaction() -> &'static str {
    #[cfg(debug_assertions)]
    if loses_commits() {
        return "ROLLBACK";
    }
    "COMMIT"
}

/// Whether commits are to be lost, so that it can be shown that the kill test finds that out. Only in
/// debug builds, and only by this variable.
#[cfg(debug_assertions)]
fn loses_commits() -> bool {
    static LOSES: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *LOSES.get_or_init(|| std::env::var_os("VOICEBEATFS_TEST_LOSE_COMMITS").is_some())
}

const RECORD_COLUMNS: &str = "folded, key, seq, base, kind, file, state, length, part_size, \
     parts, source_key, source_etag, mtime, mode, uid, gid, parked, changed_at, attempts, \
     last_error, deleted, removed_as, xattrs";

pub(super) fn run(
    statement: rusqlite::Result<CachedStatement<'_>>,
    values: impl Params,
) -> JournalResult<()> {
    statement?.execute(values)?;
    Ok(())
}

fn write_step(connection: &Connection, step: &Step) -> JournalResult<()> {
    let sql = |sql| connection.prepare_cached(sql);
    match step {
        Step::Set(record) => write_record(connection, record),
        Step::Remove(key) => run(sql("DELETE FROM records WHERE folded = ?1"), [key.as_str()]),
        Step::BeginAttempt(key, attempt) => run(
            sql(
                "INSERT OR REPLACE INTO attempts (folded, write_id, seq, begun_at) \
                 VALUES (?1, ?2, ?3, ?4)",
            ),
            params![
                key.as_str(),
                attempt.write_id,
                signed(attempt.seq.0),
                nanos_since_epoch(attempt.active_at)
            ],
        ),
        Step::EndAttempt(key, write_id) => run(
            sql("DELETE FROM attempts WHERE folded = ?1 AND write_id = ?2"),
            [key.as_str(), write_id],
        ),
        Step::BeginUpload(open) => uploads::write(connection, open),
        Step::NotePart(id, number, part) => uploads::write_part(connection, id, *number, part),
        Step::EndUpload(id) => uploads::remove(connection, id),
        Step::Keep(kept) => run(
            sql("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"),
            params![
                kept.file.to_string(),
                kept.key.as_str(),
                signed(kept.length),
                kept.attributes.mtime.map(nanos_since_epoch),
                kept.attributes.mode,
                kept.attributes.uid,
                kept.attributes.gid,
                nanos_since_epoch(kept.at),
                kept.replaced,
                xattrs(&kept.attributes),
            ],
        ),
        Step::Unkeep(file) => run(sql("DELETE FROM kept WHERE file = ?1"), [file.to_string()]),
        Step::Release(file, adopt_as) => run(
            sql(
                "INSERT OR REPLACE INTO released (file, adopt_key, adopt_etag) \
                 VALUES (?1, ?2, ?3)",
            ),
            params![
                file.to_string(),
                adopt_as.as_ref().map(|version| version.key.as_str()),
                adopt_as.as_ref().map(|version| version.etag.as_str())
            ],
        ),
        Step::Unrelease(file) => run(
            sql("DELETE FROM released WHERE file = ?1"),
            [file.to_string()],
        ),
        Step::NoteConflict(conflict) => run(
            sql("INSERT OR REPLACE INTO conflicts (copy, key, found_at) VALUES (?1, ?2, ?3)"),
            params![
                conflict.copy.as_str(),
                conflict.key.as_str(),
                nanos_since_epoch(conflict.found_at)
            ],
        ),
        Step::ForgetConflict(copy) => run(
            sql("DELETE FROM conflicts WHERE copy = ?1"),
            [copy.as_str()],
        ),
        Step::KeepAttributes(version, attributes) => {
            write_attributes(connection, version, attributes)
        }
        Step::SetLocal(name) => local_names::write(connection, name),
        Step::RemoveLocal(key) => run(
            sql("DELETE FROM local_names WHERE folded = ?1"),
            [key.as_str()],
        ),
        Step::MoveFolderAttributes(from, to) => move_folder_attributes(connection, from, to),
        Step::SetMove(new) => run(
            sql(
                "INSERT OR REPLACE INTO moves (folded, source, target, since) \
                 VALUES (?1, ?2, ?3, ?4)",
            ),
            params![
                new.source.folded().as_str(),
                new.source.as_str(),
                new.target.as_str(),
                nanos_since_epoch(new.since)
            ],
        ),
        Step::EndMove(source) => run(
            sql("DELETE FROM moves WHERE folded = ?1"),
            [source.folded().as_str()],
        ),
        Step::ForgetAttributes => run(sql("DELETE FROM attributes"), []),
        Step::Meta(name, value) => run(
            sql("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)"),
            [*name, value.as_str()],
        ),
    }
}

/// The columns that only some changes have.
#[derive(Default)]
struct ChangeRow<'a> {
    kind: &'static str,
    file: Option<String>,
    state: Option<&'static str>,
    length: Option<u64>,
    part_size: Option<u64>,
    parts: Option<Vec<u8>>,
    source: Option<&'a ObjectVersion>,
    deleted: Option<&'static str>,
    removed_as: Option<&'a Key>,
    attributes: Option<&'a FileAttributes>,
}

impl<'a> ChangeRow<'a> {
    fn of(change: &'a Change) -> ChangeRow<'a> {
        let mut row = ChangeRow::default();
        match change {
            Change::Put {
                file,
                state,
                attributes,
            } => {
                row.kind = "put";
                row.file = Some(file.to_string());
                row.attributes = Some(attributes);
                row.set_state(state);
            }
            Change::Folder { attributes } => {
                row.kind = "folder";
                row.attributes = Some(attributes);
            }
            Change::Copy {
                source,
                size,
                attributes,
            } => {
                row.kind = "copy";
                row.source = Some(source);
                row.length = Some(*size);
                row.attributes = Some(attributes);
            }
            Change::Delete(deleted) => {
                row.kind = "delete";
                row.set_deleted(deleted);
            }
        }
        row
    }

    fn set_deleted(&mut self, deleted: &'a Deleted) {
        self.deleted = Some(match deleted {
            Deleted::Here { hold, .. } => match hold {
                Hold::Free => "here",
                Hold::Held => "held",
                Hold::Confirmed => "confirmed",
            },
            Deleted::Moved => "moved",
        });
        if let Deleted::Here { size, name, .. } = deleted {
            self.length = Some(*size);
            self.removed_as = name.as_ref();
        }
    }

    fn set_state(&mut self, state: &PutState) {
        match state {
            PutState::Open => self.state = Some("open"),
            PutState::Closed { length } => {
                self.state = Some("closed");
                self.length = Some(*length);
            }
            PutState::Sealed(sealed) => {
                self.state = Some("sealed");
                self.length = Some(sealed.length);
                self.part_size = Some(sealed.part_size);
                self.parts = Some(sealed.parts.iter().flat_map(|part| part.0).collect());
            }
        }
    }
}

fn write_record(connection: &Connection, record: &Record) -> JournalResult<()> {
    let row = ChangeRow::of(&record.change);
    let attributes = row.attributes.cloned().unwrap_or_default();
    let sql = "INSERT OR REPLACE INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
               ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";
    run(
        connection.prepare_cached(sql),
        params![
            record.key.folded().as_str(),
            record.key.as_str(),
            signed(record.seq.0),
            record.base.as_ref().map(ETag::as_str),
            row.kind,
            row.file,
            row.state,
            row.length.map(signed),
            row.part_size.map(signed),
            row.parts,
            row.source.map(|source| source.key.as_str()),
            row.source.map(|source| source.etag.as_str()),
            attributes.mtime.map(nanos_since_epoch),
            attributes.mode,
            attributes.uid,
            attributes.gid,
            record.parked,
            nanos_since_epoch(record.changed_at),
            record.attempts,
            record.last_error,
            row.deleted,
            row.removed_as.map(Key::as_str),
            xattrs(&attributes),
        ],
    )
}

fn read_record(row: &Row<'_>) -> JournalResult<Record> {
    let folded: String = row.get("folded")?;
    let key = key(row.get("key")?)?;
    if key.folded().as_str() != folded {
        return Err(damaged(format!("record {key} lies under {folded}")));
    }
    Ok(Record {
        seq: Seq(unsigned(row.get("seq")?)?),
        base: row.get::<_, Option<String>>("base")?.map(|t| ETag::new(&t)),
        change: read_change(row).map_err(|error| damaged(format!("record {key}: {error}")))?,
        parked: row.get("parked")?,
        changed_at: time_from_nanos(row.get("changed_at")?),
        attempts: row.get("attempts")?,
        last_error: row.get("last_error")?,
        key,
    })
}

fn read_change(row: &Row<'_>) -> JournalResult<Change> {
    let attributes = read_attributes(row)?;
    Ok(match row.get::<_, String>("kind")?.as_str() {
        "put" => Change::Put {
            file: file(row.get("file")?)?,
            state: read_state(row)?,
            attributes,
        },
        "folder" => Change::Folder { attributes },
        "copy" => Change::Copy {
            source: ObjectVersion {
                key: key(row.get("source_key")?)?,
                etag: ETag::new(&row.get::<_, String>("source_etag")?),
            },
            size: unsigned(row.get("length")?)?,
            attributes,
        },
        "delete" => Change::Delete(read_deleted(row)?),
        other => return Err(damaged(format!("unknown kind {other:?}"))),
    })
}

fn read_deleted(row: &Row<'_>) -> JournalResult<Deleted> {
    let hold = match row.get::<_, String>("deleted")?.as_str() {
        "moved" => return Ok(Deleted::Moved),
        "here" => Hold::Free,
        "held" => Hold::Held,
        "confirmed" => Hold::Confirmed,
        other => return Err(damaged(format!("unknown delete {other:?}"))),
    };
    let name: Option<String> = row.get("removed_as")?;
    Ok(Deleted::Here {
        size: unsigned(row.get("length")?)?,
        name: name.map(key).transpose()?,
        hold,
    })
}

fn read_state(row: &Row<'_>) -> JournalResult<PutState> {
    Ok(match row.get::<_, String>("state")?.as_str() {
        "open" => PutState::Open,
        "closed" => PutState::Closed {
            length: unsigned(row.get("length")?)?,
        },
        "sealed" => {
            let parts: Vec<u8> = row.get("parts")?;
            let (digests, rest) = parts.as_chunks::<16>();
            if digests.is_empty() || !rest.is_empty() {
                return Err(damaged(format!("{} bytes of digests", parts.len())));
            }
            PutState::Sealed(Sealed {
                length: unsigned(row.get("length")?)?,
                part_size: unsigned(row.get("part_size")?)?,
                parts: digests.iter().copied().map(Md5).collect(),
            })
        }
        other => return Err(damaged(format!("unknown state {other:?}"))),
    })
}

fn read_kept(row: &Row<'_>) -> JournalResult<Kept> {
    Ok(Kept {
        file: file(row.get("file")?)?,
        key: key(row.get("key")?)?,
        attributes: read_attributes(row)?,
        length: unsigned(row.get("length")?)?,
        at: time_from_nanos(row.get("kept_at")?),
        replaced: row.get("replaced")?,
    })
}

pub(super) fn read_attributes(row: &Row<'_>) -> JournalResult<FileAttributes> {
    let mtime: Option<i64> = row.get("mtime")?;
    Ok(FileAttributes {
        mtime: mtime.map(time_from_nanos),
        mode: row.get("mode")?,
        uid: row.get("uid")?,
        gid: row.get("gid")?,
        xattrs: read_xattrs(row)?,
    })
}

pub(super) fn xattrs(attributes: &FileAttributes) -> Option<String> {
    attributes.xattrs.as_ref().map(Xattrs::format)
}

fn read_xattrs(row: &Row<'_>) -> JournalResult<Option<Xattrs>> {
    let text: Option<String> = row.get("xattrs")?;
    let parsed = text.map(|text| Xattrs::parse(&text).ok_or(text));
    let parsed = parsed.transpose();
    parsed.map_err(|text| damaged(format!("extended attributes {text:?}")))
}

/// Returns the folder of a key, which ends in `/` or is empty, and the name in it; the name of a
/// marker keeps its `/`.
fn split(key: &Key) -> (String, String) {
    let folded = key.folded();
    let text = folded.as_str();
    let end = text.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
    (text[..end].to_owned(), text[end..].to_owned())
}

fn write_attributes(
    connection: &Connection,
    version: &ObjectVersion,
    attributes: &FileAttributes,
) -> JournalResult<()> {
    let (folder, name) = split(&version.key);
    if *attributes == FileAttributes::default() {
        let sql = "DELETE FROM attributes WHERE folder = ?1 AND name = ?2";
        return run(connection.prepare_cached(sql), params![folder, name]);
    }
    let sql = "INSERT OR REPLACE INTO attributes \
               (folder, name, key, etag, mtime, mode, uid, gid, xattrs) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    run(
        connection.prepare_cached(sql),
        params![
            folder,
            name,
            version.key.as_str(),
            version.etag.as_str(),
            attributes.mtime.map(nanos_since_epoch),
            attributes.mode,
            attributes.uid,
            attributes.gid,
            xattrs(attributes),
        ],
    )
}

/// `folder` and `name` of a folder's row make its key. Those of the folder itself are not moved.
fn move_folder_attributes(connection: &Connection, from: &Key, to: &Key) -> JournalResult<()> {
    let (from, to) = (from.folded(), to.folded());
    // All that begins with `from` lies before the key in which its last '/' is the next character.
    let end = format!("{}0", from.as_str().trim_end_matches('/'));
    let sql = "UPDATE OR REPLACE attributes \
               SET folder = ?2 || substr(folder, length(?1) + 1), \
                   key = ?2 || substr(folder, length(?1) + 1) || name \
               WHERE etag = 'folder' AND folder >= ?1 AND folder < ?3";
    let values = params![from.as_str(), to.as_str(), end];
    run(connection.prepare_cached(sql), values)
}

/// Reads the attributes kept for a version.
pub(super) fn attributes(
    connection: &Connection,
    version: &ObjectVersion,
) -> JournalResult<Option<FileAttributes>> {
    let (folder, name) = split(&version.key);
    let sql = "SELECT mtime, mode, uid, gid, xattrs FROM attributes \
               WHERE folder = ?1 AND name = ?2 AND etag = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&folder, &name, version.etag.as_str()])?;
    rows.next()?.map(read_attributes).transpose()
}

/// Reads the attributes kept for the versions directly in a folder.
pub(super) fn attributes_in(
    connection: &Connection,
    folder: &str,
) -> JournalResult<HashMap<ObjectVersion, FileAttributes>> {
    let sql = "SELECT key, etag, mtime, mode, uid, gid, xattrs FROM attributes WHERE folder = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([folder])?;
    let mut found = HashMap::new();
    while let Some(row) = rows.next()? {
        let version = ObjectVersion {
            key: key(row.get("key")?)?,
            etag: ETag::new(&row.get::<_, String>("etag")?),
        };
        found.insert(version, read_attributes(row)?);
    }
    Ok(found)
}

/// Brings the log into the database as far as readers allow. Returns how many pages the log had,
/// and how many of them are in the database now.
pub(super) fn checkpoint(connection: &Connection) -> JournalResult<(i64, i64)> {
    let sql = "PRAGMA wal_checkpoint(PASSIVE)";
    Ok(connection.query_row(sql, [], |row| Ok((row.get(1)?, row.get(2)?)))?)
}

pub(super) fn damaged(what: String) -> JournalError {
    JournalError::Damaged(what)
}

pub(super) fn key(text: String) -> JournalResult<Key> {
    Key::new(&text).ok_or_else(|| damaged(format!("no key: {text:?}")))
}

fn file(text: String) -> JournalResult<FileId> {
    text.parse()
        .map_err(|()| damaged(format!("no file id: {text:?}")))
}

/// SQLite's integers are signed; nothing here comes near their limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> JournalResult<u64> {
    u64::try_from(number).map_err(|_| damaged(format!("negative number {number}")))
}
