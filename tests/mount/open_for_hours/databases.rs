//! SQLite projects that stay open, with their logs and journals.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::*;

pub(super) const KEY: &str = "projects/song.aup3";

/// A project in which every transaction belongs together.
pub(super) struct Project {
    connection: Connection,
    pub(super) takes: i64,
}

impl Project {
    pub(super) fn open(path: &Path, mode: &str, exclusive: bool) -> Project {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(DEADLINE).unwrap();
        if exclusive {
            connection
                .pragma_update(None, "locking_mode", "EXCLUSIVE")
                .unwrap();
        }
        connection
            .pragma_update(None, "journal_mode", mode)
            .unwrap();
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .unwrap();
        let tables = "CREATE TABLE IF NOT EXISTS takes (n INTEGER PRIMARY KEY, samples BLOB);
                      CREATE TABLE IF NOT EXISTS last (one INTEGER PRIMARY KEY, n INTEGER);
                      INSERT OR IGNORE INTO last VALUES (1, 0);";
        connection.execute_batch(tables).unwrap();
        let takes = last(&connection);
        Project { connection, takes }
    }

    /// Adds so many megabytes that stay as they are.
    pub(super) fn fill(&self, megabytes: u64) {
        let sql = "CREATE TABLE IF NOT EXISTS old (samples BLOB)";
        self.connection.execute_batch(sql).unwrap();
        for _ in 0..megabytes {
            let sql = "INSERT INTO old VALUES (randomblob(1000000))";
            self.connection.execute_batch(sql).unwrap();
        }
    }

    pub(super) fn record(&mut self) {
        self.takes += 1;
        let n = self.takes;
        // Old pages change too.
        let sql = format!(
            "BEGIN; INSERT INTO takes VALUES ({n}, randomblob(20000));
             UPDATE takes SET samples = randomblob(20000) WHERE n = {n} / 2;
             UPDATE last SET n = {n}; COMMIT;"
        );
        self.connection.execute_batch(&sql).unwrap();
    }
}

fn last(connection: &Connection) -> i64 {
    let sql = "SELECT n FROM last";
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What another machine finds: the database, and what lies beside it in the bucket.
pub(super) fn download(model: &R2Model, to: &Path) -> PathBuf {
    let path = to.join("song.aup3");
    for ending in ["", "-wal", "-journal"] {
        let beside = to.join(format!("song.aup3{ending}"));
        let _ = fs::remove_file(&beside);
        if let Some(object) = model.get(&format!("{KEY}{ending}")) {
            fs::write(&beside, &object.bytes).unwrap();
        }
    }
    path
}

/// Opens what was downloaded; fails if it is not whole, and returns the last take in it.
#[track_caller]
pub(super) fn check(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    let ask =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
    let checked = ask("PRAGMA integrity_check").unwrap();
    assert_eq!(checked, "ok".to_owned().into());
    let Ok(rusqlite::types::Value::Integer(last)) = ask("SELECT n FROM last") else {
        return 0;
    };
    assert_eq!(ask("SELECT count(*) FROM takes").unwrap(), last.into());
    last
}

/// Looks at the bucket until it has shown so many versions, while the project is recorded to.
fn record_and_look(model: &R2Model, mount: &Mount, project: &mut Project, versions: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    let mut before = 0;
    let end = Instant::now() + DEADLINE;
    while seen.len() < versions {
        project.record();
        std::thread::sleep(Duration::from_millis(10));
        assert!(Instant::now() < end, "{seen:?}\n{}", mount.log());
        let Some(object) = model.stat(KEY) else {
            continue;
        };
        if seen.insert(object.write_count) {
            let now = check(&download(model, dir.path()));
            assert!(now >= before, "take {before} was there, and now {now}");
            before = now;
            for ending in ["-wal", "-journal", "-shm"] {
                // One that a session before has left is of no transaction: its header is zeros.
                let beside = model.get(&format!("{KEY}{ending}"));
                let is_nothing = |bytes: &[u8]| bytes.iter().take(8).all(|byte| *byte == 0);
                assert!(
                    beside.is_none_or(|object| is_nothing(&object.bytes)),
                    "{ending}"
                );
            }
        }
    }
    assert!(before > 0);
}

/// Two sessions, the second of which begins from the bucket.
fn record_two_sessions(mode: &str, exclusive: bool) {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &QUICK);
    for _ in 0..2 {
        let mut project = Project::open(&mount.path(KEY), mode, exclusive);
        record_and_look(&model, &mount, &mut project, 2);
        let takes = project.takes;
        drop(project);
        mount.wait_uploaded();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(&download(&model, dir.path())), takes, "{mode}");
        assert!(!mount.log().contains("plain file"), "{}", mount.log());
        mount.unmount();
        mount.remove_cache();
        mount.mount();
    }
    assert_eq!(model.write_rate_violations(), []);
    assert_eq!(mount.status()["conflicts"], 0);
}

#[test]
fn an_open_project_with_a_log_is_in_the_bucket_as_one_whole_database() {
    record_two_sessions("wal", false);
}

#[test]
fn an_open_project_of_one_program_is_in_the_bucket_as_one_whole_database() {
    record_two_sessions("wal", true);
}

#[test]
fn an_open_project_with_a_journal_is_in_the_bucket_as_one_whole_database() {
    record_two_sessions("delete", false);
}

#[test]
fn an_open_project_that_keeps_its_journal_is_in_the_bucket_as_one_whole_database() {
    record_two_sessions("persist", false);
}

#[test]
fn a_killed_mount_brings_the_project_and_its_log() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &QUICK);
    let mut project = Project::open(&mount.path(KEY), "wal", true);
    record_and_look(&model, &mount, &mut project, 2);
    let takes = project.takes;
    mount.kill();
    // What it had open is dead; it says nothing more to the disk.
    std::mem::forget(project);
    mount.mount();
    mount.wait_uploaded();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(check(&download(&model, dir.path())), takes);
    let mut project = Project::open(&mount.path(KEY), "wal", true);
    assert_eq!(project.takes, takes);
    // The log in the bucket is of the time before.
    record_over_a_log(&model, &mount, &mut project);
    let takes = project.takes;
    drop(project);
    mount.wait_uploaded();
    assert_eq!(check(&download(&model, dir.path())), takes);
}

/// The bucket holds a log from before: it is made empty before a newer database comes.
fn record_over_a_log(model: &R2Model, mount: &Mount, project: &mut Project) {
    let log = || {
        model
            .stat(&format!("{KEY}-wal"))
            .map_or(0, |object| object.size)
    };
    assert!(log() > 0);
    let first = model.stat(KEY).unwrap().write_count;
    let dir = tempfile::tempdir().unwrap();
    let end = Instant::now() + DEADLINE;
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        project.record();
        std::thread::sleep(Duration::from_millis(10));
        assert!(Instant::now() < end, "{seen:?}\n{}", mount.log());
        let count = model.stat(KEY).unwrap().write_count;
        if count > first && seen.insert(count) {
            assert_eq!(log(), 0, "it would undo what is newer");
            check(&download(model, dir.path()));
        }
    }
}

#[test]
fn the_log_of_a_conflict_copy_goes_with_it() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &QUICK);
    let mut project = Project::open(&mount.path(KEY), "wal", true);
    record_and_look(&model, &mount, &mut project, 1);
    model.put(KEY, "theirs");
    let end = Instant::now() + DEADLINE;
    let copies = || {
        let keys = model.keys();
        keys.into_iter()
            .filter(|key| key.contains("(conflict "))
            .collect::<Vec<_>>()
    };
    while copies().is_empty() {
        project.record();
        std::thread::sleep(Duration::from_millis(20));
        assert!(Instant::now() < end, "{}", mount.log());
    }
    let names = crate::crash::names(&mount, "projects");
    assert!(names.contains(&"song.aup3".into()), "{names:?}");
    assert!(!names.contains(&"song.aup3-wal".into()), "{names:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy");
    fs::write(&path, &model.get(&copies()[0]).unwrap().bytes).unwrap();
    assert!(check(&path) > 0);
    let takes = project.takes;
    drop(project);
    mount.wait_uploaded();
    let main = copies()
        .into_iter()
        .find(|key| key.ends_with(".aup3"))
        .unwrap();
    for ending in ["", "-wal"] {
        let beside = dir.path().join(format!("copy{ending}"));
        let _ = fs::remove_file(&beside);
        if let Some(object) = model.get(&format!("{main}{ending}")) {
            fs::write(&beside, &object.bytes).unwrap();
        }
    }
    assert_eq!(check(&path), takes);
    assert_eq!(model.get(KEY).unwrap().bytes, "theirs");
    assert!(model.get(&format!("{KEY}-wal")).is_none());
    assert_eq!(mount.status()["conflicts"], 1);
}

#[test]
fn a_file_that_is_no_database_is_protected_as_it_is() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &QUICK);
    let path = mount.path("projects/odd");
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(10_000, 7);
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    wait_until("a snapshot", &mount, || model.get("projects/odd").is_some());
    assert!(model.get("projects/odd").unwrap().bytes == bytes);
    assert!(mount.log().contains("plain file"), "{}", mount.log());
}
