//! fsx: random reads, writes, maps, truncations, holes and copies of one file, each read compared
//! with what was written; while the file is uploaded again and again and the cache is removed.

use std::fs::{self, File};
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r2_model::R2Model;

use super::{setting, tool};
use crate::basic::noise;
use crate::common::mount::Mount;

/// Operations in the normal suite; `FSX_OPERATIONS` for more.
const OPERATIONS: u64 = 2000;
/// A file of several reads and some parts, and everything that fsx can do.
const CONFIG: &str = "
flen = 524288
[opsize]
max = 65536
[weights]
close_open = 1
invalidate = 1
mapread = 5
mapwrite = 5
read = 10
write = 10
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 2
punch_hole = 2
posix_fadvise = 1
copy_file_range = 3
sendfile = ";

/// Runs fsx with one seed, or with as many as are asked for.
fn exercise(settings: &[(&str, &str)], beside_reader: bool) {
    let first = setting("FSX_SEED", 1);
    for seed in first..first + setting("FSX_SEEDS", 1) {
        exercise_once(seed, settings, beside_reader);
    }
}

/// Runs fsx on a mount; `beside_reader`: with a reader that passes through, if that can be.
fn exercise_once(seed: u64, settings: &[(&str, &str)], beside_reader: bool) {
    let operations = setting("FSX_OPERATIONS", OPERATIONS);
    // Before anything runs that would have to be stopped.
    let fsx = tool("fsx");
    println!("FSX_SEED={seed} FSX_OPERATIONS={operations}");
    let model = R2Model::start();
    model.put("layers/x", noise(seed, 300_000));
    let mut all = vec![
        ("WRITE_BACK_SECONDS", "0"),
        ("SNAPSHOT_QUIET_SECONDS", "1"),
        ("SNAPSHOT_SECONDS", "2"),
    ];
    all.extend(settings);
    let mount = Mount::with(&model, &all);
    let path = mount.path("layers/x");
    let mut whole = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut whole).unwrap();
    let reader = beside_reader.then(|| File::open(&path).unwrap());
    let config = mount.beside("fsx.toml");
    // See docs/semantics.md: sendfile from a descriptor that may write, beside readers that pass
    // through and stores through maps.
    let sendfile = if beside_reader { 0 } else { 2 };
    fs::write(&config, format!("{CONFIG}{sendfile}")).unwrap();
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(700));
                mount.remove_cache();
            }
        });
        let output = Command::new(fsx)
            .args([
                "-q",
                "-N",
                &operations.to_string(),
                "-S",
                &seed.to_string(),
                "-f",
            ])
            .arg(&config)
            .arg("-P")
            .arg(mount.beside(""))
            .arg(&path)
            .output();
        done.store(true, Ordering::Relaxed);
        output.unwrap()
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = complaint.lines().take(8).collect();
    let last: Vec<&str> = complaint.lines().rev().take(20).collect();
    assert!(
        output.status.success(),
        "{first:#?}\n… and the last first:\n{last:#?}"
    );
    drop(reader);
    let here = fs::read(&path).unwrap();
    mount.wait_uploaded();
    let there = model.get("layers/x").unwrap().bytes;
    assert!(here == there, "the bucket has other bytes");
    assert!(model.write_rate_violations().is_empty());
}

#[test]
fn fsx_finds_nothing_with_passthrough() {
    exercise(&[], false);
}

#[test]
fn fsx_finds_nothing_beside_a_reader_that_passes_through() {
    exercise(&[], true);
}

#[test]
fn fsx_finds_nothing_without_passthrough() {
    exercise(&[("PASSTHROUGH", "false")], true);
}
