//! A cache that is too small for what is read: what lies on the disk keeps to its limit, and what is open
//! goes on.
//!
//! `FILLS` and `CRASH_SEED` choose another run.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use r2_model::R2Model;

use crate::common::mount::Mount;
use crate::crash::noise;
use crate::crash::random::{Random, setting};

const FILLS: u64 = 24;
const SEED: u64 = 77_041_203;
const LIMIT_BYTES: u64 = 12 << 20;
/// What may be on its way on a line as fast as this machine's own.
const WINDOW_BYTES: u64 = 4 << 20;
const FILES: u64 = 12;
/// What is open at once fits: of what is open nothing gives way.
const FILE_BYTES: usize = 3 << 20;
const READERS: u64 = 3;
const LARGE_FILE_BYTES: usize = 40 << 20;
/// So many files for one of the large ones.
const LARGE_PART: u64 = 6;

#[test]
fn fills_of_a_cache_that_is_too_small_keep_to_its_limit() {
    let (seed, fills) = (setting("CRASH_SEED", SEED), setting("FILLS", FILLS));
    let contents: Vec<Vec<u8>> = (0..FILES).map(|n| noise(n, FILE_BYTES)).collect();
    read_in_a_small_cache(seed, fills, &contents);
}

/// Nothing that is in use could go as a whole.
#[test]
fn files_larger_than_the_cache_keep_to_its_limit() {
    let (seed, fills) = (setting("CRASH_SEED", SEED), setting("FILLS", FILLS));
    let contents: Vec<Vec<u8>> = (0..2).map(|n| noise(n, LARGE_FILE_BYTES)).collect();
    read_in_a_small_cache(seed, fills / LARGE_PART, &contents);
}

fn read_in_a_small_cache(seed: u64, fills: u64, contents: &[Vec<u8>]) {
    println!("CRASH_SEED={seed} FILLS={fills}");
    let model = R2Model::start();
    for (number, bytes) in contents.iter().enumerate() {
        model.put(&format!("segments/{number}.wav"), bytes.clone());
    }
    let limit = LIMIT_BYTES.to_string();
    let mount = Mount::with(
        &model,
        &[("CACHE_MAX_BYTES", &limit), ("CACHE_MIN_FREE_BYTES", "0")],
    );
    let cache = mount.beside("cache");
    let (over, most, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(bytes_on_disk(&cache), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (done, mount) = (&done, &mount);
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ reader);
                    while done.fetch_add(1, Ordering::Relaxed) < fills {
                        let number = random.below(contents.len() as u64) as usize;
                        let path = mount.path(&format!("segments/{number}.wav"));
                        fill(&path, &contents[number], &mut random);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        over.store(true, Ordering::Relaxed);
        watching.join().unwrap();
        for end in ended {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let most = most.into_inner();
    if most > LIMIT_BYTES + WINDOW_BYTES {
        println!("{}", mount.log());
    }
    println!("figures: {fills} fills, at most {most} bytes on the disk, limit {LIMIT_BYTES}");
    assert!(
        most <= LIMIT_BYTES + WINDOW_BYTES,
        "{most} bytes on the disk"
    );
    assert!(mount.status()["cache"]["bytes"].as_u64().unwrap() <= LIMIT_BYTES);
}

/// Reads a file to its end, and then again what may have given way meanwhile.
fn fill(path: &Path, wanted: &[u8], random: &mut Random) {
    let file = File::open(path).unwrap();
    let mut bytes = vec![0; 256 << 10];
    let mut check = |offset: usize| {
        let length = bytes.len().min(wanted.len() - offset);
        file.read_exact_at(&mut bytes[..length], offset as u64)
            .unwrap();
        assert!(
            bytes[..length] == wanted[offset..offset + length],
            "{}",
            path.display()
        );
        length
    };
    let mut offset = 0;
    while offset < wanted.len() {
        offset += check(offset);
    }
    for _ in 0..4 {
        check(random.below(wanted.len() as u64) as usize);
    }
}

/// What `du` counts of the cached files; the index beside them has no bytes of theirs.
fn bytes_on_disk(cache: &Path) -> u64 {
    let Ok(files) = fs::read_dir(cache) else {
        return 0;
    };
    let is_cached = |file: &fs::DirEntry| file.path().extension().is_some_and(|it| it == "cache");
    let metadata = files
        .flatten()
        .filter(is_cached)
        .filter_map(|file| file.metadata().ok());
    metadata.map(|metadata| metadata.blocks() * 512).sum()
}
