//! Many readers at random places while files are filled, evicted, pinned and replaced in the bucket, and
//! while answers break off: every byte is the right one, and all bytes of an open file are of one version.
//!
//! `READ_SECONDS` and `CRASH_SEED` choose another run; the seed in use is printed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use r2_model::{Fault, FaultRule, Operation, R2Model, generated_bytes};

use crate::common::mount::{DEADLINE, Mount};
use crate::crash::random::{Random, seed, setting};

const SECONDS: u64 = 12;
const READERS: u64 = 8;
/// Together several times what the cache may hold.
const SIZES: [u64; 6] = [
    90_000, 3_500_000, 5_000_000, 9_000_001, 14_000_000, 20_000_000,
];
const CACHE_BYTES: &str = "20000000";
/// Between two replacements, at most.
const PAUSE_MILLIS: u64 = 1500;
const LONGEST_READ: u64 = 300_000;
/// Between two pins or unpins, at most.
const PIN_PAUSE_MILLIS: u64 = 800;
/// A file that fits into the cache with any other.
const SMALL: usize = 2;

/// The bucket and what was put into it.
struct Library {
    model: R2Model,
    /// How many versions of each file there have been.
    versions: [AtomicU64; SIZES.len()],
    /// Held while a version is put, so that no reader sees one that is not counted.
    putting: Mutex<()>,
    ended: AtomicBool,
    reads: AtomicU64,
    bytes: AtomicU64,
    stale: AtomicU64,
    pins: AtomicU64,
}

fn name(file: usize) -> String {
    format!("layers/take-{file}.wav")
}

/// Returns the bytes of a version; they differ between any two at every place.
fn content(file: usize, version: u64, offset: u64, length: usize) -> Vec<u8> {
    generated_bytes(&format!("{file}.{version}"), offset, length)
}

impl Library {
    fn start() -> Library {
        let library = Library {
            model: R2Model::start(),
            versions: Default::default(),
            putting: Mutex::new(()),
            ended: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            pins: AtomicU64::new(0),
        };
        (0..SIZES.len()).for_each(|file| library.replace(file));
        library
    }

    fn replace(&self, file: usize) {
        let _counted_first = self.putting.lock();
        let version = self.versions[file].fetch_add(1, Ordering::SeqCst);
        let bytes = content(file, version, 0, SIZES[file] as usize);
        self.model.put(&name(file), bytes);
    }

    /// Returns the version whose bytes these are; at first any that there has been.
    #[track_caller]
    fn version_of(
        &self,
        file: usize,
        offset: u64,
        bytes: &[u8],
        known: Option<u64>,
    ) -> Option<u64> {
        let newest = self.versions[file].load(Ordering::SeqCst);
        let candidates = known.map_or(0..newest, |version| version..version + 1);
        let found = candidates
            .rev()
            .find(|version| content(file, *version, offset, bytes.len()) == bytes);
        assert!(
            found.is_some() || bytes.is_empty(),
            "{} at {offset}: bytes of no version, or not of {known:?} (of {newest})",
            name(file)
        );
        found.or(known)
    }

    /// Opens a file and reads it here and there, or in order; the version may go meanwhile.
    fn look(&self, path: PathBuf, file: usize, random: &mut Random) -> io::Result<()> {
        let opened = File::open(path)?;
        let size = SIZES[file];
        let is_in_order = random.below(3) == 0;
        let mut at = random.below(size);
        let mut version = None;
        for _ in 0..1 + random.below(30) {
            let length = (1 + random.below(LONGEST_READ)).min(size - at) as usize;
            let mut bytes = vec![0; length];
            opened.read_exact_at(&mut bytes, at)?;
            version = self.version_of(file, at, &bytes, version);
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
            at = match is_in_order {
                true => (at + length as u64) % size,
                false => random.below(size),
            };
        }
        Ok(())
    }

    fn read(&self, mount: &Mount, mut random: Random) {
        while !self.ended.load(Ordering::Relaxed) {
            let file = random.below(SIZES.len() as u64) as usize;
            match self.look(mount.path(&name(file)), file, &mut random) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    self.stale.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{}: {error}", name(file)),
            }
        }
    }

    /// Pins files and the whole folder, which does not fit, and lets them go.
    fn pin(&self, mount: &Mount, mut random: Random) {
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(random.below(PIN_PAUSE_MILLIS)));
            let path = match random.below(SIZES.len() as u64 + 1) as usize {
                file if file < SIZES.len() => name(file),
                _ => "layers".to_owned(),
            };
            let is_pin = random.below(2) == 0;
            let word = if is_pin { "pin" } else { "unpin" };
            let output = mount.run(&["cache", word, &path]);
            let said = String::from_utf8_lossy(&output.stderr);
            let refusal = if is_pin { "fit" } else { "not pinned" };
            match output.status.code() {
                Some(0) => drop(self.pins.fetch_add(1, Ordering::Relaxed)),
                code => assert!(
                    code == Some(1) && said.contains(refusal),
                    "{word} {path}: {said}"
                ),
            }
        }
    }

    /// What is pinned in the end is not evicted by reads of all the others.
    fn check_pin(&self, mount: &Mount) {
        mount.run(&["cache", "unpin", "layers"]);
        let output = mount.run(&["cache", "pin", &name(SMALL), "--wait"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.wait_for_the_newest(mount);
        self.model.clear_requests();
        std::fs::read(mount.path(&name(SMALL))).unwrap();
        let requests = self.model.requests().into_iter();
        let of_it = requests.filter(|request| {
            request.operation == Operation::GetObject && request.key == Some(name(SMALL))
        });
        assert_eq!(of_it.count(), 0, "what is pinned was evicted");
    }

    fn change(&self, seconds: u64, random: &mut Random) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(random.below(PAUSE_MILLIS)));
            self.replace(random.below(SIZES.len() as u64) as usize);
        }
        self.ended.store(true, Ordering::Relaxed);
    }

    /// In the end everybody sees what was put last.
    fn wait_for_the_newest(&self, mount: &Mount) {
        let end = Instant::now() + DEADLINE;
        for (file, versions) in self.versions.iter().enumerate() {
            let newest = versions.load(Ordering::SeqCst) - 1;
            let expected = content(file, newest, 0, SIZES[file] as usize);
            while std::fs::read(mount.path(&name(file))).is_ok_and(|bytes| bytes != expected)
                || std::fs::read(mount.path(&name(file))).is_err()
            {
                assert!(Instant::now() < end, "{}: not the newest", name(file));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Ends the others when one of them panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn many_readers_get_the_right_bytes_while_everything_changes() {
    let (seed, seconds) = (seed(), setting("READ_SECONDS", SECONDS));
    println!("CRASH_SEED={seed} READ_SECONDS={seconds}");
    let library = Library::start();
    let get = [Operation::GetObject];
    let late = Fault::Latency {
        least: Duration::ZERO,
        most: Duration::from_millis(60),
    };
    let model = &library.model;
    model.add_fault(
        FaultRule::new(Fault::CutBody(70_000))
            .on(&get)
            .chance(0.03, seed),
    );
    model.add_fault(FaultRule::new(late).on(&get).chance(0.5, seed));
    let settings = [("CACHE_MAX_BYTES", CACHE_BYTES), ("LIST_TTL_SECONDS", "1")];
    let mount = Mount::with(model, &settings);
    let mut random = Random::new(seed);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let random = Random::new(seed + 1 + random.below(1 << 40));
            let (library, mount) = (&library, &mount);
            scope.spawn(move || {
                let _ends = Ends(&library.ended);
                library.read(mount, random);
            });
        }
        let pins = Random::new(seed + 1 + random.below(1 << 40));
        scope.spawn(|| {
            let _ends = Ends(&library.ended);
            library.pin(&mount, pins);
        });
        library.change(seconds, &mut random);
    });
    library.wait_for_the_newest(&mount);
    library.check_pin(&mount);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let versions: u64 = library.versions.iter().map(count).sum();
    let evicted = mount.status()["cache"]["bytes"].as_u64().unwrap();
    println!(
        "figures: {} reads of {} MB, {versions} versions, {} versions went under a reader; {} pins and unpins; {evicted} bytes held",
        count(&library.reads),
        count(&library.bytes) / 1_000_000,
        count(&library.stale),
        count(&library.pins)
    );
    assert!(count(&library.reads) > 100 && versions > SIZES.len() as u64);
    assert!(count(&library.pins) > 3);
}
