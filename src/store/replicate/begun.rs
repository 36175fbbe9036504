//! The multipart uploads of copies that are begun and not ended: a list that outlives the process.
//!
//! An upload is written down before its first part goes. A run that was killed leaves its parts in the
//! bucket, where they cost; the next one goes on with them, or takes them back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::store::{ETag, Key, Upload};

const FILE: &str = "copies.json";

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    /// Endpoint, bucket and prefix.
    bucket: String,
    key: String,
    id: String,
    /// The tag that the object will have: it tells bytes and parts of the local file.
    etag: String,
}

/// The uploads into one bucket. One process at a time has the list of a directory.
#[derive(Debug)]
pub struct BegunCopies {
    dir: PathBuf,
    bucket: String,
    /// Whether the directory was made for the list.
    made: bool,
    _lock: File,
    /// Held while the file is written: it must not go back to an older list.
    writing: Mutex<()>,
    /// Taken after `writing`.
    all: Mutex<Vec<Begun>>,
}

impl BegunCopies {
    /// Loads the list from `dir`, which is made if it is missing. A damaged one is an error: taken for
    /// empty, parts would stay in the bucket.
    ///
    /// # Errors
    /// What the disk says; `WouldBlock` while another process has the list.
    pub fn open(dir: &Path, bucket: String) -> io::Result<BegunCopies> {
        let made = !dir.exists();
        disk::create_private_dir(dir)?;
        let lock = File::open(dir)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(BegunCopies {
            all: Mutex::new(load(dir)?),
            dir: dir.to_owned(),
            bucket,
            made,
            _lock: lock,
            writing: Mutex::default(),
        })
    }

    /// Returns how many uploads the list in `dir` has, into any bucket.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn count(dir: &Path) -> io::Result<usize> {
        load(dir).map(|all| all.len())
    }

    /// Returns the upload of an object that will have this tag.
    pub(super) fn find(&self, key: &Key, etag: &ETag) -> Option<Upload> {
        let all = self.all.lock();
        let found = all.iter().filter(|begun| begun.bucket == self.bucket);
        let mut found =
            found.filter(|begun| begun.key == key.as_str() && begun.etag == etag.as_str());
        found.next().and_then(upload)
    }

    /// Adds an upload.
    pub(super) fn begin(&self, upload: &Upload, etag: &ETag) -> io::Result<()> {
        self.change(|all| {
            all.push(Begun {
                bucket: self.bucket.clone(),
                key: upload.key.to_string(),
                id: upload.id.clone(),
                etag: etag.to_string(),
            });
        })
    }

    /// Leaves an upload out, that is completed or taken back.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end(&self, upload: &Upload) -> io::Result<()> {
        let is_it = |begun: &Begun| begun.bucket == self.bucket && begun.id == upload.id;
        self.change(|all| all.retain(|begun| !is_it(begun)))
    }

    /// Returns the uploads into this bucket.
    pub fn uploads(&self) -> Vec<Upload> {
        let all = self.all.lock();
        let of_bucket = all.iter().filter(|begun| begun.bucket == self.bucket);
        of_bucket.filter_map(upload).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Begun>)) -> io::Result<()> {
        let _writing = self.writing.lock();
        let mut all = self.all.lock().clone();
        change(&mut all);
        let file = self.dir.join(FILE);
        match all.is_empty() {
            true => fs::remove_file(&file)?,
            false => disk::write_atomic(&file, &serde_json::to_vec_pretty(&all)?)?,
        }
        *self.all.lock() = all;
        Ok(())
    }
}

impl Drop for BegunCopies {
    fn drop(&mut self) {
        if self.made {
            // Stays if anything is in it by now.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn load(dir: &Path) -> io::Result<Vec<Begun>> {
    match fs::read(dir.join(FILE)) {
        Ok(content) => Ok(serde_json::from_slice(&content)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn upload(begun: &Begun) -> Option<Upload> {
    Some(Upload {
        key: Key::new(&begun.key)?,
        id: begun.id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_known_to_the_next_and_to_no_other_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("staging");
        let open = |bucket: &str| BegunCopies::open(&dir, bucket.to_owned());
        let key = Key::new("projects/a.wav").unwrap();
        let (one, other) = (ETag::new("\"1-2\""), ETag::new("\"2-2\""));
        let upload = Upload {
            key: key.clone(),
            id: "id".into(),
        };
        let begun = open("b").unwrap();
        begun.begin(&upload, &one).unwrap();
        let held = open("b").unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        drop(begun);
        assert_eq!(open("c").unwrap().uploads(), []);
        assert_eq!(BegunCopies::count(&dir).unwrap(), 1);
        let begun = open("b").unwrap();
        assert_eq!(begun.find(&key, &one), Some(upload.clone()));
        assert_eq!(begun.find(&key, &other), None);
        begun.end(&upload).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        drop(begun);
        fs::write(dir.join(FILE), "damaged").unwrap();
        assert!(open("b").is_err());
        fs::remove_dir_all(&dir).unwrap();
        // Made for nothing, it goes again.
        drop(open("b").unwrap());
        assert!(!dir.exists());
    }
}
