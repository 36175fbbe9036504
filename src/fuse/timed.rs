//! How long the kernel waits for an answer, counted by the kind of the operation.

use std::time::Instant;

use super::Fuse;
use super::crew::Turn;
use crate::metrics::FileOperations;

/// A request that is being answered on this thread; its time is counted when this is dropped.
pub(super) struct Answering<'a> {
    operations: &'a FileOperations,
    kind: &'static str,
    begun: Instant,
    goes_on: bool,
    turn: Turn<'a>,
}

impl Fuse {
    /// Says that this thread has a request of that kind.
    pub(super) fn begin(&self, kind: &'static str) -> Answering<'_> {
        Answering {
            operations: &self.operations,
            kind,
            begun: Instant::now(),
            goes_on: false,
            turn: self.crew.begin(),
        }
    }
}

impl Answering<'_> {
    /// Says that this request is about to wait for the disk.
    pub(super) fn will_wait(&self) {
        self.turn.will_wait();
    }

    /// When it was begun.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Says that the answer comes from somewhere else, where its time is counted.
    pub(super) fn goes_on(&mut self) {
        self.goes_on = true;
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if !self.goes_on {
            self.operations.count(self.kind, self.begun.elapsed());
        }
    }
}
