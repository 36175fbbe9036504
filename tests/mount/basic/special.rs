//! What the bucket cannot express: symbolic links, FIFOs, sockets, device nodes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::Bucket;

fn make(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

#[test]
fn special_nodes_stay_here_and_are_kept() {
    let bucket = Bucket::model();
    let mut mount = bucket.mount_with(&[("LIST_TTL_SECONDS", "1")]);
    let is_root = rustix::process::geteuid().is_root();
    let a = mount.path("layers/a");
    fs::create_dir(&a).unwrap();
    fs::write(a.join("take.wav"), b"take").unwrap();
    symlink("take.wav", a.join("link")).unwrap();
    symlink("../no where/ü", a.join("dangling")).unwrap();
    make(&a.join("pipe"), FileType::Fifo, 0);
    fs::hard_link(a.join("pipe"), mount.path("layers/second")).unwrap();
    drop(UnixListener::bind(a.join("socket")).unwrap());
    if is_root {
        make(
            &a.join("null"),
            FileType::CharacterDevice,
            rustix::fs::makedev(1, 3),
        );
    }
    fs::set_permissions(a.join("pipe"), Permissions::from_mode(0o600)).unwrap();
    let b = mount.path("layers/b");
    fs::rename(&a, &b).unwrap();
    let check = |when: &str| {
        eprintln!("{when}");
        assert_eq!(fs::read(b.join("link")).unwrap(), b"take");
        assert_eq!(
            fs::read_link(b.join("link")).unwrap(),
            Path::new("take.wav")
        );
        let dangling = fs::read_link(b.join("dangling")).unwrap();
        assert_eq!(dangling, Path::new("../no where/ü"));
        let status = fs::symlink_metadata(b.join("dangling")).unwrap();
        assert_eq!(status.len(), "../no where/ü".len() as u64);
        let pipe = fs::metadata(b.join("pipe")).unwrap();
        assert!(pipe.file_type().is_fifo());
        assert_eq!((pipe.mode() & 0o7777, pipe.nlink()), (0o600, 2));
        let second = fs::metadata(mount.path("layers/second")).unwrap();
        assert_eq!(
            (second.ino(), second.mtime_nsec()),
            (pipe.ino(), pipe.mtime_nsec())
        );
        let socket = fs::metadata(b.join("socket")).unwrap();
        assert!(socket.file_type().is_socket());
        if is_root {
            let null = fs::metadata(b.join("null")).unwrap();
            assert!(null.file_type().is_char_device());
            assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
        }
        let names = fs::read_dir(&b).unwrap().count();
        assert_eq!(names, 5 + usize::from(is_root));
    };
    check("at once");
    mount.wait_uploaded();
    check("uploaded");
    assert_eq!(bucket.keys(), ["layers/b/", "layers/b/take.wav"]);
    // What others do in the folder changes nothing about them.
    bucket.put("layers/b/theirs.wav", b"theirs".to_vec());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fs::read_dir(&b).unwrap().count() < 6 + usize::from(is_root) {
        assert!(std::time::Instant::now() < end, "theirs does not show");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    fs::remove_file(b.join("theirs.wav")).unwrap();
    mount.wait_uploaded();
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    let b = mount.path("layers/b");
    assert!(fs::symlink_metadata(b.join("pipe")).is_ok());
    fs::remove_file(b.join("pipe")).unwrap();
    mount.kill();
    mount.mount();
    let second = fs::metadata(mount.path("layers/second")).unwrap();
    assert!(second.file_type().is_fifo());
    assert_eq!((second.mode() & 0o7777, second.nlink()), (0o600, 1));
    assert!(!fs::exists(b.join("pipe")).unwrap());
}

#[test]
fn special_nodes_and_files_replace_each_other() {
    let bucket = Bucket::model();
    bucket.put("layers/old.wav", b"old".to_vec());
    let mut mount = bucket.mount_with(&[]);
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    symlink("target", path("link")).unwrap();
    fs::rename(path("link"), path("old.wav")).unwrap();
    symlink("target", path("other")).unwrap();
    fs::write(path("new.wav"), b"new").unwrap();
    fs::rename(path("new.wav"), path("other")).unwrap();
    mount.wait_uploaded();
    assert_eq!(bucket.keys(), ["layers/other"]);
    mount.remount();
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    assert_eq!(fs::read_link(path("old.wav")).unwrap(), Path::new("target"));
    assert_eq!(fs::read(path("other")).unwrap(), b"new");
    assert!(!fs::exists(path("link")).unwrap());
}

#[test]
fn a_folder_gives_its_group_to_what_is_made_in_it() {
    let bucket = Bucket::model();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mount = bucket.mount_with(&[]);
    let band = mount.path("projects/band");
    fs::create_dir(&band).unwrap();
    std::os::unix::fs::chown(&band, None, Some(4711)).unwrap();
    fs::set_permissions(&band, Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(band.join("album")).unwrap();
    fs::write(band.join("album/song.rpp"), b"song").unwrap();
    let album = fs::metadata(band.join("album")).unwrap();
    assert_eq!((album.gid(), album.mode() & 0o2000), (4711, 0o2000));
    assert_eq!(
        fs::metadata(band.join("album/song.rpp")).unwrap().gid(),
        4711
    );
    assert_eq!(fs::metadata(mount.path("projects")).unwrap().nlink(), 3);
}
