//! `metadata.json`: the entries of the cache, for people and scripts. Nothing reads it back.
//!
//! The format is described in `docs/formats.md`, section "Cache".

use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Cache;
use super::index::Row;
use crate::disk;

/// File name in the cache directory.
const EXPORT_NAME: &str = "metadata.json";
/// Raised when a field changes its meaning.
const FORMAT_VERSION: u32 = 1;
/// Entries read at once.
const PAGE_ROWS: u32 = 500;

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    etag: &'a str,
    file: String,
    size: u64,
    held_bytes: u64,
    complete: bool,
    fetched_at: String,
    last_used: String,
    expires_at: String,
}

impl Cache {
    /// Writes the entries of the index, if they have changed since.
    pub(super) fn export(&self) {
        let index = self.index();
        let changes = index.changes();
        if self
            .exported
            .swap(changes, std::sync::atomic::Ordering::Relaxed)
            == changes
            && self.options.dir.join(EXPORT_NAME).exists()
        {
            return;
        }
        let path = self.options.dir.join(EXPORT_NAME);
        self.logged(disk::write_atomic_with(&path, |file| {
            self.write_entries(file)
        }));
    }

    fn write_entries(&self, file: &mut impl Write) -> io::Result<()> {
        let index = self.index();
        let now = rfc3339(self.clock.now());
        write!(
            file,
            "{{\"version\":{FORMAT_VERSION},\"exported_at\":\"{now}\",\"entries\":["
        )?;
        let mut last: Option<Row> = None;
        loop {
            let page = index.after(last.as_ref().map(|row| &row.version), PAGE_ROWS)?;
            for row in &page {
                file.write_all(if last.is_none() { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut *file, &self.entry(row))?;
                last = Some(row.clone());
            }
            if page.is_empty() {
                break;
            }
        }
        file.write_all(b"\n]}\n")
    }

    fn entry<'a>(&self, row: &'a Row) -> Entry<'a> {
        Entry {
            key: row.version.key.as_str(),
            etag: row.version.etag.as_str(),
            file: row.id.cache_name(),
            size: row.size,
            held_bytes: row.present.bytes(),
            complete: row.complete,
            fetched_at: rfc3339(row.fetched_at),
            last_used: rfc3339(row.used_at),
            expires_at: rfc3339(row.fetched_at + self.options.ttl),
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}
