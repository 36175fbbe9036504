//! `voicebeatfs catalog`: the index of the local sample library.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};

use super::{Failure, complain, say};
use crate::catalog::{self, Catalog, CatalogError, Difference, Sample};
use crate::config::{Config, Inputs};

/// How many names of each kind a failed check prints.
const NAMES_SHOWN: usize = 10;
/// What is said when the catalog cannot be used.
const BUILD_IT: &str = "build it with: voicebeatfs catalog build";

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
    /// Tells which samples of the catalog are missing, changed or extra in the library.
    Check {
        /// Prints one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Looks samples up in the catalog.
    Find(Wanted),
}

/// What a sample is to be like; upper and lower case are the same.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("wanted").required(true).multiple(true)
    .args(["genre", "instrument", "name"])))]
struct Wanted {
    /// Of this genre.
    #[arg(long)]
    genre: Option<String>,
    /// Of this instrument.
    #[arg(long)]
    instrument: Option<String>,
    /// With this in its name.
    #[arg(long)]
    name: Option<String>,
    /// Prints the entries of the catalog as JSON.
    #[arg(long)]
    json: bool,
}

impl Wanted {
    fn matches(&self, sample: &Sample) -> bool {
        let lower = |text: &String| text.to_lowercase();
        let same = |wanted: &Option<String>, found: &Option<String>| {
            wanted.is_none() || wanted.as_ref().map(lower) == found.as_ref().map(lower)
        };
        let name = self.name.as_ref().map(lower).unwrap_or_default();
        same(&self.genre, &sample.genre)
            && same(&self.instrument, &sample.instrument)
            && lower(&sample.name).contains(&name)
    }
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
    match &args.command {
        Command::Build { check: true } => check(samples_dir, catalog_file),
        Command::Build { check: false } => build(samples_dir, catalog_file),
        Command::Check { json: true } => check_as_json(samples_dir, catalog_file),
        Command::Check { json: false } => check(samples_dir, catalog_file),
        Command::Find(wanted) => find(wanted, catalog_file),
    }
}

/// Reads the catalog, which has to be there.
fn stored(catalog_file: &Path) -> Result<Catalog, Failure> {
    let missing = || {
        let shown = catalog_file.display();
        Failure::Failed(format!("{shown} is missing, or not a catalog\n{BUILD_IT}"))
    };
    Catalog::read(catalog_file)?.ok_or_else(missing)
}

fn find(wanted: &Wanted, catalog_file: &Path) -> Result<(), Failure> {
    let samples = stored(catalog_file)?.samples;
    let found = samples.iter().filter(|sample| wanted.matches(sample));
    let found: Vec<&Sample> = found.collect();
    if wanted.json {
        say_json(&found)?;
    } else if !found.is_empty() {
        let paths = found.iter().map(|sample| sample.local_path.as_str());
        say(&paths.collect::<Vec<_>>().join("\n"))?;
    }
    match found.is_empty() {
        true => Err(Failure::Failed("no sample is like that".into())),
        false => Ok(()),
    }
}

fn check_as_json(samples_dir: &Path, catalog_file: &Path) -> Result<(), Failure> {
    let difference = stored(catalog_file)?.difference(&scan(samples_dir)?);
    say_json(&serde_json::json!({
        "missing": difference.removed,
        "changed": difference.changed,
        "extra": difference.added,
    }))?;
    match difference.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "{} is out of date\n{BUILD_IT}",
            catalog_file.display()
        ))),
    }
}

fn say_json(document: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document);
    say(&text.map_err(|error| Failure::Failed(error.to_string()))?)
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
    let difference = stored(catalog_file)?.difference(&actual);
    if difference.is_empty() {
        let count = actual.samples.len();
        return say(&format!("{shown} is up to date: {count} samples"));
    }
    let text = describe(&difference);
    Err(Failure::Failed(format!(
        "{shown} is out of date\n{text}{BUILD_IT}"
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
        ("extra", &difference.added),
        ("missing", &difference.removed),
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
    fn a_sample_is_like_what_was_asked_for() {
        let sample = Sample {
            genre: Some("Jazz".into()),
            instrument: Some("bass".into()),
            name: "Upright/Slow One".into(),
            ..Sample::default()
        };
        let wanted = |genre: &str, instrument: &str, name: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let wanted = Wanted {
                genre: given(genre),
                instrument: given(instrument),
                name: given(name),
                json: false,
            };
            wanted.matches(&sample)
        };
        assert!(wanted("jazz", "", "") && wanted("JAZZ", "Bass", "slow"));
        assert!(!wanted("jaz", "", "") && !wanted("jazz", "drums", ""));
        assert!(!wanted("", "", "fast"));
    }

    #[test]
    fn shows_a_bounded_number_of_names() {
        let added = (0..25).map(|n| format!("{n}.wav")).collect();
        let text = describe(&Difference {
            added,
            ..Difference::default()
        });
        assert_eq!(text.lines().count(), NAMES_SHOWN + 1);
        assert!(text.ends_with("extra: and 15 more\n"), "{text}");
    }
}
