//! Memory maps, which outlive the descriptor they were made with.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use r2_model::R2Model;

use super::{fetch, is_root, open_rw, reads};
use crate::basic::noise;
use crate::common::mount::Mount;

/// A shared map of the start of a file.
struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    fn of(file: &File, len: usize, writable: bool) -> Map {
        use std::os::fd::AsRawFd;
        let write = if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh map, wherever the kernel finds room.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | write,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Map {
            start: start.cast(),
            len,
        }
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        // SAFETY: within the map, which lives as long as `self`; others may store meanwhile, so
        // it is read byte by byte without assuming that it stays the same.
        (at..at + len)
            .map(|at| unsafe { self.start.add(at).read_volatile() })
            .collect()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        for (n, byte) in bytes.iter().enumerate() {
            // SAFETY: within the map, which was made writable.
            unsafe { self.start.add(at + n).write_volatile(*byte) };
        }
    }

    fn sync(&self) {
        // SAFETY: the whole map.
        let done = unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole map, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// A bucket with one file, whole in the cache of a mount.
fn cached(bytes: &[u8]) -> (R2Model, Mount) {
    let model = R2Model::start();
    model.put("projects/a.wav", bytes.to_vec());
    let mount = Mount::of(&model);
    fetch(&mount, &mount.path("projects/a.wav"), bytes);
    (model, mount)
}

fn all(file: &File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn in_the_bucket(model: &R2Model) -> Vec<u8> {
    model.get("projects/a.wav").unwrap().bytes.to_vec()
}

/// A handle that only writes goes past the kernel's pages, and what others hold of them goes.
#[test]
fn readers_that_do_not_pass_through_see_what_a_handle_writes_that_only_writes() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let path = mount.path("projects/a.wav");
    let (mut expected, new) = (noise(1, 200_000), noise(2, 100_000));
    fs::write(&path, &expected).unwrap();
    let reader = File::open(&path).unwrap();
    let map = Map::of(&reader, expected.len(), false);
    assert!(map.read(0, expected.len()) == expected);
    let writer = File::options().write(true).open(&path).unwrap();
    writer.write_all_at(&new, 1234).unwrap();
    expected[1234..][..new.len()].copy_from_slice(&new);
    assert!(map.read(0, expected.len()) == expected);
    assert!(all(&reader, expected.len()) == expected);
}

#[test]
fn readers_see_a_writers_bytes_at_once_by_read_and_by_map() {
    let mut expected = noise(1, 600_000);
    let (model, mount) = cached(&expected);
    let path = mount.path("projects/a.wav");
    let reader = File::open(&path).unwrap();
    let map = Map::of(&reader, expected.len(), false);
    assert!(map.read(0, expected.len()) == expected);
    if is_root() {
        let (_, opens) = reads(&mount);
        assert!(opens > 0, "the reader passes through\n{}", mount.log());
    }
    let writer = open_rw(&path);
    let another = open_rw(&path);
    for round in 0..20_usize {
        let at = 29_999 * round;
        let text = format!("round {round} was written here");
        let by = if round % 2 == 0 { &writer } else { &another };
        by.write_all_at(text.as_bytes(), at as u64).unwrap();
        expected[at..at + text.len()].copy_from_slice(text.as_bytes());
        let seen = map.read(at, text.len());
        assert_eq!(String::from_utf8_lossy(&seen), text, "by the map");
        assert!(
            all(&reader, expected.len()) == expected,
            "by the reader, round {round}"
        );
        assert!(
            all(&writer, expected.len()) == expected,
            "by the writer, round {round}"
        );
        assert!(
            fs::read(&path).unwrap() == expected,
            "by a new reader, round {round}"
        );
    }
    writer.write_all_at(b"the end", 600_000).unwrap();
    expected.extend_from_slice(b"the end");
    for len in [
        fs::metadata(&path).unwrap().len(),
        reader.metadata().unwrap().len(),
        writer.metadata().unwrap().len(),
    ] {
        assert_eq!(len, 600_007);
    }
    assert!(all(&reader, 600_007) == expected);
    writer.set_len(500_000).unwrap();
    expected.truncate(500_000);
    assert_eq!(reader.metadata().unwrap().len(), 500_000);
    assert!(fs::read(&path).unwrap() == expected);
    drop((writer, another));
    mount.wait_uploaded();
    assert!(in_the_bucket(&model) == expected);
    assert!(all(&reader, 500_000) == expected);
    drop((map, reader));
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn stores_through_a_map_that_outlives_its_descriptor_reach_the_bucket() {
    let mut expected = noise(2, 300_000);
    let (model, mount) = cached(&expected);
    let path = mount.path("projects/a.wav");
    let reader = File::open(&path).unwrap();
    let writer = open_rw(&path);
    let map = Map::of(&writer, expected.len(), true);
    drop(writer);
    let store = |expected: &mut Vec<u8>, at: usize, text: &[u8]| {
        map.write(at, text);
        expected[at..at + text.len()].copy_from_slice(text);
    };
    store(&mut expected, 1000, b"right after the close");
    assert!(all(&reader, expected.len()) == expected);
    // Longer than it takes to upload a file that is thought to be settled.
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        store(
            &mut expected,
            50_000 * (round + 1),
            b"and some time after it",
        );
        assert!(all(&reader, expected.len()) == expected, "round {round}");
    }
    let status = mount.status();
    assert_eq!(
        status["safe_to_shut_down"], false,
        "a map can still be stored to: {status:#}"
    );
    map.sync();
    drop(map);
    mount.wait_uploaded();
    assert!(in_the_bucket(&model) == expected);
    drop(reader);
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn a_map_without_readers_beside_it_reaches_the_bucket_too() {
    let mut expected = noise(3, 200_000);
    let (model, mut mount) = cached(&expected);
    let path = mount.path("projects/a.wav");
    for (round, close_first) in [(1, true), (2, false)] {
        let writer = open_rw(&path);
        let map = Map::of(&writer, expected.len(), true);
        if close_first {
            drop(writer);
            map.write(7777 * round, b"stored");
        } else {
            map.write(7777 * round, b"stored");
            drop(writer);
        }
        expected[7777 * round..][..6].copy_from_slice(b"stored");
        drop(map);
        assert!(fs::read(&path).unwrap() == expected, "here, round {round}");
        mount.wait_uploaded();
        assert!(
            in_the_bucket(&model) == expected,
            "in the bucket, round {round}"
        );
    }
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn two_maps_of_a_new_file_share_their_bytes() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let path = mount.path("projects/new.shm");
    let file = File::create_new(&path).unwrap();
    file.set_len(32_768).unwrap();
    let files = [open_rw(&path), open_rw(&path)];
    let [one, two] = files.each_ref().map(|file| Map::of(file, 32_768, true));
    for round in 0..100_usize {
        let text = format!("{round:05}");
        let (by, other) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        by.write(round * 300, text.as_bytes());
        assert_eq!(other.read(round * 300, 5), text.as_bytes());
    }
    let expected = one.read(0, 32_768);
    one.sync();
    assert!(fs::read(&path).unwrap() == expected);
    drop((one, two, file, files));
    mount.wait_uploaded();
    assert!(model.get("projects/new.shm").unwrap().bytes == expected);
}

#[test]
fn removing_the_cache_under_readers_leaves_them_their_bytes() {
    let old = noise(4, 400_000);
    let (model, mount) = cached(&old);
    let path = mount.path("projects/a.wav");
    let reader = File::open(&path).unwrap();
    let map = Map::of(&reader, old.len(), false);
    mount.remove_cache();
    assert!(all(&reader, old.len()) == old);
    // The file below has no name any more, so it cannot become the writer's.
    let writer = open_rw(&path);
    writer
        .write_all_at(b"written after the cache was removed", 100)
        .unwrap();
    let mut new = old.clone();
    new[100..135].copy_from_slice(b"written after the cache was removed");
    assert!(all(&writer, new.len()) == new);
    assert!(fs::read(&path).unwrap() == new);
    if is_root() {
        assert!(
            all(&reader, old.len()) == old,
            "the reader keeps the old bytes"
        );
        assert!(map.read(0, old.len()) == old, "and so does its map");
    }
    drop(writer);
    mount.wait_uploaded();
    assert!(in_the_bucket(&model) == new);
    assert!(fs::read(&path).unwrap() == new);
    read_after_all_is_closed(&path, (reader, map), &new);
}

fn read_after_all_is_closed(path: &Path, open: (File, Map), expected: &[u8]) {
    drop(open);
    for _ in 0..2 {
        assert!(fs::read(path).unwrap() == expected);
    }
}

#[test]
fn snapshots_of_a_file_that_is_stored_to_by_map_are_whole() {
    const PAGE: usize = 4096;
    const PAGES: u64 = 64;
    let place = |store: u64| (store * 29 % PAGES) as usize * PAGE;
    let (model, mount) = {
        let model = R2Model::start();
        let first = (0..PAGES).map(|store| (place(store), store));
        let mut bytes = vec![0; PAGES as usize * PAGE];
        for (at, store) in first {
            bytes[at..at + 8].copy_from_slice(&store.to_le_bytes());
        }
        model.put("projects/a.wav", bytes.clone());
        let settings = [
            ("SNAPSHOT_QUIET_SECONDS", "0.2"),
            ("SNAPSHOT_SECONDS", "0.5"),
            ("WRITE_BACK_SECONDS", "0.1"),
        ];
        let mount = Mount::with(&model, &settings);
        fetch(&mount, &mount.path("projects/a.wav"), &bytes);
        (model, mount)
    };
    let path = mount.path("projects/a.wav");
    let reader = File::open(&path).unwrap();
    let writer = open_rw(&path);
    let map = Map::of(&writer, PAGES as usize * PAGE, true);
    drop(writer);
    let mut stores = PAGES;
    let mut versions = std::collections::BTreeSet::new();
    // As many stores as were made in their order, and no others.
    let mut check = |stored: u64| {
        let object = model.get("projects/a.wav").unwrap();
        if !versions.insert(object.write_count) {
            return versions.len();
        }
        let stamp = |store: u64| {
            let at = place(store);
            u64::from_le_bytes(object.bytes[at..at + 8].try_into().unwrap())
        };
        let last = (0..PAGES).map(stamp).max().unwrap();
        assert!(last < stored);
        for store in last + 1 - PAGES..=last {
            assert_eq!(stamp(store), store, "after {} stores", last + 1);
        }
        versions.len()
    };
    let end = std::time::Instant::now() + crate::common::mount::DEADLINE;
    while check(stores) < 4 {
        let burst = std::time::Instant::now() + Duration::from_millis(400);
        while std::time::Instant::now() < burst {
            map.write(place(stores), &stores.to_le_bytes());
            stores += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(std::time::Instant::now() < end, "{}", mount.log());
    }
    assert_eq!(mount.status()["safe_to_shut_down"], false);
    drop((map, reader));
    mount.wait_uploaded();
    check(stores);
    let bytes = model.get("projects/a.wav").unwrap().bytes;
    let last = place(stores - 1);
    assert_eq!(
        bytes[last..last + 8],
        (stores - 1).to_le_bytes(),
        "the last store arrives"
    );
    assert!(fs::read(&path).unwrap() == bytes);
}
