//! `voicebeatfs status`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use super::find::Operand;
use super::{Failure, say, watch};
use crate::control::{
    CacheStatus, LeaseStatus, ShutdownReason, ShutdownStatus, StatusDocument, UploadStatus,
};

/// The arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Prints one JSON document, whose fields are a contract.
    #[arg(long)]
    pub json: bool,
    /// Shows it on the whole terminal, each second anew, with the queue; q ends it.
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub mount: Operand,
}

/// Runs `voicebeatfs status`.
pub fn run(args: &StatusArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    if args.watch {
        let connect = || args.mount.connect(env_file.clone());
        return watch::run(&connect);
    }
    let client = args.mount.connect(env_file)?;
    let status = client
        .status()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&status)
            .map_err(|error| Failure::Failed(error.to_string()))?,
        false => describe(&status),
    };
    say(&text)
}

/// Returns the document for people.
fn describe(status: &StatusDocument) -> String {
    let StatusDocument { identity, report } = status;
    let online = if report.online { "online" } else { "offline" };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<17} {value}");
    };
    line(
        "mount",
        format!("{} on {}", identity.source, identity.mountpoint.display()),
    );
    let read_only = if report.read_only { ", read-only" } else { "" };
    line(
        "store",
        format!("{}, {online}{read_only}", identity.backend),
    );
    line("cache", cache(&report.cache));
    if report.warming.files > 0 {
        let size = size_text(report.warming.bytes);
        line("warming", format!("{} files, {size}", report.warming.files));
    }
    line("uploads", uploads(&report.uploads));
    if report.uploads.failed > 0 {
        line(
            "failed",
            format!(
                "{} attempts, tried again by themselves",
                report.uploads.failed
            ),
        );
    }
    if report.uploads.parked > 0 {
        line(
            "parked",
            format!("{} files that cannot be uploaded", report.uploads.parked),
        );
    }
    if report.uploads.held > 0 {
        line(
            "held",
            format!("{} deletes to be confirmed", report.uploads.held),
        );
    }
    if report.uploads.local > 0 {
        line(
            "local",
            format!("{} files that stay on this disk", report.uploads.local),
        );
    }
    if let Some(trash) = report.trash.filter(|trash| trash.objects > 0) {
        line(
            "trash",
            format!(
                "{} objects, {}, {:.2} USD a month",
                trash.objects,
                size_text(trash.bytes),
                trash.usd_per_month
            ),
        );
    }
    if let Some(orphans) = &report.orphans {
        line(
            "without a name",
            format!(
                "{} files, {} in {}",
                orphans.files,
                size_text(orphans.bytes),
                orphans.directory.display()
            ),
        );
    }
    for open in &report.leases {
        line("lease", lease(open));
    }
    if report.conflicts > 0 {
        line("conflicts", report.conflicts.to_string());
    }
    for alert in &report.alerts {
        line("alert", alert.clone());
    }
    line("safe to shut down", safe_to_shut_down(&report.shutdown));
    text
}

fn lease(lease: &LeaseStatus) -> String {
    let LeaseStatus { path, since, .. } = lease;
    if lease.held {
        return format!("{path}: held by this mount since {since}");
    }
    let by = lease.name.as_ref().map(|name| format!(" by {name}"));
    let by = by.unwrap_or_default();
    format!("{path}: open{by} on {} since {since}", lease.host)
}

/// Says whether the machine may go, and if not, how much is left and what it waits for.
pub(super) fn safe_to_shut_down(shutdown: &ShutdownStatus) -> String {
    let Some(reason) = shutdown.reason else {
        return "yes, everything is in the bucket".into();
    };
    let rest = match (reason, shutdown.seconds_left) {
        (ShutdownReason::Uploading, Some(seconds)) => format!("about {}", time_text(seconds)),
        (ShutdownReason::Uploading, None) => "going up".into(),
        (ShutdownReason::Open, _) => "open in programs".into(),
        (ShutdownReason::Parked, _) => "which cannot be uploaded as things are".into(),
        (ShutdownReason::Unreachable, _) => "waiting for the bucket to answer".into(),
        (ShutdownReason::Paused, _) => "paused".into(),
        (ShutdownReason::Failed, _) => "kept here: the staging disk has failed".into(),
    };
    let size = size_text(shutdown.bytes);
    format!("no, {} files, {size}, {rest}", shutdown.files)
}

/// Returns a time as people say it.
pub(super) fn time_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

pub(super) fn cache(cache: &CacheStatus) -> String {
    let rate = match cache.hit_rate {
        Some(rate) => format!(
            "{:.0} % hits ({} of {})",
            rate * 100.0,
            cache.hits,
            opens(cache)
        ),
        None => "nothing opened yet".into(),
    };
    format!(
        "{} of {} in {} files, {rate}",
        size_text(cache.bytes),
        size_text(cache.max_bytes),
        cache.files
    )
}

fn opens(cache: &CacheStatus) -> u64 {
    cache.hits + cache.misses
}

pub(super) fn uploads(uploads: &UploadStatus) -> String {
    let done = format!("{} done", uploads.done);
    if uploads.queued == 0 {
        return format!("nothing waits, {done}");
    }
    let oldest = match uploads.oldest_seconds {
        Some(seconds) => format!(", oldest {seconds} s"),
        None => String::new(),
    };
    format!(
        "{} wait ({}{oldest}), {} on their way, {done}",
        uploads.queued,
        size_text(uploads.queued_bytes),
        uploads.active
    )
}

/// Returns a size as people read it, in powers of 1000 as in the settings.
pub(super) fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    // Compared as it will be shown: 999,960 bytes are 1.0 MB, not 1000.0 KB.
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{MountIdentity, Report};

    fn document(report: Report) -> StatusDocument {
        let identity = MountIdentity {
            version: "1".into(),
            mountpoint: "/mnt/v".into(),
            backend: "r2".into(),
            source: "vb-audio".into(),
            pid: 7,
        };
        StatusDocument { identity, report }
    }

    #[test]
    fn a_quiet_mount_is_described_in_few_lines() {
        let report = Report {
            online: true,
            safe_to_shut_down: true,
            ..Report::default()
        };
        let expected = "\
mount             vb-audio on /mnt/v
store             r2, online
cache             0 B of 0 B in 0 files, nothing opened yet
uploads           nothing waits, 0 done
safe to shut down yes, everything is in the bucket
";
        assert_eq!(describe(&document(report)), expected);
    }

    #[test]
    fn a_busy_mount_names_what_needs_attention() {
        let report = Report {
            cache: CacheStatus {
                bytes: 1_234_000_000,
                max_bytes: 5_000_000_000,
                files: 12,
                hits: 9,
                misses: 3,
                hit_rate: Some(0.75),
            },
            uploads: UploadStatus {
                held: 0,
                local: 0,
                queued: 3,
                queued_bytes: 2_500_000,
                active: 1,
                failed: 2,
                parked: 1,
                oldest_seconds: Some(65),
                done: 4,
                paused: false,
            },
            shutdown: ShutdownStatus {
                files: 3,
                bytes: 2_500_000,
                seconds_left: Some(150),
                reason: Some(ShutdownReason::Uploading),
            },
            conflicts: 1,
            leases: vec![
                LeaseStatus {
                    path: "projects/mix".into(),
                    held: true,
                    name: Some("Ben".into()),
                    host: "studio-1".into(),
                    since: "2026-11-30T20:00:00Z".into(),
                },
                LeaseStatus {
                    path: "projects/song".into(),
                    held: false,
                    name: Some("Anna".into()),
                    host: "studio-2".into(),
                    since: "2026-11-30T21:00:00Z".into(),
                },
            ],
            alerts: vec!["the miss rate is over 50 %".into()],
            ..Report::default()
        };
        let text = describe(&document(report));
        for part in [
            "r2, offline",
            "1.2 GB of 5.0 GB in 12 files, 75 % hits (9 of 12)",
            "3 wait (2.5 MB, oldest 65 s), 1 on their way, 4 done",
            "2 attempts",
            "1 files that cannot",
            "lease             projects/mix: held by this mount since 2026-11-30T20:00:00Z",
            "projects/song: open by Anna on studio-2 since 2026-11-30T21:00:00Z",
            "alert             the miss rate",
            "safe to shut down no, 3 files, 2.5 MB, about 3 min",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KB"),
            (999_960, "1.0 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
