//! Multipart uploads that are open: their rows, and what the follower notes of them.
//!
//! An upload is noted before its first part is sent and forgotten when it is known to have ended,
//! so that a killed process leaves none in the bucket that nobody knows of.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};

use super::database::{Database, damaged, key, run, signed, unsigned};
use super::mirror::Mirror;
use super::step::Step;
use super::{Journal, JournalResult};
use crate::staging::record::{OpenUpload, SentPart, Seq};
use crate::store::{ETag, Md5, PartNumber, Upload};

impl Journal {
    /// Notes an upload that the server has begun.
    pub fn begin_upload(&self, open: OpenUpload) -> JournalResult<()> {
        self.commit(&mut self.writer.lock(), vec![Step::BeginUpload(open)])
    }

    /// Notes that the server has a part of an upload.
    pub fn note_part(&self, id: &str, number: PartNumber, part: SentPart) -> JournalResult<()> {
        let step = Step::NotePart(id.to_owned(), number, part);
        self.commit(&mut self.writer.lock(), vec![step])
    }

    /// Notes that an upload has ended, one way or the other.
    pub fn end_upload(&self, id: &str) -> JournalResult<()> {
        let step = Step::EndUpload(id.to_owned());
        self.commit(&mut self.writer.lock(), vec![step])
    }

    /// Returns the uploads that are open.
    pub fn open_uploads(&self) -> Vec<OpenUpload> {
        self.mirror.lock().open_uploads().cloned().collect()
    }
}

pub(super) fn write(connection: &Connection, open: &OpenUpload) -> JournalResult<()> {
    let sql = "INSERT OR REPLACE INTO uploads (id, key, seq, write_id) VALUES (?1, ?2, ?3, ?4)";
    run(
        connection.prepare_cached(sql),
        params![
            open.upload.id,
            open.upload.key.as_str(),
            signed(open.seq.0),
            open.write_id
        ],
    )
}

pub(super) fn write_part(
    connection: &Connection,
    id: &str,
    number: PartNumber,
    part: &SentPart,
) -> JournalResult<()> {
    let sql = "INSERT OR REPLACE INTO upload_parts (id, number, size, md5, etag) \
               VALUES (?1, ?2, ?3, ?4, ?5)";
    run(
        connection.prepare_cached(sql),
        params![
            id,
            number,
            signed(part.size),
            part.md5.0.as_slice(),
            part.etag.as_str()
        ],
    )
}

pub(super) fn remove(connection: &Connection, id: &str) -> JournalResult<()> {
    for sql in [
        "DELETE FROM uploads WHERE id = ?1",
        "DELETE FROM upload_parts WHERE id = ?1",
    ] {
        run(connection.prepare_cached(sql), [id])?;
    }
    Ok(())
}

/// Reads all of them into the mirror.
pub(super) fn load(database: &Database, mirror: &mut Mirror) -> JournalResult<()> {
    database.each("SELECT id, key, seq, write_id FROM uploads", |row| {
        mirror.begin_upload(OpenUpload {
            upload: Upload {
                id: row.get(0)?,
                key: key(row.get(1)?)?,
            },
            seq: Seq(unsigned(row.get(2)?)?),
            write_id: row.get(3)?,
            parts: BTreeMap::new(),
        });
        Ok(())
    })?;
    let sql = "SELECT id, number, size, md5, etag FROM upload_parts";
    database.each(sql, |row| {
        let id: String = row.get(0)?;
        mirror.note_part(&id, row.get(1)?, read_part(row)?);
        Ok(())
    })
}

fn read_part(row: &Row<'_>) -> JournalResult<SentPart> {
    let md5: Vec<u8> = row.get(3)?;
    let md5 = <[u8; 16]>::try_from(md5);
    Ok(SentPart {
        size: unsigned(row.get(2)?)?,
        md5: Md5(md5.map_err(|md5| damaged(format!("{} bytes of a digest", md5.len())))?),
        etag: ETag::new(&row.get::<_, String>(4)?),
    })
}
