//! What needs attention, in one sentence each: VoiceBeat's four alerts, and what only a mount has.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::{CacheStatus, Report};

/// Number of waiting uploads that raises an alert (VoiceBeat's documentation, "Alerts").
const QUEUE: u64 = 100;

/// Share of misses that raises an alert, from this many opens on, for a few say nothing.
const MISS_RATE: (f64, u64) = (0.5, 20);

/// The time whose failed uploads are compared with those of the same time before it.
const WINDOW: Duration = Duration::from_secs(600);

/// Fewer failures than this within the window are the network's everyday life.
const FAILURES: u64 = 5;

/// How often the failures are noted.
pub(super) const NOTE_EVERY: Duration = Duration::from_secs(60);

/// What is said where nothing can be changed because nothing could be uploaded.
pub(super) const NO_RIGHT_TO_WRITE: &str = "mounted read-only: the token has no right to write; give \
    it \"Object Read & Write\" for this bucket and mount again";

/// What the alerts are judged by.
#[derive(Debug)]
pub(super) struct Alerts {
    cache_bytes: u64,
    may_write: bool,
    failures: Mutex<Failures>,
}

impl Alerts {
    /// A cache of more than `cache_bytes` raises an alert, and so does a token that may not write.
    pub(super) fn new(cache_bytes: u64, may_write: bool) -> Alerts {
        Alerts {
            cache_bytes,
            may_write,
            failures: Mutex::default(),
        }
    }

    /// Notes how many uploads have failed until `now`.
    pub(super) fn note(&self, failed: u64, now: Instant) {
        self.failures.lock().note(failed, now);
    }

    /// Returns the alerts of a report.
    pub(super) fn of(&self, report: &Report, now: Instant) -> Vec<String> {
        let uploads = &report.uploads;
        let increase = self.failures.lock().increase(now);
        let alerts = [
            (!self.may_write).then(|| NO_RIGHT_TO_WRITE.to_owned()),
            (report.cache.bytes > self.cache_bytes).then(|| {
                let limit = self.cache_bytes;
                format!("the cache holds {} bytes, over {limit}", report.cache.bytes)
            }),
            (uploads.queued > QUEUE)
                .then(|| format!("{} files wait for upload, over {QUEUE}", uploads.queued)),
            miss_rate(&report.cache),
            increase.map(|(recent, before)| {
                format!(
                    "failed uploads increase: {recent} in the last 10 minutes, {before} in those \
                     before"
                )
            }),
            uploads.paused.then(|| {
                "uploads are paused; voicebeatfs queue resume lets them go on".to_string()
            }),
            (uploads.parked > 0)
                .then(|| format!("{} files cannot be uploaded as things are", uploads.parked)),
            (uploads.held > 0).then(|| {
                let held = uploads.held;
                format!("{held} deletes are held: voicebeatfs queue confirm or queue discard")
            }),
            report.orphans.as_ref().map(|orphans| {
                let files = orphans.files;
                format!("{files} staged files have no name: voicebeatfs queue orphans, queue adopt")
            }),
            report.hidden.first().map(|first| {
                let count = report.hidden.len();
                format!("{count} keys in the bucket cannot be shown as files, such as {first:?}")
            }),
            report
                .failure
                .as_ref()
                .map(|failure| format!("the journal cannot be written: {failure}")),
        ];
        alerts.into_iter().flatten().collect()
    }
}

fn miss_rate(cache: &CacheStatus) -> Option<String> {
    let (limit, least) = MISS_RATE;
    let misses = 1.0 - cache.hit_rate?;
    let raised = misses > limit && cache.hits + cache.misses >= least;
    raised.then(|| format!("{:.0} % of the opens missed the cache", misses * 100.0))
}

/// How many uploads had failed at which time, the newest last.
#[derive(Debug, Default)]
struct Failures(VecDeque<(Instant, u64)>);

impl Failures {
    fn note(&mut self, failed: u64, now: Instant) {
        self.0.push_back((now, failed));
        // The last one from before both windows stays: they begin with its count.
        let is_old =
            |note: Option<&(Instant, u64)>| note.is_some_and(|note| now - note.0 >= 2 * WINDOW);
        while is_old(self.0.get(1)) {
            self.0.pop_front();
        }
    }

    /// Returns the failures of the last window and of that before it, if they are more and many.
    fn increase(&self, now: Instant) -> Option<(u64, u64)> {
        let until = |age: Duration| {
            let notes = self.0.iter().rev();
            let last = notes.into_iter().find(|note| now - note.0 >= age);
            last.map_or(0, |note| note.1)
        };
        let middle = until(WINDOW);
        let recent = until(Duration::ZERO) - middle;
        let before = middle - until(2 * WINDOW);
        (recent >= FAILURES && recent > before).then_some((recent, before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::UploadStatus;

    #[test]
    fn each_alert_is_raised_at_its_limit() {
        let alerts = Alerts::new(1000, true);
        let now = Instant::now();
        let mut report = Report::default();
        assert_eq!(alerts.of(&report, now), Vec::<String>::new());
        report.cache = CacheStatus {
            bytes: 1001,
            hits: 9,
            misses: 11,
            hit_rate: Some(0.45),
            ..CacheStatus::default()
        };
        report.uploads = UploadStatus {
            queued: 101,
            parked: 1,
            held: 1,
            paused: true,
            ..UploadStatus::default()
        };
        report.failure = Some("disk".into());
        alerts.note(FAILURES, now);
        assert_eq!(alerts.of(&report, now).len(), 8);
        report.cache.bytes = 1000;
        report.cache.misses = 10;
        report.uploads.queued = 100;
        assert_eq!(alerts.of(&report, now).len(), 5);
    }

    #[test]
    fn failures_increase_when_there_are_more_than_before() {
        let begun = Instant::now();
        let mut failures = Failures::default();
        let minute = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        // Two a minute, for ever: that is no increase, but for the first ten minutes.
        for at in 0..60 {
            failures.note(2 * at, minute(at));
        }
        assert_eq!(failures.increase(minute(59)), None);
        // Four a minute.
        for at in 60..65 {
            failures.note(118 + 4 * (at - 59), minute(at));
        }
        assert_eq!(failures.increase(minute(64)), Some((30, 20)));
        assert!(failures.0.len() <= 22, "{}", failures.0.len());
        assert_eq!(failures.increase(minute(100)), None);
    }
}
