//! `index.db`: which bytes of which version lie in which file, and the listings last seen.
//!
//! The only place in the cache that knows SQLite. It is disposable: what cannot be read is made
//! anew. Commits survive a killed process; a power cut may cost the last of them, never the
//! database (WAL, `synchronous = NORMAL`). Names and ranges in use live in memory, so nothing here
//! is on a hot path; two connections keep a look-up from waiting for a writer.
//!
//! The schema is described in `docs/formats.md`, section "Cache".

mod amend;
mod entries;
mod listings;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

pub(super) use entries::{Cursor, Row};

/// File name of the index in the cache directory.
pub(super) const INDEX_NAME: &str = "index.db";
/// What SQLite puts beside it.
const SIDE_FILES: &[&str] = &["index.db-wal", "index.db-shm", "index.db-journal"];
/// Raised with every change of the schema. A cache is not migrated, it is made anew;
const SCHEMA_VERSION: i64 = 2;
/// but from this version, whose listings alone had another form.
const LISTINGS_BEFORE: i64 = 1;
/// The log is copied back into the database when it is larger; bounds it on disk.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// Only a checkpoint holds a lock that a commit may meet, and not for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE entries (
    id BLOB NOT NULL UNIQUE,
    key TEXT NOT NULL,
    etag TEXT NOT NULL,
    size INTEGER NOT NULL,
    last_modified_ms INTEGER,
    complete INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL,
    ranges BLOB NOT NULL,
    synced INTEGER NOT NULL,
    fetched_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER NOT NULL,
    PRIMARY KEY (key, etag)
) WITHOUT ROWID;
CREATE INDEX entries_by_use ON entries (used_at_ms, id);
CREATE INDEX entries_by_age ON entries (fetched_at_ms, id);
CREATE TABLE state (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
";

const LISTINGS_SCHEMA: &str = "
CREATE TABLE listings (
    number INTEGER PRIMARY KEY,
    folder TEXT NOT NULL,
    saved_at_ms INTEGER NOT NULL,
    whole INTEGER NOT NULL
);
CREATE UNIQUE INDEX listings_by_folder ON listings (folder) WHERE whole = 1;
CREATE TABLE listed (
    listing INTEGER NOT NULL,
    name TEXT NOT NULL,
    spelling TEXT,
    etag BLOB,
    size INTEGER,
    last_modified_ms INTEGER,
    origin INTEGER,
    PRIMARY KEY (listing, name)
) WITHOUT ROWID;
CREATE INDEX listed_folders ON listed (listing, name) WHERE etag IS NULL;
";

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// Tells by its link count whether the directory was emptied under us.
    link: File,
    /// Held for one short transaction at a time; taken before nothing else.
    writer: Mutex<Connection>,
    /// Held for one look-up at a time; taken before nothing else.
    reader: Mutex<Connection>,
    /// SQLite found damage: the index is to be made anew.
    broken: AtomicBool,
    changes: AtomicU64,
    /// Different for each index of this process: a listing's number says nothing in another.
    instance: u64,
}

impl Index {
    /// Opens the index in `dir`, or makes it anew if it is missing, damaged or of another version.
    ///
    /// What it says of another source is dropped: the same name and tag there say nothing here.
    /// After an unclean boot the partial entries are dropped, since only whole files are known to
    /// have reached the disk.
    pub(super) fn open(dir: &Path, source: &str) -> io::Result<Index> {
        let path = dir.join(INDEX_NAME);
        let writer = match connect_checked(&path) {
            Ok(writer) => writer,
            Err(error) => {
                if path.exists() {
                    log::warn!("the cache index is made anew: {error}");
                }
                Index::erase(dir)?;
                create(&path)?
            }
        };
        let reader = connect(&path).map_err(io_error)?;
        let instance = next_instance();
        let index = Index {
            link: File::open(&path)?,
            path,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            broken: AtomicBool::new(false),
            // Different for each index, so that one made anew is exported.
            changes: AtomicU64::new(instance << 40),
            instance,
        };
        index.begin_run(source)?;
        Ok(index)
    }

    /// Removes the index in `dir` and what lies beside it.
    pub(super) fn erase(dir: &Path) -> io::Result<()> {
        for name in SIDE_FILES.iter().chain([&INDEX_NAME]) {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Which of this process's indexes it is.
    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    /// Returns a number that grows with each change of an entry.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether the index can be relied upon: not damaged, and still in its directory.
    pub(super) fn is_sound(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && self.link.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    /// Marks a clean end: all partial entries that are left were synced. Survives a power cut.
    pub(super) fn end_run(&self) -> io::Result<()> {
        self.write(|connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            set_state(connection, "clean", "1")
        })
    }

    /// Copies the log back into the database if it has grown. Slow: syncs. Blocks no commit.
    pub(super) fn checkpoint(&self) -> io::Result<()> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if fs::metadata(log).is_ok_and(|meta| meta.len() < CHECKPOINT_BYTES) || !self.is_sound() {
            return Ok(());
        }
        let checkpointed = connect(&self.path).and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        });
        self.checked(checkpointed)
    }

    /// Drops what an unclean boot makes doubtful, and marks this run as not yet ended.
    fn begin_run(&self, source: &str) -> io::Result<()> {
        let boot_id = boot_id();
        self.write(|connection| {
            let clean = get_state(connection, "clean")?.is_some_and(|clean| clean == "1");
            let same_boot = get_state(connection, "boot_id")? == Some(boot_id.clone());
            let same_source = get_state(connection, "source")?.is_none_or(|it| it == source);
            let transaction = connection.transaction()?;
            if !same_source {
                for table in ["entries", "listed", "listings"] {
                    transaction.execute(&format!("DELETE FROM {table}"), [])?;
                }
            }
            if !same_boot {
                transaction.execute(
                    "DELETE FROM entries WHERE complete = 0 AND (synced = 0 OR ?1)",
                    [!clean],
                )?;
                if !clean {
                    // The journal's commits may have reached the disk without what they amended.
                    transaction.execute("UPDATE listings SET whole = 0", [])?;
                    transaction.execute("DELETE FROM listed", [])?;
                }
            }
            // Their names go behind: there may be many.
            transaction.execute("UPDATE listings SET whole = 0 WHERE whole != 1", [])?;
            set_state(&transaction, "clean", "0")?;
            set_state(&transaction, "boot_id", &boot_id)?;
            set_state(&transaction, "source", source)?;
            transaction.commit()
        })
    }

    /// Makes a change of an entry.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> io::Result<T> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.write(work)
    }

    fn write<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        let result = work(&mut self.writer.lock());
        self.checked(result)
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        let result = work(&self.reader.lock());
        self.checked(result)
    }

    /// Notices damage, so that the index is made anew at the next occasion.
    fn checked<T>(&self, result: rusqlite::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let damaged = matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) || matches!(
                error,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
            );
            if damaged {
                self.broken.store(true, Ordering::Relaxed);
            }
            io_error(error)
        })
    }
}

fn next_instance() -> u64 {
    static INDEXES: AtomicU64 = AtomicU64::new(1);
    INDEXES.fetch_add(1, Ordering::Relaxed)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // A commit must not sync now and then: checkpoints are made by the housekeeping thread.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens an index that exists and has our schema; any error means that it must be made anew.
fn connect_checked(path: &Path) -> io::Result<Connection> {
    if !path.try_exists()? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut connection = connect(path).map_err(io_error)?;
    let mut version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(io_error)?;
    if version == LISTINGS_BEFORE {
        renew_listings(&mut connection).map_err(io_error)?;
        version = SCHEMA_VERSION;
    }
    if version != SCHEMA_VERSION {
        return Err(io::Error::other(format!(
            "its schema has version {version}, not {SCHEMA_VERSION}"
        )));
    }
    // Touches each table once, so that gross damage shows now.
    for table in ["entries", "listings", "listed", "state"] {
        connection
            .query_row(&format!("SELECT 1 FROM {table} LIMIT 1"), [], |_| Ok(()))
            .optional()
            .map_err(io_error)?;
    }
    Ok(connection)
}

fn create(path: &Path) -> io::Result<Connection> {
    // SQLite gives what it puts beside a database the database's mode.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut connection = connect(path).map_err(io_error)?;
    fill_schema(&mut connection).map_err(io_error)?;
    Ok(connection)
}

fn fill_schema(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(LISTINGS_SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Brings an index of the version before to this one: its listings are forgotten, what is cached stays.
fn renew_listings(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch("DROP TABLE listed; DROP TABLE listings;")?;
    transaction.execute_batch(LISTINGS_SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn get_state(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT value FROM state WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
}

fn set_state(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .execute("REPLACE INTO state VALUES (?1, ?2)", [name, value])
        .map(drop)
}

/// Returns the kernel's name for this boot; without one every start counts as a boot.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
        |_| crate::disk::FileId::random().to_string(),
        |id| id.trim().to_owned(),
    )
}

fn io_error(error: rusqlite::Error) -> io::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => io::Error::new(io::ErrorKind::StorageFull, error),
        _ => io::Error::other(error),
    }
}

/// Returns a time in milliseconds since 1970; times before count as 1970.
pub(super) fn to_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the time that [`to_ms`] was given, to the millisecond.
pub(super) fn from_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_directory_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        assert!(index.is_sound());
        Index::erase(dir.path()).unwrap();
        assert!(!index.is_sound());
        assert!(Index::open(dir.path(), "a").unwrap().is_sound());
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(Index::open(dir.path(), "a").unwrap());
        fs::write(dir.path().join(INDEX_NAME), [7; 8192]).unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        assert!(index.is_sound());
        assert_eq!(index.totals().unwrap(), (0, 0));
    }

    #[test]
    fn an_index_of_another_version_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        index
            .write(|connection| connection.pragma_update(None, "user_version", 99))
            .unwrap();
        drop(index);
        Index::open(dir.path(), "a").unwrap();
        assert!(connect_checked(&dir.path().join(INDEX_NAME)).is_ok());
    }

    #[test]
    fn what_is_cached_outlives_another_form_of_the_listings() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        let entry = "INSERT INTO entries VALUES (x'00', 'k', 't', 1, 0, 1, 1, x'', 1, 0, 0)";
        let before = "DROP TABLE listed; DROP TABLE listings; \
                      CREATE TABLE listings (number INTEGER PRIMARY KEY); \
                      CREATE TABLE listed (listing INTEGER); PRAGMA user_version = 1";
        for batch in [entry, before] {
            index
                .write(|connection| connection.execute_batch(batch))
                .unwrap();
        }
        drop(index);
        let index = Index::open(dir.path(), "a").unwrap();
        assert_eq!(index.totals().unwrap(), (1, 1));
        assert_eq!(index.load_listing("a/").unwrap(), None);
        assert!(connect_checked(&dir.path().join(INDEX_NAME)).is_ok());
    }

    #[test]
    fn a_checkpoint_bounds_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), "a").unwrap();
        for _ in 0..3 {
            let names: Vec<String> = (0..30_000).map(|i| format!("folder-{i:06}/")).collect();
            index
                .save_listing("", &[], &names, SystemTime::now(), &|| true)
                .unwrap();
            index.checkpoint().unwrap();
        }
        let log = fs::metadata(dir.path().join("index.db-wal")).unwrap().len();
        assert!(log < 4 * CHECKPOINT_BYTES, "{log}");
    }
}
