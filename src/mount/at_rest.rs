//! A staging directory that no process serves, for commands that have to know what is in it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::error::MountError;
use super::lock::Lock;
use super::{directories, queue, verify};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::verify::Verified;
use crate::disk::FileId;
use crate::staging::Staging;
use crate::store::fallback::HiddenKeys;
use crate::store::replicate::BegunCopies;

/// Holds the staging directory, so that nobody mounts it meanwhile.
pub struct AtRest {
    _lock: Lock,
    staging: Arc<Staging>,
    orphans: usize,
}

impl AtRest {
    /// Takes the staging directory of the settings, as a mount would; `None` if there is none.
    ///
    /// # Errors
    /// If a mount serves it, or it cannot be read.
    pub fn open(config: &Config) -> Result<Option<AtRest>, MountError> {
        let dir = &config.staging_dir;
        if !dir.join("journal.db").exists() {
            return Ok(None);
        }
        let lock = directories::lock(dir, Path::new("no mount"))?;
        let (staging, replay) = directories::open_staging(config, Arc::new(SystemClock))?;
        Ok(Some(AtRest {
            _lock: lock,
            staging,
            orphans: replay.orphans.len(),
        }))
    }

    /// Returns the paths that wait for the bucket.
    pub fn waiting(&self) -> Vec<String> {
        queue::waiting(&self.staging)
    }

    /// Compares the staged files with what the journal says of them.
    pub fn verify(&self) -> Verified {
        verify::staged(&self.staging)
    }

    /// Says what would be lost with the directory, one line each; nothing if it is empty.
    pub fn contents(&self) -> Vec<String> {
        let journal = self.staging.journal();
        let dir = self.staging.dir();
        let hidden = HiddenKeys::open(dir).map_or(1, |hidden| usize::from(hidden.any_below("")));
        let side_files = std::fs::read_dir(self.staging.local_dir());
        let side_files = side_files.map_or(0, |entries| entries.count());
        let side_files = side_files + queue::local_files(&self.staging);
        let counts = [
            (self.waiting().len(), "changes that wait for the bucket"),
            (self.orphans, "staged files whose names were lost"),
            (
                journal.kept().len(),
                "files in the trash that were never uploaded",
            ),
            (
                journal.local_names().len(),
                "links and special files that only this disk knows",
            ),
            (side_files, "files that stay on this disk"),
            (
                hidden,
                "list of files of OUTPUT_DIR that were deleted or renamed",
            ),
            (
                BegunCopies::count(dir).unwrap_or(1),
                "uploads that migrate or setup has begun: run it again",
            ),
        ];
        let found = counts.iter().filter(|(count, _)| *count > 0);
        found
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    /// Whether this is a staged file that was made in advance, or whose bytes the bucket has.
    fn is_spent(&self, name: &str, path: &Path) -> bool {
        let is_empty = || std::fs::metadata(path).is_ok_and(|status| status.len() == 0);
        let journal = self.staging.journal();
        FileId::from_name(name, "staged").is_some_and(|id| journal.is_released(id) || is_empty())
    }

    /// Removes the directory if nothing is left in it; else says what is.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(self) -> std::io::Result<Vec<String>> {
        let dir = self.staging.dir().to_owned();
        self.staging.shutdown();
        let contents = self.contents();
        if !contents.is_empty() {
            return Ok(contents);
        }
        let mut ours = Vec::new();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_ours =
                name.is_some_and(|name| OWN_NAMES.contains(&name) || self.is_spent(name, &path));
            match (is_ours, name) {
                (true, _) => ours.push(path),
                (false, Some(LOCAL)) => {}
                (false, _) => others.push(path.display().to_string()),
            }
        }
        if !others.is_empty() {
            return Ok(others);
        }
        // The lock is held until its file is gone.
        let AtRest { _lock, staging, .. } = self;
        drop(staging);
        std::fs::remove_dir(dir.join(LOCAL))?;
        for path in ours {
            match std::fs::remove_file(path) {
                // SQLite takes its log away when it is closed.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::remove_dir(&dir)?;
        Ok(others)
    }
}

/// The folder of the files that stay on this disk.
const LOCAL: &str = "local";

/// Files of a staging directory that hold nothing when no record is left.
const OWN_NAMES: &[&str] = &[
    "journal.db",
    "journal.db-wal",
    "journal.db-shm",
    "reserve",
    "lock",
    "control.sock",
    "pins.json",
    "hidden-keys.json",
    "copies.json",
];
