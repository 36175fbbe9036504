//! One small file out of a zip archive.
//!
//! The archive may be as long as the songs that are packed in it, and its directory claims what it
//! wants, so only the end, a bounded part of the directory and the one file are read. An archive of
//! more than 4 GiB (zip64) is not looked into.

use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

use super::bounded;

/// The last record has so many bytes, and a comment behind them.
const END_BYTES: u64 = 22;
const MOST_COMMENT_BYTES: u64 = 65_535;
/// The most of a directory that is looked at: some ten thousand files.
const MOST_DIRECTORY_BYTES: u64 = 1 << 20;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Returns the content of the file `name`, as far as it can be unpacked.
///
/// # Errors
/// When the archive cannot be read or has no such file.
pub(super) fn entry(archive: &mut (impl Read + Seek), name: &[u8]) -> io::Result<Vec<u8>> {
    let size = archive.seek(SeekFrom::End(0))?;
    let end_start = size.saturating_sub(END_BYTES + MOST_COMMENT_BYTES);
    let end = piece(archive, end_start, size - end_start)?;
    let at = end.windows(4).rposition(|bytes| bytes == b"PK\x05\x06");
    let end = at.and_then(|at| end.get(at..)).ok_or_else(damaged)?;
    let (length, start) = (le32(end, 12)?, le32(end, 16)?);
    let directory = piece(archive, start, length.min(MOST_DIRECTORY_BYTES))?;
    let mut rest = &directory[..];
    while rest.starts_with(b"PK\x01\x02") {
        let lengths = [le16(rest, 28)?, le16(rest, 30)?, le16(rest, 32)?].map(usize::from);
        let found = rest.get(ENTRY_BYTES..ENTRY_BYTES + lengths[0]);
        if found.ok_or_else(damaged)? == name {
            return content(archive, le16(rest, 10)?, le32(rest, 20)?, le32(rest, 42)?);
        }
        let next = ENTRY_BYTES + lengths.iter().sum::<usize>();
        rest = rest.get(next..).ok_or_else(damaged)?;
    }
    Err(damaged())
}

fn content(
    archive: &mut (impl Read + Seek),
    method: u16,
    packed_bytes: u64,
    header_start: u64,
) -> io::Result<Vec<u8>> {
    let header = piece(archive, header_start, LOCAL_BYTES as u64)?;
    let names = u64::from(le16(&header, 26)?) + u64::from(le16(&header, 28)?);
    archive.seek(SeekFrom::Start(header_start + LOCAL_BYTES as u64 + names))?;
    let packed = archive.take(packed_bytes);
    match method {
        STORED => Ok(bounded(packed)),
        DEFLATED => Ok(bounded(DeflateDecoder::new(
            packed.take(super::MOST_TEXT_BYTES),
        ))),
        _ => Err(damaged()),
    }
}

fn piece(archive: &mut (impl Read + Seek), start: u64, length: u64) -> io::Result<Vec<u8>> {
    archive.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    archive.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn le16(bytes: &[u8], at: usize) -> io::Result<u16> {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes
        .map(|bytes| u16::from_le_bytes(*bytes))
        .ok_or_else(damaged)
}

fn le32(bytes: &[u8], at: usize) -> io::Result<u64> {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    let number = bytes.map(|bytes| u32::from_le_bytes(*bytes));
    number.map(u64::from).ok_or_else(damaged)
}

fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
