//! Renames that depend on each other.

use std::fs;
use std::time::Duration;

use r2_model::R2Model;

use crate::common::mount::Mount;

fn exchange(mount: &Mount, a: &str, b: &str) -> rustix::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(
        CWD,
        mount.path(a),
        CWD,
        mount.path(b),
        RenameFlags::EXCHANGE,
    )
}

fn two_songs() -> (R2Model, Mount) {
    let model = R2Model::start();
    model.put("projects/a.rpp", "song a");
    model.put("projects/b.rpp", "song b");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read_dir(mount.path("projects")).unwrap().count(), 2);
    (model, mount)
}

fn assert_swapped(model: &R2Model, mount: &mut Mount) {
    for round in ["at once", "when uploaded", "after a remount"] {
        assert_eq!(
            fs::read(mount.path("projects/a.rpp")).unwrap(),
            b"song b",
            "{round}"
        );
        assert_eq!(
            fs::read(mount.path("projects/b.rpp")).unwrap(),
            b"song a",
            "{round}"
        );
        match round {
            "at once" => mount.wait_uploaded(),
            "when uploaded" => {
                mount.unmount();
                mount.remove_cache();
                mount.mount();
            }
            _ => {}
        }
    }
    assert_eq!(model.get("projects/a.rpp").unwrap().bytes, "song b");
    assert_eq!(model.get("projects/b.rpp").unwrap().bytes, "song a");
    assert_eq!(model.keys(), ["projects/a.rpp", "projects/b.rpp"]);
    assert!(model.write_rate_violations().is_empty());
}

#[test]
fn two_uploaded_files_change_names_by_a_third_name() {
    let (model, mut mount) = two_songs();
    let path = |name: &str| mount.path(&format!("projects/{name}"));
    fs::rename(path("a.rpp"), path("t.rpp")).unwrap();
    fs::rename(path("b.rpp"), path("a.rpp")).unwrap();
    fs::rename(path("t.rpp"), path("b.rpp")).unwrap();
    assert_swapped(&model, &mut mount);
}

#[test]
fn two_uploaded_files_are_exchanged() {
    let (model, mut mount) = two_songs();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    assert_swapped(&model, &mut mount);
}

#[test]
fn a_new_file_and_an_uploaded_one_are_exchanged_and_survive_a_kill() {
    let model = R2Model::start();
    model.put("projects/b.rpp", "song a");
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    assert_eq!(fs::read(mount.path("projects/b.rpp")).unwrap(), b"song a");
    fs::write(mount.path("projects/a.rpp"), "song a").unwrap();
    fs::write(mount.path("projects/new.rpp"), "song b").unwrap();
    fs::rename(mount.path("projects/new.rpp"), mount.path("projects/a.rpp")).unwrap();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    mount.kill();
    mount.set("WRITE_BACK_SECONDS", "0.2");
    mount.mount();
    assert_swapped(&model, &mut mount);
}

#[test]
fn what_cannot_be_exchanged_says_so() {
    let (_model, mount) = two_songs();
    fs::create_dir(mount.path("projects/folder")).unwrap();
    let missing = exchange(&mount, "projects/a.rpp", "projects/none.rpp");
    assert_eq!(missing, Err(rustix::io::Errno::NOENT));
    let folder = exchange(&mount, "projects/a.rpp", "projects/folder");
    assert_eq!(folder, Err(rustix::io::Errno::INVAL));
}

#[test]
fn a_rename_keeps_what_others_have_said_about_an_object() {
    let model = R2Model::start();
    let said = [
        ("mtime", "1600000000.5"),
        ("mode", "384"),
        ("artist", "someone"),
    ];
    model.put_with("segments/a.wav", "RIFF", "audio/x-theirs", &said);
    let mount = Mount::of(&model);
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 1);
    fs::rename(mount.path("segments/a.wav"), mount.path("segments/b.wav")).unwrap();
    mount.wait_uploaded();
    let object = model.get("segments/b.wav").unwrap();
    assert_eq!(object.content_type, "audio/x-theirs");
    assert_eq!(object.metadata["artist"], "someone");
    assert_eq!(object.metadata["mode"], "384");
    assert_eq!(object.metadata["mtime"], "1600000000.500000000");
    use std::os::unix::fs::MetadataExt;
    let status = fs::metadata(mount.path("segments/b.wav")).unwrap();
    assert_eq!(status.mtime(), 1_600_000_000);
    assert_eq!(status.mode() & 0o7777, 0o600);
}

#[test]
fn a_file_that_is_read_while_it_is_removed_is_read_to_its_end() {
    const SIZE: u64 = 24 << 20;
    let model = R2Model::start();
    model.put_generated("segments/long.wav", SIZE);
    model.add_fault(
        r2_model::FaultRule::new(r2_model::Fault::SlowBody(4 << 20))
            .on(&[r2_model::Operation::GetObject]),
    );
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "0")]);
    let mut file = fs::File::open(mount.path("segments/long.wav")).unwrap();
    let mut start = [0; 4096];
    std::io::Read::read_exact(&mut file, &mut start).unwrap();
    fs::remove_file(mount.path("segments/long.wav")).unwrap();
    assert!(!mount.path("segments/long.wav").exists());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut rest).unwrap();
    assert_eq!(rest.len() as u64 + 4096, SIZE);
    let expected = r2_model::generated_bytes("segments/long.wav", 4096, rest.len());
    assert!(rest == expected, "the bytes are those of the object");
    drop(file);
    mount.wait_uploaded();
    assert!(model.keys().is_empty());
}

#[test]
fn what_is_renamed_on_its_way_into_the_cache_is_read_without_the_bucket() {
    const FILES: usize = 300;
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "0")]);
    let name = |kind: &str, number: usize| format!("layers/{kind}-{number}.wav");
    for number in 0..FILES {
        fs::write(mount.path(&name("take", number)), format!("take {number}")).unwrap();
    }
    // As soon as each has arrived: its bytes are about to move from staging into the cache.
    for number in 0..FILES {
        let take = name("take", number);
        while model.get(&take).is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::rename(mount.path(&take), mount.path(&name("song", number))).unwrap();
    }
    mount.wait_uploaded();
    mount.unmount();
    model.stop();
    mount.mount();
    for number in 0..FILES {
        let read = fs::read_to_string(mount.path(&name("song", number)));
        assert_eq!(read.unwrap(), format!("take {number}"));
    }
    mount.unmount();
}
