//! Kernel passthrough: who reads the bytes, and that writers beside such readers lose nothing.
//!
//! As root a kernel or a mount without passthrough fails these tests. What each open mode means is
//! in `docs/architecture.md`, "I/O modes".

mod maps;
mod modes;
mod served;

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Instant;

use crate::common::mount::{DEADLINE, Mount};

/// Read requests that came to the process, and opens that the kernel serves without it.
fn reads(mount: &Mount) -> (u64, u64) {
    let status = mount.status();
    let number = |name: &str| status["reads"][name].as_u64().expect("a number");
    (number("requests"), number("passthrough_opens"))
}

/// Runs something and panics if it caused a read request; it must open at least one file, by
/// passthrough.
#[track_caller]
fn expect_passthrough<T>(mount: &Mount, what: impl FnOnce() -> T) -> T {
    let before = reads(mount);
    let result = what();
    let after = reads(mount);
    assert_eq!(
        after.0,
        before.0,
        "read requests came although the file is whole\n{}",
        mount.log()
    );
    assert!(
        after.1 > before.1,
        "no open was by passthrough\n{}",
        mount.log()
    );
    result
}

/// Whether this process may use passthrough: the kernel allows it to root only.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Reads a file until it is whole in the cache and verified: as root, until an open passes through.
fn fetch(mount: &Mount, path: &Path, expected: &[u8]) {
    let (_, before) = reads(mount);
    let end = Instant::now() + DEADLINE;
    loop {
        assert!(fs::read(path).unwrap() == expected);
        if !is_root() || reads(mount).1 > before {
            return;
        }
        assert!(
            Instant::now() < end,
            "never passed through\n{}",
            mount.log()
        );
    }
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}
