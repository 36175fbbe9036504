//! Leases of projects: who else works in a project is told, and who works here tells it.
//!
//! Any folder in `projects/` is a project. Whoever changes something in it, or opens its project file,
//! works in it, until nothing of it is open, nothing waits for its upload, and no other sign has come
//! for a while. All that is asked of the bucket is asked by a task of its own: no program waits for it,
//! and without the bucket nothing is refused. Conflict copies remain the guard.

mod table;
mod task;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::table::{Rules, Table};
use super::attr::Ino;
use super::{Fs, LOOKUP_DEADLINE};
use crate::clock::SharedClock;
use crate::error::{FsError, FsResult};
use crate::project::Project;
use crate::store::ObjectStore;
use crate::store::lease::{self, Lease};

/// How leases are held and heeded.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Whether a project that another machine has open cannot be changed here.
    pub refuses: bool,
    /// Whether leases are taken; else they are only looked at.
    pub takes: bool,
    /// What the people here are called.
    pub name: Option<String>,
    /// By which our own leases are known, also after a restart.
    pub id: String,
    /// How long a lease counts without being renewed.
    pub ttl: Duration,
}

/// A lease that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldLease {
    /// The path of the project.
    pub path: String,
    /// Whether it is ours.
    pub is_ours: bool,
    /// What the people are called who hold it.
    pub name: Option<String>,
    /// Their machine.
    pub host: String,
    /// Since when.
    pub since: SystemTime,
}

/// The leases of one mount.
pub(super) struct Leases {
    options: LeaseOptions,
    host: String,
    store: Arc<dyn ObjectStore>,
    clock: SharedClock,
    /// Taken after all other locks.
    table: Mutex<Table>,
    /// There is something to be asked.
    changed: Notify,
    /// Something was answered.
    answered: Notify,
}

impl Leases {
    fn new(options: LeaseOptions, store: Arc<dyn ObjectStore>, clock: SharedClock) -> Leases {
        let rules = Rules {
            id: options.id.clone(),
            ttl: options.ttl,
            takes: options.takes,
        };
        Leases {
            options,
            host: super::conflict::host(),
            store,
            clock,
            table: Mutex::new(Table::new(rules)),
            changed: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// Whether a project cannot be changed here now. The log tells of it once for each holder. That it
    /// is given back is soon found out.
    fn refuses(&self, project: &str) -> bool {
        let now = self.clock.instant();
        let mut table = self.table.lock();
        if !self.options.refuses || !table.is_taken(project, now) {
            return false;
        }
        if table.note_question(project, now) {
            self.changed.notify_one();
        }
        if let Some(lease) = table.tell_once(project, now) {
            let path = lease::path_of(project);
            log::warn!("{path} cannot be changed here: {lease}");
        }
        true
    }

    /// Whether nothing more is to be had about a project for now.
    fn is_answered(&self, project: &str) -> bool {
        let now = self.clock.instant();
        let mut table = self.table.lock();
        !table.note_question(project, now) || table.has_failed(project, now)
    }

    /// Brings what is known of a project up to date, if it is not.
    async fn ask(&self, project: &str) {
        let answered = async {
            loop {
                let answered = self.answered.notified();
                tokio::pin!(answered);
                // Before the look: an answer in between is not missed.
                answered.as_mut().enable();
                if self.is_answered(project) {
                    return;
                }
                self.changed.notify_one();
                answered.await;
            }
        };
        // Who asks is told what is known by then.
        let _ = tokio::time::timeout(LOOKUP_DEADLINE, answered).await;
    }
}

impl Fs {
    /// Has leases taken and heeded.
    pub fn attach_leases(&self, options: LeaseOptions, store: Arc<dyn ObjectStore>) {
        let leases = Leases::new(options, store, self.clock.clone());
        let _ = self.leases.set(Arc::new(leases));
    }

    /// Returns the leases that count, as far as is known here.
    pub fn leases(&self) -> Vec<HeldLease> {
        let Some(leases) = self.leases.get() else {
            return Vec::new();
        };
        let all = leases.table.lock().all(self.clock.instant());
        let held = |(project, whose): (String, Result<SystemTime, Lease>)| {
            let path = lease::path_of(&project);
            match whose {
                Ok(since) => HeldLease {
                    path,
                    is_ours: true,
                    name: leases.options.name.clone(),
                    host: leases.host.clone(),
                    since,
                },
                Err(lease) => HeldLease {
                    path,
                    is_ours: false,
                    name: lease.name,
                    host: lease.host,
                    since: lease.since,
                },
            }
        };
        all.into_iter().map(held).collect()
    }

    /// A program is about to change what lies at a path; a folder's ends in `/`. What stays on this disk
    /// is nobody else's matter.
    ///
    /// # Errors
    /// `ReadOnly` if another machine has the project open and that counts here.
    fn enter_project(&self, path: impl FnOnce() -> Option<String>) -> FsResult<()> {
        let Some(leases) = self.leases.get() else {
            return Ok(());
        };
        let path = path().filter(|path| !self.journal().is_side_file(path));
        let Some(project) = path.and_then(|path| lease::project_of(&path)) else {
            return Ok(());
        };
        if self.is_reachable() && leases.refuses(&project) {
            return Err(FsError::ReadOnly("another machine has the project open"));
        }
        let now = self.clock.instant();
        if leases.table.lock().note_change(&project, now) {
            leases.changed.notify_one();
        }
        Ok(())
    }

    /// A program is about to change the file or folder that an inode is.
    ///
    /// # Errors
    /// `ReadOnly` if another machine has its project open and that counts here.
    pub(super) fn enter_project_of(&self, ino: Ino) -> FsResult<()> {
        self.enter_project(|| Some(self.tree.lock().key(ino)?.as_str().to_owned()))
    }

    /// A program is about to make, remove or rename the file of that name.
    ///
    /// # Errors
    /// As [`Fs::enter_project_of`].
    pub(super) fn enter_project_at(&self, (parent, name): (Ino, &OsStr)) -> FsResult<()> {
        self.enter_project(|| {
            let folder = self.tree.lock().path(parent)?;
            Some(format!("{folder}{}", name.to_str()?))
        })
    }

    /// A program is about to make, remove or rename the folder of that name.
    ///
    /// # Errors
    /// As [`Fs::enter_project_of`].
    pub(super) fn enter_project_folder(&self, (parent, name): (Ino, &OsStr)) -> FsResult<()> {
        self.enter_project(|| {
            let folder = self.tree.lock().path(parent)?;
            Some(format!("{folder}{}/", name.to_str()?))
        })
    }

    /// A program opens a file to read it.
    pub(super) fn look_into_project(&self, ino: Ino) {
        let Some(leases) = self.leases.get() else {
            return;
        };
        let key = self.tree.lock().key(ino);
        let key = key.filter(|key| !self.journal().is_side_file(key.as_str()));
        let Some(key) = key else { return };
        let Some(project) = lease::project_of(key.as_str()) else {
            return;
        };
        let is_project = Project::of(key.as_str()).is_some();
        let now = self.clock.instant();
        if leases.table.lock().note_open(&project, is_project, now) {
            leases.changed.notify_one();
        }
    }

    /// Returns who else has the project open that a file or folder belongs to. Asks the bucket if that
    /// is not known.
    ///
    /// # Errors
    /// `NoAttribute` if nobody has; `DeadlineExceeded` if the bucket cannot be asked.
    pub(super) async fn lease_xattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let leases = self.leases.get().ok_or(FsError::NoAttribute)?;
        let key = self.tree.lock().key(ino);
        let project = key.and_then(|key| lease::project_of(key.as_str()));
        let project = project.ok_or(FsError::NoAttribute)?;
        if self.is_reachable() {
            leases.ask(&project).await;
        }
        let now = self.clock.instant();
        let table = leases.table.lock();
        match table.others(&project, now) {
            Some(lease) => Ok(lease.to_string().into()),
            None if table.is_known(&project, now) => Err(FsError::NoAttribute),
            None => Err(FsError::DeadlineExceeded),
        }
    }
}
