//! `journal.db` as a file: how it is opened, its schema, and how older schemas become this one.
//! The tables are described in `docs/formats.md`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{JournalError, JournalResult};

/// The schema this program writes.
pub(super) const VERSION: i64 = 8;
/// Marks the file as ours ("vbjr").
const APPLICATION_ID: i64 = 0x7662_6a72;
/// How long a connection waits for another process that looks into the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is left of the write-ahead log after it was brought into the database.
const LOG_BYTES_KEPT: i64 = 4 << 20;

/// Each entry brings the schema from its index to the next version.
const MIGRATIONS: [&str; VERSION as usize] = [
    "
    CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE records (
        folded TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        seq INTEGER NOT NULL,
        base TEXT,
        kind TEXT NOT NULL,
        file TEXT,
        state TEXT,
        length INTEGER,
        part_size INTEGER,
        parts BLOB,
        source_key TEXT,
        source_etag TEXT,
        mtime INTEGER,
        mode INTEGER,
        uid INTEGER,
        gid INTEGER,
        parked TEXT,
        changed_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        last_error TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE attempts (
        folded TEXT NOT NULL,
        write_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        begun_at INTEGER NOT NULL,
        PRIMARY KEY (folded, write_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE released (
        file TEXT PRIMARY KEY,
        adopt_key TEXT,
        adopt_etag TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE conflicts (
        copy TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        found_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE attributes (
        folder TEXT NOT NULL,
        name TEXT NOT NULL,
        key TEXT NOT NULL,
        etag TEXT NOT NULL,
        mtime INTEGER,
        mode INTEGER,
        uid INTEGER,
        gid INTEGER,
        PRIMARY KEY (folder, name)
    ) STRICT, WITHOUT ROWID;
",
    // Why an earlier program deleted something is not known; it goes as it would have gone.
    "
    ALTER TABLE records ADD COLUMN deleted TEXT;
    ALTER TABLE records ADD COLUMN removed_as TEXT;
    UPDATE records SET deleted = 'moved' WHERE kind = 'delete';
",
    "
    CREATE TABLE kept (
        file TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        length INTEGER NOT NULL,
        mtime INTEGER,
        mode INTEGER,
        uid INTEGER,
        gid INTEGER,
        kept_at INTEGER NOT NULL,
        replaced INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE local_names (
        folded TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        target BLOB,
        device INTEGER,
        mtime INTEGER,
        mode INTEGER,
        uid INTEGER,
        gid INTEGER
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        seq INTEGER NOT NULL,
        write_id TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE upload_parts (
        id TEXT NOT NULL,
        number INTEGER NOT NULL,
        size INTEGER NOT NULL,
        md5 BLOB NOT NULL,
        etag TEXT NOT NULL,
        PRIMARY KEY (id, number)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE moves (
        folded TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        since INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX folder_attributes ON attributes (folder) WHERE etag = 'folder';
",
    "
    ALTER TABLE records ADD COLUMN xattrs TEXT;
    ALTER TABLE attributes ADD COLUMN xattrs TEXT;
    ALTER TABLE kept ADD COLUMN xattrs TEXT;
    ALTER TABLE local_names ADD COLUMN xattrs TEXT;
",
    "
    ALTER TABLE local_names ADD COLUMN copy TEXT;
",
];

/// Opens the database for writing, makes it if need be, and brings its schema up to date.
///
/// Commits are not synced (`synchronous = NORMAL` in WAL mode): they survive a killed process, and
/// a power cut only after the log was synced. A power cut never damages the database: it loses the
/// latest commits, whole ones and in order.
pub(super) fn open(path: &Path) -> JournalResult<Connection> {
    // SQLite gives its log and shared memory the mode of the database.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| JournalError::Database(Box::new(error)))?;
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    check_version(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Bringing the log into the database waits for the disk; it is done in the background.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens the database for reading, or for bringing the log into it.
pub(super) fn open_another(path: &Path) -> JournalResult<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> JournalResult<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn pragma(connection: &Connection, name: &str) -> JournalResult<i64> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}

fn check_version(connection: &Connection) -> JournalResult<()> {
    let found = pragma(connection, "user_version")?;
    if found > VERSION {
        return Err(JournalError::NewerSchema {
            found,
            known: VERSION,
        });
    }
    let application = pragma(connection, "application_id")?;
    if found > 0 && application != APPLICATION_ID {
        let reason = format!("it belongs to another program ({application:#x})");
        return Err(JournalError::Damaged(reason));
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> JournalResult<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = pragma(&transaction, "user_version")?;
    let done = usize::try_from(found).map_err(|_| JournalError::Damaged("version".into()))?;
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    if found < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::record::{Change, Deleted};

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let connection = open(&path).unwrap();
        connection
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        drop(connection);
        let error = open(&path).unwrap_err();
        assert!(
            matches!(error, JournalError::NewerSchema { found, .. } if found == VERSION + 1),
            "{error}"
        );
        let connection = Connection::open(&path).unwrap();
        assert_eq!(pragma(&connection, "user_version").unwrap(), VERSION + 1);
    }

    #[test]
    fn a_delete_of_version_1_goes_as_it_would_have_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        let sql = "INSERT INTO records (folded, key, seq, base, kind, changed_at, attempts) \
                   VALUES ('a', 'a', 7, '\"1\"', 'delete', 0, 0)";
        connection.execute_batch(sql).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
            .pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        drop(connection);
        let database = super::super::database::Database(open(&path).unwrap());
        let mirror = database.load().unwrap();
        let change = mirror.records().next().map(|record| record.change.clone());
        assert_eq!(change, Some(Change::Delete(Deleted::Moved)));
        let version = pragma(&database.0, "user_version").unwrap();
        assert_eq!(version, VERSION);
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        drop(connection);
        assert!(matches!(open(&path), Err(JournalError::Damaged(_))));
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        assert!(open(&path).is_err());
    }
}
