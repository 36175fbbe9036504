//! Unmounting, by the kernel's call or by `fusermount3` where only that may.
//!
//! fuser's own unmounter gives up after one EBUSY, and without root detaches in silence, so it is
//! never used. What the kernel lists afterwards decides whether the mount is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mountinfo;

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Programs have files open in it, or stand in it.
    #[error("{} is busy{}", .mountpoint.display(), users_text(.users))]
    Busy {
        /// Where it is mounted.
        mountpoint: PathBuf,
        /// Who uses it, as far as this user may know.
        users: Vec<String>,
    },
    /// This user may not unmount it.
    #[error("no right to unmount {}: {reason}", .mountpoint.display())]
    Denied {
        /// Where it is mounted.
        mountpoint: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something else.
    #[error("{} cannot be unmounted: {source}", .mountpoint.display())]
    Failed {
        /// Where it is mounted.
        mountpoint: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

fn users_text(users: &[String]) -> String {
    match users {
        [] => String::new(),
        users => format!(": used by {}", users.join(", ")),
    }
}

/// Unmounts what is on top at `mountpoint` if nobody uses it.
pub fn unmount(mountpoint: &Path) -> Result<(), UnmountError> {
    run(mountpoint, UnmountFlags::empty(), &["-u"])
}

/// Takes what is on top at `mountpoint` out of the tree at once. Who has files open in it goes on
/// using them; the mount ends when the last one is closed.
pub fn detach(mountpoint: &Path) -> Result<(), UnmountError> {
    run(mountpoint, UnmountFlags::DETACH, &["-u", "-z"])
}

/// Takes a mount away whose process has died, and ends its connection: whoever still waits in it, or
/// for it, comes free. Never for one that lives.
pub fn abort(mountpoint: &Path, device: &str) -> Result<(), UnmountError> {
    let number = device.rsplit(':').next().unwrap_or_default();
    let switch = format!("/sys/fs/fuse/connections/{number}/abort");
    if let Err(error) = std::fs::write(&switch, "1") {
        // Root needs it not, for whom the unmount itself does so.
        log::debug!("{switch}: {error}");
    }
    run(
        mountpoint,
        UnmountFlags::DETACH | UnmountFlags::FORCE,
        &["-u", "-z"],
    )
}

/// Returns whether the mount with that device number is gone from `mountpoint`. Without knowledge
/// it counts as being there.
pub fn is_gone(mountpoint: &Path, device: &str) -> bool {
    let is_it =
        |entry: &mountinfo::MountEntry| entry.mountpoint == mountpoint && entry.device == device;
    mountinfo::list().is_ok_and(|entries| !entries.iter().any(is_it))
}

fn run(mountpoint: &Path, flags: UnmountFlags, options: &[&str]) -> Result<(), UnmountError> {
    let error = match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => return Err(busy(mountpoint)),
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {
            return run_fusermount(mountpoint, options);
        }
        Err(error) => error,
    };
    match error {
        Errno::PERM | Errno::ACCESS => Err(UnmountError::Denied {
            mountpoint: mountpoint.into(),
            reason: error.to_string(),
        }),
        _ => Err(UnmountError::Failed {
            mountpoint: mountpoint.into(),
            source: error.into(),
        }),
    }
}

fn run_fusermount(mountpoint: &Path, options: &[&str]) -> Result<(), UnmountError> {
    let output = Command::new("fusermount3")
        .args(options)
        .arg("--")
        .arg(mountpoint)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let failed = |source| UnmountError::Failed {
        mountpoint: mountpoint.into(),
        source,
    };
    let output = output.map_err(|error| {
        failed(io::Error::new(
            error.kind(),
            format!("fusermount3 (package fuse3): {error}"),
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_string();
    match () {
        () if reason.contains("busy") => Err(busy(mountpoint)),
        () if reason.contains("not permitted") || reason.contains("denied") => {
            Err(UnmountError::Denied {
                mountpoint: mountpoint.into(),
                reason,
            })
        }
        () => Err(failed(io::Error::other(reason))),
    }
}

fn busy(mountpoint: &Path) -> UnmountError {
    UnmountError::Busy {
        mountpoint: mountpoint.into(),
        users: users_of(mountpoint),
    }
}

/// How many users of a busy mount are named.
const MAX_USERS: usize = 5;

/// Returns who works in the mount, as `name (pid)`, from the links in `/proc`. A mapped file alone
/// is not among them. Nothing is asked of the mount itself: it may not answer.
fn users_of(mountpoint: &Path) -> Vec<String> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let uses_it = |process: &Path| {
        let points_there = |link: &Path| {
            std::fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint))
        };
        points_there(&process.join("cwd"))
            || points_there(&process.join("root"))
            || std::fs::read_dir(process.join("fd")).is_ok_and(|mut links| {
                links.any(|link| link.is_ok_and(|l| points_there(&l.path())))
            })
    };
    processes
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .filter(|(_, process)| uses_it(process))
        .take(MAX_USERS)
        .map(|(pid, process)| {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            format!("{} (pid {pid})", name.trim())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_mount_cannot_be_unmounted() {
        let folder = tempfile::tempdir().unwrap();
        assert!(unmount(folder.path()).is_err());
        assert!(is_gone(folder.path(), "0:0"));
    }

    #[test]
    fn users_are_found_by_their_open_files() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(users_of(&real), Vec::<String>::new());
        let _file = std::fs::File::create(real.join("open")).unwrap();
        let users = users_of(&real);
        assert!(
            users[0].ends_with(&format!("(pid {})", std::process::id())),
            "{users:?}"
        );
        let error = UnmountError::Busy {
            mountpoint: "/mnt".into(),
            users,
        };
        assert!(error.to_string().starts_with("/mnt is busy: used by "));
    }
}
