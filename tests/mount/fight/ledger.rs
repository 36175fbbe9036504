//! What became of every content that was acknowledged on a key that both sides write.
//!
//! Every content is made once. It may go only when somebody who has just seen it replaces or
//! removes it; everything else must be in the bucket in the end, under its name or another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use parking_lot::Mutex;
use r2_model::{R2Model, Written};
use voicebeatfs::store::Md5;

/// A content, by its MD5, as the bucket's ETags tell it.
pub(super) type Content = String;

pub(super) fn content(bytes: &[u8]) -> Content {
    format!("{:?}", Md5::of(bytes))
}

/// What one side has done to a name without holding on to what was there: it was seen a moment
/// before.
#[derive(Clone, Debug)]
struct Replaced {
    side: &'static str,
    name: String,
    /// `None` for a delete.
    by: Option<Content>,
    ended_at: SystemTime,
}

#[derive(Debug, Default)]
struct Entries {
    /// Who made it, and under which name.
    acknowledged: BTreeMap<Content, (&'static str, String)>,
    /// What somebody saw, and replaced or removed.
    superseded: BTreeSet<Content>,
    replaced: Vec<Replaced>,
    /// What a key of one side alone must hold.
    held: BTreeMap<String, Content>,
}

/// What all writers have done.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Entries>);

/// What the comparison has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    acknowledged: usize,
    superseded: usize,
    /// What came between the look and the step after it.
    replaced_at_once: usize,
    /// What landed between a client's HEAD and its DELETE, which R2 cannot prevent.
    fell_to_a_delete: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "contents of both sides: {} acknowledged, {} superseded by who saw them, {} in the \
             moment after the look, {} fell to a DELETE on its way",
            self.acknowledged, self.superseded, self.replaced_at_once, self.fell_to_a_delete
        )
    }
}

impl Ledger {
    /// A content was acknowledged under a name, in place of `before`, which was seen through the
    /// same handle.
    pub(super) fn wrote(
        &self,
        side: &'static str,
        name: &str,
        before: Option<Content>,
        now: Content,
    ) {
        let mut entries = self.0.lock();
        entries.superseded.extend(before);
        entries.acknowledged.insert(now, (side, name.to_owned()));
    }

    /// A name was replaced or removed, `before` having been seen there just before.
    pub(super) fn replaced(
        &self,
        side: &'static str,
        name: &str,
        before: Option<Content>,
        by: Option<Content>,
    ) {
        let mut entries = self.0.lock();
        entries.superseded.extend(before);
        entries.replaced.push(Replaced {
            side,
            name: name.to_owned(),
            by,
            ended_at: SystemTime::now(),
        });
    }

    /// A key that only one side writes holds this.
    pub(super) fn holds(&self, key: &str, content: Content) {
        self.0.lock().held.insert(key.to_owned(), content);
    }

    /// A key that only one side writes holds what nobody acknowledged.
    pub(super) fn holds_something(&self, key: &str) {
        self.0.lock().held.remove(key);
    }

    /// Returns what keys of one side must hold.
    pub(super) fn held(&self) -> BTreeMap<String, Content> {
        self.0.lock().held.clone()
    }

    /// Says what is lost, or how everything was accounted for.
    pub(super) fn compare(&self, model: &R2Model, folder: &str) -> Result<Found, String> {
        let entries = self.0.lock();
        let held = model.keys().into_iter().filter_map(|key| model.stat(&key));
        let held: BTreeSet<Content> = held.map(|object| object.etag).collect();
        let history = model.history();
        let mut found = Found {
            acknowledged: entries.acknowledged.len(),
            superseded: entries.superseded.len(),
            ..Found::default()
        };
        for (content, (side, name)) in &entries.acknowledged {
            if held.contains(content) || entries.superseded.contains(content) {
                continue;
            }
            let landed = history.iter().find(|it| it.now.as_ref() == Some(content));
            let gone = history
                .iter()
                .find(|it| it.replaced.as_ref() == Some(content));
            let lost = || {
                let replaced: Vec<_> = entries.replaced.iter().rev().take(8).collect();
                format!(
                    "{content}, acknowledged by {side} as {name}, is lost: landed {landed:?}, \
                     gone {gone:?}, last replaced {replaced:?}"
                )
            };
            let (Some(landed), Some(gone)) = (landed, gone) else {
                return Err(lost());
            };
            if entries.seen_too_late(landed, gone, folder) {
                found.replaced_at_once += 1;
            } else if gone.now.is_none() && looked_before(model, landed, gone) {
                found.fell_to_a_delete += 1;
            } else {
                return Err(lost());
            }
        }
        Ok(found)
    }
}

impl Entries {
    /// Whether what replaced something was itself replaced, maybe before it was uploaded.
    fn has_gone(&self, content: Option<&Content>) -> bool {
        content.is_some_and(|content| self.superseded.contains(content))
    }

    /// Whether a version may have been shown after the look and before the step: it was in the
    /// bucket when a step of that side ended that could replace it.
    fn seen_too_late(&self, landed: &Written, gone: &Written, folder: &str) -> bool {
        self.replaced.iter().any(|step| {
            step.side == gone.client
                && gone.key == format!("{folder}{}", step.name)
                && (step.by == gone.now || self.has_gone(step.by.as_ref()))
                && step.ended_at >= landed.at
        })
    }
}

/// Whether the client of a delete had looked at the key for the last time before a version landed.
fn looked_before(model: &R2Model, landed: &Written, gone: &Written) -> bool {
    let requests = model.requests();
    let last = requests.iter().rev().find(|request| {
        request.operation == r2_model::Operation::HeadObject
            && request.client.as_ref() == Some(&gone.client)
            && request.key.as_ref() == Some(&gone.key)
            && request.at < gone.at
    });
    last.is_some_and(|look| look.at < landed.at)
}
