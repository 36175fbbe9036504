//! Tokens that may not write, and objects that nobody may change.

use std::fs::{self, File};
use std::io;

use r2_model::{Fault, FaultRule, Operation, Permission, R2Model, Token};

use crate::common::mount::{Mount, model_settings};
use crate::crash::{assert_file, assert_object, names};

/// A mount whose token may not write, with `ro` or without it.
fn reads_and_changes_nothing(asked_for: bool) {
    let model = R2Model::start();
    model.put("projects/song.rpp", "theirs");
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    // A token that may not write is enough for it.
    model.add_token(Token::new(
        "reader",
        "reader-secret",
        Permission::ObjectReadOnly,
    ));
    mount.set("R2_ACCESS_KEY_ID", "reader");
    mount.set("R2_SECRET_ACCESS_KEY", "reader-secret");
    if asked_for {
        mount.option("ro");
    }
    fs::write(mount.beside("samples/kick.wav"), "a sample").unwrap();
    mount.mount();
    let song = mount.path("projects/song.rpp");
    assert_eq!(fs::read(&song).unwrap(), b"theirs");
    let kick = mount.path("samples/kick.wav");
    assert_eq!(fs::read(&kick).unwrap(), b"a sample");
    for (what, refused) in [
        ("create", fs::write(mount.path("segments/new.wav"), "x")),
        (
            "write",
            fs::OpenOptions::new().append(true).open(&song).map(drop),
        ),
        (
            "truncate",
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&song)
                .map(drop),
        ),
        ("unlink", fs::remove_file(&song)),
        ("rename", fs::rename(&song, mount.path("layers/song.rpp"))),
        ("mkdir", fs::create_dir(mount.path("projects/new"))),
        (
            "chmod",
            fs::set_permissions(&song, fs::metadata(&kick).unwrap().permissions()),
        ),
        (
            "create a sample",
            fs::write(mount.path("samples/new.wav"), "x"),
        ),
        ("unlink a sample", fs::remove_file(&kick)),
    ] {
        let error = refused.expect_err(what);
        assert_eq!(
            error.kind(),
            io::ErrorKind::ReadOnlyFilesystem,
            "{what}: {error}"
        );
    }
    let status = mount.status();
    assert_eq!(status["safe_to_shut_down"], true);
    assert_eq!(status["read_only"], true);
    let said = "the token has no right to write";
    assert_eq!(status["alerts"].to_string().contains(said), !asked_for);
    let told = String::from_utf8(mount.run(&["status"]).stdout).unwrap();
    assert!(told.contains("r2, online, read-only"), "{told}");
    mount.unmount();
    assert_eq!(model.keys(), ["projects/song.rpp"]);
    let log = mount.log();
    assert_eq!(log.contains("WARN"), !asked_for, "{log}");
    assert_eq!(log.contains(said), !asked_for, "{log}");
}

#[test]
fn a_read_only_mount_reads_and_changes_nothing() {
    reads_and_changes_nothing(true);
}

#[test]
fn a_token_that_may_not_write_makes_the_mount_read_only_and_says_so() {
    reads_and_changes_nothing(false);
}

#[test]
fn what_waits_when_the_token_loses_its_right_goes_up_when_it_has_it_again() {
    let model = R2Model::start();
    let reader = Token::new("reader", "reader-secret", Permission::ObjectReadOnly);
    model.add_token(reader);
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "60")]);
    fs::write(mount.path("segments/take.wav"), "take").unwrap();
    mount.unmount();
    mount.set("WRITE_BACK_SECONDS", "0");
    mount.set("R2_ACCESS_KEY_ID", "reader");
    mount.set("R2_SECRET_ACCESS_KEY", "reader-secret");
    mount.mount();
    assert_file(&mount.path("segments/take.wav"), b"take");
    mount.wait_for("it is tried", |status| {
        status["uploads"]["failed"] != 0 || status["uploads"]["parked"] != 0
    });
    let status = mount.status();
    assert_eq!(status["safe_to_shut_down"], false);
    assert_eq!(status["uploads"]["queued"], 1);
    let error = fs::write(mount.path("segments/more.wav"), "more").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    mount.unmount();
    mount.set("R2_ACCESS_KEY_ID", model.access_key());
    mount.set("R2_SECRET_ACCESS_KEY", model.secret_key());
    mount.mount();
    mount.wait_uploaded();
    assert_object(&model, "segments/take.wav", b"take");
}

/// What lies under a lock rule of the bucket.
const LOCKED: &str = "segments/locked.wav";

/// The bucket refuses to change that object.
fn lock(model: &R2Model) {
    let refused = Fault::error("ObjectLockedByBucketPolicy");
    let changes = [
        Operation::PutObject,
        Operation::CopyObject,
        Operation::DeleteObject,
    ];
    model.add_fault(FaultRule::new(refused).on(&changes).key(LOCKED));
}

/// Each change of a locked object is refused once the lock is known; nothing of ours is lost.
#[test]
fn locked_objects_stay_and_are_refused_with_eperm() {
    let model = R2Model::start();
    model.put(LOCKED, "the master");
    lock(&model);
    let mount = Mount::of(&model);
    let locked = mount.path(LOCKED);
    fs::remove_file(&locked).unwrap();
    mount.wait_for("it is back", |status| {
        status["safe_to_shut_down"] == true && locked.exists()
    });
    assert_file(&locked, b"the master");
    let other = mount.path("segments/other.wav");
    fs::write(&other, "other").unwrap();
    for (what, refused) in [
        ("unlink", fs::remove_file(&locked)),
        ("rename", fs::rename(&locked, mount.path("layers/l.wav"))),
        ("replace", fs::rename(&other, &locked)),
        (
            "write",
            File::options().append(true).open(&locked).map(drop),
        ),
        ("create", File::create(&locked).map(drop)),
    ] {
        let error = refused.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
    }
    mount.wait_uploaded();
    assert_object(&model, LOCKED, b"the master");
    assert_object(&model, "segments/other.wav", b"other");
    assert!(mount.log().contains("locked"), "{}", mount.log());
}

#[test]
fn what_was_written_to_a_locked_object_is_kept_beside_it() {
    let model = R2Model::start();
    model.put(LOCKED, "the master");
    lock(&model);
    let mount = Mount::of(&model);
    fs::write(mount.path(LOCKED), "another mix").unwrap();
    mount.wait_for("it has another name", |status| status["conflicts"] == 1);
    mount.wait_uploaded();
    assert_file(&mount.path(LOCKED), b"the master");
    assert_object(&model, LOCKED, b"the master");
    let names = names(&mount, "segments");
    let copy = names
        .iter()
        .find(|name| name.contains("(conflict "))
        .unwrap();
    assert_object(&model, &format!("segments/{copy}"), b"another mix");
}

/// What a rule of the bucket has removed is absent, neither an error nor an old copy.
#[test]
fn what_a_lifecycle_rule_removed_is_absent() {
    let model = R2Model::start();
    for name in ["old", "open", "edited", "kept"] {
        model.put(&format!("segments/{name}.wav"), name);
    }
    let mount = Mount::with(
        &model,
        &[("LIST_TTL_SECONDS", "0.3"), ("CACHE_TTL_HOURS", "0.0001")],
    );
    assert_eq!(names(&mount, "segments").len(), 4);
    for name in ["old", "open", "edited"] {
        let path = mount.path(&format!("segments/{name}.wav"));
        assert_file(&path, name.as_bytes());
    }
    let open = File::open(mount.path("segments/open.wav")).unwrap();
    for name in ["old", "open", "edited"] {
        model.delete(&format!("segments/{name}.wav"));
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let gone = fs::read(mount.path("segments/old.wav")).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound, "{gone}");
    // Who has it open keeps the version that it opened.
    assert_eq!(io::read_to_string(open).unwrap(), "open");
    // Made anew by name, it is a new file.
    fs::write(mount.path("segments/edited.wav"), "new").unwrap();
    mount.wait_uploaded();
    assert_object(&model, "segments/edited.wav", b"new");
    assert_eq!(names(&mount, "segments"), ["edited.wav", "kept.wav"]);
    let status = mount.status();
    assert_eq!(status["conflicts"], 0, "{status:#}");
}
