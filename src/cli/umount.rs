//! `voicebeatfs umount`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Failure, complain, find};
use crate::control::client::{Client, ClientError};
use crate::control::registry;
use crate::control::{Progress, RefusalCode};
use crate::mount::mountinfo::{self, MountEntry};
use crate::mount::{dead, unmount};

/// How long the process may take to end once its mount is gone. It then goes on by itself.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The arguments of `umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The folder to unmount.
    pub mountpoint: PathBuf,
    /// Waits until everything is in the bucket, at most SECONDS; if it is not by then, the mount
    /// stays.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          value_parser = seconds)]
    pub wait: Option<Option<Duration>>,
}

/// Runs `voicebeatfs umount`.
pub fn run(args: &UmountArgs) -> Result<(), Failure> {
    let entry = check_mounted(&args.mountpoint)?;
    let mountpoint = entry.mountpoint.clone();
    let record = find::record_at(&mountpoint);
    if let Some(limit) = args.wait {
        let staging_dir = record.as_ref().map(|record| record.staging_dir.as_path());
        wait_for_queue(&mountpoint, staging_dir, limit.unwrap_or(Duration::MAX))?;
    }
    let unmounted = match dead::is_dead(&entry) {
        true => unmount::abort(&mountpoint, &entry.device),
        false => unmount::unmount(&mountpoint),
    };
    unmounted.map_err(|error| Failure::Failed(error.to_string()))?;
    if let Some(record) = record
        && !registry::wait_until_ended(record.pid, END_LIMIT)
    {
        complain(&format!(
            "unmounted; process {} still uploads what is queued (for at most DRAIN_SECONDS); what \
             is left is uploaded at the next mount",
            record.pid
        ));
    }
    Ok(())
}

fn check_mounted(path: &Path) -> Result<MountEntry, Failure> {
    let shown = path.display();
    let failed = |reason: String| Failure::Failed(format!("{shown} {reason}"));
    let mountpoint =
        mountinfo::resolve_mountpoint(path).map_err(|error| failed(format!("({error})")))?;
    let top = mountinfo::top_at(&mountpoint).map_err(|error| failed(format!("({error})")))?;
    match top {
        Some(entry) if entry.is_ours() => Ok(entry),
        Some(entry) => Err(failed(format!(
            "is a mount of type {}, not of voicebeatfs: use umount(8)",
            entry.filesystem_type
        ))),
        None => Err(failed("is not mounted".into())),
    }
}

fn wait_for_queue(
    mountpoint: &Path,
    staging_dir: Option<&Path>,
    limit: Duration,
) -> Result<(), Failure> {
    let shown = mountpoint.display();
    let failed = |reason: &str| Failure::Failed(format!("{shown} stays mounted: {reason}"));
    let staging_dir = staging_dir.ok_or_else(|| failed("its process cannot be asked"))?;
    let client = Client::connect(staging_dir).map_err(|error| failed(&error.to_string()))?;
    sync(client, Vec::new(), limit).map_err(|error| match error {
        ClientError::Refused(refusal) if refusal.code == RefusalCode::Timeout => failed(&format!(
            "{}; voicebeatfs status shows why",
            refusal.message
        )),
        error => failed(&error.to_string()),
    })
}

/// Waits until everything of `paths` (of all, if there are none) is in the bucket, and shows on a
/// terminal how far it is.
pub(super) fn sync(client: Client, paths: Vec<String>, limit: Duration) -> Result<(), ClientError> {
    let is_terminal = std::io::stderr().is_terminal();
    let show = |left: Progress| {
        if is_terminal && left.queued > 0 {
            let Progress {
                queued,
                queued_bytes,
            } = left;
            let size = super::status::size_text(queued_bytes);
            eprint!("\r\x1b[K{queued} files ({size}) on their way to the bucket");
            let _ = std::io::stderr().flush();
        }
    };
    let synced = client.sync(paths, limit, show);
    if is_terminal {
        eprint!("\r\x1b[K");
    }
    synced
}

/// Reads a number of seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UmountArgs,
    }

    fn wait(line: &str) -> Option<Option<Duration>> {
        Line::try_parse_from(line.split_whitespace())
            .unwrap()
            .args
            .wait
    }

    #[test]
    fn wait_may_have_a_limit() {
        assert_eq!(wait("x /mnt"), None);
        assert_eq!(wait("x --wait /mnt"), Some(None));
        assert_eq!(
            wait("x /mnt --wait=1.5"),
            Some(Some(Duration::from_millis(1500)))
        );
        for wrong in ["x /mnt --wait=-1", "x /mnt --wait=soon", "x --wait 5 /mnt"] {
            assert!(
                Line::try_parse_from(wrong.split_whitespace()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_not_ours_is_said() {
        let text = |path: &str| match check_mounted(Path::new(path)) {
            Err(Failure::Failed(text)) => text,
            other => panic!("{other:?}"),
        };
        let folder = tempfile::tempdir().unwrap();
        assert!(text(folder.path().to_str().unwrap()).ends_with("is not mounted"));
        assert!(text("/proc").contains("type proc, not of voicebeatfs"));
        assert!(text("/does/not/exist").contains("No such file"));
    }
}
