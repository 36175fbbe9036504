//! `voicebeatfs queue`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::status::size_text;
use super::{Failure, find, say};
use crate::control::queue::{Operation, Queue, QueueEntry, State};

/// The arguments of `queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Asks the mount at M.
    #[arg(long, global = true, value_name = "M")]
    pub mountpoint: Option<PathBuf>,
    /// What to do; without it the queue is shown.
    #[command(subcommand)]
    pub command: Option<QueueCommand>,
}

/// What can be done with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Tries parked files again.
    Retry {
        /// Paths as `queue` shows them; all parked files if none is given.
        paths: Vec<String>,
    },
}

/// Runs `voicebeatfs queue`.
pub fn run(args: &QueueArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let client = find::connect(args.mountpoint.as_deref(), env_file)?;
    let failed = |error: crate::control::client::ClientError| Failure::Failed(error.to_string());
    if let Some(QueueCommand::Retry { paths }) = &args.command {
        let retried = client.retry(paths.clone()).map_err(failed)?;
        if retried == 0 && !paths.is_empty() {
            return Err(Failure::Failed(format!("not parked: {}", paths.join(", "))));
        }
        return say(&format!("{retried} tried again"));
    }
    let queue = client.queue().map_err(failed)?;
    match args.json {
        true => say(&serde_json::to_string_pretty(&queue)
            .map_err(|error| Failure::Failed(error.to_string()))?),
        false => say(&describe(&queue)),
    }
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

fn describe_entry(entry: &QueueEntry) -> String {
    let state = match entry.state {
        State::Open => "open",
        State::Waiting => "waiting",
        State::Parked => "parked",
    };
    let operation = match entry.operation {
        Operation::Upload => "upload",
        Operation::Folder => "folder",
        Operation::Rename => "rename",
        Operation::Attributes => "attributes",
        Operation::Delete => "delete",
    };
    let mut text = format!(
        "{state:<8} {operation:<10} {:>9} {:>6} s  {}",
        size_text(entry.bytes),
        entry.waiting_seconds,
        entry.path
    );
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
            waiting_seconds: 7,
            protected_seconds: None,
            attempts: 3,
            reason: Some("no right".into()),
        };
        let open = QueueEntry {
            path: "projects/b.aup3".into(),
            state: State::Open,
            bytes: 0,
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
            "parked   upload        2.0 MB      7 s  layers/a.wav  (3 tries: no right)\n\
             open     upload           0 B      7 s  projects/b.aup3  (protected 40 s ago)\n\
             and 2 more\n"
        );
    }
}
