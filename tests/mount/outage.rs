//! A bucket that is away in each of the ways in which buckets are away, under a mixed load: nobody waits
//! beyond the deadline, who plays what is here hears nothing of it, the mount goes at once when it is
//! told to, and afterwards everything is in the bucket.
//!
//! `OUTAGE_SECONDS` (each) and `CRASH_SEED` choose another run; the seed in use is printed.

mod load;

use std::time::{Duration, Instant};

use r2_model::{Connections, Ending, Fault, FaultRule, R2Model, Reply};

use self::load::Load;
use crate::common::mount::Mount;
use crate::crash::random::setting;
use crate::crash::{assert_file, assert_object};

/// How long each outage of the short form lasts.
const SECONDS: u64 = 4;
const SEED: u64 = 1_130_086_412;
/// From here on it is the long form, with the deadline that people have.
const LONG_SECONDS: u64 = 60;
/// What a busy machine adds to a deadline, and how long unmounting may take, whatever the bucket does: the
/// long form runs alone, the short one beside all other tests.
const LIMIT: Duration = Duration::from_secs(2);
const LIMIT_OF_SHORT: Duration = Duration::from_secs(15);
/// How long it may take until all is in the bucket again: the uploader's longest pause, and for a
/// tombstone three minutes in which a write whose answer was lost may still land.
const RECOVERY_LIMIT: Duration = Duration::from_secs(300);

/// One way to be away.
struct Outage {
    name: &'static str,
    /// Whether requests may have been carried out whose answer never comes.
    loses_answers: bool,
    begin: fn(&R2Model),
}

const OUTAGES: [Outage; 5] = [
    Outage {
        name: "refused",
        loses_answers: false,
        begin: R2Model::stop,
    },
    Outage {
        name: "429",
        loses_answers: false,
        begin: |model| {
            model.add_fault(FaultRule::new(Fault::too_many_requests(None)));
        },
    },
    Outage {
        name: "500",
        loses_answers: false,
        begin: |model| {
            model.add_fault(FaultRule::new(Fault::reply(Reply::html(500))));
        },
    },
    Outage {
        name: "1 KB/s",
        loses_answers: false,
        begin: |model| {
            model.add_fault(FaultRule::new(Fault::SlowBody(1000)));
        },
    },
    // The last: a delete of what was sent then waits three minutes, and a later one would in the short
    // form as well.
    Outage {
        name: "swallowed",
        loses_answers: true,
        begin: |model| {
            // What is open already is not closed: its bytes go nowhere.
            let silence = Ending::Silence(Duration::from_secs(3600));
            model.add_fault(FaultRule::new(Fault::Instead(silence)));
            model.set_connections(Connections::BlackHole);
        },
    },
];

#[test]
fn fifty_callers_in_every_kind_of_outage() {
    let (seed, seconds) = (
        setting("CRASH_SEED", SEED),
        setting("OUTAGE_SECONDS", SECONDS),
    );
    println!("CRASH_SEED={seed} OUTAGE_SECONDS={seconds}");
    let is_long = seconds >= LONG_SECONDS;
    let slack = if is_long { LIMIT } else { LIMIT_OF_SHORT };
    let deadline = if is_long { 30 } else { 3 };
    let model = R2Model::start();
    let mut load = Load::new(&model, seed);
    let settings = [
        ("REQUEST_DEADLINE_SECONDS", &*deadline.to_string()),
        ("CACHE_TTL_HOURS", "24"),
        // What is deleted is to be gone from the bucket in the end; bursts have their own tests.
        ("DELETE_LIMIT", "none"),
    ];
    let mut mount = Mount::with(&model, &settings);
    load.prepare(&mount);
    for outage in &OUTAGES {
        let begun = Instant::now();
        (outage.begin)(&model);
        let moves = is_long || !outage.loses_answers;
        let seen = load.run(&mount, Duration::from_secs(seconds), moves);
        println!("{}: {seen}", outage.name);
        let limit = longest(Duration::from_secs(deadline)) + slack + seen.longest_local_wait();
        assert!(seen.longest_wait() < limit, "{}: {seen}", outage.name);
        assert!(
            seen.longest_uninterruptible() < limit,
            "{}: {seen}",
            outage.name
        );
        assert!(
            !is_long || seen.late_reads <= 2 * seen.late_reads_of_plain_folder + seen.reads / 200,
            "{}: {seen}",
            outage.name
        );
        unmount(&mut mount, outage.name, slack);
        mount.mount();
        load.check_here(&mount);
        model.clear_faults();
        model.restart();
        if is_long {
            recover(&model, &mount, &load, outage.name);
        }
        println!("{}: over after {:?}", outage.name, begun.elapsed());
    }
    recover(&model, &mount, &load, "the last");
    println!(
        "figures: {} outages of {seconds} s, {}",
        OUTAGES.len(),
        load.total
    );
    mount.unmount();
}

/// The longest that a call waits for the bucket. A read is tried again for a third of the deadline, for
/// ten seconds at most, and a try takes twenty at most.
fn longest(deadline: Duration) -> Duration {
    let retries = Duration::from_secs(10).min(deadline / 3);
    retries + Duration::from_secs(20).min(deadline)
}

fn unmount(mount: &mut Mount, name: &str, limit: Duration) {
    let begun = Instant::now();
    let mut daemon = mount.unmount_and_leave();
    let took = begun.elapsed();
    println!("{name}: unmounted in {took:?}");
    assert!(took < limit, "{name}: umount took {took:?}");
    let ended = daemon.wait().unwrap();
    assert!(ended.success(), "{name}: {ended}: {}", mount.log());
    println!("{name}: ended in {:?}", begun.elapsed());
}

fn recover(model: &R2Model, mount: &Mount, load: &Load, name: &str) {
    let begun = Instant::now();
    loop {
        let status = mount.status();
        if status["safe_to_shut_down"] == true && status["online"] == true {
            assert_eq!(status["uploads"]["parked"], 0, "{name}: {status:#}");
            assert_eq!(status["conflicts"], 0, "{name}: {status:#}");
            break;
        }
        let took = begun.elapsed();
        assert!(took < RECOVERY_LIMIT, "{name}: {status:#}\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{name}: all is in the bucket after {:?}", begun.elapsed());
    let wanted = load.wanted();
    let keys = model.keys();
    let keys: Vec<&String> = keys.iter().filter(|key| load.is_written(key)).collect();
    assert_eq!(keys, wanted.keys().collect::<Vec<_>>(), "{name}");
    for (key, bytes) in &wanted {
        assert_object(model, key, bytes);
        assert_file(&mount.path(key), bytes);
    }
    load.check_unread(mount);
}
