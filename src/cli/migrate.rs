//! `voicebeatfs migrate`: the files of `OUTPUT_DIR` into the bucket.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;

use super::replicate::{self, Item, Report, Told};
use super::{Failure, load_config};
use crate::config::Config;
use crate::control::client::Client;
use crate::mount::at_rest::AtRest;
use crate::store::Key;
use crate::store::fallback::HiddenKeys;
use crate::store::replicate::Replica;

/// The arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The folder; without it OUTPUT_DIR.
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
    /// Sends nothing; says what would be uploaded.
    #[arg(long)]
    pub dry_run: bool,
    /// Deletes each local file after the bucket was found to have the same bytes.
    #[arg(long, conflicts_with = "dry_run")]
    pub delete_after_verify: bool,
    /// Prints one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Runs `voicebeatfs migrate`.
pub fn run(args: &MigrateArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let config = load_config(env_file)?;
    let (bucket, settings) = replicate::bucket(&config)?;
    let from = args.from.as_ref().or(config.fallback_dir.as_ref());
    let from = from.ok_or_else(|| {
        let text = "FALLBACK_TO_LOCAL is false: name the folder with --from FOLDER";
        Failure::Usage(text.into())
    })?;
    let source = replicate::folder("OUTPUT_DIR", from)?;
    let hidden = HiddenKeys::open(&config.staging_dir)
        .map_err(|error| Failure::Failed(format!("the list of hidden local copies: {error}")))?;
    let begun = replicate::begun(&config, settings, args.dry_run)?;
    // Held until the end: what is queued must not change under us.
    let (waiting, _at_rest) = waiting(&config)?;
    let report = replicate::block_on(async {
        let failed = |error| Failure::Failed(format!("OUTPUT_DIR cannot be read: {error}"));
        let mut report = Report {
            dry_run: args.dry_run,
            ..Report::default()
        };
        let mut items = Vec::new();
        for object in replicate::files(&source).await.map_err(failed)? {
            let key = object.version.key;
            match reason_to_skip(&config, &key, &hidden, &waiting) {
                Some(reason) => report.skipped.push(Told::new(&key, reason)),
                None => items.push(Item {
                    replica: Replica {
                        source: source.clone(),
                        from: key.clone(),
                        bucket: bucket.clone(),
                        to: key,
                        // What the bucket has is newer than what was written before it.
                        replace: false,
                        begun: begun.clone(),
                    },
                    bytes: object.size,
                    delete: args.delete_after_verify,
                }),
            }
        }
        Ok::<Report, Failure>(
            replicate::send(items, (&bucket, settings), begun.as_deref(), report).await,
        )
    })?;
    report?.say(args.json)
}

fn reason_to_skip(
    config: &Config,
    key: &Key,
    hidden: &HiddenKeys,
    waiting: &HashSet<Key>,
) -> Option<&'static str> {
    let top = key.as_str().split('/').next().unwrap_or_default();
    let is_below = key.as_str().len() > top.len();
    match () {
        () if !is_below || !config.collections.iter().any(|name| name == top) => {
            Some("it lies in none of the COLLECTIONS")
        }
        () if hidden.contains(key) => Some("it was deleted or renamed in the mount"),
        () if waiting.contains(&key.folded()) => Some("a newer version is in the queue"),
        () => None,
    }
}

/// Returns what waits for the bucket, from the mount that serves the staging directory or from the
/// directory itself, which is then held.
fn waiting(config: &Config) -> Result<(HashSet<Key>, Option<AtRest>), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let keys = |paths: Vec<String>| {
        let keys = paths.iter().filter_map(|path| Key::new(path));
        keys.map(|key| key.folded()).collect()
    };
    if let Ok(client) = Client::connect(&config.staging_dir) {
        let queue = client.queue().map_err(|error| failed(&error))?;
        if queue.left_out > 0 {
            let text = "the upload queue is too long: wait until it is shorter";
            return Err(Failure::Failed(text.into()));
        }
        let paths = queue.entries.into_iter().map(|entry| entry.path);
        return Ok((keys(paths.collect()), None));
    }
    let at_rest = AtRest::open(config).map_err(|error| failed(&error))?;
    let paths = at_rest.as_ref().map_or(Vec::new(), AtRest::waiting);
    Ok((keys(paths), at_rest))
}
