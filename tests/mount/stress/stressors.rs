//! stress-ng: small programs that each do one kind of thing as fast as they can, and check it.

use super::*;

/// The stressors that use files, each with what bounds it.
const STRESSORS: [(&str, &[&str]); 48] = [
    ("access", &[]),
    ("aio", &[]),
    ("aiol", &[]),
    ("chattr", &[]),
    ("chdir", &["--chdir-dirs", "1024"]),
    ("chmod", &[]),
    ("chown", &[]),
    ("copy-file", &["--copy-file-bytes", "128m"]),
    ("dentry", &["--dentries", "500"]),
    ("dir", &["--dir-dirs", "500"]),
    ("dirdeep", &["--dirdeep-inodes", "500"]),
    ("dirmany", &[]),
    ("dnotify", &[]),
    ("dup", &[]),
    ("fallocate", &["--fallocate-bytes", "16m"]),
    ("fanotify", &[]),
    ("fcntl", &[]),
    ("file-ioctl", &[]),
    ("filename", &[]),
    ("flock", &[]),
    ("fpunch", &[]),
    ("fsize", &[]),
    ("fstat", &[]),
    ("getdent", &[]),
    ("handle", &[]),
    ("hdd", &["--hdd-bytes", "16m"]),
    ("inode-flags", &[]),
    ("inotify", &[]),
    ("iomix", &["--iomix-bytes", "16m"]),
    ("lease", &[]),
    ("link", &["--link-ops", "2000"]),
    ("locka", &[]),
    ("lockf", &[]),
    ("lockofd", &[]),
    ("mknod", &[]),
    ("mmap", &["--mmap-file", "--mmap-bytes", "16m"]),
    ("msync", &["--msync-bytes", "16m"]),
    ("open", &[]),
    ("readahead", &["--readahead-bytes", "16m"]),
    ("rename", &[]),
    ("revio", &["--revio-bytes", "16m"]),
    ("seek", &["--seek-size", "16m"]),
    ("sendfile", &["--sendfile-size", "4m"]),
    ("symlink", &["--symlink-ops", "2000"]),
    ("sync-file", &["--sync-file-bytes", "16m"]),
    ("touch", &["--touch-ops", "2000"]),
    ("utime", &[]),
    ("xattr", &[]),
];

// Left out, of the classes `filesystem` and `io`:
// bind-mount, binderfs: mount other file systems;
// eventfd, ioprio, procfs, rawdev: use no file of a file system;
// fiemap, verity: ask for what FUSE has not (EOPNOTSUPP, ENOTTY), and are skipped;
// io: calls sync(2) alone, for the whole machine;
// io-uring: of Debian's version (0.15.06) fails on ext4 as well: its statx asks for a file that is not there. fio
// uses the interface.

fn stress(arena: &Arena, workers: u64, stressors: &[(&str, &[&str])]) {
    let mut command = program(
        "stress-ng",
        &["--verify", "--temp-path", "."],
        &arena.folder(),
    );
    let number = |text: &str, number: u64| [text.to_owned(), number.to_string()];
    command.args(number("--timeout", seconds()));
    command.args(number("--seed", seed()));
    for (name, bounds) in stressors {
        command
            .args(number(&format!("--{name}"), workers))
            .args(*bounds);
    }
    let said = run(command);
    assert!(!said.contains("fail:"), "{said}");
    if rustix::process::geteuid().is_root() {
        assert!(!said.contains("skipping"), "{said}");
    }
}

fn stress_all(passthrough: &str) {
    let mut arena = Arena::open(passthrough);
    arena.without_a_cache_that_lasts(|| {
        if is_long() {
            for stressor in STRESSORS {
                stress(&arena, 2, &[stressor]);
            }
        }
        stress(&arena, 1, &STRESSORS);
    });
    assert_eq!(
        contents(&arena.folder()).len(),
        1,
        "they leave nothing behind"
    );
    println!("figures: {} stressors", STRESSORS.len());
    arena.check();
}

#[test]
fn stress_ng_finds_nothing_with_passthrough() {
    stress_all("true");
}

#[test]
fn stress_ng_finds_nothing_without_passthrough() {
    stress_all("false");
}
