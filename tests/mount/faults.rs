//! A bucket that fails: nothing is lost, nothing is done twice, nobody waits for ever.

mod credentials;
mod fallback;
mod offline;
mod reading;
mod writing;

use std::time::{Duration, Instant};

use r2_model::R2Model;

use crate::common::mount::Mount;

/// What a request may take without a sign of progress.
const REQUEST_DEADLINE: &str = "2";
/// In so much time every caller has an answer: the deadline, the retries that start before it, and
/// what a busy machine adds.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A mount whose callers do not wait for long.
fn impatient(model: &R2Model) -> Mount {
    Mount::with(model, &[("REQUEST_DEADLINE_SECONDS", REQUEST_DEADLINE)])
}

/// Runs a call and fails if its caller had to wait for too long.
#[track_caller]
fn answered<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = call();
    let took = begun.elapsed();
    assert!(took < ANSWER_LIMIT, "{what} took {took:?}");
    result
}

/// The answer to a question that the bucket would have to answer: an error, and no absence.
#[track_caller]
fn assert_no_answer<T>(result: std::io::Result<T>) {
    let error = result.err().expect("the bucket cannot be asked");
    let errno = error.raw_os_error();
    assert!(
        matches!(errno, Some(libc::EIO | libc::ETIMEDOUT)),
        "{error}"
    );
}
