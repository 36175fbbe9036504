//! How long operations of the file system take, by kind.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec};

/// Upper limits of the classes, in seconds: from an answer out of memory to the longest deadline.
const SECONDS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0,
    30.0,
];

/// The kinds, by the names that they have in the log. Those that do nothing here are left out.
const KINDS: [&str; 29] = [
    "read",
    "write",
    "lookup",
    "getattr",
    "open",
    "create",
    "release",
    "readdirplus",
    "readdir",
    "opendir",
    "setattr",
    "fsync",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "statfs",
    "getxattr",
    "listxattr",
    "setxattr",
    "removexattr",
    "mknod",
    "fsyncdir",
    "fallocate",
    "copy_file_range",
    "lseek",
    "readlink",
    "symlink",
    "link",
];

/// Times of operations until their answer, by kind.
///
/// A clone shares the counts.
#[derive(Clone, Debug)]
pub struct FileOperations {
    family: HistogramVec,
    /// In the order of [`KINDS`]: the family would look each up under a lock. Made at the first
    /// operation, so that what never happens is not told.
    by_kind: Arc<[OnceLock<Histogram>; KINDS.len()]>,
}

impl Default for FileOperations {
    fn default() -> FileOperations {
        let opts = HistogramOpts::new(
            "file_operation_seconds",
            "Time of operations of the file system until their answer, by kind; what the kernel \
             serves by itself does not come here.",
        )
        .buckets(SECONDS.into());
        FileOperations {
            // Refuses only names that are not well formed.
            family: HistogramVec::new(opts, &["operation"]).expect("a well-formed name"),
            by_kind: Arc::new([const { OnceLock::new() }; KINDS.len()]),
        }
    }
}

impl FileOperations {
    /// Counts one operation that was answered. One of another kind is left out.
    pub fn count(&self, kind: &str, took: Duration) {
        if let Some(at) = KINDS.iter().position(|known| *known == kind) {
            let histogram = self.by_kind[at].get_or_init(|| self.family.with_label_values(&[kind]));
            histogram.observe(took.as_secs_f64());
        }
    }
}

impl Collector for FileOperations {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.family.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_told() {
        let operations = FileOperations::default();
        for kind in ["read", "lseek", "read", "access"] {
            operations.clone().count(kind, Duration::from_micros(20));
        }
        let told = operations.collect();
        let counts = told[0].get_metric().iter();
        let counts: Vec<u64> = counts
            .map(|metric| metric.get_histogram().get_sample_count())
            .collect();
        assert_eq!(counts.len(), 2);
        assert_eq!(counts.iter().sum::<u64>(), 3);
    }
}
