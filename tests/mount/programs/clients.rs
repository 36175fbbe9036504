//! What audio programs ask of a disk, each thing by itself (the table of `docs/semantics.md`), in
//! both I/O modes, and once more when every byte comes from the bucket.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::inotify;
use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags, fallocate, ioctl_ficlone, seek};
use rustix::fs::{getxattr_query, setxattr};
use rustix::io::Errno;

use super::{Studio, noise, program, run};

fn in_both_modes(test: impl Fn(Studio)) {
    for passthrough in ["true", "false"] {
        eprintln!("PASSTHROUGH={passthrough}");
        test(Studio::with(&[("PASSTHROUGH", passthrough)]));
    }
}

#[test]
fn a_file_is_cut_by_name_while_a_descriptor_is_dirty() {
    in_both_modes(|mut studio| {
        for root in studio.both() {
            let path = root.join("layers/song.mp3");
            fs::write(&path, noise(50_000, 1)).unwrap();
        }
        for uploaded in [false, true] {
            for root in studio.both() {
                // As `id3v2 -D` does.
                let path = root.join("layers/song.mp3");
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap();
                file.write_all_at(&noise(9000, 2), 20_000).unwrap();
                let by_name = OpenOptions::new().write(true).open(&path).unwrap();
                by_name.set_len(25_000).unwrap();
                file.write_all_at(&noise(100, 3), 30_000).unwrap();
                rustix::fs::ftruncate(&by_name, 30_050).unwrap();
                drop(file);
                by_name.write_all_at(b"late", 30_050).unwrap();
            }
            studio.assert_same("layers");
            if !uploaded {
                studio.mount.wait_uploaded();
            }
        }
        studio.start_again_from_the_bucket();
        studio.assert_same("layers");
    });
}

/// Takes locks, and has another process try them.
const LOCKS: &str = r#"
import fcntl, os, subprocess, sys
path, how = sys.argv[1], sys.argv[2:]
file = open(path, "r+b")
def taken(kind, start, length):
    code = ("import fcntl,sys; f=open(sys.argv[1],'r+b')\n"
            "try: fcntl.%s\nexcept BlockingIOError: sys.exit(7)")
    call = {"record": f"lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, {length}, {start})",
            "flock": "flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"}[kind]
    return subprocess.run([sys.executable, "-c", code % call, path]).returncode == 7
fcntl.lockf(file, fcntl.LOCK_EX, 10, (1 << 30) + 2)
assert taken("record", (1 << 30), 5)
assert not taken("record", 0, 100)
fcntl.lockf(file, fcntl.LOCK_UN, 10, (1 << 30) + 2)
assert not taken("record", (1 << 30), 5)
fcntl.flock(file, fcntl.LOCK_SH)
assert taken("flock", 0, 0)
fcntl.flock(file, fcntl.LOCK_UN)
assert not taken("flock", 0, 0)
# Those of a process that ends are released.
child = os.fork()
if child == 0:
    fcntl.lockf(open(path, "r+b"), fcntl.LOCK_EX)
    os._exit(0)
os.waitpid(child, 0)
assert not taken("record", 0, 100)
"#;

#[test]
fn locks_hold_between_processes_and_end_with_them() {
    in_both_modes(|studio| {
        for name in ["layers/lock", "samples/lock"] {
            fs::write(studio.mounted(name), b"x").unwrap();
            run("python3", &["-c", LOCKS, name], &studio.mount.root());
        }
    });
}

#[test]
fn watchers_are_told_of_what_happens_here() {
    let studio = Studio::open();
    let folder = studio.mounted("layers");
    let watcher = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let flags = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::MOVE
        | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watcher, &folder, flags).unwrap();
    fs::write(folder.join("a"), b"a").unwrap();
    fs::rename(folder.join("a"), folder.join("b")).unwrap();
    fs::remove_file(folder.join("b")).unwrap();
    // The kernel queues them before the calls return.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watcher, &mut buffer);
    let mut told = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().unwrap().to_str().unwrap().to_owned();
        told.push((event.events(), name));
    }
    use inotify::ReadFlags as Told;
    let expected = [
        (Told::CREATE, "a"),
        (Told::CLOSE_WRITE, "a"),
        (Told::MOVED_FROM, "a"),
        (Told::MOVED_TO, "b"),
        (Told::DELETE, "b"),
    ];
    assert_eq!(told, expected.map(|(event, name)| (event, name.to_owned())));
}

#[test]
fn room_holes_and_clones_are_answered_and_never_eio() {
    in_both_modes(|studio| {
        let path = studio.mounted("layers/take.wav");
        let file = File::create_new(&path).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        fallocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, 1 << 16, 1 << 16).unwrap();
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(1 << 16));
        assert_eq!(seek(&file, SeekFrom::Data(1 << 16)), Ok(2 << 16));
        assert_eq!(seek(&file, SeekFrom::Data(1 << 20)), Err(Errno::NXIO));
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(fallocate(&file, mode, 0, 4096), Err(Errno::OPNOTSUPP));
        }
        let clone = File::create_new(studio.mounted("layers/clone.wav")).unwrap();
        let refused = ioctl_ficlone(&clone, &file).unwrap_err();
        assert!(
            [Errno::OPNOTSUPP, Errno::NOTTY].contains(&refused),
            "{refused}"
        );
        drop((file, clone));
        let log = studio.mount.log();
        assert!(!log.contains("lseek"), "{log}");
        studio.mount.wait_uploaded();
        let mut expected = vec![1; 1 << 20];
        expected[1 << 16..2 << 16].fill(0);
        let object = studio.model.get("layers/take.wav").unwrap();
        assert!(object.bytes == expected);
    });
}

#[test]
fn tags_are_edited_in_place_and_by_replacing() {
    let mut studio = Studio::open();
    for root in studio.both() {
        let sine = [
            "-n",
            "-r",
            "44100",
            "-D",
            "layers/a.wav",
            "synth",
            "1",
            "sine",
            "440",
        ];
        run("sox", &sine, &root);
        let encode = [
            "--silent",
            "--padding=200",
            "-o",
            "layers/a.flac",
            "layers/a.wav",
        ];
        run("flac", &encode, &root);
    }
    for (uploaded, tag) in [
        (false, "TITLE=first".to_owned()),
        (true, "ARTIST=x".repeat(900)),
    ] {
        if uploaded {
            studio.mount.wait_uploaded();
        }
        // The first fits into the padding, the second makes it write the file anew.
        for root in studio.both() {
            let set = format!("--set-tag={tag}");
            run("metaflac", &[&set, "layers/a.flac"], &root);
        }
        studio.assert_same("layers");
    }
    studio.start_again_from_the_bucket();
    studio.assert_same("layers");
    run(
        "flac",
        &["--test", "--silent", "layers/a.flac"],
        &studio.mount.root(),
    );
}

#[test]
fn copies_take_extended_attributes_along() {
    let mut studio = Studio::open();
    let plain = studio.plain("project");
    fs::create_dir_all(plain.join("media")).unwrap();
    for (number, name) in ["song.rpp", "media/take.wav", "media"]
        .into_iter()
        .enumerate()
    {
        if name != "media" {
            fs::write(plain.join(name), noise(5000, number as u64)).unwrap();
        }
        let value = noise(56, number as u64);
        setxattr(
            plain.join(name),
            "user.DOSATTRIB",
            &value,
            XattrFlags::empty(),
        )
        .unwrap();
    }
    let root = studio.mount.root();
    let source = format!("{}/", plain.display());
    let target = studio.mounted("projects/song");
    let rsync = || {
        let paths = [source.as_str(), target.to_str().unwrap()];
        let args = [&["--archive", "--xattrs", "--itemize-changes"], &paths[..]].concat();
        run("rsync", &args, Path::new("/"))
    };
    assert_ne!(rsync(), "");
    assert_eq!(rsync(), "");
    run("cp", &["-a", "projects/song", "layers/song"], &root);
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
            assert_eq!(rsync(), "");
        }
        for name in ["song.rpp", "media/take.wav", "media"] {
            let copy = root.join("layers/song").join(name);
            assert_eq!(getxattr_query(copy, "user.DOSATTRIB"), Ok(56), "{name}");
        }
    }
}

#[test]
fn a_database_is_sound_whichever_writer_is_killed() {
    in_both_modes(|mut studio| {
        let root = studio.mount.root();
        for mode in ["WAL", "DELETE"] {
            let name = format!("projects/{mode}.db");
            let make = format!("PRAGMA journal_mode={mode}; CREATE TABLE t(a, b);");
            run("sqlite3", &[&name, &make], &root);
            for round in 0..4 {
                let insert = ".timeout 20000\nBEGIN IMMEDIATE; INSERT INTO t VALUES \
                              (random(), randomblob(3000)); COMMIT; SELECT 'done';\n";
                let mut writer = program("sqlite3", &[&name], &root)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut input = writer.stdin.take().unwrap();
                input.write_all(insert.repeat(200).as_bytes()).unwrap();
                // In the midst of it: some of its transactions are done.
                let mut said = writer.stdout.take().unwrap();
                std::io::Read::read_exact(&mut said, &mut [0; 25]).unwrap();
                writer.kill().unwrap();
                writer.wait().unwrap();
                let query = "PRAGMA integrity_check; SELECT count(*) >= 5 FROM t;";
                let answer = run("sqlite3", &[&name, query], &root);
                assert_eq!(answer, "ok\n1\n", "{mode}, round {round}");
            }
        }
        studio.start_again_from_the_bucket();
        for mode in ["WAL", "DELETE"] {
            let name = format!("projects/{mode}.db");
            let answer = run("sqlite3", &[&name, "PRAGMA integrity_check;"], &root);
            assert_eq!(answer, "ok\n", "{mode}, from the bucket");
        }
    });
}
