//! What programs leave beside the music: files that stay on this disk by their names, and files that
//! are not expected to last.

use std::fs;
use std::time::{Duration, Instant};

use r2_model::R2Model;

use crate::common::mount::{DEADLINE, Mount};
use crate::crash::assert_file;

/// As long as any test: what is kept out for so long is kept out.
const LONG: (&str, &str) = ("TEMPORARY_SECONDS", "3600");

fn wait_for_keys(model: &R2Model, mount: &Mount, expected: &[&str]) {
    let end = Instant::now() + DEADLINE;
    while model.keys() != expected {
        assert!(
            Instant::now() < end,
            "{:?} instead of {expected:?}: {}",
            model.keys(),
            mount.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the bucket ever heard of a key that ends so.
fn is_known(model: &R2Model, end: &str) -> bool {
    let written = model.history();
    written.iter().any(|written| written.key.ends_with(end))
}

#[test]
fn what_programs_make_for_this_machine_stays_on_it() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("TRASH_COLLECTIONS", "projects,segments")]);
    fs::create_dir_all(mount.path("projects/song/.Spotlight-V100")).unwrap();
    let local = [
        "projects/song/take.wav.reapeaks",
        "projects/song/.DS_Store",
        "projects/song/._take.wav",
        "projects/song/thumbs.DB",
        "projects/song/.Spotlight-V100/store.db",
        "segments/kick.wav.asd",
        ".directory",
    ];
    for name in local {
        fs::write(mount.path(name), name).unwrap();
    }
    fs::write(mount.path("projects/song/take.wav"), "music").unwrap();
    mount.wait_uploaded();
    let expected = ["projects/song/", "projects/song/take.wav"];
    assert_eq!(model.keys(), expected);
    // The folder of Spotlight's, and all but what lies at the root, where no bucket is.
    assert_eq!(mount.status()["uploads"]["local"], 7);
    assert_eq!(mount.status()["uploads"]["queued"], 0);
    let queue = mount.run(&["queue", "--json"]).stdout;
    let queue: serde_json::Value = serde_json::from_slice(&queue).unwrap();
    assert_eq!(queue["entries"], serde_json::json!([]));
    let path = mount.path(local[0]);
    let mut state = [0; 16];
    let length = rustix::fs::getxattr(&path, "user.voicebeat.state", &mut state).unwrap();
    assert_eq!(&state[..length], b"local");

    mount.unmount();
    mount.remove_cache();
    mount.mount();
    for name in local {
        assert_file(&mount.path(name), name.as_bytes());
    }
    // One that gets the name of music is music, and what the bucket has stays the bucket's.
    let song = mount.path("projects/song");
    fs::rename(song.join("take.wav.reapeaks"), song.join("b.wav")).unwrap();
    fs::rename(song.join("take.wav"), song.join("._a.wav")).unwrap();
    mount.wait_uploaded();
    fs::write(song.join("._a.wav"), "changed").unwrap();
    mount.wait_uploaded();
    let expected = [
        "projects/song/",
        "projects/song/._a.wav",
        "projects/song/b.wav",
    ];
    let mut keys = model.keys();
    keys.retain(|key| !key.starts_with(".voicebeatfs/trash/"));
    assert_eq!(keys, expected);
    assert_eq!(model.get("projects/song/._a.wav").unwrap().bytes, "changed");
    assert_eq!(model.get("projects/song/b.wav").unwrap().bytes, local[0]);
    // What is removed leaves nothing, in no trash.
    for name in &local[1..4] {
        fs::remove_file(mount.path(name)).unwrap();
    }
    fs::remove_dir_all(song.join(".Spotlight-V100")).unwrap();
    mount.wait_uploaded();
    assert_eq!(mount.status()["uploads"]["local"], 1);
    let trash = mount.run(&["trash", "--json"]).stdout;
    let trash = String::from_utf8_lossy(&trash).into_owned();
    assert!(
        !trash.contains("DS_Store") && !trash.contains("._take"),
        "{trash}"
    );
    for name in [
        ".DS_Store",
        "._take.wav",
        ".asd",
        ".reapeaks",
        "store.db",
        "V100/",
    ] {
        assert!(!is_known(&model, name), "{name} reached the bucket");
    }
}

#[test]
fn which_names_stay_is_set() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("LOCAL_NAMES", "*.mine, cache?/")]);
    fs::create_dir(mount.path("projects/cache1")).unwrap();
    fs::write(mount.path("projects/cache1/a.wav"), "a").unwrap();
    fs::write(mount.path("projects/b.mine"), "b").unwrap();
    // A folder of that name may hold takes.
    fs::create_dir(mount.path("projects/c.mine")).unwrap();
    fs::write(mount.path("projects/c.mine/take.wav"), "d").unwrap();
    fs::write(mount.path("projects/.DS_Store"), "c").unwrap();
    mount.wait_uploaded();
    let expected = [
        "projects/.DS_Store",
        "projects/c.mine/",
        "projects/c.mine/take.wav",
    ];
    assert_eq!(model.keys(), expected);
    mount.unmount();
    mount.set("LOCAL_NAMES", "none");
    mount.mount();
    mount.wait_uploaded();
    let expected = [
        "projects/.DS_Store",
        "projects/b.mine",
        "projects/c.mine/",
        "projects/c.mine/take.wav",
        "projects/cache1/",
        "projects/cache1/a.wav",
    ];
    assert_eq!(model.keys(), expected);
    assert_eq!(mount.status()["uploads"]["local"], 0);
    mount.unmount();
    mount.set("LOCAL_NAMES", "a/b");
    let refused = mount.try_mount().unwrap_err();
    assert!(
        refused.contains("LOCAL_NAMES") && refused.contains("a/b"),
        "{refused}"
    );
}

#[test]
fn what_does_not_last_never_reaches_the_bucket() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[LONG]);
    let folder = mount.path("layers");
    for name in [
        "gone.tmp",
        ".goutputstream-X1Y2Z3",
        ".mix.wav.AbC123",
        "4913",
        "a.wav~",
    ] {
        fs::write(folder.join(name), "for a moment").unwrap();
    }
    fs::write(folder.join("song.tmp"), "a song").unwrap();
    fs::write(folder.join("kept.tmp"), "kept").unwrap();
    fs::write(folder.join("other.wav"), "other").unwrap();
    wait_for_keys(&model, &mount, &["layers/other.wav"]);
    fs::rename(folder.join("song.tmp"), folder.join("song.rpp")).unwrap();
    // A look at what was written long enough ago to have gone up if it were any other file.
    std::thread::sleep(Duration::from_secs(3));
    wait_for_keys(&model, &mount, &["layers/other.wav", "layers/song.rpp"]);
    for name in ["gone.tmp", ".goutputstream-X1Y2Z3", "4913", "a.wav~"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::rename(folder.join(".mix.wav.AbC123"), folder.join("mix.wav")).unwrap();

    // What was kept is here after a kill, and goes up when it is old enough.
    mount.kill();
    mount.set("TEMPORARY_SECONDS", "1");
    mount.mount();
    assert_file(&mount.path("layers/kept.tmp"), b"kept");
    mount.wait_uploaded();
    let expected = [
        "layers/kept.tmp",
        "layers/mix.wav",
        "layers/other.wav",
        "layers/song.rpp",
    ];
    assert_eq!(model.keys(), expected);
    for name in [
        "gone.tmp",
        ".goutputstream-X1Y2Z3",
        ".AbC123",
        "4913",
        "~",
        "song.tmp",
    ] {
        assert!(!is_known(&model, name), "{name} reached the bucket");
    }
}

#[test]
fn who_waits_for_everything_waits_for_that_as_well() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[LONG]);
    fs::write(mount.path("layers/a.tmp"), "a").unwrap();
    assert_eq!(mount.status()["safe_to_shut_down"], false);
    let waited = mount.run(&["umount", mount.root().to_str().unwrap(), "--wait"]);
    assert!(waited.status.success(), "{waited:?}");
    assert!(mount.wait_end().success());
    assert_eq!(model.keys(), ["layers/a.tmp"]);
}
