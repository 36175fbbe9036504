//! What is not in the bucket yet: the one place where it is computed, for the status, for whoever
//! waits, and for the end.
//!
//! It is safe to shut down when nothing acknowledged would be missing from the bucket if this
//! machine were gone: when the journal has no record, whether it waits, is on its way, parked or
//! open. Names that stay on this disk by intention do not count.

use std::time::Duration;

use crate::control::{ShutdownReason, ShutdownStatus, selects};
use crate::staging::{Change, Staging};

/// What is not in the bucket yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outstanding {
    /// Names in all.
    pub(super) files: u64,
    /// Bytes that are only here, those of open files included.
    pub(super) bytes: u64,
    /// Those of them that programs have open.
    pub(super) open: u64,
    /// Those that cannot be uploaded as things are.
    pub(super) parked: u64,
    /// How many operations are on their way, for whatever path.
    pub(super) active: u64,
    /// Whether uploads are paused.
    pub(super) paused: bool,
    /// Whether the staging disk has failed.
    pub(super) failed: bool,
}

/// Returns what of `paths`, or of all if there are none, is not in the bucket yet.
pub(super) fn outstanding(staging: &Staging, active: u64, paths: &[String]) -> Outstanding {
    let journal = staging.journal();
    let mut left = Outstanding {
        active,
        paused: journal.is_paused(),
        failed: journal.failure().is_some(),
        ..Outstanding::default()
    };
    let mut open = Vec::new();
    journal.visit(|record| {
        if journal.stays_here(record) || !selects(paths, &record.key) {
            return;
        }
        left.files += 1;
        left.bytes += record.change.length();
        left.parked += u64::from(record.waits_for_somebody());
        if let Change::Put { file, .. } = &record.change
            && record.change.is_open()
        {
            open.push(*file);
        }
    });
    // A folder that was renamed counts until all that is in it has been found.
    for found in journal.moves().pending() {
        let within = |path: &String| path.starts_with(found.target.as_str());
        left.files += u64::from(selects(paths, &found.target) || paths.iter().any(within));
    }
    left.open = open.len() as u64;
    // Their lengths are not settled; the disk knows them as they are now.
    let lengths = open.iter().filter_map(|file| {
        let status = std::fs::metadata(staging.path(*file));
        status.ok().map(|status| status.len())
    });
    left.bytes += lengths.sum::<u64>();
    left
}

impl Outstanding {
    /// Whether only what cannot be uploaded is left.
    pub(super) fn is_stuck(&self) -> bool {
        self.files > 0 && self.files == self.parked
    }

    /// Whether anything may still go by itself, once no program has a file open any more.
    pub(super) fn moves(&self) -> bool {
        self.active > 0 || !(self.files == self.parked || self.paused || self.failed)
    }

    /// Returns what the status says of it. `time_for` foretells how long an upload of so many files
    /// and bytes takes.
    pub(super) fn shutdown(
        &self,
        online: bool,
        time_for: impl FnOnce(u64, u64) -> Option<Duration>,
    ) -> ShutdownStatus {
        let reason = match () {
            () if self.files == 0 => None,
            () if self.failed => Some(ShutdownReason::Failed),
            () if self.paused => Some(ShutdownReason::Paused),
            () if self.is_stuck() => Some(ShutdownReason::Parked),
            () if !online => Some(ShutdownReason::Unreachable),
            () if self.files == self.parked + self.open => Some(ShutdownReason::Open),
            () => Some(ShutdownReason::Uploading),
        };
        let known = reason == Some(ShutdownReason::Uploading) && self.open + self.parked == 0;
        let time = known.then(|| time_for(self.files, self.bytes)).flatten();
        ShutdownStatus {
            files: self.files,
            bytes: self.bytes,
            seconds_left: time.map(|time| time.as_secs_f64().ceil() as u64),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_by_itself_is_told_from_what_waits_for_somebody() {
        let some = |files, parked, active| Outstanding {
            files,
            parked,
            active,
            ..Outstanding::default()
        };
        assert!(some(2, 1, 0).moves() && some(1, 1, 1).moves());
        assert!(!some(0, 0, 0).moves() && !some(2, 2, 0).moves());
        let (mut paused, mut failed) = (some(2, 0, 0), some(2, 0, 0));
        (paused.paused, failed.failed) = (true, true);
        assert!(!paused.moves() && !failed.moves());
        paused.active = 1;
        assert!(paused.moves());
    }

    #[test]
    fn the_reason_is_the_one_that_somebody_can_act_upon() {
        let some = |change: fn(&mut Outstanding)| {
            let mut left = Outstanding {
                files: 3,
                bytes: 1000,
                ..Outstanding::default()
            };
            change(&mut left);
            left
        };
        let told = |left: &Outstanding, online| {
            let told = left.shutdown(online, |files, bytes| {
                Some(Duration::from_millis(files * bytes))
            });
            (told.reason, told.seconds_left)
        };
        use ShutdownReason::*;
        assert_eq!(told(&Outstanding::default(), false), (None, None));
        assert_eq!(told(&some(|_| {}), true), (Some(Uploading), Some(3)));
        assert_eq!(told(&some(|_| {}), false), (Some(Unreachable), None));
        assert_eq!(told(&some(|l| l.open = 1), true), (Some(Uploading), None));
        assert_eq!(told(&some(|l| l.open = 3), true), (Some(Open), None));
        assert_eq!(told(&some(|l| l.parked = 3), false), (Some(Parked), None));
        assert_eq!(
            told(&some(|l| l.paused = true), false),
            (Some(Paused), None)
        );
        let failed = some(|l| (l.paused, l.failed) = (true, true));
        assert_eq!(told(&failed, true), (Some(Failed), None));
    }
}
