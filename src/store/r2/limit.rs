//! The uplink limit: all request bodies together get so many bytes a second.
//!
//! Only bodies pass here, so what has none (reads, deletes, copies, listings) never waits.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A late wake-up is made up for, up to this; more would not be smooth.
const SAVED: Duration = Duration::from_millis(50);
/// How many pieces a second, so that a call or a game on the same line never waits for long.
const PIECES_A_SECOND: u64 = 20;
/// Smaller pieces are all overhead.
const LEAST_PIECE: u64 = 1024;

/// A token bucket. Bodies that go at once get their turns in the order in which they ask, piece by
/// piece.
#[derive(Debug)]
pub(super) struct UploadLimit {
    bytes_per_second: u64,
    /// When everything given out so far has gone.
    free_at: Mutex<Option<Instant>>,
}

impl UploadLimit {
    /// `bytes_per_second` must not be 0.
    pub(super) fn new(bytes_per_second: u64) -> UploadLimit {
        UploadLimit {
            bytes_per_second,
            free_at: Mutex::new(None),
        }
    }

    /// Returns how long a piece may be.
    pub(super) fn piece_bytes(&self) -> usize {
        let piece = (self.bytes_per_second / PIECES_A_SECOND).max(LEAST_PIECE);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    /// Returns when a piece of that length may go that is ready `now`. It counts as gone then.
    pub(super) fn turn(&self, now: Instant, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let earliest = now.checked_sub(SAVED).unwrap_or(now);
        let mut free_at = self.free_at.lock();
        let turn = free_at.map_or(now, |free_at| free_at.max(earliest));
        *free_at = Some(turn + takes);
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends from a number of bodies that are always ready; returns the bytes that have gone by the
    /// end of each tenth of a second, wakes being late by `late`.
    fn send(limit: &UploadLimit, bodies: usize, tenths: usize, late: Duration) -> Vec<u64> {
        let begun = Instant::now();
        let piece = limit.piece_bytes();
        let mut ready = vec![begun; bodies];
        let mut gone = vec![0; tenths];
        let end = begun + Duration::from_millis(100) * tenths as u32;
        while let Some(body) = (0..bodies).min_by_key(|body| ready[*body]) {
            let turn = limit.turn(ready[body], piece);
            if turn >= end {
                break;
            }
            let tenth = (turn - begun).as_millis() as usize / 100;
            gone[tenth..]
                .iter_mut()
                .for_each(|sum| *sum += piece as u64);
            ready[body] = turn + late;
        }
        gone
    }

    #[test]
    fn however_many_bodies_there_are_the_line_gets_its_rate_and_no_more() {
        for (rate, bodies, late) in [
            (1_000_000, 1, 0),
            (1_000_000, 16, 0),
            (1_000_000, 16, 3),
            (50_000_000, 1, 2),
            (20_000, 5, 1),
        ] {
            let limit = UploadLimit::new(rate);
            let gone = send(&limit, bodies, 50, Duration::from_millis(late));
            for (tenth, sum) in (1..).zip(&gone) {
                let fair = rate * tenth / 10;
                let burst = rate / 20 + limit.piece_bytes() as u64;
                assert!(*sum <= fair + burst, "{rate}, {bodies}: {sum} by {tenth}");
                assert!(
                    *sum + 2 * burst >= fair,
                    "{rate}, {bodies}: {sum} by {tenth}"
                );
            }
        }
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let limit = UploadLimit::new(1_000_000);
        send(&limit, 1, 1, Duration::ZERO);
        let later = Instant::now() + Duration::from_secs(3600);
        let piece = limit.piece_bytes();
        let at_once = (0..100).filter(|_| limit.turn(later, piece) == later);
        assert!(at_once.count() <= 2);
    }
}
