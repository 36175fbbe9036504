//! What is never sent: new files whose names keep them on this disk.

use super::Journal;
use crate::config::NamePatterns;
use crate::staging::{Change, Record};

impl Journal {
    /// Sets the names of files and folders that stay on this disk, once.
    pub fn set_side_files(&self, names: NamePatterns) {
        // A second call would come from a second mount of this journal, which there is not.
        let _ = self.side_files.set(names);
    }

    /// Whether what is new under this path, a folder's with a `/` at its end, stays on this disk.
    pub fn is_side_file(&self, path: &str) -> bool {
        self.side_files.get().is_some_and(|names| names.has(path))
    }

    /// Whether a record is kept and never sent: that of a new file with a name that stays on this disk.
    /// What the bucket holds goes on to be the bucket's under any name.
    pub fn stays_here(&self, record: &Record) -> bool {
        let is_new = record.base.is_none()
            && matches!(record.change, Change::Put { .. } | Change::Folder { .. });
        is_new && self.is_side_file(record.key.as_str())
    }

    /// Whether a record is sent as things are, once no program has its file open.
    pub fn goes(&self, record: &Record) -> bool {
        !record.waits_for_somebody() && !self.stays_here(record)
    }
}
