//! What is done with a staging directory at start.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{JournalError, Record, Shared, behind, snapshot};
use crate::disk::{self, FileId};

/// What was found when the staging directory was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// How many records wait.
    pub records: usize,
    /// Records whose staged file is missing. It may be in the cache, or its version in the bucket.
    pub missing: Vec<Record>,
    /// Files with bytes that no record speaks of. They are left where they are.
    pub orphans: Vec<Orphan>,
}

/// A staged file that no record speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// The file.
    pub file: FileId,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
}

pub(super) enum Error {
    Io(io::Error),
    Journal(JournalError),
}

/// Brings journal and directory into agreement. May be cut off and run again at any point: each
/// step leaves less for the next run.
pub(super) fn run(shared: &Shared) -> Result<Replay, Error> {
    // Names that a killed process had made count as synced from here on.
    disk::sync_dir(&shared.dir).map_err(Error::Io)?;
    behind::unlink_discarded(shared).map_err(Error::Journal)?;
    remove_snapshots(shared).map_err(Error::Io)?;
    let lengths = lengths(shared).map_err(Error::Io)?;
    let journal = &shared.journal;
    let missing = journal.settle(&lengths).map_err(Error::Journal)?;
    let records = journal.records();
    let mut unknown = lengths;
    for file in records.iter().filter_map(|record| record.change.file()) {
        unknown.remove(&file);
    }
    unknown.retain(|file, _| !journal.is_released(*file) && !journal.is_kept(*file));
    let mut orphans = Vec::new();
    for (file, length) in unknown {
        let path = shared.dir.join(file.staged_name());
        if length == 0 {
            // Made in advance and never used.
            fs::remove_file(&path).map_err(Error::Io)?;
        } else {
            orphans.push(Orphan { file, path, length });
        }
    }
    orphans.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Replay {
        records: records.len(),
        missing,
        orphans,
    })
}

/// Snapshots are of no use after a crash: the staged files themselves are here. SQLite may have left
/// files of its own beside them.
fn remove_snapshots(shared: &Shared) -> io::Result<()> {
    for entry in fs::read_dir(&shared.dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let stem = name.split('-').next().unwrap_or_default();
        if FileId::from_name(stem, snapshot::EXTENSION).is_some() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn lengths(shared: &Shared) -> io::Result<HashMap<FileId, u64>> {
    let mut lengths = HashMap::new();
    for entry in fs::read_dir(&shared.dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|n| FileId::from_name(n, "staged"));
        if let Some(id) = id {
            lengths.insert(id, entry.metadata()?.len());
        }
    }
    Ok(lengths)
}
