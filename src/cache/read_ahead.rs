//! What one open handle is likely to read next.

/// The read-ahead of one open handle. Dropping it stops what it has asked for ahead.
#[derive(Debug, Default)]
pub struct ReadStream {}
