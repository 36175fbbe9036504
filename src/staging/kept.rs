//! Bounds for the staged files that are kept after they have lost their name: how many, how large,
//! how old, and that they give way before a writer meets a full disk.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::{Edit, JournalError, Kept, Shared};
use crate::disk::FileId;

/// So many files are kept. A burst of small ones must not fill the directory.
const MAX_FILES: usize = 20_000;
/// They may use a tenth of the disk together.
const MAX_SHARE: u64 = 10;
/// And none is kept while less than this is free, or on a small disk less than this share of it.
const MIN_FREE_BYTES: u64 = 2 << 30;
const MIN_FREE_SHARE: u64 = 10;
/// For so long: what was deleted by mistake is missed by then.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the disk has, in bytes.
#[derive(Clone, Copy, Debug)]
struct Disk {
    total: u64,
    free: u64,
}

/// Lets go of what is over the bounds, the oldest first. The journal is synced before the files are
/// unlinked, as for all that is released.
pub(super) fn trim(shared: &Shared) -> Result<(), JournalError> {
    let journal = &shared.journal;
    let kept = journal.kept();
    if kept.is_empty() {
        return Ok(());
    }
    let Ok(space) = rustix::fs::statvfs(&shared.dir) else {
        return Ok(());
    };
    let disk = Disk {
        total: space.f_blocks.saturating_mul(space.f_frsize),
        free: space.f_bavail.saturating_mul(space.f_frsize),
    };
    let over = over_bounds(kept, disk, journal.now());
    if over.is_empty() {
        return Ok(());
    }
    log::info!(
        "{} deleted files that were never uploaded are let go",
        over.len()
    );
    let edits = over.into_iter().flat_map(|file| {
        let unkeep = Edit::Unkeep { file };
        [unkeep, Edit::Discard { file }]
    });
    // A file that was wanted back meanwhile has a record, and stays while that needs it.
    journal.apply(edits.collect())?;
    journal.sync()
}

fn over_bounds(mut kept: Vec<Kept>, disk: Disk, now: SystemTime) -> HashSet<FileId> {
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.at));
    let mut over = HashSet::new();
    let wanted = (disk.total / MIN_FREE_SHARE).min(MIN_FREE_BYTES);
    let lacking = wanted.saturating_sub(disk.free);
    let all: u64 = kept.iter().map(|kept| kept.length).sum();
    let most = (disk.total / MAX_SHARE).min(all.saturating_sub(lacking));
    let (mut bytes, mut files) = (0u64, 0);
    for kept in kept {
        bytes += kept.length;
        files += 1;
        let age = now.duration_since(kept.at).unwrap_or_default();
        if bytes > most || files > MAX_FILES || age > MAX_AGE {
            over.insert(kept.file);
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::store::Key;

    fn kept(seconds: u64, length: u64) -> Kept {
        Kept {
            file: FileId::random(),
            key: Key::new("projects/a").unwrap(),
            attributes: Default::default(),
            length,
            at: UNIX_EPOCH + Duration::from_secs(seconds),
            replaced: false,
        }
    }

    #[test]
    fn the_oldest_give_way_to_the_bounds_and_to_writers() {
        let all = vec![kept(1, 40), kept(2, 40), kept(3, 40)];
        let over = |free: u64, at: u64| {
            let disk = Disk { total: 1000, free };
            let now = UNIX_EPOCH + Duration::from_secs(at);
            over_bounds(all.clone(), disk, now)
        };
        assert_eq!(over(500, 4), HashSet::from([all[0].file]), "a tenth");
        assert_eq!(over(60, 4), HashSet::from([all[0].file]));
        assert_eq!(over(50, 4).len(), 2, "one is not enough");
        assert_eq!(over(0, 4).len(), 3);
        assert_eq!(over(500, 8 * 24 * 3600).len(), 3, "too old");
        let large = Disk {
            total: 1 << 40,
            free: 3 << 30,
        };
        let now = UNIX_EPOCH + Duration::from_secs(4);
        assert!(over_bounds(all.clone(), large, now).is_empty());
    }
}
