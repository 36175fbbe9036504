//! The file system without a kernel: over a local store, with uploads carried out step by step.

mod open_files;

use std::ffi::OsStr;
use std::time::Duration;

use super::attr::{Caller, Fh, SetAttr};
use super::*;
use crate::cache::CacheOptions;
use crate::clock::ManualClock;
use crate::staging::{Change, Deleted, Edit, Hold, Identity, PutState, Record};
use crate::store::local::LocalStore;
use crate::store::{CopyRequest, ETag, Key, Md5, ObjectHeaders, PutRequest, WriteCondition};

mod moved;
mod paged;

const CALLER: Caller = Caller {
    uid: 1000,
    gid: 1000,
};
const READ: OpenFlags = OpenFlags {
    raw: libc::O_RDONLY,
};
const WRITE: OpenFlags = OpenFlags { raw: libc::O_RDWR };

/// A file system with a bucket of its own, which changes only by what a test does.
struct Bench {
    runtime: Option<tokio::runtime::Runtime>,
    clock: Arc<ManualClock>,
    store: Arc<LocalStore>,
    fs: Arc<Fs>,
    /// Last: what makes files in it has ended when it is removed.
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::at(tempfile::tempdir().unwrap(), NAMES_IN_MEMORY)
    }

    /// Begins anew with what a killed process has left.
    fn after_kill(self) -> Bench {
        let Bench { dir, .. } = &self;
        let copy = tempfile::tempdir().unwrap();
        for folder in ["staging", "cache", "output"] {
            copy_folder(&dir.path().join(folder), &copy.path().join(folder));
        }
        Bench::at(copy, NAMES_IN_MEMORY)
    }

    fn at(dir: tempfile::TempDir, names_in_memory: usize) -> Bench {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let manual = Arc::new(ManualClock::new());
        let clock: SharedClock = manual.clone();
        let store = Arc::new(LocalStore::open(&path("output")).unwrap());
        let identity = Identity {
            backend: "local".into(),
            ..Identity::default()
        };
        let (staging, replay) = Staging::open(&path("staging"), &identity, clock.clone()).unwrap();
        let options = CacheOptions {
            dir: path("cache"),
            source: "a".into(),
            ttl: Duration::from_secs(3600),
            max_bytes: Some(1 << 30),
            min_free_bytes: 0,
            request_deadline: Duration::from_secs(5),
        };
        let cache = Cache::open(
            options,
            store.clone(),
            clock.clone(),
            runtime.handle().clone(),
        )
        .unwrap();
        let options = FsOptions {
            collections: vec!["layers".into(), "projects".into()],
            trash_collections: vec!["projects".into()],
            trash_age: Duration::from_secs(30 * 86400),
            delete_limit: Some(3),
            samples_dir: path("samples"),
            list_ttl: Duration::from_secs(30),
            names_in_memory,
            request_deadline: Duration::from_secs(5),
            warm_bytes: 0,
            mountpoint: path("mnt"),
            snapshots: SnapshotOptions {
                quiet: Duration::from_secs(30),
                longest: Duration::from_secs(300),
            },
            uid: 1000,
            gid: 1000,
            umask: 0o022,
        };
        let parts = FsParts {
            store: store.clone(),
            cache,
            staging,
            local_copies: None,
            clock,
            runtime: runtime.handle().clone(),
        };
        let fs = Fs::new(options, parts, replay);
        Bench {
            dir,
            runtime: Some(runtime),
            clock: manual,
            store,
            fs,
        }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// Somebody else writes to the bucket.
    fn others_write(&self, key: &str, bytes: &'static [u8]) -> ETag {
        let request = PutRequest {
            key: self.key(key),
            body: bytes.into(),
            md5: Md5::of(bytes),
            condition: WriteCondition::Always,
            headers: ObjectHeaders::default(),
        };
        self.run(self.store.put(request)).unwrap()
    }

    fn key(&self, key: &str) -> Key {
        Key::new(key).unwrap()
    }

    fn layers(&self) -> Ino {
        let attr = self.run(self.fs.lookup(Ino::ROOT, OsStr::new("layers")));
        attr.unwrap().ino
    }

    fn lookup(&self, name: &str) -> FsResult<Attr> {
        let layers = self.layers();
        self.run(self.fs.lookup(layers, OsStr::new(name)))
    }

    /// Lists the folder anew.
    fn list(&self) -> Vec<String> {
        self.clock.advance(Duration::from_secs(31));
        let layers = self.layers();
        let fh = self.run(self.fs.opendir(layers)).unwrap();
        let names = self.run(self.fs.read_all(layers, fh)).unwrap();
        self.fs.releasedir(fh);
        let names = names.iter().skip(2);
        names
            .map(|entry| entry.name.to_str().unwrap().to_owned())
            .collect()
    }

    fn create(&self, name: &str) -> (Ino, Fh) {
        let layers = self.layers();
        let created = self.run(
            self.fs
                .create(layers, OsStr::new(name), 0o644, WRITE, CALLER),
        );
        let created = created.unwrap();
        (created.attr.ino, created.opened.fh)
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> FsResult<Fh> {
        self.run(self.fs.open(ino, flags)).map(|opened| opened.fh)
    }

    fn write(&self, fh: Fh, offset: u64, bytes: &[u8]) -> FsResult<usize> {
        self.run(self.fs.write_when_here(fh, offset, bytes))
    }

    fn read(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let fh = self.open(ino, READ)?;
        let bytes = self.run(self.fs.read(fh, 0, 1 << 20));
        self.fs.release(fh);
        bytes
    }

    /// Makes a file that is closed and waits for its upload.
    fn save(&self, name: &str, bytes: &[u8]) -> Ino {
        let (ino, fh) = self.create(name);
        self.write(fh, 0, bytes).unwrap();
        self.fs.release(fh);
        ino
    }

    fn rename(&self, from: &str, to: &str) {
        let layers = self.layers();
        let (from, to) = ((layers, OsStr::new(from)), (layers, OsStr::new(to)));
        self.run(self.fs.rename(from, to, 0)).unwrap();
    }

    fn unlink(&self, name: &str) {
        let layers = self.layers();
        self.run(self.fs.unlink(layers, OsStr::new(name))).unwrap();
    }

    fn chmod(&self, ino: Ino, mode: u32) {
        let change = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.run(self.fs.setattr(ino, None, &change)).unwrap();
    }

    fn record(&self, key: &str) -> Option<Record> {
        self.fs.journal().record(&self.key(key))
    }

    /// Carries out a record as the uploader does, up to the answer; returns what to confirm.
    fn send(&self, key: &str) -> (Record, Option<ETag>) {
        let record = self.record(key).unwrap();
        assert!(!record.change.is_open(), "{record:?}");
        let condition = match &record.base {
            Some(etag) => WriteCondition::IfMatch(etag.clone()),
            None => WriteCondition::IfAbsent,
        };
        let headers = ObjectHeaders::default();
        let holds = match record.change.clone() {
            Change::Put { file, .. } => {
                let bytes = std::fs::read(self.fs.staging.path(file)).unwrap();
                Some(self.run(self.store.put(PutRequest {
                    key: record.key.clone(),
                    md5: Md5::of(&bytes),
                    body: bytes.into(),
                    condition,
                    headers,
                })))
            }
            Change::Copy { source, .. } => Some(self.run(self.store.copy(CopyRequest {
                source,
                destination: record.key.clone(),
                condition,
                headers: Some(headers),
            }))),
            Change::Folder { .. } => panic!("made by no test"),
            Change::Delete(_) => {
                self.run(self.store.delete(&record.key)).unwrap();
                None
            }
        };
        (record, holds.map(Result::unwrap))
    }

    fn upload(&self, key: &str) {
        let (record, holds) = self.send(key);
        self.fs.confirm_upload(&record, holds).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
            // What the pool has made may go meanwhile.
            let _ = std::fs::copy(entry.path(), to);
        }
    }
}

#[test]
fn what_is_still_open_at_the_end_is_settled() {
    let bench = Bench::new();
    let (_, fh) = bench.create("a");
    bench.write(fh, 0, b"take").unwrap();
    let fs = bench.fs.clone();
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        fs.shutdown();
        let _ = sender.send(());
    });
    ended
        .recv_timeout(Duration::from_secs(10))
        .expect("the end waits for nobody");
    let record = bench.record("layers/a").unwrap();
    assert!(matches!(
        record.change,
        Change::Put {
            state: PutState::Closed { length: 4 },
            ..
        }
    ));
}

#[test]
fn a_write_to_a_file_that_others_replaced_is_refused_or_kept() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"old");
    let ino = bench.lookup("a").unwrap().ino;
    let fh = bench.open(ino, WRITE).unwrap();
    bench.others_write("layers/a", b"theirs");
    assert_eq!(bench.list(), ["a"]);
    match bench.write(fh, 0, b"ours") {
        Err(_) => assert!(bench.record("layers/a").is_none()),
        Ok(_) => {
            bench.fs.release(fh);
            assert!(bench.record("layers/a").is_some(), "acknowledged and lost");
        }
    }
}

#[test]
fn what_a_dead_process_was_about_to_take_from_the_cache_is_found_there() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"take");
    let ino = bench.lookup("a").unwrap().ino;
    assert_eq!(bench.read(ino).unwrap(), b"take");
    bench.rename("a", "b");
    let record = bench.record("layers/b").unwrap();
    let Change::Copy { source, .. } = record.change else {
        panic!("a rename of an uploaded file is a copy");
    };
    let id = bench.fs.cache.get(&source).unwrap().id();
    bench.fs.cache.shutdown();
    // Killed between the commit and the rename of the file.
    let set = Edit::Set {
        key: bench.key("layers/b"),
        base: None,
        change: Change::Put {
            file: id,
            state: PutState::Open,
            attributes: Default::default(),
        },
    };
    bench.fs.journal().apply(vec![set]).unwrap();
    let bench = bench.after_kill();
    let record = bench.record("layers/b").unwrap();
    assert_eq!(record.parked, None);
    let ino = bench.lookup("b").unwrap().ino;
    bench.upload("layers/b");
    bench.upload("layers/a");
    assert_eq!(bench.read(ino).unwrap(), b"take");
}

#[test]
fn a_file_that_nobody_has_open_can_be_evicted() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"take");
    let ino = bench.lookup("a").unwrap().ino;
    assert_eq!(bench.read(ino).unwrap(), b"take");
    let inode = bench.fs.inode(ino).unwrap();
    let held = inode.state.lock().remote().unwrap().file.is_some();
    assert!(!held, "the kernel may know the inode for days");
}

#[test]
fn a_removed_file_has_no_links() {
    let bench = Bench::new();
    let (ino, fh) = bench.create("a");
    bench.unlink("a");
    assert_eq!(bench.fs.getattr(ino, Some(fh)).unwrap().nlink, 0);
}

#[test]
fn a_name_removed_here_stays_away_while_the_bucket_has_it() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"old");
    bench.others_write("layers/folder/b", b"old");
    // The folder was never listed: the names come from look-ups alone.
    let layers = bench.layers();
    let held = bench.fs.listings.0.lock().insert(layers, {
        let arriving = arriving::Arriving::new(bench.fs.cache.clone(), 1, false, Instant::now());
        listing::Refresh::new(arriving).1
    });
    assert!(held.is_none());
    bench.lookup("a").unwrap();
    bench.unlink("a");
    assert!(matches!(bench.lookup("a"), Err(FsError::NotFound)));
    bench.lookup("folder").unwrap();
    bench.rename("folder", "moved");
    assert!(matches!(bench.lookup("folder"), Err(FsError::NotFound)));
    bench.lookup("moved").unwrap();
}

#[test]
fn a_folder_stays_while_some_of_its_objects_are_to_go() {
    let bench = Bench::new();
    bench.others_write("layers/d/a", b"take");
    bench.others_write("layers/d/b", b"take");
    let folder = bench.lookup("d").unwrap().ino;
    bench.run(bench.fs.lookup(folder, OsStr::new("a"))).unwrap();
    bench.run(bench.fs.unlink(folder, OsStr::new("a"))).unwrap();
    // The next start knows of the delete, and of the folder only what the bucket says.
    let bench = bench.after_kill();
    assert_eq!(bench.list(), ["d"]);
}

#[test]
fn a_copy_that_is_confirmed_before_anybody_looks_keeps_the_bytes_that_are_here() {
    let bench = Bench::new();
    bench.save("a", b"take");
    bench.upload("layers/a");
    bench.rename("a", "b");
    let bench = bench.after_kill();
    let version = ObjectVersion {
        key: bench.key("layers/b"),
        etag: ETag::of_md5(Md5::of(b"take")),
    };
    let record = bench.record("layers/b").unwrap();
    let holds = Some(version.etag.clone());
    bench.fs.confirm_upload(&record, holds).unwrap();
    assert!(bench.fs.cache.get(&version).is_some());
}

#[test]
fn a_version_that_moved_is_taken_from_where_it_lies() {
    let bench = Bench::new();
    let ino = bench.save("a", b"take");
    bench.upload("layers/a");
    let reader = bench.open(ino, READ).unwrap();
    bench.rename("a", "b");
    bench.upload("layers/b");
    bench.upload("layers/a");
    bench.fs.journal().sync().unwrap();
    bench.fs.carry_out_releases();
    let renamed = bench.record("layers/b");
    assert!(renamed.is_none());
    let version = {
        let inode = bench.fs.inode(ino).unwrap();
        let state = inode.state.lock();
        state.remote().unwrap().version.clone()
    };
    assert_eq!(version.key, bench.key("layers/b"));
    let writer = bench.open(ino, WRITE).unwrap();
    bench.write(writer, 0, b"T").unwrap();
    let id = bench.record("layers/b").unwrap().change.file().unwrap();
    assert!(
        bench.fs.staging.path(id).exists(),
        "what is written lies in staging"
    );
    assert!(
        bench.fs.cache.get(&version).is_none(),
        "what is written is no version of the cache's"
    );
    bench.fs.release(writer);
    bench.fs.release(reader);
}

#[test]
fn new_attributes_on_their_way_do_not_spoil_what_follows() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"take");
    let ino = bench.lookup("a").unwrap().ino;
    bench.chmod(ino, 0o600);
    // In a local store, and for multipart objects in R2, a copy has another tag.
    let (record, holds) = bench.send("layers/a");
    bench.chmod(ino, 0o640);
    bench.rename("a", "b");
    bench.fs.confirm_upload(&record, holds).unwrap();
    assert_eq!(bench.read(ino).unwrap(), b"take");
    bench.upload("layers/b");
    bench.upload("layers/a");
    assert_eq!(bench.read(ino).unwrap(), b"take");
}

#[test]
fn attributes_on_their_way_outlive_what_the_kernel_forgets() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"take");
    let ino = bench.lookup("a").unwrap().ino;
    bench.chmod(ino, 0o600);
    bench.fs.forget(ino, 1);
    let attr = bench.lookup("a").unwrap();
    assert_eq!(attr.mode, 0o600);
    // What the bucket tells of the old attributes is out of date.
    assert_eq!(bench.read(attr.ino).unwrap(), b"take");
    assert_eq!(bench.fs.getattr(attr.ino, None).unwrap().mode, 0o600);
    bench.upload("layers/a");
    assert_eq!(bench.lookup("a").unwrap().mode, 0o600);
}

#[test]
fn files_closed_together_are_settled_by_one_commit() {
    let bench = Bench::new();
    let commits = bench.fs.journal().changed();
    let files = ["a", "b", "c"].map(|name| {
        let (ino, fh) = bench.create(name);
        bench.write(fh, 0, b"take").unwrap();
        (bench.fs.inode(ino).unwrap(), fh)
    });
    let before = *commits.borrow();
    let inodes = files.each_ref().map(|(inode, _)| inode.clone());
    // One of them has a writer yet.
    for inode in &inodes[..2] {
        inode.state.lock().writers = 0;
    }
    bench.fs.close_versions(&inodes);
    assert_eq!(*commits.borrow(), before + 1);
    for (name, is_open) in [("a", false), ("b", false), ("c", true)] {
        let record = bench.record(&format!("layers/{name}")).unwrap();
        assert_eq!(record.change.is_open(), is_open, "{name}");
    }
}

#[test]
fn a_closed_file_is_settled_soon_and_opened_again_without_a_commit_before() {
    let bench = Bench::new();
    bench.fs.spawn_closing();
    let (ino, fh) = bench.create("a");
    let seq = bench.record("layers/a").unwrap().seq;
    bench.fs.release(fh);
    let fh = bench.open(ino, WRITE).unwrap();
    bench.write(fh, 0, b"take").unwrap();
    // With a writer it stays open, whenever the first close is looked at.
    let record = bench.record("layers/a").unwrap();
    assert!(record.change.is_open());
    assert!(record.seq == seq || record.seq.0 == seq.0 + 2);
    let closed = || {
        let end = Instant::now() + Duration::from_secs(10);
        while bench.record("layers/a").unwrap().change.is_open() {
            assert!(Instant::now() < end, "it is still open");
            std::thread::yield_now();
        }
        bench.record("layers/a").unwrap().change.length()
    };
    bench.fs.release(fh);
    assert_eq!(closed(), 4);
    let fh = bench.open(ino, WRITE).unwrap();
    bench.write(fh, 4, b"!").unwrap();
    bench.fs.release(fh);
    bench.fs.settle_closed();
    assert_eq!(bench.record("layers/a").unwrap().change.length(), 5);
}

#[test]
fn a_delete_is_told_from_the_rest_of_a_rename() {
    let bench = Bench::new();
    bench.others_write("layers/a", b"take");
    bench.others_write("layers/c", b"other");
    bench.lookup("a").unwrap();
    bench.rename("a", "b");
    let change = |key: &str| bench.record(key).map(|record| record.change);
    assert_eq!(change("layers/a"), Some(Change::Delete(Deleted::Moved)));
    // Its only object still lies under the old name.
    bench.unlink("b");
    let removed = Deleted::Here {
        size: 4,
        name: Some(bench.key("layers/b")),
        hold: Hold::Free,
    };
    assert_eq!(change("layers/a"), Some(Change::Delete(removed)));
    assert_eq!(change("layers/b"), None);
    bench.lookup("c").unwrap();
    bench.unlink("c");
    let removed = Change::Delete(Deleted::here(5));
    assert_eq!(change("layers/c"), Some(removed.clone()));
    let bench = bench.after_kill();
    assert_eq!(bench.record("layers/c").unwrap().change, removed);
}

#[test]
fn the_trash_keeps_what_is_younger_than_its_days() {
    use crate::store::trash::{Why, name};
    let bench = Bench::new();
    let original = Key::new("projects/song.rpp").unwrap();
    let trashed = |etag: &str| {
        let now = bench.fs.clock.now();
        let named = name(&original, &ETag::new(etag), now, Why::Deleted);
        bench.others_write(named.key.as_str(), b"12345");
        named.key
    };
    let old = trashed("1");
    bench.clock.advance(Duration::from_secs(20 * 86400));
    let young = trashed("2");
    bench.others_write(".voicebeatfs/trash/of another program", b"x");
    bench.clock.advance(Duration::from_secs(11 * 86400));
    bench.run(bench.fs.expire_trash()).unwrap();
    let head = |key: &Key| bench.run(bench.store.head(key, Default::default()));
    assert!(head(&old).is_err());
    assert!(head(&young).is_ok());
    let left = bench.fs.trash_size().unwrap();
    assert_eq!((left.objects, left.bytes), (2, 6));
}
