//! Random saves, deletes and renames under random faults: in the end the bucket holds what the
//! names held, and nothing was parked. The rules by which names become edits are those of `fs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::fake::{FakeStore, Fault, SINGLE_COPY_BYTES, unavailable};
use super::{HOUR, closed, key, open};
use crate::clock::{SharedClock, TokioClock};
use crate::disk::FileId;
use crate::staging::{
    Change, Confirmed, Deleted, Edit, JournalResult, PutState, Record, Sealed, Snapshot,
    SnapshotSource, StagedFile, Staging,
};
use crate::store::attributes::FileAttributes;
use crate::store::{ETag, ObjectInfo, ObjectStore, ObjectVersion, StoreError};
use crate::uploader::{Confirm, UploadOptions, Uploader};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A generator of numbers; the same seed gives the same run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.roll(NAMES.len() as u64) as usize]
    }
}

/// What a name holds.
#[derive(Clone)]
enum Content {
    Staged(Arc<StagedFile>),
    Remote(ObjectVersion),
}

/// A tree without folders.
struct Tree {
    staging: Arc<Staging>,
    names: Mutex<BTreeMap<&'static str, (Content, Vec<u8>)>>,
}

impl Confirm for Tree {
    fn confirm(
        &self,
        record: &Record,
        now_holds: Option<ETag>,
        _: Option<&Sealed>,
    ) -> JournalResult<Confirmed> {
        let mut names = self.names.lock();
        let journal = self.staging.journal();
        let version = now_holds.clone().map(|etag| ObjectVersion {
            key: record.key.clone(),
            etag,
        });
        let adopt = record.change.file().zip(version.clone());
        let adopt = adopt.map(|(file, version)| Edit::Adopt { file, version });
        let extra = adopt.into_iter().collect();
        let confirmed = journal.confirm(&record.key, record.seq, now_holds, extra)?;
        if confirmed == Confirmed::Done
            && let Some(version) = version
            && let Some((content, _)) = names.get_mut(record.key.as_str())
        {
            *content = Content::Remote(version);
        }
        Ok(confirmed)
    }

    fn protected(&self, record: &Record, now_holds: ETag, _: Duration) -> JournalResult<Confirmed> {
        let Record { key, seq, .. } = record;
        self.staging
            .journal()
            .protect(key, *seq, now_holds, Vec::new())
    }

    fn changed(&self, record: &Record, _: &ObjectInfo) -> JournalResult<Confirmed> {
        panic!("nobody else writes, and {record:?} found another version");
    }
}

impl Tree {
    /// Returns what the bucket is known to hold under a name.
    fn base(&self, name: &str, content: Option<&Content>) -> Option<ETag> {
        if let Some(record) = self.staging.journal().record(&key(name)) {
            return record.base;
        }
        match content {
            Some(Content::Remote(version)) => Some(version.etag.clone()),
            _ => None,
        }
    }

    fn set(&self, name: &str, base: Option<ETag>, change: Change) -> Edit {
        Edit::Set {
            key: key(name),
            base,
            change,
        }
    }

    /// What is to be said when a name has lost its content.
    fn leave(&self, name: &str, content: &Content) -> Edit {
        match self.base(name, Some(content)) {
            None => Edit::Remove { key: key(name) },
            base => self.set(name, base, Change::Delete(Deleted::Moved)),
        }
    }

    fn discard(content: Option<&Content>) -> Option<Edit> {
        match content {
            Some(Content::Staged(file)) => Some(Edit::Discard { file: file.id() }),
            _ => None,
        }
    }

    fn apply(&self, edits: Vec<Edit>) {
        self.staging.journal().apply(edits).unwrap();
    }

    fn save(&self, name: &'static str, bytes: Vec<u8>) {
        use std::os::unix::fs::FileExt;
        let mut names = self.names.lock();
        let old = names.get(name).map(|(content, _)| content);
        let file = self.staging.create_file().unwrap();
        file.file().write_all_at(&bytes, 0).unwrap();
        let change = closed(file.id(), bytes.len());
        let mut edits = vec![self.set(name, self.base(name, old), change)];
        edits.extend(Tree::discard(old));
        self.apply(edits);
        names.insert(name, (Content::Staged(file), bytes));
    }

    /// Writes into the file that is there, if it is still staged.
    fn rewrite(&self, name: &'static str, byte: u8) {
        use std::os::unix::fs::FileExt;
        let mut names = self.names.lock();
        let Some((Content::Staged(file), bytes)) = names.get_mut(name) else {
            return;
        };
        let base = self.base(name, None);
        let state = |state| Change::Put {
            file: file.id(),
            state,
            attributes: FileAttributes::default(),
        };
        self.apply(vec![self.set(name, base.clone(), state(PutState::Open))]);
        file.touch();
        file.file().write_all_at(&[byte], 0).unwrap();
        bytes[0] = byte;
        let length = bytes.len() as u64;
        let base = self.base(name, None);
        self.apply(vec![self.set(
            name,
            base,
            state(PutState::Closed { length }),
        )]);
    }

    /// Writes into the file that is there, leaves it open, and has a snapshot of it sent.
    fn keep_open(&self, name: &'static str, byte: u8) {
        let mut names = self.names.lock();
        let Some((Content::Staged(file), bytes)) = names.get_mut(name) else {
            return;
        };
        let open = Change::Put {
            file: file.id(),
            state: PutState::Open,
            attributes: FileAttributes::default(),
        };
        let set = self.set(name, self.base(name, None), open);
        let seqs = self.staging.journal().apply(vec![set]).unwrap();
        {
            use std::os::unix::fs::FileExt;
            let _changing = file.change(0..1);
            file.file().write_all_at(&[byte], 0).unwrap();
        }
        bytes[0] = byte;
        let source = SnapshotSource {
            file: file.clone(),
            is_mapped: false,
        };
        let taken = self.staging.take_snapshots(&[source], || Some(()));
        let snapshot = Snapshot {
            seq: seqs[0],
            file: taken.unwrap().0.remove(0),
            length: bytes.len() as u64,
            attributes: FileAttributes::default(),
            sealed: Default::default(),
        };
        self.staging.offer_snapshot(&key(name), snapshot);
    }

    /// Closes what is still open.
    fn close_all(&self) {
        let mut names = self.names.lock();
        for (name, (content, bytes)) in names.iter_mut() {
            let record = self.staging.journal().record(&key(name));
            if let (Content::Staged(file), Some(record)) = (content, record)
                && record.change.is_open()
            {
                let change = closed(file.id(), bytes.len());
                self.apply(vec![self.set(name, record.base, change)]);
            }
        }
    }

    fn unlink(&self, name: &'static str) {
        let mut names = self.names.lock();
        if let Some((content, _)) = names.remove(name) {
            let mut edits = vec![self.leave(name, &content)];
            edits.extend(Tree::discard(Some(&content)));
            self.apply(edits);
        }
    }

    fn rename(&self, from: &'static str, to: &'static str) {
        let mut names = self.names.lock();
        let journal = self.staging.journal();
        // Circles of renames are not carried out yet.
        if from == to || journal.copies_from(&key(to)) {
            return;
        }
        let Some((content, bytes)) = names.get(from).cloned() else {
            return;
        };
        let replaced = names.get(to).map(|(content, _)| content);
        let base = self.base(to, replaced);
        let change = match &content {
            Content::Remote(version) => Change::Copy {
                source: version.clone(),
                size: bytes.len() as u64,
                attributes: FileAttributes::default(),
            },
            Content::Staged(_) => journal.record(&key(from)).unwrap().change,
        };
        let is_back = matches!(&content, Content::Remote(version)
            if version.key == key(to) && base.as_ref() == Some(&version.etag));
        let mut edits = vec![self.leave(from, &content)];
        edits.push(match is_back {
            true => Edit::Remove { key: key(to) },
            false => self.set(to, base, change),
        });
        edits.extend(Tree::discard(replaced));
        self.apply(edits);
        names.remove(from);
        names.insert(to, (content, bytes));
    }
}

fn start(tree: &Arc<Tree>, store: &Arc<FakeStore>, clock: &SharedClock) -> Arc<Uploader> {
    let options = UploadOptions {
        multipart_threshold: 64 << 10,
        single_copy_bytes: SINGLE_COPY_BYTES as u64,
        part_size: 32 << 10,
        ..UploadOptions::default()
    };
    Uploader::start(
        options,
        Arc::clone(&tree.staging),
        Arc::clone(store) as Arc<dyn ObjectStore>,
        Arc::clone(tree) as Arc<dyn Confirm>,
        clock.clone(),
        &Handle::current(),
    )
}

fn faults(seed: u64) -> impl FnMut(&str, &crate::store::Key) -> Fault {
    let mut dice = Dice(seed ^ 0xfa17);
    move |operation, _| match dice.roll(20) {
        // An upload whose name was lost, or that cannot be aborted, lies about for some days.
        0..=5 if ["create", "abort"].contains(&operation) => Fault::None,
        0..2 => Fault::Before(unavailable()),
        2..5 => Fault::After(unavailable()),
        5 => Fault::Before(StoreError::Throttled { retry_after: None }),
        _ => Fault::None,
    }
}

async fn run(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let clock: SharedClock = Arc::new(TokioClock::new());
    let staging = open(dir.path(), &clock);
    let store = Arc::new(FakeStore::new());
    let tree = Arc::new(Tree {
        staging,
        names: Mutex::default(),
    });
    let mut uploader = start(&tree, &store, &clock);
    let mut dice = Dice(seed);
    store.script(faults(seed));
    for step in 0..80u8 {
        let name = dice.name();
        match dice.roll(13) {
            0..4 => {
                let length = match dice.roll(4) {
                    0 => 100_000,
                    _ => 1 + dice.roll(50) as usize,
                };
                tree.save(name, super::take(length, step));
            }
            4 => tree.rewrite(name, step),
            5 => tree.unlink(name),
            6..9 => tree.rename(name, dice.name()),
            9..12 => tree.keep_open(name, step),
            _ => {
                uploader.stop().await;
                uploader = start(&tree, &store, &clock);
            }
        }
        let pause = [0, 50, 500, 2_000, 3_000, 10_000][dice.roll(6) as usize];
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    store.script(|_, _| Fault::None);
    tree.close_all();
    let drained = uploader.drain(HOUR).await;
    assert!(
        drained,
        "seed {seed}: {:#?}",
        tree.staging.journal().records()
    );
    assert_eq!(tree.staging.journal().records(), [], "seed {seed}");
    let names = tree.names.lock();
    for name in NAMES {
        let wanted = names.get(name).map(|(_, bytes)| bytes);
        let found = store.object(name).map(|object| object.bytes.to_vec());
        assert!(wanted == found.as_ref(), "seed {seed}: {name} differs");
    }
    assert_eq!(store.open_uploads(), 0, "seed {seed}");
    let staged: Vec<FileId> = names
        .values()
        .filter_map(|(content, _)| match content {
            Content::Staged(file) => Some(file.id()),
            Content::Remote(_) => None,
        })
        .collect();
    assert_eq!(staged, [], "seed {seed}: all of it is the bucket's");
}

#[tokio::test(start_paused = true)]
async fn random_work_under_random_faults_arrives() {
    for seed in 0..20 {
        run(seed).await;
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "takes ten minutes; for soaks"]
async fn more_random_work_under_random_faults_arrives() {
    for seed in 20..2_000 {
        run(seed).await;
    }
}
