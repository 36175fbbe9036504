//! Why there is no mount.

use std::io;
use std::path::PathBuf;

use super::lock::Holder;
use super::unmount::UnmountError;

/// Why a mount failed. The text says what the user can do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such folder.
    #[error("the mount point {} does not exist; run: mkdir -p {}", .0.display(), .0.display())]
    MountpointMissing(PathBuf),
    /// It is something else.
    #[error("the mount point {} is not a folder", .0.display())]
    MountpointNotFolder(PathBuf),
    /// It cannot be looked at.
    #[error("the mount point {} cannot be used: {}", .0.display(), .1)]
    Mountpoint(PathBuf, #[source] io::Error),
    /// Something is mounted there.
    #[error(
        "{} is busy: {source_name} (type {filesystem_type}) is mounted there already",
        .mountpoint.display()
    )]
    AlreadyMounted {
        /// The folder.
        mountpoint: PathBuf,
        /// What is mounted.
        source_name: String,
        /// Its type.
        filesystem_type: String,
    },
    /// A mount whose process has died lies there and cannot be cleared.
    #[error("a dead mount lies on {} and cannot be cleared: {reason}", .mountpoint.display())]
    DeadMount {
        /// The folder.
        mountpoint: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another mount owns the staging directory.
    #[error("{}", staging_in_use(.staging_dir, .holder.as_ref()))]
    StagingInUse {
        /// The directory.
        staging_dir: PathBuf,
        /// Who owns it, if it said so.
        holder: Option<Holder>,
    },
    /// A directory cannot be made or used.
    #[error("{name} ({}) cannot be used: {source}", .path.display())]
    Directory {
        /// The setting that names it.
        name: &'static str,
        /// The directory.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The system has no FUSE.
    #[error("/dev/fuse is missing: run \"modprobe fuse\"; a container must be given the device")]
    NoFuse,
    /// The kernel, or the helper, refused to mount.
    #[error("cannot mount on {}: {reason}", .mountpoint.display())]
    Refused {
        /// The folder.
        mountpoint: PathBuf,
        /// What was said, and what helps.
        reason: String,
    },
    /// The bucket cannot be used with these settings.
    #[error("{0}")]
    Bucket(String),
    /// A part could not be started.
    #[error("{what}: {source}")]
    Start {
        /// The part.
        what: &'static str,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The process in the background reported a failure, or ended without a word.
    #[error("{0}")]
    Background(String),
    /// The mount could not be taken down.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    /// The connection to the kernel broke.
    #[error("the connection to the kernel broke: {0}")]
    Session(#[source] io::Error),
    /// A second signal ended everything at once. What was acknowledged is in the journal.
    #[error("ended at once by a second signal")]
    EndedAtOnce,
}

impl MountError {
    /// Returns a function that tells which part could not be started.
    pub(super) fn start<E>(what: &'static str) -> impl FnOnce(E) -> MountError
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| MountError::Start {
            what,
            source: source.into(),
        }
    }
}

fn staging_in_use(staging_dir: &std::path::Path, holder: Option<&Holder>) -> String {
    let shown = staging_dir.display();
    match holder {
        Some(Holder {
            pid,
            mountpoint,
            draining: false,
        }) => format!(
            "STAGING_DIR {shown} is in use by the mount on {} (pid {pid}): unmount that one, or \
             give this one directories of its own",
            mountpoint.display()
        ),
        Some(Holder {
            pid,
            mountpoint,
            draining: true,
        }) => format!(
            "STAGING_DIR {shown} is in use by pid {pid}, which is still finishing what was \
             written on {}: try again in a moment",
            mountpoint.display()
        ),
        None => format!("STAGING_DIR {shown} is in use by another process"),
    }
}
