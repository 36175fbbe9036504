//! What the first bytes of an audio file tell about the rest: how many bytes a second it plays,
//! and where the tables and tags are that programs look at before they play.
//!
//! All of it is advice. Files are damaged, cut off or not what they claim to be, so every number
//! in them is a claim: a wrong one may make reading slower and nothing else. The work is bounded
//! whatever the bytes are, nothing is allocated, and bytes that are not here are never asked for.
//! Libraries that parse these formats want to read on until they are done; this stops where the
//! bytes end.
//!
//! The module uses nothing of the crate, so that a fuzzer builds it alone (`fuzz/`).

mod flac;
mod iff;
mod mp4;
mod mpeg;
mod ogg;

#[cfg(any(test, fuzzing))]
pub(crate) mod damaged;
#[cfg(test)]
mod tests;

/// Chunks, boxes or blocks of one file that are looked at.
const MOST_STEPS: usize = 64;
/// What a file can play a second: speech in Opus at the least, 64 channels in 192 kHz at the most.
const BYTES_PER_SECOND: std::ops::RangeInclusive<u64> = 500..=100_000_000;

/// Bytes of a file, of which some are here.
pub(crate) trait Source {
    /// Returns the length of the file.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset`; false if any of them is not here.
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool;
}

/// Where things are in an audio file, as far as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Tables and tags reach from the start of the file to here.
    pub(crate) head_end: u64,
    /// And from here to its end; the length of the file if there are none.
    pub(crate) tail_start: u64,
    /// How much of the file a player needs for a second.
    pub(crate) bytes_per_second: Option<u64>,
}

/// Returns what the bytes that are here tell; `None` if they are not known as audio.
pub(crate) fn layout(source: &dyn Source) -> Option<Layout> {
    let bytes = Bytes(source);
    let sound = mpeg::after_tags(&bytes);
    let Some(name) = bytes.array(sound) else {
        // A tag that is longer than what is here, with a picture in it.
        return (sound > 0).then(|| Layout {
            head_end: sound.min(source.size()),
            tail_start: source.size(),
            bytes_per_second: None,
        });
    };
    let found = match &name {
        b"RIFF" | b"RF64" | b"BW64" | b"FORM" => iff::layout(&bytes)?,
        b"fLaC" => flac::layout(&bytes, sound),
        b"OggS" => ogg::layout(&bytes, sound)?,
        _ => mp4::layout(&bytes).or_else(|| mpeg::layout(&bytes, sound))?,
    };
    let head_end = found.head_end.min(source.size());
    Some(Layout {
        head_end,
        tail_start: found.tail_start.clamp(head_end, source.size()),
        bytes_per_second: found
            .bytes_per_second
            .filter(|rate| BYTES_PER_SECOND.contains(rate)),
    })
}

/// Numbers and names in a source.
struct Bytes<'a>(&'a dyn Source);

impl Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut array = [0; N];
        let end = offset.checked_add(N as u64)?;
        (end <= self.size() && self.0.read(offset, &mut array)).then_some(array)
    }

    fn be16(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u16::from_be_bytes).map(u64::from)
    }

    fn be32(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u32::from_be_bytes).map(u64::from)
    }

    fn be64(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_be_bytes)
    }

    fn le32(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u32::from_le_bytes).map(u64::from)
    }

    fn le64(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

/// Returns the bytes a second of `bytes` that play for `units` of which `rate` are a second.
fn rate_of(bytes: u64, units: u64, rate: u64) -> Option<u64> {
    let product = u128::from(bytes) * u128::from(rate);
    u64::try_from(product.checked_div(u128::from(units))?).ok()
}
