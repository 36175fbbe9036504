//! What never leaves this disk: the sample library, the desktops' own files, and everything when
//! there is no R2.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use r2_model::R2Model;

use super::noise;
use crate::common::mount::Mount;

#[test]
fn samples_are_the_local_folder_itself() {
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    let kick = noise(1, 50_000);
    let below = mount.beside("samples/house/kick");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("deep.wav"), &kick).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    let old = FileTimes::new().set_modified(time).set_accessed(time);
    File::open(below.join("deep.wav"))
        .unwrap()
        .set_times(old)
        .unwrap();
    fs::set_permissions(below.join("deep.wav"), Permissions::from_mode(0o604)).unwrap();
    mount.mount();
    model.clear_requests();

    let through = mount.path("samples/house/kick");
    assert!(fs::read(through.join("deep.wav")).unwrap() == kick);
    let (here, there) = (
        fs::metadata(below.join("deep.wav")).unwrap(),
        fs::metadata(through.join("deep.wav")).unwrap(),
    );
    assert_eq!(there.modified().unwrap(), time);
    let told = |status: &fs::Metadata| {
        (
            status.mode(),
            status.uid(),
            status.gid(),
            status.len(),
            status.blocks(),
            status.nlink(),
        )
    };
    assert_eq!(told(&here), told(&there));

    // Changes go both ways.
    fs::write(through.join("new.wav"), "new").unwrap();
    assert_eq!(fs::read(below.join("new.wav")).unwrap(), b"new");
    fs::rename(through.join("new.wav"), through.join("renamed.wav")).unwrap();
    assert_eq!(fs::read(below.join("renamed.wav")).unwrap(), b"new");
    fs::create_dir(through.join("more")).unwrap();
    assert!(fs::metadata(below.join("more")).unwrap().is_dir());
    fs::set_permissions(through.join("renamed.wav"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(
        fs::metadata(below.join("renamed.wav")).unwrap().mode() & 0o777,
        0o600
    );
    symlink("deep.wav", through.join("link")).unwrap();
    assert!(fs::read(through.join("link")).unwrap() == kick);
    fs::write(below.join("renamed.wav"), "changed beside the mount").unwrap();
    let end = std::time::Instant::now() + crate::common::mount::DEADLINE;
    while fs::read(through.join("renamed.wav")).unwrap() != b"changed beside the mount" {
        assert!(
            std::time::Instant::now() < end,
            "a change beside the mount never shows"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(through.join("renamed.wav")).unwrap();
    assert!(!below.join("renamed.wav").exists());
    assert_eq!(
        fs::metadata(through.join("deep.wav"))
            .unwrap()
            .modified()
            .unwrap(),
        time
    );
    mount.wait_uploaded();
    assert!(model.keys().is_empty());
    let sent: Vec<_> = model
        .requests()
        .into_iter()
        .filter(|r| r.operation.is_write())
        .collect();
    assert!(sent.is_empty(), "{sent:#?}");
}

#[test]
fn desktops_files_at_the_root_stay_here() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    fs::write(mount.path(".DS_Store"), "finder").unwrap();
    fs::write(mount.path("._segments"), "double").unwrap();
    fs::create_dir_all(mount.path(".Trash-1000/files")).unwrap();
    fs::write(mount.path(".Trash-1000/files/a.wav"), "trashed").unwrap();
    fs::rename(
        mount.path(".Trash-1000/files/a.wav"),
        mount.path(".Trash-1000/files/b.wav"),
    )
    .unwrap();
    mount.wait_uploaded();
    for _ in 0..2 {
        assert_eq!(fs::read(mount.path(".DS_Store")).unwrap(), b"finder");
        assert_eq!(
            fs::read(mount.path(".Trash-1000/files/b.wav")).unwrap(),
            b"trashed"
        );
        let mut names: Vec<_> = fs::read_dir(mount.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        names.sort();
        assert_eq!(names, [".DS_Store", ".Trash-1000", "._segments"]);
        mount.unmount();
        mount.remove_cache();
        mount.mount();
    }
    assert!(model.keys().is_empty());
    // Trashing crosses from the bucket to this disk: mv copies and removes.
    fs::write(mount.path("segments/a.wav"), "take").unwrap();
    let moved = Command::new("mv")
        .arg(mount.path("segments/a.wav"))
        .arg(mount.path(".Trash-1000/files/a.wav"))
        .status();
    assert!(moved.unwrap().success());
    assert_eq!(
        fs::read(mount.path(".Trash-1000/files/a.wav")).unwrap(),
        b"take"
    );
    mount.wait_uploaded();
    assert!(model.keys().is_empty());
    fs::remove_dir_all(mount.path(".Trash-1000")).unwrap();
    assert!(fs::metadata(mount.path(".Trash-1000")).is_err());
}

#[test]
fn without_r2_everything_works_on_the_local_folder() {
    let mut mount = Mount::local();
    let bytes = noise(1, 600_000);
    fs::write(mount.path("segments/a.wav"), &bytes).unwrap();
    fs::create_dir_all(mount.path("projects/x/y")).unwrap();
    fs::write(mount.path("projects/x/y/b.wav"), "b").unwrap();
    fs::set_permissions(mount.path("segments/a.wav"), Permissions::from_mode(0o640)).unwrap();
    mount.wait_uploaded();
    assert!(fs::read(mount.beside("output/segments/a.wav")).unwrap() == bytes);
    assert_eq!(
        fs::read(mount.beside("output/projects/x/y/b.wav")).unwrap(),
        b"b"
    );
    assert_eq!(mount.status()["backend"], "local");
    fs::rename(mount.path("projects/x"), mount.path("layers/x")).unwrap();
    fs::remove_file(mount.path("layers/x/y/b.wav")).unwrap();
    mount.wait_uploaded();
    mount.unmount();
    mount.remove_cache();
    // Put there by hand, as another client would.
    fs::create_dir_all(mount.beside("output/rhythms")).unwrap();
    fs::write(mount.beside("output/rhythms/c.mp3"), "by hand").unwrap();
    mount.mount();
    assert!(fs::read(mount.path("segments/a.wav")).unwrap() == bytes);
    assert_eq!(
        fs::metadata(mount.path("segments/a.wav")).unwrap().mode() & 0o777,
        0o640
    );
    assert_eq!(fs::read(mount.path("rhythms/c.mp3")).unwrap(), b"by hand");
    assert!(fs::metadata(mount.path("layers/x/y")).unwrap().is_dir());
    assert!(fs::metadata(mount.path("projects/x")).is_err());
    assert!(!mount.beside("output/layers/x/y/b.wav").exists());
}
