//! The only way in which this program makes files durable, and the names of its data files.
//!
//! Each helper states the crash it survives. "Power cut" assumes that the disk keeps what it
//! acknowledged as flushed.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Names one data file in `cache/` (`<id>.cache`) or `staging/` (`<id>.staged`). A file keeps its
/// id when it moves between the two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u128);

impl FileId {
    /// Returns an id that no other file has.
    pub fn random() -> FileId {
        FileId(uuid::Uuid::new_v4().as_u128())
    }

    /// Returns the number behind the id, for databases.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// Returns the id with that number.
    pub fn from_u128(number: u128) -> FileId {
        FileId(number)
    }

    /// Returns the file's name in the cache directory.
    pub fn cache_name(self) -> String {
        format!("{self}.cache")
    }

    /// Returns the file's name in the staging directory.
    pub fn staged_name(self) -> String {
        format!("{self}.staged")
    }

    /// Returns the id in a file name with that extension.
    pub fn from_name(name: &str, extension: &str) -> Option<FileId> {
        name.strip_suffix(extension)?
            .strip_suffix('.')?
            .parse()
            .ok()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FileId {
    type Err = ();

    fn from_str(s: &str) -> Result<FileId, ()> {
        if s.len() != 32 {
            return Err(());
        }
        u128::from_str_radix(s, 16).map(FileId).map_err(|_| ())
    }
}

/// Makes a directory and its parents, readable by their owner only, and syncs the parent of what
/// is new. After success the directory survives a power cut.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_private_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Syncs a directory: names made, renamed and removed in it before the call survive a power cut.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Syncs the whole file system that `dir` is on: bytes written and names made on it before the call
/// survive a power cut.
pub fn sync_file_system(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Replaces the content of `path`. A reader, and whoever looks after a power cut, sees the old
/// content or the new, never a mixture. After success the new content survives a power cut.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    write_atomic_with(path, |file| file.write_all(content))
}

/// Does what [`write_atomic`] does with content that is too large to be held in memory.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        let file = buffered
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_dir(
        path.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
}

/// How large a disk is and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that an ordinary user can still write.
    pub available: u64,
}

/// Returns the space of the disk that `path` lies on.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(DiskSpace {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.tmp", FileId::random())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_names() {
        let id = FileId::random();
        assert_eq!(FileId::from_name(&id.cache_name(), "cache"), Some(id));
        assert_eq!(FileId::from_name(&id.staged_name(), "staged"), Some(id));
        assert_eq!(FileId::from_name(&id.staged_name(), "cache"), None);
        assert_eq!(FileId::from_name("metadata.json", "cache"), None);
    }

    #[test]
    fn write_atomic_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
