//! Puts the parts together and keeps the process: background, lock, log, signals, unmount.
//!
//! `assemble` makes the parts; nothing else here knows what they do. The order of starting is
//! that of what may fail cheapest first, and each step is undone by the drop of what it returned:
//! mount point, directories, lock, log, runtime, parts, control socket, mount.

mod alerts;
mod assemble;
pub mod at_rest;
mod bucket;
mod confirmations;
pub mod daemon;
pub mod dead;
mod directories;
mod error;
mod leases;
pub mod lock;
pub mod log;
#[cfg(test)]
mod model;
pub mod mountinfo;
mod mountpoint;
mod notify;
mod outstanding;
mod pins;
mod privileges;
mod queue;
mod session;
mod share;
mod signals;
mod stores;
mod supervise;
mod undo;
pub mod unmount;
mod verify;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

pub use self::bucket::{check as check_bucket, r2_store};
pub use self::error::MountError;
pub use self::mountpoint::prepare as check_mountpoint;

use self::daemon::{Fork, Reporter};
use crate::config::{Config, MountOptions};
use crate::control::StatusSource;

/// What to mount, and where.
#[derive(Debug)]
pub struct Request {
    /// The settings.
    pub config: Config,
    /// The mount options.
    pub options: MountOptions,
    /// The folder, as the user named it.
    pub mountpoint: PathBuf,
    /// What the kernel's list of mounts shows as source.
    pub source_name: String,
    /// Whether to stay in the foreground.
    pub foreground: bool,
}

/// The running parts, as the process sees them.
#[derive(Debug)]
pub struct Parts<F> {
    /// What answers the kernel.
    pub filesystem: F,
    /// Whether nothing may be changed, whatever the options say.
    pub read_only: bool,
    /// The rest.
    pub service: Arc<dyn Service>,
    /// What the user who mounts should know, as that the bucket cannot be reached.
    pub warnings: Vec<String>,
}

/// What runs beside the file system: uploader, cleanup, refresh of listings.
#[async_trait]
pub trait Service: StatusSource + std::fmt::Debug {
    /// Called once, when the kernel has mounted: `notifier` tells it what changed underneath.
    fn mounted(&self, notifier: fuser::Notifier, device: BorrowedFd<'_>);

    /// Called when the mount is gone and nobody uses it any more: settles what was open and goes on
    /// uploading until nothing is left that goes by itself. The caller sets a limit.
    async fn drain(&self);

    /// Called once, after that: ends uploads after their current part and closes what
    /// is open. What is not in the bucket stays in the journal. Given up after a limit.
    async fn stop(&self);
}

/// Makes the parts of a mount on a runtime. It runs on the main thread, outside of the runtime.
pub type Assemble<F> = fn(&Config, &MountOptions, &Path, &Handle) -> Result<Parts<F>, MountError>;

/// Mounts. In the foreground it returns when the mount has ended, else when it is usable.
pub fn run(request: Request) -> Result<(), MountError> {
    run_with(request, assemble::assemble)
}

fn run_with<F: fuser::Filesystem>(
    mut request: Request,
    assemble: Assemble<F>,
) -> Result<(), MountError> {
    // Before the fork, after which the current folder is another.
    request.mountpoint = std::path::absolute(&request.mountpoint)
        .map_err(|error| MountError::Mountpoint(request.mountpoint.clone(), error))?;
    if request.foreground {
        return serve(&request, Reporter::foreground(), assemble);
    }
    match daemon::fork().map_err(MountError::start("cannot go to the background"))? {
        Fork::Parent(child) => {
            for warning in child.wait().map_err(MountError::Background)?.lines() {
                eprintln!("voicebeatfs: {warning}");
            }
            Ok(())
        }
        Fork::Child(reporter) => {
            let ended = serve(&request, reporter, assemble);
            std::process::exit(if ended.is_ok() { 0 } else { 1 })
        }
    }
}

fn serve<F: fuser::Filesystem>(
    request: &Request,
    reporter: Reporter,
    assemble: Assemble<F>,
) -> Result<(), MountError> {
    let mut running = match session::start(request, assemble) {
        Ok(running) => running,
        Err(error) => {
            reporter.failed(&error.to_string());
            return Err(error);
        }
    };
    let wanted = reporter.ready(&running.warnings.join("\n"));
    let ended = running.supervise(wanted.is_ok());
    if let Err(error) = &ended {
        ::log::error!("{error}");
    }
    ended
}

/// Whether a mount of ours is on top at `mountpoint`.
fn is_mounted(mountpoint: &Path) -> bool {
    mountinfo::top_at(mountpoint).is_ok_and(|top| top.is_some_and(|entry| entry.is_ours()))
}
