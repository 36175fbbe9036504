//! What is known of the leases of projects, and what is to be asked or written next. It asks nobody and
//! has no clock: it is told the time, and what was answered.
//!
//! A lease is wanted from the first sign that somebody works in a project until none has come for a
//! while. Before one is written it is looked at; what another machine holds is left to it, and looked
//! at again until it is given back or has ended.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::store::lease::Lease;
use crate::store::{ETag, WriteCondition};

/// The most projects in which this machine works at once; who changes more of them sweeps through all.
pub(super) const MOST_WANTED: usize = 16;
/// The most projects of which something is known.
const MOST_KNOWN: usize = 256;
/// Who opens more projects than this within the time below searches them, and works in none.
pub(super) const MOST_OPENED: usize = 4;
const OPENED_WITHIN: Duration = Duration::from_secs(60);
/// R2 takes one write a second to one key.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(1500);
/// Both dates that the age of a lease is told by are cut to whole seconds.
const ROUNDING: Duration = Duration::from_secs(2);

/// As whom leases are held here, and for how long.
#[derive(Debug)]
pub(super) struct Rules {
    /// By which our own leases are known.
    pub(super) id: String,
    /// How long a lease counts without being renewed.
    pub(super) ttl: Duration,
    /// Whether leases are taken; else they are only looked at.
    pub(super) takes: bool,
}

impl Rules {
    /// How often a lease is renewed, and looked at while somebody else has it.
    fn heartbeat(&self) -> Duration {
        (self.ttl / 3).max(LEAST_HEARTBEAT)
    }

    /// How long what was looked at is told without another look.
    fn fresh(&self) -> Duration {
        self.ttl / 6
    }

    /// How long after the last sign of work a lease is given back.
    fn hold(&self) -> Duration {
        self.ttl * 3
    }
}

/// A request to the bucket about one lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Who holds it?
    Look,
    /// Write ours where nobody's counts.
    Take(WriteCondition),
    /// Write ours anew over this version.
    Renew(ETag, SystemTime),
    /// Remove ours, this version.
    LetGo(ETag),
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Answer {
    /// There is none.
    Nothing,
    /// There is one.
    Found(Found),
    /// Ours was written by a request that was begun at this time.
    Held(ETag, SystemTime, Instant),
    /// Somebody else was faster.
    Lost,
    /// The token may not write there.
    Refused,
    /// It is given back, or left to end by itself.
    LetGo,
    /// No answer, or none of use.
    Failed,
}

/// A lease as it lies in the bucket.
#[derive(Debug)]
pub(super) struct Found {
    /// Its version.
    pub(super) etag: ETag,
    /// What it says; `None` if it is damaged.
    pub(super) lease: Option<Lease>,
    /// How old it is, by the bucket's clock alone.
    pub(super) age: Duration,
}

/// What the bucket holds, as far as is known here.
#[derive(Debug)]
enum State {
    Unknown,
    /// Nothing that counts; the version that does not, if there is one.
    Free(Option<ETag>),
    Ours {
        etag: ETag,
        since: SystemTime,
        renew_at: Instant,
        until: Instant,
    },
    Others {
        etag: ETag,
        lease: Lease,
        until: Instant,
    },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Somebody works in it; until then, if no other sign comes.
    wanted_until: Option<Instant>,
    /// Nothing was changed: a project file was opened.
    only_opened: bool,
    /// Somebody wants to know who has it.
    looks: bool,
    /// A request failed: what was written may be there or not, and is looked at before the next write.
    unsure: bool,
    looked_at: Option<Instant>,
    /// After a failure.
    not_before: Option<Instant>,
    /// A request is under way.
    asking: bool,
    /// The holder of whom the log has told that the project cannot be changed here.
    told: Option<String>,
}

impl Entry {
    fn is_wanted(&self, now: Instant) -> bool {
        self.wanted_until.is_some_and(|end| now < end)
    }
}

/// The leases of one mount.
#[derive(Debug)]
pub(super) struct Table {
    rules: Rules,
    projects: HashMap<String, Entry>,
    /// The projects that were opened lately for the first time.
    opened: VecDeque<(Instant, String)>,
    ending: bool,
}

impl Table {
    pub(super) fn new(rules: Rules) -> Table {
        Table {
            rules,
            projects: HashMap::new(),
            opened: VecDeque::new(),
            ending: false,
        }
    }

    /// Somebody changes something in a project. Returns whether there is anything to be asked now.
    pub(super) fn note_change(&mut self, project: &str, now: Instant) -> bool {
        let wanted = self.wanted(now);
        let hold = self.rules.hold();
        let Some(entry) = self.entry(project) else {
            return false;
        };
        if !entry.is_wanted(now) && wanted >= MOST_WANTED {
            return false;
        }
        entry.wanted_until = Some(now + hold);
        entry.only_opened = false;
        self.is_due(project, now)
    }

    /// Somebody opens a file in a project to read it, which may be that of the project itself. Returns
    /// whether there is anything to be asked now.
    pub(super) fn note_open(&mut self, project: &str, is_project: bool, now: Instant) -> bool {
        if !self.projects.contains_key(project) && self.searches(project, now) {
            return false;
        }
        let wanted = self.wanted(now);
        let hold = self.rules.hold();
        let is_stale = !self.is_known(project, now);
        let Some(entry) = self.entry(project) else {
            return false;
        };
        entry.looks |= is_stale && !entry.asking;
        let works = entry.is_wanted(now);
        if works || (is_project && wanted < MOST_WANTED) {
            entry.wanted_until = Some(now + hold);
            entry.only_opened |= !works;
        }
        self.is_due(project, now)
    }

    /// Counts a project that is opened for the first time; true if they are being searched. Those that
    /// came before are part of it.
    fn searches(&mut self, project: &str, now: Instant) -> bool {
        let is_late = |at: Instant| now.saturating_duration_since(at) < OPENED_WITHIN;
        self.opened.retain(|(at, _)| is_late(*at));
        if self.opened.len() < MOST_OPENED {
            self.opened.push_back((now, project.to_owned()));
            return false;
        }
        for (_, project) in &self.opened {
            if let Some(entry) = self.projects.get_mut(project)
                && entry.only_opened
            {
                entry.wanted_until = None;
                entry.looks = false;
            }
        }
        true
    }

    /// Somebody asks who has a project. Returns whether the bucket has to be asked.
    pub(super) fn note_question(&mut self, project: &str, now: Instant) -> bool {
        let is_stale = !self.is_known(project, now);
        if let Some(entry) = self.entry(project) {
            entry.looks |= is_stale && !entry.asking;
        }
        is_stale
    }

    fn wanted(&self, now: Instant) -> usize {
        let entries = self.projects.values();
        entries.filter(|entry| entry.is_wanted(now)).count()
    }

    /// Returns what is known of a project, made anew if there is room.
    fn entry(&mut self, project: &str) -> Option<&mut Entry> {
        if !self.projects.contains_key(project) {
            if self.projects.len() >= MOST_KNOWN {
                self.projects.retain(|_, entry| {
                    let is_ours = matches!(entry.state, State::Ours { .. });
                    is_ours || entry.asking || entry.wanted_until.is_some()
                });
            }
            if self.projects.len() >= MOST_KNOWN {
                return None;
            }
        }
        let unknown = || Entry {
            state: State::Unknown,
            wanted_until: None,
            only_opened: false,
            looks: false,
            unsure: false,
            looked_at: None,
            not_before: None,
            asking: false,
            told: None,
        };
        let entry = self.projects.entry(project.to_owned());
        Some(entry.or_insert_with(unknown))
    }

    /// Whether who has a project was looked at lately, or it is ours.
    pub(super) fn is_known(&self, project: &str, now: Instant) -> bool {
        self.projects.get(project).is_some_and(|entry| {
            let fresh = self.rules.fresh();
            let looked = entry.looked_at.is_some_and(|at| now < at + fresh);
            looked || matches!(entry.state, State::Ours { until, .. } if now < until)
        })
    }

    /// Whether the bucket was asked in vain a moment ago.
    pub(super) fn has_failed(&self, project: &str, now: Instant) -> bool {
        let entry = self.projects.get(project);
        let not_before = entry.and_then(|entry| entry.not_before);
        not_before.is_some_and(|begin| now < begin)
    }

    /// Returns the projects that are worked in and of which there was no sign for a while.
    pub(super) fn quiet(&self, now: Instant) -> Vec<String> {
        let quiet_for = self.rules.hold() - self.rules.ttl / 3;
        let is_quiet = |entry: &Entry| {
            let end = entry.wanted_until;
            end.is_some_and(|end| now + quiet_for >= end && !self.ending)
        };
        let quiet = self.projects.iter().filter(|(_, entry)| is_quiet(entry));
        quiet.map(|(project, _)| project.clone()).collect()
    }

    /// There is a sign that a project is still worked in.
    pub(super) fn keep(&mut self, project: &str, now: Instant) {
        let hold = self.rules.hold();
        if let Some(entry) = self.projects.get_mut(project) {
            entry.wanted_until = Some(now + hold);
        }
    }

    /// Everything is given back from now on, and nothing is taken.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Whether nothing is held, and nothing under way.
    pub(super) fn is_settled(&self) -> bool {
        let mut entries = self.projects.values();
        entries.all(|entry| !entry.asking && !matches!(entry.state, State::Ours { .. }))
    }

    /// What is to be done about a project next, and when.
    fn plan(&self, entry: &Entry, now: Instant) -> Option<(Instant, Step)> {
        if entry.asking {
            return None;
        }
        let wanted = entry.is_wanted(now);
        let again = entry
            .looked_at
            .map_or(now, |at| at + self.rules.heartbeat());
        let takes = wanted && self.rules.takes;
        let (at, step) = match &entry.state {
            State::Ours { etag, .. } if self.ending || !wanted => {
                return Some((now, Step::LetGo(etag.clone())));
            }
            _ if self.ending => return None,
            _ if wanted && entry.unsure => (now, Step::Look),
            State::Ours {
                etag,
                since,
                renew_at,
                ..
            } => {
                let end = entry.wanted_until.unwrap_or(now);
                // At its end it is looked at whether anybody works there.
                ((*renew_at).min(end), Step::Renew(etag.clone(), *since))
            }
            State::Free(None) if takes => (now, Step::Take(WriteCondition::IfAbsent)),
            State::Free(Some(etag)) if takes => {
                (now, Step::Take(WriteCondition::IfMatch(etag.clone())))
            }
            State::Others { etag, until, .. } if takes && *until <= now => {
                (now, Step::Take(WriteCondition::IfMatch(etag.clone())))
            }
            State::Unknown if wanted || entry.looks => (now, Step::Look),
            State::Free(_) | State::Others { .. } if entry.looks => (now, Step::Look),
            State::Others { until, .. } if takes => (again.min(*until), Step::Look),
            State::Free(_) | State::Others { .. } if wanted => (again, Step::Look),
            State::Unknown | State::Free(_) | State::Others { .. } => return None,
        };
        let at = entry.not_before.map_or(at, |begin| begin.max(at));
        Some((at, step))
    }

    fn is_due(&self, project: &str, now: Instant) -> bool {
        let plan = self
            .projects
            .get(project)
            .map(|entry| self.plan(entry, now));
        plan.flatten().is_some_and(|(at, _)| at <= now)
    }

    /// Returns what is to be done now; each step counts as under way until it is answered.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(String, Step)> {
        let mut due = Vec::new();
        for entry in self.projects.values_mut() {
            entry.wanted_until = entry.wanted_until.filter(|end| now < *end);
        }
        for (project, entry) in &self.projects {
            if let Some((at, step)) = self.plan(entry, now)
                && at <= now
            {
                due.push((project.clone(), step));
            }
        }
        for (project, _) in &due {
            if let Some(entry) = self.projects.get_mut(project) {
                entry.asking = true;
            }
        }
        due
    }

    /// Returns when there is something to be done next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let plans = self.projects.values().map(|entry| self.plan(entry, now));
        plans.flatten().map(|(at, _)| at).min()
    }

    /// Takes what came of a step. Returns what the log is to tell of it.
    pub(super) fn answered(
        &mut self,
        project: &str,
        answer: Answer,
        now: Instant,
    ) -> Option<String> {
        let rules = &self.rules;
        let entry = self.projects.get_mut(project)?;
        entry.asking = false;
        entry.unsure = matches!(answer, Answer::Failed);
        entry.not_before = None;
        match answer {
            Answer::Nothing => {
                (entry.looked_at, entry.looks) = (Some(now), false);
                entry.state = State::Free(None);
            }
            Answer::Found(found) => {
                (entry.looked_at, entry.looks) = (Some(now), false);
                return found_by(rules, entry, found, now);
            }
            Answer::Held(etag, since, begun) => {
                let was_ours = matches!(entry.state, State::Ours { .. });
                entry.state = State::Ours {
                    etag,
                    since,
                    renew_at: begun + rules.heartbeat(),
                    until: begun + rules.ttl,
                };
                return (!was_ours).then(|| "its lease is held by this mount".to_owned());
            }
            Answer::Lost => entry.state = State::Unknown,
            Answer::Refused => {
                entry.state = State::Unknown;
                entry.not_before = Some(now + rules.hold());
            }
            Answer::LetGo => {
                entry.state = State::Unknown;
                if !entry.is_wanted(now) && !entry.looks {
                    self.projects.remove(project);
                }
            }
            Answer::Failed => {
                entry.looks = false;
                entry.not_before = Some(now + rules.fresh());
            }
        }
        None
    }

    /// Returns who else has a project.
    pub(super) fn others(&self, project: &str, now: Instant) -> Option<&Lease> {
        match &self.projects.get(project)?.state {
            State::Others { lease, until, .. } if now < *until => Some(lease),
            _ => None,
        }
    }

    /// Whether somebody else has a project, as far as the bucket was not asked about it in vain since.
    pub(super) fn is_taken(&self, project: &str, now: Instant) -> bool {
        let entry = self.projects.get(project);
        let answered = entry.is_some_and(|entry| entry.not_before.is_none());
        answered && self.others(project, now).is_some()
    }

    /// Returns who else has a project, once for each holder.
    pub(super) fn tell_once(&mut self, project: &str, now: Instant) -> Option<Lease> {
        let lease = self.others(project, now)?.clone();
        let entry = self.projects.get_mut(project)?;
        let is_told = entry.told.as_ref() == Some(&lease.id);
        entry.told = Some(lease.id.clone());
        (!is_told).then_some(lease)
    }

    /// Returns the leases that count, ordered by project: since when it is ours, or whose it is.
    pub(super) fn all(&self, now: Instant) -> Vec<(String, Result<SystemTime, Lease>)> {
        let counting = self.projects.iter().filter_map(|(project, entry)| {
            let whose = match &entry.state {
                State::Ours { since, until, .. } if now < *until => Ok(*since),
                State::Others { lease, until, .. } if now < *until => Err(lease.clone()),
                _ => return None,
            };
            Some((project.clone(), whose))
        });
        let mut all: Vec<_> = counting.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

/// A lease was found: ours of a former life or of a write whose answer was lost, or another's.
fn found_by(rules: &Rules, entry: &mut Entry, found: Found, now: Instant) -> Option<String> {
    let Found { etag, lease, age } = found;
    let Some(lease) = lease else {
        let free = State::Free(Some(etag));
        let is_news = !matches!(
            std::mem::replace(&mut entry.state, free),
            State::Free(Some(_))
        );
        return is_news.then(|| "its lease is damaged, and counts for nothing".to_owned());
    };
    if lease.id == rules.id {
        entry.state = State::Ours {
            etag,
            since: lease.since,
            renew_at: now + rules.heartbeat().saturating_sub(age),
            until: now + lease.ttl.saturating_sub(age),
        };
        return None;
    }
    let mut until = now + (lease.ttl + ROUNDING).saturating_sub(age);
    let mut is_news = now < until;
    if let State::Others {
        etag: known,
        lease: before,
        until: end,
    } = &entry.state
    {
        is_news &= before.id != lease.id;
        // Not renewed since it was last looked at: it ends then, also if its age is not told.
        if *known == etag {
            until = until.min(*end);
        }
    }
    let text = is_news.then(|| lease.to_string());
    entry.state = State::Others { etag, lease, until };
    text
}

#[cfg(test)]
mod tests;
