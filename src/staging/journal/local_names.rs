//! The names that this disk alone knows: their rows, and what the journal tells of them.

use rusqlite::{Connection, Row, params};

use super::database::{damaged, key, read_attributes, run, xattrs};
use super::{Journal, JournalResult};
use crate::staging::local_name::{LocalName, Special, StandsFor};
use crate::store::attributes::{FileAttributes, nanos_since_epoch};
use crate::store::{ETag, Key};

impl Journal {
    /// Returns what a name stands for that this disk alone knows.
    pub fn local_name(&self, key: &Key) -> Option<LocalName> {
        self.mirror.lock().local(&key.folded()).cloned()
    }

    /// Returns the first name of what has a key for a further one.
    pub fn first_name(&self, key: &Key) -> Option<Key> {
        match &self.mirror.lock().local(&key.folded())?.stands_for {
            StandsFor::Link { to, .. } => Some(to.clone()),
            StandsFor::Special(..) => None,
        }
    }

    /// Returns the further names of what goes by a key.
    pub fn links_to(&self, key: &Key) -> Vec<Key> {
        let (key, mirror) = (key.folded(), self.mirror.lock());
        let links = mirror.links_to(&key);
        links.map(|name| name.key.clone()).collect()
    }

    /// Whether anything has several names.
    pub fn has_links(&self) -> bool {
        self.mirror.lock().has_links()
    }

    /// Returns those whose key begins with `prefix`, which ends in `/` or is empty.
    pub fn local_names_below(&self, prefix: &str) -> Vec<LocalName> {
        let prefix = Key::new(prefix).map(|prefix| prefix.folded());
        let prefix = prefix.as_ref().map_or("", Key::as_str);
        let mirror = self.mirror.lock();
        mirror.locals_below(prefix).cloned().collect()
    }

    /// Returns all names that this disk alone knows, ordered by key.
    pub fn local_names(&self) -> Vec<LocalName> {
        self.mirror.lock().locals().cloned().collect()
    }
}

pub(super) fn write(connection: &Connection, name: &LocalName) -> JournalResult<()> {
    let (kind, target, device) = match &name.stands_for {
        StandsFor::Link { to, .. } => ("link", Some(to.as_str().as_bytes()), None),
        StandsFor::Special(special, _) => match special {
            Special::Symlink(target) => ("symlink", Some(target.as_slice()), None),
            Special::Fifo => ("fifo", None, None),
            Special::Socket => ("socket", None, None),
            Special::CharDevice(device) => ("char", None, Some(*device)),
            Special::BlockDevice(device) => ("block", None, Some(*device)),
        },
    };
    let attributes = match &name.stands_for {
        StandsFor::Special(_, attributes) => attributes.clone(),
        StandsFor::Link { .. } => FileAttributes::default(),
    };
    let copy = match &name.stands_for {
        StandsFor::Link { copy, .. } => copy.as_ref(),
        StandsFor::Special(..) => None,
    };
    let sql = "INSERT OR REPLACE INTO local_names \
               (folded, key, kind, target, device, mtime, mode, uid, gid, xattrs, \
                copy) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    run(
        connection.prepare_cached(sql),
        params![
            name.key.folded().as_str(),
            name.key.as_str(),
            kind,
            target,
            device,
            attributes.mtime.map(nanos_since_epoch),
            attributes.mode,
            attributes.uid,
            attributes.gid,
            xattrs(&attributes),
            copy.map(ETag::as_str),
        ],
    )
}

pub(super) fn read(row: &Row<'_>) -> JournalResult<LocalName> {
    let kind: String = row.get("kind")?;
    let stands_for = match kind.as_str() {
        "link" => {
            let copy: Option<String> = row.get("copy")?;
            let target = String::from_utf8(row.get("target")?);
            let target = target.map_err(|error| damaged(format!("a link to {error}")))?;
            StandsFor::Link {
                to: key(target)?,
                copy: copy.map(|tag| ETag::new(&tag)),
            }
        }
        _ => StandsFor::Special(read_special(&kind, row)?, read_attributes(row)?),
    };
    Ok(LocalName {
        key: key(row.get("key")?)?,
        stands_for,
    })
}

fn read_special(kind: &str, row: &Row<'_>) -> JournalResult<Special> {
    Ok(match kind {
        "symlink" => Special::Symlink(row.get("target")?),
        "fifo" => Special::Fifo,
        "socket" => Special::Socket,
        "char" => Special::CharDevice(row.get("device")?),
        "block" => Special::BlockDevice(row.get("device")?),
        other => return Err(damaged(format!("unknown local name {other:?}"))),
    })
}
