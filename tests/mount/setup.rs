//! `setup`, `migrate`, `purge` and `catalog find|check`: VoiceBeat's ways into the bucket and out of a
//! machine.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};
use serde_json::Value;

use crate::common::mount::{DEADLINE, Mount, model_settings};
use crate::crash::noise;

/// A machine with settings for the model's bucket, and nothing mounted.
fn machine(model: &R2Model) -> Mount {
    let mut machine = Mount::prepare(&[]);
    for (name, value) in model_settings(model) {
        machine.set(&name, &value);
    }
    machine.set("FALLBACK_TO_LOCAL", "true");
    machine.write_env_file();
    machine
}

fn write(machine: &Mount, path: &str, bytes: &[u8]) {
    let path = machine.beside(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

#[track_caller]
fn ended_with(code: i32, machine: &Mount, args: &[&str]) -> Output {
    let output = machine.run(args);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    output
}

#[track_caller]
fn run(machine: &Mount, args: &[&str], code: i32) -> String {
    text(&ended_with(code, machine, args))
}

#[track_caller]
fn json(machine: &Mount, args: &[&str], code: i32) -> Value {
    let output = ended_with(code, machine, args);
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn holds(model: &R2Model, key: &str, bytes: &[u8]) -> bool {
    model.get(key).is_some_and(|object| object.bytes == bytes)
}

#[test]
fn setup_validates_tests_and_copies_samples_and_catalog_once() {
    let model = R2Model::start();
    let machine = machine(&model);
    let kick = noise(1, 50_000);
    write(&machine, "samples/house/drums/kick.wav", &kick);
    assert!(run(&machine, &["setup", "--validate"], 0).contains("rights:   list, read, write"));
    let told = run(&machine, &["setup", "--upload-samples", "--dry-run"], 0);
    assert!(told.contains("1 would be uploaded, 50.0 KB"), "{told}");
    assert!(model.keys().is_empty());
    let told = run(&machine, &["setup", "--upload-samples"], 0);
    assert!(told.contains("1 uploaded and verified"), "{told}");
    assert!(holds(&model, "samples/house/drums/kick.wav", &kick));
    // The library is what counts; what is there already is not sent again.
    let told = run(&machine, &["setup", "--all"], 1);
    assert!(told.contains("catalog build"), "{told}");
    run(&machine, &["catalog", "build"], 0);
    let kick = noise(2, 60_000);
    write(&machine, "samples/house/drums/kick.wav", &kick);
    let told = json(&machine, &["setup", "--all", "--json"], 0);
    let uploaded = serde_json::json!(["catalog/samples.json", "samples/house/drums/kick.wav"]);
    assert_eq!(told["uploaded"], uploaded, "{told:#}");
    assert!(holds(&model, "samples/house/drums/kick.wav", &kick));
    let told = run(&machine, &["setup", "--all"], 0);
    assert!(
        told.contains("0 uploaded") && told.contains("2 there already"),
        "{told}"
    );
    let told = run(
        &machine,
        &["setup", "--test"],
        machine.run(&["doctor"]).status.code().unwrap(),
    );
    assert!(told.contains("kernel"), "{told}");
    for wrong in [
        &["setup"][..],
        &["setup", "--nope"],
        &["setup", "--dry-run"],
    ] {
        assert!(run(&machine, wrong, 2).contains("Usage"));
    }
}

#[test]
fn the_catalog_is_searched_and_compared_with_the_library() {
    let model = R2Model::start();
    let machine = machine(&model);
    for path in [
        "house/drums/kick.wav",
        "house/bass/low.wav",
        "jazz/drums/brush.wav",
    ] {
        write(&machine, &format!("samples/{path}"), &noise(3, 1000));
    }
    assert!(run(&machine, &["catalog", "find", "--name", "x"], 1).contains("catalog build"));
    run(&machine, &["catalog", "build"], 0);
    let found = run(&machine, &["catalog", "find", "--genre", "House"], 0);
    assert_eq!(found, "house/bass/low.wav\nhouse/drums/kick.wav\n");
    let args = [
        "catalog",
        "find",
        "--instrument",
        "drums",
        "--name",
        "br",
        "--json",
    ];
    let found = json(&machine, &args, 0);
    assert_eq!(found[0]["local_path"], "jazz/drums/brush.wav");
    assert_eq!(found.as_array().unwrap().len(), 1);
    run(&machine, &["catalog", "find", "--genre", "polka"], 1);
    for wrong in [&["catalog", "find"][..], &["catalog", "find", "--json"]] {
        assert!(run(&machine, wrong, 2).contains("Usage"));
    }
    assert!(run(&machine, &["catalog", "check", "--nope"], 2).contains("Usage"));

    run(&machine, &["catalog", "check"], 0);
    fs::remove_file(machine.beside("samples/house/bass/low.wav")).unwrap();
    write(&machine, "samples/house/drums/kick.wav", &noise(4, 2000));
    write(&machine, "samples/house/drums/snare.wav", &noise(5, 1000));
    let told = run(&machine, &["catalog", "check"], 1);
    for line in [
        "missing: house/bass/low.wav",
        "changed: house/drums/kick.wav",
        "extra: house/drums/snare.wav",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = json(&machine, &["catalog", "check", "--json"], 1);
    assert_eq!(told["missing"][0], "house/bass/low.wav");
    assert_eq!(told["changed"][0], "house/drums/kick.wav");
    assert_eq!(told["extra"][0], "house/drums/snare.wav");
}

#[test]
fn migrate_sends_what_is_missing_touches_nothing_else_and_goes_on_after_a_failure() {
    let model = R2Model::start();
    let mut machine = machine(&model);
    let large = noise(6, 20 << 20);
    write(&machine, "output/projects/large.wav", &large);
    write(&machine, "output/projects/new.mp3", b"new");
    write(&machine, "output/projects/same.mp3", b"same");
    write(&machine, "output/projects/other.mp3", b"from here");
    write(&machine, "output/notes.txt", b"notes");
    model.put("projects/same.mp3", b"same".to_vec());
    model.put("projects/other.mp3", b"from there".to_vec());

    let told = json(&machine, &["migrate", "--dry-run", "--json"], 1);
    let missing = serde_json::json!(["projects/large.wav", "projects/new.mp3"]);
    assert_eq!(told["uploaded"], missing, "{told:#}");
    assert_eq!(model.keys().len(), 2);

    // The second part of the large file is refused for good: the rest goes.
    let refused = FaultRule::new(Fault::error("AccessDenied")).on(&[Operation::UploadPart]);
    model.add_fault(refused);
    let told = run(&machine, &["migrate"], 1);
    assert!(told.contains("1 uploaded and verified"), "{told}");
    assert!(told.contains("failed: projects/large.wav"), "{told}");
    assert!(told.contains("differs: projects/other.mp3"), "{told}");
    assert!(
        told.contains("skipped: notes.txt (it lies in none of the COLLECTIONS)"),
        "{told}"
    );
    assert!(model.open_uploads().is_empty(), "parts are left behind");
    assert!(holds(&model, "projects/new.mp3", b"new"));
    model.clear_faults();

    let told = json(&machine, &["migrate", "--json"], 1);
    assert_eq!(told["uploaded"], serde_json::json!(["projects/large.wav"]));
    let same = serde_json::json!(["projects/new.mp3", "projects/same.mp3"]);
    assert_eq!(told["same"], same);
    assert!(holds(&model, "projects/large.wav", &large));
    assert!(holds(&model, "projects/other.mp3", b"from there"));
    for name in ["large.wav", "new.mp3", "same.mp3", "other.mp3"] {
        let path = machine.beside("output/projects").join(name);
        assert!(path.exists(), "{name} was deleted unasked");
    }

    // What was deleted in the mount does not come back, and what is queued is not overtaken.
    machine.mount();
    write(&machine, "output/projects/gone.mp3", b"gone");
    write(&machine, "output/projects/edited.mp3", b"old");
    run(&machine, &["refresh"], 0);
    fs::remove_file(machine.path("projects/gone.mp3")).unwrap();
    machine.wait_uploaded();
    run(&machine, &["queue", "pause"], 0);
    fs::write(machine.path("projects/edited.mp3"), b"edited").unwrap();
    for mounted in [true, false] {
        if !mounted {
            machine.unmount();
        }
        let told = run(&machine, &["migrate"], 1);
        assert!(
            told.contains("gone.mp3 (it was deleted or renamed"),
            "{told}"
        );
        assert!(
            told.contains("edited.mp3 (a newer version is in the queue"),
            "{told}"
        );
        assert!(model.get("projects/edited.mp3").is_none());
        assert!(model.get("projects/gone.mp3").is_none());
    }

    let told = json(&machine, &["migrate", "--delete-after-verify", "--json"], 1);
    let deleted = [
        "projects/large.wav",
        "projects/new.mp3",
        "projects/same.mp3",
    ];
    assert_eq!(told["deleted"], serde_json::json!(deleted));
    let left = |name: &str| machine.beside("output/projects").join(name).exists();
    assert!(!left("large.wav") && !left("new.mp3") && !left("same.mp3"));
    assert!(left("other.mp3") && left("edited.mp3") && left("gone.mp3"));
    let wrong = ["migrate", "--delete-after-verify", "--dry-run"];
    assert!(run(&machine, &wrong, 2).contains("Usage"));
    run(&machine, &["migrate", "--from", "nowhere"], 2);
}

/// Starts `migrate` and kills it when the bucket has two parts of the large file and the third does not
/// come to an end.
fn kill_amid_parts(machine: &Mount, model: &R2Model) {
    let endless = Fault::latency(Duration::from_secs(600));
    model.add_fault(
        FaultRule::new(endless)
            .on(&[Operation::UploadPart])
            .from_nth(3),
    );
    let mut child = machine.command().arg("migrate").spawn().unwrap();
    let end = Instant::now() + DEADLINE;
    let parts = || {
        model
            .open_uploads()
            .first()
            .map_or(0, |upload| upload.parts.len())
    };
    while parts() < 2 {
        assert!(Instant::now() < end, "{:?}", model.open_uploads());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    model.clear_faults();
    assert_eq!(model.open_uploads().len(), 1);
}

#[test]
fn migrate_goes_on_within_a_file_after_a_kill_and_leaves_no_parts() {
    let model = R2Model::start();
    let mut machine = machine(&model);
    let large = noise(7, 60 << 20);
    write(&machine, "output/projects/large.wav", &large);
    kill_amid_parts(&machine, &model);
    // A look changes nothing.
    model.clear_requests();
    let told = json(&machine, &["migrate", "--dry-run", "--json"], 0);
    assert_eq!(told["uploaded"][0], "projects/large.wav");
    assert_eq!(model.open_uploads().len(), 1);
    let parts = |model: &R2Model| {
        let requests = model.requests().into_iter();
        let parts = requests.filter(|request| request.operation == Operation::UploadPart);
        parts.count()
    };
    run(&machine, &["migrate"], 0);
    assert_eq!(parts(&model), 2, "two of four parts were there");
    assert!(holds(&model, "projects/large.wav", &large));
    assert!(model.open_uploads().is_empty());
    assert!(!machine.beside("staging").join("copies.json").exists());

    // The file became another one meanwhile, or it is gone: the parts are taken back.
    for gone in [false, true] {
        model.delete("projects/large.wav");
        write(&machine, "output/projects/large.wav", &large);
        kill_amid_parts(&machine, &model);
        machine.mount();
        machine.unmount();
        let told = run(&machine, &["purge"], 1);
        assert!(told.contains("1 uploads that migrate"), "{told}");
        let changed = noise(8, 60 << 20);
        match gone {
            true => fs::remove_file(machine.beside("output/projects/large.wav")).unwrap(),
            false => write(&machine, "output/projects/large.wav", &changed),
        }
        run(&machine, &["migrate"], 0);
        assert!(model.open_uploads().is_empty(), "{gone}");
        assert_eq!(holds(&model, "projects/large.wav", &changed), !gone);
    }
    run(&machine, &["purge"], 0);
    assert!(!machine.beside("staging").exists());
}

#[test]
fn purge_removes_what_is_left_and_never_what_is_only_here() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    run(&mount, &["queue", "pause"], 0);
    fs::write(mount.path("segments/take.wav"), b"take").unwrap();
    let told = run(&mount, &["purge"], 1);
    assert!(told.contains("in use"), "{told}");
    mount.unmount();
    let told = run(&mount, &["purge"], 1);
    assert!(
        told.contains("1 changes that wait for the bucket"),
        "{told}"
    );
    assert!(mount.beside("cache").exists(), "all or nothing");
    mount.mount();
    run(&mount, &["queue", "resume"], 0);
    mount.wait_uploaded();
    assert_eq!(fs::read(mount.path("segments/take.wav")).unwrap(), b"take");
    mount.unmount();
    // Not ours: neither it nor its directory goes.
    write(&mount, "staging/notes.txt", b"mine");
    let told = run(&mount, &["purge"], 1);
    assert!(told.contains("notes.txt"), "{told}");
    fs::remove_file(mount.beside("staging/notes.txt")).unwrap();
    let told = json(&mount, &["purge", "--dry-run", "--json"], 0);
    assert_eq!(told["removed"].as_array().unwrap().len(), 2, "{told}");
    run(&mount, &["purge"], 0);
    let exists = |name: &str| Path::new(&mount.beside(name)).exists();
    assert!(!exists("staging") && !exists("cache"));
    assert!(run(&mount, &["purge"], 0).contains("nothing to remove"));
    assert!(run(&mount, &["purge", "--nope"], 2).contains("Usage"));
}
