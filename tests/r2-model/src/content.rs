//! What an object holds: bytes in memory, or bytes computed from key and offset.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// How much of an object is produced at a time when it is sent.
pub(crate) const CHUNK_BYTES: u64 = 256 * 1024;

/// The content of an object or a part; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// A window of the endless stream that belongs to a key.
    Generated {
        key: Arc<str>,
        offset: u64,
        len: u64,
    },
    /// One after the other: a completed multipart upload.
    Joined(Arc<[Content]>),
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Generated { len, .. } => *len,
            Self::Joined(pieces) => pieces.iter().map(Content::len).sum(),
        }
    }

    /// Returns the bytes of a range, which must lie inside the content.
    pub(crate) fn read(&self, range: Range<u64>) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.slice(range.start as usize..range.end as usize),
            Self::Generated { key, offset, .. } => {
                let len = (range.end - range.start) as usize;
                generated_bytes(key, offset + range.start, len).into()
            }
            Self::Joined(_) => {
                let mut joined = BytesMut::with_capacity((range.end - range.start) as usize);
                if let Self::Joined(pieces) = self.window(range) {
                    for piece in pieces.iter() {
                        joined.extend_from_slice(&piece.read(0..piece.len()));
                    }
                }
                joined.freeze()
            }
        }
    }

    /// Returns a range as content of its own, without copying.
    pub(crate) fn window(&self, range: Range<u64>) -> Content {
        match self {
            Self::Bytes(bytes) => {
                Self::Bytes(bytes.slice(range.start as usize..range.end as usize))
            }
            Self::Generated { key, offset, .. } => Self::Generated {
                key: Arc::clone(key),
                offset: offset + range.start,
                len: range.end - range.start,
            },
            Self::Joined(pieces) => {
                let mut start = 0;
                let mut windows = Vec::new();
                for piece in pieces.iter() {
                    let end = start + piece.len();
                    let from = range.start.max(start);
                    let to = range.end.min(end);
                    if from < to {
                        windows.push(piece.window(from - start..to - start));
                    }
                    start = end;
                }
                Self::Joined(windows.into())
            }
        }
    }
}

/// Returns bytes of the endless stream that belongs to `key`: the same for the same arguments,
/// and consistent between overlapping windows.
///
/// Objects made with [`R2Model::put_generated`](crate::R2Model::put_generated) hold these bytes
/// from offset 0, so a test of large objects can compare without holding them.
pub fn generated_bytes(key: &str, offset: u64, len: usize) -> Vec<u8> {
    let seed = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(len + 16);
    let mut word = offset / 8;
    let skip = (offset % 8) as usize;
    while bytes.len() < skip + len {
        bytes.extend_from_slice(&mix(seed.wrapping_add(word)).to_le_bytes());
        word += 1;
    }
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    bytes
}

/// The output function of SplitMix64.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_generated_bytes_agree() {
        let whole = generated_bytes("a.wav", 0, 100);
        for start in 0..20 {
            assert_eq!(
                generated_bytes("a.wav", start, 50),
                whole[start as usize..][..50]
            );
        }
        assert_ne!(generated_bytes("b.wav", 0, 100), whole);
        assert!(generated_bytes("a.wav", 5, 0).is_empty());
    }

    #[test]
    fn joined_content_reads_across_its_pieces() {
        let joined = Content::Joined(
            vec![
                Content::Bytes(Bytes::from_static(b"abc")),
                Content::Bytes(Bytes::from_static(b"")),
                Content::Joined(vec![Content::Bytes(Bytes::from_static(b"defg"))].into()),
            ]
            .into(),
        );
        assert_eq!(joined.len(), 7);
        assert_eq!(joined.read(0..7), "abcdefg");
        assert_eq!(joined.read(2..5), "cde");
        assert_eq!(joined.window(2..6).read(1..3), "de");
        assert!(joined.read(3..3).is_empty());
    }
}
