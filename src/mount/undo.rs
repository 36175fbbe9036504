//! The answers of a mount about what was deleted.

use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::control::TrashStatus;
use crate::control::queue::MAX_ENTRIES;
use crate::control::selects;
use crate::control::trash::{FailedEntry, Place, Restored, RestoredEntry, Trash, TrashEntry, Why};
use crate::fs::{At, Fs, Lost, TrashSize, Where};
use crate::metrics;
use crate::store::trash::Why as StoreWhy;

/// Returns what can come back.
pub(super) async fn list(fs: &Arc<Fs>, paths: &[String]) -> Trash {
    let (mut lost, unlisted) = fs.lost(paths).await;
    let left_out = lost.len().saturating_sub(MAX_ENTRIES) as u64;
    lost.truncate(MAX_ENTRIES);
    Trash {
        entries: lost.into_iter().map(entry).collect(),
        left_out,
        unlisted: unlisted.map(|error| error.to_string()),
    }
}

/// Brings things back.
pub(super) async fn restore(
    fs: &Arc<Fs>,
    paths: &[String],
    at: Option<&str>,
) -> Result<Restored, String> {
    let at = at.map(version).transpose()?;
    Ok(answer(fs.restore(paths, at.as_ref()).await))
}

/// Returns what the status says of the trash.
pub(super) fn trash_status(size: TrashSize) -> TrashStatus {
    TrashStatus {
        objects: size.objects,
        bytes: size.bytes,
        usd_per_month: metrics::storage_usd_per_month(size.bytes),
    }
}

/// Takes held deletes back.
pub(super) async fn discard(fs: &Arc<Fs>, paths: &[String]) -> Restored {
    answer(fs.discard_deletes(|key| selects(paths, key)).await)
}

/// Gives names to staged files that have none.
pub(super) fn adopt(fs: &Arc<Fs>, folder: Option<&str>) -> Result<Restored, String> {
    Ok(answer(fs.adopt_orphans(folder)?))
}

fn answer(restored: crate::fs::Restored) -> Restored {
    let done = restored.done.into_iter().map(|(path, name)| RestoredEntry {
        path: path.to_string(),
        restored_as: name.to_string(),
    });
    let failed = restored.failed.into_iter();
    Restored {
        restored: done.collect(),
        failed: failed
            .map(|(path, reason)| FailedEntry { path, reason })
            .collect(),
    }
}

fn entry(lost: Lost) -> TrashEntry {
    TrashEntry {
        path: lost.path.to_string(),
        id: lost.id,
        why: match lost.why {
            StoreWhy::Deleted => Why::Deleted,
            StoreWhy::Overwritten => Why::Overwritten,
        },
        at: rfc3339(lost.at),
        bytes: lost.size,
        place: match lost.place {
            Where::Waiting { .. } => Place::Waiting,
            Where::Bucket(_) => Place::Bucket,
            Where::Here(_) => Place::Here,
        },
    }
}

/// Reads which version is meant: an id of 16 hexadecimal digits, or a time.
fn version(text: &str) -> Result<At, String> {
    if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(At::Id(text.to_ascii_lowercase()));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339);
    time.map(|time| At::Time(time.into())).map_err(|_| {
        format!("{text:?} is neither an id of `trash list` nor a time as 2026-11-24T11:51:55Z")
    })
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_id_or_time() {
        assert_eq!(
            version("0123456789ABCDEF"),
            Ok(At::Id("0123456789abcdef".into()))
        );
        assert!(matches!(version("2026-11-24T11:51:55Z"), Ok(At::Time(_))));
        assert!(version("yesterday").is_err());
    }
}
