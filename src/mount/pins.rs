//! The answers of a mount about its cache and what is pinned in it.

use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::undo::rfc3339;
use crate::cache::Cache;
use crate::control::cache::{Cached, CachedEntry, Filled, PinEntry};
use crate::control::queue::MAX_ENTRIES;
use crate::control::{Refusal, RefusalCode, WarmingStatus};
use crate::fs::pins::{Fill, Keeper, PinError, Warming};

/// How often somebody who waits hears how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Returns what is held at or below these paths (all, if there are none), and the pins.
pub(super) fn list(cache: &Cache, keeper: &Keeper, paths: &[String]) -> Cached {
    let all = [String::new()];
    let paths = if paths.is_empty() { &all } else { paths };
    let mut cached = Cached::default();
    for path in paths {
        let path = path.trim_matches('/');
        let entries = cache.entries(path).into_iter();
        cached.entries.extend(entries.map(|entry| CachedEntry {
            path: entry.version.key.to_string(),
            bytes: entry.size,
            held_bytes: entry.held_bytes,
            complete: entry.complete,
            pinned: entry.pinned,
            used: rfc3339(entry.used_at),
        }));
        cached
            .pins
            .extend(keeper.pins(path).into_iter().map(pin_entry));
    }
    cached.left_out = cached.entries.len().saturating_sub(MAX_ENTRIES) as u64;
    cached.entries.truncate(MAX_ENTRIES);
    cached
}

/// Pins files and folders.
pub(super) async fn pin(keeper: &Keeper, paths: &[String]) -> Result<Vec<PinEntry>, Refusal> {
    let pinned = keeper.pin(paths).await.map_err(refusal)?;
    for (path, fill) in &pinned {
        log::info!(
            "pinned {path:?}: {} files, {} bytes",
            fill.files,
            fill.bytes
        );
    }
    Ok(pinned.into_iter().map(pin_entry).collect())
}

/// Unpins files and folders.
pub(super) async fn unpin(keeper: &Keeper, paths: &[String]) -> Result<Vec<String>, Refusal> {
    let gone = keeper.unpin(paths).await.map_err(refusal)?;
    gone.iter().for_each(|path| log::info!("unpinned {path:?}"));
    Ok(gone)
}

/// Brings files and folders into the cache. Ends when nobody listens any more.
pub(super) async fn warm(
    keeper: &Keeper,
    paths: &[String],
    told: Sender<Filled>,
) -> Result<Filled, Refusal> {
    let warming = Warming::default();
    let warm = keeper.warm(paths, &warming);
    tokio::pin!(warm);
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            biased;
            ended = &mut warm => return ended.map(filled).map_err(refusal),
            _ = ticks.tick() => {
                let fill = warming.fill();
                if fill.files > 0 {
                    // One that is not taken yet is as good.
                    let _ = told.try_send(filled(fill));
                }
            }
        }
    }
}

/// Returns what is still to come of what is being warmed.
pub(super) fn warming_status(fill: &Fill) -> WarmingStatus {
    WarmingStatus {
        files: fill.files.saturating_sub(fill.held_files),
        bytes: fill.bytes.saturating_sub(fill.held_bytes),
    }
}

fn pin_entry((path, fill): (String, Fill)) -> PinEntry {
    PinEntry {
        path,
        fill: filled(fill),
    }
}

fn filled(fill: Fill) -> Filled {
    Filled {
        files: fill.files,
        bytes: fill.bytes,
        held_files: fill.held_files,
        held_bytes: fill.held_bytes,
        failure: fill.failure,
    }
}

fn refusal(error: PinError) -> Refusal {
    let code = match &error {
        PinError::NotFound(_) => RefusalCode::NotFound,
        PinError::Local(_) | PinError::TooMany => RefusalCode::BadRequest,
        PinError::NoRoom(_) => RefusalCode::NoRoom,
        PinError::Store(..) | PinError::Io(_) => RefusalCode::Failed,
    };
    Refusal::new(code, error.to_string())
}
