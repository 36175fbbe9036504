//! What a local disk does, by programs that were written to find out: pjdfstest, fsx, and a
//! program that saves by rename while others look. `scripts/test` installs the first two.

mod conformance;
mod exerciser;
mod replacing;

use std::path::PathBuf;

/// Returns a program that `scripts/test` has installed.
fn tool(name: &str) -> PathBuf {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let tool = folder.join(name);
    assert!(
        tool.exists(),
        "{name} is not installed: run scripts/test once"
    );
    tool
}

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}
