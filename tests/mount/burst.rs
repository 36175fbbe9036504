//! More files are removed at once than anybody means to: the bucket keeps them until somebody has
//! confirmed it.

use std::fs;

use r2_model::{Operation, R2Model};
use serde_json::Value;

use crate::common::mount::Mount;

const LIMIT: usize = 5;
const FILES: usize = 12;

fn key(at: usize) -> String {
    format!("segments/take {at}.wav")
}

/// A mount of a bucket with a dozen files that are all removed at once.
fn after_a_burst(model: &R2Model) -> Mount {
    for at in 0..FILES {
        model.put(&key(at), format!("bytes of {at}"));
    }
    let settings = [("DELETE_LIMIT", "5"), ("WRITE_BACK_SECONDS", "1")];
    let mount = Mount::with(model, &settings);
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), FILES);
    for at in 0..FILES {
        fs::remove_file(mount.path(&key(at))).unwrap();
    }
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 0);
    mount.wait_for("held deletes", |status| {
        status["uploads"]["held"] == FILES as u64 && status["safe_to_shut_down"] == false
    });
    mount
}

fn deletes(model: &R2Model) -> usize {
    let requests = model.requests();
    let is_delete =
        |request: &&r2_model::RequestRecord| request.operation == Operation::DeleteObject;
    requests.iter().filter(is_delete).count()
}

fn run(mount: &Mount, args: &[&str]) -> String {
    let output = mount.run(args);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_burst_of_deletes_is_held_over_a_restart_and_taken_back() {
    let model = R2Model::start();
    let mut mount = after_a_burst(&model);
    mount.kill();
    mount.mount();
    let alerts = mount.status()["alerts"].to_string();
    assert!(alerts.contains("12 deletes are held"), "{alerts}");
    let queue: Value = serde_json::from_str(&run(&mount, &["queue", "--json"])).unwrap();
    assert_eq!(queue["entries"][0]["state"], "held");
    // What comes after the burst goes by itself, past what is held.
    fs::write(mount.path("layers/a.wav"), "new").unwrap();
    mount.wait_for("the upload", |status| status["uploads"]["done"] == 1);
    assert_eq!(deletes(&model), 0);
    run(&mount, &["queue", "discard"]);
    for at in 0..FILES {
        let read = fs::read_to_string(mount.path(&key(at))).unwrap();
        assert_eq!(read, format!("bytes of {at}"));
    }
    mount.wait_uploaded();
    assert_eq!(deletes(&model), 0);
}

#[test]
fn a_confirmed_burst_is_carried_out() {
    let model = R2Model::start();
    let mount = after_a_burst(&model);
    let output = mount.run(&["queue", "confirm", "segments/nothing.wav"]);
    assert_eq!(output.status.code(), Some(1));
    let told = run(&mount, &["queue", "confirm", &key(0)]);
    assert_eq!(told, "1 deletes go now\n");
    mount.wait_for("one delete", |_| model.get(&key(0)).is_none());
    assert!(model.get(&key(1)).is_some());
    run(&mount, &["queue", "confirm"]);
    mount.wait_uploaded();
    assert_eq!(deletes(&model), FILES);
}

#[test]
fn few_deletes_and_moved_files_are_no_burst() {
    let model = R2Model::start();
    for at in 0..FILES {
        model.put(&format!("projects/a/{at}"), "bytes");
    }
    let settings = [("DELETE_LIMIT", "5"), ("WRITE_BACK_SECONDS", "1")];
    let mount = Mount::with(&model, &settings);
    assert_eq!(
        fs::read_dir(mount.path("projects/a")).unwrap().count(),
        FILES
    );
    fs::rename(mount.path("projects/a"), mount.path("projects/b")).unwrap();
    // Files that never were in the bucket do not count.
    for at in 0..FILES {
        let path = mount.path(&format!("layers/{at}"));
        fs::write(&path, "short-lived").unwrap();
        fs::remove_file(&path).unwrap();
    }
    mount.wait_uploaded();
    for at in 0..LIMIT {
        fs::remove_file(mount.path(&format!("projects/b/{at}"))).unwrap();
    }
    mount.wait_uploaded();
    assert!(model.get("projects/b/0").is_none() && model.get("projects/b/5").is_some());
    assert_eq!(mount.status()["uploads"]["held"], 0);
}
