//! When a snapshot of an open file is due: pure.
//!
//! When the file has been quiet for a while, and at the latest so long after the first change that
//! the bucket lacks; but uploads take a quarter of the time at most.

use std::time::{Duration, Instant, SystemTime};

use crate::disk::FileId;
use crate::staging::Seq;
use crate::store::Key;

/// After an upload that took so long there is a rest so many times as long.
const RESTS: u32 = 3;
/// How long after a failure to take a snapshot the next try comes, unless one is due far later.
const RETRY: Duration = Duration::from_secs(10);
/// How soon to look again when something else must go before.
const POSTPONED: Duration = Duration::from_secs(1);

/// How open files are protected.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOptions {
    /// A file that was not changed for so long is uploaded (`SNAPSHOT_QUIET_SECONDS`).
    pub quiet: Duration,
    /// No change waits longer than this, as far as uploads are quick enough (`SNAPSHOT_SECONDS`).
    pub longest: Duration,
}

/// What tells that a file has changed: its generation, and its own time, which stores through a map
/// move.
pub(super) type Stamp = Vec<(FileId, u64, SystemTime)>;

/// How far one open file is.
#[derive(Debug)]
pub(super) struct Watch {
    key: Key,
    seen: Stamp,
    /// When it was last seen to have changed.
    changed_at: Instant,
    /// Since when there is something that the bucket lacks.
    unprotected_since: Option<Instant>,
    /// Whether it is to go at once.
    is_urgent: bool,
    not_before: Option<Instant>,
    step: Step,
    protected_at: Option<Instant>,
    /// Whether a failure was told.
    pub(super) told: bool,
}

#[derive(Debug)]
enum Step {
    Idle,
    Taking,
    Sending {
        seq: Seq,
        stamp: Stamp,
        taken_at: Instant,
    },
}

impl Watch {
    /// A file that is seen for the first time. `is_clean` says that the bucket holds it as it is.
    pub(super) fn new(key: Key, stamp: Stamp, is_clean: bool, now: Instant) -> Watch {
        Watch {
            key,
            seen: stamp,
            changed_at: now,
            unprotected_since: (!is_clean).then_some(now),
            is_urgent: false,
            not_before: None,
            step: Step::Idle,
            protected_at: None,
            told: false,
        }
    }

    /// Takes in how the file is now, and what it is called.
    pub(super) fn see(&mut self, key: &Key, stamp: Stamp, now: Instant) {
        if self.seen != stamp {
            self.seen = stamp;
            self.changed_at = now;
            self.unprotected_since.get_or_insert(now);
        }
        if self.key != *key {
            // Under its new name the bucket does not have it, and may soon not have the old one.
            self.key = key.clone();
            // One on its way counts: it may have arrived, and is not told to have once the name is
            // another.
            let is_sent = matches!(self.step, Step::Sending { .. });
            if self.protected_at.take().is_some() || is_sent {
                self.is_urgent = true;
                self.unprotected_since.get_or_insert(now);
            }
        }
    }

    /// Whether a snapshot is to be taken now.
    pub(super) fn is_due(&self, options: &SnapshotOptions, now: Instant) -> bool {
        self.due_at(options).is_some_and(|due| due <= now)
    }

    fn due_at(&self, options: &SnapshotOptions) -> Option<Instant> {
        let since = self.unprotected_since?;
        if !matches!(self.step, Step::Idle) {
            return None;
        }
        let due = match self.is_urgent {
            true => since,
            false => (self.changed_at + options.quiet).min(since + options.longest),
        };
        Some(
            self.not_before
                .map_or(due, |not_before| due.max(not_before)),
        )
    }

    /// A snapshot is being taken.
    pub(super) fn taking(&mut self) {
        self.step = Step::Taking;
    }

    /// A snapshot was taken, of the file as `stamp` says, and is to be uploaded.
    pub(super) fn sending(&mut self, seq: Seq, stamp: Stamp, taken_at: Instant) {
        self.told = false;
        self.step = Step::Sending {
            seq,
            stamp,
            taken_at,
        };
    }

    /// Returns the state of the record whose snapshot is on its way.
    pub(super) fn sent_seq(&self) -> Option<Seq> {
        match self.step {
            Step::Sending { seq, .. } => Some(seq),
            Step::Idle | Step::Taking => None,
        }
    }

    /// None could be taken.
    pub(super) fn failed(&mut self, options: &SnapshotOptions, now: Instant) {
        self.step = Step::Idle;
        self.not_before = Some(now + RETRY.min(options.longest));
    }

    /// One was taken and may not go yet.
    pub(super) fn postponed(&mut self, now: Instant) {
        self.step = Step::Idle;
        self.not_before = Some(now + POSTPONED);
    }

    /// The record has gone on without the snapshot.
    pub(super) fn lost(&mut self) {
        self.step = Step::Idle;
    }

    /// The snapshot is in the bucket; its upload took so long.
    pub(super) fn protected(&mut self, seq: Seq, took: Duration, now: Instant) {
        let Step::Sending {
            seq: sent,
            stamp,
            taken_at,
        } = &self.step
        else {
            return;
        };
        if *sent != seq {
            return;
        }
        self.unprotected_since = (*stamp != self.seen).then_some(*taken_at);
        self.protected_at = Some(now);
        self.is_urgent = false;
        self.not_before = Some(now + took * RESTS);
        self.step = Step::Idle;
    }

    /// Returns when a snapshot of it last reached the bucket.
    pub(super) fn protected_at(&self) -> Option<Instant> {
        self.protected_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: SnapshotOptions = SnapshotOptions {
        quiet: Duration::from_secs(30),
        longest: Duration::from_secs(300),
    };

    struct Bench {
        watch: Watch,
        start: Instant,
        file: FileId,
        changes: u64,
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    impl Bench {
        fn new(is_clean: bool) -> Bench {
            let (start, file) = (Instant::now(), FileId::random());
            let stamp = vec![(file, 0, SystemTime::UNIX_EPOCH)];
            Bench {
                watch: Watch::new(key("a"), stamp, is_clean, start),
                start,
                file,
                changes: 0,
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn stamp(&self) -> Stamp {
            vec![(self.file, self.changes, SystemTime::UNIX_EPOCH)]
        }

        fn change(&mut self, seconds: u64) {
            self.changes += 1;
            let (stamp, now) = (self.stamp(), self.at(seconds));
            self.watch.see(&key("a"), stamp, now);
        }

        fn is_due(&self, seconds: u64) -> bool {
            self.watch.is_due(&OPTIONS, self.at(seconds))
        }

        fn send(&mut self, seconds: u64) {
            let (stamp, now) = (self.stamp(), self.at(seconds));
            self.watch.taking();
            self.watch.sending(Seq(seconds), stamp, now);
        }

        fn arrive(&mut self, sent: u64, seconds: u64) {
            let took = Duration::from_secs(seconds - sent);
            let now = self.at(seconds);
            self.watch.protected(Seq(sent), took, now);
        }
    }

    #[test]
    fn a_quiet_file_goes_once() {
        let mut bench = Bench::new(false);
        bench.change(10);
        assert!(!bench.is_due(39));
        assert!(bench.is_due(40));
        bench.send(40);
        assert!(!bench.is_due(1000), "one at a time");
        bench.arrive(40, 41);
        assert!(!bench.is_due(100_000), "nothing has changed");
        assert_eq!(bench.watch.protected_at(), Some(bench.at(41)));
        bench.change(2000);
        assert!(!bench.is_due(2029) && bench.is_due(2030));
    }

    #[test]
    fn a_file_that_is_never_quiet_goes_after_the_longest_time() {
        let mut bench = Bench::new(false);
        for second in (0..300).step_by(10) {
            bench.change(second);
            assert!(!bench.is_due(second), "{second}");
        }
        assert!(bench.is_due(300));
        bench.send(300);
        bench.change(301);
        bench.arrive(300, 310);
        // From the instant of the snapshot on, what comes after it is unprotected.
        for second in (310..600).step_by(10) {
            bench.change(second);
            assert!(!bench.is_due(second), "{second}");
        }
        assert!(bench.is_due(600));
    }

    #[test]
    fn uploads_take_a_quarter_of_the_time_at_most() {
        let mut bench = Bench::new(false);
        bench.send(0);
        bench.change(1);
        bench.arrive(0, 200);
        assert!(
            !bench.is_due(799),
            "200 s of upload are followed by 600 of rest"
        );
        assert!(bench.is_due(800));
    }

    #[test]
    fn what_was_only_opened_is_not_sent() {
        let mut bench = Bench::new(true);
        assert!(!bench.is_due(100_000));
        bench.change(10);
        assert!(bench.is_due(40));
    }

    #[test]
    fn a_failure_and_a_loss_are_followed_by_another_try() {
        let mut bench = Bench::new(false);
        bench.watch.taking();
        bench.watch.failed(&OPTIONS, bench.at(40));
        assert!(!bench.is_due(49) && bench.is_due(50));
        bench.send(50);
        bench.watch.lost();
        assert!(bench.is_due(51));
        bench.send(51);
        bench.arrive(50, 60);
        assert!(!bench.is_due(100), "that was another one");
    }

    #[test]
    fn a_file_that_is_renamed_while_it_is_sent_goes_at_once_under_its_new_name() {
        let mut bench = Bench::new(false);
        bench.change(10);
        bench.send(40);
        let (stamp, now) = (bench.stamp(), bench.at(41));
        bench.watch.see(&key("b"), stamp, now);
        bench.watch.lost();
        bench.changes += 1;
        let (stamp, now) = (bench.stamp(), bench.at(42));
        bench.watch.see(&key("b"), stamp, now);
        assert!(bench.is_due(42), "not by being quiet");
    }

    #[test]
    fn a_protected_file_goes_at_once_under_its_new_name() {
        let mut bench = Bench::new(false);
        bench.send(40);
        bench.arrive(40, 40);
        assert!(!bench.is_due(50));
        let (stamp, now) = (bench.stamp(), bench.at(50));
        bench.watch.see(&key("b"), stamp, now);
        assert!(bench.is_due(50));
    }
}
