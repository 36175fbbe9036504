//! Two sides change one file: both versions are kept.

use std::fs;

use r2_model::R2Model;

use crate::common::mount::Mount;

/// The one conflict copy in a folder, by name.
fn copy_in(mount: &Mount, folder: &str) -> String {
    let names = fs::read_dir(mount.path(folder)).unwrap();
    let mut copies = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("(conflict "));
    let copy = copies.next().expect("a conflict copy");
    assert_eq!(copies.next(), None, "one copy only");
    copy
}

#[test]
fn an_edit_of_a_file_that_another_changed_keeps_both() {
    let model = R2Model::start();
    model.put("projects/song.rpp", "first");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read(mount.path("projects/song.rpp")).unwrap(), b"first");
    fs::write(mount.path("projects/song.rpp"), "ours").unwrap();
    model.put("projects/song.rpp", "theirs");
    mount.wait_for("a conflict", |status| status["conflicts"] == 1);
    mount.wait_uploaded();
    assert_eq!(
        fs::read(mount.path("projects/song.rpp")).unwrap(),
        b"theirs"
    );
    let copy = copy_in(&mount, "projects");
    assert!(copy.starts_with("song (conflict ") && copy.ends_with(").rpp"));
    assert_eq!(
        fs::read(mount.path(&format!("projects/{copy}"))).unwrap(),
        b"ours"
    );
    assert_eq!(model.get("projects/song.rpp").unwrap().bytes, "theirs");
    assert_eq!(
        model.get(&format!("projects/{copy}")).unwrap().bytes,
        "ours"
    );
    let told = String::from_utf8(mount.run(&["conflicts"]).stdout).unwrap();
    assert!(
        told.contains(&format!("ours is kept as projects/{copy}")),
        "{told}"
    );
    let json = mount.run(&["conflicts", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["path"], "projects/song.rpp");
    // Whoever deals with the copy has dealt with the conflict.
    fs::remove_file(mount.path(&format!("projects/{copy}"))).unwrap();
    mount.wait_for("no conflict", |status| status["conflicts"] == 0);
}

#[test]
fn two_who_create_one_name_keep_both() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read_dir(mount.path("layers")).unwrap().count(), 0);
    fs::write(mount.path("layers/a.wav"), "ours").unwrap();
    model.put("layers/a.wav", "theirs");
    mount.wait_for("a conflict", |status| status["conflicts"] == 1);
    mount.wait_uploaded();
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    let copy = copy_in(&mount, "layers");
    assert_eq!(
        fs::read(mount.path(&format!("layers/{copy}"))).unwrap(),
        b"ours"
    );
    assert_eq!(fs::read(mount.path("layers/a.wav")).unwrap(), b"theirs");
    assert_eq!(mount.status()["conflicts"], 1);
}

#[test]
fn a_rename_onto_a_name_that_another_made_keeps_both() {
    let model = R2Model::start();
    model.put("segments/take.wav", "ours");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 1);
    fs::rename(
        mount.path("segments/take.wav"),
        mount.path("segments/best.wav"),
    )
    .unwrap();
    model.put("segments/best.wav", "theirs");
    mount.wait_for("a conflict", |status| status["conflicts"] == 1);
    mount.wait_uploaded();
    let copy = copy_in(&mount, "segments");
    assert_eq!(
        fs::read(mount.path(&format!("segments/{copy}"))).unwrap(),
        b"ours"
    );
    assert_eq!(
        fs::read(mount.path("segments/best.wav")).unwrap(),
        b"theirs"
    );
    assert!(model.get("segments/take.wav").is_none());
}

#[test]
fn a_rename_whose_source_another_changed_keeps_both_where_the_bytes_are_here() {
    let model = R2Model::start();
    model.put("segments/take.wav", "ours");
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    let (take, best) = ("segments/take.wav", "segments/best.wav");
    assert_eq!(fs::read(mount.path(take)).unwrap(), b"ours");
    fs::rename(mount.path(take), mount.path(best)).unwrap();
    model.put(take, "theirs");
    mount.wait_uploaded();
    for _ in 0..2 {
        assert_eq!(fs::read(mount.path(best)).unwrap(), b"ours");
        assert_eq!(fs::read(mount.path(take)).unwrap(), b"theirs");
        assert_eq!(model.get(best).unwrap().bytes, "ours");
        assert_eq!(model.get(take).unwrap().bytes, "theirs");
        mount.unmount();
        mount.remove_cache();
        mount.mount();
    }
}

#[test]
fn a_rename_whose_source_is_nowhere_any_more_is_undone() {
    let model = R2Model::start();
    model.put("segments/take.wav", "ours");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    let (take, best) = ("segments/take.wav", "segments/best.wav");
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 1);
    fs::rename(mount.path(take), mount.path(best)).unwrap();
    model.put(take, "theirs");
    mount.wait_uploaded();
    assert_eq!(mount.status()["uploads"]["parked"], 0);
    assert_eq!(fs::read(mount.path(take)).unwrap(), b"theirs");
    let error = fs::metadata(mount.path(best)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(model.get(best).is_none());
    assert!(
        mount
            .log()
            .contains("segments/best.wav is not there any more")
    );
}

#[test]
fn an_edit_of_a_file_that_another_deleted_is_kept_under_its_name() {
    let model = R2Model::start();
    model.put("projects/song.rpp", "first");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read(mount.path("projects/song.rpp")).unwrap(), b"first");
    fs::write(mount.path("projects/song.rpp"), "ours").unwrap();
    model.delete("projects/song.rpp");
    mount.wait_uploaded();
    assert_eq!(model.get("projects/song.rpp").unwrap().bytes, "ours");
    assert_eq!(mount.status()["conflicts"], 0);
}

#[test]
fn the_queue_tells_what_waits_and_why() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let told = String::from_utf8(mount.run(&["queue"]).stdout).unwrap();
    assert_eq!(told, "nothing waits\n");
    let denied = model.add_fault(
        r2_model::FaultRule::new(r2_model::Fault::error("EntityTooLarge"))
            .on(&[r2_model::Operation::PutObject]),
    );
    fs::write(mount.path("layers/a.wav"), "ours").unwrap();
    mount.wait_for("it is parked", |status| status["uploads"]["parked"] == 1);
    let json = mount.run(&["queue", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let entry = &json["entries"][0];
    assert_eq!(entry["path"], "layers/a.wav");
    assert_eq!(entry["state"], "parked");
    assert!(
        entry["reason"].as_str().unwrap().contains("too large"),
        "{entry}"
    );
    assert_eq!(fs::read(mount.path("layers/a.wav")).unwrap(), b"ours");
    model.clear_fault(denied);
    let retried = mount.run(&["queue", "retry", "layers/a.wav"]);
    assert!(retried.status.success());
    mount.wait_uploaded();
    assert_eq!(model.get("layers/a.wav").unwrap().bytes, "ours");
    let nothing = mount.run(&["queue", "retry", "layers/a.wav"]);
    assert_eq!(nothing.status.code(), Some(1));
}
