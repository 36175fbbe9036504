//! SQLite, which Audacity's projects are: journals, shared memory, locks and large pages.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use super::{Studio, program, run};

/// Runs statements in a process of their own.
#[track_caller]
fn sqlite(database: &Path, statements: &str) -> String {
    // It waits for the locks of others, says nothing about it, and stops at the first error.
    let args = [
        "-bail",
        "-cmd",
        ".timeout 30000",
        database.to_str().unwrap(),
        statements,
    ];
    run("sqlite3", &args, Path::new("/"))
}

fn fill(mode: &str) -> String {
    let mut statements = format!(
        "PRAGMA page_size=65536; PRAGMA journal_mode={mode}; \
         CREATE TABLE blocks (id INTEGER PRIMARY KEY, samples BLOB NOT NULL);"
    );
    for id in 0..30 {
        // Each is a transaction with its own syncs. The bytes are not random: both sides do this.
        let samples = format!("CAST(printf('%.*c%d', 100000, 'x', {id}) AS BLOB)");
        statements += &format!("INSERT INTO blocks VALUES ({id}, {samples});");
    }
    statements += "DELETE FROM blocks WHERE id % 3 = 0; UPDATE blocks SET samples = zeroblob(70000) \
                   WHERE id % 5 = 0;";
    statements
}

fn count(database: &Path) -> String {
    sqlite(
        database,
        "SELECT count(*), sum(length(samples)) FROM blocks",
    )
}

#[test]
fn a_database_is_whole_in_every_journal_mode() {
    let mut studio = Studio::open();
    let modes = ["delete", "truncate", "persist", "wal"];
    for mode in modes {
        for folder in studio.both() {
            let database = folder.join(format!("projects/{mode}.db"));
            sqlite(&database, &fill(mode));
        }
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for mode in modes {
            let name = format!("projects/{mode}.db");
            let (ours, theirs) = (studio.mounted(&name), studio.plain(&name));
            assert_eq!(sqlite(&ours, "PRAGMA integrity_check"), "ok\n", "{mode}");
            assert_eq!(sqlite(&ours, "PRAGMA page_size"), "65536\n");
            assert_eq!(count(&ours), count(&theirs), "{mode}");
            assert_eq!(sqlite(&ours, ".dump"), sqlite(&theirs, ".dump"), "{mode}");
            assert_eq!(
                fs::read(&ours).unwrap(),
                fs::read(&theirs).unwrap(),
                "{mode}"
            );
        }
    }
}

#[test]
fn a_write_ahead_log_is_shared_by_processes() {
    let mut studio = Studio::open();
    let database = studio.mounted("projects/shared.db");
    sqlite(
        &database,
        "PRAGMA page_size=65536; PRAGMA journal_mode=wal; \
         CREATE TABLE takes (writer INTEGER, number INTEGER, samples BLOB);",
    );
    let start = |writer: u32| {
        let mut statements = String::new();
        for number in 0..40 {
            statements += &format!(
                "INSERT INTO takes VALUES ({writer}, {number}, zeroblob(20000)); \
                 SELECT count(*) > {number} FROM takes WHERE writer = {writer};"
            );
        }
        let args = [
            "-bail",
            "-cmd",
            ".timeout 60000",
            database.to_str().unwrap(),
            &statements,
        ];
        program("sqlite3", &args, Path::new("/"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let writers = [start(1), start(2)];
    for _ in 0..10 {
        // A reader sees whole transactions only.
        let check = sqlite(&database, "PRAGMA integrity_check");
        assert_eq!(check, "ok\n");
    }
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaint}");
        assert_eq!(said, "1\n".repeat(40));
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        assert_eq!(sqlite(&database, "PRAGMA integrity_check"), "ok\n");
        let counted = sqlite(
            &database,
            "SELECT writer, count(*) FROM takes GROUP BY writer",
        );
        assert_eq!(counted, "1|40\n2|40\n");
    }
}

#[test]
fn an_audacity_project_is_compacted_by_renames() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        let project = folder.join("projects/song.aup3");
        let temporary = folder.join("projects/song.aup3_compact_temp");
        let back = folder.join("projects/song.aup3_compact_back");
        let exclusive = "PRAGMA locking_mode=exclusive;";
        sqlite(&project, &format!("{exclusive}{}", fill("wal")));
        let into = format!("VACUUM INTO '{}'", temporary.display());
        sqlite(&project, &format!("{exclusive}{into}"));
        fs::rename(&project, &back).unwrap();
        fs::rename(&temporary, &project).unwrap();
        sqlite(
            &project,
            "PRAGMA locking_mode=exclusive; PRAGMA journal_mode=wal; \
                          INSERT INTO blocks VALUES (1000, x'00');",
        );
        fs::remove_file(&back).unwrap();
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        studio.assert_same("projects");
        let project = studio.mounted("projects/song.aup3");
        assert_eq!(sqlite(&project, "PRAGMA integrity_check"), "ok\n");
        assert_eq!(count(&project), count(&studio.plain("projects/song.aup3")));
    }
    assert_eq!(studio.model.keys(), ["projects/song.aup3"]);
}
