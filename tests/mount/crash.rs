//! What is acknowledged survives: a killed process, an emptied cache, a full disk.

mod disk;
mod kill;
mod owner;
mod parts;
mod power;
pub(crate) mod random;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use r2_model::R2Model;

use crate::common::mount::Mount;

/// A mount that uploads nothing by itself: every change stays in the journal.
fn holding(model: &R2Model) -> Mount {
    Mount::with(model, &[("WRITE_BACK_SECONDS", HOLD)])
}

const HOLD: &str = "3600";

/// From now on changes stay in the journal.
fn hold(mount: &mut Mount) {
    mount.wait_uploaded();
    mount.set("WRITE_BACK_SECONDS", HOLD);
    mount.remount();
}

/// Kills the mount and mounts again; uploads stay held.
fn revive(mount: &mut Mount) {
    mount.kill();
    mount.mount();
}

/// Lets the journal go to the bucket, after another kill, and waits for its end.
fn let_go(mount: &mut Mount) {
    mount.set("WRITE_BACK_SECONDS", "0.2");
    revive(mount);
    mount.wait_uploaded();
    assert_eq!(mount.status()["uploads"]["parked"], 0);
}

/// Bytes that look like nothing else: the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_bytes(found: &[u8], wanted: &[u8], what: &str) {
    if found != wanted {
        let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
        panic!(
            "{what}: {} bytes for {}, first difference at {differs:?}",
            found.len(),
            wanted.len()
        );
    }
}

#[track_caller]
pub(crate) fn assert_object(model: &R2Model, key: &str, wanted: &[u8]) {
    let object = model
        .get(key)
        .unwrap_or_else(|| panic!("{key} is not in the bucket"));
    assert_bytes(&object.bytes, wanted, &format!("{key} in the bucket"));
}

#[track_caller]
pub(crate) fn assert_file(path: &Path, wanted: &[u8]) {
    let found = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_bytes(&found, wanted, &path.display().to_string());
}

/// A time that no test meets by chance.
fn old_time() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789)
}

fn set_times(path: &Path, time: SystemTime) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[track_caller]
fn assert_mode_and_time(path: &Path, mode: u32, time: SystemTime) {
    let status = fs::metadata(path).unwrap();
    assert_eq!(
        status.permissions().mode() & 0o7777,
        mode,
        "mode of {}",
        path.display()
    );
    assert_eq!(
        status.modified().unwrap(),
        time,
        "mtime of {}",
        path.display()
    );
    let _ = status.ino();
}

#[track_caller]
fn assert_object_mode_and_time(model: &R2Model, key: &str, mode: u32, time: SystemTime) {
    let metadata = model.stat(key).expect("it is in the bucket").metadata;
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    let time = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    assert_eq!(metadata.get("mtime"), Some(&time), "mtime of {key}");
    assert_eq!(
        metadata.get("mode"),
        Some(&mode.to_string()),
        "mode of {key}"
    );
}

/// The names in a folder, sorted.
pub(crate) fn names(mount: &Mount, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(mount.path(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
