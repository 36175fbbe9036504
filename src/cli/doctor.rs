//! `voicebeatfs doctor`: everything that a mount rests on, looked at, with what to do about it.
//!
//! It changes nothing: what it tries on a disk is a file of its own, removed again, and the bucket is
//! asked nothing that writes, but for `--speed`, which removes its own objects.

mod bucket;
mod bytes;
mod directories;
mod machine;
mod mounts;
mod speed;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::speed::Speed;
use super::{Failure, say};
use crate::config::{Config, Effective, Inputs};
use crate::control::StatusDocument;

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Prints one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Also reads all bytes on this disk and compares them with what they are to be. Takes as long
    /// as the disk does.
    #[arg(long)]
    pub verify: bool,
    /// Also measures how fast bytes come from the bucket and go to it: sends at most 17 MB, fetches them
    /// and removes them, and says before what that costs.
    #[arg(long)]
    pub speed: bool,
    /// Also writes FILE, for a report of a fault: the findings, the status of the mounts and the end of
    /// the log, without secrets.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Good,
    /// It works, but not as well or as safely as it could.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What it is about, in a word.
    about: &'static str,
    text: String,
    /// What to do.
    advice: Option<String>,
}

impl Finding {
    fn good(about: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            level: Level::Good,
            about,
            text: text.into(),
            advice: None,
        }
    }

    fn warning(about: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            level: Level::Warning,
            advice: Some(advice.into()),
            ..Finding::good(about, text)
        }
    }

    fn problem(about: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            level: Level::Problem,
            ..Finding::warning(about, text, advice)
        }
    }
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Diagnosis {
    version: &'static str,
    findings: Vec<Finding>,
    /// What `--speed` has measured.
    speed: Option<Speed>,
    settings: Vec<Effective>,
}

/// What `--bundle` writes.
#[derive(Debug, Serialize)]
struct Bundle<'a> {
    diagnosis: &'a Diagnosis,
    mounts: &'a [StatusDocument],
    log: Vec<String>,
}

/// Runs `voicebeatfs doctor`.
pub fn run(args: &DoctorArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let inputs = Inputs {
        env_file,
        ..Inputs::from_process()
    };
    let config = Config::load(&inputs);
    let mut findings = machine::findings(config.as_ref().ok());
    findings.extend(settings(config.as_ref()));
    let mut speed = None;
    if let Ok(config) = &config {
        findings.extend(directories::findings(config));
        findings.extend(bucket::findings(config));
        if args.verify {
            findings.extend(bytes::findings(config));
        }
        if args.speed {
            let (measured, about_speed) = speed::findings(config);
            speed = measured;
            findings.extend(about_speed);
        }
    }
    let (mounts, about_mounts) = mounts::findings();
    findings.extend(about_mounts);
    let diagnosis = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        findings,
        speed,
        settings: in_effect(&inputs, config.as_ref().ok()),
    };
    let json = |error: serde_json::Error| Failure::Failed(error.to_string());
    match args.json {
        true => say(&serde_json::to_string_pretty(&diagnosis).map_err(json)?)?,
        false => say(&describe(&diagnosis))?,
    }
    if let Some(file) = &args.bundle {
        let log = config.ok().and_then(|config| config.log_file);
        let bundle = Bundle {
            diagnosis: &diagnosis,
            mounts: &mounts,
            log: log.map_or(Vec::new(), |file| last_lines(&file)),
        };
        let text = serde_json::to_string_pretty(&bundle).map_err(json)?;
        write_bundle(file, &Effective::without_secrets(&inputs, text))?;
    }
    let problems = diagnosis.findings.iter();
    let problems = problems.filter(|finding| finding.level == Level::Problem);
    match problems.count() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} problems found"))),
    }
}

fn settings(config: Result<&Config, &crate::config::ConfigError>) -> Vec<Finding> {
    let problem = |text: &str| {
        let advice = "correct it where it was given; README.md has the table of settings";
        Finding::problem("settings", text, advice)
    };
    match config {
        Err(error) => error.to_string().lines().map(problem).collect(),
        Ok(config) if config.warnings.is_empty() => {
            vec![Finding::good("settings", "in order")]
        }
        Ok(config) => {
            let warnings = config.warnings.iter();
            let advice = "see the text, or leave the setting out";
            warnings
                .map(|warning| Finding::warning("settings", warning, advice))
                .collect()
        }
    }
}

/// Returns the settings with the directories where they really are: by default that depends on who
/// set the mount up.
fn in_effect(inputs: &Inputs, config: Option<&Config>) -> Vec<Effective> {
    let mut settings = Effective::of(inputs);
    let Some(config) = config else {
        return settings;
    };
    for (name, path) in [
        ("CACHE_DIR", &config.cache_dir),
        ("STAGING_DIR", &config.staging_dir),
        ("SAMPLES_DIR", &config.samples_dir),
        ("CATALOG_FILE", &config.catalog_file),
    ] {
        let found = settings.iter_mut().find(|setting| setting.name == name);
        if let Some(setting) = found {
            setting.value = path.display().to_string();
        }
    }
    settings
}

fn describe(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &diagnosis.findings {
        let level = match finding.level {
            Level::Good => "good",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        let _ = writeln!(text, "{level:<8} {:<9} {}", finding.about, finding.text);
        if let Some(advice) = &finding.advice {
            let _ = writeln!(text, "{:18} -> {advice}", "");
        }
    }
    let _ = writeln!(text, "\nsettings in effect:");
    for setting in &diagnosis.settings {
        let _ = writeln!(
            text,
            "  {}={}  ({})",
            setting.name, setting.value, setting.origin
        );
    }
    text
}

/// How much of the log a bundle has.
const LOG_LINES: usize = 200;

/// The most bytes of a log that are read for it.
const LOG_BYTES: u64 = 64 * 1024;

fn last_lines(file: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || {
        let mut file = std::fs::File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
}

/// Writes what only its owner may read, and never over something else.
fn write_bundle(file: &Path, text: &str) -> Result<(), Failure> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    let shown = file.display();
    written.map_err(|error| Failure::Failed(format!("{shown}: {error}")))?;
    super::complain(&format!(
        "{shown} has no secrets, but names of files: look through it before you send it"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_with_what_to_do_below() {
        let diagnosis = Diagnosis {
            version: "1",
            findings: vec![
                Finding::good("kernel", "6.18"),
                Finding::problem("fuse", "no /dev/fuse", "modprobe fuse"),
            ],
            speed: None,
            settings: Vec::new(),
        };
        assert_eq!(
            describe(&diagnosis),
            "good     kernel    6.18\n\
             PROBLEM  fuse      no /dev/fuse\n                   -> modprobe fuse\n\
             \nsettings in effect:\n"
        );
    }
}
