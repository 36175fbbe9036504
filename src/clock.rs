//! Time, injected, so that tests need not sleep.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// A source of time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall clock, for times that are stored or shown.
    fn now(&self) -> SystemTime;
    /// Returns the monotonic clock, for waits and ages within this process.
    fn instant(&self) -> Instant;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<(SystemTime, Instant)>);

impl ManualClock {
    /// Returns a clock that stands at the present.
    pub fn new() -> ManualClock {
        ManualClock(Mutex::new((SystemTime::now(), Instant::now())))
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        now.0 += by;
        now.1 += by;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        ManualClock::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.0.lock().0
    }

    fn instant(&self) -> Instant {
        self.0.lock().1
    }
}

/// Tokio's time, which tests pause and which then passes by itself.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TokioClock(SystemTime, tokio::time::Instant);

#[cfg(test)]
impl TokioClock {
    pub(crate) fn new() -> TokioClock {
        TokioClock::from(SystemTime::now())
    }

    /// Returns one that begins at a time.
    pub(crate) fn from(begun: SystemTime) -> TokioClock {
        TokioClock(begun, tokio::time::Instant::now())
    }
}

#[cfg(test)]
impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        self.0 + self.1.elapsed()
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
