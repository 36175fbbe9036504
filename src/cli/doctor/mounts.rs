//! The mounts of this machine: do they answer, and what do they say?

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::Finding;
use crate::control::StatusDocument;
use crate::control::client::Client;
use crate::control::registry::Registry;
use crate::mount::mountinfo;

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn findings() -> (Vec<StatusDocument>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut answering = Vec::new();
    for record in Registry::of_this_user().running() {
        match Client::connect(&record.staging_dir).and_then(Client::status) {
            Ok(status) => answering.push(status),
            Err(error) => findings.push(Finding::problem(
                "mount",
                format!("{}: {error}", record.mountpoint.display()),
                format!(
                    "see the log; then: voicebeatfs umount {}",
                    record.mountpoint.display()
                ),
            )),
        }
    }
    for status in &answering {
        findings.extend(of_one(status));
    }
    for entry in mountinfo::ours().unwrap_or_default() {
        findings.extend(silent(&entry.mountpoint));
    }
    if findings.is_empty() && answering.is_empty() {
        findings.push(Finding::good("mount", "none of this user runs"));
    }
    (answering, findings)
}

/// Says what is wrong with a mount that answers nothing.
fn silent(mountpoint: &Path) -> Option<Finding> {
    let shown = mountpoint.display();
    let (sender, receiver) = mpsc::channel();
    let asked = mountpoint.to_path_buf();
    // Left behind if it hangs: nothing can interrupt it.
    std::thread::spawn(move || {
        // The free space is what the kernel always asks the process for.
        let _ = sender.send(rustix::fs::statfs(&asked).err());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(Some(Errno::NOTCONN)) => Some(Finding::problem(
            "mount",
            format!("the process behind {shown} has died"),
            format!("voicebeatfs umount {shown}, or mount it again: nothing closed is lost"),
        )),
        Ok(_) => None,
        Err(_) => Some(Finding::problem(
            "mount",
            format!("{shown} does not answer"),
            "see the log; end its process if that says nothing: nothing closed is lost",
        )),
    }
}

fn of_one(status: &StatusDocument) -> Vec<Finding> {
    let shown = status.identity.mountpoint.display();
    let report = &status.report;
    let mut findings = vec![match (&report.failure, report.online) {
        (Some(failure), _) => Finding::problem(
            "mount",
            format!("{shown} accepts nothing more: {failure}"),
            "look after the staging disk, then mount again; keep STAGING_DIR",
        ),
        (None, false) => Finding::warning(
            "mount",
            format!("{shown} does not reach its bucket"),
            "work goes on with what is here; see \"bucket\" above",
        ),
        (None, true) => Finding::good("mount", format!("{shown} answers and is online")),
    }];
    findings.extend(report.alerts.iter().map(|alert| {
        let advice = "docs/operations.md, Alerts, says what to do";
        Finding::warning("mount", format!("{shown}: {alert}"), advice)
    }));
    findings
}
