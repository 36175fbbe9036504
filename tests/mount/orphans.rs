//! The journal is lost, and with it the names of what waited: the bytes are not.

use std::fs;

use r2_model::R2Model;
use serde_json::Value;

use crate::common::mount::Mount;
use crate::crash::{assert_object, noise};

/// A take that begins as a WAV file does.
fn take(seed: u64) -> Vec<u8> {
    [&b"RIFF\x24\0\0\0WAVEfmt "[..], &noise(seed, 40_000)].concat()
}

/// A mount whose journal was lost while a closed take and an open one waited.
fn without_its_journal(model: &R2Model) -> Mount {
    let mut mount = Mount::with(model, &[("WRITE_BACK_SECONDS", "3600")]);
    fs::write(mount.path("segments/a.wav"), take(1)).unwrap();
    let open = fs::File::create(mount.path("layers/b.wav")).unwrap();
    std::io::Write::write_all(&mut &open, &take(2)).unwrap();
    mount.kill();
    drop(open);
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _ = fs::remove_file(mount.beside("staging").join(name));
    }
    mount.set("WRITE_BACK_SECONDS", "0.2");
    mount.mount();
    mount
}

fn json(mount: &Mount, args: &[&str]) -> Value {
    let output = mount.run(args);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn takes_without_a_record_are_shown_and_become_files_again() {
    let model = R2Model::start();
    let mut mount = without_its_journal(&model);
    // Nobody has asked yet: they stay, however often it is mounted.
    mount.remount();
    let staging = mount.beside("staging").canonicalize().unwrap();
    let expected = serde_json::json!(
        {"files": 2, "bytes": 2 * take(1).len(), "directory": staging});
    let status = mount.status();
    assert_eq!(status["orphans"], expected);
    let alerts = status["alerts"].to_string();
    assert!(alerts.contains("queue adopt"), "{alerts}");
    let told = mount.run(&["status"]).stdout;
    let told = String::from_utf8(told).unwrap();
    assert!(
        told.contains("without a name    2 files, 80.0 KB in"),
        "{told}"
    );
    let listed = json(&mount, &["queue", "orphans", "--json"]);
    let names = listed.as_array().unwrap();
    assert_eq!(names.len(), 2);
    assert!(
        names[0]["name"].as_str().unwrap().ends_with(").wav"),
        "{listed}"
    );

    let adopted = json(&mount, &["queue", "adopt", "--json"]);
    let adopted = adopted["restored"].as_array().unwrap();
    assert_eq!(adopted.len(), 2);
    let mut found = Vec::new();
    for entry in adopted {
        let path = entry["restored_as"].as_str().unwrap();
        assert!(
            path.starts_with("segments/recovered/file (recovered 2"),
            "{path}"
        );
        found.push((fs::read(mount.path(path)).unwrap(), path));
    }
    found.sort();
    let mut written = [take(1), take(2)];
    written.sort();
    mount.wait_uploaded();
    for ((read, path), written) in found.iter().zip(&written) {
        assert!(read == written, "{path}");
        assert_object(&model, path, written);
    }
    assert!(mount.status()["orphans"].is_null());
    mount.remount();
    assert!(mount.status()["orphans"].is_null());
}

#[test]
fn what_cannot_be_adopted_stays_where_it_is() {
    let model = R2Model::start();
    let mount = without_its_journal(&model);
    let output = mount.run(&["queue", "adopt", "elsewhere"]);
    assert_eq!(output.status.code(), Some(1));
    fs::write(mount.path("layers/file"), "in the way").unwrap();
    let output = mount.run(&["queue", "adopt", "layers/file"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(mount.status()["orphans"]["files"], 2);
    let root = mount.path("projects/found again");
    let adopted = json(
        &mount,
        &["queue", "adopt", root.to_str().unwrap(), "--json"],
    );
    assert_eq!(adopted["restored"].as_array().unwrap().len(), 2);
    assert_eq!(fs::read_dir(root).unwrap().count(), 2);
}
