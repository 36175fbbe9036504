//! `voicebeatfs conflicts`.

use std::path::PathBuf;

use clap::Args;

use super::find::Operand;
use super::{Failure, say};

/// The arguments of `conflicts`.
#[derive(Debug, Args)]
pub struct ConflictsArgs {
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub mount: Operand,
}

/// Runs `voicebeatfs conflicts`.
pub fn run(args: &ConflictsArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let client = args.mount.connect(env_file)?;
    let conflicts = client
        .conflicts()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    if args.json {
        let json = serde_json::to_string_pretty(&conflicts);
        return say(&json.map_err(|error| Failure::Failed(error.to_string()))?);
    }
    if conflicts.is_empty() {
        return say("no conflicts");
    }
    let lines = conflicts.iter().map(|conflict| {
        let (path, copy, at) = (&conflict.path, &conflict.copy, &conflict.found_at);
        format!("{path}: changed by someone else; ours is kept as {copy} (found {at})")
    });
    let mut text: Vec<String> = lines.collect();
    text.push("Rename the copy over the file to keep ours, or remove it to keep theirs.".into());
    say(&text.join("\n"))
}
