//! Which record goes next: pure, without a clock, a disk or a network.
//!
//! The rules. A record goes when it has been left alone for the quiet time, its last failure is
//! long enough ago, nothing is on its way for its key, the last write to its key was at least
//! [`KEY_REST`] ago, and no other key waits to become a copy of what its key holds now. While the
//! store cannot be reached or refuses us altogether, one record at a time goes, to find out.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::staging::{Change, Record, Seq};
use crate::store::Key;

/// R2 takes one write a second to one key and answers 429 to more; a retry after a lost answer may
/// run into it as well (`429 TooManyRequests`, R2: platform/limits).
pub(super) const KEY_REST: Duration = Duration::from_millis(1500);
/// The longest wait between two tries of one record, unless the store asks for a longer one.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest wait between two tries while the store cannot be reached: so soon after its return
/// the queue moves on.
const LONGEST_PROBE: Duration = Duration::from_secs(30);
/// How often to try while the store refuses our credentials: somebody has to change something, and
/// a token that was changed may take a minute to work everywhere.
const REFUSED_PROBE: Duration = Duration::from_secs(60);
/// So many failures in a row to reach the store make an outage.
const FAILURES_TO_OUTAGE: u32 = 3;
/// Bodies longer than this count against the slots for large ones.
const SMALL_BYTES: u64 = 1 << 20;

/// How many operations are on their way at once while `concurrency` large files may be: small ones
/// are all latency and no bandwidth.
pub(super) fn all_slots(concurrency: usize) -> usize {
    4 * concurrency.max(1)
}

/// How an operation has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// Nothing is left to do for this state of the record, or what is left is in the journal.
    Done,
    /// Look at it again after this time.
    Later(Duration),
    /// It has failed, and may succeed later; not before this time if the store has said so.
    Failed(Option<Duration>),
    /// The store has not answered.
    Unreachable(Option<Duration>),
    /// The store refuses everything we ask.
    Refused,
}

/// What the plan needs to know of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    pub(super) seq: Seq,
    /// Neither parked nor held, not open but for a snapshot that may go, and not below a folder that
    /// is still to be moved away.
    pub(super) ready: bool,
    pub(super) large: bool,
    /// The key whose object is copied, folded.
    pub(super) source: Option<Key>,
    /// When it was last changed.
    pub(super) changed_at: Instant,
    /// How long it must be left alone before it goes.
    pub(super) quiet: Duration,
}

impl Task {
    /// Describes a record, at a moment given by both clocks. An open one goes as its snapshot, if
    /// there is one: `snapshot` is its length.
    pub(super) fn of(
        record: &Record,
        snapshot: Option<u64>,
        (wall, now): (SystemTime, Instant),
        quiet: Duration,
    ) -> Task {
        let age = wall.duration_since(record.changed_at).unwrap_or_default();
        let source = match &record.change {
            Change::Copy { source, .. } => Some(source.key.folded()),
            _ => None,
        };
        Task {
            seq: record.seq,
            ready: !record.waits_for_somebody() && (!record.change.is_open() || snapshot.is_some()),
            large: snapshot.unwrap_or(record.change.length()) > SMALL_BYTES,
            source,
            changed_at: now.checked_sub(age).unwrap_or(now),
            quiet,
        }
    }
}

#[derive(Debug)]
struct Entry {
    task: Task,
    failures: u32,
    /// When the last failure is long enough ago.
    not_before: Option<Instant>,
    /// Whether that failure was only that the store could not be reached.
    unreachable: bool,
    /// The place in the queue, if it is there.
    due: Option<Instant>,
    /// Whether it waits for copies of its key.
    blocked: bool,
    /// Whether this state of the record was asked to go without its quiet time.
    flushed: bool,
}

/// What [`Plan::next`] has found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// This key is to be worked on, and counts as on its way until [`Plan::finished`].
    Go(Key),
    /// This key's record waits, over others, for itself: its source is to be copied aside. It
    /// counts as on its way until [`Plan::finished`].
    Circle(Key),
}

/// Why only one record at a time goes.
#[derive(Debug)]
struct Outage {
    failures: u32,
    next_probe: Instant,
}

/// The plan. Keys in here are folded.
pub(super) struct Plan {
    large_slots: usize,
    all_slots: usize,
    random: Box<dyn FnMut() -> f64 + Send>,
    entries: HashMap<Key, Entry>,
    /// What may go once its time has come; small and large apart.
    queues: [BTreeSet<(Instant, Seq, Key)>; 2],
    /// Source of a copy, and the other keys that are to become copies of it.
    copies: HashMap<Key, BTreeSet<Key>>,
    /// What is on its way, and whether it is large.
    active: HashMap<Key, bool>,
    /// When a key may be written again.
    rests: HashMap<Key, Instant>,
    /// When any key may be written: an uploader before this one may just have written it.
    begins_at: Instant,
    hurry: bool,
    unreached: u32,
    outage: Option<Outage>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("entries", &self.entries)
            .field("active", &self.active)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Returns an empty plan, at its start. `random` gives numbers from 0 to 1.
    pub(super) fn new(
        concurrency: usize,
        now: Instant,
        random: impl FnMut() -> f64 + Send + 'static,
    ) -> Plan {
        Plan {
            large_slots: concurrency.max(1),
            all_slots: all_slots(concurrency),
            random: Box::new(random),
            entries: HashMap::new(),
            queues: Default::default(),
            copies: HashMap::new(),
            active: HashMap::new(),
            rests: HashMap::new(),
            begins_at: now + KEY_REST,
            hurry: false,
            unreached: 0,
            outage: None,
        }
    }

    /// Lets a key rest that was written now and has no record yet.
    pub(super) fn rest(&mut self, key: Key, now: Instant) {
        self.rests.insert(key, now + KEY_REST);
    }

    /// Takes in what the journal says of a key now.
    pub(super) fn update(&mut self, key: &Key, task: Option<Task>) {
        self.unqueue(key);
        let earlier = self.entries.remove(key);
        let old_source = earlier.as_ref().and_then(|e| e.task.source.clone());
        let new_source = task.as_ref().and_then(|task| task.source.clone());
        if let Some(task) = task {
            let same_state = earlier.filter(|entry| entry.task.seq == task.seq);
            let entry = match same_state {
                Some(entry) => Entry { task, ..entry },
                None => Entry {
                    task,
                    failures: 0,
                    not_before: None,
                    unreachable: false,
                    due: None,
                    blocked: false,
                    flushed: false,
                },
            };
            self.entries.insert(key.clone(), entry);
        }
        if old_source != new_source {
            self.link(key, new_source);
            if let Some(source) = old_source {
                self.unlink(key, &source);
            }
        }
        self.queue(key);
    }

    fn link(&mut self, key: &Key, source: Option<Key>) {
        if let Some(source) = source.filter(|source| source != key) {
            self.copies.entry(source).or_default().insert(key.clone());
        }
    }

    fn unlink(&mut self, key: &Key, source: &Key) {
        let Some(copies) = self.copies.get_mut(source) else {
            return;
        };
        copies.remove(key);
        if copies.is_empty() {
            self.copies.remove(source);
            if let Some(waiting) = self.entries.get_mut(source)
                && waiting.blocked
            {
                waiting.blocked = false;
                self.queue(source);
            }
        }
    }

    fn unqueue(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(due) = entry.due.take()
        {
            let place = (due, entry.task.seq, key.clone());
            self.queues[usize::from(entry.task.large)].remove(&place);
        }
    }

    /// Queues a key, if it is ready and nothing is on its way for it.
    fn queue(&mut self, key: &Key) {
        self.unqueue(key);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if !entry.task.ready || entry.blocked || self.active.contains_key(key) {
            return;
        }
        let rested = self.rests.get(key).copied().max(entry.not_before);
        let rested = rested.map_or(self.begins_at, |rested| rested.max(self.begins_at));
        let due = quiet_until(entry, self.hurry).max(rested);
        entry.due = Some(due);
        let place = (due, entry.task.seq, key.clone());
        self.queues[usize::from(entry.task.large)].insert(place);
    }

    /// Returns what is to be done now, if anything.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next> {
        self.rests.retain(|_, until| *until > now);
        loop {
            let (_, key) = self.head().filter(|(due, _)| *due <= now)?;
            self.unqueue(&key);
            if self.copies.contains_key(&key) {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.blocked = true;
                }
                if self.is_in_circle(&key) {
                    self.active.insert(key.clone(), false);
                    return Some(Next::Circle(key));
                }
                continue;
            }
            let large = self.entries.get(&key).is_some_and(|e| e.task.large);
            self.active.insert(key.clone(), large);
            return Some(Next::Go(key));
        }
    }

    /// Whether a key waits for copies that wait, over others, for the key.
    fn is_in_circle(&self, key: &Key) -> bool {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![key];
        while let Some(next) = waiting.pop() {
            for copy in self.copies.get(next).into_iter().flatten() {
                if copy == key {
                    return true;
                }
                if seen.insert(copy) {
                    waiting.push(copy);
                }
            }
        }
        false
    }

    /// Returns what would go next, and when.
    fn head(&self) -> Option<(Instant, Key)> {
        let heads = self.queues.iter().map(BTreeSet::first);
        if let Some(outage) = &self.outage {
            // Whichever is first is as good as any to find out; its own failures do not matter.
            let (_, _, key) = heads.flatten().min()?;
            let entry = self.entries.get(key)?;
            let rested = self.rests.get(key).copied();
            let quiet_until = quiet_until(entry, self.hurry);
            let due = quiet_until
                .max(outage.next_probe)
                .max(rested.unwrap_or(quiet_until));
            return self.active.is_empty().then(|| (due, key.clone()));
        }
        if self.active.len() >= self.all_slots {
            return None;
        }
        let large_active = self.active.values().filter(|large| **large).count();
        let free = heads
            .enumerate()
            .filter(|(queue, _)| *queue == 0 || large_active < self.large_slots);
        let (due, _, key) = free.filter_map(|(_, head)| head).min()?;
        Some((*due, key.clone()))
    }

    /// Returns when [`Plan::next`] will have something, if nothing else happens before.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.head().map(|(due, _)| due)
    }

    /// How many operations are on their way.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// Returns the state of a key's record that is planned for.
    pub(super) fn seq(&self, key: &Key) -> Option<Seq> {
        self.entries.get(key).map(|entry| entry.task.seq)
    }

    /// Whether the store cannot be reached, or refuses us altogether.
    pub(super) fn in_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// Whether the quiet time is left out.
    pub(super) fn set_hurry(&mut self, hurry: bool) {
        if self.hurry != hurry {
            self.hurry = hurry;
            let keys: Vec<Key> = self.entries.keys().cloned().collect();
            keys.iter().for_each(|key| self.queue(key));
        }
    }

    /// Leaves out the quiet time of one key's record as it is now, and the wait after its last
    /// failure.
    pub(super) fn flush(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.flushed = true;
            entry.not_before = None;
            self.queue(key);
            if let Some(outage) = &mut self.outage {
                // Whoever asks for it may have mended what was wrong.
                outage.next_probe = self.begins_at;
            }
        }
    }

    /// Takes in how an operation has ended, and whether the store was heard of meanwhile.
    pub(super) fn finished(
        &mut self,
        key: &Key,
        seq: Seq,
        (outcome, heard): (Outcome, bool),
        now: Instant,
    ) {
        self.active.remove(key);
        self.rests.insert(key.clone(), now + KEY_REST);
        self.judge_store(outcome, heard, now);
        let failures = self.entries.get(key).map_or(0, |entry| entry.failures);
        let wait = match outcome {
            Outcome::Done => None,
            Outcome::Later(wait) => Some(wait),
            Outcome::Failed(asked) | Outcome::Unreachable(asked) => {
                Some(self.backoff(failures, LONGEST_BACKOFF, asked))
            }
            Outcome::Refused => Some(REFUSED_PROBE),
        };
        if let Some(entry) = self.entries.get_mut(key)
            && entry.task.seq == seq
        {
            entry.not_before = wait.map(|wait| now + wait);
            entry.blocked = false;
            entry.unreachable = matches!(outcome, Outcome::Unreachable(_) | Outcome::Refused);
            entry.failures = match outcome {
                Outcome::Failed(_) | Outcome::Unreachable(_) => failures.saturating_add(1),
                Outcome::Done | Outcome::Later(_) | Outcome::Refused => 0,
            };
        }
        self.queue(key);
    }

    fn judge_store(&mut self, outcome: Outcome, heard: bool, now: Instant) {
        match outcome {
            Outcome::Unreachable(asked) => {
                self.unreached = self.unreached.saturating_add(1);
                if self.outage.is_none() && self.unreached < FAILURES_TO_OUTAGE {
                    return;
                }
                let failures = match &self.outage {
                    // On its way since before the outage: no probe.
                    Some(outage) if now < outage.next_probe => outage.failures,
                    Some(outage) => outage.failures + 1,
                    None => 0,
                };
                let wait = self.backoff(failures, LONGEST_PROBE, asked);
                self.outage = Some(Outage {
                    failures,
                    next_probe: now + wait,
                });
            }
            Outcome::Refused => {
                self.unreached = 0;
                self.outage = Some(Outage {
                    failures: 0,
                    next_probe: now + REFUSED_PROBE,
                });
            }
            Outcome::Done | Outcome::Later(_) | Outcome::Failed(_) if heard => {
                self.unreached = 0;
                if self.outage.take().is_some() {
                    self.forgive();
                }
            }
            Outcome::Done | Outcome::Later(_) | Outcome::Failed(_) => {}
        }
    }

    /// The store is back: what only waited for that may go.
    fn forgive(&mut self) {
        let mut forgiven = Vec::new();
        for (key, entry) in &mut self.entries {
            if std::mem::take(&mut entry.unreachable) {
                entry.not_before = None;
                entry.failures = 0;
                forgiven.push(key.clone());
            }
        }
        forgiven.iter().for_each(|key| self.queue(key));
    }

    /// Returns how long to wait after a failure: anything up to a bound that doubles each time, so
    /// that many who failed together do not come back together.
    fn backoff(&mut self, failures: u32, longest: Duration, asked: Option<Duration>) -> Duration {
        let bound = Duration::from_secs(2 << failures.min(10)).min(longest);
        let wait = bound.mul_f64((self.random)()).max(KEY_REST);
        wait.max(asked.unwrap_or_default())
    }
}

fn quiet_until(entry: &Entry, hurry: bool) -> Instant {
    match hurry || entry.flushed {
        true => entry.task.changed_at,
        false => entry.task.changed_at + entry.task.quiet,
    }
}

#[cfg(test)]
mod tests;
