//! `cache ls|pin|unpin|warm`: what is kept on this disk, and what is fetched in advance.

use std::fs;
use std::process::Command;
use std::time::Instant;

use r2_model::{Operation, R2Model};
use serde_json::Value;

use crate::common::mount::{DEADLINE, Mount};

const MB: usize = 1_000_000;

/// Runs a command that has to succeed; returns what it printed.
#[track_caller]
fn succeeds(mount: &Mount, args: &[&str]) -> String {
    let output = mount.run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}\n{}", mount.log());
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(mount: &Mount, args: &[&str], code: i32, part: &str) {
    let output = mount.run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(part), "{args:?}: no {part:?} in: {said}");
}

fn json(mount: &Mount, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(mount, args)).expect("JSON")
}

/// Waits until all that is pinned is here: so many files.
#[track_caller]
fn wait_for_pins(mount: &Mount, files: u64) {
    let end = Instant::now() + DEADLINE;
    loop {
        let listed = json(mount, &["cache", "ls", "--json"]);
        let held: u64 = listed["pins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pin| pin["held_files"].as_u64().unwrap())
            .sum();
        if held == files {
            return;
        }
        assert!(Instant::now() < end, "{listed:#}\n{}", mount.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Returns for which keys bytes were asked for.
fn fetched(model: &R2Model) -> Vec<String> {
    let requests = model.requests().into_iter();
    let gets = requests.filter(|request| request.operation == Operation::GetObject);
    let mut keys: Vec<String> = gets.filter_map(|request| request.key).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn what_is_pinned_comes_by_itself_stays_and_follows_what_is_new() {
    let model = R2Model::start();
    let noise = |seed| crate::crash::noise(seed, MB);
    for (seed, name) in [(1, "a.wav"), (2, "stems/b.wav")] {
        model.put(&format!("projects/song/{name}"), noise(seed));
    }
    for n in 0..6 {
        model.put(&format!("segments/{n}.wav"), noise(10 + n));
    }
    let settings = [("LIST_TTL_SECONDS", "1"), ("CACHE_MAX_BYTES", "4MB")];
    let mut mount = Mount::with(&model, &settings);
    let path = mount.path("projects/song");
    let text = succeeds(&mount, &["cache", "pin", path.to_str().unwrap()]);
    assert!(
        text.starts_with("pin    projects/song: 0 of 2 files"),
        "{text}"
    );
    wait_for_pins(&mount, 2);

    // What others put there later comes too.
    model.put("projects/song/c.wav", noise(3));
    wait_for_pins(&mount, 3);

    // Others that fill the cache do not take its place, and a new process knows of it.
    for killed in [false, true] {
        if killed {
            mount.kill();
            mount.mount();
            wait_for_pins(&mount, 3);
        }
        for n in 0..6 {
            let bytes = fs::read(mount.path(&format!("segments/{n}.wav"))).unwrap();
            assert!(bytes == noise(10 + n), "other bytes");
        }
        mount.wait_for("the cache keeps to its budget", |status| {
            status["cache"]["bytes"].as_u64().unwrap() <= 4 * MB as u64
        });
        model.clear_requests();
        for (seed, name) in [(1, "a.wav"), (2, "stems/b.wav"), (3, "c.wav")] {
            let bytes = fs::read(mount.path(&format!("projects/song/{name}"))).unwrap();
            assert!(bytes == noise(seed), "other bytes in {name}");
        }
        assert_eq!(fetched(&model), [""; 0], "it was evicted");
    }

    // A new version takes the place of the old one, and an emptied cache fills again.
    model.put("projects/song/a.wav", noise(4));
    mount.remove_cache();
    succeeds(&mount, &["cache", "pin", "projects/song", "--wait"]);
    let listed = json(&mount, &["cache", "ls", "projects/song", "--json"]);
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{listed:#}");
    assert!(entries.iter().all(|entry| entry["pinned"] == true));
    assert!(entries.iter().all(|entry| entry["complete"] == true));
    let text = succeeds(&mount, &["cache", "ls"]);
    assert!(text.contains("pin    projects/song: "), "{text}");
    assert!(text.contains("pinned 100 %    1.0 MB"), "{text}");

    assert_eq!(
        succeeds(&mount, &["cache", "unpin", "projects"]),
        "projects/song\n"
    );
    for n in 0..6 {
        fs::read(mount.path(&format!("segments/{n}.wav"))).unwrap();
    }
    let listed = json(&mount, &["cache", "ls", "projects", "--json"]);
    assert_eq!(listed["pins"].as_array().unwrap().len(), 0);
    assert!(
        listed["entries"].as_array().unwrap().len() < 3,
        "{listed:#}"
    );
}

#[test]
fn a_file_written_here_is_pinned_before_and_after_its_upload() {
    let model = R2Model::start();
    for n in 0..4 {
        model.put(&format!("layers/{n}.wav"), crate::crash::noise(n, MB));
    }
    let mount = Mount::with(&model, &[("CACHE_MAX_BYTES", "2MB")]);
    fs::write(mount.path("layers/mine.wav"), b"mine").unwrap();
    let pinned = json(&mount, &["cache", "pin", "layers/mine.wav", "--json"]);
    assert_eq!(pinned[0]["path"], "layers/mine.wav");
    assert_eq!(pinned[0]["held_files"], 1);
    mount.wait_uploaded();
    for n in 0..4 {
        fs::read(mount.path(&format!("layers/{n}.wav"))).unwrap();
    }
    let listed = json(&mount, &["cache", "ls", "layers/mine.wav", "--json"]);
    assert_eq!(listed["entries"][0]["complete"], true, "{listed:#}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    let model = R2Model::start();
    for n in 0..4 {
        model.put(&format!("projects/long/{n}.wav"), vec![n; MB]);
    }
    model.put("projects/one.wav", vec![9; MB]);
    let mount = Mount::with(&model, &[("CACHE_MAX_BYTES", "3MB")]);
    let long = ["cache", "pin", "projects/long"];
    refused(&mount, &long, 1, "it does not fit");
    refused(&mount, &long, 1, "CACHE_MAX_BYTES");
    refused(
        &mount,
        &["cache", "warm", "projects/long"],
        1,
        "does not fit",
    );
    // All or nothing.
    refused(
        &mount,
        &["cache", "pin", "projects/one.wav", "projects/none.wav"],
        1,
        "projects/none.wav: no such file",
    );
    refused(&mount, &["cache", "pin", "samples"], 1, "on this disk");
    refused(&mount, &["cache", "pin", "/etc"], 2, "is not below");
    let listed = json(&mount, &["cache", "ls", "--json"]);
    assert_eq!(listed["pins"].as_array().unwrap().len(), 0);
    // With what is pinned already the rest is too much.
    succeeds(&mount, &["cache", "pin", "projects/one.wav"]);
    for n in 0..2 {
        succeeds(&mount, &["cache", "pin", &format!("projects/long/{n}.wav")]);
    }
    refused(&mount, &["cache", "pin", "projects/long/2.wav"], 1, "fit");
    refused(&mount, &["cache", "unpin", "layers"], 1, "not pinned");
    for wrong in [
        &["cache"][..],
        &["cache", "pin"],
        &["cache", "warm"],
        &["cache", "unpin"],
        &["cache", "ls", "--nope"],
    ] {
        refused(&mount, wrong, 2, "Usage");
    }
}

#[test]
fn warm_fetches_all_shows_a_bar_and_keeps_nothing() {
    let model = R2Model::start();
    model.put_generated("projects/take.wav", 24 << 20);
    model.put("projects/notes.txt", b"la".to_vec());
    let mount = Mount::of(&model);
    let warmed = json(&mount, &["cache", "warm", "projects", "--json"]);
    assert_eq!(warmed["files"], 2);
    assert_eq!(warmed["held_bytes"], (24 << 20) + 2);
    let text = succeeds(&mount, &["cache", "ls", "--json"]);
    assert!(text.contains("\"pinned\": false") && !text.contains("\"pinned\": true"));
    model.clear_requests();
    fs::read(mount.path("projects/take.wav")).unwrap();
    assert_eq!(fetched(&model), [""; 0]);

    // On a terminal there is a bar.
    mount.remove_cache();
    let mut command = Command::new("script");
    let program = env!("CARGO_BIN_EXE_voicebeatfs");
    let env_file = mount.env_file();
    let line = format!(
        "{program} --env-file {} cache warm projects",
        env_file.display()
    );
    command.args(["-qefc", &line, "/dev/null"]);
    let output = command.current_dir(mount.beside("")).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(
        shown.contains(" % ") && shown.contains(" of 25.2 MB"),
        "{shown}"
    );
    assert!(shown.contains("2 files, 25.2 MB are here"), "{shown}");
}

/// The pins, by path.
fn pins(mount: &Mount) -> Vec<String> {
    let listed = json(mount, &["cache", "ls", "--json"]);
    let pins = listed["pins"].as_array().unwrap().iter();
    pins.map(|pin| pin["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn pins_follow_renames_and_their_bytes_stay() {
    let model = R2Model::start();
    let noise = |seed| crate::crash::noise(seed, MB);
    let pinned = [
        ("projects/song/a.wav", "projects/tune/a.wav", 1),
        ("projects/song/stems/b.wav", "projects/tune/stems/b.wav", 2),
        ("segments/take.wav", "layers/best.wav", 3),
    ];
    for (name, _, seed) in pinned {
        model.put(name, noise(seed));
    }
    for n in 0..6 {
        model.put(&format!("rhythms/{n}.wav"), noise(10 + n));
    }
    model.put("projects/full/c.wav", noise(4));
    let settings = [("LIST_TTL_SECONDS", "1"), ("CACHE_MAX_BYTES", "4MB")];
    let mut mount = Mount::with(&model, &settings);
    let paths = ["projects/song", "segments/take.wav"];
    succeeds(&mount, &["cache", "pin", paths[0], paths[1], "--wait"]);
    let [song, tune, take, best] = [
        "projects/song",
        "projects/tune",
        "segments/take.wav",
        "layers/best.wav",
    ]
    .map(|path| mount.path(path));
    // What does not happen moves no pin.
    assert!(fs::rename(&song, mount.path("projects/full")).is_err());
    assert_eq!(pins(&mount), paths);

    // Neither while the bucket knows the former names alone, nor after a kill, nor with the new ones.
    succeeds(&mount, &["queue", "pause"]);
    fs::rename(&song, &tune).unwrap();
    fs::rename(&take, &best).unwrap();
    for stage in ["paused", "killed", "uploaded", "mounted anew"] {
        match stage {
            "killed" => {
                mount.kill();
                mount.mount();
            }
            "uploaded" => {
                succeeds(&mount, &["queue", "resume"]);
                mount.wait_uploaded();
            }
            "mounted anew" => mount.remount(),
            _ => {}
        }
        assert_eq!(
            pins(&mount),
            ["layers/best.wav", "projects/tune"],
            "{stage}"
        );
        wait_for_pins(&mount, 3);
        for n in 0..6 {
            let bytes = fs::read(mount.path(&format!("rhythms/{n}.wav"))).unwrap();
            assert!(bytes == noise(10 + n), "other bytes");
        }
        mount.wait_for("the cache keeps to its budget", |status| {
            status["cache"]["bytes"].as_u64().unwrap() <= 4 * MB as u64
        });
        model.clear_requests();
        for (_, name, seed) in pinned {
            let bytes = fs::read(mount.path(name)).unwrap();
            assert!(bytes == noise(seed), "{stage}: other bytes in {name}");
        }
        assert_eq!(fetched(&model), [""; 0], "{stage}: it was evicted");
    }
    // A file that takes the place of a pinned one is pinned; one that goes where all is, needs no pin.
    fs::write(mount.path("layers/new.wav"), noise(5)).unwrap();
    fs::rename(mount.path("layers/new.wav"), &best).unwrap();
    assert_eq!(pins(&mount), ["layers/best.wav", "projects/tune"]);
    fs::rename(&best, tune.join("best.wav")).unwrap();
    assert_eq!(pins(&mount), ["projects/tune"]);
}
