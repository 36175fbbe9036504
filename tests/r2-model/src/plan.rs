//! Which faults strike a request, and all of them put together.

use std::time::{Duration, Instant};

use crate::api::Steer;
use crate::content::mix;
use crate::fault::{Ending, Fault, FaultRule, Hook};
use crate::operation::Target;
use crate::shape::Shape;

/// Names a rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultId(usize);

/// The rules of one model, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Armed>,
}

#[derive(Debug)]
struct Armed {
    rule: FaultRule,
    since: Instant,
    random: u64,
    matched: u64,
    fired: u64,
    /// A cleared rule stays, so that its count can still be read.
    cleared: bool,
}

/// What happens to one request.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) names: Vec<&'static str>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) latency: Duration,
    pub(crate) cut_upload: Option<u64>,
    pub(crate) instead: Option<Ending>,
    pub(crate) late_commit: Option<Duration>,
    pub(crate) lost: Option<Ending>,
    pub(crate) first_byte: Duration,
    pub(crate) steer: Steer,
    pub(crate) shape: Shape,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) -> FaultId {
        let random = rule.seed;
        self.rules.push(Armed {
            rule,
            since: Instant::now(),
            random,
            matched: 0,
            fired: 0,
            cleared: false,
        });
        FaultId(self.rules.len() - 1)
    }

    pub(crate) fn clear(&mut self, FaultId(index): FaultId) {
        if let Some(armed) = self.rules.get_mut(index) {
            armed.cleared = true;
        }
    }

    pub(crate) fn clear_all(&mut self) {
        for armed in &mut self.rules {
            armed.cleared = true;
        }
    }

    pub(crate) fn fired(&self, FaultId(index): FaultId) -> u64 {
        self.rules.get(index).map_or(0, |armed| armed.fired)
    }

    pub(crate) fn matched(&self, FaultId(index): FaultId) -> u64 {
        self.rules.get(index).map_or(0, |armed| armed.matched)
    }

    /// Counts the request and returns what happens to it.
    pub(crate) fn plan(&mut self, target: &Target) -> Plan {
        let mut plan = Plan::default();
        for armed in &mut self.rules {
            if armed.strikes(target) {
                plan.names.push(armed.rule.fault.name());
                let draw = armed.draw();
                plan.include(&armed.rule.fault, draw);
            }
        }
        plan
    }
}

impl Armed {
    fn strikes(&mut self, target: &Target) -> bool {
        let rule = &self.rule;
        let known = rule.operations.is_empty() || rule.operations.contains(&target.operation);
        if self.cleared || !known || !rule.key.matches(target.about()) {
            return false;
        }
        self.matched += 1;
        let number = self.matched;
        let over = rule
            .lasting
            .is_some_and(|time| self.since.elapsed() >= time);
        let chosen =
            (rule.first..=rule.last).contains(&number) && number.is_multiple_of(rule.every);
        let probability = rule.probability;
        let strikes = chosen && !over && self.draw() < probability;
        self.fired += u64::from(strikes);
        strikes
    }

    /// Returns the next random number, at least 0 and below 1.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(1);
        // 53 bits are what a float holds.
        (mix(self.random) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Plan {
    /// Adds a fault. Of two that exclude each other the one that was added first counts.
    fn include(&mut self, fault: &Fault, draw: f64) {
        match fault {
            Fault::Instead(ending) => {
                self.instead.get_or_insert_with(|| ending.clone());
            }
            Fault::Lost(ending) => {
                self.lost.get_or_insert_with(|| ending.clone());
            }
            Fault::LateCommit(delay) => {
                self.late_commit.get_or_insert(*delay);
                self.steer.is_late = true;
            }
            Fault::CutUpload(bytes) => {
                self.cut_upload.get_or_insert(*bytes);
            }
            Fault::ConditionFails => self.steer.condition_fails = true,
            Fault::Hook(hook) => self.hooks.push(hook.clone()),
            Fault::Latency { least, most } => {
                self.latency += *least + most.saturating_sub(*least).mul_f64(draw);
            }
            Fault::SlowFirstByte(time) => self.first_byte += *time,
            Fault::SlowBody(rate) => self.shape.bytes_per_second = Some((*rate).max(1)),
            Fault::Stall { after, pause } => self.shape.stall = Some((*after, *pause)),
            Fault::CutBody(bytes) => self.shape.cut_after = Some(*bytes),
            Fault::EndBody(bytes) => {
                self.shape.end_after = Some(*bytes);
                self.steer.length_omitted = true;
            }
            Fault::FlipBit(offset) => self.shape.flip = Some(*offset),
            Fault::RangeEndMoved(bytes) => self.steer.range_end_moved = Some(*bytes),
            Fault::WholeObject => self.steer.range_ignored = true,
            Fault::NoContentLength => self.steer.length_omitted = true,
            Fault::ShortPage(entries) => self.steer.page_limit = Some(*entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;
    use crate::operation::Operation;

    fn strikes(rule: FaultRule, path: &str, count: usize) -> Vec<usize> {
        let mut faults = Faults::default();
        faults.add(rule);
        let target = Target::of(&Method::PUT, path, None, false);
        (1..=count)
            .filter(|_| !faults.plan(&target).names.is_empty())
            .collect()
    }

    fn rule() -> FaultRule {
        FaultRule::new(Fault::error("InternalError"))
    }

    #[test]
    fn rules_choose_by_number() {
        assert_eq!(strikes(rule(), "/b/k", 3), [1, 2, 3]);
        assert_eq!(strikes(rule().nth(2), "/b/k", 4), [2]);
        assert_eq!(strikes(rule().from_nth(3), "/b/k", 4), [3, 4]);
        assert_eq!(strikes(rule().up_to(2), "/b/k", 4), [1, 2]);
        assert_eq!(strikes(rule().every(2).from_nth(3), "/b/k", 6), [4, 6]);
        assert!(strikes(rule().lasting(Duration::ZERO), "/b/k", 2).is_empty());
    }

    #[test]
    fn rules_choose_by_operation_and_key() {
        assert_eq!(strikes(rule().on(&[Operation::PutObject]), "/b/k", 1), [1]);
        assert!(strikes(rule().on(&[Operation::GetObject]), "/b/k", 1).is_empty());
        assert_eq!(strikes(rule().key("d/k"), "/b/d/k", 1), [1]);
        assert!(strikes(rule().key("k"), "/b/d/k", 1).is_empty());
        assert_eq!(strikes(rule().key_prefix("d/"), "/b/d/k", 1), [1]);
        assert_eq!(strikes(rule().key_suffix(".wav"), "/b/a.wav", 1), [1]);
        assert_eq!(strikes(rule().key_containing("/"), "/b/d/k", 1), [1]);
        assert!(strikes(rule().key_containing("/"), "/b/k", 1).is_empty());
    }

    #[test]
    fn chance_is_seeded() {
        let some = strikes(rule().chance(0.3, 7), "/b/k", 1000);
        assert_eq!(some, strikes(rule().chance(0.3, 7), "/b/k", 1000));
        assert_ne!(some, strikes(rule().chance(0.3, 8), "/b/k", 1000));
        assert!((200..400).contains(&some.len()), "{}", some.len());
        assert!(strikes(rule().chance(0.0, 7), "/b/k", 100).is_empty());
    }

    #[test]
    fn counts_outlive_clearing() {
        let mut faults = Faults::default();
        let id = faults.add(rule().nth(2));
        let target = Target::of(&Method::PUT, "/b/k", None, false);
        for _ in 0..3 {
            faults.plan(&target);
        }
        faults.clear_all();
        assert!(faults.plan(&target).names.is_empty());
        assert_eq!((faults.matched(id), faults.fired(id)), (3, 1));
    }
}
