//! Keys that are replaced, and temporary ones that end, while the mount goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use r2_model::{Permission, R2Model, Token};

use super::*;
use crate::common::mount::{DEADLINE, model_settings};
use crate::crash::{assert_file, assert_object};

/// Replaces the file as a whole: nobody reads half of it.
fn write_keys(path: &Path, access_key: &str, secret: &str, session: Option<&str>) {
    let mut text = format!("R2_ACCESS_KEY_ID={access_key}\nR2_SECRET_ACCESS_KEY={secret}\n");
    if let Some(session) = session {
        text += &format!("R2_SESSION_TOKEN={session}\n");
    }
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// A mount that has its keys from the file alone.
fn mount_with_file(model: &R2Model) -> Mount {
    let mut mount = Mount::prepare(&[("R2_CREDENTIALS_FILE", "keys")]);
    for (name, value) in model_settings(model) {
        if !["R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"].contains(&&*name) {
            mount.set(&name, &value);
        }
    }
    mount
}

#[test]
fn keys_are_rotated_without_a_remount() {
    let model = R2Model::start();
    for name in ["before", "after"] {
        model.put(&format!("segments/{name}.wav"), name);
    }
    let mut mount = mount_with_file(&model);
    let keys = mount.beside("keys");
    write_keys(&keys, model.access_key(), model.secret_key(), None);
    mount.mount();
    assert_file(&mount.path("segments/before.wav"), b"before");

    let secret = "0123456789abcdef-the-second-secret";
    model.add_token(Token::new("second", secret, Permission::ObjectReadWrite));
    write_keys(&keys, "second", secret, None);
    model.revoke(model.access_key());
    model.clear_requests();
    assert_file(&mount.path("segments/after.wav"), b"after");
    fs::write(mount.path("layers/new.wav"), "new").unwrap();
    mount.wait_uploaded();
    assert_object(&model, "layers/new.wav", b"new");
    let refused = model
        .requests()
        .into_iter()
        .filter(|r| r.status == Some(401));
    assert_eq!(refused.count(), 0);
    assert!(!mount.log().contains(secret), "the log tells the secret");
    mount.unmount();
}

#[test]
fn temporary_keys_end_and_are_renewed() {
    let model = R2Model::start();
    model.put("segments/s.wav", "there");
    let mut mount = mount_with_file(&model);
    let keys = mount.beside("keys");
    let hour = Duration::from_secs(3600);
    let token = |name: &str| Token::new(name, "secret", Permission::ObjectReadWrite);
    model.add_token(token("first").session("one", hour));
    write_keys(&keys, "first", "secret", Some("one"));
    mount.mount();
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 1);

    model.revoke("first");
    let error = fs::read(mount.path("segments/s.wav")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    fs::write(mount.path("segments/new.wav"), "new").unwrap();
    mount.wait_for("the upload has failed", |status| {
        status["uploads"]["failed"] == 1
    });

    // The file taken away: nothing changes.
    fs::remove_file(&keys).unwrap();
    fs::read(mount.path("segments/s.wav")).unwrap_err();
    let end = Instant::now() + DEADLINE;
    while !mount.log().contains("the former credentials stay in use") {
        assert!(Instant::now() < end, "{}", mount.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    model.add_token(token("next").session("two", hour));
    write_keys(&keys, "next", "secret", Some("two"));
    assert_file(&mount.path("segments/s.wav"), b"there");
    // By itself the upload is tried again within a minute.
    assert!(mount.run(&["queue", "flush"]).status.success());
    mount.wait_uploaded();
    assert_object(&model, "segments/new.wav", b"new");
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    mount.unmount();
}
