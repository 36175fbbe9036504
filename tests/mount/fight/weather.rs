//! Everything that goes wrong in the model at once, by chance and by seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use r2_model::{Connections, Ending, Fault, FaultId, FaultRule, Operation, R2Model, Reply};

use crate::crash::noise;
use crate::crash::random::Random;

/// Objects of somebody else's that are read all the time, and written anew now and then.
pub(super) const OTHERS: u64 = 4;
const OTHERS_BYTES: usize = 200_000;

/// What takes effect once.
const WRITES: [Operation; 4] = [
    Operation::PutObject,
    Operation::CopyObject,
    Operation::CompleteMultipartUpload,
    Operation::DeleteObject,
];
/// What may fail its condition.
const CONDITIONAL: [Operation; 3] = [
    Operation::PutObject,
    Operation::CopyObject,
    Operation::CompleteMultipartUpload,
];
const UPLOADS: [Operation; 5] = [
    Operation::PutObject,
    Operation::CopyObject,
    Operation::CompleteMultipartUpload,
    Operation::CreateMultipartUpload,
    Operation::UploadPart,
];
const READS: [Operation; 3] = [
    Operation::GetObject,
    Operation::HeadObject,
    Operation::ListObjectsV2,
];

/// A fault that has its name in the report.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) id: FaultId,
    /// Whether a request that it strikes may have to be sent again.
    pub(super) repeats: bool,
}

/// Adds all faults; each strikes between a half and one and a half of its share of the requests.
pub(super) fn add_faults(model: &R2Model, random: &mut Random) -> Vec<Named> {
    let mut named = Vec::new();
    let mut add = |share: f64, operations: &[Operation], fault: Fault| {
        let share = share * (0.5 + random.below(100) as f64 / 100.0);
        let rule = FaultRule::new(fault.clone()).on(operations);
        let id = model.add_fault(rule.chance(share, random.below(u64::MAX)));
        named.push(Named {
            name: format!("{fault:?} on {operations:?}"),
            id,
            repeats: !matches!(
                fault,
                Fault::Latency { .. }
                    | Fault::SlowFirstByte(_)
                    | Fault::SlowBody(_)
                    | Fault::Stall { .. }
                    | Fault::NoContentLength
            ),
        });
    };
    // Rule 1 of testing.md; the others follow in order.
    add(0.01, &UPLOADS, Fault::too_many_requests(None));
    add(0.01, &UPLOADS, Fault::too_many_requests(Some(1)));
    add(0.01, &READS, Fault::too_many_requests(Some(1)));
    add(0.02, &CONDITIONAL, Fault::ConditionFails);
    for ending in [
        Ending::Cut,
        Ending::Reset,
        Ending::Silence(Duration::from_secs(3)),
        Ending::Reply(Reply::error("InternalError")),
        Ending::Reply(Reply::error("ServiceUnavailable")),
    ] {
        add(0.01, &WRITES, Fault::Lost(ending.clone()));
        add(0.01, &UPLOADS[3..], Fault::Lost(ending));
    }
    for seconds in [1, 3] {
        add(
            0.01,
            &WRITES,
            Fault::LateCommit(Duration::from_secs(seconds)),
        );
    }
    for reply in [
        Reply::error("InternalError"),
        Reply::error("ServiceUnavailable"),
        Reply::html(502),
        Reply::html(520),
        Reply::html(524),
        Reply::empty(500),
    ] {
        add(0.005, &READS, Fault::reply(reply.clone()));
        add(0.005, &UPLOADS, Fault::reply(reply.clone()));
        add(0.005, &[Operation::DeleteObject], Fault::reply(reply));
    }
    let inside = Reply::error_with_status(200, "InternalError");
    add(0.01, &CONDITIONAL[1..], Fault::reply(inside));
    add_slow_ones(&mut add);
    add_torn_ones(&mut add);
    named
}

type Add<'a> = &'a mut dyn FnMut(f64, &[Operation], Fault);

fn add_slow_ones(add: Add) {
    let latency = Fault::Latency {
        least: Duration::ZERO,
        most: Duration::from_millis(400),
    };
    add(0.3, &[], latency);
    add(0.02, &[], Fault::SlowFirstByte(Duration::from_millis(700)));
    let get = [Operation::GetObject];
    add(0.05, &get, Fault::SlowBody(300_000));
    add(0.03, &[Operation::ListObjectsV2], Fault::SlowBody(20_000));
    let stall = Fault::Stall {
        after: 1000,
        pause: Duration::from_millis(800),
    };
    add(0.03, &get, stall);
}

fn add_torn_ones(add: Add) {
    let get = [Operation::GetObject];
    let list = [Operation::ListObjectsV2];
    for fault in [
        Fault::CutBody(900),
        Fault::EndBody(900),
        Fault::FlipBit(500),
        Fault::RangeEndMoved(-100),
        Fault::RangeEndMoved(100),
        Fault::WholeObject,
        Fault::NoContentLength,
    ] {
        add(0.02, &get, fault);
    }
    add(0.02, &list, Fault::CutBody(300));
    add(0.02, &list, Fault::EndBody(300));
    add(0.02, &UPLOADS, Fault::CutUpload(100));
    add(0.1, &list, Fault::ShortPage(2));
    add(0.03, &list, Fault::ShortPage(0));
    add(0.02, &list, Fault::error("InvalidArgument"));
    add(0.004, &UPLOADS, Fault::error("AccessDenied"));
    add(0.004, &READS, Fault::error("AccessDenied"));
}

/// The key of an object of somebody else's.
pub(super) fn others_key(number: u64) -> String {
    format!("projects/others/{number}.wav")
}

/// What somebody else's object may hold: it begins with the seed of its content.
pub(super) fn others_bytes(seed: u64) -> Vec<u8> {
    let mut bytes = seed.to_le_bytes().to_vec();
    bytes.extend(noise(seed, OTHERS_BYTES));
    bytes
}

/// Whether these are the bytes of one version of somebody else's object. The bit that a fault flips
/// is found when the whole object is here, and a reader may be ahead of that.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let Some(seed) = bytes.first_chunk() else {
        return false;
    };
    let wanted = others_bytes(u64::from_le_bytes(*seed));
    let pairs = wanted.iter().zip(bytes);
    let flipped: u32 = pairs.map(|(a, b)| (a ^ b).count_ones()).sum();
    wanted.len() == bytes.len() && flipped <= 1
}

/// Cuts and refuses connections, and writes somebody else's objects, until told to stop.
pub(super) fn blow(
    model: &R2Model,
    random: &mut Random,
    weather: super::Weather,
    stopping: &AtomicBool,
) {
    let least = if weather == super::Weather::Calm {
        2
    } else {
        0
    };
    while !stopping.load(Ordering::Relaxed) {
        wait(random.below(1500), stopping);
        match least + random.below(6 - least) {
            0 => model.cut_connections(),
            1 => {
                let kinds = [
                    Connections::Refuse,
                    Connections::Reset,
                    Connections::BlackHole,
                ];
                model.set_connections(kinds[random.below(3) as usize]);
                if random.below(2) == 0 {
                    model.cut_connections();
                }
                wait(random.below(1200), stopping);
                model.set_connections(Connections::Serve);
            }
            _ => {
                let bytes = others_bytes(random.below(u64::MAX));
                let key = others_key(random.below(OTHERS));
                match random.below(4) {
                    // The file is what is stored, in whatever coding.
                    0 => model.put_encoded(&key, bytes, "something else", "gzip"),
                    _ => model.put(&key, bytes),
                }
            }
        }
    }
    model.set_connections(Connections::Serve);
}

/// Waits, unless it is to stop.
pub(super) fn wait(millis: u64, stopping: &AtomicBool) {
    let end = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < end && !stopping.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
