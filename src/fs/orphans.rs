//! Staged files that no record names, as after the loss of a journal: their bytes are all that is
//! known of them. They are shown, and become files again when somebody asks for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::Fs;
use super::conflict::marked_name;
use super::undo::Restored;
use crate::error::{FsError, FsResult};
use crate::staging::{Kept, Orphan};
use crate::store::Key;
use crate::store::attributes::FileAttributes;

/// The folder that they go to, in the first collection, unless another is named.
const FOLDER: &str = "recovered";

/// How the kinds of files begin that people work with: where, with what, and their usual ending.
const KINDS: [(usize, &[u8], &str); 12] = [
    (8, b"WAVE", ".wav"),
    (8, b"AIFF", ".aiff"),
    (8, b"AIFC", ".aiff"),
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"ID3", ".mp3"),
    (0, &[0xff, 0xfb], ".mp3"),
    (4, b"ftyp", ".m4a"),
    (0, b"MThd", ".mid"),
    (0, b"<REAPER_PROJECT", ".rpp"),
    (0, b"SQLite format 3\0", ".db"),
    (0, b"PK\x03\x04", ".zip"),
];

/// A staged file that no record names.
#[derive(Clone, Debug, PartialEq)]
pub struct Nameless {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// The name that it will be given.
    pub name: String,
}

impl Fs {
    pub(super) fn note_orphans(&self, orphans: Vec<Orphan>) {
        for orphan in &orphans {
            let path = orphan.path.display();
            log::warn!("{path}: no record names it; voicebeatfs queue adopt makes it a file");
        }
        *self.orphans.lock() = orphans;
    }

    /// Returns how many staged files no record names, and their bytes.
    pub fn orphan_size(&self) -> (u64, u64) {
        let orphans = self.orphans.lock();
        let bytes = orphans.iter().map(|orphan| orphan.length).sum();
        (orphans.len() as u64, bytes)
    }

    /// Returns them.
    pub fn orphans(&self) -> Vec<Nameless> {
        let orphans = self.orphans.lock().clone();
        orphans.into_iter().map(nameless).collect()
    }

    /// Makes files of them, in `folder` or in `recovered` in the first collection. What fails stays
    /// as it is.
    ///
    /// # Errors
    /// If there can be no files in that folder, with the reason.
    pub fn adopt_orphans(self: &Arc<Self>, folder: Option<&str>) -> Result<Restored, String> {
        let collections = &self.options.collections;
        let usual = || collections.first().map(|first| format!("{first}/{FOLDER}"));
        let folder = folder.map(str::to_owned).or_else(usual).unwrap_or_default();
        let folder = folder.trim_matches('/');
        let top = folder.split('/').next().unwrap_or_default();
        if !collections.iter().any(|collection| collection == top) {
            let known = collections.join(", ");
            return Err(format!(
                "{folder:?} is not in one of the collections {known}"
            ));
        }
        let mut restored = Restored::default();
        // Taken out meanwhile, so that each is adopted once, whoever else asks.
        let orphans = std::mem::take(&mut *self.orphans.lock());
        for orphan in orphans {
            match self.adopt(&orphan, folder) {
                Ok(done) => restored.done.push(done),
                Err(error) => {
                    let path = orphan.path.display().to_string();
                    restored.failed.push((path, error.to_string()));
                    self.orphans.lock().push(orphan);
                }
            }
        }
        Ok(restored)
    }

    /// Returns the name that was meant for the file, and the one that it has.
    fn adopt(self: &Arc<Self>, orphan: &Orphan, folder: &str) -> FsResult<(Key, Key)> {
        let Nameless { modified, name, .. } = nameless(orphan.clone());
        let key = Key::new(&format!("{folder}/{name}")).ok_or(FsError::NameTooLong)?;
        let parent = self.folder_above(key.as_str())?;
        let file = Kept {
            file: orphan.file,
            key: key.clone(),
            attributes: FileAttributes::default(),
            length: orphan.length,
            at: modified,
            replaced: false,
        };
        let shown = self.show_kept_again(&file, parent, Vec::new())?;
        Ok((key, shown))
    }
}

fn nameless(orphan: Orphan) -> Nameless {
    let status = std::fs::metadata(&orphan.path);
    let modified = status.and_then(|status| status.modified());
    let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
    let stem = format!("file{}", ending(&beginning(&orphan.path)));
    Nameless {
        name: marked_name(&stem, "recovered", modified, 1),
        path: orphan.path,
        length: orphan.length,
        modified,
    }
}

/// Returns the first bytes of a file; what cannot be read has none.
fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    let read = File::open(path).and_then(|file| file.read_at(&mut bytes, 0));
    bytes.truncate(read.unwrap_or(0));
    bytes
}

/// Returns the ending that programs know a file by which begins with these bytes.
fn ending(bytes: &[u8]) -> &'static str {
    let is_it = |(at, mark, _): &&(usize, &[u8], &str)| {
        bytes
            .get(*at..)
            .is_some_and(|bytes| bytes.starts_with(mark))
    };
    KINDS.iter().find(is_it).map_or("", |(_, _, ending)| ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_bytes() {
        for (bytes, expected) in [
            (&b"RIFF\x24\0\0\0WAVEfmt "[..], ".wav"),
            (b"FORM\0\0\0\x24AIFFCOMM", ".aiff"),
            (b"fLaC\0\0\0\x22", ".flac"),
            (b"\xff\xfb\x90\x44", ".mp3"),
            (b"SQLite format 3\0", ".db"),
            (b"SQLite", ""),
            (b"", ""),
        ] {
            assert_eq!(ending(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
