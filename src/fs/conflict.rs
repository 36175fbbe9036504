//! Two machines wrote one name: both versions are kept.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::macros::format_description;

use super::Fs;
use super::attr::Ino;
use super::listing::listed_from_info;
use super::name::MAX_NAME_BYTES;
use super::snapshot::{SIDES, is_database};
use super::tree::Stale;
use crate::staging::{Change, Deleted, Edit, JournalResult, Record};
use crate::store::{ETag, Key, ObjectInfo};

/// How many names are tried for a conflict copy before the record is parked instead.
pub(super) const MAX_NAMES: u32 = 100;

impl Fs {
    /// An upload found somebody else's version under its key. Theirs gets the name, ours goes on as
    /// `name (conflict HOST YYYY-MM-DD HH.MM.SS).ext` beside it, and open handles with it. Returns
    /// false if the record has to be parked: it is none that has bytes.
    ///
    /// # Errors
    /// Those of the journal; nothing has changed then.
    pub fn keep_both(&self, record: &Record, found: &ObjectInfo) -> JournalResult<bool> {
        let _changes = self.changes.lock();
        // What the uploader was given may be a snapshot; the file itself goes on.
        let Some(change) = self.current_change(record) else {
            return Ok(true);
        };
        if !matches!(record.change, Change::Put { .. } | Change::Copy { .. }) {
            return Ok(false);
        }
        // Ours still lies there if the bucket has locked it.
        let ours = |base: Option<ETag>| base.filter(|etag| *etag == found.version.etag);
        if self.drop_copy(record, ours, "the key holds something else")? {
            log::warn!(
                "{} stays in the bucket as somebody else has it, and is another name of one of ours here",
                record.key
            );
            return Ok(true);
        }
        if let Change::Copy { source, .. } = &record.change
            && source.key.folded() == record.key.folded()
        {
            // Only attributes were to change, of a version that is gone.
            self.journal().withdraw(&record.key, record.seq)?;
            return Ok(true);
        }
        let (folder, name) = split(record.key.as_str());
        let Some(copy) = self.free_name(folder, name) else {
            return Ok(false);
        };
        let Some(copy_key) = Key::in_bucket(&format!("{folder}{copy}")) else {
            return Ok(false);
        };
        let sides = self.sides_that_follow(&record.key, &change);
        let mut edits = vec![
            Edit::Set {
                key: copy_key.clone(),
                base: None,
                change,
            },
            Edit::Remove {
                key: record.key.clone(),
            },
            Edit::NoteConflict {
                key: record.key.clone(),
                copy: copy_key.clone(),
            },
        ];
        if let Some(inode) = self.inode_of(&record.key) {
            edits.extend(self.first_name_moved(&record.key, &copy_key, &inode));
        }
        for (ending, side) in &sides {
            edits.extend(self.follow(side, &format!("{copy_key}{ending}")));
        }
        self.journal().apply(edits)?;
        log::warn!(
            "{} was changed by someone else; ours is kept as {copy_key}",
            record.key
        );
        self.show_both(record.key.as_str(), &copy, found);
        for (ending, side) in &sides {
            self.show_moved(side.key.as_str(), &format!("{copy}{ending}"));
        }
        Ok(true)
    }

    /// The log of a database goes with it: SQLite would take it for that of theirs, and damage it.
    fn sides_that_follow(&self, key: &Key, change: &Change) -> Vec<(&'static str, Record)> {
        let file = change.file().and_then(|id| self.staging.open_file(id).ok());
        if !file.is_some_and(|file| is_database(file.file())) {
            return Vec::new();
        }
        let sides = SIDES.iter().filter_map(|ending| {
            let key = Key::new(&format!("{key}{ending}"))?;
            let side = self.journal().record(&key)?;
            side.change.file()?;
            Some((*ending, side))
        });
        sides.collect()
    }

    /// What the journal must say when a staged file gets another key.
    fn follow(&self, record: &Record, to: &str) -> Vec<Edit> {
        let Some(to) = Key::new(to) else {
            return Vec::new();
        };
        let arrive = Edit::Set {
            key: to,
            base: None,
            change: record.change.clone(),
        };
        let leave = self.cleared(&record.key, record.base.clone(), Deleted::Moved);
        vec![arrive, leave]
    }

    fn show_moved(&self, key: &str, to: &str) {
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        let Some((parent, entry)) = tree.find(key).map(|(ino, entry)| (ino, entry.into_owned()))
        else {
            return;
        };
        tree.rename((parent, &entry.spelling), (parent, to), now);
        drop(tree);
        self.tell_stale(vec![Stale {
            parent,
            name: entry.spelling,
        }]);
    }

    fn current_change(&self, record: &Record) -> Option<Change> {
        let now = self.journal().record(&record.key)?;
        (now.seq == record.seq).then_some(now.change)
    }

    fn show_both(&self, key: &str, copy: &str, found: &ObjectInfo) {
        let now = self.clock.instant();
        let mut tree = self.tree.lock();
        tree.note_change(key, now);
        let Some((parent, entry)) = tree.find(key).map(|(ino, entry)| (ino, entry.into_owned()))
        else {
            return;
        };
        let _ = tree.materialise(parent, &entry.spelling);
        tree.rename((parent, &entry.spelling), (parent, copy), now);
        tree.insert_listed(parent, &entry.spelling, listed_from_info(found, now));
        drop(tree);
        self.tell_stale(vec![Stale {
            parent,
            name: entry.spelling,
        }]);
        self.touch_folder(parent);
    }

    /// Returns a name for ours that nothing has yet.
    fn free_name(&self, folder: &str, name: &str) -> Option<String> {
        let tree = self.tree.lock();
        let parent = match folder {
            "" => Some(Ino::ROOT),
            folder => tree.find(folder).map(|(_, entry)| entry.ino),
        };
        let dir = parent.and_then(|ino| tree.dir(ino));
        (1..MAX_NAMES)
            .map(|n| conflict_name(name, &host(), self.clock.now(), n))
            .find(|name| {
                let key = Key::in_bucket(&format!("{folder}{name}"));
                dir.is_none_or(|dir| dir.entry(name).is_none())
                    && key.is_some_and(|key| self.journal().record(&key).is_none())
            })
    }
}

/// Returns the folder of a key, empty or ending in `/`, and the name in it.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

/// Returns the name of this machine.
pub(super) fn host() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .replace('/', "_");
    if name.is_empty() {
        "this machine".into()
    } else {
        name
    }
}

/// Returns the `n`th name for the copy of `name`: readable, with the same extension, and no longer
/// than a name may be. Times are UTC, the same for all machines.
fn conflict_name(name: &str, host: &str, now: SystemTime, n: u32) -> String {
    marked_name(name, &format!("conflict {host}"), now, n)
}

/// Returns the `n`th name for another version of `name`: what it is, and when that was found.
pub(super) fn marked_name(name: &str, what: &str, now: SystemTime, n: u32) -> String {
    let when = OffsetDateTime::from(now)
        .format(format_description!(
            "[year]-[month]-[day] [hour].[minute].[second]"
        ))
        .unwrap_or_else(|_| "at an unknown time".into());
    let again = if n > 1 {
        format!(" {n}")
    } else {
        String::new()
    };
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    };
    let mark = format!(" ({what} {when}{again})");
    let room = MAX_NAME_BYTES.saturating_sub(mark.len() + extension.len());
    let cut = (0..=room.min(stem.len()))
        .rev()
        .find(|cut| stem.is_char_boundary(*cut));
    format!("{}{mark}{extension}", &stem[..cut.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_conflict_copy_tells_who_and_when() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_521_115);
        assert_eq!(
            conflict_name("song.rpp", "studio", now, 1),
            "song (conflict studio 2026-11-24 11.51.55).rpp"
        );
        assert_eq!(
            conflict_name(".hidden", "studio", now, 2),
            ".hidden (conflict studio 2026-11-24 11.51.55 2)"
        );
        let long = format!("{}.wav", "ü".repeat(125));
        let name = conflict_name(&long, "studio", now, 1);
        assert!(
            name.len() <= MAX_NAME_BYTES && name.ends_with(").wav"),
            "{name}"
        );
    }

    #[test]
    fn a_key_splits_into_folder_and_name() {
        assert_eq!(split("a/b/c.wav"), ("a/b/", "c.wav"));
        assert_eq!(split("c"), ("", "c"));
    }
}
