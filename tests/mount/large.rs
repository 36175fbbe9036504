//! A file that no single request takes: written, uploaded, renamed over a kill, amended, and read by
//! ranges from the bucket. The model compares every byte that arrives with a generator and keeps
//! none, so that a file may be larger than the memory.
//!
//! `LARGE_BYTES` and `CRASH_SEED` choose another run; `LARGE_SECONDS` is how long one step may take.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use r2_model::{Operation, R2Model, generated_bytes};

use crate::common::mount::Mount;
use crate::crash::random::{Random, seed, setting};

const MIB: u64 = 1 << 20;
/// The length in the short form, and what the model takes with one request then.
const SHORT_BYTES: u64 = 120_000_001;
const SHORT_REQUEST_BYTES: u64 = 32 * MIB;
const READS: u64 = 100;

struct Large {
    model: R2Model,
    mount: Mount,
    stream: String,
    size: u64,
    begun: Instant,
}

impl Large {
    /// Waits until everything written is in the bucket, and the object holds every byte.
    fn wait_uploaded(&self, step: &str, key: &str) {
        let limit = Duration::from_secs(setting("LARGE_SECONDS", 120));
        let end = Instant::now() + limit;
        while self.mount.status()["safe_to_shut_down"] != true {
            assert!(Instant::now() < end, "{step}\n{}", self.mount.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = self.mount.status();
        assert_eq!(status["uploads"]["parked"], 0, "{step}: {status:#}");
        let whole = self.model.holds_generated(key, &self.stream, self.size);
        assert!(whole, "{step}: {key} does not hold what was written");
        assert_eq!(self.model.keys(), [key], "{step}");
        self.say(step);
    }

    fn say(&self, step: &str) {
        println!("{:4} s: {step}", self.begun.elapsed().as_secs());
    }

    fn write(&self, key: &str) {
        let mut file = File::create_new(self.mount.path(key)).unwrap();
        let mut at = 0;
        while at < self.size {
            let length = MIB.min(self.size - at);
            let bytes = generated_bytes(&self.stream, at, length as usize);
            file.write_all(&bytes).unwrap();
            at += length;
        }
        drop(file);
        self.say("written");
    }

    /// Kills the mount when the first part of a copy is made.
    fn kill_during_a_copy(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        let is_copy = |operation| operation == Operation::UploadPartCopy;
        while !self.model.requests().iter().any(|r| is_copy(r.operation)) {
            assert!(Instant::now() < end, "no copy\n{}", self.mount.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.mount.kill();
        self.say("killed while it is renamed in the bucket");
        self.mount.mount();
    }

    fn empty_cache(&mut self) {
        self.mount.unmount();
        self.mount.remove_cache();
        self.mount.mount();
    }

    /// Reads here and there, and then from the start to the end.
    fn read(&self, key: &str, seed: u64) {
        let mut random = Random::new(seed);
        let mut file = File::open(self.mount.path(key)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), self.size);
        for _ in 0..READS {
            let length = 1 + random.below(300_000).min(self.size - 1);
            let at = random.below(self.size - length + 1);
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, at).unwrap();
            let wanted = generated_bytes(&self.stream, at, bytes.len());
            assert!(bytes == wanted, "seed {seed}: {length} bytes at {at}");
        }
        self.say("read here and there");
        let (mut at, mut bytes) = (0, vec![0; MIB as usize]);
        loop {
            let length = file.read(&mut bytes).unwrap();
            if length == 0 {
                break;
            }
            let wanted = generated_bytes(&self.stream, at, length);
            assert!(bytes[..length] == wanted, "{length} bytes at {at}");
            at += length as u64;
        }
        assert_eq!(at, self.size);
        self.say("read to its end");
    }

    fn assert_amended(&self, key: &str) {
        let status = fs::metadata(self.mount.path(key)).unwrap();
        assert_eq!(
            (status.mode() & 0o7777, status.mtime()),
            (0o640, 1_234_567_890)
        );
        let metadata = self.model.stat(key).unwrap().metadata;
        assert_eq!(metadata["mode"], 0o640.to_string());
        assert!(metadata["mtime"].starts_with("1234567890."));
    }
}

/// The long form needs `MOUNT_TEST_SECONDS`, and as much room on the disk as the file has.
#[test]
fn a_large_file_is_written_renamed_amended_and_read() {
    let seed = seed();
    let size = setting("LARGE_BYTES", SHORT_BYTES);
    println!("seed {seed}, {size} bytes");
    let mut model = R2Model::builder();
    if size <= SHORT_BYTES {
        model = model.max_request_bytes(SHORT_REQUEST_BYTES);
    }
    let model = model.start();
    let stream = format!("take {seed}");
    model.receive_generated(&stream);
    let mount = Mount::of(&model);
    let begun = Instant::now();
    let mut large = Large {
        model,
        mount,
        stream,
        size,
        begun,
    };
    let (first, second) = ("layers/long.wav", "segments/renamed.wav");
    large.write(first);
    large.wait_uploaded("uploaded", first);

    fs::rename(large.mount.path(first), large.mount.path(second)).unwrap();
    large.kill_during_a_copy();
    large.wait_uploaded("renamed", second);

    let path = large.mount.path(second);
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    File::open(&path).unwrap().set_modified(old).unwrap();
    large.wait_uploaded("amended", second);

    large.empty_cache();
    large.assert_amended(second);
    large.read(second, seed);
    assert_eq!(large.model.open_uploads(), []);
    assert_eq!(large.model.write_rate_violations(), []);
    println!("figures: {size} bytes, {} s", begun.elapsed().as_secs());
}
