//! Which running mount a command means.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::share::as_the_mount_knows_it;
use crate::config::{Config, Inputs};
use crate::control::client::Client;
use crate::control::registry::{Record, Registry};
use crate::mount::mountinfo;

/// The mount that the user has named.
#[derive(Debug, Default, Args)]
pub struct Named {
    /// Asks the mount at M, or that M lies in; needed where several run and neither a path nor
    /// --env-file tells which.
    #[arg(long, global = true, value_name = "M")]
    pub mountpoint: Option<PathBuf>,
}

/// The same for a command that is about a mount and nothing in it: it may stand without the option.
#[derive(Debug, Default, Args)]
pub struct Operand {
    /// The mount, or anything in it; as --mountpoint.
    #[arg(value_name = "MOUNTPOINT", conflicts_with = "mountpoint")]
    pub at: Option<PathBuf>,
    /// Which mount is asked.
    #[command(flatten)]
    pub named: Named,
}

impl Operand {
    /// Connects to the mount that is meant.
    pub(super) fn connect(&self, env_file: Option<PathBuf>) -> Result<Client, Failure> {
        let mountpoint = self.at.as_deref().or(self.named.mountpoint.as_deref());
        connect::<&str>(mountpoint, &[], env_file)
    }
}

/// Connects to the mount that is meant: the one that was named, else that which the `paths` lie in,
/// else that of the settings' `STAGING_DIR`, else the only one that runs.
pub(super) fn connect<P: AsRef<Path>>(
    mountpoint: Option<&Path>,
    paths: &[P],
    env_file: Option<PathBuf>,
) -> Result<Client, Failure> {
    let running = Registry::of_this_user().running();
    if let Some(mountpoint) = mountpoint {
        return connect_at(mountpoint, &running, env_file);
    }
    if let Some(record) = holds_all(paths, &running)? {
        return ask(record);
    }
    if let Some(staging_dir) = staging_dir(env_file)?
        && let Ok(client) = Client::connect(&staging_dir)
    {
        return Ok(client);
    }
    match &running[..] {
        [] => Err(Failure::Failed(match mountinfo::ours() {
            Ok(mounts) if !mounts.is_empty() => format!(
                "no mount of this user runs; others: {}",
                names(mounts.iter().map(|entry| entry.mountpoint.as_path()))
            ),
            _ => "no mount runs".into(),
        })),
        [only] => ask(only),
        several => Err(Failure::Usage(format!(
            "several mounts run, choose one with --mountpoint: {}",
            names(several.iter().map(|record| record.mountpoint.as_path()))
        ))),
    }
}

/// Returns the mount that those of the `paths` lie in that lie in any.
fn holds_all<'a, P: AsRef<Path>>(
    paths: &[P],
    running: &'a [Record],
) -> Result<Option<&'a Record>, Failure> {
    let mut found: Option<&Record> = None;
    for path in paths {
        let Some(text) = path.as_ref().to_str() else {
            continue;
        };
        let place = as_the_mount_knows_it(text);
        let Some(record) = innermost(Path::new(&place), running) else {
            continue;
        };
        match found {
            Some(other) if other.mountpoint != record.mountpoint => {
                return Err(Failure::Usage(format!(
                    "the paths lie in several mounts, ask one at a time: {}, {}",
                    other.mountpoint.display(),
                    record.mountpoint.display()
                )));
            }
            _ => found = Some(record),
        }
    }
    Ok(found)
}

/// Returns the mount that `place`, an absolute path, lies in: the innermost, and of several that were
/// mounted there the one that came last, as in [`record_at`].
fn innermost<'a>(place: &Path, running: &'a [Record]) -> Option<&'a Record> {
    running
        .iter()
        .filter(|record| place.starts_with(&record.mountpoint))
        .max_by_key(|record| (record.mountpoint.components().count(), record.pid))
}

/// Returns the record of the mount at `mountpoint`, an absolute path without symbolic links.
pub(super) fn record_at(mountpoint: &Path) -> Option<Record> {
    let running = Registry::of_this_user().running();
    // A process that is still finishing what another one then mounted over is listed as well; the
    // last one to come has the highest number, but for one turn-over of the numbers.
    running
        .into_iter()
        .filter(|record| record.mountpoint == mountpoint)
        .max_by_key(|r| r.pid)
}

fn connect_at(
    mountpoint: &Path,
    running: &[Record],
    env_file: Option<PathBuf>,
) -> Result<Client, Failure> {
    let shown = mountpoint.display();
    let missing = |_| Failure::Failed(format!("{shown} does not exist"));
    let mountpoint = mountinfo::resolve_mountpoint(mountpoint).map_err(missing)?;
    if let Some(record) = innermost(&mountpoint, running)
        && record.mountpoint == mountpoint
    {
        return ask(record);
    }
    // Without a record, as where there is no runtime directory, the settings may lead there.
    if let Some(staging_dir) = staging_dir(env_file)?
        && let Ok(client) = Client::connect(&staging_dir)
        && client
            .status()
            .is_ok_and(|status| status.identity.mountpoint == mountpoint)
    {
        return Client::connect(&staging_dir).map_err(|e| Failure::Failed(e.to_string()));
    }
    let mounted = mountinfo::top_at(&mountpoint)
        .ok()
        .flatten()
        .filter(|entry| entry.is_ours());
    if mounted.is_some() {
        return Err(Failure::Failed(format!(
            "{shown} is mounted, but nobody answers: another user's mount, or its process has \
             died (then: voicebeatfs umount {shown})"
        )));
    }
    match innermost(&mountpoint, running) {
        Some(record) => ask(record),
        None => Err(Failure::Failed(format!(
            "no mount of voicebeatfs at {shown}"
        ))),
    }
}

/// Returns the `STAGING_DIR` of the settings. Settings that are not there, or are those of nothing
/// in particular, are no error unless a file was asked for.
fn staging_dir(env_file: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let asked_for = env_file.is_some();
    match Config::load(&Inputs {
        env_file,
        ..Inputs::from_process()
    }) {
        Ok(config) => Ok(Some(config.staging_dir)),
        Err(error) if asked_for => Err(error.into()),
        Err(_) => Ok(None),
    }
}

fn ask(record: &Record) -> Result<Client, Failure> {
    Client::connect(&record.staging_dir)
        .map_err(|error| Failure::Failed(format!("{}: {error}", record.mountpoint.display())))
}

fn names<'a>(paths: impl Iterator<Item = &'a Path>) -> String {
    paths
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
