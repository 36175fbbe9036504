//! As whom this staging directory holds leases.

use super::Journal;
use super::error::JournalResult;
use super::step::Step;
use crate::disk::FileId;

/// Name of the entry in `meta` that has the id.
const HOLDER: &str = "holder";

impl Journal {
    /// Returns an id that no other staging directory has. It stays the same, so that a mount knows the
    /// leases of its former life.
    ///
    /// # Errors
    /// Those of the database.
    pub fn holder_id(&self) -> JournalResult<String> {
        let mut writer = self.writer.lock();
        if let Some(id) = writer.database.meta(HOLDER)? {
            return Ok(id);
        }
        let id = FileId::random().to_string();
        self.commit(&mut writer, vec![Step::Meta(HOLDER, id.clone())])?;
        Ok(id)
    }
}
