//! The signals that this process answers.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A signal that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT: to end.
    End(&'static str),
    /// SIGHUP: the terminal is gone, or the log was rotated.
    HangUp,
}

/// The signals, from when this is made.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
}

impl Signals {
    /// Begins to listen. Must be called on a runtime, before the mount exists: until then a signal
    /// ends the process and there is nothing to undo.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Returns the next signal.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End("SIGTERM"),
            _ = self.interrupt.recv() => Signal::End("SIGINT"),
            _ = self.hang_up.recv() => Signal::HangUp,
        }
    }

    /// Returns at the next signal to end.
    pub(super) async fn next_end(&mut self) {
        while self.next().await == Signal::HangUp {}
    }
}
