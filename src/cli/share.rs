//! `voicebeatfs share`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::find::{self, Named};
use super::{Failure, complain, say, umount};
use crate::store::r2::LONGEST_LINK;

/// The arguments of `share`.
#[derive(Debug, Args)]
pub struct ShareArgs {
    /// The file: in the mount, or its path below the mount point.
    pub path: String,
    /// How long the link works: 90s, 30m, 1h, 7d; at most 7 days.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = time)]
    pub valid: Duration,
    /// Waits until the file is in the bucket, at most SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          value_parser = umount::seconds)]
    pub wait: Option<Option<Duration>>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
}

/// Runs `voicebeatfs share`.
pub fn run(args: &ShareArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let failed = |error: crate::control::client::ClientError| Failure::Failed(error.to_string());
    let connect = || {
        let mountpoint = args.named.mountpoint.as_deref();
        find::connect(mountpoint, &[&args.path], env_file.clone())
    };
    let path = as_the_mount_knows_it(&args.path);
    if let Some(limit) = args.wait {
        let limit = limit.unwrap_or(Duration::MAX);
        umount::sync(connect()?, vec![path.clone()], limit).map_err(failed)?;
    }
    let shared = connect()?.share(path, args.valid).map_err(failed)?;
    if args.json {
        let text = serde_json::to_string_pretty(&shared);
        return say(&text.map_err(|error| Failure::Failed(error.to_string()))?);
    }
    // The address alone goes to stdout, for the next program.
    complain(&format!(
        "whoever has the link can read it until {}",
        shared.until
    ));
    say(&shared.url)
}

/// A file that is there from where the user stands is meant by its place; else the text is a path
/// below the mount point.
pub(super) fn as_the_mount_knows_it(path: &str) -> String {
    let absolute = match std::fs::symlink_metadata(path) {
        Ok(_) => std::path::absolute(Path::new(path)).ok(),
        Err(_) => None,
    };
    let absolute = absolute.and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or_else(|| path.to_string())
}

/// Reads a time with a unit.
fn time(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(number_end.unwrap_or(text.len()));
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => 0,
    };
    let seconds = number.parse().unwrap_or(0_u64).saturating_mul(unit_seconds);
    let time = Duration::from_secs(seconds);
    match time > Duration::ZERO && time <= LONGEST_LINK {
        true => Ok(time),
        false => Err("it must be a time from 1s to 7d, as in 90s, 30m, 1h, 7d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit_of_at_most_seven_days() {
        for (text, seconds) in [("1s", 1), ("30m", 1800), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "0s",
            "1",
            "8d",
            "604801s",
            "1w",
            "-1h",
            "h",
            "99999999999999999d",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
