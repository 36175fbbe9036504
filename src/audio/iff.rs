//! RIFF/WAVE and its 64-bit forms RF64 and BW64; AIFF and AIFC.

use super::{Bytes, Layout, MOST_STEPS, rate_of};

/// A length that stands for "see the chunk `ds64`", or that a recorder has not filled in.
const UNKNOWN_LENGTH: u64 = u32::MAX as u64;

pub(super) fn layout(bytes: &Bytes<'_>) -> Option<Layout> {
    let is_aiff = match &bytes.array(8)? {
        b"WAVE" => false,
        b"AIFF" | b"AIFC" => true,
        _ => return None,
    };
    let mut found = Layout {
        head_end: 12,
        tail_start: bytes.size(),
        bytes_per_second: None,
    };
    let mut sound = None;
    let mut long_sound = None;
    let mut frames = None;
    let mut at = 12;
    for _ in 0..MOST_STEPS {
        let (Some(name), Some(length)) = (bytes.array(at), length(bytes, at + 4, is_aiff)) else {
            break;
        };
        let body = at + 8;
        let mut end = body.saturating_add(length);
        match &name {
            b"ds64" => long_sound = bytes.le64(body + 8),
            b"fmt " => found.bytes_per_second = bytes.le32(body + 8),
            b"COMM" => frames = bytes.be32(body + 2).zip(extended(bytes, body + 8)),
            b"data" | b"SSND" => {
                if length == UNKNOWN_LENGTH {
                    end = body.saturating_add(long_sound.unwrap_or(u64::MAX));
                }
                found.head_end = body;
                found.tail_start = end;
                sound = Some(end.min(bytes.size()).saturating_sub(body));
            }
            _ => {}
        }
        // Chunks begin at even places.
        at = end.saturating_add(end & 1);
        if at >= bytes.size() {
            break;
        }
    }
    match sound {
        // Other chunks come first, and the last of them is longer than what is here.
        None => found.head_end = at,
        Some(_) if found.tail_start.saturating_add(8) >= bytes.size() => {
            found.tail_start = bytes.size();
        }
        Some(_) => {}
    }
    if let Some(((frames, rate), sound)) = frames.zip(sound) {
        found.bytes_per_second = rate_of(sound, frames, rate);
    }
    Some(found)
}

fn length(bytes: &Bytes<'_>, at: u64, is_aiff: bool) -> Option<u64> {
    match is_aiff {
        true => bytes.be32(at),
        false => bytes.le32(at),
    }
}

/// Returns the whole part of an 80-bit floating-point number, in which AIFF tells its sample rate.
fn extended(bytes: &Bytes<'_>, at: u64) -> Option<u64> {
    let exponent = bytes.be16(at)?;
    let mantissa = bytes.be64(at + 2)?;
    // The point stands 63 digits from the right at this exponent.
    let shift = u32::try_from((16_383_u64 + 63).checked_sub(exponent)?).ok()?;
    mantissa.checked_shr(shift)
}
