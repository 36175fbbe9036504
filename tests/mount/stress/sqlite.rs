//! SQLite: three processes write one database, and one of them is killed again and again. What a
//! writer was told is committed is there, each transaction whole or not at all, in every journal mode.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::crash::random::Random;

const WRITERS: u64 = 3;
/// Journal mode and page size; Audacity's projects have the large pages.
const DATABASES: [(&str, u32); 4] = [
    ("wal", 65536),
    ("delete", 4096),
    ("truncate", 65536),
    ("persist", 4096),
];
/// Rows of a transaction.
const TAKES: u64 = 3;
/// The longest time that all writers live.
const LIFE_MILLIS: u64 = 400;
/// More transactions than a writer gets done before it is killed.
const TRANSACTIONS: usize = 2000;

/// The bytes of a row, as an expression: they tell from which transaction they are.
const SAMPLES: &str = "CAST(printf('%.*c', 500 + 997 * (number % 9), char(97 + (number + take + writer) % 26)) AS BLOB)";

/// A process that commits one transaction after the other and says the number of each.
struct Writer {
    process: Child,
    name: u64,
}

impl Writer {
    fn start(database: &Path, name: u64) -> Writer {
        let mut transaction = format!(
            "BEGIN IMMEDIATE; UPDATE writers SET number = number + 1 WHERE writer = {name};\n"
        );
        for take in 0..TAKES {
            transaction += &format!(
                "INSERT INTO takes SELECT writer, number, {take}, {SAMPLES} FROM \
                 (SELECT writer, number, {take} AS take FROM writers WHERE writer = {name});\n"
            );
        }
        // Rows go as well, so that pages do; a look at what is committed must not fail either.
        transaction += &format!(
            "DELETE FROM takes WHERE writer = {name} AND number < (SELECT number - 40 FROM writers \
             WHERE writer = {name}); COMMIT;\nSELECT number FROM writers WHERE writer = {name};\n"
        );
        let mut process = sqlite3(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sqlite3: scripts/test installs it");
        let mut input = process.stdin.take().unwrap();
        // It is killed in the middle of it, and the pipe holds less.
        std::thread::spawn(move || input.write_all(transaction.repeat(TRANSACTIONS).as_bytes()));
        Writer { process, name }
    }

    /// Kills it; returns the last transaction that it was told is committed.
    fn kill(mut self) -> Option<u64> {
        self.process.kill().unwrap();
        let said = BufReader::new(self.process.stdout.take().unwrap());
        let lines = said.lines().map(|line| line.unwrap());
        // A line may be cut off: then it is not known what it was to say.
        let last = lines.filter_map(|line| line.parse().ok()).last();
        let complaint = std::io::read_to_string(self.process.stderr.take().unwrap()).unwrap();
        assert_eq!(complaint, "", "writer {}", self.name);
        self.process.wait().unwrap();
        last
    }
}

/// SQLite's shell, which waits for the locks of others and stops at the first error.
fn sqlite3(database: &Path) -> Command {
    let args = ["-bail", "-batch", "-cmd", ".timeout 60000"];
    let mut command = program("sqlite3", &args, Path::new("/"));
    command.arg(database);
    command
}

#[track_caller]
fn ask(database: &Path, statements: &str) -> String {
    let mut command = sqlite3(database);
    command.arg(statements);
    run(command)
}

fn make(database: &Path, mode: &str, page_size: u32) {
    let mut statements = format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode={mode}; \
         CREATE TABLE writers (writer INTEGER PRIMARY KEY, number INTEGER); \
         CREATE TABLE takes (writer, number, take, samples, PRIMARY KEY (writer, number, take));"
    );
    for writer in 0..WRITERS {
        statements += &format!("INSERT INTO writers VALUES ({writer}, 0);");
    }
    ask(database, &statements);
}

/// The database is sound, has every transaction that a writer was told of, and no part of one.
#[track_caller]
fn check(database: &Path, told: &[u64; WRITERS as usize]) -> Vec<u64> {
    assert_eq!(ask(database, "PRAGMA integrity_check"), "ok\n");
    let numbers = ask(database, "SELECT number FROM writers ORDER BY writer");
    let numbers: Vec<u64> = numbers.lines().map(|line| line.parse().unwrap()).collect();
    for (writer, told) in told.iter().enumerate() {
        assert!(
            numbers[writer] >= *told,
            "{}: {told} was committed by {writer}, and {} is the last",
            database.display(),
            numbers[writer]
        );
    }
    let wrong = format!(
        "SELECT count(*) FROM takes WHERE samples <> {SAMPLES}; \
         SELECT count(*) FROM writers AS w WHERE (SELECT count(*) FROM takes WHERE writer = w.writer) \
         <> {TAKES} * min(number, 41); \
         SELECT count(*) FROM takes JOIN writers AS w USING (writer) \
         WHERE takes.number NOT BETWEEN w.number - 40 AND w.number;"
    );
    assert_eq!(ask(database, &wrong), "0\n0\n0\n", "{}", database.display());
    numbers
}

/// Kills writers until the time is over; returns what each was told, and how many were killed.
fn torture(database: &Path, random: &mut Random) -> ([u64; WRITERS as usize], u64) {
    let mut told = [0; WRITERS as usize];
    let mut kills = 0;
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|name| Writer::start(database, name))
        .collect();
    let mut note = |writer: Writer| {
        let name = writer.name;
        told[name as usize] = writer.kill().unwrap_or(0).max(told[name as usize]);
        name
    };
    let end = Instant::now() + Duration::from_secs(seconds());
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.below(LIFE_MILLIS)));
        let victim = random.below(WRITERS) as usize;
        let name = note(writers.swap_remove(victim));
        kills += 1;
        writers.push(Writer::start(database, name));
        if kills % 8 == 0 {
            // While the others write.
            assert_eq!(ask(database, "PRAGMA integrity_check"), "ok\n");
        }
    }
    for writer in writers {
        note(writer);
    }
    (told, kills + WRITERS)
}

fn torture_all(passthrough: &str) {
    let mut arena = Arena::open(passthrough);
    let mut random = Random::new(seed());
    let database = |arena: &Arena, mode| arena.folder().join(format!("{mode}.db"));
    let (mut all_told, mut kills) = (Vec::new(), 0);
    for (mode, page_size) in DATABASES {
        let path = database(&arena, mode);
        make(&path, mode, page_size);
        let (told, killed) = arena.without_a_cache_that_lasts(|| torture(&path, &mut random));
        let numbers = check(&path, &told);
        assert!(
            told.iter().sum::<u64>() > 0,
            "{mode}: nothing was committed"
        );
        kills += killed;
        all_told.push(numbers.try_into().unwrap());
    }
    let transactions: u64 = all_told.iter().flatten().sum();
    println!("figures: {kills} writers killed, {transactions} transactions");
    for from_the_bucket in [false, true] {
        if from_the_bucket {
            arena.mount.wait_uploaded();
        }
        arena.mount.unmount();
        if from_the_bucket {
            arena.mount.remove_cache();
        }
        arena.mount.mount();
        for ((mode, _), told) in DATABASES.iter().zip(&all_told) {
            assert_eq!(check(&database(&arena, mode), told), told, "{mode}");
        }
    }
    arena.check();
}

#[test]
fn databases_outlive_killed_writers_with_passthrough() {
    torture_all("true");
}

#[test]
fn databases_outlive_killed_writers_without_passthrough() {
    torture_all("false");
}
