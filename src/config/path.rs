//! Paths in settings: made absolute, and compared as the kernel sees them.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Returns `path` as an absolute path, counted from `base`, with every symbolic link resolved in
/// the part of it that exists. The rest need not exist yet.
///
/// A dead mount on the way counts as not existing, so that a mount point can be named whose
/// server has died.
pub(super) fn resolve(path: &Path, base: &Path) -> PathBuf {
    let absolute = base.join(path);
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut existing = absolute.as_path();
    let mut resolved = loop {
        if let Ok(real) = existing.canonicalize() {
            break real;
        }
        // `file_name` is None at the root and for `..`; both leave nothing better than the text.
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            _ => break lexical(existing),
        }
    };
    resolved.extend(missing.iter().rev());
    resolved
}

/// Removes `.` and `..` by the text alone: the last resort for a path whose beginning is missing.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_links_and_keeps_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink("a", real.join("link")).unwrap();
        assert_eq!(resolve(Path::new("link/x/y"), &real), real.join("a/x/y"));
        assert_eq!(resolve(Path::new("./a/../b"), &real), real.join("b"));
        assert_eq!(resolve(Path::new("/none/../b/c"), &real), Path::new("/b/c"));
        assert_eq!(resolve(Path::new("/"), &real), Path::new("/"));
    }
}
