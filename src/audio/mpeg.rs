//! MP3: frames, mostly behind an ID3v2 tag. A first frame without sound (Xing, Info, VBRI) tells how
//! many there are, if their rate varies.

use super::{Bytes, Layout, rate_of};

/// Tags in a row that are looked at.
const MOST_TAGS: usize = 4;
/// A frame is looked for in so many bytes behind the tags; some programs leave a gap.
const SEARCH_BYTES: usize = 4096;
const KILOBITS: [[u64; 14]; 2] = [
    [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];
const SAMPLE_RATES: [u64; 3] = [44_100, 48_000, 32_000];

/// Returns where the ID3v2 tags at the start of the file end.
pub(super) fn after_tags(bytes: &Bytes<'_>) -> u64 {
    let mut at = 0;
    for _ in 0..MOST_TAGS {
        let Some([b'I', b'D', b'3', _, _, flags, length @ ..]) = bytes.array::<10>(at) else {
            break;
        };
        // Seven bits of each byte count.
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
        let footer = if flags & 0x10 == 0 { 0 } else { 10 };
        at += 10 + length + footer;
    }
    at
}

/// Returns the layout of a file whose tags end at `start`.
pub(super) fn layout(bytes: &Bytes<'_>, start: u64) -> Option<Layout> {
    let (at, frame) = first_frame(bytes, start)?;
    let sound = bytes.size().saturating_sub(at);
    let counted = frame_count(bytes, at, &frame);
    let rate = counted.and_then(|frames| rate_of(sound, frames * frame.samples, frame.sample_rate));
    Some(Layout {
        head_end: at,
        tail_start: bytes.size(),
        bytes_per_second: rate.or(Some(frame.kilobits * 125)),
    })
}

/// What the header of a frame tells.
struct Frame {
    is_mpeg1: bool,
    is_mono: bool,
    kilobits: u64,
    sample_rate: u64,
    samples: u64,
    length: u64,
}

impl Frame {
    fn parse(header: [u8; 4]) -> Option<Frame> {
        let [first, second, third, fourth] = header;
        let (version, layer) = (second >> 3 & 3, second >> 1 & 3);
        // Layer III only; version 1 is reserved.
        if first != 0xff || second >> 5 != 7 || version == 1 || layer != 1 {
            return None;
        }
        let is_mpeg1 = version == 3;
        let kilobits =
            *KILOBITS[usize::from(!is_mpeg1)].get(usize::from(third >> 4).checked_sub(1)?)?;
        let halved = [2, 0, 1, 0][usize::from(version)];
        let sample_rate = SAMPLE_RATES.get(usize::from(third >> 2 & 3))? >> halved;
        let samples = if is_mpeg1 { 1152 } else { 576 };
        Some(Frame {
            is_mpeg1,
            is_mono: fourth >> 6 == 3,
            kilobits,
            sample_rate,
            samples,
            length: samples * kilobits * 125 / sample_rate + u64::from(third >> 1 & 1),
        })
    }
}

/// Returns the first frame that another follows, and where it begins.
fn first_frame(bytes: &Bytes<'_>, start: u64) -> Option<(u64, Frame)> {
    let mut near = [0; SEARCH_BYTES];
    let left = usize::try_from(bytes.size().checked_sub(start)?).unwrap_or(SEARCH_BYTES);
    let near = &mut near[..left.min(SEARCH_BYTES)];
    if !bytes.0.read(start, near) {
        return None;
    }
    near.windows(4).enumerate().find_map(|(skipped, header)| {
        let at = start + skipped as u64;
        let frame = Frame::parse(*header.first_chunk()?)?;
        let next = bytes.array(at + frame.length).and_then(Frame::parse);
        next.is_some().then_some((at, frame))
    })
}

/// Returns how many frames there are, if the frame at `at` tells.
fn frame_count(bytes: &Bytes<'_>, at: u64, frame: &Frame) -> Option<u64> {
    let side = match (frame.is_mpeg1, frame.is_mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    let xing = at + 4 + side;
    if matches!(&bytes.array(xing)?, b"Xing" | b"Info") {
        let has_count = bytes.be32(xing + 4)? & 1 != 0;
        return bytes.be32(xing + 8).filter(|_| has_count);
    }
    let vbri = at + 4 + 32;
    match &bytes.array(vbri)? == b"VBRI" {
        true => bytes.be32(vbri + 14),
        false => None,
    }
}
