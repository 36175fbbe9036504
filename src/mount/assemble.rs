//! From settings to the running parts. The only place that knows all of them.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::alerts::{self, Alerts};
use super::confirmations::Confirmations;
use super::outstanding::{self, Outstanding};
use super::share::{Addresses, Sharing};
use super::stores::{Stores, make_cache, make_stores};
use super::{MountError, Parts, Service, directories, leases, pins, queue, r2_store, undo, verify};
use crate::cache::Cache;
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Backend, Config, MountOptions};
use crate::control::cache::{Cached, Filled, PinEntry};
use crate::control::queue::{ConflictEntry, OrphanEntry, Queue};
use crate::control::share::{Refreshed, Shared};
use crate::control::trash::{Restored, Trash};
use crate::control::verify::Verified;
use crate::control::{
    CacheStatus, OperationsStatus, ReadStatus, Refusal, RefusalCode, Report, StatusSource,
    UploadStatus, selects,
};
use crate::fs::pins::Keeper;
use crate::fs::{Fs, FsOptions, FsParts, NAMES_IN_MEMORY, SnapshotOptions};
use crate::fuse::{DeviceRegistrar, Fuse};
use crate::metrics::{FileOperations, Operations, Requests};
use crate::staging::{JournalError, Seq, Staging};
use crate::store::Key;
use crate::uploader::{UploadOptions, Uploader};

/// How often those who wait for the queue look at it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Makes the parts of a mount.
pub(super) fn assemble(
    config: &Config,
    options: &MountOptions,
    mountpoint: &Path,
    runtime: &Handle,
) -> Result<Parts<Fuse>, MountError> {
    let clock: SharedClock = Arc::new(SystemClock);
    let operations = Arc::new(Operations::default());
    let Stores {
        store,
        for_uploads,
        local_copies,
        may_write,
        warnings,
    } = make_stores(config, options, &operations, &clock, runtime)?;
    let (staging, replay) = directories::open_staging(config, clock.clone())?;
    let cache = make_cache(config, store.clone(), clock.clone(), runtime)?;
    let ownership = options.ownership;
    let fs_options = FsOptions {
        collections: config.collections.clone(),
        trash_collections: config.trash_collections.clone(),
        trash_age: config.trash_age,
        delete_limit: config.delete_limit,
        samples_dir: config.samples_dir.clone(),
        list_ttl: config.list_ttl,
        names_in_memory: NAMES_IN_MEMORY,
        request_deadline: config.request_deadline,
        warm_bytes: config.warm_bytes,
        mountpoint: mountpoint.to_owned(),
        snapshots: SnapshotOptions {
            quiet: config.snapshot_quiet,
            longest: config.snapshot_longest,
        },
        uid: ownership.uid.unwrap_or(rustix::process::geteuid().as_raw()),
        gid: ownership.gid.unwrap_or(rustix::process::getegid().as_raw()),
        umask: ownership.umask.unwrap_or(0o022),
    };
    let parts = FsParts {
        store: store.clone(),
        cache: cache.clone(),
        staging: staging.clone(),
        local_copies,
        clock: clock.clone(),
        runtime: runtime.clone(),
    };
    let fs = Fs::new(fs_options, parts, replay);
    let writes = may_write && !options.read_only;
    if let Some(leases) = leases::options(config, &staging, writes)? {
        // Of the bucket alone: a local copy of a lease says nothing.
        fs.attach_leases(leases, for_uploads.clone());
    }
    let keeper = Keeper::open(fs.clone(), &config.staging_dir)
        .map_err(MountError::start("the list of pins cannot be read"))?;
    let upload_options = UploadOptions {
        write_back: config.write_back,
        concurrency: config.upload_concurrency,
        limit_bytes_per_second: config.upload_bytes_per_second,
        trash_collections: config.trash_collections.clone(),
        temporary_names: config.temporary_names.clone(),
        temporary_age: config.temporary_age,
        destination: match &config.backend {
            Backend::R2(_) => "R2".to_owned(),
            Backend::Local { output_dir } => output_dir.display().to_string(),
        },
        ..UploadOptions::default()
    };
    let sharing = match &config.backend {
        Backend::R2(settings) => Some(Sharing {
            settings: settings.clone(),
            signer: Arc::new(Addresses(r2_store(settings, config))),
            bucket: for_uploads.clone(),
            staging: staging.clone(),
        }),
        Backend::Local { .. } => None,
    };
    if let Some(sharing) = &sharing {
        fs.attach_signer(sharing.signer.clone());
    }
    let confirm = Arc::new(Confirmations(fs.clone()));
    let uploader = Uploader::start(
        upload_options,
        staging.clone(),
        for_uploads,
        confirm,
        clock,
        runtime,
    );
    let passthrough = Arc::new(AtomicBool::new(config.passthrough));
    let file_operations = FileOperations::default();
    let service = Running {
        fs: fs.clone(),
        cache,
        staging,
        uploader,
        operations,
        file_operations: file_operations.clone(),
        passthrough: passthrough.clone(),
        sharing,
        keeper: Arc::new(keeper),
        alerts: Arc::new(Alerts::new(config.alert_cache_bytes, may_write)),
        read_only: options.read_only || !may_write,
        started: Instant::now(),
    };
    let filesystem = Fuse::new(fs, runtime.clone(), passthrough, file_operations);
    Ok(Parts {
        filesystem,
        read_only: !may_write,
        service: Arc::new(service),
        warnings,
    })
}

/// What runs beside the session.
struct Running {
    fs: Arc<Fs>,
    cache: Arc<Cache>,
    staging: Arc<Staging>,
    uploader: Arc<Uploader>,
    operations: Arc<Operations>,
    file_operations: FileOperations,
    /// Whether the kernel has passthrough, known when it has mounted.
    passthrough: Arc<AtomicBool>,
    sharing: Option<Sharing>,
    keeper: Arc<Keeper>,
    alerts: Arc<Alerts>,
    read_only: bool,
    started: Instant,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

#[async_trait]
impl StatusSource for Running {
    fn report(&self) -> Report {
        self.fs.settle_closed();
        let uploads = self.uploader.status();
        let files = self.fs.stats();
        let outstanding = self.outstanding(&[]);
        let queued = outstanding.files;
        let online = self.uploader.reachable() && self.fs.is_reachable();
        let shutdown =
            outstanding.shutdown(online, |files, bytes| self.uploader.time_for(files, bytes));
        let uploads = UploadStatus {
            queued,
            queued_bytes: outstanding.bytes,
            paused: outstanding.paused,
            active: uploads.active as u64,
            failed: uploads.failed as u64,
            parked: uploads.parked as u64,
            held: uploads.held as u64,
            local: uploads.local as u64,
            oldest_seconds: (queued > 0).then_some(uploads.oldest_seconds),
            done: uploads.done,
        };
        let stats = self.cache.stats();
        let opens = stats.hits + stats.misses;
        let cache = CacheStatus {
            bytes: stats.bytes,
            max_bytes: stats.max_bytes,
            files: stats.files,
            hits: stats.hits,
            misses: stats.misses,
            hit_rate: (opens > 0).then(|| stats.hits as f64 / opens as f64),
        };
        let counts = self.operations.counts();
        let failed_writes = self.operations.requests().failed_writes();
        let mut report = Report {
            online,
            read_only: self.read_only,
            safe_to_shut_down: shutdown.files == 0,
            shutdown,
            failure: self.staging.journal().failure(),
            alerts: Vec::new(),
            cache,
            warming: pins::warming_status(&self.fs.warming()),
            uploads,
            reads: ReadStatus {
                requests: files.reads,
                passthrough_opens: files.passthrough_opens,
            },
            open_files: files.unsealed,
            conflicts: self.staging.journal().conflicts().len() as u64,
            orphans: queue::orphan_status(&self.fs, self.staging.dir()),
            leases: leases::status(&self.fs),
            hidden: self.fs.hidden_keys(),
            trash: self.fs.trash_size().map(undo::trash_status),
            operations: OperationsStatus {
                class_a: counts.class_a,
                class_b: counts.class_b,
                free: counts.free,
                received_bytes: counts.received_bytes,
                sent_bytes: counts.sent_bytes,
                usd_per_month: counts.usd_per_month(self.started.elapsed().as_secs_f64()),
            },
        };
        let now = Instant::now();
        self.alerts.note(failed_writes, now);
        report.alerts = self.alerts.of(&report, now);
        report
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.operations.requests().clone())
    }

    fn file_operations(&self) -> Option<FileOperations> {
        Some(self.file_operations.clone())
    }

    fn queue(&self) -> Queue {
        queue::list(&self.fs, &self.staging)
    }

    fn conflicts(&self) -> Vec<ConflictEntry> {
        queue::conflicts(&self.staging)
    }

    fn retry(&self, paths: &[String]) -> u64 {
        let journal = self.staging.journal();
        let mut retried = 0;
        for record in journal.records() {
            if record.parked.is_some() && selects(paths, &record.key) {
                match journal.unpark(&record.key) {
                    Ok(unparked) => retried += u64::from(unparked),
                    Err(error) => log::error!("{}: {error}", record.key),
                }
            }
        }
        retried
    }

    fn pause(&self) -> Result<(), Refusal> {
        log::info!("uploads are paused until they are resumed");
        self.staging.journal().set_paused(true).map_err(not_kept)
    }

    fn resume(&self) -> Result<(), Refusal> {
        log::info!("uploads are resumed");
        self.staging.journal().set_paused(false).map_err(not_kept)
    }

    fn flush(&self, paths: &[String]) -> Result<u64, Refusal> {
        let waiting = self.waiting(paths);
        if self.staging.journal().is_paused() && !waiting.is_empty() {
            return Err(paused());
        }
        let count = waiting.len() as u64;
        self.uploader.flush(waiting.into_iter().map(|(key, _)| key));
        Ok(count)
    }

    fn confirm(&self, paths: &[String]) -> Result<u64, Refusal> {
        let confirmed = self.fs.confirm_deletes(|key| selects(paths, key));
        confirmed.map(|count| count as u64).map_err(not_kept)
    }

    async fn discard(&self, paths: &[String]) -> Restored {
        undo::discard(&self.fs, paths).await
    }

    fn orphans(&self) -> Vec<OrphanEntry> {
        queue::orphans(&self.fs)
    }

    fn adopt(&self, folder: Option<&str>) -> Result<Restored, String> {
        undo::adopt(&self.fs, folder)
    }

    async fn trash(&self, paths: &[String]) -> Trash {
        undo::list(&self.fs, paths).await
    }

    async fn restore(&self, paths: &[String], at: Option<&str>) -> Result<Restored, String> {
        undo::restore(&self.fs, paths, at).await
    }

    async fn share(&self, path: &str, valid: Duration) -> Result<Shared, Refusal> {
        match &self.sharing {
            Some(sharing) => sharing.share(path, valid).await,
            None => Err(Refusal::new(
                RefusalCode::NotFound,
                "there is no bucket: files in the folder OUTPUT_DIR have no address",
            )),
        }
    }

    async fn refresh(&self, paths: &[String]) -> Refreshed {
        let all = [String::new()];
        let paths = if paths.is_empty() { &all } else { paths };
        let mut refreshed = Refreshed::default();
        for path in paths {
            let (listed, failed) = self.fs.refresh_below(path).await;
            refreshed.listed += listed as u64;
            refreshed.failed += failed as u64;
        }
        refreshed
    }

    async fn verify(&self) -> Verified {
        let (staging, cache) = (self.staging.clone(), self.cache.clone());
        let verified = tokio::task::spawn_blocking(move || verify::all(&staging, &cache));
        verified.await.unwrap_or_default()
    }

    fn cached(&self, paths: &[String]) -> Cached {
        pins::list(&self.cache, &self.keeper, paths)
    }

    async fn pin(&self, paths: &[String]) -> Result<Vec<PinEntry>, Refusal> {
        pins::pin(&self.keeper, paths).await
    }

    async fn unpin(&self, paths: &[String]) -> Result<Vec<String>, Refusal> {
        pins::unpin(&self.keeper, paths).await
    }

    async fn warm(&self, paths: &[String], told: Sender<Filled>) -> Result<Filled, Refusal> {
        pins::warm(&self.keeper, paths, told).await
    }

    async fn sync(&self, paths: &[String]) -> Result<(), Refusal> {
        let _hurry = paths.is_empty().then(|| self.uploader.hurry());
        let mut flushed = HashSet::new();
        loop {
            let left = self.outstanding(paths);
            if left.files == 0 {
                return Ok(());
            }
            if left.paused && left.active == 0 {
                return Err(paused());
            }
            if left.is_stuck() {
                let message = format!(
                    "{} files cannot be uploaded as things are; voicebeatfs queue shows why",
                    left.parked
                );
                return Err(Refusal::new(RefusalCode::Parked, message));
            }
            if !paths.is_empty() {
                // Each state once: what was closed a moment ago is meant as well, and what fails is
                // not to be tried without a pause.
                let mut waiting = self.waiting(paths);
                waiting.retain(|state| flushed.insert(state.clone()));
                self.uploader.flush(waiting.into_iter().map(|(key, _)| key));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn paused() -> Refusal {
    let message = "uploads are paused; voicebeatfs queue resume lets them go on";
    Refusal::new(RefusalCode::Paused, message)
}

fn not_kept(error: JournalError) -> Refusal {
    Refusal::new(RefusalCode::Failed, error.to_string())
}

impl Running {
    /// Returns the records of these paths that may go, each with its state.
    fn waiting(&self, paths: &[String]) -> Vec<(Key, Seq)> {
        let mut waiting = Vec::new();
        let journal = self.staging.journal();
        journal.visit(|record| {
            let may_go = journal.goes(record) && !record.change.is_open();
            if may_go && selects(paths, &record.key) {
                waiting.push((record.key.clone(), record.seq));
            }
        });
        waiting
    }

    fn outstanding(&self, paths: &[String]) -> Outstanding {
        let active = self.uploader.status().active as u64;
        outstanding::outstanding(&self.staging, active, paths)
    }
}

#[async_trait]
impl Service for Running {
    fn mounted(&self, notifier: fuser::Notifier, device: BorrowedFd<'_>) {
        let registrar = match self.passthrough.load(Ordering::Relaxed) {
            true => DeviceRegistrar::new(device)
                .inspect_err(|error| log::warn!("no kernel passthrough: {error}"))
                .ok()
                .map(|registrar| Arc::new(registrar) as _),
            false => None,
        };
        self.fs.attach(Box::new(notifier), registrar);
        self.fs.spawn_release();
        self.fs.spawn_snapshots();
        self.fs.spawn_expiry();
        self.fs.spawn_expansion();
        self.fs.spawn_warming();
        self.fs.spawn_leases();
        self.keeper.spawn();
        let fs = Arc::downgrade(&self.fs);
        let reachable = move || fs.upgrade().is_none_or(|fs| fs.is_reachable());
        self.cache.spawn_housekeeping(Arc::new(reachable));
        let (alerts, operations) = (self.alerts.clone(), self.operations.clone());
        // The runtime ends it.
        tokio::spawn(async move {
            loop {
                alerts.note(operations.requests().failed_writes(), Instant::now());
                tokio::time::sleep(alerts::NOTE_EVERY).await;
            }
        });
    }

    async fn drain(&self) {
        let fs = self.fs.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || fs.settle_open()).await {
            log::error!("settling what was open: {error}");
        }
        let _hurry = self.uploader.hurry();
        // Also what has failed lately: there is no later for it.
        let waiting = self.waiting(&[]).into_iter();
        self.uploader.flush(waiting.map(|(key, _)| key));
        while self.outstanding(&[]).moves() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn stop(&self) {
        self.uploader.stop().await;
        // Now the bucket has all that it will have of what was changed here.
        self.fs.end_leases().await;
        let (fs, cache, staging) = (self.fs.clone(), self.cache.clone(), self.staging.clone());
        let ended = tokio::task::spawn_blocking(move || {
            fs.shutdown();
            cache.shutdown();
            staging.shutdown();
        });
        if let Err(error) = ended.await {
            log::error!("ending: {error}");
        }
    }
}
