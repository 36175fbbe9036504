//! A program saves by writing a temporary file and renaming it over the old one, again and again,
//! while others look.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use r2_model::R2Model;

use super::setting;
use crate::common::mount::Mount;

/// Saves in the normal suite; `REPLACE_SAVES` for more.
const SAVES: u64 = 400;

/// A version that says its number all the way.
fn version(number: u64) -> Vec<u8> {
    let words = 4000 + 100 * (number as usize % 7);
    number.to_le_bytes().repeat(words)
}

/// Panics unless the bytes are one whole version; returns its number.
fn number(bytes: &[u8]) -> u64 {
    assert!(!bytes.is_empty(), "an empty file was seen");
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes == version(number), "a mixture or a part of {number}");
    number
}

/// Looks once: by name, by descriptor, and again after a while. Returns the version seen.
fn look(path: &Path) -> u64 {
    assert!(fs::metadata(path).expect("stat").len() > 0, "empty");
    let mut file = File::open(path).expect("open");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    let seen = number(&bytes);
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    let mut again = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut again).expect("read again");
    assert!(again == bytes, "an open file has changed");
    seen
}

fn save_while_others_look(passthrough: &str) {
    let saves = setting("REPLACE_SAVES", SAVES);
    let model = R2Model::start();
    model.put("projects/song.rpp", version(0));
    let settings = [("WRITE_BACK_SECONDS", "0"), ("PASSTHROUGH", passthrough)];
    let mount = Mount::with(&model, &settings);
    let (path, temporary) = (
        mount.path("projects/song.rpp"),
        mount.path("projects/song.tmp"),
    );
    let (saved, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !saved.load(Ordering::Relaxed) {
                    let seen = look(&path);
                    assert!(seen >= last, "version {seen} after {last}");
                    last = seen;
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            for save in 1..=saves {
                let mut file = File::create(&temporary).unwrap();
                file.write_all(&version(save)).unwrap();
                if save % 10 == 0 {
                    file.sync_all().unwrap();
                }
                drop(file);
                fs::rename(&temporary, &path).unwrap();
                // Now and then long enough for an upload to come between.
                if save % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(1700));
                }
            }
            saved.store(true, Ordering::Relaxed);
        });
    });
    println!("figures: {saves} saves, {} looks", looks.into_inner());
    assert_eq!(look(&path), saves);
    mount.wait_uploaded();
    assert_eq!(
        number(&model.get("projects/song.rpp").unwrap().bytes),
        saves
    );
    assert_eq!(model.keys(), ["projects/song.rpp"]);
}

#[test]
fn a_file_that_is_replaced_is_never_missing_empty_or_mixed_with_passthrough() {
    save_while_others_look("true");
}

#[test]
fn a_file_that_is_replaced_is_never_missing_empty_or_mixed_without_passthrough() {
    save_while_others_look("false");
}
