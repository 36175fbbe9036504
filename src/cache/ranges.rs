//! Which bytes of a file are present: a set of byte offsets, kept as ranges. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of byte offsets. Its ranges are non-empty and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// End of each range by its start.
    ends: BTreeMap<u64, u64>,
    /// Sum of the lengths.
    bytes: u64,
}

impl RangeSet {
    /// Returns the set of the offsets below `size`.
    pub(super) fn whole(size: u64) -> RangeSet {
        let mut set = RangeSet::default();
        set.insert(0..size);
        set
    }

    /// Returns how many bytes are in the set.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a range; returns how many bytes of it were not in the set before.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut absorbed = 0;
        // What begins before our end and reaches our start, from the right.
        while let Some((&other, &other_end)) = self.ends.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ends.remove(&other);
            absorbed += other_end - other;
            start = start.min(other);
            end = end.max(other_end);
        }
        self.ends.insert(start, end);
        let added = (end - start) - absorbed;
        self.bytes += added;
        added
    }

    /// Takes a range out; returns how many bytes of it were in the set.
    pub(super) fn remove(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let mut removed = 0;
        // What begins before our end and reaches beyond our start, from the right.
        while let Some((&other, &other_end)) = self.ends.range(..range.end).next_back() {
            if other_end <= range.start {
                break;
            }
            self.ends.remove(&other);
            removed += other_end.min(range.end) - other.max(range.start);
            if other_end > range.end {
                self.ends.insert(range.end, other_end);
            }
            if other < range.start {
                self.ends.insert(other, range.start);
            }
        }
        self.bytes -= removed;
        removed
    }

    /// Whether all of a range is in the set; an empty range is.
    pub(super) fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .ends
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| end >= range.end)
    }

    /// Returns the first run within `range` that is not in the set.
    pub(super) fn first_missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        let covered = self.ends.range(..=range.start).next_back();
        let start = covered.map_or(range.start, |(_, &end)| end.max(range.start));
        if start >= range.end {
            return None;
        }
        let next = self.ends.range(start..).next();
        let end = next.map_or(range.end, |(&next, _)| next.min(range.end));
        Some(start..end)
    }

    /// Returns the ranges in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// Returns the set as bytes: start and end of each range, 8 bytes each, little endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.iter()
            .flat_map(|range| [range.start.to_le_bytes(), range.end.to_le_bytes()])
            .flatten()
            .collect()
    }

    /// Reads what [`RangeSet::encode`] wrote; `None` unless it is a set of offsets below `size`.
    pub(super) fn decode(bytes: &[u8], size: u64) -> Option<RangeSet> {
        let mut set = RangeSet::default();
        let pairs = bytes.chunks_exact(16);
        if !pairs.remainder().is_empty() {
            return None;
        }
        let mut last_end = None;
        for pair in pairs {
            let start = u64::from_le_bytes(pair[..8].try_into().ok()?);
            let end = u64::from_le_bytes(pair[8..].try_into().ok()?);
            if start >= end || end > size || last_end.is_some_and(|last| start <= last) {
                return None;
            }
            last_end = Some(end);
            set.insert(start..end);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64;

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0..SIZE, 0..SIZE), 0..24).prop_map(|pairs| {
            let ordered = pairs.into_iter().map(|(a, b)| a.min(b)..a.max(b));
            ordered.collect()
        })
    }

    proptest! {
        #[test]
        fn a_set_is_its_bitmap(
            inserted in ranges(),
            removed in ranges(),
            more in ranges(),
            asked in ranges(),
        ) {
            let mut set = RangeSet::default();
            let mut model = [false; SIZE as usize];
            let changes = inserted.into_iter().map(|range| (range, true));
            let changes = changes.chain(removed.into_iter().map(|range| (range, false)));
            for (range, held) in changes.chain(more.into_iter().map(|range| (range, true))) {
                let before = model.iter().filter(|bit| **bit).count() as u64;
                model[range.start as usize..range.end as usize].fill(held);
                let after = model.iter().filter(|bit| **bit).count() as u64;
                match held {
                    true => prop_assert_eq!(set.insert(range), after - before),
                    false => prop_assert_eq!(set.remove(range), before - after),
                }
                prop_assert_eq!(set.bytes(), after);
            }
            for range in asked {
                let bits = &model[range.start as usize..range.end as usize];
                prop_assert_eq!(set.contains(range.clone()), bits.iter().all(|bit| *bit));
                let missing = bits.iter().position(|bit| !bit).map(|at| {
                    let run = bits[at..].iter().take_while(|bit| !**bit).count();
                    range.start + at as u64..range.start + (at + run) as u64
                });
                prop_assert_eq!(set.first_missing(range), missing);
            }
            let all: Vec<_> = set.iter().collect();
            prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(RangeSet::decode(&set.encode(), SIZE), Some(set));
        }

        #[test]
        fn any_bytes_decode_to_a_sound_set_or_none(bytes: Vec<u8>) {
            if let Some(set) = RangeSet::decode(&bytes, SIZE) {
                prop_assert!(set.iter().all(|range| range.end <= SIZE));
                prop_assert_eq!(set.encode(), bytes);
            }
        }
    }

    #[test]
    fn decode_refuses_what_lies_outside_of_the_file() {
        let set = RangeSet::whole(SIZE);
        assert_eq!(RangeSet::decode(&set.encode(), SIZE - 1), None);
        assert_eq!(RangeSet::decode(&set.encode()[1..], SIZE), None);
    }
}
