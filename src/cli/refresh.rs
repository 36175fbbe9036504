//! `voicebeatfs refresh`.

use std::path::PathBuf;

use clap::Args;

use super::find::{self, Named};
use super::share::as_the_mount_knows_it;
use super::{Failure, say};

/// The arguments of `refresh`.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Files and folders; everything that was looked at so far if none is given.
    pub paths: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
}

/// Runs `voicebeatfs refresh`.
pub fn run(args: &RefreshArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let client = find::connect(args.named.mountpoint.as_deref(), &args.paths, env_file)?;
    let paths = args.paths.iter().map(|path| as_the_mount_knows_it(path));
    let refreshed = client
        .refresh(paths.collect())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    if args.json {
        let text = serde_json::to_string(&refreshed);
        say(&text.map_err(|error| Failure::Failed(error.to_string()))?)?;
    } else {
        say(&format!("{} folders listed anew", refreshed.listed))?;
    }
    match refreshed.failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!(
            "{failed} folders could not be listed: they show what was known before"
        ))),
    }
}
