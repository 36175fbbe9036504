//! `status --watch` on a terminal.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use r2_model::R2Model;

use crate::common::mount::{DEADLINE, Mount};

/// Runs a command on a terminal of its own until it has shown all of `words`, then presses `key`.
/// Returns what was shown, and whether it ended well.
fn on_a_terminal(mount: &Mount, command: &str, words: &[&str], key: &[u8]) -> (String, bool) {
    let program = env!("CARGO_BIN_EXE_voicebeatfs");
    let env_file = mount.env_file();
    let line = format!(
        "stty rows 30 cols 100; {program} --env-file {} {command}",
        env_file.display()
    );
    let mut child = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            let _ = sender.send(buffer[..length].to_vec());
        }
    });
    let end = Instant::now() + DEADLINE;
    let (mut bytes, mut pressed) = (Vec::new(), false);
    // Ends when the terminal is closed.
    while let Ok(more) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        bytes.extend(more);
        let shown = String::from_utf8_lossy(&bytes);
        if !pressed && words.iter().all(|word| shown.contains(word)) {
            child.stdin.as_mut().unwrap().write_all(key).unwrap();
            pressed = true;
        }
    }
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    if !pressed {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{words:?} were not shown in time: {shown:?}");
    }
    (shown, child.wait().unwrap().success())
}

#[test]
fn the_whole_terminal_shows_the_mount_until_q_is_pressed() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    assert!(mount.run(&["queue", "pause"]).status.success());
    fs::write(mount.path("segments/take.wav"), b"take").unwrap();
    // Words stand where they are put by moves of the cursor.
    let words = [
        "voicebeat-audio",
        "shut",
        "segments/take.wav",
        "queue:",
        "paused",
    ];
    for key in [b"q", b"\x03"] {
        let (shown, ended_well) = on_a_terminal(&mount, "status --watch", &words, key);
        assert!(ended_well, "{shown:?}");
        // The screen that was there before comes back.
        assert!(
            shown.contains("\x1b[?1049h") && shown.contains("\x1b[?1049l"),
            "{shown:?}"
        );
    }
}

#[test]
fn without_a_terminal_it_is_wrong_use() {
    let mount = Mount::local();
    for args in [&["status", "--watch"][..], &["status", "--watch", "--json"]] {
        let output = mount.run(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}
