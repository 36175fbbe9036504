//! `voicebeatfs mount`, and the form by which mount(8) calls.

use std::path::PathBuf;

use clap::{Args, Parser};

use super::{Failure, complain, say};
use crate::config::{Config, Inputs, MountOptions};
use crate::mount::{self, MountError, Request};

/// The arguments of `mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The folder to mount on.
    pub mountpoint: PathBuf,
    /// Mount options, separated by commas: ro, allow_other, …, and any setting by its lower-case
    /// name, as in cache_dir=PATH.
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Vec<String>,
    /// Stays in the foreground and logs to the terminal.
    #[arg(long)]
    pub foreground: bool,
}

/// What mount(8) passes to a helper.
#[derive(Debug, Parser)]
#[command(name = "voicebeatfs", version)]
pub struct Mount8Opts {
    /// BUCKET, BUCKET/PREFIX, or local for the embedded local store.
    pub source: String,
    /// The folder to mount on.
    pub mountpoint: PathBuf,
    /// Mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Vec<String>,
    /// Reads settings from FILE.
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Stays in the foreground and logs to the terminal.
    #[arg(long)]
    pub foreground: bool,
    /// Says what was mounted.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Leaves out options that are not known.
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Checks everything but does not mount.
    #[arg(short = 'f')]
    pub fake: bool,
    /// Mounts read-only.
    #[arg(short = 'r', conflicts_with = "read_write")]
    pub read_only: bool,
    /// Mounts read-write, whatever the options say.
    #[arg(short = 'w')]
    pub read_write: bool,
    /// Does not write /etc/mtab: nothing here does.
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// The type of the file system.
    #[arg(short = 't', value_name = "TYPE", value_parser = filesystem_type)]
    pub filesystem_type: Option<String>,
}

/// Runs `voicebeatfs mount`.
pub fn run(args: MountArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let options = parse_options(&args.options, false)?;
    mount(Plan {
        options,
        env_file,
        source: None,
        mountpoint: args.mountpoint,
        foreground: args.foreground,
        fake: false,
        verbose: false,
    })
}

/// Runs `voicebeatfs SOURCE MOUNTPOINT`.
pub fn run_mount8(opts: Mount8Opts) -> Result<(), Failure> {
    let mut options = parse_options(&opts.options, opts.sloppy)?;
    if opts.read_only || opts.read_write {
        options.read_only = opts.read_only;
    }
    mount(Plan {
        options,
        env_file: opts.env_file,
        source: Some(opts.source),
        mountpoint: opts.mountpoint,
        foreground: opts.foreground,
        fake: opts.fake,
        verbose: opts.verbose,
    })
}

/// What both forms come down to.
struct Plan {
    options: MountOptions,
    env_file: Option<PathBuf>,
    source: Option<String>,
    mountpoint: PathBuf,
    foreground: bool,
    fake: bool,
    verbose: bool,
}

fn mount(plan: Plan) -> Result<(), Failure> {
    let config = Config::load(&Inputs {
        env_file: plan.env_file.or_else(|| plan.options.env_file.clone()),
        options: plan.options.settings.clone(),
        source: plan.source.clone(),
        mountpoint: Some(plan.mountpoint.clone()),
        ..Inputs::from_process()
    })?;
    complain(&config.warnings.join("\n"));
    if plan.fake {
        return mount::check_mountpoint(&plan.mountpoint)
            .map(|_| ())
            .map_err(failure);
    }
    // libmount takes a line of fstab for mounted if source and mount point are found in the
    // kernel's list, so the mount has to carry SOURCE as it was given.
    let source_name = plan
        .source
        .unwrap_or_else(|| format!("voicebeatfs:{}", config.source()));
    let shown = format!(
        "{} mounted on {}",
        config.source(),
        plan.mountpoint.display()
    );
    mount::run(Request {
        config,
        options: plan.options,
        mountpoint: plan.mountpoint,
        source_name,
        foreground: plan.foreground,
    })
    .map_err(failure)?;
    if plan.verbose && !plan.foreground {
        return say(&shown);
    }
    Ok(())
}

fn failure(error: MountError) -> Failure {
    Failure::Failed(error.to_string())
}

pub(super) fn parse_options(texts: &[String], sloppy: bool) -> Result<MountOptions, Failure> {
    let mut options = MountOptions::default();
    let errors: Vec<String> = texts
        .iter()
        .flat_map(|text| options.add(text, sloppy))
        .map(|error| error.to_string())
        .collect();
    if errors.is_empty() {
        Ok(options)
    } else {
        Err(Failure::Usage(errors.join("\n")))
    }
}

fn filesystem_type(text: &str) -> Result<String, String> {
    match text {
        "voicebeatfs" | "fuse.voicebeatfs" | "fuse" => Ok(text.into()),
        _ => Err("this program mounts the type fuse.voicebeatfs".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount8(line: &str) -> Result<Mount8Opts, clap::Error> {
        Mount8Opts::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn everything_that_mount8_passes_is_understood() {
        let line = "mount.voicebeatfs b /mnt -n -v -s -f -w -t fuse.voicebeatfs -o rw,dev -o suid";
        let opts = mount8(line).unwrap();
        assert!(opts.no_mtab && opts.verbose && opts.sloppy && opts.fake && opts.read_write);
        assert_eq!((opts.source.as_str(), opts.options.len()), ("b", 2));
        let opts = mount8("mount.voicebeatfs b /mnt -sfnvr").unwrap();
        assert!(opts.read_only && opts.fake);
    }

    #[test]
    fn another_type_is_refused() {
        assert!(mount8("mount.voicebeatfs b /mnt -t ext4").is_err());
        assert!(mount8("mount.voicebeatfs b").is_err());
    }

    #[test]
    fn wrong_options_are_wrong_use_and_all_named() {
        let texts = ["nope,ro".to_string(), "what=1".to_string()];
        let Err(Failure::Usage(text)) = parse_options(&texts, false) else {
            panic!()
        };
        assert!(
            text.contains("\"nope\"") && text.contains("\"what\""),
            "{text}"
        );
        assert!(parse_options(&texts, true).unwrap().read_only);
    }
}
