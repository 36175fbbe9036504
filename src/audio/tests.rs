//! The header reader on files as programs write them, and on what is left of them.

use std::path::Path;

use proptest::prelude::*;

use super::damaged::{Damaged, check};
use super::*;

/// A file of which the bytes in some ranges are here.
struct Part<'a> {
    bytes: &'a [u8],
    size: u64,
    head: usize,
    tail: usize,
}

impl<'a> Part<'a> {
    fn whole(bytes: &'a [u8]) -> Part<'a> {
        Part {
            bytes,
            size: bytes.len() as u64,
            head: bytes.len(),
            tail: 0,
        }
    }
}

impl Source for Part<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        let offset = offset as usize;
        let end = offset + buf.len();
        let is_here = end <= self.head || offset >= self.bytes.len() - self.tail;
        match self.bytes.get(offset..end).filter(|_| is_here) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

/// Returns a chunk of an IFF file.
fn chunk(name: &[u8; 4], length: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&name[..], &length, body].concat()
}

fn wave(form: &[u8; 4], length: u32, before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut format = vec![1, 0, 2, 0];
    format.extend(48_000_u32.to_le_bytes());
    format.extend(288_000_u32.to_le_bytes());
    format.extend([6, 0, 24, 0]);
    let head = [form, &[255; 4], &b"WAVE"[..]].concat();
    let format = chunk(b"fmt ", 16_u32.to_le_bytes(), &format);
    let data = chunk(b"data", length.to_le_bytes(), &[7; 1000]);
    [&head, before, &format, &data, after].concat()
}

fn aiff(kind: &[u8; 4]) -> Vec<u8> {
    let mut common = vec![0, 2];
    common.extend(250_u32.to_be_bytes());
    common.extend([0, 16]);
    // 44,100 in 80 bits.
    common.extend([0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0]);
    let head = [b"FORM", &[0; 4], &kind[..]].concat();
    let common = chunk(b"COMM", 18_u32.to_be_bytes(), &common);
    let sound = chunk(b"SSND", 1000_u32.to_be_bytes(), &[7; 1000]);
    let tag = chunk(b"ID3 ", 100_u32.to_be_bytes(), &[7; 100]);
    [head, common, sound, tag].concat()
}

fn flac() -> Vec<u8> {
    let mut info = vec![0; 34];
    // 48 kHz, two channels of 24 bits, a second.
    let packed = 48_000_u64 << 44 | 1 << 41 | 23 << 36 | 48_000;
    info[10..18].copy_from_slice(&packed.to_be_bytes());
    let mut file = b"fLaC\0\0\0\x22".to_vec();
    file.extend(info);
    file.extend([0x84, 0, 0, 10]);
    file.extend([7; 10 + 5000]);
    file
}

/// An MP3 file: a tag of so many bytes, and frames of 320 kbit/s, the first of which may tell.
fn mp3(tag: usize, told: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    if tag > 0 {
        let length = [tag >> 21, tag >> 14, tag >> 7, tag].map(|part| part as u8 & 0x7f);
        file.extend([&b"ID3\x04\0\0"[..], &length].concat());
        file.resize(10 + tag, 0);
    }
    for n in 0..10 {
        let mut frame = vec![0xff, 0xfb, 0xe4, 0];
        frame.resize(960, 0);
        if n == 0 {
            frame[36..36 + told.len()].copy_from_slice(told);
        }
        file.extend(frame);
    }
    file
}

fn ogg(packet: &[u8]) -> Vec<u8> {
    let page = |position: u64, body: &[u8]| {
        let mut page = b"OggS\0\0".to_vec();
        page.extend(position.to_le_bytes());
        page.extend([0; 12]);
        page.extend([1, body.len() as u8]);
        page.extend(body);
        page
    };
    let mut file = page(0, packet);
    file.extend([7; 100_000]);
    file.extend(page(96_000, &[7; 50]));
    file.extend(page(u64::MAX, &[7; 50]));
    file
}

fn vorbis() -> Vec<u8> {
    let mut packet = b"\x01vorbis\0\0\0\0\x02".to_vec();
    packet.extend(48_000_u32.to_le_bytes());
    packet.extend([0; 4]);
    packet.extend(160_000_u32.to_le_bytes());
    packet.extend([0; 6]);
    ogg(&packet)
}

fn boxed(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    chunk(&(body.len() as u32 + 8).to_be_bytes(), *name, body)
}

fn moov() -> Vec<u8> {
    let mut header = vec![0; 12];
    header.extend(1000_u32.to_be_bytes());
    header.extend(2000_u32.to_be_bytes());
    boxed(b"moov", &[boxed(b"mvhd", &header), vec![7; 300]].concat())
}

/// One file of each kind.
fn files() -> Vec<Vec<u8>> {
    let start = boxed(b"ftyp", b"M4A \0\0\0\0");
    let sound = boxed(b"mdat", &[7; 4000]);
    let xing = [&b"Xing\0\0\0\x01"[..], &10_u32.to_be_bytes()].concat();
    let long = chunk(b"ds64", 28_u32.to_le_bytes(), &[3; 28]);
    vec![
        wave(b"RIFF", 1000, &[], &[]),
        wave(b"RF64", u32::MAX, &long, &[]),
        wave(b"BW64", u32::MAX, &long, &[]),
        aiff(b"AIFF"),
        aiff(b"AIFC"),
        flac(),
        mp3(0, &xing),
        mp3(300, b"VBRI"),
        vorbis(),
        ogg(b"OpusHead\x01\x02"),
        ogg(b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22"),
        [start.clone(), moov(), sound.clone()].concat(),
        [start, sound, moov()].concat(),
    ]
}

#[track_caller]
fn tells(file: &[u8], head_end: u64, tail_start: u64, rate: Option<u64>) {
    let expected = Layout {
        head_end,
        tail_start,
        bytes_per_second: rate,
    };
    assert_eq!(layout(&Part::whole(file)), Some(expected));
}

#[test]
fn wave_files_tell_their_rate_and_what_follows_the_sound() {
    let plain = wave(b"RIFF", 1000, &[], &[]);
    tells(&plain, 44, 1044, Some(288_000));
    let tagged = chunk(b"LIST", 20_u32.to_le_bytes(), &[7; 20]);
    tells(
        &wave(b"RIFF", 1000, &tagged, &tagged),
        72,
        1072,
        Some(288_000),
    );
    // A recorder that was killed has told no length.
    for length in [0, u32::MAX] {
        let found = layout(&Part::whole(&wave(b"RIFF", length, &[], &[]))).unwrap();
        assert_eq!(
            (found.head_end, found.bytes_per_second),
            (44, Some(288_000))
        );
    }
}

#[test]
fn the_64_bit_forms_tell_the_length_elsewhere() {
    let mut long = [0; 28];
    long[8..16].copy_from_slice(&1000_u64.to_le_bytes());
    let long = chunk(b"ds64", 28_u32.to_le_bytes(), &long);
    let after = chunk(b"axml", 50_u32.to_le_bytes(), &[7; 50]);
    for form in [b"RF64", b"BW64"] {
        tells(
            &wave(form, u32::MAX, &long, &after),
            80,
            1080,
            Some(288_000),
        );
    }
}

#[test]
fn a_long_chunk_before_the_sound_is_the_head() {
    let picture = chunk(b"id3 ", 5000_u32.to_le_bytes(), &[7; 5000]);
    let file = wave(b"RIFF", 1000, &picture, &[]);
    let mut part = Part::whole(&file);
    part.head = 600;
    let found = layout(&part).unwrap();
    assert_eq!(
        (found.head_end, found.tail_start),
        (5020, file.len() as u64)
    );
}

#[test]
fn aiff_tells_its_rate_by_frames() {
    // 1,000 bytes are 250 frames, of which 44,100 are a second.
    for kind in [b"AIFF", b"AIFC"] {
        tells(&aiff(kind), 46, 1046, Some(176_400));
    }
}

#[test]
fn flac_tells_its_rate_by_samples_also_behind_a_tag() {
    tells(&flac(), 56, 5056, Some(5000));
    let tag = [&b"ID3\x04\0\0\0\0\0\x05"[..], &[0; 5]].concat();
    tells(&[tag, flac()].concat(), 71, 5071, Some(5000));
}

#[test]
fn mp3_tells_its_rate_by_its_frames_or_their_number() {
    tells(&mp3(0, &[]), 0, 9600, Some(40_000));
    tells(&mp3(5000, &[]), 5010, 14_610, Some(40_000));
    // Twice as many frames as there are: half the rate.
    let xing = [&b"Info\0\0\0\x01"[..], &20_u32.to_be_bytes()].concat();
    tells(&mp3(0, &xing), 0, 9600, Some(20_000));
    let vbri = [&b"VBRI"[..], &[0; 10], &20_u32.to_be_bytes()].concat();
    tells(&mp3(0, &vbri), 0, 9600, Some(20_000));
    // A tag that reaches past what is here hides the sound.
    let file = mp3(5000, &[]);
    let mut part = Part::whole(&file);
    part.head = 3000;
    let found = layout(&part).unwrap();
    assert_eq!((found.head_end, found.bytes_per_second), (5010, None));
}

#[test]
fn ogg_tells_its_rate_by_the_last_page() {
    let file = vorbis();
    let size = file.len() as u64;
    let tail = size - 65_307;
    // 96,000 samples are two seconds.
    tells(&file, 28, tail, Some(size / 2));
    let opus = ogg(b"OpusHead\x01\x02");
    let size = opus.len() as u64;
    tells(&opus, 28, size - 65_307, Some(size / 2));
    let mut part = Part::whole(&file);
    part.head = 4096;
    assert_eq!(layout(&part).unwrap().bytes_per_second, Some(20_000));
}

#[test]
fn mp4_tells_where_its_tables_are() {
    let start = boxed(b"ftyp", b"M4A \0\0\0\0");
    let sound = boxed(b"mdat", &[7; 4000]);
    let moov = moov();
    let size = (start.len() + sound.len() + moov.len()) as u64;
    let first = [&start[..], &moov, &sound].concat();
    tells(
        &first,
        (start.len() + moov.len()) as u64,
        size,
        Some(size / 2),
    );
    let last = [&start[..], &sound, &moov].concat();
    let tail = (start.len() + sound.len()) as u64;
    tells(&last, start.len() as u64, tail, Some(size / 2));
    let mut part = Part::whole(&last);
    part.head = 100;
    let found = layout(&part).unwrap();
    assert_eq!((found.tail_start, found.bytes_per_second), (tail, None));
    part.tail = moov.len();
    assert_eq!(layout(&part).unwrap().bytes_per_second, Some(size / 2));
}

#[test]
fn other_files_tell_nothing() {
    for file in [
        &b""[..],
        b"ID3",
        b"RIFF",
        b"#!/bin/sh\n",
        &[0; 5000],
        &[0xff; 5000],
    ] {
        assert_eq!(layout(&Part::whole(file)), None);
    }
}

/// Returns what [`Damaged::of`] takes apart.
fn input(missing: u64, head: u16, bytes: &[u8]) -> Vec<u8> {
    [&missing.to_le_bytes()[..], &head.to_le_bytes(), bytes].concat()
}

/// What the fuzzer has found to take different ways through the reader.
#[test]
fn what_the_fuzzer_has_kept_does_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/headers");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        check(&Damaged::of(&std::fs::read(entry.unwrap().path()).unwrap()));
        count += 1;
    }
    assert!(count > 100, "{count}");
}

proptest! {
    #[test]
    fn damaged_files_are_looked_at_without_harm(
        kind in 0..13_usize,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..20),
        head in any::<u16>(),
        missing in prop_oneof![Just(0), any::<u64>(), 0..10_000_u64],
        is_cut: bool,
    ) {
        let mut file = files().swap_remove(kind);
        for (at, value) in changes {
            // The numbers are at both ends.
            let at = at % file.len().min(400);
            file[at] = value;
        }
        let head = if is_cut { head % 6000 } else { u16::MAX };
        check(&Damaged::of(&input(missing, head, &file)));
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm(bytes: Vec<u8>) {
        check(&Damaged::of(&bytes));
    }
}
