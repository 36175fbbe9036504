//! The folder to mount on: whether it can be used, and what a process of ours that died left there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::MountError;
use super::dead;
use super::mountinfo::{self, MountEntry};
use super::unmount;

/// How many dead mounts are cleared from one folder; each crash leaves one at most.
const MAX_DEAD_MOUNTS: usize = 8;

/// Checks that `path` can be mounted on, clears dead mounts of ours from it, and returns it
/// absolute and without symbolic links.
pub fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    for _ in 0..MAX_DEAD_MOUNTS {
        // Before the folder itself is looked at, which may never answer.
        if let Some(entry) = ours_at(path) {
            if !dead::is_dead(&entry) {
                return check_free(path);
            }
            let cleared = unmount::abort(&entry.mountpoint, &entry.device);
            cleared.map_err(|error| not_cleared(path, error.to_string()))?;
            continue;
        }
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(MountError::MountpointNotFolder(path.into()));
            }
            Ok(_) => return check_free(path),
            Err(error) if dead::is_without_process(&error) => return Err(not_ours(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MountError::MountpointMissing(path.into()));
            }
            Err(error) => return Err(MountError::Mountpoint(path.into(), error)),
        }
    }
    Err(MountError::DeadMount {
        mountpoint: path.into(),
        reason: format!("more than {MAX_DEAD_MOUNTS} of them lie there"),
    })
}

/// Refuses a folder that some FUSE file system is mounted on. Other mounts there may be meant:
/// systemd's automount puts its own below ours.
fn check_free(path: &Path) -> Result<PathBuf, MountError> {
    let cannot = |error| MountError::Mountpoint(path.into(), error);
    let mountpoint = path.canonicalize().map_err(cannot)?;
    match mountinfo::top_at(&mountpoint).map_err(cannot)? {
        Some(MountEntry {
            filesystem_type,
            source,
            ..
        }) if filesystem_type.starts_with("fuse") => Err(MountError::AlreadyMounted {
            mountpoint,
            filesystem_type,
            source_name: source,
        }),
        _ => Ok(mountpoint),
    }
}

/// Returns the mount of ours that is on top at `path`.
fn ours_at(path: &Path) -> Option<MountEntry> {
    let mountpoint = mountinfo::resolve_mountpoint(path).ok()?;
    let top = mountinfo::top_at(&mountpoint).ok()?;
    top.filter(MountEntry::is_ours)
}

fn not_cleared(path: &Path, reason: String) -> MountError {
    MountError::DeadMount {
        mountpoint: path.into(),
        reason,
    }
}

/// Says why a dead mount is not cleared that is not one of ours.
fn not_ours(path: &Path) -> MountError {
    let top = mountinfo::resolve_mountpoint(path).and_then(|path| mountinfo::top_at(&path));
    let reason = match top {
        Ok(Some(entry)) => format!(
            "it belongs to another file system ({})",
            entry.filesystem_type
        ),
        Ok(None) => "it lies above this folder".into(),
        Err(error) => error.to_string(),
    };
    not_cleared(path, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_and_a_file_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(
            prepare(&missing),
            Err(MountError::MountpointMissing(_))
        ));
        fs::write(&missing, "").unwrap();
        assert!(matches!(
            prepare(&missing),
            Err(MountError::MountpointNotFolder(_))
        ));
        let beneath_file = missing.join("x");
        assert!(matches!(
            prepare(&beneath_file),
            Err(MountError::Mountpoint(..))
        ));
    }

    #[test]
    fn a_folder_is_returned_without_links() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", real.join("link")).unwrap();
        assert_eq!(prepare(&real.join("link")).unwrap(), real.join("mnt"));
    }
}
