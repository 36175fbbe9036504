//! Who wrote what: every write and delete that took effect, in order, with the version that it
//! replaced.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

/// The most writes kept; the oldest go first. A soak test must not eat the machine.
const MAX_WRITES: usize = 200_000;

/// The client of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Author {
    /// The access key.
    pub(crate) client: String,
    /// Whether a fault made the write late: the client cannot know when it takes effect.
    pub(crate) is_late: bool,
}

#[cfg(test)]
impl Author {
    pub(crate) fn named(client: &str) -> Self {
        Self {
            client: client.to_owned(),
            is_late: false,
        }
    }
}

/// A write or a delete of a client that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// When it took effect.
    pub at: SystemTime,
    /// The access key of the client.
    pub client: String,
    /// The key in its normal form.
    pub key: String,
    /// The ETag of the version that was there before, without quotes.
    pub replaced: Option<String>,
    /// The ETag of the version that was written; `None` for a delete.
    pub now: Option<String>,
    /// The `x-amz-meta-*` of the version that was written, without the prefix.
    pub metadata: BTreeMap<String, String>,
}

/// The history of one bucket.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Written>);

impl History {
    pub(crate) fn note(&mut self, written: Written) {
        if self.0.len() >= MAX_WRITES {
            self.0.pop_front();
        }
        self.0.push_back(written);
    }

    pub(crate) fn all(&self) -> Vec<Written> {
        self.0.iter().cloned().collect()
    }
}
