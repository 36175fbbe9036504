//! Saving as programs do, by rename, while others read.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use r2_model::R2Model;

use super::noise;
use crate::common::mount::Mount;

/// A version that tells its number in every block.
fn version(number: u64) -> Vec<u8> {
    let len = 30_000 + 1000 * (number as usize % 7);
    let mut bytes = noise(number, len);
    for block in bytes.chunks_exact_mut(1000) {
        block[..8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Panics unless the bytes are one whole version; returns its number.
fn number(bytes: &[u8]) -> u64 {
    assert!(!bytes.is_empty(), "an empty file was seen");
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(
        *bytes == version(number),
        "a mixture or a part of version {number} was seen"
    );
    number
}

#[test]
fn readers_see_one_whole_version_while_it_is_saved_50_times() {
    const SAVES: u64 = 50;
    let model = R2Model::start();
    model.put("projects/song.rpp", version(0));
    let mount = Mount::of(&model);
    let path = mount.path("projects/song.rpp");
    let saved = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !saved.load(Ordering::Relaxed) {
                    let mut bytes = Vec::new();
                    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                    let seen = number(&bytes);
                    assert!(seen >= last, "version {seen} after {last}");
                    last = seen;
                }
            });
        }
        scope.spawn(|| {
            for save in 1..=SAVES {
                let temporary = mount.path(&format!("projects/song.rpp.{save}"));
                let mut file = File::create(&temporary).unwrap();
                file.write_all(&version(save)).unwrap();
                file.sync_all().unwrap();
                drop(file);
                fs::rename(&temporary, &path).unwrap();
                // Now and then long enough for an upload to come between.
                if save % 10 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(500));
                }
            }
            saved.store(true, Ordering::Relaxed);
        });
    });
    assert_eq!(number(&fs::read(&path).unwrap()), SAVES);
    mount.wait_uploaded();
    assert_eq!(
        number(&model.get("projects/song.rpp").unwrap().bytes),
        SAVES
    );
    assert_eq!(model.keys(), ["projects/song.rpp"]);
    assert!(model.write_rate_violations().is_empty());
}
