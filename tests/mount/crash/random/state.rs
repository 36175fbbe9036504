//! What a writer's folder holds, and what it may hold when the last operation was not acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Files by their path below the folder, and the folders themselves, which end in `/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State(pub(super) BTreeMap<String, Vec<u8>>);

/// An operation on its way.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// It is done, or it is not.
    Becomes(State),
    /// Some of the bytes are written.
    Write {
        path: String,
        offset: usize,
        data: Vec<u8>,
    },
}

impl State {
    /// Reads a folder with all that is below it; one that is not there is empty.
    pub(crate) fn read(folder: &Path) -> State {
        State::try_read(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    }

    /// Reads a folder that may be out of reach for a while.
    pub(crate) fn try_read(folder: &Path) -> io::Result<State> {
        let mut state = State::default();
        if folder.try_exists()? {
            state.read_below(folder, "")?;
        }
        Ok(state)
    }

    /// The files with their bytes, and the folders, whose paths end in `/`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(path, bytes)| (path.as_str(), &bytes[..]))
    }

    fn read_below(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            if entry.file_type()?.is_dir() {
                let name = format!("{name}/");
                self.0.insert(name.clone(), Vec::new());
                self.read_below(&entry.path(), &name)?;
            } else {
                self.0.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Writes bytes into a file, which grows as it must.
    pub(crate) fn write(&mut self, path: &str, offset: usize, data: &[u8]) {
        let bytes = self.0.get_mut(path).expect("it exists");
        let end = offset + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(data);
    }

    /// Gives a file, or a folder with all that is below it, another path.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let moved: Vec<String> = match from.ends_with('/') {
            true => {
                let below = self.0.keys().filter(|path| path.starts_with(from));
                below.cloned().collect()
            }
            false => vec![from.to_owned()],
        };
        for path in moved {
            let bytes = self.0.remove(&path).expect("it exists");
            self.0.insert(format!("{to}{}", &path[from.len()..]), bytes);
        }
    }

    /// Says how `found` differs from this state, from which an operation was on its way.
    pub(crate) fn compare(&self, pending: Option<&Pending>, found: &State) -> Result<(), String> {
        let as_before = self.equals(found);
        match pending {
            None => as_before,
            Some(_) if as_before.is_ok() => Ok(()),
            Some(Pending::Becomes(after)) => after.equals(found).map_err(|after| {
                let before = as_before.unwrap_err();
                format!("neither as before ({before}) nor as after ({after})")
            }),
            Some(Pending::Write { path, offset, data }) => {
                let partly = self.with_part_of(path, *offset, data, found);
                let message = |difference| {
                    let end = offset + data.len();
                    let before = self.0.get(path).map(Vec::len);
                    format!(
                        "during a write to {path} ({before:?}) at {offset} to {end}: {difference}"
                    )
                };
                partly.equals(found).map_err(message)
            }
        }
    }

    /// Takes over from `found` as much of a write as that may have done.
    fn with_part_of(&self, path: &str, offset: usize, data: &[u8], found: &State) -> State {
        let mut partly = self.clone();
        let (Some(before), Some(found)) = (self.0.get(path), found.0.get(path)) else {
            return partly;
        };
        let end = (offset + data.len()).min(found.len());
        if found.len() < before.len() || end < offset {
            return partly;
        }
        partly.write(path, offset, &data[..end - offset]);
        let bytes = partly.0.get_mut(path).expect("just written");
        for at in offset..end {
            let old = before.get(at).copied().unwrap_or(0);
            if found[at] == old {
                bytes[at] = old;
            }
        }
        partly
    }

    fn equals(&self, found: &State) -> Result<(), String> {
        for (path, bytes) in &self.0 {
            let Some(other) = found.0.get(path) else {
                let shown: Vec<_> = found.0.keys().collect();
                return Err(format!("{path} is lost, there is {shown:?}"));
            };
            if other != bytes {
                let pairs = bytes.iter().zip(other).enumerate();
                let wrong: Vec<usize> = pairs
                    .filter(|(_, (a, b))| a != b)
                    .map(|(at, _)| at)
                    .collect();
                let zero = wrong.iter().all(|at| other[*at] == 0);
                return Err(format!(
                    "{path} has {} bytes for {}, {} wrong ones from {:?} to {:?}, all zero: {zero}",
                    other.len(),
                    bytes.len(),
                    wrong.len(),
                    wrong.first(),
                    wrong.last(),
                ));
            }
        }
        match found.0.keys().find(|path| !self.0.contains_key(*path)) {
            Some(path) => Err(format!("{path} is there again")),
            None => Ok(()),
        }
    }
}
