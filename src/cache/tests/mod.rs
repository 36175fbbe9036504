//! Tests of the cache as a whole, against a store in memory.

mod keeping;
mod random;
mod reading;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::fake_store::{FakeStore, content};
use super::*;
use crate::clock::ManualClock;
use crate::store::Key;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const TTL: Duration = Duration::from_secs(24 * 3600);

/// A cache in a directory of its own, with its store and its clock.
struct Bench {
    dir: TempDir,
    runtime: Runtime,
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    options: CacheOptions,
    cache: Arc<Cache>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut CacheOptions)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut options = CacheOptions {
            source: "a".into(),
            dir: dir.path().join("cache"),
            ttl: TTL,
            max_bytes: Some(1 << 30),
            min_free_bytes: 0,
            request_deadline: Duration::from_millis(600),
        };
        change(&mut options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Arc::new(FakeStore::default());
        let clock = Arc::new(ManualClock::new());
        let cache = open_cache(&options, &store, &clock, &runtime);
        Bench {
            dir,
            runtime,
            store,
            clock,
            options,
            cache,
        }
    }

    /// Ends the cache as `shutdown` does, however slow the disk is.
    fn end(&self) {
        self.cache.end_behind(Duration::from_secs(120));
    }

    /// Opens the cache again, as after the end of the process.
    fn reopen(&mut self) {
        self.cache = open_cache(&self.options, &self.store, &self.clock, &self.runtime);
    }

    /// Puts an object; returns its version and bytes.
    fn object(&self, key: &str, size: usize) -> (ObjectVersion, Bytes) {
        let bytes = content(key.bytes().map(u64::from).sum(), size);
        (self.store.put_bytes(key, &bytes), bytes)
    }

    /// Puts an object and brings all of it into the cache.
    fn filled(&self, key: &str, size: usize) -> (ObjectVersion, Bytes) {
        let (version, bytes) = self.object(key, size);
        let file = self.cache.open_file(&version, size as u64).unwrap();
        self.runtime.block_on(file.fill()).unwrap();
        (version, bytes)
    }

    /// Writes a staged file; returns its id, a descriptor to read it and its path.
    fn staged(&self, bytes: &[u8]) -> (FileId, File, PathBuf) {
        let id = FileId::random();
        let path = self.dir.path().join(id.staged_name());
        std::fs::write(&path, bytes).unwrap();
        (id, File::open(&path).unwrap(), path)
    }

    fn cache_files(&self) -> usize {
        self.cache.cache_files().unwrap().len()
    }

    /// Waits until nothing is being fetched for a file.
    fn settle_fetches(&self, file: &CacheFile) {
        self.wait_until(|| file.content.state.lock().fetches.is_empty());
    }

    fn wait_until(&self, condition: impl Fn() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it did not happen in 4 s");
    }
}

fn open_cache(
    options: &CacheOptions,
    store: &Arc<FakeStore>,
    clock: &Arc<ManualClock>,
    runtime: &Runtime,
) -> Arc<Cache> {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    let clock = Arc::clone(clock) as SharedClock;
    Cache::open(options.clone(), store, clock, runtime.handle().clone()).unwrap()
}

fn version(key: &str, tag: &str) -> ObjectVersion {
    ObjectVersion {
        key: Key::new(key).unwrap(),
        etag: crate::store::ETag::new(tag),
    }
}
