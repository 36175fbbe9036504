//! Whether there is any use in asking the bucket: the circuit breaker of the retries.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::{StoreError, StoreResult};

/// A bucket that has answered nobody for so long counts as unreachable. Short enough that few wait
/// in vain, long enough that a moment without a line fails nobody.
const OPENS_AFTER: Duration = Duration::from_secs(5);
/// So many reads must have failed meanwhile: one slow answer is no outage.
const FAILURES_TO_OPEN: u32 = 3;

/// Open while the bucket answers nobody. Callers are then told so at once, and one small question
/// after another finds out when it is back.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the bucket last answered.
    answered_at: Option<Instant>,
    /// When the first of the reads was begun that have failed since.
    failing_since: Option<Instant>,
    failures: u32,
    open: bool,
}

impl Breaker {
    /// Whether nobody need be made to wait.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().open
    }

    /// The bucket has answered, whatever it said. Returns whether that ends an outage.
    pub(super) fn answered(&self, now: Instant) -> bool {
        let fresh = State {
            answered_at: Some(now),
            ..State::default()
        };
        std::mem::replace(&mut *self.0.lock(), fresh).open
    }

    /// A read was not answered. Returns whether that begins an outage.
    pub(super) fn failed(&self, begun: Instant, now: Instant) -> bool {
        let mut state = self.0.lock();
        let begun = state.answered_at.map_or(begun, |at| begun.max(at));
        let since = state.failing_since.map_or(begun, |since| begun.min(since));
        state.failing_since = Some(since);
        state.failures = state.failures.saturating_add(1);
        let opens = !state.open
            && state.failures >= FAILURES_TO_OPEN
            && now.saturating_duration_since(since) >= OPENS_AFTER;
        state.open |= opens;
        opens
    }
}

/// Whether a request got no answer, or none but that there is none for now.
pub(super) fn is_unanswered<T>(result: &StoreResult<T>) -> bool {
    use StoreError::{Throttled, Unavailable};
    matches!(result, Err(Unavailable { .. } | Throttled { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_when_nothing_was_answered_for_a_while_and_closes_with_an_answer() {
        let breaker = Breaker::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!breaker.failed(at(0), at(0)));
        assert!(!breaker.failed(at(0), at(6)), "two failures are too few");
        assert!(breaker.failed(at(7), at(7)));
        assert!(breaker.is_open());
        assert!(!breaker.failed(at(7), at(8)), "it is told once");
        assert!(breaker.answered(at(9)));
        assert!(!breaker.is_open() && !breaker.answered(at(9)));
    }

    #[test]
    fn many_failures_within_a_moment_and_failures_among_answers_open_nothing() {
        let breaker = Breaker::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for _ in 0..100 {
            assert!(!breaker.failed(at(4), at(4)));
        }
        for second in 5..60 {
            assert!(!breaker.answered(at(second)));
            for _ in 0..10 {
                assert!(
                    !breaker.failed(at(0), at(second)),
                    "the others are answered"
                );
            }
        }
    }

    #[test]
    fn silence_counts_from_the_question() {
        let breaker = Breaker::default();
        let begun = Instant::now();
        let end = begun + OPENS_AFTER;
        assert!(!breaker.failed(begun, end));
        assert!(!breaker.failed(begun, end));
        assert!(breaker.failed(begun, end));
    }
}
