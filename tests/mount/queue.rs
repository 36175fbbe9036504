//! The operator's hand on the queue: pause, resume, flush, and what status tells meanwhile.

use std::fs;
use std::process::Output;

use r2_model::{Fault, FaultRule, Operation, R2Model};

use crate::common::mount::Mount;
use crate::crash::{assert_object, noise};

fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

#[track_caller]
fn succeeds(mount: &Mount, args: &[&str]) -> String {
    let output = mount.run(args);
    assert!(output.status.success(), "{args:?}: {}", told(&output));
    told(&output)
}

#[track_caller]
fn fails(mount: &Mount, args: &[&str], code: i32) -> String {
    let output = mount.run(args);
    assert_eq!(output.status.code(), Some(code), "{}", told(&output));
    told(&output)
}

#[test]
fn a_paused_queue_uploads_nothing_also_after_a_kill_until_it_is_resumed() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    assert!(succeeds(&mount, &["queue", "pause"]).contains("queue resume"));
    let bytes = noise(1, 50_000);
    fs::write(mount.path("segments/take.wav"), &bytes).unwrap();
    for killed in [false, true] {
        if killed {
            mount.kill();
            mount.mount();
        }
        let status = mount.status();
        assert_eq!(status["uploads"]["paused"], true);
        assert_eq!(status["safe_to_shut_down"], false);
        let expected = serde_json::json!(
            {"files": 1, "bytes": 50_000, "seconds_left": null, "reason": "paused"});
        assert_eq!(status["shutdown"], expected);
        let alerts = status["alerts"].to_string();
        assert!(alerts.contains("paused"), "{alerts}");
        let text = succeeds(&mount, &["status"]);
        assert!(text.contains("no, 1 files, 50.0 KB, paused"), "{text}");
        // Neither by hand nor by time.
        let text = fails(&mount, &["queue", "flush"], 1);
        assert!(text.contains("uploads are paused"), "{text}");
        let root = mount.root();
        let wait = ["umount", root.to_str().unwrap(), "--wait"];
        let text = fails(&mount, &wait, 1);
        assert!(text.contains("stays mounted: uploads are paused"), "{text}");
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(model.keys().is_empty());
    }
    let text = succeeds(&mount, &["queue", "resume", "--json"]);
    assert_eq!(text.trim(), r#"{"paused":false}"#);
    mount.wait_uploaded();
    assert_object(&model, "segments/take.wav", &bytes);
    assert_eq!(mount.status()["uploads"]["paused"], false);
}

#[test]
fn flush_leaves_out_the_quiet_time_of_what_is_named() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    for name in ["segments/a.wav", "layers/b.wav", "layers/c.wav"] {
        fs::write(mount.path(name), name).unwrap();
    }
    let path = mount.path("segments/a.wav");
    let text = succeeds(
        &mount,
        &["queue", "flush", path.to_str().unwrap(), "--wait"],
    );
    assert!(text.contains("in the bucket"), "{text}");
    assert_eq!(model.keys(), ["segments/a.wav"]);
    let text = succeeds(&mount, &["queue", "flush", "layers", "--json"]);
    assert_eq!(text.trim(), r#"{"flushed":2}"#);
    mount.wait_uploaded();
    assert_eq!(model.keys().len(), 3);
}

#[test]
fn flush_waits_as_long_as_it_is_told_and_says_what_cannot_go() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    let open = fs::File::create(mount.path("segments/open.wav")).unwrap();
    let wait = ["queue", "flush", "--wait=0.2"];
    let text = fails(&mount, &wait, 1);
    assert!(text.contains("1 files"), "{text}");
    assert_eq!(mount.status()["shutdown"]["reason"], "open");
    drop(open);
    model.add_fault(FaultRule::new(Fault::error("EntityTooLarge")).on(&[Operation::PutObject]));
    let text = fails(&mount, &["queue", "flush", "--wait"], 1);
    assert!(text.contains("cannot be uploaded as things are"), "{text}");
    assert_eq!(mount.status()["shutdown"]["reason"], "parked");
    // Nor is that a reason to unmount in silence.
    let root = mount.root();
    let text = fails(&mount, &["umount", root.to_str().unwrap(), "--wait"], 1);
    assert!(text.contains("stays mounted: 1 files"), "{text}");
    model.clear_faults();
    succeeds(&mount, &["queue", "retry", "segments"]);
    succeeds(&mount, &["queue", "flush", "--wait"]);
    assert_eq!(mount.status()["safe_to_shut_down"], true);
}

#[test]
fn the_time_left_is_told_once_uploads_have_been_seen() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let slow = Fault::latency(std::time::Duration::from_secs(1));
    model.add_fault(FaultRule::new(slow).on(&[Operation::PutObject]));
    fs::write(mount.path("segments/first.wav"), noise(1, 2_000_000)).unwrap();
    mount.wait_for("nothing is known", |status| {
        status["shutdown"]["reason"] == "uploading" && status["shutdown"]["seconds_left"].is_null()
    });
    mount.wait_uploaded();
    fs::write(mount.path("segments/second.wav"), noise(2, 2_000_000)).unwrap();
    mount.wait_for("the time is known", |status| {
        status["shutdown"]["seconds_left"]
            .as_u64()
            .is_some_and(|seconds| (1..60).contains(&seconds))
    });
    mount.wait_uploaded();
}
