//! What a WAV header says: RIFF, RF64 and BW64, plain and `WAVE_FORMAT_EXTENSIBLE`.
//!
//! Reads chunk headers and the `fmt ` chunk only, never the audio, and no more than a bounded number of
//! them: the file may be damaged or made to waste time.

use std::io::{self, Read, Seek, SeekFrom};

use super::Audio;

/// The most chunks that are looked at before `data`. Broadcast and DAW files have about ten.
const MAX_CHUNKS: usize = 1_000;

const FORMAT_PCM: u16 = 0x0001;
const FORMAT_FLOAT: u16 = 0x0003;
const FORMAT_ALAW: u16 = 0x0006;
const FORMAT_MULAW: u16 = 0x0007;
const FORMAT_EXTENSIBLE: u16 = 0xFFFE;

/// What follows the format tag in the sub-format of an extensible header.
const SUBFORMAT_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71];

/// A size that the writer did not know yet: it streamed, or RF64 has it in `ds64`.
const SIZE_UNKNOWN: u32 = u32::MAX;

/// Why a WAV file cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum WavError {
    #[error("not a WAV file: it does not begin with RIFF … WAVE")]
    NotWav,
    #[error("damaged WAV: the file ends inside its header")]
    CutHeader,
    #[error("damaged WAV: no '{0}' chunk")]
    NoChunk(&'static str),
    #[error("damaged WAV: the format says {0}")]
    BadFormat(String),
    #[error("damaged WAV: {present} of {promised} bytes of audio are there")]
    CutAudio { present: u64, promised: u64 },
    #[error("damaged WAV: more than {MAX_CHUNKS} chunks before the audio")]
    TooManyChunks,
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for WavError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => WavError::CutHeader,
            _ => WavError::Io(error),
        }
    }
}

/// The `fmt ` chunk.
struct Format {
    tag: u16,
    channels: u16,
    sample_rate_hz: u32,
    bytes_per_second: u32,
    bytes_per_frame: u16,
    bits_per_sample: u16,
}

/// Returns what the header of a file of `size` bytes says, and what is wrong with it.
pub(super) fn read_header(file: impl Read + Seek, size: u64) -> (Audio, Option<WavError>) {
    let mut audio = Audio::default();
    let error = parse(file, size, &mut audio).err();
    (audio, error)
}

fn parse(mut file: impl Read + Seek, size: u64, audio: &mut Audio) -> Result<(), WavError> {
    let mut riff = [0; 12];
    file.read_exact(&mut riff)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => WavError::NotWav,
            _ => WavError::Io(error),
        })?;
    if !matches!(&riff[..4], b"RIFF" | b"RF64" | b"BW64") || &riff[8..] != b"WAVE" {
        return Err(WavError::NotWav);
    }
    let mut format = None;
    let (mut data_bytes_64, mut frames) = (None, None);
    let mut at = riff.len() as u64;
    for _ in 0..MAX_CHUNKS {
        if at + 8 > size {
            return Err(WavError::NoChunk(if format.is_none() {
                "fmt "
            } else {
                "data"
            }));
        }
        file.seek(SeekFrom::Start(at))?;
        let id: [u8; 4] = read_array(&mut file)?;
        let length = u32::from_le_bytes(read_array(&mut file)?);
        at += 8;
        match &id {
            b"ds64" => {
                let sizes: [u8; 24] = read_array(&mut file)?;
                data_bytes_64 = Some(u64_at(&sizes, 8));
                frames = Some(u64_at(&sizes, 16)).filter(|&frames| frames > 0);
            }
            b"fact" if length >= 4 => {
                let count = u32::from_le_bytes(read_array(&mut file)?);
                frames = frames.or((count != SIZE_UNKNOWN && count > 0).then_some(count.into()));
            }
            b"fmt " => {
                let parsed = parse_format(&mut file, length)?;
                parsed.describe(audio);
                parsed.check()?;
                format = Some(parsed);
            }
            b"data" => {
                let format = format.ok_or(WavError::NoChunk("fmt "))?;
                let present = size - at;
                let promised = match length {
                    SIZE_UNKNOWN => data_bytes_64.unwrap_or(present),
                    known => known.into(),
                };
                let seconds = format.seconds(promised.min(present), frames);
                audio.duration_seconds = Some((seconds * 1e6).round() / 1e6);
                if promised > present {
                    return Err(WavError::CutAudio { present, promised });
                }
                return Ok(());
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        at += u64::from(length) + u64::from(length % 2);
    }
    Err(WavError::TooManyChunks)
}

fn parse_format(file: &mut impl Read, length: u32) -> Result<Format, WavError> {
    if length < 16 {
        return Err(WavError::BadFormat(format!("it is {length} bytes long")));
    }
    let bytes: [u8; 16] = read_array(file)?;
    let mut format = Format {
        tag: u16_at(&bytes, 0),
        channels: u16_at(&bytes, 2),
        sample_rate_hz: u32_at(&bytes, 4),
        bytes_per_second: u32_at(&bytes, 8),
        bytes_per_frame: u16_at(&bytes, 12),
        bits_per_sample: u16_at(&bytes, 14),
    };
    if format.tag == FORMAT_EXTENSIBLE {
        if length < 40 {
            return Err(WavError::BadFormat(format!(
                "extensible, in {length} bytes"
            )));
        }
        // Size of the extension (2), valid bits (2), channel mask (4), sub-format (16).
        let extension: [u8; 24] = read_array(file)?;
        if extension[10..] == SUBFORMAT_TAIL {
            format.tag = u16_at(&extension, 8);
        }
    }
    Ok(format)
}

impl Format {
    fn describe(&self, audio: &mut Audio) {
        audio.encoding = Some(match self.tag {
            FORMAT_PCM => "pcm".to_owned(),
            FORMAT_FLOAT => "float".to_owned(),
            FORMAT_ALAW => "a-law".to_owned(),
            FORMAT_MULAW => "mu-law".to_owned(),
            other => format!("0x{other:04x}"),
        });
        audio.sample_rate_hz = Some(self.sample_rate_hz);
        audio.channels = Some(self.channels);
        audio.bits_per_sample = Some(self.bits_per_sample);
    }

    fn check(&self) -> Result<(), WavError> {
        let wrong = |what: String| Err(WavError::BadFormat(what));
        if self.channels == 0 || self.sample_rate_hz == 0 || self.bytes_per_frame == 0 {
            return wrong(format!(
                "{} channels, {} Hz, {} bytes a frame",
                self.channels, self.sample_rate_hz, self.bytes_per_frame
            ));
        }
        let value_bytes = u32::from(self.bits_per_sample.div_ceil(8));
        let expected = u32::from(self.channels) * value_bytes;
        if self.has_fixed_frames() && expected != u32::from(self.bytes_per_frame) {
            return wrong(format!(
                "{} channels of {} bits in {} bytes",
                self.channels, self.bits_per_sample, self.bytes_per_frame
            ));
        }
        Ok(())
    }

    fn has_fixed_frames(&self) -> bool {
        matches!(
            self.tag,
            FORMAT_PCM | FORMAT_FLOAT | FORMAT_ALAW | FORMAT_MULAW
        )
    }

    /// Returns the length of `data_bytes` of audio; `frames` is what the file says, if it does.
    fn seconds(&self, data_bytes: u64, frames: Option<u64>) -> f64 {
        let rate = f64::from(self.sample_rate_hz);
        match frames {
            _ if self.has_fixed_frames() => {
                (data_bytes / u64::from(self.bytes_per_frame)) as f64 / rate
            }
            Some(frames) => frames as f64 / rate,
            None if self.bytes_per_second > 0 => {
                data_bytes as f64 / f64::from(self.bytes_per_second)
            }
            None => 0.0,
        }
    }
}

fn read_array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Returns a WAV file of silence.
    pub(crate) fn pcm(channels: u16, rate: u32, bits: u16, frames: u32) -> Vec<u8> {
        let fmt = fmt_chunk(FORMAT_PCM, channels, rate, bits);
        let data = vec![0; (frames * u32::from(channels) * u32::from(bits) / 8) as usize];
        riff(b"RIFF", &[(b"fmt ", fmt), (b"data", data)])
    }

    fn fmt_chunk(tag: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
        let frame = channels * bits / 8;
        let mut fmt = Vec::new();
        fmt.extend(tag.to_le_bytes());
        fmt.extend(channels.to_le_bytes());
        fmt.extend(rate.to_le_bytes());
        fmt.extend((rate * u32::from(frame)).to_le_bytes());
        fmt.extend(frame.to_le_bytes());
        fmt.extend(bits.to_le_bytes());
        fmt
    }

    fn riff(id: &[u8; 4], chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (chunk_id, body) in chunks {
            bytes.extend(*chunk_id);
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(2), 0);
        }
        let mut file = id.to_vec();
        file.extend((bytes.len() as u32 + 4).to_le_bytes());
        file.extend(b"WAVE");
        file.extend(bytes);
        file
    }

    fn header_of(bytes: &[u8]) -> (Audio, Option<WavError>) {
        read_header(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn reads_past_odd_chunks_to_the_format() {
        let fmt = fmt_chunk(FORMAT_FLOAT, 1, 44100, 32);
        let chunks: [(&[u8; 4], _); 4] = [
            (b"bext", vec![0; 603]),
            (b"fmt ", fmt),
            (b"LIST", vec![0; 7]),
            (b"data", vec![0; 44100 * 2]),
        ];
        let (audio, error) = header_of(&riff(b"RIFF", &chunks));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(audio.encoding.as_deref(), Some("float"));
        assert_eq!(
            (audio.sample_rate_hz, audio.channels),
            (Some(44100), Some(1))
        );
        assert_eq!(audio.duration_seconds, Some(0.5));
    }

    #[test]
    fn reads_the_format_inside_an_extensible_header() {
        let mut fmt = fmt_chunk(FORMAT_EXTENSIBLE, 6, 96000, 24);
        fmt.extend([22, 0, 24, 0, 0x3F, 0, 0, 0, 1, 0]);
        fmt.extend(SUBFORMAT_TAIL);
        let file = riff(b"RIFF", &[(b"fmt ", fmt), (b"data", vec![0; 18 * 96])]);
        let (audio, error) = header_of(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(audio.encoding.as_deref(), Some("pcm"));
        assert_eq!((audio.channels, audio.bits_per_sample), (Some(6), Some(24)));
        assert_eq!(audio.duration_seconds, Some(0.001));
    }

    #[test]
    fn takes_unknown_sizes_from_ds64_or_from_the_file() {
        let mut file = pcm(1, 8000, 16, 4000);
        file[40..44].copy_from_slice(&SIZE_UNKNOWN.to_le_bytes());
        let (audio, error) = header_of(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(audio.duration_seconds, Some(0.5));

        let mut ds64 = vec![0; 28];
        ds64[8..16].copy_from_slice(&8000_u64.to_le_bytes());
        let fmt = fmt_chunk(FORMAT_PCM, 1, 8000, 16);
        let mut file = riff(
            b"RF64",
            &[(b"ds64", ds64), (b"fmt ", fmt), (b"data", vec![0; 16_000])],
        );
        let length_at = file.len() - 16_000 - 4;
        file[length_at..length_at + 4].copy_from_slice(&SIZE_UNKNOWN.to_le_bytes());
        let (audio, error) = header_of(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(audio.duration_seconds, Some(0.5));
    }

    #[test]
    fn names_what_is_damaged() {
        let good = pcm(2, 48000, 16, 48);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let cases: [(Vec<u8>, &str); 8] = [
            (Vec::new(), "not a WAV"),
            (b"OggS with more than twelve bytes".to_vec(), "not a WAV"),
            (good[..30].to_vec(), "inside its header"),
            (good[..36].to_vec(), "no 'data' chunk"),
            (good[..100].to_vec(), "56 of 192 bytes of audio"),
            (with(22, &[0, 0]), "0 channels"),
            (with(24, &[0; 4]), "0 Hz"),
            (with(34, &[24, 0]), "2 channels of 24 bits in 4 bytes"),
        ];
        for (file, expected) in cases {
            let (_, error) = header_of(&file);
            let message = error.map(|e| e.to_string()).unwrap_or_default();
            assert!(
                message.contains(expected),
                "{message:?} should say {expected:?}"
            );
        }
    }

    #[test]
    fn still_says_what_it_knows_of_a_cut_file() {
        let (audio, error) = header_of(&pcm(2, 48000, 16, 48_000)[..44 + 96_000]);
        assert!(
            matches!(error, Some(WavError::CutAudio { .. })),
            "{error:?}"
        );
        assert_eq!(audio.duration_seconds, Some(0.5));
    }

    #[test]
    fn stops_in_a_file_of_nothing_but_chunks() {
        let chunks = vec![(b"junk", Vec::new()); 2 * MAX_CHUNKS];
        let chunks: Vec<(&[u8; 4], Vec<u8>)> = chunks
            .iter()
            .map(|(id, body)| (*id, body.clone()))
            .collect();
        let (_, error) = header_of(&riff(b"RIFF", &chunks));
        assert!(matches!(error, Some(WavError::TooManyChunks)), "{error:?}");
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 12..60_usize) {
            header_of(&bytes);
            let mut file = pcm(2, 48000, 24, 8);
            bytes.truncate(file.len().saturating_sub(at));
            file[at..at + bytes.len()].copy_from_slice(&bytes);
            header_of(&file);
        }
    }
}
