//! The metrics of a mount in Prometheus' text format: every name and what it means.
//!
//! They are made from the status document when somebody asks, so that both always agree.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{Counter, Gauge, Opts, Registry, TextEncoder};

use super::{MountIdentity, Report, StatusSource};

/// What every name begins with.
const PREFIX: &str = "voicebeatfs";

/// The metrics of one mount.
pub struct Exposition {
    identity: MountIdentity,
    source: Arc<dyn StatusSource>,
}

impl Exposition {
    /// Returns the metrics of the mount `identity`.
    pub fn new(identity: MountIdentity, source: Arc<dyn StatusSource>) -> Exposition {
        Exposition { identity, source }
    }

    /// Returns them as they are now.
    pub fn text(&self) -> String {
        match self.try_text() {
            Ok(text) => text,
            Err(error) => {
                log::error!("metrics: {error}");
                String::new()
            }
        }
    }

    fn try_text(&self) -> prometheus::Result<String> {
        // Several mounts of one machine are told apart, also in the files of a node exporter.
        let mountpoint = self.identity.mountpoint.display().to_string();
        let labels = HashMap::from([("mountpoint".to_string(), mountpoint)]);
        let page = Page(Registry::new_custom(Some(PREFIX.into()), Some(labels))?);
        let report = self.source.report();
        self.add_identity(&page)?;
        add_state(&page, &report)?;
        add_cache(&page, &report)?;
        add_uploads(&page, &report)?;
        add_requests(&page, &report)?;
        if let Some(requests) = self.source.requests() {
            page.counter(
                "upload_failures_total",
                "Requests of uploads that failed; each upload is tried again for ever, or parked.",
                requests.failed_writes(),
            )?;
            page.0.register(Box::new(requests))?;
        }
        if let Some(operations) = self.source.file_operations() {
            page.0.register(Box::new(operations))?;
        }
        TextEncoder::new().encode_to_string(&page.0.gather())
    }

    fn add_identity(&self, page: &Page) -> prometheus::Result<()> {
        let MountIdentity {
            version,
            source,
            backend,
            ..
        } = &self.identity;
        let opts = Opts::new("info", "What is mounted, by which version; always 1.")
            .const_label("version", version)
            .const_label("source", source)
            .const_label("backend", backend);
        page.add(Gauge::with_opts(opts)?, |gauge| gauge.set(1.0))
    }
}

/// The metrics collected so far.
struct Page(Registry);

impl Page {
    fn add<M: Collector + Clone + 'static>(
        &self,
        metric: M,
        set: impl FnOnce(&M),
    ) -> prometheus::Result<()> {
        set(&metric);
        self.0.register(Box::new(metric))
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        self.add(Gauge::new(name, help)?, |gauge| gauge.set(value))
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = Counter::new(name, help)?;
        self.add(counter, |counter| counter.inc_by(value as f64))
    }

    fn flag(&self, name: &str, help: &str, is_set: bool) -> prometheus::Result<()> {
        self.gauge(name, help, f64::from(u8::from(is_set)))
    }
}

fn add_state(page: &Page, report: &Report) -> prometheus::Result<()> {
    page.flag(
        "online",
        "Whether the bucket answered when it was last asked.",
        report.online,
    )?;
    page.flag(
        "safe_to_shut_down",
        "Whether everything is in the bucket.",
        report.safe_to_shut_down,
    )?;
    page.flag(
        "journal_failed",
        "Whether the staging disk has failed, so that nothing is accepted any more.",
        report.failure.is_some(),
    )?;
    page.gauge(
        "alerts",
        "How many alerts the status shows.",
        report.alerts.len() as f64,
    )?;
    page.gauge(
        "conflicts",
        "Conflict copies that nobody has dealt with.",
        report.conflicts as f64,
    )?;
    page.gauge(
        "open_files",
        "Files that are open for writing, or not sealed yet.",
        report.open_files as f64,
    )?;
    let held = report.leases.iter().filter(|lease| lease.held).count();
    page.gauge(
        "leases_held",
        "Projects whose lease this mount holds.",
        held as f64,
    )?;
    page.gauge(
        "leases_of_others",
        "Projects in use here that another machine has open.",
        (report.leases.len() - held) as f64,
    )?;
    page.counter(
        "reads_total",
        "Reads that the kernel sent here; those from its own pages and by passthrough are not among \
         them.",
        report.reads.requests,
    )?;
    page.counter(
        "passthrough_opens_total",
        "Opens whose reads the kernel serves by passthrough.",
        report.reads.passthrough_opens,
    )?;
    let Some(trash) = report.trash else {
        return Ok(());
    };
    page.gauge(
        "trash_objects",
        "Objects in the bucket's trash when it was last looked at.",
        trash.objects as f64,
    )?;
    page.gauge("trash_bytes", "Their bytes.", trash.bytes as f64)
}

fn add_cache(page: &Page, report: &Report) -> prometheus::Result<()> {
    let cache = &report.cache;
    page.gauge(
        "cache_bytes",
        "Bytes that the cache holds.",
        cache.bytes as f64,
    )?;
    page.gauge(
        "cache_max_bytes",
        "The most that it may hold.",
        cache.max_bytes as f64,
    )?;
    page.gauge(
        "cache_files",
        "Object versions in the cache, whole and partial.",
        cache.files as f64,
    )?;
    page.counter(
        "cache_hits_total",
        "Opens that needed no bytes from the bucket.",
        cache.hits,
    )?;
    page.counter("cache_misses_total", "Opens that did.", cache.misses)?;
    match cache.hit_rate {
        Some(rate) => page.gauge(
            "cache_hit_ratio",
            "Hits by opens since the mount; absent before the first open.",
            rate,
        ),
        None => Ok(()),
    }
}

fn add_uploads(page: &Page, report: &Report) -> prometheus::Result<()> {
    let uploads = &report.uploads;
    for (name, help, value) in [
        (
            "uploads_queued",
            "Names that are not in the bucket as they are here.",
            uploads.queued,
        ),
        ("uploads_queued_bytes", "Their bytes.", uploads.queued_bytes),
        ("uploads_active", "Uploads on their way.", uploads.active),
        (
            "uploads_retrying",
            "Uploads that failed and are tried again by themselves.",
            uploads.failed,
        ),
        (
            "uploads_parked",
            "Files that cannot be uploaded as things are.",
            uploads.parked,
        ),
        (
            "uploads_held",
            "Deletes that wait until they are confirmed.",
            uploads.held,
        ),
        (
            "uploads_local",
            "Files and folders whose names keep them on this disk.",
            uploads.local,
        ),
        (
            "uploads_oldest_seconds",
            "Age of the oldest entry of the queue; 0 if it is empty.",
            uploads.oldest_seconds.unwrap_or(0),
        ),
    ] {
        page.gauge(name, help, value as f64)?;
    }
    page.flag(
        "uploads_paused",
        "Whether uploads are paused.",
        uploads.paused,
    )?;
    page.counter(
        "uploads_done_total",
        "Files uploaded since the mount.",
        uploads.done,
    )
}

fn add_requests(page: &Page, report: &Report) -> prometheus::Result<()> {
    let operations = &report.operations;
    for (class, count) in [
        ("a", operations.class_a),
        ("b", operations.class_b),
        ("free", operations.free),
    ] {
        let opts = Opts::new(
            "operations_total",
            "Requests to the bucket, by R2's price classes.",
        )
        .const_label("class", class);
        page.add(Counter::with_opts(opts)?, |counter| {
            counter.inc_by(count as f64);
        })?;
    }
    page.counter(
        "received_bytes_total",
        "Bytes of objects that came from the bucket.",
        operations.received_bytes,
    )?;
    page.counter(
        "sent_bytes_total",
        "Bytes of objects that the bucket has taken.",
        operations.sent_bytes,
    )?;
    page.gauge(
        "usd_per_month",
        "What a month costs if it goes on as since the mount.",
        operations.usd_per_month,
    )
}
