//! Cloudflare's emulator (npm `miniflare`, `tests/emulator/`) as a server for one test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Half a second is usual; two busy cores and a cold disk make it several.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long the emulator may take to end when asked, before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A running emulator with one empty bucket. It ends when this is dropped, and when the test is killed.
pub(crate) struct Emulator {
    /// The endpoint for path-style requests; it ends in a slash, and the bucket follows.
    pub(crate) endpoint: String,
    /// The bucket's name.
    pub(crate) bucket: String,
    /// The only access key id that the emulator accepts.
    pub(crate) access_key_id: String,
    /// Its secret.
    pub(crate) secret_access_key: String,
    process: Child,
    /// The emulator ends when this is closed.
    stdin: Option<ChildStdin>,
    /// What it stores; it does not always clean up after itself.
    _folder: TempDir,
}

impl Emulator {
    /// Starts an emulator with the bucket `voicebeat-audio`.
    ///
    /// # Panics
    ///
    /// If it is not installed or does not start: a test that needs it fails rather than pass unseen.
    pub(crate) fn start() -> Emulator {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
        assert!(
            folder.join("node_modules/miniflare").is_dir(),
            "Cloudflare's emulator is not installed: run scripts/test once, or \
             `npm ci --prefix tests/emulator`"
        );
        let bucket = "voicebeat-audio";
        let stored = tempfile::tempdir().expect("the emulator needs a folder");
        let mut process = Command::new(node())
            .arg(folder.join("server.mjs"))
            .arg(bucket)
            .env("TMPDIR", stored.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("node (22 or newer) runs the emulator: run scripts/test once to install it");
        let stdin = process.stdin.take();
        let line = first_line(&mut process);
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", endpoint, access_key_id, secret_access_key] = words[..] else {
            panic!("unexpected line from the emulator: {line:?}");
        };
        Emulator {
            endpoint: endpoint.to_owned(),
            bucket: bucket.to_owned(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            process,
            stdin,
            _folder: stored,
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Closing its input lets it end its own child; killing it at once would leave that running.
        drop(self.stdin.take());
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the node that `scripts/test` installed, if the machine's is too old, else the machine's.
fn node() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/node");
    if own.is_file() { own } else { "node".into() }
}

/// Returns the emulator's first line, and panics with what it wrote to stderr if there is none in time.
fn first_line(process: &mut Child) -> String {
    let stdout = process.stdout.take().expect("stdout is piped");
    let mut stderr = process.stderr.take().expect("stderr is piped");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        let _ = lines.read_line(&mut line);
        let _ = sender.send(line);
        // Read to the end, so that the emulator is never blocked by a full pipe.
        let _ = std::io::copy(&mut lines, &mut std::io::sink());
    });
    let (error_sender, error_receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = (&mut stderr).take(64 << 10).read_to_string(&mut text);
        let _ = error_sender.send(text);
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    });
    let line = receiver.recv_timeout(START_DEADLINE).unwrap_or_default();
    if line.is_empty() {
        let _ = process.kill();
        let _ = process.wait();
        let errors = error_receiver
            .recv_timeout(STOP_DEADLINE)
            .unwrap_or_default();
        panic!("the emulator did not start: {errors}");
    }
    line
}
