//! The catalog of the local sample library: `catalog/samples.json`, built from the files themselves.
//!
//! Owns the walk over `samples/{genre}/{instrument}/{name}`, what is known of each file, and the format
//! of the catalog (`docs/formats.md`). It knows nothing of the bucket: samples are never in it.

mod walk;
mod wav;

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;

/// The version of the catalog's format.
const VERSION: u32 = 1;

/// The largest catalog that is read back: far above a library of `MAX_SAMPLES`, far below memory.
const MAX_CATALOG_BYTES: u64 = 1 << 30;

/// The most samples a library may have. The catalog is one JSON document that every reader loads whole;
/// beyond this it would be the wrong format, and the folder most likely the wrong folder.
const MAX_SAMPLES: usize = 1_000_000;

/// What went wrong with the catalog as a whole. A single bad sample is an entry with an `error`.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The setting names no readable folder.
    #[error("SAMPLES_DIR is {}, which cannot be opened as a folder", .0.display())]
    NoSamples(PathBuf, #[source] io::Error),
    /// Reading the library or the catalog failed.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Writing the catalog failed.
    #[error("cannot write the catalog {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The library is larger than a catalog can be.
    #[error("{} has more than {MAX_SAMPLES} samples", .0.display())]
    TooMany(PathBuf),
}

/// Everything known about a sample library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    version: u32,
    /// The samples, ordered by `local_path`.
    pub samples: Vec<Sample>,
}

/// One file of the library. What is not known is left out of the JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The path below the samples folder, with `/` between its parts.
    pub local_path: String,
    /// The first folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genre: Option<String>,
    /// The second folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instrument: Option<String>,
    /// The rest of the path, without the extension.
    pub name: String,
    /// The container: the extension in lower case (`wav`, `flac`, …).
    pub format: String,
    /// What the header says, where the format is one whose header is read (WAV).
    #[serde(flatten)]
    pub audio: Audio,
    /// The length of the file.
    pub size_bytes: u64,
    /// When the file was last changed, in UTC, to the second.
    pub mtime: String,
    /// Why the file cannot be used as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What an audio header says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Audio {
    /// `pcm`, `float`, `a-law`, `mu-law`, or `0x` and the format tag in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Frames a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate_hz: Option<u32>,
    /// 1 for mono, 2 for stereo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
    /// The bits of one value of one channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_sample: Option<u16>,
    /// The length in seconds, to the microsecond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
}

/// A catalog and what its reader should be told.
#[derive(Debug)]
pub struct Built {
    /// The catalog of what is there.
    pub catalog: Catalog,
    /// What was left out or is listed with an error, and why.
    pub warnings: Vec<String>,
}

/// How a stored catalog differs from the library. All lists hold local paths, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// In the library, not in the catalog.
    pub added: Vec<String>,
    /// In the catalog, not in the library.
    pub removed: Vec<String>,
    /// In both, with other contents.
    pub changed: Vec<String>,
}

impl Difference {
    /// Returns whether the catalog describes the library.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Builds the catalog of what is below `samples_dir`.
pub fn build(samples_dir: &Path) -> Result<Built, CatalogError> {
    let mut built = walk::walk(samples_dir)?;
    built
        .catalog
        .samples
        .sort_by(|a, b| a.local_path.cmp(&b.local_path));
    Ok(built)
}

impl Catalog {
    fn new() -> Self {
        Catalog {
            version: VERSION,
            samples: Vec::new(),
        }
    }

    /// Reads the catalog at `path`; `None` if there is none, or none that this version can read.
    pub fn read(path: &Path) -> Result<Option<Self>, CatalogError> {
        let failed = |error| CatalogError::Read(path.to_owned(), error);
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_CATALOG_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let catalog: Option<Catalog> = serde_json::from_slice(&bytes).ok();
        Ok(catalog.filter(|catalog| catalog.version == VERSION))
    }

    /// Writes the catalog to `path`: a reader sees the old one or the new one, never a part.
    pub fn write(&self, path: &Path) -> Result<(), CatalogError> {
        let failed = |error| CatalogError::Write(path.to_owned(), error);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        bytes.push(b'\n');
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        disk::write_atomic(path, &bytes).map_err(failed)?;
        // The application that looks samples up may run as someone else.
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(failed)
    }

    /// Returns how this catalog differs from the library that `actual` was built from.
    ///
    /// Times are not compared: a copy or a checkout of the same library has others.
    pub fn difference(&self, actual: &Catalog) -> Difference {
        let mut difference = Difference::default();
        let (mut stored, mut there) = (
            self.samples.iter().peekable(),
            actual.samples.iter().peekable(),
        );
        loop {
            let order = match (stored.peek(), there.peek()) {
                (None, None) => return difference,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(s), Some(t)) => s.local_path.cmp(&t.local_path),
            };
            let old = if order.is_le() { stored.next() } else { None };
            let new = if order.is_ge() { there.next() } else { None };
            match (old, new) {
                (Some(old), None) => difference.removed.push(old.local_path.clone()),
                (None, Some(new)) => difference.added.push(new.local_path.clone()),
                (Some(old), Some(new)) if !old.same_but_for_time(new) => {
                    difference.changed.push(new.local_path.clone());
                }
                _ => {}
            }
        }
    }
}

impl Sample {
    fn same_but_for_time(&self, other: &Sample) -> bool {
        let timeless = |sample: &Sample| Sample {
            mtime: String::new(),
            ..sample.clone()
        };
        timeless(self) == timeless(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A library of one good WAV, one damaged WAV, an MP3, and things that are no samples.
    fn library() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for sub in ["house/kick/909", "jazz/bass"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        let good = wav::tests::pcm(2, 48000, 24, 4800);
        std::fs::write(root.join("house/kick/deep.wav"), &good).unwrap();
        std::fs::write(root.join("house/kick/909/Tight.WAV"), &good).unwrap();
        std::fs::write(root.join("house/kick/broken.wav"), &good[..30]).unwrap();
        std::fs::write(root.join("jazz/bass/walk.mp3"), b"ID3").unwrap();
        std::fs::write(root.join("jazz/bass/walk.mp3.asd"), b"side file").unwrap();
        std::fs::write(root.join("jazz/bass/.hidden.wav"), &good).unwrap();
        std::fs::write(root.join("loose.flac"), b"fLaC").unwrap();
        folder
    }

    #[test]
    fn lists_the_library_in_order() {
        let folder = library();
        let Built { catalog, warnings } = build(folder.path()).unwrap();
        let paths: Vec<_> = catalog
            .samples
            .iter()
            .map(|s| s.local_path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "house/kick/909/Tight.WAV",
                "house/kick/broken.wav",
                "house/kick/deep.wav",
                "jazz/bass/walk.mp3",
                "loose.flac"
            ]
        );
        let deep = &catalog.samples[2];
        assert_eq!(deep.genre.as_deref(), Some("house"));
        assert_eq!(deep.instrument.as_deref(), Some("kick"));
        assert_eq!((deep.name.as_str(), deep.format.as_str()), ("deep", "wav"));
        assert_eq!(deep.audio.sample_rate_hz, Some(48000));
        assert_eq!(deep.audio.channels, Some(2));
        assert_eq!(deep.audio.bits_per_sample, Some(24));
        assert_eq!(deep.audio.duration_seconds, Some(0.1));
        assert!(
            deep.mtime.ends_with('Z') && deep.mtime.len() == 20,
            "{}",
            deep.mtime
        );

        assert_eq!(catalog.samples[0].name, "909/Tight");
        assert_eq!(catalog.samples[4].genre, None);
        assert_eq!(catalog.samples[3].audio, Audio::default());
        assert!(catalog.samples[1].error.is_some());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("house/kick/broken.wav: "),
            "{warnings:?}"
        );
    }

    #[test]
    fn does_not_follow_links_that_lead_out() {
        let folder = library();
        let outside = library();
        let root = folder.path();
        symlink(
            outside.path().join("house/kick/deep.wav"),
            root.join("house/out.wav"),
        )
        .unwrap();
        symlink("../../../../../../etc", root.join("house/etc")).unwrap();
        symlink("kick/deep.wav", root.join("house/in.wav")).unwrap();
        symlink("../house", root.join("house/loop")).unwrap();
        symlink("nothing.wav", root.join("house/nothing.wav")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo.wav"), 0o600.into()).unwrap();
        let Built { catalog, warnings } = build(root).unwrap();
        assert_eq!(catalog.samples.len(), 6, "{:?}", catalog.samples);
        assert!(
            catalog
                .samples
                .iter()
                .any(|s| s.local_path == "house/in.wav" && s.error.is_none())
        );
        for link in [
            "house/out.wav",
            "house/etc",
            "house/loop",
            "house/nothing.wav",
        ] {
            let found = warnings.iter().any(|w| w.starts_with(&format!("{link}: ")));
            assert!(found, "{link} in {warnings:?}");
        }
    }

    #[test]
    fn is_the_same_after_writing_and_reading() {
        let folder = library();
        let path = folder.path().join("new/catalog/samples.json");
        assert!(Catalog::read(&path).unwrap().is_none());
        let built = build(folder.path()).unwrap().catalog;
        built.write(&path).unwrap();
        assert_eq!(Catalog::read(&path).unwrap().unwrap(), built);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("null"),
            "what is not known is left out: {text}"
        );
        std::fs::write(&path, "{}").unwrap();
        assert!(Catalog::read(&path).unwrap().is_none());
    }

    #[test]
    fn finds_what_differs() {
        let folder = library();
        let old = build(folder.path()).unwrap().catalog;
        let mut same = old.clone();
        same.samples[0].mtime = "2001-01-01T00:00:00Z".into();
        assert!(old.difference(&same).is_empty());

        let root = folder.path();
        std::fs::rename(root.join("loose.flac"), root.join("jazz/free.flac")).unwrap();
        std::fs::write(root.join("jazz/bass/walk.mp3"), b"ID3 and more").unwrap();
        let difference = old.difference(&build(root).unwrap().catalog);
        let expected = Difference {
            added: vec!["jazz/free.flac".into()],
            removed: vec!["loose.flac".into()],
            changed: vec!["jazz/bass/walk.mp3".into()],
        };
        assert_eq!(difference, expected);
    }

    #[test]
    fn says_when_there_is_no_library() {
        let folder = tempfile::tempdir().unwrap();
        let error = build(&folder.path().join("nowhere")).unwrap_err();
        assert!(matches!(error, CatalogError::NoSamples(..)), "{error:?}");
        assert!(error.to_string().contains("SAMPLES_DIR"), "{error}");
    }
}
