//! How long requests to the bucket take, how many fail, and how many are repeated.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// Upper limits of the classes, in seconds: from an answer of the next data centre to a large part
/// on a slow line.
const SECONDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// What a write is called, among the requests.
const WRITES: [&str; 6] = [
    "put",
    "create_multipart",
    "upload_part",
    "upload_part_copy",
    "complete_multipart",
    "copy",
];

/// Times, failures and repetitions of requests, by what is asked.
///
/// A clone shares the counts.
#[derive(Clone, Debug)]
pub struct Requests {
    seconds: HistogramVec,
    failures: IntCounterVec,
    retries: IntCounterVec,
}

impl Default for Requests {
    fn default() -> Requests {
        let seconds = HistogramOpts::new(
            "request_seconds",
            "Time of requests to the bucket until their answer began, by operation.",
        )
        .buckets(SECONDS.into());
        let failures = Opts::new(
            "request_failures_total",
            "Requests to the bucket that failed, by operation; what may pass is tried again.",
        );
        let retries = Opts::new(
            "request_retries_total",
            "Requests to the bucket that were sent again soon after a failure, by operation.",
        );
        // All refuse only names that are not well formed.
        Requests {
            seconds: HistogramVec::new(seconds, &["operation"]).expect("a well-formed name"),
            failures: IntCounterVec::new(failures, &["operation"]).expect("a well-formed name"),
            retries: IntCounterVec::new(retries, &["operation"]).expect("a well-formed name"),
        }
    }
}

impl Requests {
    /// Counts one request that was answered, or failed.
    pub fn count(&self, operation: &str, took: Duration, failed: bool) {
        let seconds = self.seconds.with_label_values(&[operation]);
        seconds.observe(took.as_secs_f64());
        if failed {
            self.failures.with_label_values(&[operation]).inc();
        }
    }

    /// Counts one request that is sent again.
    pub fn count_retry(&self, operation: &str) {
        self.retries.with_label_values(&[operation]).inc();
    }

    /// Returns how many writes have failed.
    pub fn failed_writes(&self) -> u64 {
        let failed = |operation| self.failures.with_label_values(&[operation]).get();
        WRITES.iter().map(failed).sum()
    }
}

impl Collector for Requests {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.seconds.desc(),
            self.failures.desc(),
            self.retries.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [
            self.seconds.collect(),
            self.failures.collect(),
            self.retries.collect(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failed_writes_count_as_such() {
        let requests = Requests::default();
        for (operation, failed) in [("put", true), ("put", false), ("get", true), ("copy", true)] {
            requests.count(operation, Duration::from_millis(30), failed);
        }
        assert_eq!(requests.failed_writes(), 2);
        let seconds = &requests.collect()[0];
        assert_eq!(seconds.name(), "request_seconds");
        assert_eq!(seconds.get_metric().len(), 3);
    }
}
