//! `--speed`: how long the bucket takes for an answer, and how fast bytes come and go.
//!
//! The only look of the doctor's that writes: objects of its own, below a prefix that no mount shows,
//! which it removes again. What it will cost is said before.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::Finding;
use super::bucket::{SLOW, runtime};
use crate::cli::complain;
use crate::cli::status::size_text;
use crate::config::{Backend, Config, R2Settings};
use crate::disk::FileId;
use crate::metrics::OperationCounts;
use crate::mount::r2_store;
use crate::store::explain::{explain, probe_key};
use crate::store::{
    GetRequest, Key, ListRequest, Md5, ObjectHeaders, ObjectStore, PutRequest, ReadCondition,
    StoreError, StoreResult, WriteCondition,
};

/// Where the objects lie while they are there.
const PREFIX: &str = ".voicebeatfs/speed/";
/// What an interrupted run has left is removed by a later one when it is as old as this.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How many answers are timed.
const ANSWERS: usize = 10;

/// The first round: tells a slow line from a fast one at little cost.
const SMALL: Round = Round {
    objects: 1,
    bytes: 256 << 10,
};
/// The second one, if the first took no longer than [`SHORT`]: as many objects at once as a mount sends.
const LARGE: Round = Round {
    objects: 4,
    bytes: 4 << 20,
};
/// A first round that took longer tells enough.
const SHORT: Duration = Duration::from_secs(1);

/// Eight tracks of 48,000 samples a second of three bytes each: what a session records and plays.
const EIGHT_TRACKS: u64 = 8 * 48_000 * 3;

/// So many objects of so many bytes each, on their way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    objects: usize,
    bytes: usize,
}

impl Round {
    fn total(self) -> u64 {
        (self.objects * self.bytes) as u64
    }
}

/// What was measured; the field `speed` of the document.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Speed {
    /// Median of the times of a request for an object that is not there.
    answer_ms: u64,
    /// The longest of them.
    slowest_answer_ms: u64,
    /// Bytes that the bucket has taken in a second; null if it may not be written.
    sent_bytes_per_second: Option<u64>,
    /// Bytes that came from it in a second; null as above.
    received_bytes_per_second: Option<u64>,
}

/// The most requests that are sent.
fn most() -> OperationCounts {
    let objects = (SMALL.objects + LARGE.objects) as u64;
    OperationCounts {
        class_a: objects + 1,
        class_b: objects + ANSWERS as u64,
        ..OperationCounts::default()
    }
}

pub(super) fn findings(config: &Config) -> (Option<Speed>, Vec<Finding>) {
    let settings = match &config.backend {
        Backend::R2(settings) => settings,
        Backend::Local { .. } => {
            let text = "there is no bucket: nothing to measure";
            return (None, vec![Finding::good("speed", text)]);
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(finding) => return (None, vec![finding]),
    };
    let (most, each_way) = (most(), SMALL.total() + LARGE.total());
    complain(&format!(
        "speed: sends at most {} and fetches them again, in {} Class A and {} Class B requests \
         ({:.5} USD), then removes them",
        size_text(each_way),
        most.class_a,
        most.class_b,
        most.usd()
    ));
    let store = r2_store(settings, config);
    let measured = async { tokio::time::timeout(LIMIT, measure(&store)).await };
    let measured = runtime.block_on(measured).unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            message: "no answer in time".into(),
            retry_after: None,
        })
    });
    match measured {
        Ok(speed) => {
            let findings = judge(&speed, config.upload_bytes_per_second);
            (Some(speed), findings)
        }
        Err(error) => (None, vec![unmeasured(&error, settings)]),
    }
}

fn unmeasured(error: &StoreError, settings: &R2Settings) -> Finding {
    let text = explain(error, &settings.bucket, &settings.endpoint);
    Finding::problem(
        "speed",
        format!("not measured: {text}"),
        "see what is said of the bucket, and run it again",
    )
}

async fn measure(store: &dyn ObjectStore) -> StoreResult<Speed> {
    let mut times = Vec::new();
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        match store.head(&probe_key(), ReadCondition::None).await {
            Ok(_) | Err(StoreError::NotFound) => times.push(begun.elapsed()),
            Err(error) => return Err(error),
        }
    }
    times.sort();
    let mut speed = Speed {
        answer_ms: times[ANSWERS / 2].as_millis() as u64,
        slowest_answer_ms: times[ANSWERS - 1].as_millis() as u64,
        ..Speed::default()
    };
    match carry(store, SMALL, &mut speed).await {
        Ok(took) if took <= SHORT => {
            carry(store, LARGE, &mut speed).await?;
        }
        Ok(_) | Err(StoreError::Denied(_)) => {}
        Err(error) => return Err(error),
    }
    remove_left_behind(store).await?;
    Ok(speed)
}

/// Sends a round and fetches it again; returns how long the slower way took.
async fn carry(store: &dyn ObjectStore, round: Round, speed: &mut Speed) -> StoreResult<Duration> {
    let keys: Vec<Key> = (0..round.objects)
        .filter_map(|_| Key::new(&format!("{PREFIX}{}", FileId::random())))
        .collect();
    let carried = async {
        // Bytes that nothing on the way makes fewer.
        let body = Bytes::from_iter(std::iter::repeat_with(|| fastrand::u8(..)).take(round.bytes));
        let sent = timed(try_join_all(keys.iter().map(|key| {
            store.put(PutRequest {
                key: key.clone(),
                md5: Md5::of(&body),
                body: body.clone(),
                condition: WriteCondition::IfAbsent,
                headers: ObjectHeaders::default(),
            })
        })))
        .await?;
        speed.sent_bytes_per_second = Some(pace(round, sent));
        let received = timed(try_join_all(keys.iter().map(|key| fetch(store, key)))).await?;
        speed.received_bytes_per_second = Some(pace(round, received));
        Ok(sent.max(received))
    };
    let carried = carried.await;
    for key in &keys {
        let removed = store.delete(key).await;
        // One that was refused its objects has none to remove.
        if carried.is_ok() {
            removed?;
        }
    }
    carried
}

async fn timed<T>(work: impl Future<Output = StoreResult<T>>) -> StoreResult<Duration> {
    let begun = Instant::now();
    work.await.map(|_| begun.elapsed())
}

async fn fetch(store: &dyn ObjectStore, key: &Key) -> StoreResult<()> {
    let request = GetRequest {
        key: key.clone(),
        range: None,
        condition: ReadCondition::None,
    };
    let body = store.get(request).await?.body;
    body.map(|chunk| chunk.map(|_| ())).try_collect().await
}

/// Removes what runs that were killed have left; one that is under way elsewhere keeps its own.
async fn remove_left_behind(store: &dyn ObjectStore) -> StoreResult<()> {
    let request = ListRequest {
        prefix: PREFIX.into(),
        ..ListRequest::default()
    };
    let now = SystemTime::now();
    for object in store.list(request).await?.objects {
        let age = now.duration_since(object.last_modified);
        if age.is_ok_and(|age| age >= LEFT_BEHIND) {
            store.delete(&object.version.key).await?;
        }
    }
    Ok(())
}

fn pace(round: Round, took: Duration) -> u64 {
    (round.total() as f64 / took.as_secs_f64().max(0.001)) as u64
}

fn judge(speed: &Speed, upload_limit: Option<u64>) -> Vec<Finding> {
    let answer = format!(
        "a request takes {} ms, the slowest of {ANSWERS} took {} ms",
        speed.answer_ms, speed.slowest_answer_ms
    );
    let slow = SLOW.as_millis() as u64;
    let mut findings = vec![
        match (speed.answer_ms > slow, speed.slowest_answer_ms > 4 * slow) {
            (true, _) => Finding::warning(
                "speed",
                answer,
                "each new file and folder waits that long: look after the line, or choose a bucket \
             whose location is nearer",
            ),
            (false, true) => Finding::warning(
                "speed",
                answer,
                "answers come unevenly: look for what else uses the line, such as uploads \
             (UPLOAD_MAX_BYTES_PER_SECOND)",
            ),
            (false, false) => Finding::good("speed", answer),
        },
    ];
    let (Some(sent), Some(received)) =
        (speed.sent_bytes_per_second, speed.received_bytes_per_second)
    else {
        findings.push(Finding::warning(
            "speed",
            "no right to write: how fast bytes go was not measured",
            "run it with a token that may write",
        ));
        return findings;
    };
    let limit = match upload_limit {
        None => String::new(),
        Some(limit) => format!(" (UPLOAD_MAX_BYTES_PER_SECOND allows {})", size_text(limit)),
    };
    let compared = format!("eight tracks have {} a second", size_text(EIGHT_TRACKS));
    let told = |what: &str, pace: u64, more: &str, advice: &str| {
        let text = format!("{what} {} a second{more}", size_text(pace));
        match pace < EIGHT_TRACKS {
            true => Finding::warning("speed", format!("{text}; {compared}"), advice),
            false => Finding::good("speed", text),
        }
    };
    findings.push(told(
        "the bucket takes",
        sent,
        &limit,
        "recordings wait here for their upload: keep room in STAGING_DIR, and leave the mount on \
         until status says that it is safe to shut down",
    ));
    findings.push(told(
        "the bucket gives",
        received,
        "",
        "fetch projects before the session: voicebeatfs cache pin, or cache warm",
    ));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn what_is_too_slow_for_a_session_is_a_warning() {
        let fast = Speed {
            answer_ms: 20,
            slowest_answer_ms: 90,
            sent_bytes_per_second: Some(EIGHT_TRACKS),
            received_bytes_per_second: Some(EIGHT_TRACKS),
        };
        let levels = |speed: Speed| -> Vec<Level> {
            let findings = judge(&speed, None).into_iter();
            findings.map(|finding| finding.level).collect()
        };
        use Level::{Good, Warning};
        assert_eq!(levels(Speed { ..fast }), [Good, Good, Good]);
        let slow = Speed {
            answer_ms: 600,
            sent_bytes_per_second: Some(EIGHT_TRACKS - 1),
            ..fast
        };
        assert_eq!(levels(slow), [Warning, Warning, Good]);
        let uneven = Speed {
            slowest_answer_ms: 3000,
            received_bytes_per_second: Some(1),
            ..fast
        };
        assert_eq!(levels(uneven), [Warning, Good, Warning]);
        let unwritable = Speed {
            sent_bytes_per_second: None,
            received_bytes_per_second: None,
            ..fast
        };
        assert_eq!(levels(unwritable), [Good, Warning]);
    }
}
