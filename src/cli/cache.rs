//! `voicebeatfs cache`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::find::{self, Named};
use super::progress::Bar;
use super::share::as_the_mount_knows_it;
use super::status::size_text;
use super::{Failure, say};
use crate::control::cache::{Cached, Filled, PinEntry};
use crate::control::client::{Client, ClientError};

/// The arguments of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Prints JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What can be done with the cache.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Lists the pins and what is on this disk.
    Ls {
        /// Only what is at or below these paths.
        paths: Vec<String>,
    },
    /// Keeps files and folders on this disk, with what will be put into the folders. What is
    /// missing is fetched while nobody else needs the line.
    Pin {
        /// Files and folders: in the mount, or their paths below the mount point.
        #[arg(required = true)]
        paths: Vec<String>,
        /// Waits until all of it is here.
        #[arg(long)]
        wait: bool,
    },
    /// Lets pinned files and folders be evicted again.
    Unpin {
        /// Files and folders; all pins below them go too.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Fetches files and folders now, and returns when they are here. They may be evicted later.
    Warm {
        /// Files and folders: in the mount, or their paths below the mount point.
        #[arg(required = true)]
        paths: Vec<String>,
    },
}

impl CacheCommand {
    /// Returns the paths that it is about.
    fn paths(&self) -> &[String] {
        match self {
            CacheCommand::Ls { paths }
            | CacheCommand::Pin { paths, .. }
            | CacheCommand::Unpin { paths }
            | CacheCommand::Warm { paths } => paths,
        }
    }
}

/// Runs `voicebeatfs cache`.
pub fn run(args: &CacheArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let connect = || {
        let mountpoint = args.named.mountpoint.as_deref();
        find::connect(mountpoint, args.command.paths(), env_file.clone())
    };
    let known = |paths: &[String]| known(paths, &connect);
    match &args.command {
        CacheCommand::Ls { paths } => {
            let cached = connect()?.cached(known(paths)?).map_err(failed)?;
            match args.json {
                true => say(&json(&cached)?),
                false => say(&describe(&cached)),
            }
        }
        CacheCommand::Pin { paths, wait } => {
            let pinned = connect()?.pin(known(paths)?).map_err(failed)?;
            if *wait {
                warm(connect()?, known(paths)?)?;
            }
            match args.json {
                true => say(&json(&pinned)?),
                false => say(&describe_pins(&pinned)),
            }
        }
        CacheCommand::Unpin { paths } => {
            let unpinned = connect()?.unpin(known(paths)?).map_err(failed)?;
            if unpinned.is_empty() {
                let text = format!("not pinned: {}", paths.join(", "));
                return Err(Failure::Failed(text));
            }
            match args.json {
                true => say(&json(&unpinned)?),
                false => say(&unpinned.join("\n")),
            }
        }
        CacheCommand::Warm { paths } => {
            let filled = warm(connect()?, known(paths)?)?;
            match args.json {
                true => say(&json(&filled)?),
                false => say(&format!(
                    "{} files, {} are here",
                    filled.files,
                    size_text(filled.bytes)
                )),
            }
        }
    }
}

/// Returns paths as the mount knows them: what lies in it from where the user stands is meant by its
/// place; else the text is a path below the mount point.
fn known(
    paths: &[String],
    connect: &dyn Fn() -> Result<Client, Failure>,
) -> Result<Vec<String>, Failure> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mountpoint = connect()?.status().map_err(failed)?.identity.mountpoint;
    let known = paths.iter().map(|path| {
        let place = as_the_mount_knows_it(path);
        let is_in_mount = Path::new(&place).starts_with(&mountpoint);
        match (is_in_mount, Path::new(path).is_absolute()) {
            (true, _) => Ok(place),
            (false, false) => Ok(path.clone()),
            (false, true) => {
                let text = format!("{path} is not below {}", mountpoint.display());
                Err(Failure::Usage(text))
            }
        }
    });
    known.collect()
}

/// Fetches, with a bar on a terminal.
fn warm(client: Client, paths: Vec<String>) -> Result<Filled, Failure> {
    let mut bar = Bar::new();
    let warmed = client.warm(paths, |filled| bar.show(filled.held_bytes, filled.bytes));
    let filled = warmed.map_err(failed)?;
    bar.show(filled.held_bytes, filled.bytes);
    drop(bar);
    match filled.failure {
        Some(reason) => Err(Failure::Failed(format!(
            "{} of {} files are here: {reason}",
            filled.held_files, filled.files
        ))),
        None => Ok(filled),
    }
}

fn failed(error: ClientError) -> Failure {
    Failure::Failed(error.to_string())
}

fn json(document: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(document).map_err(|error| Failure::Failed(error.to_string()))
}

fn describe(cached: &Cached) -> String {
    let mut text = describe_pins(&cached.pins);
    for entry in &cached.entries {
        let pinned = if entry.pinned { "pinned" } else { "" };
        let percent = match entry.bytes {
            0 => 100,
            bytes => entry.held_bytes * 100 / bytes,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{pinned:<6} {percent:>3} % {:>9}  {}  {}",
            size_text(entry.bytes),
            entry.used,
            entry.path
        );
    }
    if cached.left_out > 0 {
        let _ = writeln!(text, "and {} more", cached.left_out);
    }
    match text.is_empty() {
        true => "the cache is empty, and nothing is pinned".into(),
        false => text,
    }
}

fn describe_pins(pins: &[PinEntry]) -> String {
    let mut text = String::new();
    for PinEntry { path, fill } in pins {
        let _ = write!(
            text,
            "pin    {path}: {} of {} files, {} of {} here",
            fill.held_files,
            fill.files,
            size_text(fill.held_bytes),
            size_text(fill.bytes)
        );
        let _ = match &fill.failure {
            Some(reason) => writeln!(text, "  ({reason})"),
            None => writeln!(text),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::cache::CachedEntry;

    #[test]
    fn pins_and_files_are_told_line_by_line() {
        let empty = "the cache is empty, and nothing is pinned";
        assert_eq!(describe(&Cached::default()), empty);
        let fill = Filled {
            files: 3,
            bytes: 4_000_000,
            held_files: 1,
            held_bytes: 1_000_000,
            failure: Some("it does not fit".into()),
        };
        let entry = CachedEntry {
            path: "projects/x/a.wav".into(),
            bytes: 2_000_000,
            held_bytes: 500_000,
            complete: false,
            pinned: true,
            used: "2026-11-24T11:51:00Z".into(),
        };
        let cached = Cached {
            entries: vec![entry],
            left_out: 2,
            pins: vec![PinEntry {
                path: "projects/x".into(),
                fill,
            }],
        };
        assert_eq!(
            describe(&cached),
            "pin    projects/x: 1 of 3 files, 1.0 MB of 4.0 MB here  (it does not fit)\n\
             pinned  25 %    2.0 MB  2026-11-24T11:51:00Z  projects/x/a.wav\nand 2 more\n"
        );
    }
}
