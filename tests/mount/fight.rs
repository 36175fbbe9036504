//! Several machines work in one bucket: each on files of its own and all on the same ones, two of them
//! while everything goes wrong at once. In the end bucket and mounts agree, and nothing is lost.
//!
//! `FIGHT_SECONDS` and `CRASH_SEED` choose another run; the seed in use is printed.

mod costs;
mod ledger;
mod relay;
mod shared;
mod weather;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r2_model::{Permission, R2Model, RetryAfter, Token};

use self::ledger::Ledger;
use self::shared::SharedWriter;
use crate::common::mount::Mount;
use crate::crash::noise;
use crate::crash::random::state::State;
use crate::crash::random::writer::Writer;
use crate::crash::random::{Random, setting};

/// How long the short form goes wrong.
const SECONDS: u64 = 20;
/// How long the short form works while nothing does.
const CALM_SECONDS: u64 = 10;
/// The same faults at the same calls each time, unless another seed is asked for.
const SEED: u64 = 480_079_132;
/// The folder that all sides work in.
const BOTH: &str = "projects/both/";
/// The sides, and the access keys by which the model tells them apart.
const SIDES: [&str; 4] = ["left", "right", "front", "back"];
/// Between two operations of a program, at most.
const PAUSE_MILLIS: u64 = 60;
/// Longer than what goes with one PUT.
const LARGE_BYTES: usize = 17_000_000;
/// Between two saves of a large file, at most.
const LARGE_PAUSE_MILLIS: u64 = 10_000;
/// How long they may take to agree once nothing goes wrong any more. A tombstone waits three
/// minutes for a write that may still land.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

#[test]
fn two_mounts_under_all_faults_agree_and_lose_nothing() {
    fight(2, Weather::All);
}

#[test]
fn two_mounts_agree_and_see_what_the_other_has_closed() {
    fight(2, Weather::Calm);
}

#[test]
fn four_mounts_agree_and_see_what_the_others_have_closed() {
    fight(4, Weather::Calm);
}

/// What goes wrong meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weather {
    /// Nothing; others write as well.
    Calm,
    /// Everything.
    All,
}

fn fight(machines: usize, weather: Weather) {
    let seed = setting("CRASH_SEED", SEED);
    let short = match weather {
        Weather::Calm => CALM_SECONDS,
        Weather::All => SECONDS,
    };
    let seconds = setting("FIGHT_SECONDS", short);
    println!("CRASH_SEED={seed} FIGHT_SECONDS={seconds}: {machines} machines, {weather:?}");
    let sides = &SIDES[..machines];
    let (mut random, begun) = (Random::new(seed), Instant::now());
    let mut rules = R2Model::builder().too_many_requests(RetryAfter::Seconds(1));
    for side in sides {
        rules = rules.token(Token::new(side, SECRET, Permission::ObjectReadWrite));
    }
    let model = rules.start();
    for number in 0..weather::OTHERS {
        model.put(&weather::others_key(number), weather::others_bytes(number));
    }
    let mounts: Vec<Mount> = sides.iter().map(|side| mount(&model, side)).collect();
    fs::create_dir(mounts[0].path("projects/both")).unwrap();
    mounts[0].wait_uploaded();
    let faults = match weather {
        Weather::Calm => Vec::new(),
        Weather::All => weather::add_faults(&model, &mut random),
    };
    let ledger = Ledger::default();
    let mut writers: Vec<Writer> = (0..machines as u64)
        .map(|n| Writer::new(n, seed ^ (n << 32)))
        .collect();
    let time = Duration::from_secs(seconds);
    let given = (&mut writers[..], &ledger);
    let done = work(&model, &mounts, given, &mut random, (weather, time));
    let mut fired = 0;
    for fault in &faults {
        let (struck, of) = (model.fired(fault.id), model.matched(fault.id));
        fired += struck * u64::from(fault.repeats);
        println!("{struck} of {of}: {}", fault.name);
    }
    model.clear_faults();
    println!("operations acknowledged: {done:?}, faults: {fired}");
    settle(&model, &mounts, seconds > SECONDS);
    let result = compare(&model, &mounts, &writers, &ledger).and_then(|copies| {
        let odds = (copies, fired, begun.elapsed());
        costs::compare(&model, &done, machines, odds)
    });
    let turns = done.turns.load(Ordering::Relaxed);
    assert!(
        weather == Weather::All || turns > 1,
        "the file went nowhere"
    );
    if let Err(difference) = result {
        panic!("CRASH_SEED={seed} FIGHT_SECONDS={seconds}: {difference}");
    }
}

const SECRET: &str = "secretofbothsides";

fn mount(model: &R2Model, side: &str) -> Mount {
    let settings = [
        ("R2_ACCESS_KEY_ID", side),
        ("R2_SECRET_ACCESS_KEY", SECRET),
        ("REQUEST_DEADLINE_SECONDS", "2"),
        ("LIST_TTL_SECONDS", "1"),
    ];
    Mount::with(model, &settings)
}

/// What the programs have done.
#[derive(Debug, Default)]
struct Done {
    own: AtomicU64,
    shared: AtomicU64,
    failed: AtomicU64,
    read: AtomicU64,
    large: AtomicU64,
    /// How often one has seen what another closed.
    turns: AtomicU64,
}

/// Lets all programs work while everything goes wrong.
fn work(
    model: &R2Model,
    mounts: &[Mount],
    (writers, ledger): (&mut [Writer], &Ledger),
    random: &mut Random,
    (weather, time): (Weather, Duration),
) -> Done {
    let done = Done::default();
    let stopping = AtomicBool::new(false);
    let (done_ref, stopping_ref) = (&done, &stopping);
    let mut next = || Random::new(random.below(u64::MAX));
    let mut winds = next();
    std::thread::scope(|scope| {
        for ((mount, writer), side) in mounts.iter().zip(writers).zip(SIDES) {
            let (mut pauses, mut seeds, reads) = (next(), next(), next());
            scope.spawn(move || own_work(mount, writer, &mut pauses, done_ref, stopping_ref));
            let folder = mount.path(BOTH);
            let mut shared = SharedWriter::new(side, folder, seeds.below(u64::MAX), ledger);
            scope.spawn(move || shared_work(&mut shared, &mut seeds, done_ref, stopping_ref));
            scope.spawn(move || read_others(mount, reads, done_ref, stopping_ref));
            let large = next();
            scope.spawn(move || save_large(mount, side, large, done_ref, ledger, stopping_ref));
        }
        scope.spawn(move || weather::blow(model, &mut winds, weather, stopping_ref));
        if weather == Weather::Calm {
            let round = next();
            scope.spawn(move || {
                let turns = relay::run(model, mounts, round, ledger, stopping_ref);
                done_ref.turns.store(turns, Ordering::Relaxed);
            });
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        stopping.store(true, Ordering::Relaxed);
    });
    done
}

fn own_work(
    mount: &Mount,
    writer: &mut Writer,
    pauses: &mut Random,
    done: &Done,
    stopping: &AtomicBool,
) {
    while !stopping.load(Ordering::Relaxed) {
        match writer.attempt(&mount.root(), &done.own) {
            Ok(true) => {}
            Ok(false) => {
                done.failed.fetch_add(1, Ordering::Relaxed);
            }
            Err(difference) => {
                let (folder, last) = (writer.folder(), writer.last());
                panic!("{folder}, in {last}: {difference}");
            }
        }
        std::thread::sleep(Duration::from_millis(pauses.below(PAUSE_MILLIS)));
    }
}

fn shared_work(writer: &mut SharedWriter, pauses: &mut Random, done: &Done, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        match writer.attempt() {
            Ok(()) => done.shared.fetch_add(1, Ordering::Relaxed),
            Err(error) if shared::is_excused(&error) => done.failed.fetch_add(1, Ordering::Relaxed),
            Err(error) => panic!("shared work: {error}"),
        };
        std::thread::sleep(Duration::from_millis(pauses.below(4 * PAUSE_MILLIS)));
    }
}

/// Reads somebody else's objects, and empties the cache now and then: whatever goes wrong, no read
/// shows anything but one version.
fn read_others(mount: &Mount, mut random: Random, done: &Done, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        let key = weather::others_key(random.below(weather::OTHERS));
        match fs::read(mount.path(&key)) {
            Ok(bytes) => {
                assert!(weather::is_whole(&bytes), "{key} is torn");
                done.read.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if shared::is_excused(&error) => {}
            Err(error) => panic!("{key}: {error}"),
        }
        if random.below(100) == 0 {
            mount.remove_cache();
        }
        std::thread::sleep(Duration::from_millis(random.below(4 * PAUSE_MILLIS)));
    }
}

/// Saves a file again and again that goes in parts; its content is in no ETag, and so in the ledger
/// of the names.
fn save_large(
    mount: &Mount,
    side: &'static str,
    mut random: Random,
    done: &Done,
    ledger: &Ledger,
    stopping: &AtomicBool,
) {
    let key = format!("projects/large-{side}.wav");
    while !stopping.load(Ordering::Relaxed) {
        let bytes = noise(random.below(u64::MAX), LARGE_BYTES);
        match fs::write(mount.path(&key), &bytes) {
            Ok(()) => {
                done.large.fetch_add(1, Ordering::Relaxed);
                ledger.holds(&key, ledger::content(&bytes));
            }
            Err(error) if shared::is_excused(&error) => ledger.holds_something(&key),
            Err(error) => panic!("{key}: {error}"),
        }
        weather::wait(random.below(LARGE_PAUSE_MILLIS), stopping);
    }
}

/// Waits until both queues are empty. The short form does not wait for tombstones whose key is gone:
/// they stay for three minutes, in case an earlier write lands yet.
fn settle(model: &R2Model, mounts: &[Mount], thoroughly: bool) {
    let begun = Instant::now();
    for mount in mounts {
        loop {
            let status = mount.status();
            assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
            let queue = mount.run(&["queue", "--json"]).stdout;
            let queue: serde_json::Value = serde_json::from_slice(&queue).unwrap();
            let entries = queue["entries"].as_array().unwrap();
            let is_gone = |entry: &serde_json::Value| {
                let key = entry["path"].as_str().unwrap();
                entry["operation"] == "delete" && model.stat(key).is_none()
            };
            let is_settled = match thoroughly {
                true => status["safe_to_shut_down"] == true,
                false => entries.iter().all(is_gone),
            };
            if is_settled {
                break;
            }
            let elapsed = begun.elapsed();
            assert!(
                elapsed < SETTLED_WITHIN,
                "not settled: {status:#}\n{queue:#}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    println!("settled after {:?}", begun.elapsed());
}

fn compare(
    model: &R2Model,
    mounts: &[Mount],
    writers: &[Writer],
    ledger: &Ledger,
) -> Result<u64, String> {
    agree(model, mounts)?;
    let objects: BTreeMap<String, Vec<u8>> = objects(model);
    for writer in writers {
        let folder = format!("{}/", writer.folder());
        let wanted: BTreeMap<String, Vec<u8>> = writer.objects().into_iter().collect();
        let held = objects.iter().filter(|(key, _)| key.starts_with(&folder));
        let held: BTreeMap<String, Vec<u8>> = held
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect();
        differ(&wanted, &held).map_err(|it| format!("{folder} in the bucket: {it}"))?;
    }
    for (key, wanted) in ledger.held() {
        let found = objects.get(&key).map(|bytes| ledger::content(bytes));
        if found.as_ref() != Some(&wanted) {
            return Err(format!("{key} holds {found:?} and not {wanted}"));
        }
    }
    let found = ledger.compare(model, BOTH)?;
    println!("{found}");
    costs::conflicts(model, BOTH)
}

/// The bucket's files with their bytes.
fn objects(model: &R2Model) -> BTreeMap<String, Vec<u8>> {
    let keys = model.keys().into_iter();
    keys.filter(|key| !key.ends_with('/'))
        .map(|key| {
            let bytes = model.get(&key).expect("nobody writes any more").bytes;
            (key, bytes.to_vec())
        })
        .collect()
}

/// Waits until all mounts show what the bucket holds, as their listings grow old.
fn agree(model: &R2Model, mounts: &[Mount]) -> Result<(), String> {
    let wanted: BTreeMap<String, Vec<u8>> = objects(model);
    let end = Instant::now() + Duration::from_secs(30);
    for (mount, side) in mounts.iter().zip(SIDES) {
        loop {
            // What has gone is still named by a listing until that is read anew.
            let shown = State::try_read(&mount.path("projects"));
            let shown = shown.unwrap_or_default();
            let shown = shown.entries().filter(|(path, _)| !path.ends_with('/'));
            let shown: BTreeMap<String, Vec<u8>> = shown
                .map(|(path, bytes)| (format!("projects/{path}"), bytes.to_vec()))
                .collect();
            match differ(&wanted, &shown) {
                Ok(()) => break,
                Err(difference) if Instant::now() > end => {
                    return Err(format!("{side} does not show the bucket: {difference}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
    Ok(())
}

/// Says how files differ from what they should be, without printing them.
fn differ(
    wanted: &BTreeMap<String, Vec<u8>>,
    found: &BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    for (path, bytes) in wanted {
        match found.get(path) {
            Some(other) if other == bytes => {}
            Some(other) => {
                let (has, wants) = (ledger::content(other), ledger::content(bytes));
                return Err(format!("{path} holds {has} and not {wants}"));
            }
            None => return Err(format!("{path} is missing")),
        }
    }
    match found.keys().find(|path| !wanted.contains_key(*path)) {
        Some(path) => Err(format!("{path} is there and should not be")),
        None => Ok(()),
    }
}
