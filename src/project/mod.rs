//! What a project file tells of the files it needs: which names are projects, and to which paths they
//! refer.
//!
//! All of it is advice: whoever opens a project will soon want these files. A project file is
//! damaged, written by somebody who means harm, or not what its name says, so every path in it is a
//! claim, and what is read, unpacked and returned is bounded. It is searched for paths and nothing
//! else; formats that are not documented are not looked into.
//!
//! The module uses nothing of the crate, so that a fuzzer builds it alone (`fuzz/`).

mod path;
mod xml;
mod zip;

#[cfg(any(test, fuzzing))]
pub(crate) mod made_up;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, Read, Seek};

use flate2::read::{GzDecoder, ZlibDecoder};

pub use path::resolve;

/// The most of a project's text that is looked at, and read of its file: a session of a film with some
/// hundred tracks is a tenth of it.
const MOST_TEXT_BYTES: u64 = 32 << 20;
/// The most references that are returned.
pub const MOST_REFERENCES: usize = 4_096;
/// The longest of them: a key has 1,024 bytes, and each may be spelled with three characters.
pub const MOST_REFERENCE_BYTES: usize = 4_096;
/// All of them together.
const MOST_BYTES: usize = 1 << 20;

/// How a project is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Reaper: lines of text.
    Reaper,
    /// Ardour: XML.
    Ardour,
    /// Ableton Live: XML in gzip.
    Live,
    /// LMMS: XML.
    Lmms,
    /// LMMS: XML in zlib, behind its length.
    LmmsPacked,
    /// DAWproject: XML in zip.
    DawProject,
    /// Not documented.
    Closed,
}

/// What the endings of projects stand for.
const ENDINGS: &[(&str, Format)] = &[
    ("rpp", Format::Reaper),
    ("ardour", Format::Ardour),
    ("als", Format::Live),
    ("mmp", Format::Lmms),
    ("mmpz", Format::LmmsPacked),
    ("dawproject", Format::DawProject),
    ("aup", Format::Closed),
    ("aup3", Format::Closed),
    ("bwproject", Format::Closed),
    ("cpr", Format::Closed),
    ("flp", Format::Closed),
    ("ptf", Format::Closed),
    ("ptx", Format::Closed),
    ("song", Format::Closed),
];
/// Projects that are folders, and the file in them that is the project.
const BUNDLES: [&str; 2] = ["logicx", "band"];
const BUNDLE_FILE: &str = "ProjectData";

/// A project file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project<'a> {
    /// How it is written.
    pub format: Format,
    /// The folder that is the project's own; `None` if it lies among others in a collection.
    pub folder: Option<&'a str>,
}

impl<'a> Project<'a> {
    /// Returns what a path in the mount stands for; `None` if that is no project.
    pub fn of(path: &'a str) -> Option<Project<'a>> {
        let (above, name) = path.rsplit_once('/')?;
        if name == BUNDLE_FILE {
            return Project::of_bundle(path);
        }
        let format = ENDINGS.iter().find(|(ending, _)| has_ending(name, ending));
        Some(Project {
            format: format?.1,
            folder: above.contains('/').then_some(above),
        })
    }

    fn of_bundle(path: &'a str) -> Option<Project<'a>> {
        let mut folder = path;
        while let Some((above, _)) = folder.rsplit_once('/') {
            folder = above;
            let (above, name) = folder.rsplit_once('/')?;
            if BUNDLES.iter().any(|ending| has_ending(name, ending)) {
                // What lies beside it belongs to it, if they have a folder of their own.
                let folder = if above.contains('/') { above } else { folder };
                return Some(Project {
                    format: Format::Closed,
                    folder: Some(folder),
                });
            }
        }
        None
    }
}

fn has_ending(name: &str, ending: &str) -> bool {
    let parts = name.rsplit_once('.');
    parts.is_some_and(|(stem, found)| !stem.is_empty() && found.eq_ignore_ascii_case(ending))
}

/// Returns the paths that a project file refers to, as they are written there, each once. Of a
/// damaged file those before the damage.
pub fn references(format: Format, file: &mut (impl Read + Seek)) -> Vec<String> {
    let mut found = Found::default();
    let text = text(format, file).unwrap_or_default();
    match format {
        Format::Reaper => lines(&text, &mut found),
        Format::Ardour => xml::ardour(&text, &mut found),
        Format::Live => xml::live(&text, &mut found),
        Format::Lmms | Format::LmmsPacked => xml::lmms(&text, &mut found),
        Format::DawProject => xml::daw_project(&text, &mut found),
        Format::Closed => {}
    }
    found.references
}

/// Returns the text of a project, unpacked.
fn text(format: Format, file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    Ok(match format {
        Format::Reaper | Format::Ardour | Format::Lmms => bounded(file),
        Format::Live => bounded(GzDecoder::new(file.take(MOST_TEXT_BYTES))),
        Format::LmmsPacked => {
            // Qt's qCompress puts the length before it, which is a claim like any other.
            file.read_exact(&mut [0; 4])?;
            bounded(ZlibDecoder::new(file.take(MOST_TEXT_BYTES)))
        }
        Format::DawProject => zip::entry(file, b"project.xml")?,
        Format::Closed => Vec::new(),
    })
}

/// Reads until the end, the limit, or what cannot be read.
fn bounded(source: impl Read) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = source.take(MOST_TEXT_BYTES).read_to_end(&mut text);
    text
}

/// Finds the files of Reaper: `FILE "take 1.wav"`, with another quote or none where that is possible.
fn lines(text: &[u8], found: &mut Found) {
    for line in text.split(|byte| *byte == b'\n') {
        let Some(rest) = line.trim_ascii().strip_prefix(b"FILE ") else {
            continue;
        };
        let Ok(rest) = std::str::from_utf8(rest.trim_ascii_start()) else {
            continue;
        };
        let reference = match rest.chars().next() {
            Some(quote @ ('"' | '\'' | '`')) => rest[1..].split(quote).next(),
            _ => rest.split_ascii_whitespace().next(),
        };
        if !found.add(reference.unwrap_or_default()) {
            return;
        }
    }
}

/// References, in the order in which they were found.
#[derive(Default)]
struct Found {
    references: Vec<String>,
    known: HashSet<String>,
    bytes: usize,
}

impl Found {
    /// Takes a reference; whether there is room for more.
    fn add(&mut self, reference: &str) -> bool {
        let fits = (1..=MOST_REFERENCE_BYTES).contains(&reference.len());
        if fits && self.has_room() && !self.known.contains(reference) {
            self.bytes += reference.len();
            self.known.insert(reference.to_owned());
            self.references.push(reference.to_owned());
        }
        self.has_room()
    }

    fn has_room(&self) -> bool {
        self.references.len() < MOST_REFERENCES && self.bytes < MOST_BYTES
    }
}
