//! Files that stay open: snapshots of them go into the bucket while they are written, each whole as
//! of one instant.

mod clones;
mod databases;
mod long;
mod plain;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r2_model::R2Model;

use crate::common::mount::{DEADLINE, Mount};

/// Settings with which an hour takes some seconds.
const QUICK: [(&str, &str); 3] = [
    ("SNAPSHOT_QUIET_SECONDS", "0.6"),
    ("SNAPSHOT_SECONDS", "2"),
    ("WRITE_BACK_SECONDS", "0.1"),
];

/// Looks at every version of a key that shows in the bucket, until it is dropped.
struct Watcher {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Watcher {
    /// `check` fails if a version is not whole.
    fn start(
        model: &Arc<R2Model>,
        key: &str,
        mut check: impl FnMut(&[u8]) + Send + 'static,
    ) -> Watcher {
        let ended = Arc::new(AtomicBool::new(false));
        let (model, key, end) = (model.clone(), key.to_owned(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            loop {
                let last = end.load(Ordering::Relaxed);
                if let Some(object) = model.get(&key)
                    && seen.insert(object.write_count)
                {
                    check(&object.bytes);
                }
                if last {
                    return seen.len();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Watcher {
            ended,
            thread: Some(thread),
        }
    }

    /// Returns how many versions there were, all of them whole.
    fn end(mut self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .unwrap()
            .join()
            .expect("a version is not whole")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn wait_until(what: &str, mount: &Mount, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not in time\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many snapshots lie in the staging directory.
fn snapshot_files(mount: &Mount) -> usize {
    let names = std::fs::read_dir(mount.beside("staging")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".snapshot")).count()
}
