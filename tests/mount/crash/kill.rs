//! SIGKILL right after each kind of change: it is there after the next mount, and then in the
//! bucket.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};

use super::*;
use crate::common::mount::DEADLINE;

#[test]
fn what_was_closed_reaches_the_bucket_with_its_time_and_mode() {
    let model = R2Model::start();
    let mut mount = holding(&model);
    let sizes = [0, 1, 65_537, 20_000_001];
    let name = |size: usize| format!("segments/{size}.wav");
    for size in sizes {
        let path = mount.path(&name(size));
        fs::write(&path, noise(size as u64, size)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        set_times(&path, old_time());
    }
    revive(&mut mount);
    assert_eq!(model.keys(), [""; 0]);
    for size in sizes {
        assert_file(&mount.path(&name(size)), &noise(size as u64, size));
        assert_mode_and_time(&mount.path(&name(size)), 0o640, old_time());
    }
    let_go(&mut mount);
    for size in sizes {
        assert_object(&model, &name(size), &noise(size as u64, size));
        assert_object_mode_and_time(&model, &name(size), 0o640, old_time());
        assert_file(&mount.path(&name(size)), &noise(size as u64, size));
        assert_mode_and_time(&mount.path(&name(size)), 0o640, old_time());
    }
    assert_eq!(model.write_rate_violations(), []);
}

#[test]
fn what_was_written_and_not_closed_is_there() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    let bytes = noise(1, 300_000);
    let mut file = File::create(mount.path("segments/take.wav")).unwrap();
    file.write_all(&bytes).unwrap();
    let empty = File::create(mount.path("segments/empty.wav")).unwrap();
    mount.kill();
    drop((file, empty));
    mount.mount();
    assert_file(&mount.path("segments/take.wav"), &bytes);
    assert_file(&mount.path("segments/empty.wav"), b"");
    mount.wait_uploaded();
    assert_object(&model, "segments/take.wav", &bytes);
    assert_object(&model, "segments/empty.wav", b"");
}

/// Waits until a request of that kind has arrived.
fn wait_for_request(model: &R2Model, operation: Operation) {
    let end = Instant::now() + DEADLINE;
    while !model.requests().iter().any(|r| r.operation == operation) {
        assert!(Instant::now() < end, "no {operation:?} in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills the mount while a request of that kind is on its way.
fn kill_during(operation: Operation, size: usize) {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    let slow = Fault::latency(Duration::from_secs(2));
    model.add_fault(FaultRule::new(slow).on(&[operation]).once());
    let bytes = noise(7, size);
    fs::write(mount.path("layers/l.wav"), &bytes).unwrap();
    wait_for_request(&model, operation);
    revive(&mut mount);
    assert_file(&mount.path("layers/l.wav"), &bytes);
    mount.wait_uploaded();
    assert_object(&model, "layers/l.wav", &bytes);
    assert_eq!(model.keys(), ["layers/l.wav"]);
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    // The write that was on its way may land now; it is ours, and changes nothing.
    std::thread::sleep(Duration::from_secs(2));
    mount.remove_cache();
    revive(&mut mount);
    assert_file(&mount.path("layers/l.wav"), &bytes);
}

#[test]
fn killed_during_a_put() {
    kill_during(Operation::PutObject, 100_000);
}

#[test]
fn killed_during_a_part() {
    kill_during(Operation::UploadPart, 20_000_000);
}

#[test]
fn killed_during_a_completion() {
    kill_during(Operation::CompleteMultipartUpload, 20_000_000);
}

#[test]
fn renames_of_staged_and_uploaded_files_survive() {
    let model = R2Model::start();
    model.put("projects/theirs.mp3", "theirs");
    let mut mount = Mount::of(&model);
    fs::write(mount.path("projects/uploaded.mp3"), "uploaded").unwrap();
    fs::write(mount.path("projects/over.mp3"), "to be replaced").unwrap();
    hold(&mut mount);
    fs::write(mount.path("projects/staged.mp3"), "staged").unwrap();
    let moves = [
        ("uploaded", "uploaded2"),
        ("theirs", "over"),
        ("staged", "staged2"),
    ];
    for (from, to) in moves {
        let path = |name| mount.path(&format!("projects/{name}.mp3"));
        fs::rename(path(from), path(to)).unwrap();
    }
    let wanted = [
        ("projects/over.mp3", "theirs"),
        ("projects/staged2.mp3", "staged"),
        ("projects/uploaded2.mp3", "uploaded"),
    ];
    let check = |mount: &Mount| {
        assert_eq!(
            names(mount, "projects"),
            ["over.mp3", "staged2.mp3", "uploaded2.mp3"]
        );
        for (key, text) in wanted {
            assert_file(&mount.path(key), text.as_bytes());
        }
    };
    check(&mount);
    revive(&mut mount);
    check(&mount);
    let_go(&mut mount);
    check(&mount);
    for (key, text) in wanted {
        assert_object(&model, key, text.as_bytes());
    }
    assert_eq!(model.keys().len(), 3, "{:?}", model.keys());
}

#[test]
fn a_rename_killed_between_copy_and_delete_ends_with_one_file() {
    let model = R2Model::start();
    model.put("projects/a.mp3", "the song");
    let mut mount = Mount::of(&model);
    let rule = FaultRule::new(Fault::error("InternalError")).on(&[Operation::DeleteObject]);
    let fault = model.add_fault(rule);
    fs::rename(mount.path("projects/a.mp3"), mount.path("projects/b.mp3")).unwrap();
    let end = Instant::now() + DEADLINE;
    while model.fired(fault) == 0 {
        assert!(Instant::now() < end, "no delete in time");
        std::thread::sleep(Duration::from_millis(5));
    }
    mount.kill();
    assert_eq!(model.keys(), ["projects/a.mp3", "projects/b.mp3"]);
    mount.mount();
    assert_eq!(names(&mount, "projects"), ["b.mp3"]);
    model.clear_faults();
    mount.wait_uploaded();
    assert_eq!(model.keys(), ["projects/b.mp3"]);
    assert_object(&model, "projects/b.mp3", b"the song");
}

#[test]
fn deletes_survive_and_nothing_comes_back() {
    let model = R2Model::start();
    model.put("rhythms/theirs.mp3", "theirs");
    model.put("rhythms/kept.mp3", "kept");
    let mut mount = Mount::of(&model);
    fs::write(mount.path("rhythms/uploaded.mp3"), "uploaded").unwrap();
    hold(&mut mount);
    fs::write(mount.path("rhythms/staged.mp3"), "staged").unwrap();
    for name in ["uploaded", "theirs", "staged"] {
        fs::remove_file(mount.path(&format!("rhythms/{name}.mp3"))).unwrap();
    }
    revive(&mut mount);
    assert_eq!(names(&mount, "rhythms"), ["kept.mp3"]);
    let gone = fs::read(mount.path("rhythms/theirs.mp3")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    model.clear_requests();
    let_go(&mut mount);
    assert_eq!(names(&mount, "rhythms"), ["kept.mp3"]);
    assert_eq!(model.keys(), ["rhythms/kept.mp3"]);
    let writes = model.requests();
    let puts = writes
        .iter()
        .filter(|r| r.operation == Operation::PutObject);
    assert_eq!(
        puts.count(),
        0,
        "a file that was never uploaded costs nothing"
    );
}

#[test]
fn folders_survive_made_removed_and_renamed() {
    let model = R2Model::start();
    model.put("projects/old/theirs.wav", "theirs");
    let mut mount = Mount::of(&model);
    fs::create_dir(mount.path("projects/gone")).unwrap();
    fs::create_dir_all(mount.path("projects/old/deep")).unwrap();
    fs::write(mount.path("projects/old/uploaded.wav"), "uploaded").unwrap();
    fs::write(mount.path("projects/old/deep/er.wav"), "deeper").unwrap();
    hold(&mut mount);
    fs::remove_dir(mount.path("projects/gone")).unwrap();
    fs::create_dir(mount.path("projects/made")).unwrap();
    fs::write(mount.path("projects/old/staged.wav"), "staged").unwrap();
    fs::rename(mount.path("projects/old"), mount.path("projects/new")).unwrap();
    let files = [
        ("projects/new/deep/er.wav", "deeper"),
        ("projects/new/staged.wav", "staged"),
        ("projects/new/theirs.wav", "theirs"),
        ("projects/new/uploaded.wav", "uploaded"),
    ];
    let check = |mount: &Mount| {
        assert_eq!(names(mount, "projects"), ["made", "new"]);
        assert_eq!(names(mount, "projects/made"), [""; 0]);
        assert_eq!(
            names(mount, "projects/new"),
            ["deep", "staged.wav", "theirs.wav", "uploaded.wav"]
        );
        for (key, text) in files {
            assert_file(&mount.path(key), text.as_bytes());
        }
    };
    check(&mount);
    revive(&mut mount);
    check(&mount);
    let_go(&mut mount);
    check(&mount);
    for (key, text) in files {
        assert_object(&model, key, text.as_bytes());
    }
    let left = model.keys();
    let left: Vec<&String> = left
        .iter()
        .filter(|key| key.starts_with("projects/old") || key.starts_with("projects/gone"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_object(&model, "projects/made/", b"");
}

#[test]
fn truncations_and_edits_of_uploaded_files_survive() {
    let model = R2Model::start();
    let base = noise(3, 200_000);
    for name in ["edited", "held", "shorter", "longer", "emptied", "read"] {
        model.put(&format!("segments/{name}.wav"), base.clone());
    }
    let mut mount = Mount::of(&model);
    hold(&mut mount);
    let path = |name: &str| mount.path(&format!("segments/{name}.wav"));
    // Read first, so that its bytes are in the cache, and read on while it is edited.
    let mut reader = File::open(path("read")).unwrap();
    let mut whole = Vec::new();
    reader.read_to_end(&mut whole).unwrap();
    let reader = File::open(path("read")).unwrap();
    let mut changed = base.clone();
    changed[100_000..100_004].copy_from_slice(b"edit");
    for name in ["edited", "read"] {
        let file = OpenOptions::new().write(true).open(path(name)).unwrap();
        file.write_all_at(b"edit", 100_000).unwrap();
    }
    let held = OpenOptions::new().write(true).open(path("held")).unwrap();
    held.write_all_at(b"edit", 100_000).unwrap();
    let mut word = [0; 4];
    reader.read_exact_at(&mut word, 100_000).unwrap();
    assert_eq!(&word, b"edit");
    let set_len = |name: &str, length| {
        let file = OpenOptions::new().write(true).open(path(name)).unwrap();
        file.set_len(length).unwrap();
    };
    set_len("shorter", 70_000);
    set_len("longer", 250_000);
    File::create(path("emptied")).unwrap();
    let mut longer = base.clone();
    longer.resize(250_000, 0);
    let wanted = [
        ("edited", &changed[..]),
        ("read", &changed[..]),
        ("held", &changed[..]),
        ("shorter", &base[..70_000]),
        ("longer", &longer[..]),
        ("emptied", b""),
    ];
    mount.kill();
    drop((held, reader));
    mount.mount();
    for (name, bytes) in wanted {
        assert_file(&mount.path(&format!("segments/{name}.wav")), bytes);
        assert_bytes(
            &model.get(&format!("segments/{name}.wav")).unwrap().bytes,
            &base,
            name,
        );
    }
    let_go(&mut mount);
    for (name, bytes) in wanted {
        assert_file(&mount.path(&format!("segments/{name}.wav")), bytes);
        assert_object(&model, &format!("segments/{name}.wav"), bytes);
    }
}

#[test]
fn attributes_of_uploaded_files_survive() {
    let model = R2Model::start();
    model.put("melodies/theirs.mp3", "theirs");
    let mut mount = Mount::of(&model);
    fs::write(mount.path("melodies/ours.mp3"), "ours").unwrap();
    hold(&mut mount);
    for name in ["ours", "theirs"] {
        let path = mount.path(&format!("melodies/{name}.mp3"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        set_times(&path, old_time());
    }
    revive(&mut mount);
    for name in ["ours", "theirs"] {
        let path = mount.path(&format!("melodies/{name}.mp3"));
        assert_mode_and_time(&path, 0o604, old_time());
        assert_file(&path, name.as_bytes());
    }
    let_go(&mut mount);
    for name in ["ours", "theirs"] {
        let path = mount.path(&format!("melodies/{name}.mp3"));
        assert_mode_and_time(&path, 0o604, old_time());
        assert_file(&path, name.as_bytes());
        let key = format!("melodies/{name}.mp3");
        assert_object(&model, &key, name.as_bytes());
        assert_object_mode_and_time(&model, &key, 0o604, old_time());
    }
}

/// A program that compares times and sizes must see that the file was changed.
#[test]
fn a_change_that_was_not_closed_has_moved_the_time() {
    let model = R2Model::start();
    model.put("segments/a.wav", "before");
    let mut mount = Mount::of(&model);
    let edited = mount.path("segments/a.wav");
    set_times(&edited, old_time());
    assert_mode_and_time(&edited, 0o644, old_time());
    let made = mount.path("segments/b.wav");
    fs::write(&made, "before").unwrap();
    hold(&mut mount);
    assert_file(&edited, b"before");
    let a = OpenOptions::new().write(true).open(&edited).unwrap();
    a.write_all_at(b"after!", 0).unwrap();
    let b = OpenOptions::new().write(true).open(&made).unwrap();
    b.set_modified(old_time()).unwrap();
    b.write_all_at(b"after!", 0).unwrap();
    mount.kill();
    drop((a, b));
    mount.mount();
    let check = |mount: &Mount| {
        for key in ["segments/a.wav", "segments/b.wav"] {
            assert_file(&mount.path(key), b"after!");
            let time = fs::metadata(mount.path(key)).unwrap().modified().unwrap();
            assert!(time > old_time() + Duration::from_secs(1), "{key}");
        }
    };
    check(&mount);
    let_go(&mut mount);
    check(&mount);
    for key in ["segments/a.wav", "segments/b.wav"] {
        let mtime = &model.stat(key).unwrap().metadata["mtime"];
        assert!(!mtime.starts_with("1234567890."), "{key}: {mtime}");
    }
}
