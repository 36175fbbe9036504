//! MP4, M4A and QuickTime: boxes, of which `moov` has the tables, before the sound or behind it.

use super::{Bytes, Layout, MOST_STEPS, rate_of};

/// With these such a file begins.
const FIRST: [&[u8; 4]; 7] = [
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot",
];

/// One box.
struct Atom {
    name: [u8; 4],
    body: u64,
    end: u64,
}

impl Atom {
    /// Returns the box at a place of something that ends at `limit`.
    fn at(bytes: &Bytes<'_>, at: u64, limit: u64) -> Option<Atom> {
        let name = bytes.array(at.checked_add(4)?)?;
        let (header, length) = match bytes.be32(at)? {
            0 => (8, limit.checked_sub(at)?),
            1 => (16, bytes.be64(at + 8)?),
            length => (8, length),
        };
        (length >= header).then_some(Atom {
            name,
            body: at + header,
            end: at.checked_add(length)?,
        })
    }
}

pub(super) fn layout(bytes: &Bytes<'_>) -> Option<Layout> {
    let size = bytes.size();
    let mut found = Layout {
        head_end: 0,
        tail_start: size,
        bytes_per_second: None,
    };
    let (mut has_tables, mut has_sound) = (false, false);
    let mut at = 0;
    for step in 0..MOST_STEPS {
        let atom = Atom::at(bytes, at, size).filter(|atom| atom.end > at);
        let known = atom
            .as_ref()
            .is_some_and(|atom| FIRST.contains(&&atom.name));
        if step == 0 && !known {
            return None;
        }
        let Some(atom) = atom else { break };
        match &atom.name {
            b"moov" => {
                has_tables = true;
                let told = duration(bytes, &atom);
                found.bytes_per_second = told.and_then(|(units, rate)| rate_of(size, units, rate));
            }
            b"mdat" => {
                has_sound = true;
                found.tail_start = if has_tables { size } else { atom.end };
            }
            _ => {}
        }
        at = atom.end;
        if !has_sound {
            found.head_end = at;
        }
        if at >= size || has_tables && has_sound {
            break;
        }
    }
    Some(found)
}

/// Returns how long it plays, and in which part of a second that is told, as `mvhd` in `moov` says.
fn duration(bytes: &Bytes<'_>, moov: &Atom) -> Option<(u64, u64)> {
    let header = Atom::at(bytes, moov.body, moov.end)?;
    if &header.name != b"mvhd" {
        return None;
    }
    let [version] = bytes.array(header.body)?;
    let body = header.body;
    let (rate, units) = match version {
        0 => (bytes.be32(body + 12)?, bytes.be32(body + 16)?),
        _ => (bytes.be32(body + 20)?, bytes.be64(body + 24)?),
    };
    Some((units, rate))
}
