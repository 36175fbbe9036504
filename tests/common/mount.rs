//! A mounted file system for one test: the real binary on a folder of its own, cleaned up also
//! after a panic.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything of the harness may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// A mount by a child process, with settings in an env file.
pub(crate) struct Mount {
    dir: TempDir,
    settings: Vec<(String, String)>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    loses_commits: bool,
    daemon: Option<Child>,
    watchdog: Option<mpsc::Sender<()>>,
}

impl Mount {
    /// Mounts the local store.
    pub(crate) fn local() -> Mount {
        Mount::start(&[("USE_R2_STORAGE", "false")])
    }

    /// Mounts a bucket of the model server.
    pub(crate) fn of(model: &r2_model::R2Model) -> Mount {
        Mount::with(model, &[])
    }

    /// Mounts a bucket of the model server, with settings.
    pub(crate) fn with(model: &r2_model::R2Model, settings: &[(&str, &str)]) -> Mount {
        Mount::start(&[&model_settings(model), &owned(settings)[..]].concat_pairs())
    }

    /// Mounts with these settings above those that every test needs.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Mount {
        let mut mount = Mount::prepare(settings);
        mount.mount();
        mount
    }

    /// Makes the folders and the settings, without mounting.
    pub(crate) fn prepare(settings: &[(&str, &str)]) -> Mount {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: tests mount for real"
        );
        let dir = tempfile::Builder::new()
            .prefix("voicebeatfs-test-")
            .tempdir()
            .unwrap();
        for folder in ["mnt", "samples"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let mut all = owned(&[
            ("WRITE_BACK_SECONDS", "0.2"),
            ("LIST_TTL_SECONDS", "30"),
            // Tests count requests and objects; those of the trash switch it on.
            ("TRASH_COLLECTIONS", "none"),
            // And those of the warming this.
            ("WARM_MAX_BYTES", "0"),
            // Tests say when something is uploaded; those of the drain switch it on.
            ("DRAIN_SECONDS", "0"),
        ]);
        // Those that do not say which I/O mode they are about are run in each (`scripts/soak fallback`).
        if let Ok(passthrough) = std::env::var("MOUNT_TEST_PASSTHROUGH") {
            all.push(("PASSTHROUGH".to_owned(), passthrough));
        }
        for (name, value) in settings {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        Mount {
            dir,
            settings: all,
            options: Vec::new(),
            environment: Vec::new(),
            loses_commits: false,
            daemon: None,
            watchdog: None,
        }
    }

    /// Changes a setting for the next mount.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Adds a mount option for the next mount.
    pub(crate) fn option(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// Sets a variable of the environment of what is run from now on.
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The next mount loses every commit of its journal; debug builds can do that.
    pub(crate) fn lose_commits(&mut self) {
        self.loses_commits = true;
    }

    /// Mounts, and waits until it answers.
    pub(crate) fn mount(&mut self) {
        if let Err(error) = self.try_mount() {
            panic!("mount failed: {error}\n{}", self.log());
        }
    }

    /// Mounts in the foreground in a child process; the error is what it printed.
    pub(crate) fn try_mount(&mut self) -> Result<(), String> {
        assert!(self.daemon.is_none(), "mounted already");
        self.write_env_file();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = self.command();
        command.arg("mount").arg("--foreground").arg(self.root());
        if !self.options.is_empty() {
            command.arg("-o").arg(self.options.join(","));
        }
        if self.loses_commits {
            command.env("VOICEBEATFS_TEST_LOSE_COMMITS", "1");
        }
        if let Ok(level) = std::env::var("TEST_LOG") {
            command.env("RUST_LOG", level);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut daemon = command.spawn().unwrap();
        let end = Instant::now() + DEADLINE;
        while !answers(&self.root()) {
            if let Some(status) = daemon.try_wait().unwrap() {
                return Err(format!("{status}: {}", self.log()));
            }
            assert!(Instant::now() < end, "not mounted in time: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.watchdog = Some(watch(daemon.id(), self.root()));
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Writes the settings; mounting does it by itself.
    pub(crate) fn write_env_file(&self) {
        let text: String = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name}='{value}'\n"))
            .collect();
        let path = self.env_file();
        fs::write(&path, text).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The env file; relative directories in it count from the test's own folder.
    pub(crate) fn env_file(&self) -> PathBuf {
        self.dir.path().join("env")
    }

    /// The binary with the env file and nothing of this process's own settings.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voicebeatfs"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().cloned());
        command.current_dir(self.dir.path());
        command.arg("--env-file").arg(self.env_file());
        command
    }

    /// Runs a command of the binary.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let output = self.command().args(args).output().unwrap();
        for said in [&output.stdout, &output.stderr] {
            self.check_no_secret(&args.join(" "), &String::from_utf8_lossy(said));
        }
        output
    }

    /// Every test of the suite that mounts or runs a command looks whether a secret is told.
    fn check_no_secret(&self, whose: &str, text: &str) {
        for (name, value) in &self.settings {
            // The short ones that some tests give are words of the language.
            // A signed link has to name who signed it.
            let is_secret = name == "R2_SECRET_ACCESS_KEY"
                || (name == "R2_ACCESS_KEY_ID" && !text.contains("X-Amz-Credential"));
            let is_secret = is_secret && value.len() >= 16;
            assert!(
                !(is_secret && text.contains(value.as_str())),
                "{whose} tells {name}:\n{text}"
            );
        }
    }

    /// The same for what everybody on the machine sees of the process, and for its log.
    fn check_process_and_log(&self) {
        if let Some(daemon) = &self.daemon {
            let cmdline = fs::read(format!("/proc/{}/cmdline", daemon.id())).unwrap_or_default();
            self.check_no_secret("the command line", &String::from_utf8_lossy(&cmdline));
        }
        self.check_no_secret("the log", &self.log());
        for folder in ["", "staging", "cache"] {
            self.check_files_in(&self.beside(folder));
        }
    }

    /// The same for the files that are about to go with the test's folder: logs, bundles, metrics, lists
    /// and databases. The settings are where secrets belong, and bytes of tests are no words of ours.
    fn check_files_in(&self, folder: &Path) {
        let belongs = |name: &str| {
            let ends = [".cache", ".staged", ".wav"];
            name == "env" || ends.iter().any(|end| name.ends_with(end))
        };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_file()) && !belongs(&name) {
                let content = fs::read(entry.path()).unwrap_or_default();
                self.check_no_secret(&name, &String::from_utf8_lossy(&content));
            }
        }
    }

    /// The mount point.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path in the mount.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root().join(relative)
    }

    /// A path in the test's own folder: `cache`, `staging`, `output`, `samples`.
    pub(crate) fn beside(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").id()
    }

    /// What the daemon has logged so far, over all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `status --json` of the mount.
    pub(crate) fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        assert!(
            output.status.success(),
            "status: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        serde_json::from_slice(&output.stdout).expect("status prints JSON")
    }

    /// Waits until everything written is in the bucket.
    pub(crate) fn wait_uploaded(&self) {
        self.wait_for("everything is uploaded", |status| {
            status["safe_to_shut_down"] == true
        });
    }

    /// Waits until the status is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let end = Instant::now() + DEADLINE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{what}: not in time: {status:#}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the daemon as a power switch would for the process: SIGKILL, and takes the dead mount
    /// away.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        self.watchdog = None;
        detach(&self.root());
    }

    /// Leaves the dead mount of a killed daemon in place.
    pub(crate) fn kill_and_leave(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        self.watchdog = None;
    }

    /// Unmounts with the command and waits for the daemon's end.
    pub(crate) fn unmount(&mut self) {
        let output = self.run(&["umount", self.root().to_str().unwrap()]);
        assert!(
            output.status.success(),
            "umount: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        self.wait_end();
    }

    /// Unmounts as anybody may, and hands over the daemon, which goes on by itself.
    pub(crate) fn unmount_and_leave(&mut self) -> Child {
        let unmounted = Command::new("umount").arg(self.root()).status().unwrap();
        assert!(unmounted.success(), "{}", self.log());
        self.watchdog = None;
        self.daemon.take().expect("mounted")
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn wait_end(&mut self) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().expect("mounted");
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = daemon.kill();
                panic!("the daemon did not end: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.watchdog = None;
        status
    }

    /// Unmounts and mounts again.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Removes the cache directory; the mount may be running.
    pub(crate) fn remove_cache(&self) {
        let _ = fs::remove_dir_all(self.beside("cache"));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the mount\n{}", self.log());
        } else {
            self.check_process_and_log();
        }
        self.watchdog = None;
        detach(&self.root());
        if let Some(mut daemon) = self.daemon.take() {
            let end = Instant::now() + Duration::from_secs(5);
            while daemon.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > end {
                    let _ = daemon.kill();
                    let _ = daemon.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Settings that reach a model server.
pub(crate) fn model_settings(model: &r2_model::R2Model) -> Vec<(String, String)> {
    owned(&[
        ("USE_R2_STORAGE", "true"),
        ("FALLBACK_TO_LOCAL", "false"),
        ("R2_ENDPOINT_URL", &model.endpoint()),
        ("R2_BUCKET_NAME", model.bucket()),
        ("R2_ACCESS_KEY_ID", model.access_key()),
        ("R2_SECRET_ACCESS_KEY", model.secret_key()),
        ("R2_ACCOUNT_ID", "0123456789abcdef0123456789abcdef"),
    ])
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

trait ConcatPairs {
    fn concat_pairs(&self) -> Vec<(&str, &str)>;
}

impl ConcatPairs for [&[(String, String)]; 2] {
    fn concat_pairs(&self) -> Vec<(&str, &str)> {
        self.iter()
            .flat_map(|pairs| pairs.iter())
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

/// Whether something is mounted there, without touching it.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let mut mounts = String::new();
    fs::File::open("/proc/self/mounts")
        .unwrap()
        .read_to_string(&mut mounts)
        .unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == path.to_str())
}

/// The type that statfs(2) tells of a FUSE mount (Linux: `include/uapi/linux/magic.h`).
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// Whether something is mounted there whose process lives.
fn answers(path: &Path) -> bool {
    // Asks the process: the attributes of the root the kernel may remember from one that is dead. And
    // while that one makes way for the next, the folder below shows for a moment.
    rustix::fs::statfs(path).is_ok_and(|status| status.f_type == FUSE_SUPER_MAGIC)
}

/// Detaches whatever is mounted there.
fn detach(path: &Path) {
    while is_mount_point(path) {
        let detached = Command::new("fusermount3").arg("-uz").arg(path).output();
        if !detached.is_ok_and(|output| output.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(path).output();
        }
    }
}

/// A test that hangs on a mount would never end: after a while the daemon is killed, so that every
/// call on the mount fails and the test with it.
fn watch(pid: u32, root: PathBuf) -> mpsc::Sender<()> {
    let limit = std::env::var("MOUNT_TEST_SECONDS").map_or(600, |text| text.parse().unwrap());
    let limit = Duration::from_secs(limit);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!(
                "watchdog: the mount on {} hangs; killing {pid}",
                root.display()
            );
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
            detach(&root);
        }
    });
    sender
}
