//! Ardour and LMMS, without their windows: sessions that lie in the mount.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Studio, contents, finish, program, run};

/// A program of a DAW, with a home of its own and no screen.
fn daw(studio: &Studio, name: &str, args: &[&str]) -> Command {
    let home = studio.mount.beside("home");
    fs::create_dir_all(&home).unwrap();
    let mut command = program(name, args, &studio.mount.root());
    command
        .env("HOME", home)
        .env("QT_QPA_PLATFORM", "offscreen");
    command
}

/// Runs one of the scripts beside this file on a session.
fn ardour(studio: &Studio, script: &str, session: &str) -> String {
    let script = format!(
        "{}/tests/mount/programs/daws/{script}",
        env!("CARGO_MANIFEST_DIR")
    );
    let folder = studio.mounted(session);
    let folder = folder.to_str().unwrap();
    finish(
        "ardour7-lua",
        daw(studio, "ardour7-lua", &[&script, folder, "song"]),
    )
}

/// The greatest sample of a file, of 1.
fn loudest(path: &Path) -> f64 {
    let output = Command::new("sox")
        .args([path.as_os_str(), "-n".as_ref(), "stat".as_ref()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = told
        .lines()
        .find(|line| line.starts_with("Maximum amplitude"));
    let value = line.and_then(|line| line.split(':').nth(1));
    value.expect(&told).trim().parse().unwrap()
}

#[test]
fn ardour_records_saves_reopens_and_exports() {
    let mut studio = Studio::open();
    ardour(&studio, "record.lua", "projects/song");
    assert!(ardour(&studio, "reopen.lua", "projects/song").contains("regions: 2"));
    let takes = "projects/song/interchange/song/audiofiles";
    let saved = contents(&studio.mounted("projects/song"));
    for take in ["Take1_take 1-1.wav", "Take1_take 2-1.wav"] {
        let path = studio.mounted(takes).join(take);
        assert!((0.1..0.2).contains(&loudest(&path)), "{take}");
    }

    studio.start_again_from_the_bucket();
    assert!(contents(&studio.mounted("projects/song")) == saved);
    assert!(ardour(&studio, "reopen.lua", "projects/song").contains("regions: 2"));
    let song = studio.mounted("projects/song");
    let mix = song.join("export/mix.wav");
    let args = [
        "-b",
        "float",
        "-o",
        mix.to_str().unwrap(),
        song.to_str().unwrap(),
        "song",
    ];
    // Ardour 7.3 sometimes crashes when it has written all and closes the session.
    daw(&studio, "ardour7-export", &args).output().unwrap();
    let mixed = fs::read(&mix).unwrap();
    assert!((0.1..0.3).contains(&loudest(&mix)));
    studio.start_again_from_the_bucket();
    assert!(fs::read(&mix).unwrap() == mixed);
}

#[test]
fn lmms_saves_and_renders_a_song() {
    const SONG: &str = "/usr/share/lmms/projects/shorties/Greshz-CoolSnip.mmpz";
    let mut studio = Studio::open();
    let lmms = |studio: &Studio, args: &[&str]| {
        finish(
            "lmms",
            daw(studio, "lmms", &[&["--allowroot"], args].concat()),
        );
    };
    lmms(&studio, &["upgrade", SONG, "projects/song.mmpz"]);
    studio.start_again_from_the_bucket();
    lmms(
        &studio,
        &["render", "projects/song.mmpz", "-o", "layers/song.wav"],
    );
    let rendered = fs::read(studio.mounted("layers/song.wav")).unwrap();
    assert!(loudest(&studio.mounted("layers/song.wav")) > 0.1);
    studio.start_again_from_the_bucket();
    assert!(fs::read(studio.mounted("layers/song.wav")).unwrap() == rendered);
    run(
        "sox",
        &["layers/song.wav", "-n", "stat"],
        &studio.mount.root(),
    );
}
