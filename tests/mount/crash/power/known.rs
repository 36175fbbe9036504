//! What a folder may hold after a power cut: one of the states since the last sync, and in each
//! file the bytes that were synced and not written again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::super::random::state::State;

/// Names one file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileNumber(u64);

/// Files by path; folders end in `/` and have no number.
pub(super) type Names = BTreeMap<String, Option<FileNumber>>;

/// The bytes of a file, and which of them are synced.
#[derive(Clone, Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    /// From here on nothing is synced: it was cut off or never synced since.
    synced_up_to: usize,
    /// Written since the last sync.
    unsynced: Vec<Range<usize>>,
}

impl Bytes {
    fn is_synced(&self, at: usize) -> bool {
        at < self.synced_up_to && !self.unsynced.iter().any(|range| range.contains(&at))
    }
}

/// All that is known of a folder.
#[derive(Debug, Default)]
pub(super) struct Known {
    files: HashMap<FileNumber, Bytes>,
    made: u64,
    /// The states of the names that a cut may bring back: the one at the last sync first, the last
    /// acknowledged one last.
    states: Vec<Names>,
    /// What an operation that was not acknowledged may have made of them.
    pending: Option<Names>,
}

impl Known {
    /// What was found is where everything starts anew, and all of it is on the disk.
    pub(super) fn start(found: &State) -> Known {
        let mut known = Known::default();
        let mut names = Names::new();
        for (path, bytes) in found.entries() {
            let number = (!path.ends_with('/')).then(|| {
                let number = known.new_file();
                let file = known.files.entry(number).or_default();
                file.now = bytes.to_vec();
                file.synced_up_to = bytes.len();
                number
            });
            names.insert(path.to_owned(), number);
        }
        known.states.push(names);
        known
    }

    pub(super) fn names(&self) -> &Names {
        self.states.last().expect("there is always one")
    }

    pub(super) fn bytes(&self, path: &str) -> &[u8] {
        &self.files[&self.number(path)].now
    }

    pub(super) fn number(&self, path: &str) -> FileNumber {
        self.names()[path].expect("it is a file")
    }

    pub(super) fn new_file(&mut self) -> FileNumber {
        self.made += 1;
        let number = FileNumber(self.made);
        self.files.insert(number, Bytes::default());
        number
    }

    /// An operation on names begins.
    pub(super) fn begin(&mut self, after: Names) {
        self.pending = Some(after);
    }

    /// It was acknowledged.
    pub(super) fn acknowledged(&mut self) {
        self.states.extend(self.pending.take());
    }

    /// A write begins; from here on the bytes it is about may be anything.
    pub(super) fn write(&mut self, file: FileNumber, offset: usize, data: &[u8]) {
        let bytes = self.files.get_mut(&file).expect("it is known");
        let end = offset + data.len();
        bytes.unsynced.push(offset.min(bytes.now.len())..end);
        if bytes.now.len() < end {
            bytes.now.resize(end, 0);
        }
        bytes.now[offset..end].copy_from_slice(data);
    }

    /// A truncation begins.
    pub(super) fn truncate(&mut self, file: FileNumber, length: usize) {
        let bytes = self.files.get_mut(&file).expect("it is known");
        bytes.synced_up_to = bytes.synced_up_to.min(length);
        bytes.now.resize(length, 0);
    }

    /// An `fsync` of a file was acknowledged.
    pub(super) fn synced(&mut self, file: FileNumber) {
        let bytes = self.files.get_mut(&file).expect("it is known");
        bytes.synced_up_to = bytes.now.len();
        bytes.unsynced.clear();
        self.names_synced();
    }

    /// An `fsync` of a folder was acknowledged: nothing that was before comes back.
    pub(super) fn names_synced(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// Says why `found` cannot be what a power cut has left.
    pub(super) fn compare(&self, found: &State) -> Result<(), String> {
        let shown: Vec<&str> = found.entries().map(|(path, _)| path).collect();
        let states = self.states.iter().chain(&self.pending);
        let mut reasons = Vec::new();
        for names in states.clone() {
            if !names.keys().eq(&shown) {
                continue;
            }
            match self.compare_bytes(names, found) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            let states: Vec<_> = states.map(|names| names.keys()).collect();
            return Err(format!("{shown:?} is none of {states:?}"));
        }
        Err(reasons.join("; or "))
    }

    fn compare_bytes(&self, names: &Names, found: &State) -> Result<(), String> {
        for (path, bytes) in found.entries() {
            let Some(number) = names[path] else { continue };
            let file = &self.files[&number];
            if bytes.len() < file.synced_up_to {
                let (has, wants) = (bytes.len(), file.synced_up_to);
                return Err(format!("{path} has {has} bytes, {wants} are synced"));
            }
            let wrong = |at: &usize| bytes[*at] != file.now[*at] && file.is_synced(*at);
            if let Some(at) = (0..file.synced_up_to).find(wrong) {
                let count = (0..file.synced_up_to).filter(wrong).count();
                let zero = bytes.iter().all(|byte| *byte == 0);
                return Err(format!(
                    "{path} ({} bytes, all zero: {zero}): {count} synced bytes of {} are wrong, \
                     the first at {at}",
                    bytes.len(),
                    file.synced_up_to
                ));
            }
        }
        Ok(())
    }
}
