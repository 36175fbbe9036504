//! A look at all that is held: is it still what its versions promise?

use std::io::ErrorKind;

use super::Cache;
use super::index::Row;
use super::place::open;
use super::verify::is_sound;

/// Rows that are read at once.
const PAGE_ROWS: u32 = 256;

/// What a look at all complete files found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Files whose bytes were compared with their tags.
    pub files: u64,
    /// Keys whose bytes were others. They were dropped, and are fetched when they are read.
    pub damaged: Vec<String>,
}

impl Cache {
    /// Reads all complete files and drops those that are not what the bucket has. Blocks, for as
    /// long as the disk takes.
    pub fn audit(&self) -> Audit {
        self.save_changed();
        let index = self.index();
        let (mut audit, mut after) = (Audit::default(), None);
        loop {
            let page = index.after(after.as_ref(), PAGE_ROWS);
            let page = self.logged(page).unwrap_or_default();
            let Some(last) = page.last() else {
                return audit;
            };
            after = Some(last.version.clone());
            for row in page.iter().filter(|row| row.complete) {
                self.audit_row(row, &mut audit);
            }
        }
    }

    fn audit_row(&self, row: &Row, audit: &mut Audit) {
        let checked = open(&self.path_of(row.id), false)
            .and_then(|file| is_sound(&file, row.size, &row.version));
        match checked {
            Ok(true) => audit.files += 1,
            // It has been evicted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(false) | Err(_) => {
                audit.files += 1;
                audit.damaged.push(row.version.key.to_string());
                log::warn!("{}: damaged on this disk, dropped", row.version.key);
                self.forget_version(&row.version);
                let observer = self.fetcher.damage_observer.lock().clone();
                if let Some(observer) = observer {
                    observer(&row.version);
                }
            }
        }
    }
}
