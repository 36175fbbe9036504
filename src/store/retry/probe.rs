//! Finding out when a bucket that answered nobody is back: one small question after another, on
//! behalf of all.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Sleeper;
use super::breaker::{Breaker, is_unanswered};
use crate::clock::SharedClock;
use crate::store::explain::probe_key;
use crate::store::{ObjectStore, ReadCondition, StoreError};

/// The pause before the first question; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, so about how long a bucket that is back goes unnoticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Asks until the bucket answers, somebody else hears from it, or its store is gone.
pub(super) fn begin(
    store: &Arc<dyn ObjectStore>,
    breaker: &Arc<Breaker>,
    clock: SharedClock,
    sleeper: Arc<dyn Sleeper>,
) {
    let (store, breaker) = (store.clone(), Arc::downgrade(breaker));
    tokio::spawn(async move {
        let key = probe_key();
        let mut pause = FIRST_PAUSE;
        loop {
            sleeper.sleep(pause).await;
            if !still_asked(&breaker) {
                return;
            }
            let asked = store.head(&key, ReadCondition::None);
            let answer = tokio::time::timeout(ANSWER_LIMIT, asked).await;
            let silence = StoreError::Unavailable {
                message: "no answer".into(),
                retry_after: None,
            };
            if !is_unanswered(&answer.unwrap_or(Err(silence))) {
                let breaker = breaker.upgrade();
                if breaker.is_some_and(|breaker| breaker.answered(clock.instant())) {
                    log::info!("the bucket answers again");
                }
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

fn still_asked(breaker: &Weak<Breaker>) -> bool {
    breaker.upgrade().is_some_and(|breaker| breaker.is_open())
}
