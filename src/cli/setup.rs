//! `voicebeatfs setup`: VoiceBeat's words for looking whether the bucket can be used, and for copying
//! the sample library and its catalog into it.
//!
//! The mount neither sends nor reads them there: the keys lie beside the collections.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::replicate::{self, Item, Report, Told};
use super::{Failure, doctor, load_config, validate};
use crate::config::Config;
use crate::store::replicate::Replica;
use crate::store::{Key, ObjectStore, ReadCondition};

/// Where the samples go in the bucket, under the paths that they have in the mount.
const SAMPLES_FOLDER: &str = "samples/";
/// Where the catalog goes.
const CATALOG_KEY: &str = "catalog/samples.json";

/// The arguments of `setup`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)
    .args(["validate", "test", "upload_samples", "all"])))]
pub struct SetupArgs {
    /// Checks the settings, and that the bucket can be reached with them.
    #[arg(long)]
    pub validate: bool,
    /// Looks at everything a mount rests on: the bucket, the disks, FUSE.
    #[arg(long)]
    pub test: bool,
    /// Copies the sample library into the bucket, under samples/. The mount never reads it there.
    #[arg(long)]
    pub upload_samples: bool,
    /// Checks the settings, then copies the sample library and its catalog into the bucket.
    #[arg(long)]
    pub all: bool,
    /// Sends nothing; says what would be uploaded.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints what was uploaded as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs `voicebeatfs setup`.
pub fn run(args: &SetupArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let uploads = args.upload_samples || args.all;
    // One document on stdout: what is checked before it then only has to succeed.
    if args.validate || (args.all && !args.json) {
        validate::run(env_file.clone())?;
    }
    if args.test {
        let doctor = doctor::DoctorArgs {
            json: args.json,
            bundle: None,
            verify: false,
            speed: false,
        };
        doctor::run(&doctor, env_file.clone())?;
    }
    if !uploads {
        return Ok(());
    }
    let config = load_config(env_file)?;
    upload(args, &config)
}

fn upload(args: &SetupArgs, config: &Config) -> Result<(), Failure> {
    let (bucket, settings) = replicate::bucket(config)?;
    let begun = replicate::begun(config, settings, args.dry_run)?;
    let samples = replicate::folder("SAMPLES_DIR", &config.samples_dir)?;
    let replica = |source: &crate::store::local::LocalStore, from: &Key, to| Replica {
        source: source.clone(),
        from: from.clone(),
        bucket: bucket.clone(),
        to,
        // What is here is the library; the bucket has its copy.
        replace: true,
        begun: begun.clone(),
    };
    let report = replicate::block_on(async {
        let failed = |error| Failure::Failed(format!("SAMPLES_DIR cannot be read: {error}"));
        let mut report = Report {
            dry_run: args.dry_run,
            ..Report::default()
        };
        let mut items = Vec::new();
        for object in replicate::files(&samples).await.map_err(failed)? {
            let key = &object.version.key;
            match replicate::key_below(SAMPLES_FOLDER, key) {
                Some(to) => items.push(Item {
                    replica: replica(&samples, key, to),
                    bytes: object.size,
                    delete: false,
                }),
                None => report.skipped.push(Told::new(key, "its path is too long")),
            }
        }
        if args.all {
            let (folder, name) = catalog(config)?;
            let info = folder.head(&name, ReadCondition::None).await;
            let info = info.map_err(|error| no_catalog(config, &error))?;
            let to = Key::new(CATALOG_KEY).expect("a constant that is not empty and short enough");
            items.push(Item {
                replica: replica(&folder, &name, to),
                bytes: info.size,
                delete: false,
            });
        }
        Ok::<Report, Failure>(
            replicate::send(items, (&bucket, settings), begun.as_deref(), report).await,
        )
    })?;
    report?.say(args.json)
}

/// Returns the catalog's folder and its name there.
fn catalog(config: &Config) -> Result<(crate::store::local::LocalStore, Key), Failure> {
    let file = &config.catalog_file;
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.and_then(Key::new);
    let (Some(parent), Some(name)) = (file.parent(), name) else {
        let text = format!("CATALOG_FILE: {} names no file", file.display());
        return Err(Failure::Usage(text));
    };
    if !parent.is_dir() {
        return Err(no_catalog(config, &"it is missing"));
    }
    Ok((replicate::folder("CATALOG_FILE", parent)?, name))
}

fn no_catalog(config: &Config, reason: &dyn std::fmt::Display) -> Failure {
    let shown = config.catalog_file.display();
    Failure::Failed(format!(
        "{shown}: {reason}\nbuild it with: voicebeatfs catalog build"
    ))
}
