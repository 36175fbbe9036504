//! `voicebeatfs catalog`: the index of the local sample library.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, complain, say};
use crate::catalog::{self, Catalog, CatalogError, Difference};
use crate::config::{Config, Inputs};

/// How many names of each kind a failed check prints.
const NAMES_SHOWN: usize = 10;

/// The arguments of `catalog`.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the catalog from what is in the sample library.
    Build {
        /// Writes nothing; fails if the catalog does not describe the library.
        #[arg(long)]
        check: bool,
    },
}

/// Runs `voicebeatfs catalog`.
pub fn run(args: &CatalogArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let mut inputs = Inputs {
        env_file,
        ..Inputs::from_process()
    };
    // Samples are never in the bucket: whoever catalogs them needs no account.
    inputs
        .environment
        .insert("USE_R2_STORAGE".into(), "false".into());
    let config = Config::load(&inputs)?;
    run_on(args, &config.samples_dir, &config.catalog_file)
}

fn run_on(args: &CatalogArgs, samples_dir: &Path, catalog_file: &Path) -> Result<(), Failure> {
    match args.command {
        Command::Build { check: true } => check(samples_dir, catalog_file),
        Command::Build { check: false } => build(samples_dir, catalog_file),
    }
}

fn build(samples_dir: &Path, catalog_file: &Path) -> Result<(), Failure> {
    let catalog = scan(samples_dir)?;
    catalog.write(catalog_file)?;
    let count = catalog.samples.len();
    say(&format!("{count} samples in {}", catalog_file.display()))
}

fn check(samples_dir: &Path, catalog_file: &Path) -> Result<(), Failure> {
    let actual = scan(samples_dir)?;
    let shown = catalog_file.display();
    let build_it = "build it with: voicebeatfs catalog build";
    let Some(stored) = Catalog::read(catalog_file)? else {
        let text = format!("{shown} is missing, or not a catalog\n{build_it}");
        return Err(Failure::Failed(text));
    };
    let difference = stored.difference(&actual);
    if difference.is_empty() {
        let count = actual.samples.len();
        return say(&format!("{shown} is up to date: {count} samples"));
    }
    let text = describe(&difference);
    Err(Failure::Failed(format!(
        "{shown} is out of date\n{text}{build_it}"
    )))
}

fn scan(samples_dir: &Path) -> Result<Catalog, Failure> {
    let built = catalog::build(samples_dir)?;
    for warning in &built.warnings {
        complain(&format!("warning: {warning}"));
    }
    Ok(built.catalog)
}

fn describe(difference: &Difference) -> String {
    let kinds = [
        ("new", &difference.added),
        ("gone", &difference.removed),
        ("changed", &difference.changed),
    ];
    let mut text = String::new();
    for (kind, paths) in kinds {
        for path in paths.iter().take(NAMES_SHOWN) {
            text += &format!("  {kind}: {path}\n");
        }
        if paths.len() > NAMES_SHOWN {
            text += &format!("  {kind}: and {} more\n", paths.len() - NAMES_SHOWN);
        }
    }
    text
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let text = match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        match error {
            CatalogError::NoSamples(..) => Failure::Usage(text),
            CatalogError::Read(..) | CatalogError::Write(..) | CatalogError::TooMany(_) => {
                Failure::Failed(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_what_it_built() {
        let folder = tempfile::tempdir().unwrap();
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
        let file = folder.path().join("samples.json");
        let [build, check] = [false, true].map(|check| CatalogArgs {
            command: Command::Build { check },
        });
        let failed = |result| matches!(result, Err(Failure::Failed(_)));
        assert!(failed(run_on(&check, &samples, &file)), "no catalog yet");
        assert_eq!(run_on(&build, &samples, &file), Ok(()));
        assert_eq!(run_on(&check, &samples, &file), Ok(()));
        assert!(
            failed(run_on(&check, folder.path(), &file)),
            "another library"
        );
        let nowhere = run_on(&build, &folder.path().join("nowhere"), &file);
        assert!(matches!(nowhere, Err(Failure::Usage(_))), "{nowhere:?}");
    }

    #[test]
    fn shows_a_bounded_number_of_names() {
        let added = (0..25).map(|n| format!("{n}.wav")).collect();
        let text = describe(&Difference {
            added,
            ..Difference::default()
        });
        assert_eq!(text.lines().count(), NAMES_SHOWN + 1);
        assert!(text.ends_with("new: and 15 more\n"), "{text}");
    }
}
