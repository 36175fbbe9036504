//! `voicebeatfs trash`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::find::{self, Named};
use super::status::size_text;
use super::{Failure, say};
use crate::control::client::{Client, ClientError};
use crate::control::trash::{Place, Restored, Trash, Why};

/// The arguments of `trash`.
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// Prints JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
    /// What to do; without it everything is listed.
    #[command(subcommand)]
    pub command: Option<TrashCommand>,
}

/// What can be done with the trash.
#[derive(Debug, Subcommand)]
pub enum TrashCommand {
    /// Lists what can be brought back.
    List {
        /// Only what was at or below these paths.
        paths: Vec<PathBuf>,
    },
    /// Brings back what was deleted at or below these paths.
    Restore {
        /// Paths in the mount, or relative to it, as `projects/song`.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Not the last version but the one with this id, or the last one before this time.
        #[arg(long, value_name = "ID|TIME")]
        at: Option<String>,
    },
}

impl TrashCommand {
    /// Returns the paths that it is about.
    fn paths(&self) -> &[PathBuf] {
        match self {
            TrashCommand::List { paths } | TrashCommand::Restore { paths, .. } => paths,
        }
    }
}

/// Runs `voicebeatfs trash`.
pub fn run(args: &TrashArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let connect = || {
        let paths = args.command.as_ref().map_or(&[][..], TrashCommand::paths);
        find::connect(args.named.mountpoint.as_deref(), paths, env_file.clone())
    };
    let failed = |error: ClientError| Failure::Failed(error.to_string());
    match &args.command {
        Some(TrashCommand::Restore { paths, at }) => {
            let paths = paths_below(paths, &connect)?;
            let restored = connect()?.restore(paths, at.clone()).map_err(failed)?;
            say_restored(&restored, args.json)
        }
        command => {
            let paths = match command {
                Some(TrashCommand::List { paths }) => paths_below(paths, &connect)?,
                _ => Vec::new(),
            };
            let trash = connect()?.trash(paths).map_err(failed)?;
            say(&match args.json {
                true => json(&trash)?,
                false => describe(&trash),
            })
        }
    }
}

/// Says what is back; fails if something is not.
pub(super) fn say_restored(restored: &Restored, as_json: bool) -> Result<(), Failure> {
    match as_json {
        true => say(&json(restored)?)?,
        false => say(&describe_restored(restored))?,
    }
    if restored.failed.is_empty() {
        return Ok(());
    }
    let lines = restored.failed.iter();
    let lines = lines.map(|failed| format!("{}: {}", failed.path, failed.reason));
    Err(Failure::Failed(lines.collect::<Vec<_>>().join("\n")))
}

/// Returns the paths relative to the mount point, which absolute ones lie beneath.
fn paths_below(
    paths: &[PathBuf],
    connect: &dyn Fn() -> Result<Client, Failure>,
) -> Result<Vec<String>, Failure> {
    let mut mountpoint = None;
    let mut relative = Vec::new();
    for path in paths {
        let mut path = path.clone();
        if path.is_absolute() {
            if mountpoint.is_none() {
                let status = connect()?.status();
                let status = status.map_err(|error| Failure::Failed(error.to_string()))?;
                mountpoint = Some(status.identity.mountpoint);
            }
            let root = mountpoint.as_deref().unwrap_or(Path::new("/"));
            path = match path.strip_prefix(root) {
                Ok(below) => below.to_owned(),
                Err(_) => {
                    let text = format!("{} is not below {}", path.display(), root.display());
                    return Err(Failure::Usage(text));
                }
            };
        }
        match path.to_str() {
            Some(text) if !text.is_empty() => relative.push(text.to_owned()),
            _ => return Err(Failure::Usage(format!("no path: {}", path.display()))),
        }
    }
    Ok(relative)
}

fn json(document: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(document).map_err(|error| Failure::Failed(error.to_string()))
}

fn describe(trash: &Trash) -> String {
    let mut text = String::new();
    for entry in &trash.entries {
        let why = match entry.why {
            Why::Deleted => "deleted",
            Why::Overwritten => "overwritten",
        };
        let place = match entry.place {
            Place::Waiting => "waiting",
            Place::Bucket => "bucket",
            Place::Here => "here",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {why:<11} {place:<7} {:>9} {}  {}",
            entry.at,
            size_text(entry.bytes),
            entry.id,
            entry.path
        );
    }
    if trash.left_out > 0 {
        let _ = writeln!(text, "and {} more", trash.left_out);
    }
    if let Some(reason) = &trash.unlisted {
        let _ = writeln!(text, "the trash in the bucket cannot be read: {reason}");
    }
    match text.is_empty() {
        true => "nothing is in the trash".into(),
        false => text,
    }
}

fn describe_restored(restored: &Restored) -> String {
    let mut text = String::new();
    for entry in &restored.restored {
        let _ = match entry.path == entry.restored_as {
            true => writeln!(text, "{}", entry.path),
            false => writeln!(text, "{} as {}", entry.path, entry.restored_as),
        };
    }
    let _ = writeln!(text, "{} restored", restored.restored.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::trash::{RestoredEntry, TrashEntry};

    #[test]
    fn what_can_come_back_is_told_line_by_line() {
        assert_eq!(describe(&Trash::default()), "nothing is in the trash");
        let entry = TrashEntry {
            path: "projects/x/a.wav".into(),
            id: "0123456789abcdef".into(),
            why: Why::Deleted,
            at: "2026-11-24T11:51:55Z".into(),
            bytes: 2_000_000,
            place: Place::Bucket,
        };
        let trash = Trash {
            entries: vec![entry],
            left_out: 1,
            unlisted: None,
        };
        assert_eq!(
            describe(&trash),
            "2026-11-24T11:51:55Z deleted     bucket     2.0 MB 0123456789abcdef  \
             projects/x/a.wav\nand 1 more\n"
        );
        let restored = Restored {
            restored: vec![RestoredEntry {
                path: "projects/a".into(),
                restored_as: "projects/b".into(),
            }],
            failed: Vec::new(),
        };
        let text = describe_restored(&restored);
        assert_eq!(text, "projects/a as projects/b\n1 restored\n");
    }
}
