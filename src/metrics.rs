//! What is counted, in one place.

mod file_operations;
mod requests;

use std::sync::atomic::{AtomicU64, Ordering};

pub use file_operations::FileOperations;
pub use requests::Requests;

/// R2's price of a million Class A operations (Standard storage), in dollars (R2: pricing).
const USD_PER_MILLION_CLASS_A: f64 = 4.50;
/// R2's price of a million Class B operations, in dollars (R2: pricing).
const USD_PER_MILLION_CLASS_B: f64 = 0.36;
/// Price of a gigabyte of storage for a month (R2: pricing).
const USD_PER_GB_MONTH: f64 = 0.015;

/// Returns what so many bytes of storage cost in a month.
pub fn storage_usd_per_month(bytes: u64) -> f64 {
    bytes as f64 / 1e9 * USD_PER_GB_MONTH
}

/// Requests sent to the bucket, by what R2 charges for them.
#[derive(Debug, Default)]
pub struct Operations {
    class_a: AtomicU64,
    class_b: AtomicU64,
    free: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    requests: Requests,
}

/// R2's price classes (R2: pricing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceClass {
    /// Writes and listings.
    A,
    /// Reads.
    B,
    /// Deletes and aborts.
    Free,
}

/// A reading of [`Operations`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Class A since the start.
    pub class_a: u64,
    /// Class B since the start.
    pub class_b: u64,
    /// Free ones since the start.
    pub free: u64,
    /// Bytes of objects that have come.
    pub received_bytes: u64,
    /// Bytes of objects that have gone.
    pub sent_bytes: u64,
}

impl Operations {
    /// Counts one request.
    pub fn count(&self, class: PriceClass) {
        let counter = match class {
            PriceClass::A => &self.class_a,
            PriceClass::B => &self.class_b,
            PriceClass::Free => &self.free,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes of objects that came from the bucket.
    pub fn note_received(&self, bytes: usize) {
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of objects that the bucket has taken.
    pub fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns times and failures of the requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns the counts.
    pub fn counts(&self) -> OperationCounts {
        OperationCounts {
            class_a: self.class_a.load(Ordering::Relaxed),
            class_b: self.class_b.load(Ordering::Relaxed),
            free: self.free.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
        }
    }
}

impl OperationCounts {
    /// Returns what they cost in dollars, free allowances not counted.
    pub fn usd(&self) -> f64 {
        let usd = self.class_a as f64 * USD_PER_MILLION_CLASS_A
            + self.class_b as f64 * USD_PER_MILLION_CLASS_B;
        usd / 1e6
    }

    /// Returns what a month would cost in dollars if it went on as in the last `seconds`, free
    /// allowances not counted.
    pub fn usd_per_month(&self, seconds: f64) -> f64 {
        const MONTH_SECONDS: f64 = 30.0 * 24.0 * 3600.0;
        if seconds <= 0.0 {
            return 0.0;
        }
        self.usd() * MONTH_SECONDS / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_the_price_list() {
        let operations = Operations::default();
        for _ in 0..1000 {
            operations.count(PriceClass::A);
            operations.count(PriceClass::B);
            operations.count(PriceClass::Free);
        }
        // A thousand of each an hour.
        let usd = operations.counts().usd_per_month(3600.0);
        assert!((usd - 720.0 * 4.86e-3).abs() < 1e-9, "{usd}");
        assert_eq!(OperationCounts::default().usd_per_month(0.0), 0.0);
    }
}
