//! The walk over the sample library, which never leaves it.
//!
//! Every folder and file is opened with `openat2` beneath the library's root, so that neither a link nor a
//! folder that is swapped during the walk leads out.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Audio, Built, Catalog, CatalogError, MAX_SAMPLES, Sample, wav};

/// How deep folders are looked into. Two levels are the convention; this only ends a made-up maze.
const MAX_DEPTH: usize = 32;

/// The extensions of files that are samples. Everything else (side files, notes, licences) is ignored.
const AUDIO_EXTENSIONS: &[&str] = &[
    "wav", "wave", "bwf", "rf64", "w64", "aif", "aiff", "aifc", "caf", "flac", "mp3", "ogg", "oga",
    "opus", "m4a", "aac", "wv",
];

/// The extensions of files that begin with a WAV header.
const WAV_EXTENSIONS: &[&str] = &["wav", "wave", "bwf", "rf64"];

struct Walk<'a> {
    root_path: &'a Path,
    root: OwnedFd,
    built: Built,
}

/// Returns everything below `root_path`, in no order.
pub(super) fn walk(root_path: &Path) -> Result<Built, CatalogError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root_path, flags, Mode::empty())
        .map_err(|error| CatalogError::NoSamples(root_path.to_owned(), error.into()))?;
    let built = Built {
        catalog: Catalog::new(),
        warnings: Vec::new(),
    };
    let mut walk = Walk {
        root_path,
        root,
        built,
    };
    // A list of folders to do rather than recursion: the depth of the library is no depth of the stack.
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        walk.folder(&folder, &mut folders)?;
    }
    Ok(walk.built)
}

impl Walk<'_> {
    fn folder(&mut self, folder: &str, folders: &mut Vec<String>) -> Result<(), CatalogError> {
        if folder.split('/').count() > MAX_DEPTH {
            self.warn(folder, "is nested too deep and not looked into");
            return Ok(());
        }
        // No link on the way: a link to a folder was already turned down, and this one may be new.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = self.open(
            if folder.is_empty() { "." } else { folder },
            OFlags::DIRECTORY,
            resolve,
        );
        let entries = match opened.and_then(|fd| Ok(Dir::new(fd)?)) {
            Ok(entries) => entries,
            Err(error) if folder.is_empty() => return Err(self.read_failed(folder, error)),
            Err(error) => {
                self.warn(folder, &format!("cannot be read: {error}"));
                return Ok(());
            }
        };
        for entry in entries {
            let entry = entry.map_err(|error| self.read_failed(folder, error.into()))?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            let Ok(name) = name.to_str() else {
                let name = format!("{folder}/{}", name.to_string_lossy());
                self.warn(
                    name.trim_start_matches('/'),
                    "has a name that is not UTF-8 and is left out",
                );
                continue;
            };
            let path = if folder.is_empty() {
                name.to_owned()
            } else {
                format!("{folder}/{name}")
            };
            self.entry(&path, folders);
            if self.built.catalog.samples.len() > MAX_SAMPLES {
                return Err(CatalogError::TooMany(self.root_path.to_owned()));
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, folders: &mut Vec<String>) {
        // Without blocking: a FIFO would wait for a writer.
        let opened = self.open(path, OFlags::NONBLOCK, ResolveFlags::BENEATH);
        let inspected = opened.and_then(|fd| {
            let file = File::from(fd);
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match inspected {
            Ok((_, metadata)) if metadata.is_dir() => {
                if self.is_link(path) {
                    self.warn(path, "is a link to a folder and not followed");
                } else {
                    folders.push(path.to_owned());
                }
            }
            Ok((file, metadata)) if metadata.is_file() => {
                if let Some(format) = audio_format(path) {
                    let sample = sample(path, format, &file, &metadata);
                    if let Some(error) = &sample.error {
                        self.built.warnings.push(format!("{path}: {error}"));
                    }
                    self.built.catalog.samples.push(sample);
                }
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
                self.warn(
                    path,
                    "is a link that leads out of the library and not followed",
                );
            }
            Err(error) => self.warn(path, &format!("cannot be read and is left out: {error}")),
        }
    }

    fn open(&self, path: &str, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    fn is_link(&self, path: &str) -> bool {
        rustix::fs::readlinkat(&self.root, path, Vec::new()).is_ok()
    }

    fn warn(&mut self, path: &str, what: &str) {
        self.built.warnings.push(format!("{path}: {what}"));
    }

    fn read_failed(&self, folder: &str, error: io::Error) -> CatalogError {
        CatalogError::Read(self.root_path.join(folder), error)
    }
}

/// Returns the extension in lower case, if it is one of an audio file.
fn audio_format(path: &str) -> Option<String> {
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    AUDIO_EXTENSIONS
        .contains(&extension.as_str())
        .then_some(extension)
}

fn sample(path: &str, format: String, file: &File, metadata: &Metadata) -> Sample {
    let parts: Vec<&str> = path.split('/').collect();
    let folders = (parts.len() - 1).min(2);
    let name = parts[folders..].join("/");
    let stem = name.len() - format.len() - 1;
    let (audio, error) = if WAV_EXTENSIONS.contains(&format.as_str()) {
        wav::read_header(file, metadata.len())
    } else {
        (Audio::default(), None)
    };
    Sample {
        local_path: path.to_owned(),
        genre: (folders >= 1).then(|| parts[0].to_owned()),
        instrument: (folders >= 2).then(|| parts[1].to_owned()),
        name: name[..stem].to_owned(),
        format,
        audio,
        size_bytes: metadata.len(),
        mtime: rfc3339(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
        error: error.map(|error| error.to_string()),
    }
}

/// Returns the time in UTC, to the second; one that RFC 3339 cannot express as its epoch.
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at).truncate_to_second();
    at.format(&Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}
