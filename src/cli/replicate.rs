//! Many files into the bucket, with a bar: what `migrate` and `setup --upload-samples` share.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;

use super::progress::Bar;
use super::status::size_text;
use super::{Failure, say};
use crate::clock::SystemClock;
use crate::config::{Backend, Config, R2Settings};
use crate::mount::r2_store;
use crate::store::explain::explain;
use crate::store::local::LocalStore;
use crate::store::replicate::{BegunCopies, Outcome, Replica, ReplicateError};
use crate::store::retry::{RetryPolicy, RetryStore, SystemSleeper};
use crate::store::{Key, ListRequest, ListedObject, ObjectStore, StoreResult};

/// Files that are on their way at once; each holds a part of at least 16 MiB in memory.
const FILES_AT_ONCE: usize = 4;
/// How often the bar is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// How many names of each kind are told to people.
const NAMES_SHOWN: usize = 20;

/// What became of all files; the document of `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether nothing was sent.
    pub(super) dry_run: bool,
    /// In the bucket now; with `dry_run`, what would be sent.
    pub(super) uploaded: Vec<String>,
    /// Bytes of those.
    pub(super) uploaded_bytes: u64,
    /// In the bucket before, with the same bytes.
    pub(super) same: Vec<String>,
    /// The bucket has something else there, which was left alone.
    pub(super) differs: Vec<String>,
    /// Not looked at, and why.
    pub(super) skipped: Vec<Told>,
    /// Not in the bucket, and why.
    pub(super) failed: Vec<Told>,
    /// Local files that were deleted after another look at the bucket.
    pub(super) deleted: Vec<String>,
}

/// A file and a reason.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) path: String,
    pub(super) reason: String,
}

impl Told {
    pub(super) fn new(path: impl ToString, reason: impl ToString) -> Told {
        Told {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// A file to be sent: its length, and whether it is deleted afterwards.
pub(super) struct Item {
    pub(super) replica: Replica,
    pub(super) bytes: u64,
    pub(super) delete: bool,
}

/// Returns the bucket's store and its settings; the local folder is no bucket.
pub(super) fn bucket(config: &Config) -> Result<(Arc<dyn ObjectStore>, &R2Settings), Failure> {
    let Backend::R2(settings) = &config.backend else {
        let text = "USE_R2_STORAGE is false: there is no bucket to upload to";
        return Err(Failure::Usage(text.into()));
    };
    let store = RetryStore::new(
        Arc::new(r2_store(settings, config)),
        RetryPolicy::default(),
        Arc::new(SystemClock),
        Arc::new(SystemSleeper),
    );
    Ok((Arc::new(store), settings))
}

/// Returns the list of uploads that were begun, which lies in `STAGING_DIR`; `None` where nothing is to
/// be sent.
pub(super) fn begun(
    config: &Config,
    settings: &R2Settings,
    dry_run: bool,
) -> Result<Option<Arc<BegunCopies>>, Failure> {
    if dry_run {
        return Ok(None);
    }
    let R2Settings {
        endpoint,
        bucket,
        prefix,
        ..
    } = settings;
    let begun = BegunCopies::open(&config.staging_dir, format!("{endpoint} {bucket}/{prefix}"));
    let shown = config.staging_dir.display();
    begun.map(|begun| Some(Arc::new(begun))).map_err(|error| {
        Failure::Failed(match error.kind() {
            ErrorKind::WouldBlock => {
                format!("another migrate or setup with STAGING_DIR {shown} runs: wait for its end")
            }
            _ => format!("the list of begun uploads in STAGING_DIR {shown}: {error}"),
        })
    })
}

/// Opens a folder whose files are to be sent.
pub(super) fn folder(name: &str, path: &Path) -> Result<LocalStore, Failure> {
    let shown = path.display();
    if !path.is_dir() {
        return Err(Failure::Usage(format!("{name}: {shown} is no folder")));
    }
    LocalStore::open(path).map_err(|error| Failure::Failed(format!("{name} {shown}: {error}")))
}

/// Returns the files of a folder, without the markers of folders, ordered by path.
pub(super) async fn files(source: &LocalStore) -> StoreResult<Vec<ListedObject>> {
    let mut files = Vec::new();
    let mut request = ListRequest::default();
    loop {
        let page = source.list(request.clone()).await?;
        let found = page.objects.into_iter();
        files.extend(found.filter(|object| !object.version.key.is_folder_marker()));
        request.continuation = page.next;
        if request.continuation.is_none() {
            return Ok(files);
        }
    }
}

/// Sends files and shows how far it is. `report` holds what was decided before.
pub(super) async fn send(
    items: Vec<Item>,
    target: (&Arc<dyn ObjectStore>, &R2Settings),
    begun: Option<&BegunCopies>,
    mut report: Report,
) -> Report {
    let (bucket, settings) = target;
    let total = items.iter().map(|item| item.bytes).sum();
    let done = AtomicU64::new(0);
    let note = |bytes| {
        done.fetch_add(bytes, Ordering::Relaxed);
    };
    let mut bar = Bar::new();
    let mut ended = futures::stream::iter(items)
        .map(async |item| {
            let outcome = item.replica.run(&note).await;
            let is_there = matches!(outcome, Ok(Outcome::Uploaded | Outcome::Same));
            let deleted = match is_there && item.delete {
                true => Some(item.replica.delete_source().await),
                false => None,
            };
            (item, outcome, deleted)
        })
        .buffer_unordered(FILES_AT_ONCE);
    loop {
        match tokio::time::timeout(DRAW_EVERY, ended.next()).await {
            Ok(Some((item, outcome, deleted))) => {
                report.note(&item, outcome, deleted, settings);
            }
            Ok(None) => break,
            Err(_) => {}
        }
        bar.show(done.load(Ordering::Relaxed), total);
    }
    drop(ended);
    if let Some(begun) = begun {
        take_back(&**bucket, begun, &mut report).await;
    }
    report.sort();
    report
}

/// Takes back what earlier runs have begun and this one had no use for: the file is another one, or
/// gone, or in the bucket by now.
async fn take_back(bucket: &dyn ObjectStore, begun: &BegunCopies, report: &mut Report) {
    for upload in begun.uploads() {
        let reason = match bucket.abort_multipart(&upload).await {
            Ok(()) => begun.end(&upload).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = reason {
            let text = format!("parts of an earlier run are not taken back: {reason}");
            report.failed.push(Told::new(&upload.key, text));
        }
    }
}

impl Report {
    fn note(
        &mut self,
        item: &Item,
        outcome: Result<Outcome, ReplicateError>,
        deleted: Option<Result<(), ReplicateError>>,
        settings: &R2Settings,
    ) {
        let path = item.replica.to.to_string();
        let told = |error: ReplicateError| match error {
            ReplicateError::Bucket(error) => explain(&error, &settings.bucket, &settings.endpoint),
            error => error.to_string(),
        };
        match deleted {
            Some(Ok(())) => self.deleted.push(item.replica.from.to_string()),
            Some(Err(error)) => self.failed.push(Told::new(&path, told(error))),
            None => {}
        }
        match outcome {
            Ok(Outcome::Uploaded | Outcome::Missing) => {
                self.uploaded_bytes += item.bytes;
                self.uploaded.push(path);
            }
            Ok(Outcome::Same) => self.same.push(path),
            Ok(Outcome::Differs) => self.differs.push(path),
            Err(error) => self.failed.push(Told::new(&path, told(error))),
        }
    }

    /// The files end in any order.
    fn sort(&mut self) {
        let lists = [
            &mut self.uploaded,
            &mut self.same,
            &mut self.differs,
            &mut self.deleted,
        ];
        lists.into_iter().for_each(|list| list.sort());
        self.failed.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Says what became of all files; fails if something is not in the bucket as it is here.
    pub(super) fn say(&self, json: bool) -> Result<(), Failure> {
        match json {
            true => {
                let text = serde_json::to_string_pretty(self);
                say(&text.map_err(|error| Failure::Failed(error.to_string()))?)?;
            }
            false => say(&self.describe())?,
        }
        let left = self.differs.len() + self.failed.len();
        match left {
            0 => Ok(()),
            left => Err(Failure::Failed(format!(
                "{left} files are not in the bucket as they are here"
            ))),
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let sent = match self.dry_run {
            true => "would be uploaded",
            false => "uploaded and verified",
        };
        let (count, size) = (self.uploaded.len(), size_text(self.uploaded_bytes));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{count} {sent}, {size}");
        let _ = writeln!(text, "{} there already", self.same.len());
        if !self.deleted.is_empty() {
            let _ = writeln!(text, "{} deleted here", self.deleted.len());
        }
        let differs = self.differs.iter();
        let differs = differs.map(|path| Told::new(path, "the bucket has another version"));
        let differs: Vec<Told> = differs.collect();
        for (kind, list) in [
            ("differs", &differs),
            ("failed", &self.failed),
            ("skipped", &self.skipped),
        ] {
            for Told { path, reason } in list.iter().take(NAMES_SHOWN) {
                let _ = writeln!(text, "{kind}: {path} ({reason})");
            }
            if list.len() > NAMES_SHOWN {
                let _ = writeln!(text, "{kind}: and {} more", list.len() - NAMES_SHOWN);
            }
        }
        text
    }
}

/// Returns the key below a folder of the bucket.
pub(super) fn key_below(folder: &str, path: &Key) -> Option<Key> {
    Key::new(&format!("{folder}{path}"))
}

/// Runs what waits for the bucket.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(runtime.block_on(work))
}
