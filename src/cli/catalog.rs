//! `voicebeatfs catalog`: the index of the local sample library.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::catalog::{self, Catalog, CatalogError, Difference};

/// How many names of each kind a failed check prints.
const NAMES_SHOWN: usize = 10;

/// What the user typed after `catalog`.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the catalog from what is in the sample library
    Build {
        /// Write nothing; fail if the catalog does not describe the library
        #[arg(long)]
        check: bool,
    },
}

/// Runs the command on the library in `samples_dir` and the catalog at `catalog_file`.
pub fn run(args: &CatalogArgs, samples_dir: &Path, catalog_file: &Path) -> ExitCode {
    let Command::Build { check } = args.command;
    let done = if check {
        compare(samples_dir, catalog_file)
    } else {
        build(samples_dir, catalog_file)
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let cause = std::error::Error::source(&error);
            eprintln!(
                "error: {error}{}",
                cause.map_or(String::new(), |c| format!(": {c}"))
            );
            match error {
                CatalogError::NoSamples(..) => ExitCode::from(2),
                CatalogError::Read(..) | CatalogError::Write(..) | CatalogError::TooMany(_) => {
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn build(samples_dir: &Path, catalog_file: &Path) -> Result<ExitCode, CatalogError> {
    let catalog = scan(samples_dir)?;
    catalog.write(catalog_file)?;
    println!(
        "{} samples in {}",
        catalog.samples.len(),
        catalog_file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn compare(samples_dir: &Path, catalog_file: &Path) -> Result<ExitCode, CatalogError> {
    let actual = scan(samples_dir)?;
    let Some(stored) = Catalog::read(catalog_file)? else {
        println!("{} is not there or not a catalog", catalog_file.display());
        return Ok(ExitCode::FAILURE);
    };
    let difference = stored.difference(&actual);
    if difference.is_empty() {
        println!(
            "{} is up to date: {} samples",
            catalog_file.display(),
            actual.samples.len()
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} is out of date:", catalog_file.display());
    print!("{}", describe(&difference));
    println!("run: voicebeatfs catalog build");
    Ok(ExitCode::FAILURE)
}

fn scan(samples_dir: &Path) -> Result<Catalog, CatalogError> {
    let built = catalog::build(samples_dir)?;
    for warning in &built.warnings {
        eprintln!("warning: {warning}");
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Opts {
        #[command(flatten)]
        catalog: CatalogArgs,
    }

    fn run_with(words: &[&str], samples: &Path, file: &Path) -> ExitCode {
        run(&Opts::parse_from(words).catalog, samples, file)
    }

    #[test]
    fn checks_what_it_built() {
        let folder = tempfile::tempdir().unwrap();
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
        let file = folder.path().join("samples.json");
        let [build, check] = [
            &["catalog", "build"][..],
            &["catalog", "build", "--check"][..],
        ];
        assert_eq!(run_with(check, &samples, &file), ExitCode::FAILURE);
        assert_eq!(run_with(build, &samples, &file), ExitCode::SUCCESS);
        assert_eq!(run_with(check, &samples, &file), ExitCode::SUCCESS);
        assert_eq!(run_with(check, folder.path(), &file), ExitCode::FAILURE);
        let nowhere = folder.path().join("nowhere");
        assert_eq!(run_with(build, &nowhere, &file), ExitCode::from(2));
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
