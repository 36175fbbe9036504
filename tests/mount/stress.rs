//! Programs that were written to find out what a file system does wrong under load: fio, stress-ng,
//! dbench, bonnie++, and SQLite with writers that are killed. Meanwhile all is uploaded and the cache
//! is removed again and again; in the end the bucket and a new mount of it have the same bytes.
//!
//! `STRESS_SECONDS` (of each stressor and database; fio and dbench take ten times as long) and
//! `STRESS_SEED` choose another run.

mod benches;
mod fio;
mod sqlite;
mod stressors;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r2_model::R2Model;

use crate::common::mount::Mount;
use crate::crash::random::setting;
use crate::programs::{contents, program};

/// How long each works in the normal suite.
const SECONDS: u64 = 2;
/// A look at the cache directory, and it is gone.
const REMOVED_EVERY: Duration = Duration::from_millis(900);

fn seconds() -> u64 {
    setting("STRESS_SECONDS", SECONDS)
}

/// How long a program works that does many things: in the long form ten times as long.
fn program_seconds() -> u64 {
    seconds() * if is_long() { 10 } else { 1 }
}

fn seed() -> u64 {
    setting("STRESS_SEED", 1)
}

/// Whether the long form was asked for.
fn is_long() -> bool {
    std::env::var_os("STRESS_SECONDS").is_some()
}

/// What the log may say: the cache is removed, mounts end with a queue, and what is written all the time
/// by a map gets no snapshot.
const EXPECTED: [&str; 4] = [
    "the cache was emptied",
    "voicebeatfs::cache] cache index: ",
    "remain in STAGING_DIR",
    "it was changed while it was copied",
];

/// A mounted bucket and the folder in which the programs work.
struct Arena {
    model: R2Model,
    mount: Mount,
}

const FOLDER: &str = "projects/stress";

impl Arena {
    fn open(passthrough: &str) -> Arena {
        println!(
            "STRESS_SEED={} STRESS_SECONDS={} PASSTHROUGH={passthrough}",
            seed(),
            seconds()
        );
        let model = R2Model::start();
        let settings = [
            ("PASSTHROUGH", passthrough),
            ("DELETE_LIMIT", "none"),
            ("SNAPSHOT_QUIET_SECONDS", "1"),
            ("SNAPSHOT_SECONDS", "2"),
        ];
        let mount = Mount::with(&model, &settings);
        fs::create_dir(mount.path(FOLDER)).unwrap();
        Arena { model, mount }
    }

    fn folder(&self) -> PathBuf {
        self.mount.path(FOLDER)
    }

    /// Does something while the cache is removed again and again.
    fn without_a_cache_that_lasts<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(REMOVED_EVERY);
                    self.mount.remove_cache();
                }
            });
            // Also when it panics: the other would never end.
            let _ends = Ends(&done);
            work()
        })
    }

    /// Nothing was parked, and the bucket and a new mount of it have what the mount shows.
    #[track_caller]
    fn check(&mut self) {
        let here = contents(&self.folder());
        self.mount.wait_uploaded();
        assert_eq!(self.mount.status()["uploads"]["parked"], 0);
        assert!(self.model.write_rate_violations().is_empty());
        for (path, bytes) in &here {
            let key = Path::new(FOLDER).join(path);
            let Some(bytes) = bytes else { continue };
            let object = self.model.get(key.to_str().unwrap());
            let object = object.unwrap_or_else(|| panic!("{} is in no bucket", key.display()));
            assert!(object.bytes == *bytes, "{} differs", key.display());
        }
        self.mount.unmount();
        self.mount.remove_cache();
        self.mount.mount();
        let again = contents(&self.folder());
        assert!(
            again.keys().eq(here.keys()),
            "{:?} and {:?}",
            again.keys(),
            here.keys()
        );
        for (path, bytes) in &here {
            assert!(again[path] == *bytes, "{} differs", path.display());
        }
        self.check_log();
    }

    /// The log has no word of anything that went wrong, but for what was done to it on purpose.
    #[track_caller]
    fn check_log(&self) {
        let log = self.mount.log();
        let complaints: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .filter(|line| !EXPECTED.iter().any(|expected| line.contains(expected)))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

/// Ends the other thread.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a program that must succeed, and returns all that it printed.
#[track_caller]
fn run(mut command: Command) -> String {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}: scripts/test installs what is missing"),
    };
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    said
}
