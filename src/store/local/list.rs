//! Listing a tree as a bucket lists its keys.

use std::os::fd::OwnedFd;

use rustix::fs::Statx;

use super::super::{Key, ListPage, ListRequest, ListedObject, Origin, StoreResult};
use super::about::{self, About};
use super::tree::{self, OWN, Tree};

/// Entries of a page, as R2 has them.
const PAGE: u16 = 1000;

/// How a continuation token begins; the last entry given follows.
const AFTER: &str = "after:";

/// Returns the token with which a listing goes on behind an entry, a key or a prefix.
pub(super) fn continuation_after(entry: &str) -> String {
    format!("{AFTER}{entry}")
}

/// Returns the entry behind which a listing goes on.
pub(super) fn entry_before(token: &str) -> &str {
    token.strip_prefix(AFTER).unwrap_or(token)
}

pub(super) fn list(tree: &Tree, request: &ListRequest) -> StoreResult<ListPage> {
    let after = request.continuation.as_deref().map(entry_before);
    let after = after.or(request.start_after.as_deref());
    let mut listing = Listing {
        tree,
        prefix: &request.prefix,
        delimited: request.delimited,
        after: after.unwrap_or_default(),
        left: request.max_keys.unwrap_or(PAGE).clamp(1, PAGE),
        last: String::new(),
        page: ListPage::default(),
    };
    // Everything with this prefix lies in the folder before its last slash.
    let base = &request.prefix[..request.prefix.rfind('/').map_or(0, |slash| slash + 1)];
    let path = base.strip_suffix('/').unwrap_or(base);
    if path.is_empty() == base.is_empty()
        && (path.is_empty() || path.split('/').all(tree::is_name))
        && let Some(folder) = tree.folder(path)?
    {
        listing.folder(&folder, base)?;
    }
    Ok(listing.page)
}

struct Listing<'a> {
    tree: &'a Tree,
    prefix: &'a str,
    delimited: bool,
    after: &'a str,
    left: u16,
    last: String,
    page: ListPage,
}

/// Whether to go on.
type GoOn = bool;

impl Listing<'_> {
    /// Lists a folder; `path` is empty or ends in `/`.
    fn folder(&mut self, folder: &OwnedFd, path: &str) -> StoreResult<GoOn> {
        let names = tree::entries(folder, path)?;
        if !self.marker(folder, path, names.is_empty())? {
            return Ok(false);
        }
        for name in names {
            let full = format!("{path}{name}");
            if !full.starts_with(self.prefix) || self.is_behind_us(&full) {
                continue;
            }
            let go_on = if name.ends_with('/') {
                self.subfolder(&full)?
            } else {
                self.file(folder, &full, &name)?
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an earlier page has given this entry and all below it.
    fn is_behind_us(&self, full: &str) -> bool {
        let within = !self.delimited && full.ends_with('/') && self.after.starts_with(full);
        full <= self.after && !within
    }

    /// Lists the folder itself, if it is a marker. An empty folder always is: in a bucket it could
    /// not exist without.
    fn marker(&mut self, folder: &OwnedFd, path: &str, empty: bool) -> StoreResult<GoOn> {
        let ours = path.strip_suffix('/') == Some(OWN);
        if path.is_empty() || ours || path <= self.after || !path.starts_with(self.prefix) {
            return Ok(true);
        }
        if !empty && About::read(folder)?.implicit {
            return Ok(true);
        }
        self.object(path, &tree::stat(folder)?, 0)
    }

    fn subfolder(&mut self, full: &str) -> StoreResult<GoOn> {
        let path = full.trim_end_matches('/');
        let Some(folder) = self.tree.folder(path)? else {
            return Ok(true);
        };
        if !self.delimited {
            return self.folder(&folder, full);
        }
        if path == OWN && tree::entries(&folder, full)?.is_empty() {
            return Ok(true);
        }
        if !self.take(full) {
            return Ok(false);
        }
        self.page.prefixes.push(full.to_owned());
        Ok(true)
    }

    fn file(&mut self, folder: &OwnedFd, full: &str, name: &str) -> StoreResult<GoOn> {
        match tree::stat_entry(folder, name)? {
            Some(stat) => self.object(full, &stat, stat.stx_size),
            None => Ok(true),
        }
    }

    fn object(&mut self, full: &str, stat: &Statx, size: u64) -> StoreResult<GoOn> {
        let Some(key) = Key::new(full) else {
            log::warn!("skipped, its path is too long for a key: {full:?}");
            return Ok(true);
        };
        if !self.take(full) {
            return Ok(false);
        }
        self.page.objects.push(ListedObject {
            version: about::version(&key, stat),
            size,
            last_modified: about::time(stat.stx_mtime),
            origin: Origin::Primary,
        });
        Ok(true)
    }

    /// Makes room for an entry; without room, the page ends before it.
    fn take(&mut self, full: &str) -> GoOn {
        if self.left == 0 {
            self.page.next = Some(continuation_after(&self.last));
            return false;
        }
        self.left -= 1;
        full.clone_into(&mut self.last);
        true
    }
}
