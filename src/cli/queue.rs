//! `voicebeatfs queue`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::find::{self, Named};
use super::status::size_text;
use super::{Failure, say, trash, umount};
use crate::control::client::ClientError;
use crate::control::queue::{Operation, OrphanEntry, Queue, QueueEntry, State};

/// The arguments of `queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// Prints JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
    /// What to do; without it `list`.
    #[command(subcommand)]
    pub command: Option<QueueCommand>,
}

/// What can be done with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Shows what is not in the bucket yet.
    List,
    /// Tries parked files again.
    Retry {
        /// Paths as `queue` shows them, or folders; all parked files if none is given.
        paths: Vec<String>,
    },
    /// Starts no new upload until `queue resume`, also after a restart. What is on its way may
    /// finish.
    Pause,
    /// Lets uploads go on.
    Resume,
    /// Uploads now, without the quiet time and the wait after a failure.
    Flush {
        /// Paths as `queue` shows them, or folders; everything if none is given.
        paths: Vec<String>,
        /// Waits until it is in the bucket, at most SECONDS; fails if it is not by then.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
              value_parser = umount::seconds)]
        wait: Option<Option<Duration>>,
    },
    /// Carries out deletes that are held because there were so many in a minute.
    Confirm {
        /// Paths as `queue` shows them, or folders; all held deletes if none is given.
        paths: Vec<String>,
    },
    /// Lists files in the staging directory that nothing names any more, as after the loss of its
    /// journal.
    Orphans,
    /// Makes them files in FOLDER, which are then uploaded.
    Adopt {
        /// A folder of the mount; without it `recovered` in the first collection.
        folder: Option<String>,
    },
    /// Brings back what was removed by deletes that are held.
    Discard {
        /// Paths as `queue` shows them, or folders; all held deletes if none is given.
        paths: Vec<String>,
    },
}

impl QueueCommand {
    /// Returns the paths that it is about.
    fn paths(&self) -> &[String] {
        match self {
            QueueCommand::Retry { paths }
            | QueueCommand::Flush { paths, .. }
            | QueueCommand::Confirm { paths }
            | QueueCommand::Discard { paths } => paths,
            QueueCommand::Adopt { folder } => folder.as_slice(),
            QueueCommand::List
            | QueueCommand::Pause
            | QueueCommand::Resume
            | QueueCommand::Orphans => &[],
        }
    }
}

/// Runs `voicebeatfs queue`.
pub fn run(args: &QueueArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let command = args.command.as_ref().unwrap_or(&QueueCommand::List);
    let connect = || {
        let mountpoint = args.named.mountpoint.as_deref();
        find::connect(mountpoint, command.paths(), env_file.clone())
    };
    let client = connect()?;
    match command {
        QueueCommand::List => {
            let queue = client.queue().map_err(failed)?;
            match args.json {
                true => say(&serde_json::to_string_pretty(&queue)
                    .map_err(|error| Failure::Failed(error.to_string()))?),
                false => say(&describe(&queue)),
            }
        }
        QueueCommand::Retry { paths } => {
            let retried = client.retry(paths.clone()).map_err(failed)?;
            if retried == 0 && !paths.is_empty() {
                return Err(Failure::Failed(format!("not parked: {}", paths.join(", "))));
            }
            answer(
                args.json,
                "retried",
                retried.into(),
                &format!("{retried} tried again"),
            )
        }
        QueueCommand::Pause => {
            client.pause().map_err(failed)?;
            let text = "uploads are paused until voicebeatfs queue resume";
            answer(args.json, "paused", true.into(), text)
        }
        QueueCommand::Resume => {
            client.resume().map_err(failed)?;
            answer(args.json, "paused", false.into(), "uploads go on")
        }
        QueueCommand::Confirm { paths } => {
            let confirmed = client.confirm(paths.clone()).map_err(failed)?;
            if confirmed == 0 && !paths.is_empty() {
                return Err(Failure::Failed(format!("not held: {}", paths.join(", "))));
            }
            let text = format!("{confirmed} deletes go now");
            answer(args.json, "confirmed", confirmed.into(), &text)
        }
        QueueCommand::Orphans => {
            let orphans = client.orphans().map_err(failed)?;
            match args.json {
                true => say(&serde_json::to_string_pretty(&orphans)
                    .map_err(|error| Failure::Failed(error.to_string()))?),
                false => say(&describe_orphans(&orphans)),
            }
        }
        QueueCommand::Adopt { folder } => {
            let adopted = client.adopt(folder.clone()).map_err(failed)?;
            trash::say_restored(&adopted, args.json)
        }
        QueueCommand::Discard { paths } => {
            let restored = client.discard(paths.clone()).map_err(failed)?;
            if restored.restored.is_empty() && restored.failed.is_empty() && !paths.is_empty() {
                return Err(Failure::Failed(format!("not held: {}", paths.join(", "))));
            }
            trash::say_restored(&restored, args.json)
        }
        QueueCommand::Flush { paths, wait } => {
            let flushed = client.flush(paths.clone()).map_err(failed)?;
            if let Some(limit) = wait {
                let limit = limit.unwrap_or(Duration::MAX);
                umount::sync(connect()?, paths.clone(), limit).map_err(failed)?;
            }
            let text = match wait {
                Some(_) => "everything asked for is in the bucket".into(),
                None => format!("{flushed} go now"),
            };
            answer(args.json, "flushed", flushed.into(), &text)
        }
    }
}

fn failed(error: ClientError) -> Failure {
    Failure::Failed(error.to_string())
}

/// Says what was done: as one JSON object with one field, or in words.
fn answer(json: bool, field: &str, value: serde_json::Value, text: &str) -> Result<(), Failure> {
    match json {
        true => say(&serde_json::json!({ field: value }).to_string()),
        false => say(text),
    }
}

fn describe_orphans(orphans: &[OrphanEntry]) -> String {
    if orphans.is_empty() {
        return "every staged file has its record".into();
    }
    let lines = orphans.iter().map(|orphan| {
        let OrphanEntry {
            file,
            bytes,
            modified,
            name,
        } = orphan;
        let size = size_text(*bytes);
        format!("{size:>9}  {modified}  {}  -> {name}", file.display())
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn describe(queue: &Queue) -> String {
    if queue.entries.is_empty() {
        return "nothing waits".into();
    }
    let mut text = String::new();
    for entry in &queue.entries {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", describe_entry(entry));
    }
    if queue.left_out > 0 {
        let _ = writeln!(text, "and {} more", queue.left_out);
    }
    text
}

pub(super) fn state_text(state: State) -> &'static str {
    match state {
        State::Open => "open",
        State::Waiting => "waiting",
        State::Held => "held",
        State::Parked => "parked",
    }
}

fn describe_entry(entry: &QueueEntry) -> String {
    let state = state_text(entry.state);
    let operation = match entry.operation {
        Operation::Upload => "upload",
        Operation::Folder => "folder",
        Operation::Rename => "rename",
        Operation::Attributes => "attributes",
        Operation::Link => "link",
        Operation::Delete => "delete",
    };
    let mut text = format!(
        "{state:<8} {operation:<10} {:>9} {:>6} s  {}",
        size_text(entry.bytes),
        entry.waiting_seconds,
        entry.path
    );
    if entry.sent_bytes > 0 && entry.bytes > 0 {
        let _ = write!(text, "  {} %", entry.sent_bytes * 100 / entry.bytes);
    }
    if let Some(seconds) = entry.protected_seconds {
        let _ = write!(text, "  (protected {seconds} s ago)");
    }
    if let Some(reason) = &entry.reason {
        let _ = write!(text, "  ({} tries: {reason})", entry.attempts);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_told_line_by_line() {
        assert_eq!(describe(&Queue::default()), "nothing waits");
        let entry = QueueEntry {
            path: "layers/a.wav".into(),
            operation: Operation::Upload,
            state: State::Parked,
            bytes: 2_000_000,
            sent_bytes: 500_000,
            waiting_seconds: 7,
            protected_seconds: None,
            attempts: 3,
            reason: Some("no right".into()),
        };
        let open = QueueEntry {
            path: "projects/b.aup3".into(),
            state: State::Open,
            bytes: 0,
            sent_bytes: 0,
            protected_seconds: Some(40),
            attempts: 0,
            reason: None,
            ..entry.clone()
        };
        let text = describe(&Queue {
            entries: vec![entry, open],
            left_out: 2,
        });
        assert_eq!(
            text,
            "parked   upload        2.0 MB      7 s  layers/a.wav  25 %  (3 tries: no right)\n\
             open     upload           0 B      7 s  projects/b.aup3  (protected 40 s ago)\n\
             and 2 more\n"
        );
    }
}
