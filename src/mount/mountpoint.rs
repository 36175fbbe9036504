//! The folder to mount on: whether it can be used, and what a process of ours that died left there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::MountError;
use super::mountinfo::{self, MountEntry};
use super::unmount;

/// How many dead mounts are cleared from one folder; each crash leaves one at most.
const MAX_DEAD_MOUNTS: usize = 8;

/// Checks that `path` can be mounted on, clears dead mounts of ours from it, and returns it
/// absolute and without symbolic links.
pub fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    for _ in 0..MAX_DEAD_MOUNTS {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(MountError::MountpointNotFolder(path.into()));
            }
            Ok(_) if is_dead_mount_of_ours(path) => clear_dead(path)?,
            Ok(_) => return check_free(path),
            Err(error) if is_dead(&error) => clear_dead(path)?,
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

/// For a while the kernel knows the root's attributes without asking; the free space it always asks
/// for. Only our own mounts are asked: another's may take its time.
fn is_dead_mount_of_ours(path: &Path) -> bool {
    let ours = path
        .canonicalize()
        .and_then(|mountpoint| mountinfo::top_at(&mountpoint))
        .is_ok_and(|top| top.is_some_and(|entry| entry.is_ours()));
    ours && rustix::fs::statvfs(path).is_err_and(|error| is_dead(&error.into()))
}

/// Whether nobody answers any more, or whoever did went while we asked.
fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

fn clear_dead(path: &Path) -> Result<(), MountError> {
    let failed = |reason: String| MountError::DeadMount {
        mountpoint: path.into(),
        reason,
    };
    let mountpoint =
        mountinfo::resolve_mountpoint(path).map_err(|error| failed(error.to_string()))?;
    let top = mountinfo::top_at(&mountpoint).map_err(|error| failed(error.to_string()))?;
    match top {
        Some(entry) if entry.is_ours() => {
            unmount::detach(&mountpoint).map_err(|error| failed(error.to_string()))
        }
        Some(entry) => Err(failed(format!(
            "it belongs to another file system ({})",
            entry.filesystem_type
        ))),
        None => Err(failed("it lies above this folder".into())),
    }
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
