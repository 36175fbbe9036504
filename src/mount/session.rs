//! Starting: from the settings to a mount that answers.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use fuser::{MountOption, Session, SessionACL};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};

use super::error::MountError;
use super::log::Log;
use super::signals::Signals;
use super::supervise::{MountPlace, Running};
use super::{
    Assemble, Request, Service, directories, mountinfo, mountpoint, notify, privileges, unmount,
};
use crate::config::{Access, Backend, Config, MountOptions};
use crate::control::MountIdentity;
use crate::control::exposition::Exposition;
use crate::control::registry::{Record, Registry};
use crate::control::scrape::Exports;
use crate::control::server::{self, Server};

/// How many threads answer the kernel. None of them ever waits for the network; most stand by until
/// others wait for the disk (`fuse/crew.rs`), so this is how many may do so at a time.
const FUSE_THREADS: usize = 16;

/// The threads of the runtime: requests to the bucket wait far more than they work.
const RUNTIME_THREADS: usize = 4;

/// Mounts, and returns what has to be kept.
pub(super) fn start<F: fuser::Filesystem>(
    request: &Request,
    assemble: Assemble<F>,
) -> Result<Running, MountError> {
    let config = &request.config;
    let mountpoint = mountpoint::prepare(&request.mountpoint)?;
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoFuse);
    }
    directories::make(config)?;
    let lock = directories::lock(&config.staging_dir, &mountpoint)?;
    let log = start_log(config, request.foreground)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    raise_descriptor_limit();
    leave_no_core();
    privileges::keep_what_is_needed();
    let runtime = build_runtime()?;
    // Signals and sockets register with the runtime they are made on.
    let entered = runtime.enter();
    let signals = Signals::new().map_err(MountError::start("cannot listen to signals"))?;
    let parts = assemble(config, &request.options, &mountpoint, runtime.handle())?;
    for warning in &parts.warnings {
        log::warn!("{warning}");
    }
    let shutdown = Arc::new(Notify::new());
    let (listener, socket) =
        server::bind(&config.staging_dir).map_err(MountError::start("control socket"))?;
    let identity = identity(config, &mountpoint);
    let (exports, export_warnings) = export(config, &identity, &parts.service);
    let server = Server::new(identity, parts.service.clone(), shutdown.clone());
    let control = runtime.spawn(server.serve(listener));
    let mut mount_options = request.options.clone();
    mount_options.read_only |= parts.read_only;
    let options = session_options(&mount_options, &request.source_name);
    let session = Session::new(parts.filesystem, &mountpoint, &options)
        .map_err(|error| refused(&mountpoint, &request.options, error))?;
    parts.service.mounted(session.notifier(), session.as_fd());
    let place = place(mountpoint)?;
    // Before anybody is answered: whoever finds this mount dead looks for its process in the record.
    let registration = register(config, &place);
    let session_end = run_session(session)?;
    log::info!(
        "{} mounted on {}",
        config.source(),
        place.mountpoint.display()
    );
    drop(entered);
    notify::started(
        place.mountpoint.clone(),
        parts.service.clone(),
        runtime.handle(),
    );
    let warnings = parts
        .warnings
        .into_iter()
        .chain(log.warning.clone())
        .chain(export_warnings)
        .collect();
    Ok(Running {
        service: parts.service,
        runtime: Some(runtime),
        lock: Some(lock),
        socket: Some(socket),
        foreground: request.foreground,
        place,
        log,
        signals,
        shutdown,
        session_end,
        control,
        exports: Some(exports),
        registration,
        drain_limit: config.drain,
        warnings,
    })
}

/// Offers the metrics where the settings say. That it cannot is no reason not to mount.
fn export(
    config: &Config,
    identity: &MountIdentity,
    service: &Arc<dyn Service>,
) -> (Exports, Vec<String>) {
    let exposition = Arc::new(Exposition::new(identity.clone(), service.clone()));
    let mut exports = Exports::default();
    let mut warnings = Vec::new();
    if let Some(address) = config.metrics_addr
        && let Err(error) = exports.serve(address, exposition.clone())
    {
        warnings.push(format!("no metrics at METRICS_ADDR ({address}): {error}"));
    }
    if let Some(file) = &config.metrics_file
        && let Err(error) = exports.write(file, exposition)
    {
        let file = file.display();
        warnings.push(format!("no metrics in METRICS_FILE ({file}): {error}"));
    }
    for warning in &warnings {
        log::warn!("{warning}");
    }
    (exports, warnings)
}

fn start_log(config: &Config, foreground: bool) -> Result<Log, MountError> {
    let file = config.log_file.as_deref();
    Log::start(file, foreground).map_err(|source| match file {
        Some(path) => MountError::Directory {
            name: "LOG_FILE",
            path: path.into(),
            source,
        },
        None => MountError::start("cannot start the log")(source),
    })
}

/// Every file that waits for its upload, every open one and every connection takes a descriptor;
/// the usual soft limit of 1,024 would end a long session without a network.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open files stays as it is: {error}");
    }
}

/// The memory of this process holds the keys of the bucket and people's recordings: it is not to lie
/// about as a file.
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        log::warn!("core dumps stay possible: {error}");
    }
}

/// The allocator keeps what is freed apart for each of some groups of threads. With one group the
/// buffers of a fast download serve all threads (measured: `docs/performance.md`).
#[cfg(target_env = "gnu")]
fn limit_arenas() {
    const ARENAS: libc::c_int = 1;
    // SAFETY: it only sets a number that later threads go by.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) } == 0 {
        log::debug!("the allocator's arenas stay as they are");
    }
}

#[cfg(not(target_env = "gnu"))]
fn limit_arenas() {}

fn build_runtime() -> Result<Runtime, MountError> {
    limit_arenas();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("runtime")
        .enable_all()
        .build()
        .map_err(MountError::start("cannot start the runtime"))
}

fn identity(config: &Config, mountpoint: &Path) -> MountIdentity {
    MountIdentity {
        version: env!("CARGO_PKG_VERSION").into(),
        mountpoint: mountpoint.into(),
        backend: match config.backend {
            Backend::R2(_) => "r2".into(),
            Backend::Local { .. } => "local".into(),
        },
        source: config.source(),
        pid: std::process::id(),
    }
}

/// Commands then find the mount by its settings or not at all, which is no reason not to mount.
fn register(config: &Config, place: &MountPlace) -> Option<crate::control::registry::Registration> {
    let record = Record {
        pid: std::process::id(),
        mountpoint: place.mountpoint.clone(),
        staging_dir: config.staging_dir.clone(),
        device: place.device.clone(),
    };
    let lies = |dead: &Record| !unmount::is_gone(&dead.mountpoint, &dead.device);
    Registry::of_this_user()
        .register(&record, lies)
        .inspect_err(|error| log::info!("commands find this mount by its settings only: {error}"))
        .ok()
}

/// Finds the mount that was just made in the kernel's list, to know it again when it is gone.
fn place(mountpoint: PathBuf) -> Result<MountPlace, MountError> {
    let top = mountinfo::top_at(&mountpoint)
        .map_err(MountError::start("cannot read the list of mounts"))?;
    match top.filter(mountinfo::MountEntry::is_ours) {
        Some(entry) => Ok(MountPlace {
            mountpoint,
            device: entry.device,
        }),
        None => Err(MountError::Refused {
            mountpoint,
            reason: "the mount has vanished again".into(),
        }),
    }
}

/// Answers the kernel on fuser's threads until the mount is gone.
///
/// When its session ends, fuser unmounts once more, by the name of the mount point. The kernel has
/// let go of ours by then, and it may meet another one that was mounted there since. So the part of
/// it that does this is never dropped; what little it holds goes with the process.
fn run_session<F: fuser::Filesystem>(
    session: Session<F>,
) -> Result<oneshot::Receiver<io::Result<()>>, MountError> {
    let no_thread = "cannot start a thread";
    let (ended, session_end) = oneshot::channel();
    let (hand_over, handed_over) = mpsc::channel::<JoinHandle<io::Result<()>>>();
    // Before the session runs: until then a failure here lets fuser unmount.
    thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            let Ok(running) = handed_over.recv() else {
                return;
            };
            let panicked = |_| {
                Err(io::Error::other(
                    "a thread that answers the kernel panicked",
                ))
            };
            // Nobody listens when the process is ending at once.
            let _ = ended.send(running.join().unwrap_or_else(panicked));
        })
        .map_err(MountError::start(no_thread))?;
    let running = session.spawn().map_err(MountError::start(no_thread))?;
    let running = ManuallyDrop::new(running);
    // SAFETY: `running` is neither dropped nor used again, so the handle has one owner.
    let running = unsafe { std::ptr::read(&running.guard) };
    // The other end waits for it; the thread cannot have ended.
    let _ = hand_over.send(running);
    Ok(session_end)
}

fn session_options(options: &MountOptions, source_name: &str) -> fuser::Config {
    // A comma would begin another option.
    let mut list = vec![
        MountOption::FSName(source_name.replace(',', "_")),
        // Not MountOption::Subtype: fuser keeps that from the kernel when it mounts as root, and
        // the mount would be of type `fuse`. As an option of the kernel's it works both ways.
        MountOption::CUSTOM("subtype=voicebeatfs".into()),
        if options.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    let flags = [
        // Always, whatever was asked: the kernel checks permissions, and nobody else does.
        (true, MountOption::DefaultPermissions),
        (options.suid, MountOption::Suid),
        (options.dev, MountOption::Dev),
        (options.noexec, MountOption::NoExec),
        (options.noatime, MountOption::NoAtime),
        (options.sync, MountOption::Sync),
        (options.dirsync, MountOption::DirSync),
    ];
    list.extend(
        flags
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, option)| option),
    );
    let mut config = fuser::Config::default();
    config.mount_options = list;
    config.acl = match options.access {
        Access::Owner => SessionACL::Owner,
        Access::RootAndOwner => SessionACL::RootAndOwner,
        Access::All => SessionACL::All,
    };
    config.n_threads = Some(FUSE_THREADS);
    config.clone_fd = true;
    config
}

/// Says what helps, where that is known.
fn refused(mountpoint: &Path, options: &MountOptions, error: io::Error) -> MountError {
    let is_root = rustix::process::geteuid().is_root();
    // What fusermount3 says ends in a newline.
    let said = error.to_string();
    let said = said.trim();
    let reason = match error.kind() {
        io::ErrorKind::NotFound if !is_root => {
            format!("{said}: fusermount3 is needed to mount as a user (package fuse3)")
        }
        io::ErrorKind::PermissionDenied if options.access != Access::Owner && !is_root => {
            format!("{said} (allow_root needs the same)")
        }
        io::ErrorKind::PermissionDenied => format!("{said}: no right to use /dev/fuse"),
        _ => said.to_string(),
    };
    MountError::Refused {
        mountpoint: mountpoint.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_kernel() {
        let options = MountOptions {
            read_only: true,
            noexec: true,
            ..MountOptions::default()
        };
        let config = session_options(&options, "a,b");
        assert!(
            config
                .mount_options
                .contains(&MountOption::FSName("a_b".into()))
        );
        assert!(config.mount_options.contains(&MountOption::RO));
        assert!(config.mount_options.contains(&MountOption::NoExec));
        assert!(!config.mount_options.contains(&MountOption::Suid));
        assert_eq!(config.acl, SessionACL::Owner);
    }

    #[test]
    fn a_refusal_says_what_helps() {
        let options = MountOptions {
            access: Access::All,
            ..MountOptions::default()
        };
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = refused(Path::new("/mnt"), &options, denied).to_string();
        assert!(text.starts_with("cannot mount on /mnt: "), "{text}");
    }
}
