//! The load: fifty callers, of whom some play, some read what is not here, some look around, and some
//! work.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use r2_model::R2Model;

use crate::common::mount::Mount;
use crate::crash::random::Random;
use crate::crash::{assert_file, noise};

/// What each kind of caller does, and how many there are of it.
const PLAYERS: u64 = 6;
const READERS: u64 = 14;
const LOOKERS: u64 = 10;
const LISTERS: u64 = 6;
const WRITERS: u64 = 8;
/// They play the same from a plain folder: what a busy machine does to a read.
const PLAIN_PLAYERS: u64 = 6;

/// A read of what is here that takes longer is heard.
const LATE: Duration = Duration::from_millis(10);
/// Between two reads of a player: 64 KiB of 24 bit at 48 kHz in stereo are a fifth of a second.
const PLAY_PAUSE: Duration = Duration::from_millis(20);
const PLAY_BYTES: usize = 64 << 10;
const SONG_BYTES: usize = 2 << 20;
const UNREAD: u64 = 200;
const UNREAD_BYTES: usize = 200_000;
/// How often the states of all threads are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What one outage has shown.
#[derive(Default)]
pub(super) struct Seen {
    /// The longest call of each kind.
    waits: BTreeMap<&'static str, Duration>,
    /// The longest time for which a caller was seen where no signal reaches it.
    longest_uninterruptible: Duration,
    pub(super) reads: u64,
    pub(super) late_reads: u64,
    pub(super) late_reads_of_plain_folder: u64,
    calls: u64,
}

impl Seen {
    pub(super) fn longest_wait(&self) -> Duration {
        self.waits.values().copied().max().unwrap_or_default()
    }

    pub(super) fn longest_uninterruptible(&self) -> Duration {
        self.longest_uninterruptible
    }

    /// The longest of a call that asks the bucket nothing: how busy the machine is.
    pub(super) fn longest_local_wait(&self) -> Duration {
        self.waits.get("append").copied().unwrap_or_default()
    }

    fn add(&mut self, other: &Seen) {
        for (kind, wait) in &other.waits {
            let longest = self.waits.entry(kind).or_default();
            *longest = (*longest).max(*wait);
        }
        let longest = &mut self.longest_uninterruptible;
        *longest = (*longest).max(other.longest_uninterruptible);
        self.reads += other.reads;
        self.late_reads += other.late_reads;
        self.late_reads_of_plain_folder += other.late_reads_of_plain_folder;
        self.calls += other.calls;
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls, longest {:?}, in state D {:?}; {} reads of what is here, {} over 10 ms, {} of a \
             plain folder",
            self.calls,
            self.waits,
            self.longest_uninterruptible,
            self.reads,
            self.late_reads,
            self.late_reads_of_plain_folder
        )
    }
}

/// What is where, and what was acknowledged.
pub(super) struct Load {
    seed: u64,
    song: Vec<u8>,
    plain: tempfile::TempDir,
    /// What each writer's files are to hold.
    written: Vec<BTreeMap<String, Vec<u8>>>,
    pub(super) total: Seen,
    rounds: u64,
}

impl Load {
    pub(super) fn new(model: &R2Model, seed: u64) -> Load {
        let load = Load {
            seed,
            song: noise(seed, SONG_BYTES),
            plain: tempfile::tempdir().unwrap(),
            written: (0..WRITERS).map(|_| BTreeMap::new()).collect(),
            total: Seen::default(),
            rounds: 0,
        };
        for number in 0..PLAYERS {
            model.put(&song(number), load.song.clone());
            fs::write(load.plain.path().join(number.to_string()), &load.song).unwrap();
        }
        for number in 0..UNREAD {
            model.put(&unread(number), noise(number, UNREAD_BYTES));
        }
        load
    }

    /// Brings what is to be here.
    pub(super) fn prepare(&self, mount: &Mount) {
        for folder in ["segments", "layers", "rhythms"] {
            fs::read_dir(mount.path(folder)).unwrap().count();
        }
        for number in 0..PLAYERS {
            assert_file(&mount.path(&song(number)), &self.song);
        }
    }

    /// Lets all callers work for so long.
    pub(super) fn run(&mut self, mount: &Mount, time: Duration, moves: bool) -> Seen {
        self.rounds += 1;
        let round = Round {
            root: mount.root(),
            plain: self.plain.path().to_owned(),
            end: Instant::now() + time,
            moves,
            number: self.rounds,
            over: AtomicBool::new(false),
            seen: Mutex::default(),
        };
        let seed = self.seed ^ (self.rounds << 32);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| round.watch());
            let mut callers = Vec::new();
            let round = &round;
            for number in 0..PLAYERS {
                let song = round.root.join(song(number));
                callers.push(scope.spawn(move || round.play(&song, false)));
            }
            for number in 0..PLAIN_PLAYERS {
                let song = round.plain.join(number.to_string());
                callers.push(scope.spawn(move || round.play(&song, true)));
            }
            for number in 0..READERS {
                callers.push(scope.spawn(move || round.read(Random::new(seed ^ number))));
            }
            for number in 0..LOOKERS {
                callers.push(scope.spawn(move || round.look(number)));
            }
            for number in 0..LISTERS {
                callers.push(scope.spawn(move || round.list(number)));
            }
            for (number, files) in self.written.iter_mut().enumerate() {
                let number = number as u64;
                let random = Random::new(seed ^ (number << 16));
                callers.push(scope.spawn(move || round.write(number, files, random)));
            }
            let ended: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
            round.over.store(true, Ordering::Relaxed);
            watching.join().unwrap();
            for end in ended {
                end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        let seen = round.seen.into_inner().unwrap();
        self.total.add(&seen);
        seen
    }

    /// What every writer was told is written.
    pub(super) fn wanted(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.written.iter().flatten();
        files
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect()
    }

    pub(super) fn is_written(&self, key: &str) -> bool {
        key.starts_with("layers/") && !key.ends_with('/')
    }

    /// What is on this disk reads as ever.
    pub(super) fn check_here(&self, mount: &Mount) {
        for number in 0..PLAYERS {
            assert_file(&mount.path(&song(number)), &self.song);
        }
        for (key, bytes) in &self.wanted() {
            assert_file(&mount.path(key), bytes);
        }
    }

    /// What never was here can be read again.
    pub(super) fn check_unread(&self, mount: &Mount) {
        for number in (0..UNREAD).step_by(17) {
            let wanted = noise(number, UNREAD_BYTES);
            assert_file(&mount.path(&unread(number)), &wanted);
        }
    }
}

fn song(number: u64) -> String {
    format!("segments/song-{number}.wav")
}

fn unread(number: u64) -> String {
    format!("segments/unread-{number}.wav")
}

/// How often a thread has gone to sleep.
fn sleeps(task: &Path) -> String {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    let count = status.lines().find(|line| line.starts_with("voluntary"));
    count.unwrap_or_default().to_owned()
}

/// One time under load.
struct Round {
    root: PathBuf,
    plain: PathBuf,
    end: Instant,
    /// Whether the writers rename and delete.
    moves: bool,
    number: u64,
    over: AtomicBool,
    seen: Mutex<Seen>,
}

impl Round {
    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// Makes a call and notes how long it took.
    fn call<T>(&self, kind: &'static str, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = call();
        let took = begun.elapsed();
        let mut seen = self.seen.lock().unwrap();
        seen.calls += 1;
        let longest = seen.waits.entry(kind).or_default();
        *longest = (*longest).max(took);
        result
    }

    fn play(&self, song: &Path, plain: bool) {
        let (mut reads, mut late, mut offset) = (0, 0, 0);
        let mut bytes = vec![0; PLAY_BYTES];
        let mut file = File::open(song).unwrap();
        while self.goes_on() {
            let begun = Instant::now();
            file.read_exact_at(&mut bytes, offset).unwrap();
            late += u64::from(begun.elapsed() > LATE);
            reads += 1;
            offset += PLAY_BYTES as u64;
            if offset as usize >= SONG_BYTES {
                offset = 0;
                file = self.call("open", || File::open(song)).unwrap();
            }
            std::thread::sleep(PLAY_PAUSE);
        }
        let mut seen = self.seen.lock().unwrap();
        match plain {
            true => seen.late_reads_of_plain_folder += late,
            false => {
                seen.reads += reads;
                seen.late_reads += late;
            }
        }
    }

    /// Reads what is not here: bytes that are right, or an error.
    fn read(&self, mut random: Random) {
        while self.goes_on() {
            let number = random.below(UNREAD);
            let path = self.root.join(unread(number));
            if let Ok(bytes) = self.read_whole(&path) {
                assert!(
                    bytes == noise(number, UNREAD_BYTES),
                    "wrong bytes of {number}"
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads a file as programs do, call by call: each waits for itself.
    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = self.call("open", || File::open(path))?;
        let mut whole = Vec::with_capacity(UNREAD_BYTES);
        let mut bytes = vec![0; PLAY_BYTES];
        loop {
            match self.call("read", || file.read(&mut bytes))? {
                0 => return Ok(whole),
                read => whole.extend(&bytes[..read]),
            }
        }
    }

    fn look(&self, caller: u64) {
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("projects/song-{}-{caller}/{number}.rpp", self.number);
            // Nobody made it; whether it is absent may not be known.
            let found = self.call("look", || fs::metadata(self.root.join(name)));
            assert!(found.is_err());
            self.call("statfs", || rustix::fs::statfs(&self.root))
                .unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn list(&self, caller: u64) {
        while self.goes_on() {
            let folder = ["segments", "layers", "rhythms"][caller as usize % 3];
            let count = self.call("list", || {
                fs::read_dir(self.root.join(folder)).map(Iterator::count)
            });
            if folder == "segments" {
                assert_eq!(count.unwrap() as u64, PLAYERS + UNREAD);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Works on files of its own. What is only here needs no bucket, so nothing may fail.
    fn write(&self, writer: u64, files: &mut BTreeMap<String, Vec<u8>>, mut random: Random) {
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let names: Vec<String> = files.keys().cloned().collect();
            let new = format!("layers/{writer}-{}-{number}.wav", self.number);
            let old = (!names.is_empty())
                .then(|| names[random.below(names.len() as u64) as usize].clone());
            match (random.below(8), old) {
                (0 | 1, Some(old)) => {
                    let more = noise(random.below(1000), 1000);
                    self.call("append", || {
                        let mut file = File::options().append(true).open(self.root.join(&old))?;
                        file.write_all(&more)?;
                        file.sync_all()
                    })
                    .unwrap();
                    files.get_mut(&old).unwrap().extend(more);
                }
                (2, Some(old)) if self.moves => {
                    let (from, to) = (self.root.join(&old), self.root.join(&new));
                    self.call("rename", || fs::rename(from, to)).unwrap();
                    let bytes = files.remove(&old).unwrap();
                    files.insert(new, bytes);
                }
                (3, Some(old)) if self.moves => {
                    let path = self.root.join(&old);
                    self.call("delete", || fs::remove_file(path)).unwrap();
                    files.remove(&old);
                }
                _ if files.len() < 40 => {
                    let bytes = noise(random.below(1000), 1 + random.below(60_000) as usize);
                    let path = self.root.join(&new);
                    self.call("create", || fs::write(path, &bytes)).unwrap();
                    files.insert(new, bytes);
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(30 + random.below(50)));
        }
    }

    /// Looks at the states of this process's threads: in `D` no signal reaches them.
    fn watch(&self) {
        let mut since: BTreeMap<(String, String), Instant> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        while !self.over.load(Ordering::Relaxed) {
            let mut now = BTreeMap::new();
            for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
                if state.starts_with('D') {
                    // As long as the count stays, it has not woken in between.
                    let wait = (task.path().display().to_string(), sleeps(&task.path()));
                    let begun = since.get(&wait).copied().unwrap_or_else(Instant::now);
                    longest = longest.max(begun.elapsed());
                    now.insert(wait, begun);
                }
            }
            since = now;
            std::thread::sleep(LOOK_EVERY);
        }
        self.seen.lock().unwrap().longest_uninterruptible = longest;
    }
}
