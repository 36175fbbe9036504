mod copies;
mod durable;
mod fake;
mod faults;
mod resume;
mod soak;
mod trash;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use self::fake::{FakeStore, Fault, SINGLE_COPY_BYTES, unavailable};
use super::*;
use crate::clock::TokioClock;
use crate::disk::FileId;
use crate::staging::{Change, Deleted, Edit, Identity, Journal, PutState, Seq};
use crate::store::attributes::{FileAttributes, PART_SIZE, WRITE_ID, format_time};
use crate::store::{Key, ObjectVersion};

const HOUR: Duration = Duration::from_secs(3600);
/// Small parts, so that little has to be moved.
const PART: u64 = 32 << 10;

/// Does what `fs` does with the journal, without a tree.
struct Plain(Arc<Journal>);

impl Confirm for Plain {
    fn confirm(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
        sent: Option<&Sealed>,
    ) -> JournalResult<Confirmed> {
        let adopt = record.change.file().zip(now_holds.clone());
        let extra = adopt.map(|(file, etag)| Edit::Adopt {
            file,
            version: version(record.key.as_str(), etag),
        });
        assert_eq!(sent.is_some(), record.change.file().is_some());
        let extra = extra.into_iter().collect();
        self.0.confirm(&record.key, record.seq, now_holds, extra)
    }

    fn protected(&self, record: &Record, now_holds: ETag, _: Duration) -> JournalResult<Confirmed> {
        let Record { key, seq, .. } = record;
        self.0.protect(key, *seq, now_holds, Vec::new())
    }

    fn changed(&self, record: &Record, _: &ObjectInfo) -> JournalResult<Confirmed> {
        self.0.withdraw(&record.key, record.seq)
    }
}

struct Bench {
    dir: tempfile::TempDir,
    clock: SharedClock,
    staging: Arc<Staging>,
    store: Arc<FakeStore>,
    uploader: Arc<Uploader>,
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn version(name: &str, etag: ETag) -> ObjectVersion {
    ObjectVersion {
        key: key(name),
        etag,
    }
}

fn open(dir: &Path, clock: &SharedClock) -> Arc<Staging> {
    let identity = Identity {
        backend: "fake".into(),
        ..Identity::default()
    };
    Staging::open(dir, &identity, clock.clone()).unwrap().0
}

fn start(staging: &Arc<Staging>, store: &Arc<FakeStore>, clock: &SharedClock) -> Arc<Uploader> {
    let options = UploadOptions {
        multipart_threshold: 64 << 10,
        single_copy_bytes: SINGLE_COPY_BYTES as u64,
        part_size: PART,
        trash_collections: vec!["projects".into()],
        ..UploadOptions::default()
    };
    Uploader::start(
        options,
        Arc::clone(staging),
        Arc::clone(store) as Arc<dyn ObjectStore>,
        Arc::new(Plain(Arc::clone(staging.journal()))),
        clock.clone(),
        &Handle::current(),
    )
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(TokioClock::new());
        let staging = open(dir.path(), &clock);
        let store = Arc::new(FakeStore::new());
        let uploader = start(&staging, &store, &clock);
        Bench {
            dir,
            clock,
            staging,
            store,
            uploader,
        }
    }

    /// Begins anew with what is on the disk, as a process after this one does.
    async fn restart(self) -> Bench {
        self.uploader.stop().await;
        self.restart_with(|_| {}).await
    }

    /// The same, with something done to the staging directory in between.
    async fn restart_with(self, meanwhile: impl FnOnce(&Staging)) -> Bench {
        let Bench {
            dir,
            clock,
            staging,
            store,
            uploader,
        } = self;
        drop(uploader);
        // What still runs holds the journal.
        tokio::time::sleep(HOUR).await;
        meanwhile(&staging);
        drop(staging);
        let staging = open(dir.path(), &clock);
        let uploader = start(&staging, &store, &clock);
        Bench {
            dir,
            clock,
            staging,
            store,
            uploader,
        }
    }

    fn journal(&self) -> &Journal {
        self.staging.journal()
    }

    fn set(&self, name: &str, base: Option<ETag>, change: Change) -> Seq {
        let set = Edit::Set {
            key: key(name),
            base,
            change,
        };
        self.journal().apply(vec![set]).unwrap()[0]
    }

    /// Writes and closes a new file; returns its id.
    fn save(&self, name: &str, base: Option<ETag>, bytes: &[u8]) -> FileId {
        let file = self.staging.create_file().unwrap();
        file.file().write_all_at(bytes, 0).unwrap();
        self.set(name, base, closed(file.id(), bytes.len()));
        file.id()
    }

    fn copy(&self, name: &str, base: Option<ETag>, source: ObjectVersion) {
        let attributes = FileAttributes {
            mode: Some(0o600),
            ..FileAttributes::default()
        };
        let copy = Change::Copy {
            source,
            size: 1,
            attributes,
        };
        self.set(name, base, copy);
    }

    /// Uploads all there is; fails if that does not end.
    async fn drain(&self) {
        assert!(
            self.uploader.drain(HOUR).await,
            "{:?}",
            self.journal().records()
        );
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.store.object(name).map(|object| object.bytes.to_vec())
    }
}

fn closed(file: FileId, length: usize) -> Change {
    Change::Put {
        file,
        state: PutState::Closed {
            length: length as u64,
        },
        attributes: FileAttributes {
            mode: Some(0o640),
            ..FileAttributes::default()
        },
    }
}

/// Bytes that differ everywhere.
fn take(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| (at / 251) as u8 ^ (at as u8) ^ seed)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_arrives_with_what_belongs_to_it() {
    let bench = Bench::new();
    let file = bench.save("layers/take.wav", None, b"take");
    let modified = fs::metadata(bench.staging.path(file))
        .unwrap()
        .modified()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(
        bench.store.take_calls().is_empty(),
        "not quiet for long enough"
    );
    bench.drain().await;
    let object = bench.store.object("layers/take.wav").unwrap();
    assert_eq!(&object.bytes[..], b"take");
    assert_eq!(object.headers.content_type, "audio/wav");
    assert_eq!(object.headers.metadata["mtime"], format_time(modified));
    assert_eq!(object.headers.metadata["mode"], "416");
    assert_eq!(object.headers.metadata[WRITE_ID].len(), 32);
    assert_eq!(bench.store.take_calls(), ["put"]);
    assert!(bench.journal().is_released(file));
    assert!(bench.journal().attempts(&key("layers/take.wav")).is_empty());
    assert_eq!(bench.uploader.status().done, 1);
}

#[tokio::test(start_paused = true)]
async fn a_save_pattern_costs_one_put() {
    let bench = Bench::new();
    for seed in 0..3 {
        bench.save("song", None, &[seed]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let file = bench.save("song.tmp", None, b"whole");
    let rename = vec![
        Edit::Set {
            key: key("song"),
            base: None,
            change: closed(file, 5),
        },
        Edit::Remove {
            key: key("song.tmp"),
        },
    ];
    bench.journal().apply(rename).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.store.take_calls(), ["put"]);
    assert_eq!(bench.bytes("song").unwrap(), b"whole");
    assert!(bench.uploader.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_large_file_goes_in_equal_parts() {
    let bench = Bench::new();
    let bytes = take((5 << 15) + 17, 1);
    bench.save("mix.flac", None, &bytes);
    bench.save("empty", None, b"");
    bench.drain().await;
    assert!(bench.bytes("mix.flac").unwrap() == bytes);
    let object = bench.store.object("mix.flac").unwrap();
    assert!(object.etag.as_str().ends_with("-6\""));
    assert_eq!(object.headers.metadata[PART_SIZE], PART.to_string());
    assert_eq!(bench.bytes("empty").unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn an_open_file_is_not_sent() {
    let bench = Bench::new();
    let file = bench.staging.create_file().unwrap();
    let open = Change::Put {
        file: file.id(),
        state: PutState::Open,
        attributes: FileAttributes::default(),
    };
    bench.set("a", None, open);
    assert!(!bench.uploader.drain(Duration::from_secs(60)).await);
    let status = bench.uploader.status();
    assert_eq!((status.unsealed, status.queued), (1, 0));
    bench.set("a", None, closed(file.id(), 0));
    bench.drain().await;
    assert_eq!(bench.store.take_calls(), ["put"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_changes_is_never_sent() {
    let bench = Bench::new();
    let (old, new) = (take(4 << 15, 1), take(4 << 15, 2));
    let id = bench.save("mix", None, &old);
    let staging = Arc::clone(&bench.staging);
    let mut parts = 0;
    let changed = new.clone();
    bench.store.script(move |operation, _| {
        parts += u32::from(operation == "part");
        if operation == "part" && parts == 4 {
            // A writer comes while the last part is on its way.
            let file = staging.open_file(id).unwrap();
            let set = |state| Edit::Set {
                key: key("mix"),
                base: None,
                change: Change::Put {
                    file: id,
                    state,
                    attributes: FileAttributes::default(),
                },
            };
            staging.journal().apply(vec![set(PutState::Open)]).unwrap();
            file.touch();
            file.file().write_all_at(&changed, 0).unwrap();
            let length = changed.len() as u64;
            let closed = PutState::Closed { length };
            staging.journal().apply(vec![set(closed)]).unwrap();
        }
        Fault::None
    });
    bench.drain().await;
    assert!(bench.bytes("mix").unwrap() == new);
    let calls = bench.store.take_calls();
    assert_eq!(calls.iter().filter(|call| *call == "complete").count(), 1);
    assert_eq!(calls.iter().filter(|call| *call == "abort").count(), 1);
    assert_eq!(bench.store.open_uploads(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_is_sealed_anew_if_its_bytes_are_others() {
    let bench = Bench::new();
    let sealed = Sealed {
        length: 9,
        part_size: 9,
        parts: vec![crate::store::Md5::of(b"something")],
    };
    let file = bench.save("a", None, b"else");
    let seq = bench.journal().record(&key("a")).unwrap().seq;
    bench.journal().seal(&key("a"), seq, sealed).unwrap();
    bench.drain().await;
    assert_eq!(bench.bytes("a").unwrap(), b"else");
    assert!(bench.journal().is_released(file));
}

#[tokio::test(start_paused = true)]
async fn a_copy_comes_before_what_overwrites_its_source() {
    let bench = Bench::new();
    let old = bench.store.write("song", b"old");
    bench.store.fail("copy", 3, || Fault::Before(unavailable()));
    bench.copy("song.bak", None, version("song", old.clone()));
    bench.save("song", Some(old), b"new");
    bench.drain().await;
    assert_eq!(bench.bytes("song.bak").unwrap(), b"old");
    assert_eq!(bench.bytes("song").unwrap(), b"new");
    let copy = bench.store.object("song.bak").unwrap();
    assert_eq!(copy.headers.metadata["other"], "kept");
    assert_eq!(copy.headers.metadata["mode"], "384");
    assert!(
        copy.headers.metadata.contains_key("mtime"),
        "it keeps its time"
    );
    assert_eq!(copy.headers.content_type, "text/x-other");
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_source_is_gone_is_parked() {
    let bench = Bench::new();
    let old = bench.store.write("a", b"old");
    bench.copy("b", None, version("a", old));
    bench.store.write("a", b"theirs");
    bench.drain().await;
    assert_eq!(bench.uploader.status().parked, 1);
    assert_eq!(bench.bytes("b"), None);
}

#[tokio::test(start_paused = true)]
async fn new_attributes_are_a_copy_onto_itself() {
    let bench = Bench::new();
    let etag = bench.store.write("a", b"take");
    bench.copy("a", Some(etag.clone()), version("a", etag));
    bench.drain().await;
    assert_eq!(
        bench.store.object("a").unwrap().headers.metadata["mode"],
        "384"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_a_lost_delete_may_land() {
    let bench = Bench::new();
    let etag = bench.store.write("take", b"old");
    bench
        .store
        .fail("delete", 1, || Fault::Before(unavailable()));
    bench.set("take", Some(etag.clone()), Change::Delete(Deleted::Moved));
    let begun = bench.clock.instant();
    while !bench.store.take_calls().contains(&"delete".to_owned()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The delete may still be on its way when the name is used again.
    bench.save("take", Some(etag), b"new");
    bench.drain().await;
    assert_eq!(bench.bytes("take").unwrap(), b"new");
    assert!(bench.clock.instant() - begun >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn folders_are_markers() {
    let bench = Bench::new();
    let folder = || Change::Folder {
        attributes: FileAttributes::default(),
    };
    bench.set("projects/new/", None, folder());
    bench.store.write("projects/there/", b"");
    bench.set("projects/there/", None, folder());
    bench.drain().await;
    assert_eq!(bench.bytes("projects/new/").unwrap(), b"");
    assert_eq!(bench.journal().records(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_stop_is_done_after_the_restart() {
    let bench = Bench::new();
    for n in 0..40u8 {
        bench.save(&format!("take {n}"), None, &take(3 << 15, n));
    }
    tokio::time::sleep(Duration::from_millis(2060)).await;
    bench.uploader.stop().await;
    let left = bench.uploader.status();
    assert!(left.queued > 0 && left.active == 0, "{left:?}");
    let bench = bench.restart().await;
    assert_eq!(bench.journal().records().len(), left.queued);
    bench.drain().await;
    for n in 0..40u8 {
        let object = bench.store.object(&format!("take {n}")).unwrap();
        assert!(object.bytes == take(3 << 15, n));
    }
    assert_eq!(bench.store.open_uploads(), 0);
}
