//! What reading costs at the bucket, in requests and bytes, and that its bytes are the right ones
//! while they arrive.

mod random;
mod scan;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model, generated_bytes};

use crate::common::mount::Mount;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const LOOK: usize = 64 << 10;
const SMALL: u64 = 5 * MIB;

/// A bucket with one large object, and a mount that has listed it.
fn large() -> (R2Model, Mount) {
    let model = R2Model::start();
    model.put_generated("projects/take.wav", SIZE);
    let mount = Mount::of(&model);
    std::fs::metadata(mount.path("projects/take.wav")).unwrap();
    std::fs::read_dir(mount.path("projects")).unwrap().count();
    model.clear_requests();
    (model, mount)
}

/// Returns the ranges that GETs asked for, as first byte and length.
fn gets(model: &R2Model) -> Vec<(u64, u64)> {
    let requests = model.requests();
    let gets = requests
        .iter()
        .filter(|request| request.operation == Operation::GetObject);
    gets.map(|request| {
        let range = request.range.as_deref().expect("a range");
        let (first, last) = range["bytes=".len()..].split_once('-').unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        (first, last + 1 - first)
    })
    .collect()
}

fn check(file: &File, offset: u64, length: usize) {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap();
    let expected = generated_bytes("projects/take.wav", offset, length);
    assert!(bytes == expected, "other bytes at {offset}");
}

fn read_all(path: &Path) {
    let file = File::open(path).unwrap();
    for offset in (0..SIZE).step_by(MIB as usize) {
        check(&file, offset, MIB as usize);
    }
}

#[test]
fn the_first_bytes_cost_one_request_and_no_other_of_any_kind() {
    let (model, mount) = large();
    let file = File::open(mount.path("projects/take.wav")).unwrap();
    check(&file, 0, LOOK);
    let requests = model.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(gets(&model), [(0, 384 << 10)]);
}

#[test]
fn a_file_in_a_folder_that_nobody_listed_costs_one_look_up_more() {
    let model = R2Model::start();
    model.put_generated("projects/take.wav", SIZE);
    let mount = Mount::of(&model);
    model.clear_requests();
    let file = File::open(mount.path("projects/take.wav")).unwrap();
    check(&file, 0, LOOK);
    assert_eq!(gets(&model), [(0, 384 << 10)]);
    // Whether it is a file, whether it is a folder, and behind all of the folder for the next.
    let costs = model.costs();
    assert!((1..=2).contains(&costs.class_a), "{:?}", model.requests());
    assert_eq!(costs.class_b, 2, "{:?}", model.requests());
}

#[test]
fn opening_a_cached_file_costs_nothing_and_one_condition_once_its_listing_is_old() {
    let model = R2Model::start();
    model.put_generated("projects/take.wav", SMALL);
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "3")]);
    let path = mount.path("projects/take.wav");
    let read = || assert_eq!(std::fs::read(&path).unwrap().len() as u64, SMALL);
    std::fs::read_dir(mount.path("projects")).unwrap().count();
    let listed = Instant::now();
    read();
    model.clear_requests();
    for _ in 0..50 {
        read();
    }
    if listed.elapsed() < Duration::from_secs(3) {
        assert!(model.requests().is_empty(), "{:?}", model.requests());
    }
    std::thread::sleep(Duration::from_millis(3500));
    model.clear_requests();
    let begun = Instant::now();
    for _ in 0..50 {
        read();
    }
    // However often it is opened in that time, and no byte of it moves.
    let most = 1 + begun.elapsed().as_secs() / 3;
    assert_eq!(gets(&model), []);
    let costs = model.costs();
    let within = costs.class_a <= most && costs.class_b <= most;
    assert!(within, "{:?}", model.requests());
}

/// A file of 10 MiB of sound, which says that tables of 300 KB follow it.
fn song(model: &R2Model, key: &str) -> u64 {
    let mut head = b"\0\0\0\x10ftypM4A \0\0\0\0".to_vec();
    head.extend((10_u32 << 20).to_be_bytes());
    head.extend(b"mdat");
    let tables = 16 + (10 << 20);
    model.put_generated_behind(key, head, tables + 300_000 - 24);
    tables
}

#[test]
fn no_second_request_is_made_before_the_first_bytes_are_given_out() {
    let model = R2Model::start();
    song(&model, "projects/song.m4a");
    let mount = Mount::of(&model);
    let path = mount.path("projects/song.m4a");
    std::fs::metadata(&path).unwrap();
    model.clear_requests();
    // The rest of the head is longer on its way than this test.
    let stall = Fault::Stall {
        after: 100_000,
        pause: Duration::from_secs(60),
    };
    model.add_fault(FaultRule::new(stall).on(&[Operation::GetObject]));
    let file = File::open(&path).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    let requests = model.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
}

#[test]
fn tables_at_the_end_come_along_with_the_head() {
    let model = R2Model::start();
    let tables = song(&model, "projects/song.m4a");
    let mount = Mount::of(&model);
    let file = File::open(mount.path("projects/song.m4a")).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    let start = tables - tables % 4096;
    let expected = [(0, 384 << 10), (start, tables + 300_000 - start)];
    mount.wait_for("both ends", |status| {
        status["cache"]["bytes"] == expected[0].1 + expected[1].1
    });
    file.read_exact_at(&mut [0; 100], tables + 200_000).unwrap();
    assert_eq!(gets(&model), expected);
}

#[test]
fn a_seek_costs_one_request_for_at_most_two_megabytes() {
    let (model, mount) = large();
    let file = File::open(mount.path("projects/take.wav")).unwrap();
    check(&file, 0, LOOK);
    for n in 0..20 {
        let before = gets(&model).len();
        check(&file, (n * 7 + 3) % 20 * 3 * MIB + 12_345, LOOK);
        let asked = gets(&model);
        assert!(asked.len() <= before + 1, "{asked:?}");
        let longest = asked[before..].iter().map(|(_, length)| *length).max();
        assert!(longest.is_none_or(|length| length <= 2 * MIB), "{asked:?}");
    }
    drop(file);
    assert!(model.requests().len() <= 21);
}

#[test]
fn what_was_read_once_costs_nothing_again() {
    let (model, mount) = large();
    let path = mount.path("projects/take.wav");
    read_all(&path);
    let asked = gets(&model);
    assert!(asked.len() < 64, "{}", asked.len());
    assert_eq!(asked.iter().map(|(_, length)| length).sum::<u64>(), SIZE);
    mount.wait_for("all of it in the cache", |status| {
        status["cache"]["bytes"] == SIZE
    });
    model.clear_requests();
    // The file is opened anew, and its pages were dropped with the first close at the latest.
    read_all(&path);
    File::open(&path).unwrap();
    let requests = model.requests();
    assert!(requests.is_empty(), "{requests:?}");
}

#[test]
fn readers_at_many_places_get_the_right_bytes_while_the_file_arrives() {
    let (model, mount) = large();
    let path = mount.path("projects/take.wav");
    std::thread::scope(|scope| {
        for reader in 0..8_u64 {
            let path = &path;
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let start = reader * SIZE / 8;
                for step in 0..32 {
                    // In order, and now and then elsewhere.
                    let at = match step % 8 {
                        7 => (step * 7_654_321 + reader * 1_234_567) % (SIZE - MIB),
                        _ => start + step * (SIZE / 8 - MIB) / 32,
                    };
                    check(&file, at, 200_000);
                }
            });
        }
    });
    read_all(&path);
    let asked: u64 = gets(&model).iter().map(|(_, length)| length).sum();
    // A read-ahead that was given up may be asked for a second time.
    assert!(asked < 2 * SIZE, "{asked}");
}
