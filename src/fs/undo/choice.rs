//! Which of the versions that can come back are meant: pure.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::staging::{Kept, Seq};
use crate::store::trash::Why;
use crate::store::{Key, ObjectVersion};

/// One version that can come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// The name it had; a folder's ends in `/`.
    pub path: Key,
    /// What tells it from other versions of the same name.
    pub id: String,
    /// Why it is gone.
    pub why: Why,
    /// When it went.
    pub at: SystemTime,
    /// Its length in bytes.
    pub size: u64,
    /// Where it is.
    pub place: Where,
}

/// Where a lost version is.
#[derive(Clone, Debug, PartialEq)]
pub enum Where {
    /// Where it was: its delete has not been carried out.
    Waiting {
        /// The object.
        version: ObjectVersion,
        /// The state of its tombstone.
        seq: Seq,
    },
    /// In the bucket's trash.
    Bucket(ObjectVersion),
    /// On this disk only: it was never uploaded.
    Here(Box<Kept>),
}

/// Which version is to come back.
#[derive(Clone, Debug, PartialEq)]
pub enum At {
    /// The one with this id.
    Id(String),
    /// The last that went until this time.
    Time(SystemTime),
}

/// Chooses what comes back for one wish; `lost` has the newest first.
pub(super) fn choose(lost: &[Lost], wanted: &Key, at: Option<&At>) -> Vec<Lost> {
    let matches_at = |lost: &Lost| match at {
        None => true,
        Some(At::Id(id)) => lost.id == *id,
        // Names in the trash tell whole seconds.
        Some(At::Time(time)) => lost.at <= *time + Duration::from_secs(1),
    };
    let is_it = |lost: &Lost| lost.path.folded() == *wanted;
    let mut seen = HashSet::new();
    let mut chosen: Vec<Lost> = lost
        .iter()
        .filter(|lost| lost.path.is_at_or_below(wanted) && matches_at(lost))
        // A version that was only overwritten comes back when it is asked for by its id or name.
        .filter(|lost| lost.why == Why::Deleted || matches!(at, Some(At::Id(_))))
        .filter(|lost| seen.insert(lost.path.folded()))
        .cloned()
        .collect();
    if chosen.is_empty() {
        let overwritten = lost.iter().find(|lost| is_it(lost) && matches_at(lost));
        chosen.extend(overwritten.cloned());
    }
    // Of the same delete, what still waits has no copy yet or one that nobody needs.
    let waiting: HashMap<Key, Lost> = lost
        .iter()
        .filter(|lost| matches!(lost.place, Where::Waiting { .. }))
        .map(|lost| (lost.path.folded(), lost.clone()))
        .collect();
    for one in &mut chosen {
        if let Some(same) = waiting.get(&one.path.folded())
            && same.id == one.id
        {
            *one = same.clone();
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::store::ETag;

    fn lost(path: &str, id: &str, why: Why, seconds: u64) -> Lost {
        let key = Key::new(path).unwrap();
        let version = ObjectVersion {
            key: key.clone(),
            etag: ETag::new("1"),
        };
        Lost {
            path: key,
            id: id.into(),
            why,
            at: UNIX_EPOCH + Duration::from_secs(seconds),
            size: 1,
            place: Where::Bucket(version),
        }
    }

    #[test]
    fn of_each_name_the_version_that_went_last_is_chosen() {
        let all = [
            lost("projects/x/a", "4", Why::Deleted, 40),
            lost("projects/x/b", "3", Why::Overwritten, 30),
            lost("projects/xy", "2", Why::Deleted, 20),
            lost("projects/x/a", "1", Why::Deleted, 10),
        ];
        let ids = |path: &str, at: Option<At>| -> Vec<String> {
            let wanted = Key::of_path(path).unwrap();
            let chosen = choose(&all, &wanted, at.as_ref());
            chosen.into_iter().map(|lost| lost.id).collect()
        };
        assert_eq!(ids("/projects/x/", None), ["4"]);
        assert_eq!(ids("projects/x/b", None), ["3"], "the former version");
        assert_eq!(ids("projects", None), ["4", "2"]);
        assert_eq!(ids("projects/x/a", Some(At::Id("1".into()))), ["1"]);
        let time = At::Time(UNIX_EPOCH + Duration::from_secs(15));
        assert_eq!(ids("projects", Some(time)), ["1"]);
    }

    #[test]
    fn what_still_waits_is_taken_rather_than_its_copy() {
        let mut waiting = lost("projects/a", "1", Why::Deleted, 10);
        waiting.place = Where::Waiting {
            version: ObjectVersion {
                key: waiting.path.clone(),
                etag: ETag::new("1"),
            },
            seq: Seq(1),
        };
        let copy = lost("projects/a", "1", Why::Deleted, 10);
        let chosen = choose(&[copy, waiting.clone()], &waiting.path, None);
        assert_eq!(chosen, [waiting]);
    }
}
