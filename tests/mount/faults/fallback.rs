//! `FALLBACK_TO_LOCAL=true`: what the bucket lacks, or cannot be asked for, comes from `output/`.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use r2_model::R2Model;

use super::*;
use crate::common::mount::model_settings;
use crate::crash::{assert_file, assert_object, names, noise};

/// A mount with files in `output/`.
fn with_output(model: &R2Model, files: &[(&str, &[u8])]) -> Mount {
    let mut mount = Mount::prepare(&[("REQUEST_DEADLINE_SECONDS", REQUEST_DEADLINE)]);
    for (name, value) in model_settings(model) {
        mount.set(&name, &value);
    }
    mount.set("FALLBACK_TO_LOCAL", "true");
    for (path, bytes) in files {
        let path = mount.beside("output").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    mount.mount();
    mount
}

#[test]
fn listings_are_the_union_and_the_bucket_wins() {
    let model = R2Model::start();
    model.put("projects/both.mp3", "from the bucket");
    model.put("projects/remote.mp3", "remote");
    let local = noise(1, 400_000);
    let mount = with_output(
        &model,
        &[
            ("projects/both.mp3", b"from output"),
            ("projects/local.mp3", &local),
            ("projects/deep/er.mp3", b"deeper"),
        ],
    );
    assert_eq!(
        names(&mount, "projects"),
        ["both.mp3", "deep", "local.mp3", "remote.mp3"]
    );
    assert_file(&mount.path("projects/both.mp3"), b"from the bucket");
    assert_file(&mount.path("projects/local.mp3"), &local);
    assert_file(&mount.path("projects/remote.mp3"), b"remote");
    assert_file(&mount.path("projects/deep/er.mp3"), b"deeper");
}

#[test]
fn without_the_bucket_both_directories_serve_and_writes_wait() {
    let model = R2Model::start();
    let bytes = noise(2, 200_000);
    model.put("segments/cached.wav", bytes.clone());
    let mut mount = with_output(&model, &[("segments/local.wav", &bytes)]);
    assert_eq!(names(&mount, "segments"), ["cached.wav", "local.wav"]);
    assert_file(&mount.path("segments/cached.wav"), &bytes);
    model.stop();
    let check = |mount: &Mount| {
        for name in ["cached", "local", "made"] {
            let path = mount.path(&format!("segments/{name}.wav"));
            answered(name, || assert_file(&path, &bytes));
        }
        assert_eq!(
            names(mount, "segments"),
            ["cached.wav", "local.wav", "made.wav"]
        );
    };
    answered("write", || {
        fs::write(mount.path("segments/made.wav"), &bytes).unwrap();
    });
    check(&mount);
    // A name that output/ lacks may be in the bucket.
    assert_no_answer(answered("unknown", || {
        fs::metadata(mount.path("melodies/unknown.mp3"))
    }));
    answered("remount", || mount.remount());
    check(&mount);
    model.restart();
    mount.wait_uploaded();
    check(&mount);
    assert_object(&model, "segments/made.wav", &bytes);
    assert_eq!(model.keys(), ["segments/cached.wav", "segments/made.wav"]);
}

#[test]
fn a_file_of_output_is_never_touched_and_stays_hidden() {
    let model = R2Model::start();
    let local = noise(3, 300_000);
    let files: [(&str, &[u8]); 4] = [
        ("projects/deleted.mp3", b"deleted"),
        ("projects/renamed.mp3", &local),
        ("projects/edited.mp3", &local),
        ("projects/kept.mp3", b"kept"),
    ];
    let mut mount = with_output(&model, &files);
    let root = mount.root();
    let path = |name: &str| root.join(format!("projects/{name}.mp3"));
    fs::remove_file(path("deleted")).unwrap();
    fs::rename(path("renamed"), path("moved")).unwrap();
    let file = OpenOptions::new().write(true).open(path("edited")).unwrap();
    file.write_all_at(b"edit", 1000).unwrap();
    drop(file);
    let mut edited = local.clone();
    edited[1000..1004].copy_from_slice(b"edit");
    let check = |mount: &Mount| {
        assert_eq!(
            names(mount, "projects"),
            ["edited.mp3", "kept.mp3", "moved.mp3"]
        );
        for name in ["deleted", "renamed"] {
            let error = fs::metadata(path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        }
        assert_file(&path("moved"), &local);
        assert_file(&path("edited"), &edited);
        for (name, bytes) in files {
            assert_file(&mount.beside("output").join(name), bytes);
        }
    };
    check(&mount);
    mount.kill();
    mount.mount();
    check(&mount);
    mount.wait_uploaded();
    check(&mount);
    mount.remove_cache();
    mount.remount();
    check(&mount);
    assert_object(&model, "projects/moved.mp3", &local);
    assert_object(&model, "projects/edited.mp3", &edited);
    assert_eq!(model.keys(), ["projects/edited.mp3", "projects/moved.mp3"]);
    model.stop();
    check(&mount);
}
