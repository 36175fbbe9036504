//! Folders of uploaded files that are renamed as a whole.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use r2_model::{Connections, Fault, FaultRule, Operation, R2Model};

use crate::common::mount::{DEADLINE, Mount};
use crate::crash::{assert_file, assert_object, names, noise};

fn name(n: usize) -> String {
    match n % 4 {
        0 => format!("take {n:04}.wav"),
        _ => format!("sub {}/take {n:04}.wav", n % 4),
    }
}

fn bytes(n: usize) -> Vec<u8> {
    noise(n as u64 + 1, 100 + n % 50)
}

fn bucket_with(files: usize) -> R2Model {
    let model = R2Model::start();
    for n in 0..files {
        model.put(&format!("projects/album/{}", name(n)), bytes(n));
    }
    model
}

fn assert_moved(model: &R2Model, files: usize, folder: &str) {
    for n in 0..files {
        assert_object(model, &format!("{folder}/{}", name(n)), &bytes(n));
    }
    let keys = model.keys();
    let elsewhere: Vec<&String> = keys
        .iter()
        .filter(|key| !key.starts_with(&format!("{folder}/")))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

fn wait_for_copies(model: &R2Model, count: usize) {
    let end = Instant::now() + DEADLINE;
    let copies = || {
        let requests = model.requests();
        let copies = requests
            .iter()
            .filter(|request| request.operation == Operation::CopyObject);
        copies.count()
    };
    while copies() < count {
        assert!(Instant::now() < end, "{count} copies: not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_folder_of_1000_is_renamed_without_the_bucket() {
    let model = bucket_with(1000);
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "3600")]);
    // The folder's name is known, and nothing of what is in it.
    assert_eq!(names(&mount, "projects"), ["album"]);
    model.set_connections(Connections::BlackHole);
    model.cut_connections();
    model.clear_requests();
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    assert_eq!(names(&mount, "projects"), ["moved"]);
    assert_eq!(model.requests().len(), 0, "{:?}", model.requests());
    assert_eq!(mount.status()["safe_to_shut_down"], false);
    let queue = mount.run(&["queue", "--json"]);
    let queue: serde_json::Value = serde_json::from_slice(&queue.stdout).unwrap();
    let first = &queue["entries"][0];
    assert_eq!(first["path"], "projects/moved/");
    assert_eq!(first["operation"], "rename");

    model.set_connections(Connections::Serve);
    for n in [0, 1, 999] {
        let path = mount.path(&format!("projects/moved/{}", name(n)));
        assert_file(&path, &bytes(n));
    }
    assert!(!mount.path("projects/album").exists());
    assert_eq!(names(&mount, "projects"), ["moved"]);
    assert_eq!(names(&mount, "projects/moved").len(), 253);
    // The rest goes behind; carrying it out is shown with fewer files.
    wait_for_copies(&model, 20);
    assert!(model.write_rate_violations().is_empty());
}

#[test]
fn a_rename_of_a_folder_survives_kills_at_its_copies() {
    const FILES: usize = 60;
    let model = bucket_with(FILES);
    // The deletes of a rename are none that somebody has to confirm.
    let mut mount = Mount::with(&model, &[("DELETE_LIMIT", "5")]);
    assert_eq!(names(&mount, "projects"), ["album"]);
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    // At once, before anything is known of what moves.
    mount.kill();
    mount.mount();
    for copies in [1, 7, 20, 40, 59] {
        wait_for_copies(&model, copies);
        mount.kill();
        mount.remove_cache();
        mount.mount();
        assert_eq!(names(&mount, "projects"), ["moved"], "after {copies}");
        for n in 0..FILES {
            let path = mount.path(&format!("projects/moved/{}", name(n)));
            assert_file(&path, &bytes(n));
        }
    }
    mount.wait_uploaded();
    assert_moved(&model, FILES, "projects/moved");
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    assert_eq!(mount.status()["conflicts"], 0);
    let trash = mount.run(&["trash", "--json"]);
    let trash: serde_json::Value = serde_json::from_slice(&trash.stdout).unwrap();
    assert_eq!(trash["entries"], serde_json::json!([]));
}

#[test]
fn the_old_name_is_made_anew_at_once() {
    const FILES: usize = 20;
    let model = bucket_with(FILES);
    let mut mount = Mount::of(&model);
    assert_eq!(names(&mount, "projects"), ["album"]);
    // Nothing can be found out before the new files are made.
    model.add_fault(FaultRule::new(Fault::error("InternalError")).on(&[Operation::ListObjectsV2]));
    let path = |name: &str| mount.path(&format!("projects/{name}"));
    fs::rename(path("album"), path("album.bak")).unwrap();
    fs::create_dir(path("album")).unwrap();
    assert_eq!(names(&mount, "projects/album"), [""; 0]);
    let new = b"new under an old name";
    fs::create_dir(path("album/sub 1")).unwrap();
    for n in [0, 1] {
        fs::write(path(&format!("album/{}", name(n))), new).unwrap();
    }
    mount.kill();
    model.clear_faults();
    mount.mount();
    let check = |mount: &Mount| {
        assert_eq!(names(mount, "projects"), ["album", "album.bak"]);
        assert_eq!(names(mount, "projects/album"), ["sub 1", "take 0000.wav"]);
        assert_eq!(names(mount, "projects/album/sub 1"), ["take 0001.wav"]);
        for n in 0..FILES {
            let old = mount.path(&format!("projects/album.bak/{}", name(n)));
            assert_file(&old, &bytes(n));
        }
        for n in [0, 1] {
            assert_file(&mount.path(&format!("projects/album/{}", name(n))), new);
        }
    };
    check(&mount);
    mount.wait_uploaded();
    check(&mount);
    for n in 0..FILES {
        assert_object(
            &model,
            &format!("projects/album.bak/{}", name(n)),
            &bytes(n),
        );
    }
    for n in [0, 1] {
        assert_object(&model, &format!("projects/album/{}", name(n)), new);
    }
    let files = model.keys();
    let files = files.iter().filter(|key| !key.ends_with('/'));
    assert_eq!(files.count(), FILES + 2);
    assert_eq!(mount.status()["conflicts"], 0);
}

#[test]
fn renames_on_their_way_compose_and_files_in_them_are_read_and_written() {
    const FILES: usize = 40;
    let model = bucket_with(FILES);
    let large = noise(77, 3 << 20);
    model.put("projects/album/large.wav", large.clone());
    let mut mount = Mount::of(&model);
    assert_eq!(names(&mount, "projects"), ["album"]);
    model.add_fault(
        FaultRule::new(Fault::latency(Duration::from_millis(30)))
            .on(&[Operation::CopyObject, Operation::ListObjectsV2]),
    );
    let path = |name: &str| mount.path(&format!("projects/{name}"));
    fs::rename(path("album"), path("one")).unwrap();
    fs::rename(path("one"), path("two")).unwrap();
    // In it, above it, and a file.
    fs::rename(path("two/sub 1"), path("part")).unwrap();
    fs::create_dir(path("above")).unwrap();
    fs::rename(path("two"), path("above/two")).unwrap();
    fs::rename(path("above"), path("top")).unwrap();
    fs::rename(path("top/two/take 0000.wav"), path("single.wav")).unwrap();
    let mut reader = File::open(path("top/two/large.wav")).unwrap();
    let mut range = vec![0; 100_000];
    reader.seek(SeekFrom::Start(2 << 20)).unwrap();
    reader.read_exact(&mut range).unwrap();
    assert!(range == large[2 << 20..][..100_000]);
    let mut writer = File::options()
        .append(true)
        .open(path("top/two/take 0004.wav"))
        .unwrap();
    writer.write_all(b"more").unwrap();
    drop(writer);
    fs::remove_file(path("top/two/take 0008.wav")).unwrap();
    let more = [&bytes(4)[..], b"more"].concat();
    let check = |mount: &Mount| {
        assert_eq!(names(mount, "projects"), ["part", "single.wav", "top"]);
        let path = |name: &str| mount.path(&format!("projects/{name}"));
        assert_file(&path("single.wav"), &bytes(0));
        assert_file(&path("top/two/take 0004.wav"), &more);
        assert!(!path("top/two/take 0008.wav").exists());
        for n in (1..FILES).filter(|n| ![4, 8].contains(n)) {
            let file = match n % 4 {
                1 => format!("part/take {n:04}.wav"),
                _ => format!("top/two/{}", name(n)),
            };
            assert_file(&path(&file), &bytes(n));
        }
    };
    check(&mount);
    mount.kill();
    mount.mount();
    check(&mount);
    mount.wait_uploaded();
    check(&mount);
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    check(&mount);
    assert_object(&model, "projects/top/two/large.wav", &large);
    let files = model.keys();
    let files = files.iter().filter(|key| !key.ends_with('/'));
    assert_eq!(files.count(), FILES);
}

#[test]
fn what_others_put_into_the_old_folder_later_stays_there() {
    let model = bucket_with(8);
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "1")]);
    assert_eq!(names(&mount, "projects"), ["album"]);
    model.add_fault(FaultRule::new(Fault::error("InternalError")).on(&[Operation::ListObjectsV2]));
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    // By the bucket's clock, which tells whole seconds at times.
    std::thread::sleep(Duration::from_millis(1100));
    model.put("projects/album/theirs.wav", "theirs");
    model.clear_faults();
    mount.wait_uploaded();
    assert_object(&model, "projects/album/theirs.wav", b"theirs");
    for n in 0..8 {
        assert_object(&model, &format!("projects/moved/{}", name(n)), &bytes(n));
    }
    let end = Instant::now() + DEADLINE;
    while names(&mount, "projects") != ["album", "moved"] {
        assert!(Instant::now() < end, "{:?}", names(&mount, "projects"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_file(&mount.path("projects/album/theirs.wav"), b"theirs");
}

#[test]
fn a_folder_renamed_back_before_it_was_looked_at_stays_as_it_is() {
    const FILES: usize = 20;
    let model = bucket_with(FILES);
    let mount = Mount::of(&model);
    assert_eq!(names(&mount, "projects"), ["album"]);
    model.add_fault(FaultRule::new(Fault::error("InternalError")).on(&[Operation::ListObjectsV2]));
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    fs::rename(mount.path("projects/moved"), mount.path("projects/album")).unwrap();
    model.clear_faults();
    mount.wait_uploaded();
    assert_eq!(names(&mount, "projects"), ["album"]);
    for n in 0..FILES {
        let path = mount.path(&format!("projects/album/{}", name(n)));
        assert_file(&path, &bytes(n));
    }
    assert_moved(&model, FILES, "projects/album");
    let changed = [Operation::CopyObject, Operation::DeleteObject];
    let requests = model.requests();
    let changed = requests
        .iter()
        .filter(|request| changed.contains(&request.operation));
    assert_eq!(changed.count(), 0);
}

#[test]
fn what_others_overwrite_in_the_old_folder_later_keeps_both_where_ours_is_here() {
    let model = bucket_with(8);
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "3600")]);
    assert_eq!(names(&mount, "projects/album").len(), 5);
    let path = |folder: &str| mount.path(&format!("projects/{folder}/{}", name(4)));
    assert_file(&path("album"), &bytes(4));
    mount.wait_for("a whole file in the cache", |status| {
        status["cache"]["files"] == 1
    });
    model.add_fault(FaultRule::new(Fault::error("InternalError")).on(&[Operation::ListObjectsV2]));
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    // By the bucket's clock, which tells whole seconds at times.
    std::thread::sleep(Duration::from_millis(1100));
    for n in [4, 0] {
        model.put(&format!("projects/album/{}", name(n)), "theirs");
    }
    model.clear_faults();
    mount.wait_uploaded();
    for n in [4, 0] {
        assert_object(&model, &format!("projects/album/{}", name(n)), b"theirs");
    }
    for n in (0..8).filter(|n| *n != 0) {
        assert_object(&model, &format!("projects/moved/{}", name(n)), &bytes(n));
    }
    assert_file(&path("moved"), &bytes(4));
    // Of the other one nobody has the bytes any more.
    assert!(model.get(&format!("projects/moved/{}", name(0))).is_none());
    assert_eq!(mount.status()["uploads"]["parked"], 0);
}

#[test]
fn bytes_of_others_under_the_key_of_a_renamed_folder_are_kept() {
    let model = bucket_with(8);
    model.put("projects/album/", "theirs");
    model.put("projects/album/sub 1/", "theirs too");
    let mount = Mount::of(&model);
    assert_eq!(names(&mount, "projects"), ["album"]);
    fs::rename(mount.path("projects/album"), mount.path("projects/moved")).unwrap();
    mount.wait_uploaded();
    for n in 0..8 {
        assert_object(&model, &format!("projects/moved/{}", name(n)), &bytes(n));
    }
    assert_object(&model, "projects/album/", b"theirs");
    assert_object(&model, "projects/album/sub 1/", b"theirs too");
}

/// The figure of `docs/performance.md`.
#[test]
#[ignore = "measures; for docs/performance.md"]
fn the_time_of_a_rename_of_1000_files() {
    let model = bucket_with(1000);
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "3600")]);
    assert_eq!(names(&mount, "projects"), ["album"]);
    let renamed = |from: &str, to: &str| {
        let (from, to) = (mount.path(from), mount.path(to));
        let begun = Instant::now();
        fs::rename(from, to).unwrap();
        begun.elapsed()
    };
    println!(
        "never listed: {:?}",
        renamed("projects/album", "projects/a")
    );
    println!("on its way: {:?}", renamed("projects/a", "projects/b"));
    assert_eq!(names(&mount, "projects/b").len(), 253);
    println!(
        "on its way, listed: {:?}",
        renamed("projects/b", "projects/c")
    );
    mount.wait_uploaded();
    println!("all is done: {:?}", renamed("projects/c", "projects/d"));
}
