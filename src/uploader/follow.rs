//! The loop that follows the journal: takes in what has changed, starts what may go, and takes in
//! how it ended.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::plan::{Next, Outcome, Plan, all_slots};
use super::send::Sender;
use crate::staging::Seq;
use crate::store::Key;

/// Wakes the loop when nothing else does. Nothing depends on it.
const IDLE: Duration = Duration::from_secs(3600);

/// How long what is on its way may go on once told to stop. Cutting it loses nothing: the journal
/// knows of every write before it is sent, as after a kill.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same while the store does not answer.
const STOP_GRACE_UNREACHABLE: Duration = Duration::from_secs(1);
/// How long the store is asked to forget unfinished uploads; it forgets them by itself after days.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// What the owner tells the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Orders {
    /// How many wait for everything: while somebody does, the quiet time is left out.
    pub(super) waiting: u32,
    /// Raised when [`Sender::flushes`] has something.
    pub(super) flushes: u64,
    /// Start nothing more, and end with what is on its way.
    pub(super) stop: bool,
}

/// The loop's own state.
pub(super) struct Follower {
    pub(super) sender: Arc<Sender>,
    pub(super) orders: watch::Receiver<Orders>,
    /// How many operations are on their way, for the status.
    pub(super) active: Arc<AtomicUsize>,
    /// Raised after each operation.
    pub(super) progress: watch::Sender<u64>,
    plan: Plan,
}

struct Ended {
    key: Key,
    seq: Seq,
    outcome: (Outcome, bool),
}

impl Follower {
    pub(super) fn new(
        sender: Arc<Sender>,
        orders: watch::Receiver<Orders>,
        active: Arc<AtomicUsize>,
        progress: watch::Sender<u64>,
    ) -> Follower {
        let options = &sender.options;
        let now = sender.clock.instant();
        let plan = Plan::new(options.concurrency, now, random);
        Follower {
            sender,
            orders,
            active,
            progress,
            plan,
        }
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        let mut changed = self.sender.staging.journal().changed();
        self.take_in_all();
        self.sender.abort_outdated();
        // As many as the plan lets go at once can end at once.
        let (ended_sender, mut ended) = mpsc::channel(all_slots(self.sender.options.concurrency));
        let mut stop_at = None;
        loop {
            changed.borrow_and_update();
            let orders = *self.orders.borrow_and_update();
            self.plan.set_hurry(orders.waiting > 0);
            self.take_in_changes();
            self.take_in_flushes();
            let paused = self.sender.staging.journal().is_paused();
            if orders.stop && self.plan.active() == 0 {
                break;
            }
            if !orders.stop && !paused {
                self.start_what_may_go(&ended_sender);
            }
            let now = self.sender.clock.instant();
            // Resuming wakes the loop as every change of the journal does.
            let mut wakes_at = self.plan.wakes_at().filter(|_| !paused);
            if orders.stop {
                let at = *stop_at.get_or_insert(now + self.stop_grace());
                if now >= at {
                    break;
                }
                wakes_at = Some(at);
            }
            let pause = wakes_at.map_or(IDLE, |at| at.saturating_duration_since(now));
            tokio::select! {
                _ = changed.changed() => {}
                Some(ended) = ended.recv() => self.take_in_end(ended),
                result = self.orders.changed() => if result.is_err() { break },
                () = tokio::time::sleep(pause) => {}
            }
        }
        let _ = tokio::time::timeout(ABORT_LIMIT, self.sender.abort_at_stop()).await;
    }

    fn stop_grace(&self) -> Duration {
        match self.sender.reachable.load(Ordering::Relaxed) {
            true => STOP_GRACE,
            false => STOP_GRACE_UNREACHABLE,
        }
    }

    /// Takes in all records. Their changes may have been told to a follower before this one.
    fn take_in_all(&mut self) {
        let plan = &mut self.plan;
        let journal = self.sender.staging.journal();
        let moves = journal.moves();
        journal.visit(|record| {
            let mut task = self.sender.task(record, None);
            task.ready &= !moves.covers(&record.key);
            plan.update(&record.key.folded(), Some(task));
        });
        for name in self.sender.staging.journal().local_names() {
            self.take_in(&name.key.folded());
        }
    }

    fn take_in_changes(&mut self) {
        let now = self.sender.clock.instant();
        for key in self.sender.set_aside.lock().drain(..) {
            self.plan.rest(key, now);
        }
        for key in self.sender.staging.journal().take_changed() {
            self.take_in(&key);
        }
    }

    fn take_in_flushes(&mut self) {
        let flushes = std::mem::take(&mut *self.sender.flushes.lock());
        flushes.iter().for_each(|key| self.plan.flush(key));
    }

    /// Takes in what the journal says of a key.
    fn take_in(&mut self, key: &Key) {
        let staging = &self.sender.staging;
        let task = staging.journal().record(key).map(|record| {
            let snapshot = staging.snapshots().of(&record);
            let length = snapshot.map(|snapshot| snapshot.length);
            let mut task = self.sender.task(&record, length);
            let first = staging
                .journal()
                .first_name(key)
                .map(|first| first.folded());
            // A copy for others: what is to replace its source does not wait for it, and brings another.
            task.source = task.source.filter(|source| first.as_ref() != Some(source));
            // What such a key holds is not known yet, and what it holds is to be copied first. Not
            // asked before the record is read: one that was made after a move is to meet the move.
            task.ready &= !staging.journal().moves().covers(key);
            task
        });
        self.sender.abort_outdated();
        self.plan.update(key, task);
    }

    fn start_what_may_go(&mut self, ended: &mpsc::Sender<Ended>) {
        while let Some(next) = self.plan.next(self.sender.clock.instant()) {
            self.start(next, ended.clone());
        }
        self.note_active();
    }

    /// Tells the status how many operations are on their way.
    fn note_active(&self) {
        let active = self.plan.active();
        self.active.store(active, Ordering::Relaxed);
        let now = self.sender.clock.instant();
        self.sender.pace.lock().set_busy(now, active > 0);
    }

    fn start(&mut self, next: Next, ended: mpsc::Sender<Ended>) {
        let (key, is_circle) = match next {
            Next::Go(key) => (key, false),
            Next::Circle(key) => (key, true),
        };
        let planned = self.plan.seq(&key);
        let record = self.sender.staging.journal().record(&key);
        let sender = Arc::clone(&self.sender);
        tokio::spawn(async move {
            let outcome = match record {
                Some(record) if Some(record.seq) == planned => match is_circle {
                    true => sender.detour(record).await,
                    false => sender.carry_out(record).await,
                },
                // Changed since; the change is still to be taken in.
                _ => (Outcome::Done, false),
            };
            let seq = planned.unwrap_or(Seq(0));
            // The loop outlives its operations, unless the runtime ends.
            let _ = ended.send(Ended { key, seq, outcome }).await;
        });
    }

    fn take_in_end(&mut self, ended: Ended) {
        let now = self.sender.clock.instant();
        // The journal first: what is done is gone from it.
        self.take_in(&ended.key);
        self.plan
            .finished(&ended.key, ended.seq, ended.outcome, now);
        let reachable = !self.plan.in_outage();
        if self.sender.reachable.swap(reachable, Ordering::Relaxed) != reachable {
            let destination = &self.sender.options.destination;
            match reachable {
                true => log::info!("{destination} takes uploads again"),
                false => log::warn!("{destination} takes no uploads for now; changes wait here"),
            }
        }
        self.note_active();
        self.progress.send_modify(|count| *count += 1);
    }
}

/// Returns a number from 0 to 1. Good enough to spread retries.
fn random() -> f64 {
    let number = RandomState::new().hash_one(0u8);
    number as f64 / u64::MAX as f64
}
