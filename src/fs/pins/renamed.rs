//! Pins follow renames: what is pinned stays so, under its new name.
//!
//! The new names are kept before anything is renamed, and the former ones are dropped when the rename
//! is on the disk. Whatever a power cut leaves of both, one of the names is pinned.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::{Fill, Keeper, is_within, path_of};
use crate::fs::Fs;
use crate::fs::attr::Ino;

/// A rename under way of something that is pinned.
pub(in crate::fs) struct Following {
    keeper: Arc<Keeper>,
    /// The pins concerned, and what they will be called.
    pairs: Vec<(String, String)>,
    /// Those new names that were no pins before.
    added: Vec<String>,
}

impl Fs {
    /// Has the keeper of the pins hear of renames.
    pub(super) fn attach_keeper(&self, keeper: Weak<Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// Keeps what is pinned at or below `from` under its new name as well; with `exchange` also the
    /// other way round. Costs nothing unless something of it is pinned.
    pub(in crate::fs) fn follow_pins(
        &self,
        from: (Ino, &str),
        to: (Ino, &str),
        exchange: bool,
    ) -> Option<Following> {
        let keeper = self.keeper.get()?.upgrade()?;
        if keeper.pins.lock().is_empty() {
            return None;
        }
        let (from, to) = {
            let tree = self.tree.lock();
            let path = |(parent, name): (Ino, &str)| {
                let above = tree.path(parent)?;
                Some(path_of(&format!("{above}{name}")))
            };
            (path(from)?, path(to)?)
        };
        let mut pairs = pairs(&keeper.pins.lock(), &from, &to);
        if exchange {
            let back = self::pairs(&keeper.pins.lock(), &to, &from);
            pairs.extend(back);
        }
        if pairs.is_empty() {
            return None;
        }
        let mut added = Vec::new();
        let kept = keeper.keep(|pins| {
            for (old, new) in &pairs {
                let fill = pins.get(old).cloned().unwrap_or_default();
                pins.entry(new.clone()).or_insert_with(|| {
                    added.push(new.clone());
                    fill
                });
            }
        });
        if let Err(error) = kept {
            log::warn!("the pins below {from:?} keep that name: {error}");
            return None;
        }
        Some(Following {
            keeper,
            pairs,
            added,
        })
    }
}

impl Following {
    /// Drops the names that nothing has any more: the former ones if it was renamed, else the new ones.
    pub(in crate::fs) fn end(self, renamed: bool) {
        let Following {
            keeper,
            pairs,
            added,
        } = self;
        if renamed {
            if let Err(error) = keeper.fs.staging.sync_names() {
                // Both names stay pinned.
                log::warn!("a rename of what is pinned is not on the disk: {error}");
                return;
            }
            // Their bytes have the former keys until the bucket has renamed them.
            let olds = pairs.iter().map(|(old, _)| old.clone());
            keeper.elsewhere.lock().extend(olds);
        }
        let kept = keeper.keep(|pins| match renamed {
            true => rename(pins, &pairs),
            false => pins.retain(|pin, _| !added.contains(pin)),
        });
        if let Err(error) = kept {
            log::warn!("former names stay pinned: {error}");
        }
    }
}

/// Returns the pins at and below `from`, and what they are called when that is `to`.
fn pairs(pins: &BTreeMap<String, Fill>, from: &str, to: &str) -> Vec<(String, String)> {
    let within = pins.keys().filter(|pin| is_within(pin, from));
    within
        .map(|pin| (pin.clone(), format!("{to}{}", &pin[from.len()..])))
        .collect()
}

fn rename(pins: &mut BTreeMap<String, Fill>, pairs: &[(String, String)]) {
    let fills: Vec<Fill> = pairs
        .iter()
        .map(|(old, _)| pins.remove(old).unwrap_or_default())
        .collect();
    for ((_, new), fill) in pairs.iter().zip(fills) {
        pins.insert(new.clone(), fill);
    }
    // What now lies in a pinned folder is pinned by that.
    let all: Vec<String> = pins.keys().cloned().collect();
    pins.retain(|pin, _| {
        !all.iter()
            .any(|other| other != pin && is_within(pin, other))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(pins: &[&str], moves: &[(&str, &str)]) -> Vec<String> {
        let mut pins: BTreeMap<String, Fill> = pins
            .iter()
            .map(|pin| ((*pin).to_owned(), Fill::default()))
            .collect();
        let pairs: Vec<_> = moves
            .iter()
            .flat_map(|(from, to)| pairs(&pins, from, to))
            .collect();
        rename(&mut pins, &pairs);
        pins.into_keys().collect()
    }

    #[test]
    fn what_is_renamed_stays_pinned_once() {
        let one = renamed(&["layers/a", "projects/x"], &[("projects/x", "projects/y")]);
        assert_eq!(one, ["layers/a", "projects/y"]);
        let below = renamed(&["p/x/1", "p/x/2", "p/xy"], &[("p/x", "q")]);
        assert_eq!(below, ["p/xy", "q/1", "q/2"]);
        let into = renamed(&["layers/a", "projects/x"], &[("layers/a", "projects/x/a")]);
        assert_eq!(into, ["projects/x"]);
        let swapped = renamed(&["a", "b"], &[("a", "b"), ("b", "a")]);
        assert_eq!(swapped, ["a", "b"]);
        let exchanged = renamed(&["a"], &[("a", "b"), ("b", "a")]);
        assert_eq!(exchanged, ["b"]);
        assert_eq!(renamed(&["a/b"], &[("a/b/c", "d")]), ["a/b"]);
    }
}
