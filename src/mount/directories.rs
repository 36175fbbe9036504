//! The directories of a mount: made, private, and owned by one process.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::MountError;
use super::lock::{Holder, Lock, LockError};
use super::stores::identity;
use super::supervise::{LINGER_LIMIT, RUNTIME_LIMIT, STOP_LIMIT};
use crate::clock::SharedClock;
use crate::config::{Backend, Config};
use crate::control::client::Client;
use crate::control::registry;
use crate::disk;
use crate::staging::{Replay, Staging};

/// How long a mount that has unmounted may take to end once it is asked to: its own limits, and a
/// little.
const DRAINING_LIMIT: Duration = LINGER_LIMIT
    .saturating_add(STOP_LIMIT)
    .saturating_add(RUNTIME_LIMIT)
    .saturating_add(Duration::from_secs(3));

/// How long a process that neither is mounted nor says that it has unmounted may take for one of
/// the two. Between the kernel's unmount and our hearing of it lie milliseconds.
const UNCLEAR_LIMIT: Duration = Duration::from_secs(2);

/// How often the lock is tried.
const STEP: Duration = Duration::from_millis(20);

/// Makes the directories that the settings name.
pub(super) fn make(config: &Config) -> Result<(), MountError> {
    make_private("CACHE_DIR", &config.cache_dir)?;
    make_private("STAGING_DIR", &config.staging_dir)?;
    if let Backend::Local { output_dir } = &config.backend {
        fs::create_dir_all(output_dir).map_err(unusable("OUTPUT_DIR", output_dir))?;
    }
    Ok(())
}

/// Opens the staging directory, for whoever holds its lock.
pub(super) fn open_staging(
    config: &Config,
    clock: SharedClock,
) -> Result<(Arc<Staging>, Replay), MountError> {
    let (staging, replay) = Staging::open(&config.staging_dir, &identity(config), clock)
        .map_err(MountError::start("STAGING_DIR cannot be used"))?;
    let side_files = config.local_names.clone();
    staging.journal().set_side_files(side_files);
    Ok((staging, replay))
}

/// Makes a directory that only this user enters, or makes it so.
fn make_private(name: &'static str, path: &Path) -> Result<(), MountError> {
    disk::create_private_dir(path).map_err(unusable(name, path))?;
    let metadata = fs::metadata(path).map_err(unusable(name, path))?;
    if !metadata.is_dir() {
        return Err(unusable(name, path)(io::ErrorKind::NotADirectory.into()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("it belongs to user {}", metadata.uid());
        let error = io::Error::new(io::ErrorKind::PermissionDenied, message);
        return Err(unusable(name, path)(error));
    }
    if metadata.mode() & 0o077 != 0 {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, private).map_err(unusable(name, path))?;
    }
    Ok(())
}

fn unusable(name: &'static str, path: &Path) -> impl Fn(io::Error) -> MountError {
    let path = path.to_path_buf();
    move |source| MountError::Directory {
        name,
        path: path.clone(),
        source,
    }
}

/// Takes the staging directory's lock. A process that is mounted is named at once; one that has
/// unmounted and still uploads is asked to leave the rest to us, and is waited for.
pub(super) fn lock(staging_dir: &Path, mountpoint: &Path) -> Result<Lock, MountError> {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        let holder = match Lock::take(staging_dir, mountpoint) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Io(error)) => return Err(unusable("STAGING_DIR", staging_dir)(error)),
            Err(LockError::Held(holder)) => holder,
        };
        let (may_end, limit) = match &holder {
            Some(Holder { draining: true, .. }) => (true, DRAINING_LIMIT),
            // Its last thread may still be on its way out of the kernel.
            Some(holder) if !registry::is_alive(holder.pid) => (true, DRAINING_LIMIT),
            Some(holder) => (!super::is_mounted(&holder.mountpoint), UNCLEAR_LIMIT),
            None => (true, UNCLEAR_LIMIT),
        };
        if !may_end || begun.elapsed() >= limit {
            return Err(MountError::StagingInUse {
                staging_dir: staging_dir.into(),
                holder,
            });
        }
        if !asked && holder.is_some_and(|holder| holder.draining) {
            // It may be at its end and hear nobody any more; the lock then tells.
            let client = Client::connect(staging_dir);
            asked = client.and_then(Client::shutdown).is_ok();
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        make_private("CACHE_DIR", &path).unwrap();
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        make_private("CACHE_DIR", &path).unwrap();
        assert_eq!(mode(), 0o700);
        fs::write(folder.path().join("file"), "").unwrap();
        let error = make_private("CACHE_DIR", &folder.path().join("file")).unwrap_err();
        assert!(error.to_string().starts_with("CACHE_DIR ("), "{error}");
    }

    #[test]
    fn a_lock_that_is_let_go_in_time_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), Path::new("/mnt/none")).unwrap();
        let second = thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(folder.path(), Path::new("/mnt/b")));
            thread::sleep(3 * STEP);
            drop(first);
            waiting.join().unwrap()
        });
        second.unwrap();
    }

    #[test]
    fn a_lock_that_is_kept_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = lock(folder.path(), Path::new("/mnt/none")).unwrap();
        let text = lock(folder.path(), Path::new("/mnt/b"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(&format!("/mnt/none (pid {})", std::process::id())),
            "{text}"
        );
    }
}
