//! Running and ending: what a mounted process waits for, and how it takes the mount down.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::Service;
use super::error::MountError;
use super::lock::Lock;
use super::log::Log;
use super::mountinfo;
use super::notify;
use super::signals::{Signal, Signals};
use super::unmount::{self, UnmountError};
use crate::control::registry::Registration;
use crate::control::scrape::Exports;
use crate::control::server::SocketFile;

/// How long a busy mount is tried again before it is detached: enough for a program that was just
/// told to end as well, as everything is at a shutdown.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// How often a busy mount is tried.
const BUSY_STEP: Duration = Duration::from_millis(100);

/// How long programs may go on using a detached mount before it ends under them.
pub(super) const LINGER_LIMIT: Duration = Duration::from_secs(20);

/// How long the parts may take to end: an upload sends its current part first.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How long the runtime's threads may take to end; nothing is left for them to do.
pub(super) const RUNTIME_LIMIT: Duration = Duration::from_secs(2);

/// The mount, as the kernel knows it.
#[derive(Debug, Clone)]
pub(super) struct MountPlace {
    pub(super) mountpoint: PathBuf,
    pub(super) device: String,
}

/// A mounted process.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) service: Arc<dyn Service>,
    pub(super) runtime: Option<Runtime>,
    pub(super) lock: Option<Lock>,
    pub(super) socket: Option<SocketFile>,
    pub(super) foreground: bool,
    pub(super) place: MountPlace,
    pub(super) log: Log,
    pub(super) signals: Signals,
    pub(super) shutdown: Arc<Notify>,
    pub(super) session_end: oneshot::Receiver<io::Result<()>>,
    pub(super) control: JoinHandle<()>,
    pub(super) exports: Option<Exports>,
    pub(super) registration: Option<Registration>,
    /// How long uploads may go on once the mount is gone.
    pub(super) drain_limit: Duration,
    /// What the user who mounts should know.
    pub(super) warnings: Vec<String>,
}

impl Running {
    /// Waits for the end of the mount, or brings it about when asked to, and ends everything. A
    /// mount that is not `wanted` any more ends at once.
    pub(super) fn supervise(&mut self, wanted: bool) -> Result<(), MountError> {
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        let ended = runtime.block_on(async {
            let ended = match wanted {
                true => self.until_end().await,
                false => {
                    self.drain_limit = Duration::ZERO;
                    self.take_down("the mount command was interrupted").await
                }
            };
            self.stop(&ended).await;
            ended
        });
        self.control.abort();
        drop(self.socket.take());
        drop(self.registration.take());
        // The parts may still write their last words; the lock is theirs until they are gone.
        runtime.shutdown_timeout(RUNTIME_LIMIT);
        // Now nobody writes the metrics anew.
        drop(self.exports.take());
        drop(self.lock.take());
        ended
    }

    async fn until_end(&mut self) -> Result<(), MountError> {
        loop {
            let signal = tokio::select! {
                ended = &mut self.session_end => {
                    let place = self.place.clone();
                    let ended = session_result(ended);
                    let cleared = tokio::task::spawn_blocking(move || clear_after_session(&place));
                    cleared.await.map_err(MountError::start("unmounting"))?;
                    return ended;
                }
                () = self.shutdown.notified() => {
                    return self.take_down("asked to end over the control socket").await;
                }
                signal = self.signals.next() => signal,
            };
            match signal {
                Signal::End(name) => return self.take_down(name).await,
                Signal::HangUp if self.log.is_file() => {
                    log::info!("SIGHUP: opening the log file anew");
                    self.log.reopen();
                }
                Signal::HangUp if self.foreground => return self.take_down("SIGHUP").await,
                Signal::HangUp => {}
            }
        }
    }

    /// Unmounts and waits for the kernel to let go. A second signal on the way ends it at once.
    async fn take_down(&mut self, why: &str) -> Result<(), MountError> {
        log::info!("{why}: unmounting {}", self.place.mountpoint.display());
        notify::stopping("unmounting");
        let place = self.place.clone();
        let taken_down = tokio::task::spawn_blocking(move || unmount_or_detach(&place));
        let (session_end, lock) = (&mut self.session_end, &mut self.lock);
        let drain_limit = &mut self.drain_limit;
        let gone = async {
            taken_down
                .await
                .map_err(MountError::start("unmounting"))??;
            set_draining(lock);
            match tokio::time::timeout(LINGER_LIMIT, session_end).await {
                Ok(ended) => session_result(ended),
                Err(_) => {
                    log::warn!("programs still use the detached mount; it ends under them now");
                    // Their files would be settled under them.
                    *drain_limit = Duration::ZERO;
                    Ok(())
                }
            }
        };
        tokio::select! {
            ended = gone => ended,
            () = self.signals.next_end() => {
                log::warn!("second signal: ending at once");
                if let Err(error) = detach_if_there(&self.place) {
                    log::error!("{error}");
                }
                Err(MountError::EndedAtOnce)
            }
        }
    }

    /// Goes on uploading for a while, then ends the parts, within a limit, or at a signal.
    async fn stop(&mut self, ended: &Result<(), MountError>) {
        if !matches!(ended, Err(MountError::EndedAtOnce)) {
            notify::stopping("unmounted, uploading what is queued");
            set_draining(&mut self.lock);
            let (service, signals) = (&*self.service, &mut self.signals);
            let (limit, shutdown) = (self.drain_limit, &*self.shutdown);
            let stopped = async {
                drain(service, limit, shutdown).await;
                tokio::time::timeout(STOP_LIMIT, service.stop()).await
            };
            tokio::select! {
                stopped = stopped => if stopped.is_err() {
                    log::warn!("not everything ended in time");
                },
                () = signals.next_end() => log::warn!("second signal: ending at once"),
            }
        }
        let rest = self.service.report().shutdown;
        if rest.files > 0 {
            log::warn!(
                "{} files, {} bytes remain in STAGING_DIR; they are uploaded at the next mount",
                rest.files,
                rest.bytes
            );
        }
    }
}

/// Goes on uploading for at most `limit`, or until the next mount wants to go on with the queue.
async fn drain(service: &dyn Service, limit: Duration, shutdown: &Notify) {
    if limit.is_zero() {
        return;
    }
    tokio::select! {
        drained = tokio::time::timeout(limit, service.drain()) => if drained.is_err() {
            log::info!("the time to go on uploading is over");
        },
        () = shutdown.notified() => log::info!("the next mount goes on with the queue"),
    }
}

fn set_draining(lock: &mut Option<Lock>) {
    if let Some(Err(error)) = lock.as_mut().map(Lock::set_draining) {
        log::warn!("the lock file cannot be written: {error}");
    }
}

fn session_result(
    ended: Result<io::Result<()>, oneshot::error::RecvError>,
) -> Result<(), MountError> {
    let vanished = |_| io::Error::other("the thread that answers the kernel has vanished");
    ended
        .map_err(vanished)
        .flatten()
        .map_err(MountError::Session)
}

/// Unmounts, and detaches what stays busy. Does nothing if the mount is gone already.
fn unmount_or_detach(place: &MountPlace) -> Result<(), MountError> {
    let end = Instant::now() + BUSY_LIMIT;
    loop {
        if !is_on_top(place)? {
            return Ok(());
        }
        match unmount::unmount(&place.mountpoint) {
            Ok(()) => return Ok(()),
            Err(UnmountError::Busy { .. }) if Instant::now() < end => thread::sleep(BUSY_STEP),
            Err(error @ UnmountError::Busy { .. }) => {
                log::warn!("{error}; detaching it");
                return detach_if_there(place);
            }
            // The kernel's list decides: somebody else may have been faster.
            Err(_) if unmount::is_gone(&place.mountpoint, &place.device) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes away a mount that nobody answers any more, if the session ended for another reason than
/// its unmount.
fn clear_after_session(place: &MountPlace) {
    let shown = place.mountpoint.display();
    match is_on_top(place) {
        Ok(false) => log::info!("{shown} was unmounted"),
        Ok(true) => {
            log::error!("nobody answers on {shown} any more: detaching it");
            if let Err(error) = unmount::detach(&place.mountpoint) {
                log::error!("{error}");
            }
        }
        Err(error) => log::error!("{error}"),
    }
}

fn detach_if_there(place: &MountPlace) -> Result<(), MountError> {
    match is_on_top(place)? {
        true => Ok(unmount::detach(&place.mountpoint)?),
        false => Ok(()),
    }
}

/// Returns whether our mount is what an unmount of the mount point would meet. One that lies under
/// another mount cannot be reached; taking the other down would be wrong.
fn is_on_top(place: &MountPlace) -> Result<bool, MountError> {
    let MountPlace { mountpoint, device } = place;
    let top = mountinfo::top_at(mountpoint).map_err(MountError::start("list of mounts"))?;
    match top {
        Some(top) if top.device == *device => Ok(true),
        _ if unmount::is_gone(mountpoint, device) => Ok(false),
        _ => Err(covered(mountpoint)),
    }
}

fn covered(mountpoint: &Path) -> MountError {
    let source = io::Error::other("something else is mounted over it");
    UnmountError::Failed {
        mountpoint: mountpoint.into(),
        source,
    }
    .into()
}
