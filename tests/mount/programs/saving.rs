//! How editors and DAWs save and watch their files, and how programs map them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Studio, noise, program, run};

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_growing_file_is_followed() {
    let studio = Studio::open();
    let path = studio.mounted("segments/growing.wav");
    let mut writer = File::create(&path).unwrap();
    let bytes = noise(300_000, 1);
    let mut follower = program(
        "tail",
        &["-c", "+1", "-f", "segments/growing.wav"],
        &studio.mount.root(),
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut said = follower.stdout.take().unwrap();
    for part in bytes.chunks(100_000) {
        writer.write_all(part).unwrap();
        let mut read = vec![0; part.len()];
        said.read_exact(&mut read).unwrap();
        assert!(read == part, "what was followed differs");
        // Another program sees the size at once.
        let stat = run(
            "stat",
            &["-c", "%s", "segments/growing.wav"],
            &studio.mount.root(),
        );
        assert_eq!(stat.trim(), writer.metadata().unwrap().len().to_string());
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    drop(writer);
    studio.mount.wait_uploaded();
    assert_eq!(
        studio.model.get("segments/growing.wav").unwrap().bytes,
        bytes
    );
}

/// Maps a file for writing, and lets another process look at it in between.
const MAP: &str = r#"
import mmap, os, subprocess, sys
path = sys.argv[1]
with open(path, "w+b") as file:
    file.truncate(300_000)
    with mmap.mmap(file.fileno(), 0) as shared:
        shared[0:4] = b"RIFF"
        shared[150_000:150_005] = b"hello"
        shared.flush()
        look = "import sys; f = open(sys.argv[1], 'rb'); f.seek(150_000); print(f.read(5).decode())"
        seen = subprocess.run([sys.executable, "-c", look, path], capture_output=True, text=True)
        assert seen.stdout == "hello\n", seen
        shared[299_995:300_000] = b"world"
with open(path, "rb") as file:
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as reader:
        assert reader[299_995:300_000] == b"world"
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private:
        private[0:4] = b"XXXX"
    assert os.pread(file.fileno(), 4, 0) == b"RIFF"
"#;

/// Changes a file of the mount through a shared map.
const REMAP: &str = r#"
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    with mmap.mmap(file.fileno(), 0) as shared:
        assert shared[150_000:150_005] == b"hello" and shared[299_995:] == b"world"
        shared[8:12] = b"WAVE"
        shared.flush()
"#;

#[test]
fn maps_are_shared_private_and_written_back() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        run("python3", &["-c", MAP, "segments/map.wav"], &folder);
    }
    studio.assert_same("segments");
    // A file that the cache holds whole, and one that only the bucket has.
    for again in [false, true] {
        match again {
            false => studio.mount.wait_uploaded(),
            true => studio.start_again_from_the_bucket(),
        }
        for folder in studio.both() {
            run("python3", &["-c", REMAP, "segments/map.wav"], &folder);
        }
        studio.assert_same("segments");
    }
    studio.start_again_from_the_bucket();
    studio.assert_same("segments");
}

/// While one saves over and over, another never sees a gap, an empty file or a mix.
#[test]
fn a_project_replaced_by_rename_is_always_there_and_whole() {
    let studio = Studio::open();
    let (song, temporary) = (
        studio.mounted("projects/song.rpp"),
        studio.mounted("projects/song.tmp"),
    );
    write_synced(&song, &[0; 10_000]);
    let saving = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while saving.load(Ordering::Relaxed) {
                let bytes = fs::read(&song).unwrap();
                assert_eq!(bytes.len(), 10_000);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "mixed");
                looks += 1;
            }
            looks
        });
        for round in 1..=200 {
            fs::write(&temporary, [round as u8; 10_000]).unwrap();
            fs::rename(&temporary, &song).unwrap();
        }
        saving.store(false, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10);
    });
    studio.mount.wait_uploaded();
    assert_eq!(studio.model.keys(), ["projects/song.rpp"]);
    assert_eq!(
        studio.model.get("projects/song.rpp").unwrap().bytes,
        vec![200; 10_000]
    );
}

/// Ardour: a session with its audio files open, recording, saving and importing.
fn ardour(folder: &Path) {
    let session = folder.join("projects/session");
    let audio = session.join("interchange/session/audiofiles");
    for made in ["interchange/session/audiofiles", "peaks", "export", "dead"] {
        fs::create_dir_all(session.join(made)).unwrap();
    }
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(audio.join(name)).unwrap()
    };
    let mut channels = [open("take-L.wav"), open("take-R.wav")];
    for round in 0..20 {
        for (number, channel) in channels.iter_mut().enumerate() {
            channel.seek(SeekFrom::End(0)).unwrap();
            if round == 0 {
                channel.write_all(&[0; 44]).unwrap();
            }
            channel
                .write_all(&noise(4096, round * 2 + number as u64))
                .unwrap();
            // The header says how long it is by now.
            channel.seek(SeekFrom::Start(40)).unwrap();
            channel
                .write_all(&((round as u32 + 1) * 4096).to_le_bytes())
                .unwrap();
        }
        if round % 5 == 0 {
            ardour_saves(&session, &format!("<Session round=\"{round}\"/>"));
        }
    }
    // Peaks: made longer than needed, and newer than the audio they belong to.
    let peak = session.join("peaks/take-L.peak");
    let mut peaks = File::create(&peak).unwrap();
    peaks.set_len(131_072).unwrap();
    peaks.write_all(&noise(9000, 77)).unwrap();
    peaks.set_len(9000).unwrap();
    drop(peaks);
    // May a file have two names? Ardour goes on without.
    let probe = audio.join("linktest");
    fs::create_dir(&probe).unwrap();
    if let Err(error) = fs::hard_link(audio.join("take-L.wav"), probe.join("take-L.wav")) {
        let refused = [Some(libc::EPERM), Some(libc::EOPNOTSUPP)];
        assert!(refused.contains(&error.raw_os_error()), "{error}");
    } else {
        fs::remove_file(probe.join("take-L.wav")).unwrap();
    }
    fs::remove_dir(&probe).unwrap();
    // A take that is thrown away while it is still open.
    fs::remove_file(audio.join("take-R.wav")).unwrap();
    channels[1].write_all(b"nobody will hear this").unwrap();
    ardour_saves(&session, "<Session round=\"last\"/>");
}

fn ardour_saves(session: &Path, xml: &str) {
    let path = |name: &str| session.join(name);
    fs::write(path("session.tmp"), xml).unwrap();
    if path("session.ardour").exists() {
        fs::copy(path("session.ardour"), path("session.ardour.bak")).unwrap();
    }
    fs::rename(path("session.tmp"), path("session.ardour")).unwrap();
    fs::write(path("session.tmp"), xml).unwrap();
    fs::rename(path("session.tmp"), path("session.pending")).unwrap();
    fs::remove_file(path("session.pending")).unwrap();
    if path("session.history").exists() {
        fs::rename(path("session.history"), path("session.history.bak")).unwrap();
    }
    fs::write(path("session.history"), format!("history of {xml}")).unwrap();
}

/// Reaper: the old project becomes the backup, the new one is written beside it; takes stay open.
fn reaper(folder: &Path) {
    let project = folder.join("projects/reaper");
    fs::create_dir_all(project.join("media")).unwrap();
    let mut take = File::create(project.join("media/01-take.wav")).unwrap();
    for round in 0..5u64 {
        take.write_all(&noise(20_000, round)).unwrap();
        let song = project.join("song.rpp");
        if song.exists() {
            fs::rename(&song, project.join("song.rpp-bak")).unwrap();
        }
        write_synced(&project.join("song.rpp.tmp"), &noise(1000, 100 + round));
        fs::rename(project.join("song.rpp.tmp"), &song).unwrap();
    }
    take.seek(SeekFrom::Start(4)).unwrap();
    take.write_all(&99_992u32.to_le_bytes()).unwrap();
    // A tag editor cuts the end off by path while the file is open and changed.
    take.write_all(b"fmt ").unwrap();
    let cut = OpenOptions::new()
        .write(true)
        .open(project.join("media/01-take.wav"))
        .unwrap();
    cut.set_len(99_000).unwrap();
    take.seek(SeekFrom::End(0)).unwrap();
    take.write_all(b"LIST").unwrap();
}

/// LMMS: writes a new file and moves it in place, but only where nothing is.
fn lmms(folder: &Path) {
    let path = |name: &str| folder.join("projects").join(name);
    for round in 0..3 {
        write_synced(&path("beat.mmpz.new"), &noise(2000, round));
        if round > 0 {
            let taken = keep(&path("beat.mmpz.new"), &path("beat.mmpz")).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            fs::rename(path("beat.mmpz"), path("beat.mmpz.bak")).unwrap();
        }
        keep(&path("beat.mmpz.new"), &path("beat.mmpz")).unwrap();
    }
}

fn keep(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[test]
fn sessions_of_daws_are_as_on_a_plain_disk() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        ardour(&folder);
        reaper(&folder);
        lmms(&folder);
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        studio.assert_same("projects");
        let session = studio.mounted("projects/session");
        let audio = session.join("interchange/session/audiofiles/take-L.wav");
        let peak = session.join("peaks/take-L.peak");
        let time = |path: &Path| fs::metadata(path).unwrap().mtime();
        assert!(time(&peak) >= time(&audio), "the peaks would be made again");
    }
    let keys = studio.model.keys();
    let thrown_away = |key: &&String| key.ends_with(".tmp") || key.contains("take-R");
    assert_eq!(keys.iter().find(thrown_away), None);
}
