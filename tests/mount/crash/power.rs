//! The power fails while programs write and sync: everything that was synced is there after the
//! next mount, nothing comes back whose removal was synced, and the bucket ends right.
//!
//! `CRASH_SEED` and `POWER_ROUNDS` choose another run; the seed in use is printed.

mod disk;
mod known;
mod writer;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, R2Model};
use rustix::process::{Pid, Signal, kill_process};

use self::disk::{Disk, Kind, assert_journal_is_whole, boot_anew};
use self::writer::Writer;
use super::random::state::State;
use super::random::{Random, a_second_look, seed, setting};
use super::*;
use crate::common::mount::{DEADLINE, model_settings};

const ROUNDS: u64 = 3;
const WRITERS: u64 = 3;
/// Acknowledged operations a round, at least.
const OPERATIONS: u64 = 40;

fn mount_on(disk: &Disk, model: &R2Model) -> Mount {
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(model) {
        mount.set(&name, &value);
    }
    for (name, folder) in [("STAGING_DIR", "staging"), ("CACHE_DIR", "cache")] {
        mount.set(name, disk.path().join(folder).to_str().unwrap());
    }
    mount.mount();
    mount
}

/// Lets the writers work until enough is acknowledged, and cuts the power. Returns how much that
/// was.
fn one_round(mount: &mut Mount, disk: &Disk, writers: &mut [Writer], random: &mut Random) -> u64 {
    let enough = OPERATIONS + random.below(3 * OPERATIONS);
    let pause = Duration::from_micros(random.below(300_000));
    let (acknowledged, stopping) = (AtomicU64::new(0), AtomicBool::new(false));
    let root = mount.root();
    let cut = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for writer in writers {
            let (root, acknowledged, stopping) = (&root, &acknowledged, &stopping);
            let cut = Arc::clone(&cut);
            scope.spawn(move || {
                let error = writer.work(root, acknowledged, stopping, &cut);
                let early = error.filter(|_| !cut.load(Ordering::SeqCst));
                if let Some(error) = early {
                    panic!("{}: {error} before the power was cut", writer.folder());
                }
            });
        }
        let end = Instant::now() + DEADLINE;
        while acknowledged.load(Ordering::Relaxed) < enough && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(pause);
        cut.store(true, Ordering::SeqCst);
        let daemon = Pid::from_raw(mount.pid() as i32).unwrap();
        // Everything ends at one moment: the process, and the disk under it.
        kill_process(daemon, Signal::STOP).unwrap();
        disk.cut();
        mount.kill();
        stopping.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner();
    assert!(acknowledged >= enough, "only {acknowledged} operations");
    acknowledged
}

fn cut_again_and_again(kind: Kind, rounds: u64, seed: u64) {
    println!("{kind:?}: CRASH_SEED={seed} POWER_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let disk = Disk::new(kind);
    let model = R2Model::start();
    let slow = Fault::Latency {
        least: Duration::ZERO,
        most: Duration::from_millis(100),
    };
    model.add_fault(FaultRule::new(slow).chance(0.5, seed));
    let mut mount = mount_on(&disk, &model);
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(number, seed ^ (number << 32)))
        .collect();
    for round in 1..=rounds {
        let acknowledged = one_round(&mut mount, &disk, &mut writers, &mut random);
        disk.take_up();
        assert_journal_is_whole(&disk.path().join("staging"));
        boot_anew(&disk.path().join("cache"));
        if random.below(4) == 0 {
            let _ = std::fs::remove_dir_all(disk.path().join("cache"));
        }
        mount.mount();
        for writer in &mut writers {
            let found = State::read(&mount.path(&writer.folder()));
            if let Err(difference) = writer.settle(&found) {
                let folder = writer.folder();
                let look = a_second_look(&mount, &model, &folder);
                panic!(
                    "{kind:?}, CRASH_SEED={seed}, round {round} of {rounds}, {folder}: \
                     {difference}; {look}"
                );
            }
        }
        println!("{kind:?} round {round}: {acknowledged} operations acknowledged");
    }
    mount.wait_uploaded();
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
    assert_eq!(status["conflicts"], 0, "{status:#}");
    let wanted: BTreeMap<_, _> = writers.iter().flat_map(Writer::objects).collect();
    let keys = model.keys();
    let keys: Vec<&String> = keys.iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(keys, wanted.keys().collect::<Vec<_>>(), "CRASH_SEED={seed}");
    for (key, bytes) in &wanted {
        assert_object(&model, key, bytes);
    }
    mount.unmount();
}

#[test]
fn power_cuts_lose_nothing_that_was_synced_on_xfs() {
    cut_again_and_again(Kind::Xfs, setting("POWER_ROUNDS", ROUNDS), seed());
}

#[test]
fn power_cuts_lose_nothing_that_was_synced_on_ext4() {
    cut_again_and_again(Kind::Ext4, setting("POWER_ROUNDS", ROUNDS), seed());
}

#[test]
fn a_disk_that_fails_is_told_and_nothing_is_acknowledged_on_it() {
    let disk = Disk::new(Kind::Ext4);
    let model = R2Model::start();
    let mut mount = mount_on(&disk, &model);
    mount.set("WRITE_BACK_SECONDS", HOLD);
    mount.remount();
    let synced = noise(1, 100_000);
    let mut file = std::fs::File::create(mount.path("segments/take.wav")).unwrap();
    file.write_all(&synced).unwrap();
    file.sync_all().unwrap();
    disk.cut();
    let written = file.write_all(&synced).and_then(|()| file.sync_all());
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_all().unwrap_err();
    let made = std::fs::write(mount.path("segments/other.wav"), "other");
    made.unwrap_err();
    let status = mount.status();
    assert!(
        !status["alerts"].as_array().unwrap().is_empty(),
        "{status:#}"
    );
    drop(file);
    mount.kill();
    disk.take_up();
    mount.mount();
    assert_file(&mount.path("segments/take.wav"), &synced);
    assert_eq!(names(&mount, "segments"), ["take.wav"]);
    mount.unmount();
}
