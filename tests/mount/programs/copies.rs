//! rsync, cp, tar, mv: whole trees in and out, with their modes and times.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{Studio, assert_same, contents, noise, run};

/// A DAW project as it lies on a musician's disk: folders in folders, empty ones too, names with
/// what a shell would trip over, old times to the nanosecond, and modes that are not the default.
fn make_project(root: &Path) {
    let files = [
        ("song.rpp", 4_000, 0o644),
        ("song #2 (50% faster) & more?.rpp", 500, 0o640),
        ("media/01-take one.wav", 300_000, 0o644),
        ("media/02-Übung \"leise\".wav", 70_000, 0o600),
        ("media/empty.wav", 0, 0o644),
        ("backup/2024/song.rpp-bak", 3_999, 0o444),
        ("render.sh", 60, 0o755),
    ];
    fs::create_dir_all(root.join("media/peaks")).unwrap();
    fs::create_dir_all(root.join("backup/2024")).unwrap();
    for (number, (name, length, mode)) in files.into_iter().enumerate() {
        let path = root.join(name);
        fs::write(&path, noise(length, number as u64)).unwrap();
        set_time(&path, 1_500_000_000 + 86_400 * number as u64);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(root.join("backup"), fs::Permissions::from_mode(0o750)).unwrap();
    for (number, name) in ["media/peaks", "media", "backup/2024", "backup", ""]
        .into_iter()
        .enumerate()
    {
        set_time(&root.join(name), 1_400_000_000 + number as u64);
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    let file = fs::File::open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// The same names, bytes, modes and times.
#[track_caller]
fn assert_all_same(one: &Path, other: &Path) {
    assert_same(one, other);
    for name in contents(one).keys() {
        let [one, other] = [one, other].map(|root| fs::metadata(root.join(name)).unwrap());
        let name = name.display();
        assert_eq!(one.mode(), other.mode(), "mode of \"{name}\"");
        let time = |status: &fs::Metadata| (status.mtime(), status.mtime_nsec());
        assert_eq!(time(&one), time(&other), "time of \"{name}\"");
    }
}

#[test]
fn a_second_rsync_finds_nothing_to_do() {
    let mut studio = Studio::open();
    let plain = studio.plain("project");
    make_project(&plain);
    let source = format!("{}/", plain.display());
    let target = studio.mounted("projects/song");
    let rsync = |more: &[&str]| {
        let args = ["--archive", "--itemize-changes"];
        let args = [
            &args[..],
            more,
            &[source.as_str(), target.to_str().unwrap()],
        ]
        .concat();
        run("rsync", &args, Path::new("/"))
    };
    assert_ne!(rsync(&[]), "");
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        assert_eq!(rsync(&[]), "", "from the bucket: {again}");
        // It reads every byte on both sides.
        assert_eq!(rsync(&["--checksum"]), "", "from the bucket: {again}");
        assert_all_same(&target, &plain);
    }
    // One file changes and one goes: only these are touched, the long one in place.
    let media = plain.join("media");
    let mut take = fs::read(media.join("01-take one.wav")).unwrap();
    take.extend(noise(50_000, 99));
    fs::write(media.join("01-take one.wav"), &take).unwrap();
    fs::remove_file(media.join("empty.wav")).unwrap();
    let changed = rsync(&[
        "--delete",
        "--inplace",
        "--no-whole-file",
        "--omit-dir-times",
    ]);
    let lines: Vec<&str> = changed.lines().collect();
    assert_eq!(lines.len(), 2, "{changed}");
    assert!(lines[0].starts_with("*deleting") && lines[0].ends_with("media/empty.wav"));
    assert!(lines[1].starts_with(">f.st") && lines[1].ends_with("media/01-take one.wav"));
    studio.start_again_from_the_bucket();
    assert_same(&target, &plain);
}

#[test]
fn cp_and_tar_keep_bytes_modes_and_times() {
    let mut studio = Studio::open();
    let plain = studio.plain("project");
    make_project(&plain);
    let source = plain.to_str().unwrap();
    let root = studio.mount.root();
    run("cp", &["-a", source, "projects/copied"], &root);
    // Within the mount, too: cp asks for a copy on the server's side first.
    run("cp", &["-a", "projects/copied", "layers/twice"], &root);
    let pack = [
        "--create",
        "--format=posix",
        "--file=projects/song.tar",
        "-C",
        source,
        ".",
    ];
    run("tar", &pack, &root);
    fs::create_dir(root.join("rhythms/unpacked")).unwrap();
    let unpack = [
        "--extract",
        "--file=projects/song.tar",
        "-C",
        "rhythms/unpacked",
    ];
    run("tar", &unpack, &root);
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for copy in ["projects/copied", "layers/twice", "rhythms/unpacked"] {
            assert_all_same(&root.join(copy), &plain);
        }
        let compare = [
            "--compare",
            "--file=projects/song.tar",
            "-C",
            "layers/twice",
        ];
        assert_eq!(run("tar", &compare, &root), "");
    }
}

#[test]
fn a_file_that_was_just_uploaded_takes_new_times_and_modes() {
    let mut studio = Studio::open();
    let path = studio.mounted("layers/take.wav");
    fs::write(&path, noise(5000, 1)).unwrap();
    studio.mount.wait_uploaded();
    run(
        "touch",
        &["-d", "2001-02-03T04:05:06.789Z", "layers/take.wav"],
        &studio.mount.root(),
    );
    run("chmod", &["600", "layers/take.wav"], &studio.mount.root());
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        let status = fs::metadata(&path).unwrap();
        assert_eq!(
            (status.mtime(), status.mtime_nsec()),
            (981_173_106, 789_000_000)
        );
        assert_eq!(status.mode() & 0o7777, 0o600);
        assert!(fs::read(&path).unwrap() == noise(5000, 1));
    }
}

#[test]
fn mv_between_collections_is_one_rename() {
    let mut studio = Studio::open();
    let plain = studio.plain("project");
    make_project(&plain);
    let root = studio.mount.root();
    fs::write(root.join("segments/take.wav"), noise(200_000, 7)).unwrap();
    run(
        "cp",
        &["-a", plain.to_str().unwrap(), "projects/song"],
        &root,
    );
    // Once before the upload and once after it.
    for (uploaded, (from, to)) in [("segments", "layers"), ("layers", "rhythms")]
        .into_iter()
        .enumerate()
    {
        if uploaded == 1 {
            studio.mount.wait_uploaded();
        }
        let take = root.join(format!("{from}/take.wav"));
        let before = fs::metadata(&take).unwrap().ino();
        run("mv", &[&format!("{from}/take.wav"), to], &root);
        let after = fs::metadata(root.join(format!("{to}/take.wav"))).unwrap();
        assert_eq!(before, after.ino(), "it is the same file, not a copy");
        assert!(!take.exists());
    }
    run("mv", &["projects/song", "layers/song"], &root);
    // A whole folder does not replace another one that has something in it.
    fs::create_dir_all(root.join("projects/song/old")).unwrap();
    let refused = fs::rename(root.join("layers/song"), root.join("projects/song")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_dir_all(root.join("projects/song")).unwrap();
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        assert!(fs::read(root.join("rhythms/take.wav")).unwrap() == noise(200_000, 7));
        assert_all_same(&root.join("layers/song"), &plain);
        assert_eq!(fs::read_dir(root.join("projects")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.join("segments")).unwrap().count(), 0);
    }
    let keys = studio.model.keys();
    let elsewhere = |key: &&String| !key.starts_with("layers/song/") && *key != "rhythms/take.wav";
    assert_eq!(keys.iter().find(elsewhere), None);
}

#[test]
fn mv_to_and_from_the_samples_is_a_copy() {
    let mut studio = Studio::open();
    let root = studio.mount.root();
    let bytes = noise(150_000, 8);
    fs::write(root.join("segments/clap.wav"), &bytes).unwrap();
    let error = fs::rename(
        root.join("segments/clap.wav"),
        root.join("samples/clap.wav"),
    );
    assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    run("mv", &["segments/clap.wav", "samples/clap.wav"], &root);
    assert!(!root.join("segments/clap.wav").exists());
    assert!(fs::read(studio.mount.beside("samples/clap.wav")).unwrap() == bytes);
    studio.mount.wait_uploaded();
    assert_eq!(studio.model.keys(), Vec::<String>::new());
    run("mv", &["samples/clap.wav", "rhythms/clap.wav"], &root);
    assert!(!studio.mount.beside("samples/clap.wav").exists());
    studio.start_again_from_the_bucket();
    assert!(fs::read(root.join("rhythms/clap.wav")).unwrap() == bytes);
    assert_eq!(studio.model.keys(), ["rhythms/clap.wav"]);
}

#[test]
fn dd_syncs_and_reads_with_any_block_size() {
    let mut studio = Studio::open();
    let plain = studio.plain("noise");
    fs::write(&plain, noise(1_000_003, 9)).unwrap();
    let root = studio.mount.root();
    let from = format!("if={}", plain.display());
    run(
        "dd",
        &[
            &from,
            "of=segments/a.wav",
            "bs=4093",
            "conv=fsync",
            "status=none",
        ],
        &root,
    );
    run(
        "dd",
        &[
            &from,
            "of=segments/b.wav",
            "bs=1M",
            "oflag=dsync",
            "status=none",
        ],
        &root,
    );
    // Into the middle of what is there.
    let patch = [
        "if=segments/b.wav",
        "of=segments/a.wav",
        "bs=1000",
        "skip=10",
        "seek=10",
    ];
    run(
        "dd",
        &[&patch[..], &["conv=notrunc,fdatasync", "status=none"]].concat(),
        &root,
    );
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for name in ["segments/a.wav", "segments/b.wav"] {
            let compared = Command::new("cmp")
                .arg(root.join(name))
                .arg(&plain)
                .status();
            assert!(compared.unwrap().success(), "{name}");
        }
        let read = ["if=segments/a.wav", "of=/dev/null", "bs=777", "status=none"];
        run("dd", &read, &root);
    }
}
