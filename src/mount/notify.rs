//! What the service manager is told, by the protocol of sd_notify(3): that the mount is usable, how
//! it does, that it still answers, and that it ends. Where nobody asked to be told, as without
//! systemd, all of it does nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Handle;

use super::Service;
use crate::control::Report;

/// How often the line of status is renewed, unless the watchdog wants to hear more often.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Tells that the mount is usable, and from then on how it does.
pub(super) fn started(mountpoint: PathBuf, service: Arc<dyn Service>, runtime: &Handle) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(&[
        NotifyState::Ready,
        NotifyState::Status(&status_line(&service.report())),
    ]);
    let watchdog = sd_notify::watchdog_enabled();
    // The manager's own advice: twice as often as it looks.
    let every = watchdog.map_or(STATUS_EVERY, |limit| (limit / 2).min(STATUS_EVERY));
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            let status = status_line(&service.report());
            let mut states = vec![NotifyState::Status(&status)];
            if watchdog.is_some() && answers(mountpoint.clone()).await {
                states.push(NotifyState::Watchdog);
            }
            tell(&states);
        }
    });
}

/// Tells that the mount is being taken down, or that what is left is being finished.
pub(super) fn stopping(what: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(what)]);
}

/// Whether the mount answers a request that the kernel cannot answer itself. If it hangs, so does
/// this, and the watchdog hears nothing more: that is what it is for.
async fn answers(mountpoint: PathBuf) -> bool {
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statfs(&mountpoint).is_ok());
    asked.await.unwrap_or(false)
}

/// Nothing depends on whether the manager hears it.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager cannot be told: {error}");
    }
}

fn status_line(report: &Report) -> String {
    let online = if report.online { "online" } else { "offline" };
    let uploads = match report.shutdown.files {
        0 => "everything is in the bucket".to_string(),
        files => format!("{files} files are not in the bucket yet"),
    };
    let alerts = match report.alerts.len() {
        0 => String::new(),
        count => format!(", {count} alerts"),
    };
    format!("{online}, {uploads}{alerts}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ShutdownStatus;

    #[test]
    fn the_line_of_status_says_what_matters_most() {
        let mut report = Report::default();
        assert_eq!(status_line(&report), "offline, everything is in the bucket");
        report.online = true;
        report.alerts = vec!["x".into()];
        report.shutdown = ShutdownStatus {
            files: 3,
            ..ShutdownStatus::default()
        };
        assert_eq!(
            status_line(&report),
            "online, 3 files are not in the bucket yet, 1 alerts"
        );
    }
}
