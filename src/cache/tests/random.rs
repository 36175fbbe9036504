//! Random work by several tasks at once: every byte read is the right one.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::cache::fake_store::Answer;

/// Longer than any case takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const FILES: usize = 4;
const SIZES: [usize; FILES] = [0, 3_000, 700_000, 4_400_000];

/// Made once: that takes longer than a case.
static CONTENTS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    (0..FILES)
        .map(|i| content(i as u64 + 1, SIZES[i]))
        .collect()
});

#[derive(Clone, Debug)]
enum Step {
    Read { file: usize, at: f64, len: usize },
    ReadInOrder { file: usize, at: f64, reads: usize },
    Fill(usize),
    Forget(usize),
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
        1 => Just(Step::Cleanup),
        1 => Just(Step::RemoveDirectory),
        1 => (0..100_000_usize).prop_map(Step::Cut),
    ]
}

async fn check_read(
    file: &Arc<CacheFile>,
    stream: &ReadStream,
    bytes: &Bytes,
    at: usize,
    len: usize,
) {
    let mut buf = vec![0; len];
    let read = match file.try_read(at as u64, &mut buf) {
        Some(read) => {
            file.note_read(stream, at as u64, len);
            buf.truncate(read.unwrap());
            buf
        }
        None => file.read(stream, at as u64, len).await.unwrap(),
    };
    let from = at.min(bytes.len());
    assert!(
        read == bytes[from..bytes.len().min(at + len)],
        "bytes differ at {at}"
    );
}

async fn work(bench: Arc<Bench>, objects: Arc<Vec<(ObjectVersion, Bytes)>>, steps: Vec<Step>) {
    let open = |file: usize| {
        let (version, bytes) = &objects[file];
        (
            bench.cache.open_file(version, bytes.len() as u64).unwrap(),
            bytes,
        )
    };
    let streams: Vec<ReadStream> = objects.iter().map(|_| ReadStream::default()).collect();
    for step in steps {
        match step {
            Step::Read { file, at, len } => {
                let stream = &streams[file];
                let (file, bytes) = open(file);
                let at = (at * bytes.len() as f64) as usize;
                check_read(&file, stream, bytes, at, len).await;
            }
            Step::ReadInOrder { file, at, reads } => {
                let (file, bytes) = open(file);
                let stream = ReadStream::default();
                file.prefetch(&stream);
                let mut at = (at * bytes.len() as f64) as usize;
                for _ in 0..reads {
                    check_read(&file, &stream, bytes, at, 65_536).await;
                    at += 65_536;
                }
            }
            Step::Fill(file) => open(file).0.fill().await.unwrap(),
            Step::Forget(file) => bench.cache.forget(&objects[file].0),
            Step::Cleanup => {
                let bench = Arc::clone(&bench);
                let cleaned = tokio::task::spawn_blocking(move || bench.cache.cleanup(true));
                cleaned.await.unwrap();
            }
            Step::RemoveDirectory => {
                let _ = std::fs::remove_dir_all(&bench.options.dir);
            }
            Step::Cut(after) => bench.store.script([Answer::Cut(after)]),
        }
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
        let objects: Vec<_> = (0..FILES)
            .map(|i| (bench.store.put_bytes(&format!("f{i}"), &CONTENTS[i]), CONTENTS[i].clone()))
            .collect();
        let objects = Arc::new(objects);
        let tasks: Vec<_> = plans
            .into_iter()
            .map(|plan| bench.runtime.spawn(work(Arc::clone(&bench), Arc::clone(&objects), plan)))
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
        for (version, bytes) in objects.iter() {
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
