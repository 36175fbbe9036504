//! Copies of other programs' SQLite databases: made whole by SQLite itself.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Why a copy cannot be made whole.
#[derive(Debug, thiserror::Error)]
#[error("SQLite says: {0}")]
pub struct RecoverError(String);

impl From<rusqlite::Error> for RecoverError {
    fn from(error: rusqlite::Error) -> RecoverError {
        RecoverError(error.to_string())
    }
}

/// Brings what lies beside the copy of a database (`-wal`, or a `-journal` of a transaction that was
/// not over) into it, as SQLite does after a crash of the program, and checks the result. The
/// database keeps its journal mode; what lay beside it is gone or empty.
///
/// # Errors
/// It is no database, is encrypted, or is damaged.
pub fn recover(copy: &Path) -> Result<(), RecoverError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)?;
    // Nobody else has it open, and it is of no use after a crash.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let count = "SELECT count(*) FROM sqlite_schema";
    connection.query_row(count, [], |row| row.get::<_, i64>(0))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match check {
        Ok(said) if said != "ok" => return Err(RecoverError(said)),
        Err(error) if is_damage(&error) => return Err(error.into()),
        // It may need functions or modules that only its own program has.
        Ok(_) | Err(_) => {}
    }
    connection.close().map_err(|(_, error)| error.into())
}

/// Looks whether a database of ours is whole, without changing it. Nobody else may use it meanwhile.
///
/// # Errors
/// It is damaged, or no database.
pub fn check(path: &Path) -> Result<(), RecoverError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let said = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))?;
    match said.as_str() {
        "ok" => Ok(()),
        _ => Err(RecoverError(said)),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Copies a database and what lies beside it as it is while it is used.
    fn copy_in_use(mode: &str, statements: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "journal_mode", mode)
            .unwrap();
        connection.pragma_update(None, "cache_size", 2).unwrap();
        let made = "CREATE TABLE t (n INTEGER, b BLOB); INSERT INTO t VALUES (1, zeroblob(99999));";
        connection.execute_batch(made).unwrap();
        connection.execute_batch(statements).unwrap();
        let copy = dir.path().join("copy");
        for side in ["", "-wal", "-journal"] {
            let beside = |path: &Path| format!("{}{side}", path.display());
            if let Ok(bytes) = fs::read(beside(&path)) {
                fs::write(beside(&copy), bytes).unwrap();
            }
        }
        (dir, copy)
    }

    fn numbers(path: &Path) -> (i64, i64) {
        let connection = Connection::open(path).unwrap();
        let sql = "SELECT sum(n), sum(length(b)) FROM t";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        connection.query_row(sql, [], read).unwrap()
    }

    #[test]
    fn a_log_is_brought_in_and_a_transaction_that_is_not_over_is_undone() {
        let change = "INSERT INTO t VALUES (2, zeroblob(1)); BEGIN; UPDATE t SET b = zeroblob(50000); \
                      UPDATE t SET n = 100;";
        for (mode, side) in [
            ("wal", "-wal"),
            ("delete", "-journal"),
            ("persist", "-journal"),
        ] {
            let (_dir, copy) = copy_in_use(mode, change);
            assert!(
                fs::metadata(format!("{}{side}", copy.display()))
                    .unwrap()
                    .len()
                    > 0
            );
            recover(&copy).unwrap();
            let alone = copy.with_extension("alone");
            fs::copy(&copy, &alone).unwrap();
            assert_eq!(numbers(&alone), (3, 100_000), "{mode}");
            let header = fs::read(&copy).unwrap()[18];
            assert_eq!(header == 2, mode == "wal", "it keeps its mode");
        }
    }

    #[test]
    fn what_is_no_database_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut bytes = b"SQLite format 3\0".to_vec();
        bytes.resize(8192, 0x55);
        fs::write(&path, bytes).unwrap();
        recover(&path).unwrap_err();
    }
}
