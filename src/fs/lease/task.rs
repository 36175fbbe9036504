//! The task that asks the bucket about leases, and writes ours.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;

use super::Leases;
use super::table::{Answer, Found, Step};
use crate::fs::Fs;
use crate::store::lease::{self, Lease, MOST_BYTES};
use crate::store::{
    GetRequest, Key, Md5, ObjectHeaders, Origin, PutRequest, ReadCondition, StoreError,
    StoreResult, WriteCondition,
};

/// How long a step may take. Its answer is then not known, and it is looked at what came of it.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// How long an unmount waits until its leases are given back. They would end by themselves.
const END_LIMIT: Duration = Duration::from_secs(3);

impl Fs {
    /// Starts the task that takes, renews and gives back leases, if there are to be any.
    pub fn spawn_leases(self: &Arc<Self>) {
        let Some(leases) = self.leases.get().cloned() else {
            return;
        };
        let fs = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                let next = {
                    let Some(fs) = fs.upgrade() else { return };
                    if fs.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    fs.keep_leases_in_use(&leases);
                    let now = leases.clock.instant();
                    let mut table = leases.table.lock();
                    for (project, step) in table.due(now) {
                        tokio::spawn(leases.clone().carry_out(project, step));
                    }
                    table.next(now)
                };
                match next {
                    Some(at) => {
                        let _ = tokio::time::timeout_at(at.into(), leases.changed.notified()).await;
                    }
                    None => leases.changed.notified().await,
                }
            }
        });
    }

    /// Gives all leases back. Called when everything was uploaded that will be.
    pub async fn end_leases(&self) {
        let Some(leases) = self.leases.get().filter(|_| self.is_reachable()) else {
            return;
        };
        leases.table.lock().end();
        leases.changed.notify_one();
        let settled = async {
            loop {
                let answered = leases.answered.notified();
                tokio::pin!(answered);
                answered.as_mut().enable();
                if leases.table.lock().is_settled() {
                    return;
                }
                answered.await;
            }
        };
        if tokio::time::timeout(END_LIMIT, settled).await.is_err() {
            log::info!("the leases of projects are left to end by themselves");
        }
    }

    /// Keeps the leases of the projects of which something is open or waits for its upload: whoever
    /// finds a project free is to find it as it was left.
    fn keep_leases_in_use(&self, leases: &Leases) {
        let quiet = leases.table.lock().quiet(leases.clock.instant());
        if quiet.is_empty() {
            return;
        }
        let open: HashSet<String> = {
            let inodes = self.handles.inodes();
            let tree = self.tree.lock();
            let keys = inodes.iter().filter_map(|inode| tree.key(inode.ino));
            keys.filter_map(|key| lease::project_of(key.as_str()))
                .collect()
        };
        for project in quiet {
            let journal = self.journal();
            let waits = || {
                let prefix = format!("{}/", lease::path_of(&project));
                let records = journal.records_below(&prefix);
                records.iter().any(|record| journal.goes(record))
            };
            if open.contains(&project) || waits() {
                let now = leases.clock.instant();
                leases.table.lock().keep(&project, now);
            }
        }
    }
}

impl Leases {
    async fn carry_out(self: Arc<Self>, project: String, step: Step) {
        let answer = match lease::key(&project) {
            Some(key) => self.answer(&project, &key, step).await,
            None => Answer::Refused,
        };
        let now = self.clock.instant();
        let news = self.table.lock().answered(&project, answer, now);
        if let Some(news) = news {
            log::info!("{}: {news}", lease::path_of(&project));
        }
        self.answered.notify_waiters();
        self.changed.notify_one();
    }

    async fn answer(&self, project: &str, key: &Key, step: Step) -> Answer {
        let lets_go = matches!(step, Step::LetGo(_));
        let asked = tokio::time::timeout(STEP_LIMIT, self.send(project, key, step)).await;
        let error = match asked {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => error,
            Err(_) => StoreError::Unavailable {
                message: "no answer in time".into(),
                retry_after: None,
            },
        };
        log::debug!("{key}: {error}");
        match error {
            // It ends by itself.
            _ if lets_go => Answer::LetGo,
            StoreError::PreconditionFailed | StoreError::NotFound => Answer::Lost,
            StoreError::Denied(_) | StoreError::Locked(_) => Answer::Refused,
            _ => Answer::Failed,
        }
    }

    async fn send(&self, project: &str, key: &Key, step: Step) -> StoreResult<Answer> {
        match step {
            Step::Look => self.look(key).await,
            Step::Take(condition) => {
                let since = self.time();
                self.write(project, key, condition, since).await
            }
            Step::Renew(etag, since) => {
                let condition = WriteCondition::IfMatch(etag);
                self.write(project, key, condition, since).await
            }
            Step::LetGo(etag) => {
                // A delete has no condition (R2: api/s3/api), so it is asked before whether it is
                // still ours. What it might remove in between is taken anew at the next renewal.
                let condition = ReadCondition::IfMatch(etag);
                self.store.head(key, condition).await?;
                self.store.delete(key).await?;
                Ok(Answer::LetGo)
            }
        }
    }

    /// Returns the time by the bucket's clock, where that is known.
    fn time(&self) -> SystemTime {
        self.store.time().unwrap_or_else(|| self.clock.now())
    }

    async fn look(&self, key: &Key) -> StoreResult<Answer> {
        let request = GetRequest {
            key: key.clone(),
            range: Some(0..MOST_BYTES),
            condition: ReadCondition::None,
        };
        let response = match self.store.get(request).await {
            Ok(response) if response.info.origin == Origin::Fallback => return Ok(Answer::Nothing),
            Ok(response) => response,
            Err(StoreError::NotFound) => return Ok(Answer::Nothing),
            Err(error) => return Err(error),
        };
        // How old it is, is told by one clock: that of this machine may be off.
        let told_at = self.store.time();
        let written = response.info.last_modified;
        let age = told_at.and_then(|now| now.duration_since(written).ok());
        let etag = response.info.version.etag;
        let chunks: Vec<Bytes> = response.body.try_collect().await?;
        Ok(Answer::Found(Found {
            etag,
            lease: Lease::parse(&chunks.concat()),
            age: age.unwrap_or_default(),
        }))
    }

    async fn write(
        &self,
        project: &str,
        key: &Key,
        condition: WriteCondition,
        since: SystemTime,
    ) -> StoreResult<Answer> {
        // It counts from here on: it may be written at any time until the answer.
        let begun: Instant = self.clock.instant();
        let lease = Lease {
            name: self.options.name.clone(),
            host: self.host.clone(),
            id: self.options.id.clone(),
            since,
            renewed_at: self.time(),
            ttl: self.options.ttl,
        };
        let body = Bytes::from(lease.to_json(project));
        let request = PutRequest {
            key: key.clone(),
            md5: Md5::of(&body),
            body,
            condition,
            headers: ObjectHeaders {
                content_type: "application/json".to_owned(),
                ..ObjectHeaders::default()
            },
        };
        let etag = self.store.put(request).await?;
        Ok(Answer::Held(etag, since, begun))
    }
}
