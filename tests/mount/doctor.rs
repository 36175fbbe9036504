//! `voicebeatfs doctor`: what it finds, what it says to do, and what it never shows.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use r2_model::{Fault, FaultRule, Operation, Permission, R2Model, Token};
use serde_json::Value;

use crate::common::mount::{Mount, model_settings};

/// Returns the findings as `level about text -> advice`, and the exit code.
fn findings(mount: &Mount) -> (Vec<String>, Option<i32>) {
    let output = mount.run(&["doctor", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Value = serde_json::from_slice(&output.stdout).expect(&said);
    let list = told["findings"].as_array().unwrap().iter();
    let line = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {} -> {}",
            text("level"),
            text("about"),
            text("text"),
            text("advice")
        )
    };
    (list.map(line).collect(), output.status.code())
}

#[track_caller]
fn found(findings: &[String], beginning: &str, part: &str) {
    let is_it = |line: &String| line.starts_with(beginning) && line.contains(part);
    assert!(
        findings.iter().any(is_it),
        "{beginning} … {part}: {findings:#?}"
    );
}

#[test]
fn verify_finds_a_changed_byte_in_staging_and_cache() {
    let model = R2Model::start();
    model.put("segments/there.wav", crate::crash::noise(1, 100_000));
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "0.1")]);
    fs::read(mount.path("segments/there.wav")).unwrap();
    // Sealed, and refused for as long as the test takes.
    model.add_fault(FaultRule::new(Fault::error("AccessDenied")).on(&[Operation::PutObject]));
    fs::write(
        mount.path("layers/here.wav"),
        crate::crash::noise(2, 100_000),
    )
    .unwrap();
    mount.wait_for("it was tried", |status| status["uploads"]["failed"] != 0);
    let verify = |mount: &Mount| {
        let output = mount.run(&["doctor", "--verify"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let told = verify(&mount);
    assert!(
        told.contains("1 staged files are what was closed"),
        "{told}"
    );
    assert!(
        told.contains("1 cached files are what the bucket has"),
        "{told}"
    );
    for (folder, extension) in [("cache", "cache"), ("staging", "staged")] {
        let files = fs::read_dir(mount.beside(folder)).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let of_kind = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == extension);
        let filled = |path: &std::path::PathBuf| fs::metadata(path).unwrap().len() == 100_000;
        let path = paths.into_iter().filter(of_kind).find(filled).unwrap();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"other", 50_000).unwrap();
    }
    let told = verify(&mount);
    assert!(
        told.contains("these are not what was closed: layers/here.wav"),
        "{told}"
    );
    assert!(
        told.contains("these are not what the bucket has: segments/there.wav"),
        "{told}"
    );
    // The bucket's bytes are read again.
    let bytes = fs::read(mount.path("segments/there.wav")).unwrap();
    assert!(bytes == crate::crash::noise(1, 100_000));
    // Without a mount the staged files are looked at.
    mount.unmount();
    let told = verify(&mount);
    assert!(
        told.contains("these are not what was closed: layers/here.wav"),
        "{told}"
    );
}

#[test]
fn a_mount_in_order_is_said_to_be_and_every_setting_shown_with_its_origin() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let (list, code) = findings(&mount);
    let problems = list.iter().filter(|line| line.starts_with("problem"));
    let problems: Vec<&String> = problems.collect();
    assert_eq!(code, Some(i32::from(!problems.is_empty())), "{list:#?}");
    // Other tests leave dead mounts for a moment.
    let ours = problems
        .iter()
        .find(|line| !line.starts_with("problem mount"));
    assert_eq!(ours, None);
    found(&list, "good kernel", "Linux ");
    found(&list, "good fuse", "/dev/fuse can be opened");
    found(&list, "good staging", "is there and private");
    found(&list, "good staging", "a sync takes");
    found(&list, "good bucket", "voicebeat-audio at http://");
    found(&list, "good rights", "list, read, write");
    found(&list, "good mount", "answers and is online");
    let output = mount.run(&["doctor"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let env = mount.env_file();
    for part in [
        &format!("  R2_BUCKET_NAME=voicebeat-audio  ({}:", env.display())[..],
        "  R2_SECRET_ACCESS_KEY=***  (",
        "  CACHE_TTL_HOURS=24  (default)",
        &format!("  CACHE_DIR={}  (default)", mount.beside("cache").display()),
    ] {
        assert!(told.contains(part), "\"{part}\" is not in:\n{told}");
    }
    assert!(!told.contains(model.secret_key()) && !told.contains(model.access_key()));
    let nothing_left = fs::read_dir(mount.beside("staging")).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".doctor")
    });
    assert!(nothing_left);
    assert_eq!(mount.run(&["doctor", "--nope"]).status.code(), Some(2));
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let model = R2Model::start();
    model.add_token(Token::new(
        "admin-key",
        "admin-secret-of-this-test",
        Permission::AdminReadWrite,
    ));
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set("R2_ACCESS_KEY_ID", "admin-key");
    mount.set("R2_SECRET_ACCESS_KEY", "admin-secret-of-this-test");
    mount.write_env_file();
    fs::set_permissions(mount.env_file(), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(mount.beside("staging")).unwrap();
    fs::set_permissions(mount.beside("staging"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(mount.beside("staging/journal.db"), [7; 8192]).unwrap();
    let (list, code) = findings(&mount);
    assert_eq!(code, Some(1));
    found(&list, "warning settings", "may be read by others");
    found(&list, "warning staging", "chmod 700");
    found(
        &list,
        "problem staging the journal is damaged",
        "keep STAGING_DIR",
    );
    found(
        &list,
        "warning rights the token may do more",
        "make one with Object Read & Write",
    );
    found(&list, "good cache", "will be made by the first mount");

    model.revoke("admin-key");
    let (list, _) = findings(&mount);
    found(&list, "problem bucket", "access key");
    mount.set("CACHE_TTL_HOURS", "0");
    mount.write_env_file();
    let (list, code) = findings(&mount);
    assert_eq!(code, Some(1));
    found(&list, "problem settings", "CACHE_TTL_HOURS is \"0\"");
}

#[test]
fn a_bundle_has_what_a_report_needs_and_no_secret() {
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set("LOG_FILE", "bundle.log");
    let logged = format!("somebody has put {} here\n", model.secret_key());
    fs::write(mount.beside("bundle.log"), logged).unwrap();
    mount.mount();
    let file = mount.beside("bundle.json");
    let args = ["doctor", "--bundle", file.to_str().unwrap()];
    let output = mount.run(&args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("look through it"));
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(model.secret_key()) && !text.contains(model.access_key()));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["log"][0], "somebody has put *** here");
    let mounts = told["mounts"].as_array().unwrap();
    let root = mount.root();
    assert!(
        mounts
            .iter()
            .any(|one| one["mountpoint"] == root.to_str().unwrap())
    );
    assert!(told["diagnosis"]["findings"].as_array().unwrap().len() > 10);
    let again = mount.run(&args);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("bundle.json: File exists"), "{said}");
    // What this test has put there itself.
    fs::remove_file(mount.beside("bundle.log")).unwrap();
}

#[test]
fn the_line_is_measured_for_what_was_said_before_and_nothing_is_left() {
    let model = R2Model::start();
    let mut machine = Mount::prepare(&[]);
    for (name, value) in model_settings(&model) {
        machine.set(&name, &value);
    }
    machine.write_env_file();
    let speed = |machine: &Mount| {
        let output = machine.run(&["doctor", "--speed", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (told, String::from_utf8(output.stderr).unwrap())
    };
    let about_speed = |told: &Value| {
        let findings = told["findings"].as_array().unwrap().iter();
        let of_speed = findings.filter(|finding| finding["about"] == "speed");
        let line = |finding: &Value| format!("{} {}", finding["level"], finding["text"]);
        of_speed.map(line).collect::<Vec<_>>()
    };
    machine.run(&["doctor", "--json"]);
    let before = model.costs();
    machine.run(&["doctor", "--json"]);
    let plain = model.costs();
    // Of a run that may still be under way elsewhere.
    model.put(".voicebeatfs/speed/left", "left");
    let (told, said) = speed(&machine);
    assert!(
        said.contains("speed: sends at most 17.0 MB") && said.contains("6 Class A and 15 Class B"),
        "{said}"
    );
    let with_speed = model.costs();
    let more = |of: fn(&r2_model::Costs) -> u64| {
        (of(&with_speed) - of(&plain)) - (of(&plain) - of(&before))
    };
    assert_eq!((more(|c| c.class_a), more(|c| c.class_b)), (6, 15));
    assert_eq!(model.keys(), [".voicebeatfs/speed/left"]);
    assert!(told["speed"]["sent_bytes_per_second"].as_u64() > Some(0));
    assert!(told["speed"]["received_bytes_per_second"].as_u64() > Some(0));
    let list = about_speed(&told);
    found(&list, "\"good\"", "the bucket gives");

    // A slow line is told from its first 256 KiB, with what to do.
    let slow = Fault::latency(std::time::Duration::from_millis(1500));
    model.add_fault(FaultRule::new(slow).on(&[Operation::PutObject]));
    let (told, _) = speed(&machine);
    let list = about_speed(&told);
    found(&list, "\"warning\"", "the bucket takes 1");
    found(&list, "\"warning\"", "; eight tracks have 1.2 MB a second");
    assert_eq!(model.keys(), [".voicebeatfs/speed/left"]);
    model.clear_faults();

    // A token that may only read has the answers timed.
    model.add_token(Token::new(
        "reader",
        "reader-secret",
        Permission::ObjectReadOnly,
    ));
    machine.set("R2_ACCESS_KEY_ID", "reader");
    machine.set("R2_SECRET_ACCESS_KEY", "reader-secret");
    machine.write_env_file();
    let (told, _) = speed(&machine);
    assert!(told["speed"]["sent_bytes_per_second"].is_null(), "{told}");
    found(&about_speed(&told), "\"warning\"", "no right to write");
}
