//! Machines that sleep, and clocks that jump.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use r2_model::{Connections, Ending, Fault, FaultRule, Operation, R2Model};

use crate::common::mount::{DEADLINE, Mount, model_settings};
use crate::crash::{assert_file, assert_object, names, noise};

fn signal(mount: &Mount, name: &str) {
    let killed = Command::new("kill")
        .args([name, &mount.pid().to_string()])
        .status();
    assert!(killed.unwrap().success());
}

/// The machine sleeps while it uploads and downloads: the process stops, the server has hung up when
/// it wakes, and the network comes a moment later.
#[test]
fn a_machine_that_sleeps_goes_on_where_it_was() {
    let model = R2Model::start();
    let bytes = noise(1, 3 << 20);
    model.put("segments/long.wav", bytes.clone());
    let mount = Mount::with(&model, &[("REQUEST_DEADLINE_SECONDS", "3")]);
    assert_eq!(names(&mount, "segments"), ["long.wav"]);
    assert_eq!(names(&mount, "layers"), [""; 0]);
    let slow = model.add_fault(FaultRule::new(Fault::SlowBody(1 << 20)));
    let silence = Ending::Silence(Duration::from_secs(600));
    let silent =
        model.add_fault(FaultRule::new(Fault::Instead(silence)).on(&[Operation::PutObject]));
    let path = mount.path("segments/long.wav");
    let reader = std::thread::spawn(move || fs::read(path));
    fs::write(mount.path("layers/take.wav"), &bytes).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    signal(&mount, "-STOP");
    model.clear_fault(slow);
    model.clear_fault(silent);
    model.stop();
    std::thread::sleep(Duration::from_secs(5));
    signal(&mount, "-CONT");
    std::thread::sleep(Duration::from_secs(1));
    model.set_connections(Connections::Serve);
    mount.wait_uploaded();
    assert_object(&model, "layers/take.wav", &bytes);
    // Who read while the machine fell asleep may have been told that the network was gone.
    if let Ok(read) = reader.join().unwrap() {
        assert!(read == bytes);
    }
    let end = Instant::now() + DEADLINE;
    while fs::read(mount.path("segments/long.wav")).is_err() {
        assert!(Instant::now() < end, "{}", mount.log());
    }
    assert_file(&mount.path("segments/long.wav"), &bytes);
    let status = mount.status();
    assert_eq!(status["conflicts"], 0, "{status:#}");
}

/// The library that gives one process another time (package `faketime`).
fn faketime() -> PathBuf {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| PathBuf::from(format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1")));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("the package faketime is installed")
}

/// A mount whose wall clock is off by what a file says.
pub(crate) fn mount_with_clock(model: &R2Model, settings: &[(&str, &str)]) -> (Mount, PathBuf) {
    let mut mount = Mount::prepare(settings);
    for (name, value) in model_settings(model) {
        mount.set(&name, &value);
    }
    let offset = mount.beside("offset");
    set_clock(&offset, "+0");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (name, value) in [
        ("LD_PRELOAD", text(&faketime())),
        ("FAKETIME_TIMESTAMP_FILE", text(&offset)),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        // A clock that is set does not move the time that waits count in.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_RESET", "1".to_owned()),
    ] {
        mount.environment(name, &value);
    }
    mount.mount();
    (mount, offset)
}

pub(crate) fn set_clock(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

/// What the bucket still accepts: the clock moves within its fifteen minutes, to and fro.
#[test]
fn a_clock_that_jumps_to_and_fro_loses_and_repeats_nothing() {
    let model = R2Model::start();
    model.put("segments/there.wav", "there");
    let (mount, clock) = mount_with_clock(&model, &[("LIST_TTL_SECONDS", "0.5")]);
    for (round, offset) in ["+600", "-600", "+0", "-840", "+840"].iter().enumerate() {
        set_clock(&clock, offset);
        let key = format!("layers/{round}.wav");
        for version in ["first", "second"] {
            fs::write(mount.path(&key), version).unwrap();
            mount.wait_uploaded();
        }
        assert_object(&model, &key, b"second");
        assert_file(&mount.path("segments/there.wav"), b"there");
        // What others do shows, whatever time it is here.
        let theirs = format!("segments/theirs-{round}.wav");
        model.put(&theirs, "theirs");
        let end = Instant::now() + DEADLINE;
        while !names(&mount, "segments").contains(&format!("theirs-{round}.wav")) {
            assert!(Instant::now() < end, "{offset}: {}", mount.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_file(&mount.path(&theirs), b"theirs");
        model.put("segments/there.wav", "there");
        fs::rename(
            mount.path(&key),
            mount.path(&format!("rhythms/{round}.wav")),
        )
        .unwrap();
        mount.wait_uploaded();
        assert_object(&model, &format!("rhythms/{round}.wav"), b"second");
        assert!(model.get(&key).is_none());
    }
    assert_eq!(
        model
            .write_rate_violations()
            .iter()
            .filter(|v| v.own_gap.is_some())
            .count(),
        0
    );
    let status = mount.status();
    assert_eq!(status["conflicts"], 0, "{status:#}");
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
}

/// A clock that is days off: the bucket refuses all, what is here is served, and when the clock is
/// right again everything goes up.
#[test]
fn a_clock_that_is_days_off_holds_uploads_until_it_is_right_again() {
    let model = R2Model::start();
    let bytes = noise(3, 100_000);
    model.put("segments/cached.wav", bytes.clone());
    let (mount, clock) = mount_with_clock(&model, &[("REQUEST_DEADLINE_SECONDS", "3")]);
    assert_file(&mount.path("segments/cached.wav"), &bytes);
    assert_eq!(names(&mount, "layers"), [""; 0]);
    for (name, offset) in [("ahead", "+3d"), ("behind", "-3d")] {
        set_clock(&clock, offset);
        let key = format!("layers/{name}.wav");
        fs::write(mount.path(&key), name).unwrap();
        mount.wait_for("it was refused", |status| status["uploads"]["failed"] != 0);
        assert_file(&mount.path("segments/cached.wav"), &bytes);
        assert_file(&mount.path(&key), name.as_bytes());
        assert!(mount.log().contains("clock"), "{}", mount.log());
        set_clock(&clock, "+0");
        let flushed = mount.run(&["queue", "flush"]);
        assert!(flushed.status.success(), "{flushed:?}");
        mount.wait_uploaded();
        assert_object(&model, &key, name.as_bytes());
    }
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
}
