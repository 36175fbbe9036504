//! Several threads do random operations on the mount and the same ones on a plain folder: each
//! answer, errno included, and in the end the trees, are the same; after the upload and after a
//! remount with an empty cache as well. Meanwhile the cache is removed again and again.
//!
//! `SHADOW_SEED`, `SHADOW_SEEDS` and `SHADOW_OPERATIONS` (a seed's, of all threads) choose another
//! run; the seed in use is printed, and on a difference the operations that led there.

mod map;
mod operation;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r2_model::R2Model;
use rustix::fs::{FileType, RenameFlags, lstat};

use self::operation::{Operation, Side};
use crate::common::mount::Mount;
use crate::crash::random::{Random, setting};

/// Operations in the normal suite.
const OPERATIONS: u64 = 12_000;
/// The subtrees, each of one thread; the last one all threads share.
const SUBTREES: [&str; 4] = [
    "projects/one",
    "layers/two",
    "segments/three",
    "projects/all",
];
/// How many operations a failure tells.
const TOLD: usize = 60;

/// Where the mount may differ from a plain folder; what is skipped is not done on either side.
/// Sizes and link counts of folders and access times are those of the disk below on one side, and
/// not compared; neither are holes, which are only as large as a file system likes.
const DOCUMENTED: [Documented; 2] = [
    // Folders cannot be exchanged, nor files with several names: an object can be copied, but not
    // two at once, and the names beside the first are this disk's.
    Documented {
        reason: "RENAME_EXCHANGE of folders and of files with several names is EINVAL",
        is_met: |operation, plain| match operation {
            Operation::Rename(from, to, RenameFlags::EXCHANGE) => [from, to].iter().any(|path| {
                lstat(plain.join(path)).is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
                        || stat.st_nlink > 1
                })
            }),
            _ => false,
        },
    },
    // Where the ranges overlap a file system may refuse or copy; not looked at further.
    Documented {
        reason: "copies from a descriptor to itself are left to fsx",
        is_met: |operation, _| matches!(operation, Operation::CopyRange(from, _, to, _, _) if from == to),
    },
];

struct Documented {
    reason: &'static str,
    is_met: fn(&Operation, &Path) -> bool,
}

/// A thread's part of the work.
struct Player<'a> {
    sides: [Side<'a>; 2],
    told: VecDeque<String>,
}

impl<'a> Player<'a> {
    fn new(roots: &'a [PathBuf; 2]) -> Player<'a> {
        let side = |root: &'a PathBuf| Side {
            root,
            slots: Default::default(),
        };
        Player {
            sides: [side(&roots[0]), side(&roots[1])],
            told: VecDeque::new(),
        }
    }

    /// Does one operation on both sides; the error is what led to a difference.
    fn play(&mut self, operation: &Operation) -> Result<(), String> {
        let plain = self.sides[1].root;
        let documented = DOCUMENTED.iter().find(|one| (one.is_met)(operation, plain));
        if let Some(documented) = documented {
            self.tell(format!("{operation:?}: not done: {}", documented.reason));
            return Ok(());
        }
        let ours = self.sides[0].perform(operation);
        let theirs = self.sides[1].perform(operation);
        self.tell(format!("{operation:?}: {}", short(&theirs)));
        if ours == theirs {
            return Ok(());
        }
        let at = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours
                .iter()
                .zip(theirs)
                .position(|(one, other)| one != other),
            _ => None,
        };
        let told: Vec<&str> = self.told.iter().map(String::as_str).collect();
        Err(format!(
            "{}\nbut the mount answered {} (first difference: {at:?})",
            told.join("\n"),
            short(&ours)
        ))
    }

    fn tell(&mut self, text: String) {
        self.told.push_back(text);
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
    }
}

fn short(answer: &operation::Answer) -> String {
    match answer {
        Ok(bytes) if bytes.len() <= 200 => format!("{:?}", String::from_utf8_lossy(bytes)),
        Ok(bytes) => format!("{} bytes", bytes.len()),
        Err(errno) => format!("{errno:?}"),
    }
}

/// All that is to be the same of each file and folder below.
fn tree(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = lstat(&path).unwrap();
        let mut described = String::from_utf8(operation::described(&stat)).unwrap();
        let mut bytes = Vec::new();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let entries = fs::read_dir(&path).unwrap();
                waiting.extend(entries.map(|entry| entry.unwrap().path()));
            }
            FileType::Symlink => {
                let target = fs::read_link(&path).unwrap();
                bytes = target.into_os_string().into_encoded_bytes();
            }
            _ => bytes = fs::read(&path).unwrap(),
        }
        let names = operation::attribute_names(&path).unwrap();
        let names = String::from_utf8(names).unwrap();
        for name in names.split_whitespace() {
            described += &format!(", {name} {:?}", operation::attribute(&path, name));
        }
        found.insert(
            path.strip_prefix(root).unwrap().to_owned(),
            (described, bytes),
        );
    }
    found
}

fn compare_trees(mount: &Mount, when: &str) {
    for subtree in SUBTREES {
        let ours = tree(&mount.path(subtree));
        let theirs = tree(&mount.beside("plain").join(subtree));
        for (path, (described, bytes)) in &theirs {
            let Some((is, holds)) = ours.get(path) else {
                panic!("{when}: {subtree}/{} is missing", path.display());
            };
            assert_eq!(is, described, "{when}: {subtree}/{}", path.display());
            assert!(
                holds == bytes,
                "{when}: the bytes of {subtree}/{} differ, the first at {:?} of {}",
                path.display(),
                holds
                    .iter()
                    .zip(bytes)
                    .position(|(one, other)| one != other),
                bytes.len()
            );
        }
        let more: Vec<_> = ours
            .keys()
            .filter(|path| !theirs.contains_key(*path))
            .collect();
        assert!(more.is_empty(), "{when}: {subtree} has {more:?} as well");
    }
}

/// One thread: most of its operations are in its own subtree, some in the one that all share.
fn work(
    roots: &[[PathBuf; 2]; 4],
    number: usize,
    seed: u64,
    stopping: &AtomicBool,
    shared: &Mutex<Player>,
) -> Result<(), String> {
    let mut random = Random::new(seed ^ ((number as u64 + 1) << 40));
    let mut own = Player::new(&roots[number]);
    for _ in 0..setting("SHADOW_OPERATIONS", OPERATIONS) / 3 {
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        let operation = Operation::any(&mut random);
        let played = match random.below(5) {
            0 => shared.lock().unwrap().play(&operation),
            _ => own.play(&operation),
        };
        if let Err(difference) = played {
            stopping.store(true, Ordering::Relaxed);
            return Err(format!("thread {number}:\n{difference}"));
        }
    }
    Ok(())
}

fn shadow_once(seed: u64, settings: &[(&str, &str)]) {
    println!("SHADOW_SEED={seed}");
    let model = R2Model::start();
    let mut mount = Mount::with(&model, settings);
    let roots = SUBTREES.map(|subtree| {
        let roots = [mount.path(subtree), mount.beside("plain").join(subtree)];
        roots
            .iter()
            .for_each(|root| fs::create_dir_all(root).unwrap());
        roots
    });
    let shared = Mutex::new(Player::new(&roots[3]));
    let stopping = AtomicBool::new(false);
    let played: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let (roots, shared, stopping) = (&roots, &shared, &stopping);
        let threads: Vec<_> = (0..3)
            .map(|number| scope.spawn(move || work(roots, number, seed, stopping, shared)))
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(700));
            mount.remove_cache();
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    drop(shared);
    if let Some(difference) = played.into_iter().find_map(Result::err) {
        panic!("SHADOW_SEED={seed}, {difference}");
    }
    compare_trees(&mount, &format!("SHADOW_SEED={seed}, at the end"));
    mount.wait_uploaded();
    compare_trees(&mount, &format!("SHADOW_SEED={seed}, uploaded"));
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    compare_trees(&mount, &format!("SHADOW_SEED={seed}, mounted anew"));
    let hasty = model.write_rate_violations();
    assert!(hasty.is_empty(), "SHADOW_SEED={seed}: {hasty:?}");
}

#[test]
fn the_mount_answers_as_a_plain_folder_does() {
    let first = setting("SHADOW_SEED", 1);
    for seed in first..first + setting("SHADOW_SEEDS", 1) {
        shadow_once(seed, &[]);
    }
}
