//! `doctor --verify`: are the bytes on this disk those that were closed, and those of the bucket?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cache::Cache;
use crate::control::verify::Verified;
use crate::staging::{Change, PutState, Sealed, Staging};
use crate::store::Md5;

/// Reads all sealed staged files and compares them with what the journal says of them.
pub(super) fn staged(staging: &Staging) -> Verified {
    let journal = staging.journal();
    let mut verified = Verified::default();
    for record in journal.records() {
        let Change::Put {
            file,
            state: PutState::Sealed(sealed),
            ..
        } = &record.change
        else {
            continue;
        };
        let sound = is_sound(&staging.path(*file), sealed).unwrap_or(false);
        // It may have been uploaded or written again meanwhile.
        if !journal.is_current(&record.key, record.seq) {
            continue;
        }
        verified.staged_files += 1;
        if !sound {
            log::error!("{}: its staged file is not what was closed", record.key);
            verified.staged_damaged.push(record.key.to_string());
        }
    }
    verified
}

/// The same, and all that the cache holds as a whole.
pub(super) fn all(staging: &Staging, cache: &Cache) -> Verified {
    let audit = cache.audit();
    Verified {
        cached_files: audit.files,
        cached_damaged: audit.damaged,
        ..staged(staging)
    }
}

fn is_sound(path: &Path, sealed: &Sealed) -> io::Result<bool> {
    let file = File::open(path)?;
    if file.metadata()?.len() != sealed.length {
        return Ok(false);
    }
    for (at, expected) in sealed.parts.iter().enumerate() {
        let mut bytes = vec![0; sealed.part_length(at) as usize];
        file.read_exact_at(&mut bytes, at as u64 * sealed.part_size)?;
        if Md5::of(&bytes) != *expected {
            return Ok(false);
        }
    }
    Ok(true)
}
