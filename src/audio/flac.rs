//! FLAC.

use super::{Bytes, Layout, MOST_STEPS, rate_of};

const STREAMINFO: u8 = 0;
/// The first bit of a block's header: no other follows.
const LAST: u8 = 0x80;

/// Returns the layout of a stream that begins at `start`.
pub(super) fn layout(bytes: &Bytes<'_>, start: u64) -> Layout {
    let mut at = start + 4;
    let mut samples_and_rate = None;
    for _ in 0..MOST_STEPS {
        let Some([kind, a, b, c]) = bytes.array(at) else {
            break;
        };
        if kind & !LAST == STREAMINFO {
            samples_and_rate = stream_info(bytes, at + 4);
        }
        at += 4 + u64::from(u32::from_be_bytes([0, a, b, c]));
        if kind & LAST != 0 {
            break;
        }
    }
    let sound = bytes.size().saturating_sub(at);
    Layout {
        head_end: at,
        tail_start: bytes.size(),
        bytes_per_second: samples_and_rate
            .and_then(|(samples, rate)| rate_of(sound, samples, rate)),
    }
}

/// Returns how many samples there are, and how many are a second, as a STREAMINFO block tells.
pub(super) fn stream_info(bytes: &Bytes<'_>, at: u64) -> Option<(u64, u64)> {
    let packed = bytes.be64(at + 10)?;
    Some((packed & ((1 << 36) - 1), packed >> 44))
}
