//! No bucket to talk to: connections that are refused, reset or never answered.

use std::fs::{self, File};
use std::io::{Read, Write};

use r2_model::{Connections, R2Model};

use super::*;
use crate::common::mount::{DEADLINE, model_settings};
use crate::crash::{assert_file, assert_object, names, noise};

/// The bucket goes away under a mount, and comes back.
fn goes_on_without(how: Connections) {
    let model = R2Model::start();
    let cached = noise(1, 300_000);
    for name in ["cached", "renamed", "deleted", "edited", "unread"] {
        model.put(&format!("segments/{name}.wav"), cached.clone());
    }
    let mut mount = impatient(&model);
    let root = mount.root();
    let path = |name: &str| root.join(format!("segments/{name}.wav"));
    assert_eq!(names(&mount, "segments").len(), 5);
    for name in ["cached", "edited"] {
        assert_file(&path(name), &cached);
    }
    let reader = File::open(path("cached")).unwrap();
    model.set_connections(how);
    model.cut_connections();

    answered("cached", || assert_file(&path("cached"), &cached));
    answered("listed", || assert_eq!(names(&mount, "segments").len(), 5));
    answered("made", || fs::write(path("made"), "made").unwrap());
    answered("renamed", || {
        fs::rename(path("renamed"), path("moved")).unwrap();
    });
    answered("deleted", || fs::remove_file(path("deleted")).unwrap());
    answered("edited", || {
        let mut file = File::options().append(true).open(path("edited")).unwrap();
        file.write_all(b"more").unwrap();
        file.sync_all().unwrap();
    });
    let edited = [&cached[..], b"more"].concat();
    assert_no_answer(answered("what is not here", || fs::read(path("unread"))));
    assert_no_answer(answered("a name in a folder that was never listed", || {
        fs::metadata(mount.path("layers/unknown.wav"))
    }));
    assert_no_answer(answered("a new name there", || {
        fs::write(mount.path("layers/unknown.wav"), "")
    }));
    mount.wait_for("it is noticed", |status| {
        status["online"] == false && status["uploads"]["queued"] == 5
    });
    let mut again = Vec::new();
    (&reader).read_to_end(&mut again).unwrap();
    assert_eq!(again, cached);
    drop(reader);
    answered("umount", || mount.unmount());
    answered("mount", || mount.mount());
    let shown = [
        "cached.wav",
        "edited.wav",
        "made.wav",
        "moved.wav",
        "unread.wav",
    ];
    let check = |mount: &Mount| {
        assert_eq!(names(mount, "segments"), shown);
        assert_file(&mount.path("segments/cached.wav"), &cached);
        assert_file(&mount.path("segments/edited.wav"), &edited);
        assert_file(&mount.path("segments/made.wav"), b"made");
    };
    answered("the same after a restart", || check(&mount));

    model.restart();
    mount.wait_uploaded();
    check(&mount);
    assert_object(&model, "segments/edited.wav", &edited);
    assert_object(&model, "segments/made.wav", b"made");
    assert_object(&model, "segments/moved.wav", &cached);
    assert_eq!(model.keys().len(), 5, "{:?}", model.keys());
    mount.wait_for("it is noticed", |status| status["online"] == true);
    assert_file(&mount.path("segments/unread.wav"), &cached);
    assert_file(&mount.path("segments/moved.wav"), &cached);
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
    assert_eq!(status["conflicts"], 0, "{status:#}");
}

#[test]
fn refused_connections() {
    goes_on_without(Connections::Refuse);
}

#[test]
fn reset_connections() {
    goes_on_without(Connections::Reset);
}

#[test]
fn connections_that_nobody_answers() {
    goes_on_without(Connections::BlackHole);
}

/// A machine that starts without network.
fn mounts_without(how: Connections) {
    let model = R2Model::start();
    model.put("segments/s.wav", "there");
    model.set_connections(how);
    let mut mount = Mount::prepare(&[("REQUEST_DEADLINE_SECONDS", REQUEST_DEADLINE)]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    answered("mount", || mount.mount());
    assert!(names(&mount, "").contains(&"segments".to_owned()));
    let begun = Instant::now();
    let unknown = fs::metadata(mount.path("segments/s.wav")).unwrap_err();
    assert_eq!(unknown.raw_os_error(), Some(libc::EIO), "{unknown}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(mount.status()["online"], false);
    answered("umount", || mount.unmount());
    mount.mount();
    model.restart();
    let end = Instant::now() + DEADLINE;
    while let Err(error) = fs::read(mount.path("segments/s.wav")) {
        assert_no_answer::<()>(Err(error));
        assert!(Instant::now() < end, "the bucket is back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_mount_starts_while_connections_are_refused() {
    mounts_without(Connections::Refuse);
}

#[test]
fn a_mount_starts_while_nobody_answers() {
    mounts_without(Connections::BlackHole);
}
