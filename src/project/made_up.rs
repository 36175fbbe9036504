//! Project files that are made up, for tests and for the fuzzer.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::{
    Format, MOST_BYTES, MOST_REFERENCE_BYTES, MOST_REFERENCES, Project, references, resolve,
};

pub(crate) const FORMATS: [Format; 7] = [
    Format::Reaper,
    Format::Ardour,
    Format::Live,
    Format::Lmms,
    Format::LmmsPacked,
    Format::DawProject,
    Format::Closed,
];

/// Returns a project file of this text.
pub(crate) fn packed(format: Format, text: &[u8]) -> Vec<u8> {
    let level = Compression::fast();
    match format {
        Format::Live => {
            let mut packer = GzEncoder::new(Vec::new(), level);
            packer.write_all(text).unwrap();
            packer.finish().unwrap()
        }
        Format::LmmsPacked => {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            let mut packer = ZlibEncoder::new(length.to_vec(), level);
            packer.write_all(text).unwrap();
            packer.finish().unwrap()
        }
        Format::DawProject => {
            let mut packer = DeflateEncoder::new(Vec::new(), level);
            packer.write_all(text).unwrap();
            let project = packer.finish().unwrap();
            zip(&[
                ("metadata.xml", 0, b"<MetaData/>"),
                ("project.xml", 8, &project),
                ("audio/a.wav", 0, b"RIFF"),
            ])
        }
        _ => text.to_vec(),
    }
}

/// Returns an archive of files: name, method, packed content.
pub(crate) fn zip(files: &[(&str, u16, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, method, content) in files {
        let start = archive.len() as u32;
        let sizes = [0, content.len() as u32, 0].map(u32::to_le_bytes).concat();
        let lengths = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        let method = method.to_le_bytes();
        let common = [&[20, 0, 0, 0], &method[..], &[0; 4], &sizes, &lengths].concat();
        archive.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        let last = [&[0; 10][..], &start.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &last].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let place = [directory.len() as u32, archive.len() as u32];
    let place = place.map(u32::to_le_bytes).concat();
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &place, &[0, 0]].concat();
    [archive, directory, end].concat()
}

/// Looks into a file that a fuzzer has made up, and checks what must hold whatever it is. The first byte
/// says which format it claims to be, and whether it is packed first.
pub(crate) fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let format = FORMATS[usize::from(choice & 0x7f) % FORMATS.len()];
    let file = match choice & 0x80 {
        0 => rest.to_vec(),
        _ => packed(format, rest),
    };
    let found = references(format, &mut Cursor::new(file));
    assert!(found.len() <= MOST_REFERENCES);
    let bytes: usize = found.iter().map(String::len).sum();
    assert!(bytes <= MOST_BYTES + MOST_REFERENCE_BYTES);
    for reference in found {
        let Some(path) = resolve(&reference, "projects/song", "/mnt/vb") else {
            continue;
        };
        let is_plain = |name: &str| !["", ".", ".."].contains(&name) && !name.contains('\0');
        assert!(path.split('/').all(is_plain), "{reference:?}: {path:?}");
        if let Some(Project {
            folder: Some(folder),
            ..
        }) = Project::of(&path)
        {
            assert!(path.starts_with(folder) && folder.contains('/'));
        }
    }
}
