//! One file goes from machine to machine: what one has closed and uploaded, the next sees when it opens it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use r2_model::R2Model;

use super::ledger::{self, Ledger};
use crate::common::mount::{DEADLINE, Mount};
use crate::crash::noise;
use crate::crash::random::Random;

const KEY: &str = "projects/relay.wav";
const MOST_BYTES: u64 = 300_000;
/// What is known of a version for longer is looked at again (`LIST_TTL_SECONDS` of these mounts).
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Hands the file round until told to stop; returns how often.
pub(super) fn run(
    model: &R2Model,
    mounts: &[Mount],
    mut random: Random,
    ledger: &Ledger,
    stopping: &AtomicBool,
) -> u64 {
    let mut last = None;
    for turn in 0.. {
        if stopping.load(Ordering::Relaxed) {
            return turn;
        }
        let path = mounts[turn as usize % mounts.len()].path(KEY);
        if let Some(last) = last {
            std::thread::sleep(TRUSTED_FOR);
            let found = fs::read(&path).unwrap();
            assert!(
                found == last,
                "turn {turn}: {path:?} is not what was closed"
            );
        }
        let length = 1 + random.below(MOST_BYTES);
        let bytes = noise(random.below(u64::MAX), length as usize);
        fs::write(&path, &bytes).unwrap();
        let end = Instant::now() + DEADLINE;
        while model.get(KEY).is_none_or(|object| object.bytes != bytes) {
            assert!(
                Instant::now() < end,
                "turn {turn}: {path:?} is not uploaded"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        ledger.holds(KEY, ledger::content(&bytes));
        last = Some(bytes);
    }
    unreachable!("there are more turns than anybody takes")
}
