//! Ogg: Vorbis, Opus, FLAC and Speex. How long it plays is told by its last page alone.

use super::{Bytes, Layout, flac, rate_of};

/// A page is no longer than this, so the last one begins in so many bytes at the end.
const PAGE_BYTES: usize = 27 + 255 + 255 * 255;
/// Opus counts in this, whatever was recorded.
const OPUS_RATE: u64 = 48_000;
/// A page on which no packet ends.
const NO_POSITION: u64 = u64::MAX;

/// Returns the layout of a stream whose first page begins at `start`.
pub(super) fn layout(bytes: &Bytes<'_>, start: u64) -> Option<Layout> {
    let [segments] = bytes.array(start + 26)?;
    let packet = start + 27 + u64::from(segments);
    let name: [u8; 8] = bytes.array(packet)?;
    let (rate, nominal) = match &name {
        b"\x01vorbis\0" => {
            let bits = bytes.le32(packet + 20);
            (bytes.le32(packet + 12), bits.map(|bits| bits / 8))
        }
        b"OpusHead" => (Some(OPUS_RATE), None),
        b"Speex   " => (bytes.le32(packet + 36), None),
        _ if name.starts_with(b"\x7fFLAC") => {
            let info = flac::stream_info(bytes, packet + 17);
            (info.map(|(_, rate)| rate), None)
        }
        _ => (None, None),
    };
    let told = last_position(bytes).zip(rate);
    Some(Layout {
        head_end: packet,
        tail_start: bytes.size().saturating_sub(PAGE_BYTES as u64),
        bytes_per_second: told
            .and_then(|(samples, rate)| rate_of(bytes.size(), samples, rate))
            .or(nominal),
    })
}

/// Returns how many samples have been played with the last page.
fn last_position(bytes: &Bytes<'_>) -> Option<u64> {
    let mut end = [0; PAGE_BYTES];
    let length = PAGE_BYTES.min(usize::try_from(bytes.size()).unwrap_or(PAGE_BYTES));
    let end = &mut end[..length];
    if !bytes.0.read(bytes.size() - length as u64, end) {
        return None;
    }
    let mut positions = end.windows(14).rev().filter_map(|page| {
        let position = page.strip_prefix(b"OggS\0")?[1..].first_chunk()?;
        Some(u64::from_le_bytes(*position))
    });
    positions.find(|position| *position != NO_POSITION)
}
