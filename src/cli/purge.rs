//! `voicebeatfs purge`: removes what mounts have left on this disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, load_config, say};
use crate::disk::FileId;
use crate::mount::at_rest::AtRest;

/// The arguments of `purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Removes nothing; says what would be.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Runs `voicebeatfs purge`. A staging directory that holds anything is never removed, and then
/// nothing else is.
pub fn run(args: &PurgeArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let config = load_config(env_file)?;
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let (staging_dir, cache_dir) = (&config.staging_dir, &config.cache_dir);
    let at_rest = AtRest::open(&config).map_err(|error| failed(&error))?;
    let contents = at_rest.as_ref().map_or(Vec::new(), AtRest::contents);
    if !contents.is_empty() {
        return Err(kept(staging_dir, &contents));
    }
    let mut removed: Vec<&Path> = Vec::new();
    if args.dry_run {
        removed.extend(at_rest.is_some().then_some(&**staging_dir));
        removed.extend(cache_dir.exists().then_some(&**cache_dir));
        return tell(args, &removed);
    }
    if let Some(at_rest) = at_rest {
        let left = at_rest.remove().map_err(|error| failed(&error))?;
        if !left.is_empty() {
            return Err(kept(staging_dir, &left));
        }
        removed.push(staging_dir);
    }
    if remove_cache(cache_dir)? {
        removed.push(cache_dir);
    }
    tell(args, &removed)
}

fn kept(dir: &Path, contents: &[String]) -> Failure {
    Failure::Failed(format!(
        "{} is not empty, nothing is removed; a mount uploads what waits:\n  {}",
        dir.display(),
        contents.join("\n  ")
    ))
}

fn tell(args: &PurgeArgs, removed: &[&Path]) -> Result<(), Failure> {
    if args.json {
        let document = serde_json::json!({ "dry_run": args.dry_run, "removed": removed });
        return say(&document.to_string());
    }
    let verb = if args.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    let lines = removed
        .iter()
        .map(|path| format!("{} {verb}", path.display()));
    match removed.is_empty() {
        true => say("there is nothing to remove"),
        false => say(&lines.collect::<Vec<_>>().join("\n")),
    }
}

/// Removes the cache's own files, and the directory if nothing else lies there; whether there was
/// one.
fn remove_cache(dir: &Path) -> Result<bool, Failure> {
    let failed = |error| Failure::Failed(format!("{}: {error}", dir.display()));
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(is_of_the_cache) {
            std::fs::remove_file(&path).map_err(failed)?;
        }
    }
    std::fs::remove_dir(dir).map_err(|error| match error.kind() {
        ErrorKind::DirectoryNotEmpty => {
            let text = "what else lies there is left alone";
            Failure::Failed(format!("{}: {text}", dir.display()))
        }
        _ => failed(error),
    })?;
    Ok(true)
}

fn is_of_the_cache(name: &str) -> bool {
    FileId::from_name(name, "cache").is_some()
        || name.starts_with("index.db")
        || name == "metadata.json"
        || (name.starts_with('.') && name.ends_with(".tmp"))
}
