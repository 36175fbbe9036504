//! Real programs write, rename and delete; SIGKILL at a random moment; the next mount shows
//! everything that was acknowledged, and so does the bucket in the end.
//!
//! `CRASH_SEED` and `CRASH_ROUNDS` choose another run; the seed in use is printed.

pub(crate) mod state;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};

use self::state::State;
use self::writer::Writer;
use super::*;
use crate::common::mount::DEADLINE;

const ROUNDS: u64 = 15;
const WRITERS: u64 = 3;
/// Acknowledged operations a round, at least.
const OPERATIONS: u64 = 120;

/// Numbers that look random: the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// A number from the environment.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The seed that was asked for, or any.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(UNIX_EPOCH).unwrap();
    setting("CRASH_SEED", now.subsec_nanos().into())
}

#[test]
fn random_kills_lose_tear_and_resurrect_nothing() {
    kill_again_and_again(seed(), setting("CRASH_ROUNDS", ROUNDS), false);
}

#[test]
fn a_program_that_loses_its_commits_is_found_out() {
    let found = std::panic::catch_unwind(|| kill_again_and_again(seed(), ROUNDS, true));
    let reason = found.expect_err("15 kills have not shown that all commits are lost");
    let reason = reason.downcast_ref::<String>().expect("a message");
    assert!(reason.contains(" is lost"), "{reason}");
}

fn kill_again_and_again(seed: u64, rounds: u64, loses_commits: bool) {
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let model = R2Model::start();
    let slow = Fault::Latency {
        least: Duration::ZERO,
        most: Duration::from_millis(150),
    };
    let writes = [
        Operation::PutObject,
        Operation::CopyObject,
        Operation::DeleteObject,
    ];
    model.add_fault(FaultRule::new(slow).on(&writes).chance(0.5, seed));
    let mut mount = Mount::of(&model);
    if loses_commits {
        mount.lose_commits();
        mount.remount();
    }
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(number, seed ^ (number << 32)))
        .collect();
    for round in 1..=rounds {
        let acknowledged = one_round(&mut mount, &mut writers, &mut random);
        if random.below(4) == 0 {
            mount.remove_cache();
        }
        mount.mount();
        for writer in &mut writers {
            let found = State::read(&mount.path(&writer.folder()));
            if let Err(difference) = writer.settle(found) {
                let (folder, last) = (writer.folder(), writer.last());
                let look = a_second_look(&mount, &model, &folder);
                panic!(
                    "CRASH_SEED={seed}, round {round} of {rounds}, {folder}, in {last}: \
                     {difference}; {look}"
                );
            }
        }
        println!("round {round}: {acknowledged} operations acknowledged");
    }
    mount.wait_uploaded();
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
    assert_eq!(status["conflicts"], 0, "{status:#}");
    let wanted: BTreeMap<String, Vec<u8>> = writers.iter().flat_map(Writer::objects).collect();
    let keys = model.keys();
    let keys: Vec<&String> = keys.iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(keys, wanted.keys().collect::<Vec<_>>(), "CRASH_SEED={seed}");
    for (key, bytes) in &wanted {
        assert_object(&model, key, bytes);
    }
}

/// Says what is found a while after something was found wrong.
pub(super) fn a_second_look(mount: &Mount, model: &R2Model, folder: &str) -> String {
    std::thread::sleep(Duration::from_secs(3));
    let found = State::read(&mount.path(folder));
    let found: Vec<&str> = found.entries().map(|(path, _)| path).collect();
    let keys = model.keys();
    format!("later the mount shows {found:?}, and the bucket {keys:?}")
}

/// Lets the writers work until enough is acknowledged, and then kills the mount. Returns how much
/// that was.
fn one_round(mount: &mut Mount, writers: &mut [Writer], random: &mut Random) -> u64 {
    let enough = OPERATIONS + random.below(4 * OPERATIONS);
    let pause = Duration::from_micros(random.below(20_000));
    let acknowledged = AtomicU64::new(0);
    let stopping = AtomicBool::new(false);
    let root = mount.root();
    std::thread::scope(|scope| {
        for writer in writers {
            let (root, acknowledged, stopping) = (&root, &acknowledged, &stopping);
            scope.spawn(move || writer.work(root, acknowledged, stopping));
        }
        let end = Instant::now() + DEADLINE;
        while acknowledged.load(Ordering::Relaxed) < enough && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(pause);
        mount.kill_and_leave();
        stopping.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner();
    assert!(
        acknowledged >= enough,
        "only {acknowledged} operations in time"
    );
    acknowledged
}
