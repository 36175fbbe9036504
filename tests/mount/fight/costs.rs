//! What the fight has cost, and whether conflict copies are where two sides really wrote.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use r2_model::{Class, Operation, R2Model, Written};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::Done;

/// The metadata by which a client knows its own writes again.
const WRITE_ID: &str = "voicebeatfs-write-id";

/// The folders in which a mount of the fight has names, apart from one for each machine: each is listed
/// once in `LIST_TTL_SECONDS`, which is one second there.
const FOLDERS: u64 = 7;
/// The requests that a large file needs before its completion: its start, three parts, and a look at
/// what the server has of it.
const PARTS_OF_LARGE: u64 = 5;

/// Checks that nothing was done twice, nor too fast, and that the bill is in proportion.
pub(super) fn compare(
    model: &R2Model,
    done: &Done,
    machines: usize,
    (copies, fired, took): (u64, u64, Duration),
) -> Result<(), String> {
    let machines = machines as u64;
    let hasty = model.write_rate_violations();
    let own: Vec<_> = hasty.iter().filter(|it| it.own_gap.is_some()).collect();
    if !own.is_empty() {
        return Err(format!("written too soon after one's own write: {own:?}"));
    }
    let history = model.history();
    let mut writes: BTreeMap<&String, Vec<&Written>> = BTreeMap::new();
    for written in &history {
        let id = written.metadata.get(WRITE_ID);
        if let Some(id) = id.filter(|_| written.now.is_some()) {
            let writes = writes.entry(id).or_default();
            // A write that lands late over bytes that are the same, as of a folder's marker, meets
            // its condition a second time: the tag is that of the bytes.
            if writes.is_empty() || written.replaced != written.now {
                writes.push(written);
            }
        }
    }
    if let Some(twice) = writes.values().find(|writes| writes.len() > 1) {
        return Err(format!("done twice: {twice:?}"));
    }
    let (writes, bill) = (writes.len() as u64, Bill::of(model));
    // A write takes effect once. What else was billed failed by a fault, or because another side had just
    // written the key: then there is a copy, or R2 asked for patience, or what was written gave way.
    let shared = done.shared.load(Ordering::Relaxed);
    let most = Bill {
        writes: writes + fired + 2 * copies + hasty.len() as u64 + shared / 4,
        parts: PARTS_OF_LARGE * done.large.load(Ordering::Relaxed) + fired,
        listings: machines * (FOLDERS + machines) * (took.as_secs() + 1) + fired,
    };
    let turns = done.turns.load(Ordering::Relaxed);
    let acknowledged = done.own.load(Ordering::Relaxed) + shared + turns;
    println!(
        "figures: {took:.0?}, {acknowledged} operations acknowledged, {} reads, {turns} closed and opened elsewhere, \
         {fired} faults, {copies} conflict copies, {writes} writes in the bucket, billed {bill:?} of {most:?}",
        done.read.load(Ordering::Relaxed),
    );
    if writes > acknowledged {
        return Err(format!("{writes} writes for {acknowledged} operations"));
    }
    let in_bounds =
        bill.writes <= most.writes && bill.parts <= most.parts && bill.listings <= most.listings;
    match in_bounds {
        true => Ok(()),
        false => Err(format!(
            "billed {bill:?}, and not more than {most:?} is due"
        )),
    }
}

/// Operations of class A.
#[derive(Debug, Default)]
struct Bill {
    /// Those that make an object.
    writes: u64,
    /// Those that lead to one.
    parts: u64,
    listings: u64,
}

impl Bill {
    fn of(model: &R2Model) -> Bill {
        let mut bill = Bill::default();
        let requests = model.requests();
        for request in requests.iter().filter(|it| it.outcome.is_some()) {
            match request.operation {
                Operation::PutObject
                | Operation::CopyObject
                | Operation::CompleteMultipartUpload => bill.writes += 1,
                Operation::ListObjectsV2 => bill.listings += 1,
                other if other.class() == Class::A => bill.parts += 1,
                _ => {}
            }
        }
        bill
    }
}

/// Checks of every conflict copy that the other side had written its name meanwhile.
pub(super) fn conflicts(model: &R2Model, folder: &str) -> Result<u64, String> {
    let history = model.history();
    let mut copies = 0;
    for made in history.iter().filter(|it| it.replaced.is_none()) {
        let Some(copy) = Copy::of(&made.key) else {
            continue;
        };
        copies += 1;
        if !copy.name.starts_with(folder) {
            let name = copy.name;
            return Err(format!(
                "nobody else writes {name}, and there is {}",
                made.key
            ));
        }
        // The name tells the second in which the conflict was found; what this side has done within
        // it may have come after that.
        let before = history.iter().filter(|it| it.key == copy.name);
        let before = before.filter(|it| it.at < copy.found_at + Duration::from_secs(1));
        let mut before: Vec<&Written> = before.collect();
        while before
            .pop_if(|it| it.client == made.client && it.at >= copy.found_at)
            .is_some()
        {}
        if before.last().is_none_or(|it| it.client == made.client) {
            let (key, client, last) = (&made.key, &made.client, before.last());
            return Err(format!(
                "{key} is a conflict of {client} with itself: {last:?}"
            ));
        }
    }
    Ok(copies)
}

/// What the name of a conflict copy tells.
struct Copy {
    /// The key that both sides wrote.
    name: String,
    found_at: SystemTime,
}

impl Copy {
    fn of(key: &str) -> Option<Copy> {
        let (stem, rest) = key.rsplit_once(" (conflict ")?;
        let (mark, extension) = rest.split_once(')')?;
        let (_, time) = mark.split_once(' ')?;
        let format = format_description!("[year]-[month]-[day] [hour].[minute].[second]");
        // A number follows if the name was taken.
        let time = PrimitiveDateTime::parse(time.get(..19)?, format).ok()?;
        Some(Copy {
            name: format!("{stem}{extension}"),
            found_at: time.assume_utc().into(),
        })
    }
}
