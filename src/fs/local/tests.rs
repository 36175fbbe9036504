//! The tree against a directory, without a kernel: the test plays its part.

mod escape;
mod names;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::fs::attr::Caller;

const BASE: u64 = 1 << 50;

/// How often a race is tried.
const ROUNDS: usize = 2_000;

struct Fixture {
    dir: tempfile::TempDir,
    tree: LocalTree,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let tree = LocalTree::new(root, BASE);
    Fixture { dir, tree }
}

impl Fixture {
    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn look(&self, path: &str) -> FsResult<Attr> {
        let mut attr = self.tree.getattr(self.tree.root(), None)?;
        for name in path.split('/') {
            attr = self.tree.lookup(attr.ino, OsStr::new(name))?;
        }
        Ok(attr)
    }

    fn make(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn content(&self, ino: Ino) -> FsResult<String> {
        let (fh, _) = self.tree.open(ino, libc::O_RDONLY)?;
        let content = self.read(fh);
        self.tree.release(fh);
        content
    }

    fn read(&self, fh: Fh) -> FsResult<String> {
        let mut buf = [0; 100];
        let count = self.tree.read(fh, 0, &mut buf)?;
        Ok(String::from_utf8(buf[..count].to_vec()).unwrap())
    }
}

/// Ends the other thread of a race, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn errno<T>(result: FsResult<T>) -> i32 {
    result.map(|_| ()).unwrap_err().errno()
}

#[test]
fn attributes_are_the_disks_own() {
    let f = fixture();
    f.make("house/kick/deep.wav", "boom");
    let attr = f.look("house/kick/deep.wav").unwrap();
    let disk = fs::metadata(f.root().join("house/kick/deep.wav")).unwrap();
    assert_eq!((attr.size, attr.kind), (4, Kind::File));
    assert_eq!((attr.mode, attr.nlink), (disk.mode() & 0o7777, 1));
    assert_eq!((attr.uid, attr.gid), (disk.uid(), disk.gid()));
    assert_eq!(attr.blocks, disk.blocks());
    assert_eq!(attr.mtime, disk.modified().unwrap());
    assert_eq!(f.content(attr.ino).unwrap(), "boom");
    assert!(f.tree.owns(attr.ino) && f.tree.owns(f.tree.root()));
    assert!(!f.tree.owns(Ino(BASE - 1)) && !f.tree.owns(Ino(BASE + SPAN)));
}

#[test]
fn changes_reach_the_disk_to_the_nanosecond() {
    let f = fixture();
    f.make("a", "12345");
    let ino = f.look("a").unwrap().ino;
    let before_epoch = UNIX_EPOCH - Duration::new(3, 250_000_001);
    let after = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let change = SetAttr {
        mode: Some(0o604),
        size: Some(3),
        atime: Some(after),
        mtime: Some(before_epoch),
        ..SetAttr::default()
    };
    let attr = f.tree.setattr(ino, None, &change).unwrap();
    assert_eq!((attr.mode, attr.size), (0o604, 3));
    assert_eq!((attr.atime, attr.mtime), (after, before_epoch));
    let disk = fs::metadata(f.root().join("a")).unwrap();
    assert_eq!((disk.mtime(), disk.mtime_nsec()), (-4, 749_999_999));
    let only_atime = SetAttr {
        atime: Some(UNIX_EPOCH),
        ..SetAttr::default()
    };
    let attr = f.tree.setattr(ino, None, &only_atime).unwrap();
    assert_eq!((attr.atime, attr.mtime), (UNIX_EPOCH, before_epoch));
    let root = f.tree.root();
    let shorter = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(errno(f.tree.setattr(root, None, &shorter)), libc::EISDIR);
}

#[test]
fn an_open_file_outlives_its_name() {
    let f = fixture();
    let root = f.tree.root();
    let flags = libc::O_RDWR;
    let (attr, fh, _) = f.tree.create(root, name("a"), 0o600, flags, me()).unwrap();
    f.tree.write(fh, 0, b"take").unwrap();
    f.tree.unlink(root, name("a")).unwrap();
    assert_eq!(f.tree.getattr(attr.ino, Some(fh)).unwrap().nlink, 0);
    assert_eq!(f.tree.getattr(attr.ino, None).unwrap().size, 4);
    assert_eq!(f.content(attr.ino).unwrap(), "take");
    let shorter = SetAttr {
        size: Some(2),
        mode: Some(0o640),
        ..SetAttr::default()
    };
    assert_eq!(f.tree.setattr(attr.ino, None, &shorter).unwrap().size, 2);
    f.tree.setxattr(attr.ino, name("user.x"), b"1", 0).unwrap();
    let backing = f.tree.backing(attr.ino, fh).unwrap();
    assert_eq!(backing.metadata().unwrap().len(), 2);
    f.tree.forget(attr.ino, 1);
    assert_eq!(f.read(fh).unwrap(), "ta");
    f.tree.release(fh);
    assert_eq!(errno(f.tree.getattr(attr.ino, None)), libc::ESTALE);
    assert_eq!(errno(f.tree.fsync(fh, false)), libc::EBADF);
    assert_eq!(f.tree.nodes.lock().counts().0, 0);
}

#[test]
fn appending_writes_go_to_the_end_and_pages_to_their_place() {
    let f = fixture();
    f.make("a", "12345");
    let ino = f.look("a").unwrap().ino;
    let (fh, _) = f.tree.open(ino, libc::O_WRONLY | libc::O_APPEND).unwrap();
    // Another program has written meanwhile, so the offset is an old one.
    assert_eq!(f.tree.write(fh, 0, b"67").unwrap(), 2);
    assert_eq!(f.tree.write_page(fh, 1, b"__").unwrap(), 2);
    assert_eq!(f.content(ino).unwrap(), "1__4567");
    let (truncating, _) = f.tree.open(ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(f.content(ino).unwrap(), "");
    assert_eq!(errno(f.tree.read(truncating, 0, &mut [0])), libc::EBADF);
    let (reading, file) = f.tree.open(ino, libc::O_RDONLY).unwrap();
    assert!(Arc::ptr_eq(&file, &f.tree.backing(ino, reading).unwrap()));
    assert!(f.tree.backing(f.tree.root(), reading).is_none());
    assert_eq!(errno(f.tree.write(reading, 0, b"x")), libc::EBADF);
}

#[test]
fn holes_and_room() {
    let f = fixture();
    let flags = libc::O_RDWR;
    let root = f.tree.root();
    let (attr, fh, _) = f.tree.create(root, name("a"), 0o600, flags, me()).unwrap();
    f.tree.fallocate(fh, 0, 1 << 20, 0).unwrap();
    f.tree.write(fh, 0, b"head").unwrap();
    let keep = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    if f.tree.fallocate(fh, 4096 * 16, 4096 * 16, keep).is_ok() {
        assert_eq!(f.tree.lseek(fh, 0, libc::SEEK_HOLE).unwrap() % 4096, 0);
    }
    assert_eq!(f.tree.lseek(fh, 0, libc::SEEK_DATA).unwrap(), 0);
    assert_eq!(
        errno(f.tree.lseek(fh, 1 << 20, libc::SEEK_DATA)),
        libc::ENXIO
    );
    assert_eq!(errno(f.tree.lseek(fh, 0, libc::SEEK_END)), libc::EINVAL);
    assert_eq!(f.tree.getattr(attr.ino, None).unwrap().size, 1 << 20);
    f.tree.fsync(fh, true).unwrap();
    f.tree.flush(fh).unwrap();
    f.tree.fsyncdir(f.tree.root()).unwrap();
    let space = f.tree.statfs().unwrap();
    assert!(space.blocks >= space.blocks_available && space.block_bytes >= 512);
}

#[test]
fn listings_have_the_numbers_of_lookups_and_keep_nothing() {
    let f = fixture();
    for path in ["d/a", "d/sub/x", "d/b"] {
        f.make(path, "");
    }
    let odd = OsStr::from_bytes(b"\xff\xfe caf\xe9");
    fs::write(f.root().join("d").join(odd), "odd").unwrap();
    symlink("nowhere", f.root().join("d/link")).unwrap();
    let d = f.look("d").unwrap().ino;
    let known = f.tree.lookup(d, name("a")).unwrap().ino;
    let entries = f.tree.entries(d).unwrap();
    assert_eq!(entries.len(), 5);
    assert_eq!(f.tree.entries(d).unwrap(), entries);
    assert_eq!(f.tree.nodes.lock().counts().0, 2);
    for entry in &entries {
        let attr = f.tree.lookup(d, &entry.name).unwrap();
        assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind), "{entry:?}");
        if entry.name == odd {
            assert_eq!(f.content(attr.ino).unwrap(), "odd");
        }
    }
    assert!(entries.iter().any(|entry| entry.ino == known));
    let a = f.look("d/a").unwrap().ino;
    assert_eq!(errno(f.tree.entries(a)), libc::ENOTDIR);
    assert_eq!(
        errno(f.tree.rmdir(f.tree.root(), name("d"))),
        libc::ENOTEMPTY
    );
    assert_eq!(errno(f.tree.unlink(d, name("sub"))), libc::EISDIR);
    assert_eq!(errno(f.tree.rmdir(d, name("a"))), libc::ENOTDIR);
    assert_eq!(errno(f.tree.lookup(d, name("none"))), libc::ENOENT);
}

#[test]
fn the_directory_may_come_later_and_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/yet");
    let tree = LocalTree::new(path.clone(), BASE);
    let root = tree.root();
    assert_eq!(tree.getattr(root, None).unwrap().kind, Kind::Folder);
    assert_eq!(tree.entries(root).unwrap(), []);
    assert_eq!(errno(tree.lookup(root, name("a"))), libc::ENOENT);
    assert_eq!(
        errno(tree.mkdir(root, name("a"), 0o700, me())),
        libc::ENOENT
    );
    tree.fsyncdir(root).unwrap();
    assert!(tree.statfs().unwrap().blocks > 0);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("a"), "first").unwrap();
    let first = tree.lookup(root, name("a")).unwrap();
    fs::rename(&path, dir.path().join("aside")).unwrap();
    assert_eq!(tree.entries(root).unwrap(), []);
    assert_eq!(errno(tree.open(first.ino, libc::O_RDONLY)), libc::ENOENT);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a"), "second!").unwrap();
    assert_eq!(errno(tree.getattr(first.ino, None)), libc::ESTALE);
    let second = tree.lookup(root, name("a")).unwrap();
    assert_eq!(second.size, 7);
    assert_ne!(second.ino, first.ino);
    // The directory itself may be reached through a link: that is the operator's word.
    fs::rename(&path, dir.path().join("third")).unwrap();
    symlink(dir.path().join("third"), &path).unwrap();
    assert_eq!(tree.getattr(second.ino, None).unwrap().size, 7);
}

#[test]
fn deep_folders_are_reached() {
    let f = fixture();
    let long = "n".repeat(200);
    let mut folder = f.tree.root();
    for _ in 0..30 {
        folder = f.tree.mkdir(folder, name(&long), 0o700, me()).unwrap().ino;
    }
    let flags = libc::O_WRONLY;
    let (attr, ..) = f
        .tree
        .create(folder, name("a"), 0o600, flags, me())
        .unwrap();
    assert_eq!(f.tree.getattr(attr.ino, None).unwrap().kind, Kind::File);
    let longer = "n".repeat(256);
    assert_eq!(
        errno(f.tree.lookup(folder, name(&longer))),
        libc::ENAMETOOLONG
    );
}

#[test]
fn extended_attributes_are_the_disks_own() {
    let f = fixture();
    f.make("a", "");
    let ino = f.look("a").unwrap().ino;
    let key = name("user.voicebeat.genre");
    assert_eq!(errno(f.tree.getxattr(ino, key)), libc::ENODATA);
    f.tree.setxattr(ino, key, b"house", 0).unwrap();
    f.tree.setxattr(ino, name("user.empty"), b"", 0).unwrap();
    assert_eq!(f.tree.getxattr(ino, key).unwrap(), b"house");
    assert_eq!(f.tree.getxattr(ino, name("user.empty")).unwrap(), b"");
    let taken = f.tree.setxattr(ino, key, b"x", libc::XATTR_CREATE);
    assert_eq!(errno(taken), libc::EEXIST);
    let mut names = f.tree.listxattr(ino).unwrap();
    names.retain(|name| name.as_bytes().starts_with(b"user."));
    names.sort();
    assert_eq!(names, ["user.empty", "user.voicebeat.genre"]);
    f.tree.removexattr(ino, key).unwrap();
    assert_eq!(errno(f.tree.removexattr(ino, key)), libc::ENODATA);
    let acl = name("system.posix_acl_access");
    assert_eq!(errno(f.tree.getxattr(ino, acl)), libc::EOPNOTSUPP);
    assert_eq!(errno(f.tree.setxattr(ino, acl, b"x", 0)), libc::EOPNOTSUPP);
}
