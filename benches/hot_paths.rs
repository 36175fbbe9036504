//! What each call of a program costs in this process, without the kernel's part: `cargo bench`.
//!
//! `scripts/bench` measures from outside, through a real mount. This tells which layer has become slower.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::Bencher;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use voicebeatfs::cache::{Cache, CacheOptions};
use voicebeatfs::clock::{SharedClock, SystemClock};
use voicebeatfs::fs::attr::{Caller, Fh, Ino};
use voicebeatfs::fs::{Fs, FsOptions, FsParts, OpenFlags, SnapshotOptions};
use voicebeatfs::staging::{Identity, Staging};
use voicebeatfs::store::local::LocalStore;

const BLOCK: usize = 64 << 10;
const WRITE: OpenFlags = OpenFlags {
    raw: libc::O_WRONLY,
};
const READ: OpenFlags = OpenFlags {
    raw: libc::O_RDONLY,
};
const CALLER: Caller = Caller { uid: 0, gid: 0 };

fn main() {
    divan::main();
}

/// A file system in a folder of its own; nothing is uploaded.
struct Mounted {
    runtime: Runtime,
    fs: Arc<Fs>,
    layers: Ino,
    names: AtomicU64,
    _dir: TempDir,
}

impl Mounted {
    fn new() -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let runtime = Runtime::new().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let store = Arc::new(LocalStore::open(&path("output")).unwrap());
        let identity = Identity {
            backend: "local".into(),
            ..Identity::default()
        };
        let (staging, replay) = Staging::open(&path("staging"), &identity, clock.clone()).unwrap();
        let options = CacheOptions {
            source: "bench".into(),
            dir: path("cache"),
            ttl: Duration::from_secs(3600),
            max_bytes: Some(1 << 30),
            min_free_bytes: 0,
            request_deadline: Duration::from_secs(5),
        };
        let handle = runtime.handle().clone();
        let cache = Cache::open(options, store.clone(), clock.clone(), handle.clone()).unwrap();
        let options = FsOptions {
            collections: vec!["layers".into()],
            trash_collections: Vec::new(),
            trash_age: Duration::ZERO,
            delete_limit: None,
            samples_dir: path("samples"),
            names_in_memory: voicebeatfs::fs::NAMES_IN_MEMORY,
            list_ttl: Duration::from_secs(3600),
            request_deadline: Duration::from_secs(5),
            warm_bytes: 0,
            mountpoint: path("mnt"),
            snapshots: SnapshotOptions {
                quiet: Duration::from_secs(30),
                longest: Duration::from_secs(300),
            },
            uid: 0,
            gid: 0,
            umask: 0o022,
        };
        let parts = FsParts {
            store,
            cache,
            staging,
            local_copies: None,
            clock,
            runtime: handle,
        };
        let fs = Fs::new(options, parts, replay);
        let layers = runtime.block_on(fs.lookup(Ino::ROOT, OsStr::new("layers")));
        Mounted {
            layers: layers.unwrap().ino,
            runtime,
            fs,
            names: AtomicU64::new(0),
            _dir: dir,
        }
    }

    fn name(&self) -> String {
        format!("{}.wav", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn create(&self, name: &str) -> (Ino, Fh) {
        let created = self
            .fs
            .create(self.layers, OsStr::new(name), 0o644, WRITE, CALLER);
        let created = self.runtime.block_on(created).unwrap();
        (created.attr.ino, created.opened.fh)
    }

    fn save(&self, name: &str) -> Ino {
        let (ino, fh) = self.create(name);
        self.fs
            .try_write(fh, 0, &[1; BLOCK], false)
            .unwrap()
            .unwrap();
        self.fs.release(fh);
        ino
    }

    fn lookup(&self, name: &str) -> bool {
        let found = self.fs.lookup(self.layers, OsStr::new(name));
        self.runtime.block_on(found).is_ok()
    }
}

#[divan::bench]
fn create_and_close(bencher: Bencher) {
    let mounted = Mounted::new();
    bencher
        .with_inputs(|| mounted.name())
        .bench_values(|name| mounted.fs.release(mounted.create(&name).1));
}

#[divan::bench]
fn write_64_kib(bencher: Bencher) {
    let mounted = Mounted::new();
    let (_, fh) = mounted.create("a.wav");
    let block = [1; BLOCK];
    bencher.bench(|| mounted.fs.try_write(fh, 0, &block, false).unwrap().unwrap());
}

#[divan::bench]
fn read_64_kib(bencher: Bencher) {
    let mounted = Mounted::new();
    let ino = mounted.save("a.wav");
    let opened = mounted.runtime.block_on(mounted.fs.open(ino, READ));
    let fh = opened.unwrap().fh;
    let mut block = [0; BLOCK];
    bencher.bench_local(|| mounted.fs.try_read(fh, 0, &mut block).unwrap().unwrap());
}

#[divan::bench]
fn open_and_close_to_read(bencher: Bencher) {
    let mounted = Mounted::new();
    let ino = mounted.save("a.wav");
    bencher.bench(|| {
        let opened = mounted.runtime.block_on(mounted.fs.open(ino, READ));
        mounted.fs.release(opened.unwrap().fh);
    });
}

#[divan::bench]
fn rename_of_a_new_file(bencher: Bencher) {
    let mounted = Mounted::new();
    bencher
        .with_inputs(|| {
            let name = mounted.name();
            mounted.save(&name);
            name
        })
        .bench_values(|name| {
            let to = format!("renamed-{name}");
            let (from, to) = (OsStr::new(&name), OsStr::new(&to));
            let renamed = mounted
                .fs
                .rename((mounted.layers, from), (mounted.layers, to), 0);
            mounted.runtime.block_on(renamed).unwrap();
        });
}

#[divan::bench]
fn look_up_of_a_name(bencher: Bencher) {
    let mounted = Mounted::new();
    mounted.save("a.wav");
    bencher.bench(|| assert!(mounted.lookup("a.wav")));
}

#[divan::bench]
fn look_up_of_no_name(bencher: Bencher) {
    let mounted = Mounted::new();
    // Once listed, the folder tells by itself what it does not hold.
    let opened = mounted.runtime.block_on(mounted.fs.opendir(mounted.layers));
    mounted.fs.releasedir(opened.unwrap());
    bencher.bench(|| assert!(!mounted.lookup("none.wav")));
}

#[divan::bench]
fn attributes(bencher: Bencher) {
    let mounted = Mounted::new();
    let ino = mounted.save("a.wav");
    bencher.bench(|| mounted.fs.getattr(ino, None).unwrap());
}
