//! Random work by several tasks at once: every byte read is the right one.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::cache::fake_store::Answer;
use crate::store::StoreError;

/// Longer than any case takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const FILES: usize = 4;
const SIZES: [usize; FILES] = [0, 3_000, 700_000, 4_400_000];

/// Made once: that takes longer than a case.
static CONTENTS: LazyLock<Vec<[Bytes; 2]>> = LazyLock::new(|| {
    (0..FILES as u64)
        .map(|i| [2 * i, 2 * i + 1].map(|seed| content(seed + 1, SIZES[i as usize])))
        .collect()
});

/// The versions of each file, of which each is in the bucket at times.
type Objects = Vec<[(ObjectVersion, Bytes); 2]>;

#[derive(Clone, Debug)]
enum Step {
    Read { file: usize, at: f64, len: usize },
    ReadInOrder { file: usize, at: f64, reads: usize },
    Fill(usize),
    Forget(usize),
    Replace(usize),
    Cleanup,
    RemoveDirectory,
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..FILES, 0.0..1.05, 1..200_000_usize)
            .prop_map(|(file, at, len)| Step::Read { file, at, len }),
        4 => (0..FILES, 0.0..1.0, 2..30_usize)
            .prop_map(|(file, at, reads)| Step::ReadInOrder { file, at, reads }),
        2 => (0..FILES).prop_map(Step::Fill),
        1 => (0..FILES).prop_map(Step::Forget),
        2 => (0..FILES).prop_map(Step::Replace),
        1 => Just(Step::Cleanup),
        1 => Just(Step::RemoveDirectory),
        1 => (0..100_000_usize).prop_map(Step::Cut),
    ]
}

/// Reads and compares; whether the version is still in the bucket, as far as that was asked.
async fn check_read(
    file: &Arc<CacheFile>,
    stream: &ReadStream,
    bytes: &Bytes,
    at: usize,
    len: usize,
) -> bool {
    let mut buf = vec![0; len];
    let read = match file.try_read(at as u64, &mut buf) {
        Some(read) => {
            file.note_read(stream, at as u64, len);
            buf.truncate(read.unwrap());
            buf
        }
        None => match file.read(stream, at as u64, len).await {
            Err(CacheError::Store(StoreError::PreconditionFailed)) => return false,
            read => read.unwrap(),
        },
    };
    let from = at.min(bytes.len());
    assert!(
        read == bytes[from..bytes.len().min(at + len)],
        "bytes differ at {at}"
    );
    true
}

/// The files as one task sees them.
struct Worker {
    bench: Arc<Bench>,
    objects: Arc<Objects>,
    /// Which version of each file is asked for.
    seen: [usize; FILES],
    streams: Vec<ReadStream>,
}

impl Worker {
    fn open(&self, file: usize) -> (Arc<CacheFile>, &Bytes) {
        let (version, bytes) = &self.objects[file][self.seen[file]];
        let opened = self.bench.cache.open_file(version, bytes.len() as u64);
        (opened.unwrap(), bytes)
    }

    /// Reads; if it was the replaced version, the other one is asked for from now on.
    async fn read(&mut self, file: usize, stream: Option<&ReadStream>, at: usize, len: usize) {
        let (opened, bytes) = self.open(file);
        let stream = stream.unwrap_or(&self.streams[file]);
        if !check_read(&opened, stream, bytes, at, len).await {
            self.seen[file] ^= 1;
        }
    }

    async fn step(&mut self, step: Step) {
        let place = |file: usize, at: f64| (at * SIZES[file] as f64) as usize;
        match step {
            Step::Read { file, at, len } => self.read(file, None, place(file, at), len).await,
            Step::ReadInOrder { file, at, reads } => {
                let stream = ReadStream::default();
                self.open(file).0.prefetch(&stream);
                for n in 0..reads {
                    let at = place(file, at) + n * 65_536;
                    self.read(file, Some(&stream), at, 65_536).await;
                }
            }
            Step::Fill(file) => match self.open(file).0.fill().await {
                Err(CacheError::Store(StoreError::PreconditionFailed)) => self.seen[file] ^= 1,
                filled => filled.unwrap(),
            },
            Step::Forget(file) => self.bench.cache.forget(&self.objects[file][0].0),
            Step::Replace(file) => {
                let other = &CONTENTS[file][self.seen[file] ^ 1];
                self.bench.store.put_bytes(&format!("f{file}"), other);
            }
            Step::Cleanup => {
                let bench = Arc::clone(&self.bench);
                let cleaned = tokio::task::spawn_blocking(move || bench.cache.cleanup(true));
                cleaned.await.unwrap();
            }
            Step::RemoveDirectory => {
                let _ = std::fs::remove_dir_all(&self.bench.options.dir);
            }
            Step::Cut(after) => self.bench.store.script([Answer::Cut(after)]),
        }
    }
}

async fn work(mut worker: Worker, steps: Vec<Step>) {
    for step in steps {
        worker.step(step).await;
    }
}

proptest! {
    // Each case is a second of work: a twentieth of what PROPTEST_CASES says, 12 without it.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.div_ceil(20),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_byte_read_is_the_right_one(
        plans in prop::collection::vec(prop::collection::vec(step(), 1..25), 4)
    ) {
        let bench = Arc::new(Bench::with(|options| {
            options.max_bytes = Some(2_200_000);
            options.request_deadline = Duration::from_secs(20);
        }));
        let objects: Objects = (0..FILES)
            .map(|i| [1, 0].map(|n| {
                let bytes = CONTENTS[i][n].clone();
                (bench.store.put_bytes(&format!("f{i}"), &bytes), bytes)
            }))
            .map(|[second, first]| [first, second])
            .collect();
        let objects = Arc::new(objects);
        let tasks: Vec<_> = plans
            .into_iter()
            .map(|plan| {
                let worker = Worker {
                    bench: Arc::clone(&bench),
                    objects: Arc::clone(&objects),
                    seen: [0; FILES],
                    streams: (0..FILES).map(|_| ReadStream::default()).collect(),
                };
                bench.runtime.spawn(work(worker, plan))
            })
            .collect();
        for task in tasks {
            let task = async { tokio::time::timeout(PATIENCE, task).await };
            let ended = bench.runtime.block_on(task);
            ended.expect("a task hangs").unwrap();
        }
        bench.wait_until(|| {
            bench.cache.table.all().iter().all(|file| file.content.state.lock().fetches.is_empty())
        });
        bench.end();
        let cache = open_cache(&bench.options, &bench.store, &bench.clock, &bench.runtime);
        for (version, bytes) in objects.iter().flatten() {
            let Some(file) = cache.get(version) else { continue };
            let mut buf = vec![0; bytes.len()];
            if let Some(read) = file.try_read(0, &mut buf) {
                read.unwrap();
                prop_assert!(buf == bytes[..]);
            }
        }
        let report = cache.cleanup(true);
        prop_assert_eq!(report.orphans, 0);
        let held: u64 = cache.index().after(None, 100).unwrap().iter()
            .map(|row| row.present.bytes()).sum();
        prop_assert_eq!(cache.stats().bytes, held);
    }
}
