//! pjdfstest: 398 small questions about what POSIX says, asked as root.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::tool;
use crate::common::mount::Mount;

/// Tests that fail, each with its reason.
const EXPECTED: &str = include_str!("expected.txt");
/// How many tests there are in the version that `scripts/test` installs.
const TESTS: usize = 398;
/// The features of Linux; the users are Debian's own.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Returns the tests that are expected to fail, and those that may.
fn expected() -> (Vec<&'static str>, Vec<&'static str>) {
    let lines = EXPECTED.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter(|line| !line.is_empty()).map(|line| {
        let (name, reason) = line.split_once(' ').expect("a name and a reason");
        assert!(!reason.trim().is_empty(), "{name} has no reason");
        name
    });
    let (may, must): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('?'));
    (must, may.iter().map(|name| &name[1..]).collect())
}

/// Returns what each test came to: `ok`, `FAILED` or `skipped`.
fn results(output: &str) -> BTreeMap<&str, &str> {
    let mut results = BTreeMap::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, result @ ("ok" | "FAILED" | "skipped"), ..] = words[..]
            && name.contains("::")
        {
            results.insert(name, result);
        }
    }
    results
}

#[test]
fn what_fails_in_pjdfstest_is_what_is_listed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: pjdfstest changes users, which root only can");
        return;
    }
    let mut mount = Mount::prepare(&[("USE_R2_STORAGE", "false"), ("DELETE_LIMIT", "none")]);
    for option in ["allow_other", "dev", "suid"] {
        mount.option(option);
    }
    mount.mount();
    // The users have to get there.
    fs::set_permissions(mount.beside(""), Permissions::from_mode(0o755)).unwrap();
    // The path of a socket has at most 107 bytes.
    let folder = mount.path("layers");
    let config = mount.beside("pjdfstest.toml");
    fs::write(&config, CONFIG).unwrap();
    let output = Command::new(tool("pjdfstest"))
        .arg("-c")
        .arg(&config)
        .arg("-p")
        .arg(&folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let results = results(&text);
    let of = |wanted| results.iter().filter(move |(_, result)| **result == wanted);
    assert_eq!(results.len(), TESTS, "{text}");
    let failed: Vec<&str> = of("FAILED").map(|(name, _)| *name).collect();
    let (expected, may_fail) = expected();
    let news: Vec<_> = failed
        .iter()
        .filter(|name| !expected.contains(name) && !may_fail.contains(name))
        .collect();
    assert!(news.is_empty(), "these fail: {news:#?}\n{text}");
    let done: Vec<_> = expected
        .iter()
        .filter(|name| !failed.contains(name))
        .collect();
    assert!(
        done.is_empty(),
        "these pass, or are skipped, and are listed: {done:#?}"
    );
    println!("figures: {} pass, {} fail", of("ok").count(), failed.len());
}
