//! What a mount stands on: the bucket with all that wraps it, and the cache.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::bucket::first_look;
use super::{MountError, r2_store};
use crate::cache::{Cache, CacheOptions};
use crate::clock::SharedClock;
use crate::config::{Backend, Config, MountOptions};
use crate::fs::LocalCopies;
use crate::metrics::Operations;
use crate::staging::Identity;
use crate::store::ObjectStore;
use crate::store::counted::CountedStore;
use crate::store::fallback::{FallbackStore, HiddenKeys, UploadView};
use crate::store::local::LocalStore;
use crate::store::retry::{RetryPolicy, RetryStore, SystemSleeper};

/// How long a read is tried again when a local copy stands behind the bucket: within the look-up's
/// deadline, so that the copy still counts.
const READ_RETRIES_BEFORE_FALLBACK: Duration = Duration::from_secs(1);

/// The part of a caller's deadline in which a read is tried again.
const RETRIES_PART: u32 = 3;

/// The bucket, for each who asks it.
pub(super) struct Stores {
    /// For reading: with the local copies behind it, if there are any.
    pub(super) store: Arc<dyn ObjectStore>,
    /// For the uploader, to which a local copy says nothing.
    pub(super) for_uploads: Arc<dyn ObjectStore>,
    /// The local copies behind the bucket.
    pub(super) local_copies: Option<LocalCopies>,
    /// Whether the token may.
    pub(super) may_write: bool,
    /// What the user who mounts should know.
    pub(super) warnings: Vec<String>,
}

impl Stores {
    fn without_fallback(store: Arc<dyn ObjectStore>) -> Stores {
        Stores {
            for_uploads: store.clone(),
            store,
            local_copies: None,
            may_write: true,
            warnings: Vec::new(),
        }
    }
}

/// Retries and fallback wrap the bucket; what is sent is counted below the retries.
pub(super) fn make_stores(
    config: &Config,
    options: &MountOptions,
    operations: &Arc<Operations>,
    clock: &SharedClock,
    runtime: &Handle,
) -> Result<Stores, MountError> {
    let local =
        |dir: &Path| LocalStore::open(dir).map_err(MountError::start("OUTPUT_DIR cannot be used"));
    let settings = match &config.backend {
        Backend::R2(settings) => settings,
        Backend::Local { output_dir } => {
            let store = CountedStore::new(local(output_dir)?, operations.clone());
            return Ok(Stores::without_fallback(Arc::new(store)));
        }
    };
    let bucket = r2_store(settings, config).opening_connections_in_advance(settings);
    let (may_write, warnings) = first_look(&bucket, settings, options.read_only, runtime)?;
    let mut policy = RetryPolicy::default();
    // The last try may take all the time that one may take.
    let retries = config.request_deadline / RETRIES_PART;
    policy.reads = policy.reads.min(retries);
    if config.fallback_dir.is_some() {
        policy.reads = READ_RETRIES_BEFORE_FALLBACK;
    }
    let counted = Arc::new(CountedStore::new(bucket, operations.clone()));
    let retried = RetryStore::new(counted, policy, clock.clone(), Arc::new(SystemSleeper))
        .counting(operations.requests().clone());
    let retried: Arc<dyn ObjectStore> = Arc::new(retried);
    let Some(dir) = &config.fallback_dir else {
        return Ok(Stores {
            may_write,
            warnings,
            ..Stores::without_fallback(retried)
        });
    };
    let hidden = HiddenKeys::open(&config.staging_dir).map_err(MountError::start(
        "the list of hidden local copies cannot be read",
    ))?;
    let hidden = Arc::new(hidden);
    let pair = Arc::new(FallbackStore::new(retried, local(dir)?, hidden.clone()));
    Ok(Stores {
        for_uploads: Arc::new(UploadView::new(pair.clone())),
        store: pair,
        local_copies: Some(LocalCopies {
            hidden,
            dir: dir.clone(),
        }),
        may_write,
        warnings,
    })
}

/// Opens the cache over a store.
pub(super) fn make_cache(
    config: &Config,
    store: Arc<dyn ObjectStore>,
    clock: SharedClock,
    runtime: &Handle,
) -> Result<Arc<Cache>, MountError> {
    let options = CacheOptions {
        source: identity(config).to_string(),
        dir: config.cache_dir.clone(),
        ttl: config.cache_ttl,
        max_bytes: config.cache_max_bytes,
        min_free_bytes: config.cache_min_free_bytes,
        request_deadline: config.request_deadline,
    };
    Cache::open(options, store, clock, runtime.clone())
        .map_err(MountError::start("CACHE_DIR cannot be used"))
}

/// Returns whose records the journal holds.
pub(super) fn identity(config: &Config) -> Identity {
    match &config.backend {
        Backend::R2(r2) => Identity {
            backend: "r2".into(),
            endpoint: r2.endpoint.clone(),
            bucket: r2.bucket.clone(),
            prefix: r2.prefix.clone(),
        },
        Backend::Local { output_dir } => Identity {
            backend: "local".into(),
            endpoint: output_dir.display().to_string(),
            bucket: String::new(),
            prefix: String::new(),
        },
    }
}
