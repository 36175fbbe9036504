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
    /// Returns what a client has sent, as a window of one of `streams` if it is one: its bytes then
    /// need not be held, and were compared, each and every one.
    pub(crate) fn received(body: &Bytes, streams: &[Arc<str>]) -> Content {
        let window = streams.iter().find_map(|stream| {
            let offset = offset_in(stream, body)?;
            Some(Self::Generated {
                key: Arc::clone(stream),
                offset,
                len: body.len() as u64,
            })
        });
        window.unwrap_or_else(|| Self::Bytes(body.clone()))
    }

    /// Whether these are the bytes of a stream from `start` on. Cheap where they were received as
    /// such.
    pub(crate) fn is_window(&self, stream: &str, start: u64) -> bool {
        match self {
            Self::Bytes(bytes) => generated_bytes(stream, start, bytes.len()) == bytes[..],
            Self::Generated { key, offset, .. } => **key == *stream && *offset == start,
            Self::Joined(pieces) => {
                let mut start = start;
                pieces.iter().all(|piece| {
                    let at = start;
                    start += piece.len();
                    piece.is_window(stream, at)
                })
            }
        }
    }

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
    let seed = seed(key);
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

fn seed(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Returns where in the stream of a key these bytes are, if they are there, at an offset that 8
/// divides. Short ones are not looked for: they take no room.
fn offset_in(key: &str, bytes: &[u8]) -> Option<u64> {
    const LEAST_BYTES: usize = 4096;
    let first = bytes
        .first_chunk::<8>()
        .filter(|_| bytes.len() >= LEAST_BYTES)?;
    let word = unmix(u64::from_le_bytes(*first)).wrapping_sub(seed(key));
    let offset = word.checked_mul(8)?;
    let mut at = offset;
    for chunk in bytes.chunks(CHUNK_BYTES as usize) {
        if generated_bytes(key, at, chunk.len()) != chunk {
            return None;
        }
        at = at.checked_add(chunk.len() as u64)?;
    }
    Some(offset)
}

/// The inverse of [`mix`]: the factors are the inverses of its factors.
fn unmix(value: u64) -> u64 {
    let value = value ^ (value >> 31) ^ (value >> 62);
    let value = value.wrapping_mul(0x3196_42b2_d24d_8ec3);
    let value = value ^ (value >> 27) ^ (value >> 54);
    let value = value.wrapping_mul(0x96de_1b17_3f11_9089);
    let value = value ^ (value >> 30) ^ (value >> 60);
    value.wrapping_mul(0xf1de_83e1_9937_733d)
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
    fn what_is_sent_of_a_stream_is_recognised_wherever_it_is() {
        let streams: [Arc<str>; 2] = ["other".into(), "take".into()];
        for (offset, length) in [(0, 4096), (8 << 20, 600_001), ((6 << 30) + 8, 5000)] {
            let bytes = Bytes::from(generated_bytes("take", offset, length));
            let content = Content::received(&bytes, &streams);
            assert!(content.is_window("take", offset), "{offset}");
            assert!(!content.is_window("take", offset + 8));
            assert!(!content.is_window("other", offset));
            assert_eq!(content.read(0..length as u64), bytes);
            for at in [0, 7, 8, length / 2, length - 1] {
                let mut wrong = bytes.to_vec();
                wrong[at] ^= 1;
                let wrong = Content::received(&wrong.into(), &streams);
                assert!(matches!(wrong, Content::Bytes(_)), "{offset} {at}");
            }
        }
    }

    #[test]
    fn joined_windows_must_follow_each_other() {
        let window = |offset| Content::Generated {
            key: "take".into(),
            offset,
            len: 4096,
        };
        let joined = |offsets: [u64; 2]| Content::Joined(offsets.map(window).into());
        assert!(joined([8, 4104]).is_window("take", 8));
        // The last part of a large file may be a single byte, which is held.
        let last = Content::received(&generated_bytes("take", 4096, 1).into(), &["take".into()]);
        assert!(Content::Joined([window(0), last].into()).is_window("take", 0));
        assert!(!joined([0, 4104]).is_window("take", 0));
        assert!(!joined([4096, 0]).is_window("take", 4096));
        assert!(!Content::Bytes("bytes".into()).is_window("take", 0));
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
