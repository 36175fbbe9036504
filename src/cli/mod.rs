//! What the user typed: [`Opts`] and the commands, one file each.
//!
//! A command returns what it has to say or a [`Failure`]; this module prints it and chooses the
//! exit code: 0 done, 1 failed, 2 wrong use or settings.

pub mod cache;
pub mod catalog;
pub mod completions;
pub mod conflicts;
pub mod doctor;
mod find;
pub mod fstab;
pub mod migrate;
pub mod mount;
mod progress;
pub mod purge;
pub mod queue;
pub mod refresh;
mod replicate;
pub mod setup;
pub mod share;
pub mod status;
pub mod trash;
pub mod umount;
pub mod validate;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, ConfigError, Inputs};

/// VoiceBeat's R2 bucket as an ordinary folder.
#[derive(Debug, Parser)]
#[command(name = "voicebeatfs", version, after_help = AFTER_HELP)]
pub struct Opts {
    /// Reads settings from FILE, in place of ./.env or /etc/voicebeatfs.env.
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
As mount(8) and fstab call it:
  voicebeatfs SOURCE MOUNTPOINT [-o OPTS]    SOURCE is BUCKET, BUCKET/PREFIX or local

Exit codes: 0 done, 1 failed, 2 wrong use or settings.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mounts the bucket and returns when the mount is usable.
    Mount(mount::MountArgs),
    /// Unmounts.
    Umount(umount::UmountArgs),
    /// Prints the line of fstab that mounts at every start, or adds it.
    Fstab(fstab::FstabArgs),
    /// Shows cache, upload queue, alerts, and whether it is safe to shut down.
    Status(status::StatusArgs),
    /// Shows what waits for upload, how far it is and why it does not go; or tries it again.
    Queue(queue::QueueArgs),
    /// Lists what is on this disk, keeps files and folders there, fetches them in advance.
    Cache(cache::CacheArgs),
    /// Lists the files that two sides changed: both versions are kept.
    Conflicts(conflicts::ConflictsArgs),
    /// Lists what was deleted or overwritten, and brings it back.
    Trash(trash::TrashArgs),
    /// Prints a link under which anybody may read a file for a while.
    Share(share::ShareArgs),
    /// Shows at once what others have changed in the bucket.
    Refresh(refresh::RefreshArgs),
    /// Checks the settings, and that the bucket can be reached with them.
    Validate,
    /// Looks at everything a mount rests on, and says what to do about what is wrong.
    Doctor(doctor::DoctorArgs),
    /// VoiceBeat's words for checking the bucket and copying the sample library into it.
    Setup(setup::SetupArgs),
    /// Copies the files of OUTPUT_DIR into the bucket.
    Migrate(migrate::MigrateArgs),
    /// Removes cache and staging directory, if nothing is left in the latter.
    Purge(purge::PurgeArgs),
    /// Prints completions for a shell.
    Completions(completions::CompletionsArgs),
    /// Prints the manual page.
    Man,
    /// Indexes the local sample library.
    Catalog(catalog::CatalogArgs),
}

/// Why a command did not do what it was asked to.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It tried and failed: exit code 1.
    Failed(String),
    /// It was used wrongly, or the settings are wrong: exit code 2.
    Usage(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

/// Runs the command line `args`, the name of the program first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let result = match is_mount8_form(&args) {
        true => mount::Mount8Opts::try_parse_from(&args).map(mount::run_mount8),
        false => Opts::try_parse_from(&args)
            .map(run_command)
            .map_err(|error| with_usage(error, &args)),
    };
    match result {
        // clap prints help and version to stdout with code 0, wrong use to stderr with code 2.
        Err(error) => error.exit(),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Failure::Failed(text))) => {
            complain(&text);
            ExitCode::from(1)
        }
        Ok(Err(Failure::Usage(text))) => {
            complain(&text);
            ExitCode::from(2)
        }
    }
}

fn run_command(opts: Opts) -> Result<(), Failure> {
    match opts.command {
        Command::Mount(args) => mount::run(args, opts.env_file),
        Command::Umount(args) => umount::run(&args),
        Command::Fstab(args) => fstab::run(&args, opts.env_file),
        Command::Status(args) => status::run(&args, opts.env_file),
        Command::Queue(args) => queue::run(&args, opts.env_file),
        Command::Cache(args) => cache::run(&args, opts.env_file),
        Command::Conflicts(args) => conflicts::run(&args, opts.env_file),
        Command::Trash(args) => trash::run(&args, opts.env_file),
        Command::Share(args) => share::run(&args, opts.env_file),
        Command::Refresh(args) => refresh::run(&args, opts.env_file),
        Command::Validate => validate::run(opts.env_file),
        Command::Doctor(args) => doctor::run(&args, opts.env_file),
        Command::Setup(args) => setup::run(&args, opts.env_file),
        Command::Migrate(args) => migrate::run(&args, opts.env_file),
        Command::Purge(args) => purge::run(&args, opts.env_file),
        Command::Completions(args) => completions::run(&args),
        Command::Man => completions::run_man(),
        Command::Catalog(args) => catalog::run(&args, opts.env_file),
    }
}

/// Adds to an error about a value how the command is used; clap tells it of all others by itself.
fn with_usage(mut error: clap::Error, args: &[OsString]) -> clap::Error {
    if error.exit_code() != 2 || error.get(ContextKind::Usage).is_some() {
        return error;
    }
    let mut command = Opts::command();
    command.build();
    for operand in operands(args.get(1..).unwrap_or_default()) {
        match command.find_subcommand(operand) {
            Some(subcommand) => command = subcommand.clone(),
            None => break,
        }
    }
    let usage = ContextValue::StyledStr(command.render_usage());
    error.insert(ContextKind::Usage, usage);
    error
}

/// Prints each line of `text` to stderr, with the name of the program before it.
fn complain(text: &str) {
    for line in text.lines() {
        eprintln!("voicebeatfs: {line}");
    }
}

/// Prints `text` and a line end to stdout. A reader that wants no more of it, as `head` does, is no
/// failure.
fn say(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// Loads the settings for a command that has no mount options, and prints their warnings.
fn load_config(env_file: Option<PathBuf>) -> Result<Config, Failure> {
    let config = Config::load(&Inputs {
        env_file,
        ..Inputs::from_process()
    })?;
    complain(&config.warnings.join("\n"));
    Ok(config)
}

/// Returns whether this is a call by the convention of mount(8): the program goes by the name of
/// a mount helper, or the first two operands are none of the commands.
fn is_mount8_form(args: &[OsString]) -> bool {
    let name = args
        .first()
        .and_then(|path| Path::new(path).file_name())
        .unwrap_or_default();
    if name == "mount.voicebeatfs" || name == "mount.fuse.voicebeatfs" {
        return true;
    }
    let operands = operands(args.get(1..).unwrap_or_default());
    let is_command = |operand: &OsStr| {
        operand == "help"
            || Opts::command()
                .get_subcommands()
                .any(|c| c.get_name() == operand)
    };
    // One operand alone is a mistyped command, for which clap has a suggestion.
    operands.len() >= 2 && !is_command(operands[0])
}

/// Returns the arguments that are neither options nor their values.
fn operands(args: &[OsString]) -> Vec<&OsStr> {
    let mut operands = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--env-file" | "-o" | "-t") => {
                args.next();
            }
            Some("--") => operands.extend(args.by_ref().map(OsString::as_os_str)),
            Some(option) if option.len() > 1 && option.starts_with('-') => {}
            _ => operands.push(arg.as_os_str()),
        }
    }
    operands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn opts(line: &str) -> Result<Opts, clap::Error> {
        Opts::try_parse_from(args(line))
    }

    #[test]
    fn the_definition_is_sound() {
        Opts::command().debug_assert();
        mount::Mount8Opts::command().debug_assert();
    }

    #[test]
    fn the_mount8_form_is_told_from_commands() {
        for line in [
            "voicebeatfs bucket /mnt",
            "voicebeatfs -o ro bucket /mnt",
            "voicebeatfs --env-file mount bucket /mnt",
            "/sbin/mount.voicebeatfs mount /mnt -o rw",
            "mount.fuse.voicebeatfs",
        ] {
            assert!(is_mount8_form(&args(line)), "{line}");
        }
        for line in [
            "voicebeatfs",
            "voicebeatfs mount /mnt",
            "voicebeatfs --env-file x mount /mnt -o ro",
            "voicebeatfs stauts",
            "voicebeatfs help mount",
            "voicebeatfs --version",
        ] {
            assert!(!is_mount8_form(&args(line)), "{line}");
        }
    }

    #[test]
    fn env_file_goes_before_or_after_the_command() {
        for line in [
            "voicebeatfs --env-file x status",
            "voicebeatfs status --env-file x",
        ] {
            assert_eq!(opts(line).unwrap().env_file, Some("x".into()), "{line}");
        }
    }

    #[test]
    fn wrong_use_exits_with_2_and_version_with_0() {
        for line in [
            "voicebeatfs",
            "voicebeatfs stauts",
            "voicebeatfs mount",
            "voicebeatfs umount",
        ] {
            assert_eq!(opts(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(opts("voicebeatfs --version").unwrap_err().exit_code(), 0);
    }
}
