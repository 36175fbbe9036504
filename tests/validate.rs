//! Does the program tell what is wrong with a bucket, when it validates and when it mounts?

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use r2_model::{Connections, Fault, FaultRule, Permission, R2Model, Token};

const PROGRAM: &str = env!("CARGO_BIN_EXE_voicebeatfs");

/// What a run of the program is given: a server, and what differs from the right settings for it.
struct Case {
    folder: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Case {
    fn new(model: &R2Model) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let settings = vec![
            ("R2_ENDPOINT_URL", model.endpoint()),
            ("R2_BUCKET_NAME", model.bucket().to_string()),
            ("R2_ACCESS_KEY_ID", model.access_key().to_string()),
            ("R2_SECRET_ACCESS_KEY", model.secret_key().to_string()),
        ];
        Self { folder, settings }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let settings = self
            .settings
            .iter()
            .map(|(name, value)| (name, value.as_str()));
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(settings)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Both commands fail and say the same.
    #[track_caller]
    fn refused(&self, begin: &str) {
        for args in [&["validate"][..], &["mount", "mnt"]] {
            let ran = self.run(args);
            let stderr = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(1), "{args:?}: {stderr}");
            assert!(
                stderr.starts_with(&format!("voicebeatfs: {begin}")),
                "{args:?}: {stderr}"
            );
            let secret = &self
                .settings
                .iter()
                .rfind(|(name, _)| name.contains("SECRET"))
                .unwrap()
                .1;
            assert!(!stderr.contains(secret.as_str()));
        }
    }

    /// `validate` fails; the mount works from what is here, and says why.
    #[track_caller]
    fn unreachable(&self, begin: &str) {
        let ran = self.run(&["validate"]);
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.starts_with(&format!("voicebeatfs: {begin}")),
            "{stderr}"
        );
        let mounted = self.run(&["mount", "mnt"]);
        let stderr = String::from_utf8(mounted.stderr).unwrap();
        assert_eq!(mounted.status.code(), Some(0), "{stderr}");
        assert!(
            stderr.contains(&format!("working without the bucket: {begin}")),
            "{stderr}"
        );
        let unmounted = self.run(&["umount", "mnt"]);
        assert_eq!(unmounted.status.code(), Some(0));
    }
}

#[test]
fn a_bucket_in_order_is_said_to_be() {
    let model = R2Model::start();
    let ran = Case::new(&model).run(&["validate"]);
    let stdout = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(
        ran.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(stdout.contains("rights:   list, read, write"), "{stdout}");
    // Nothing was written to find out.
    assert_eq!(model.keys(), Vec::<String>::new());
}

#[test]
fn key_secret_rights_and_bucket_are_told_apart() {
    let model = R2Model::start();
    let elsewhere = Token::new("other-key", "other-secret", Permission::ObjectReadWrite);
    model.add_token(elsewhere.for_buckets(&["elsewhere"]));
    Case::new(&model)
        .with("R2_ACCESS_KEY_ID", "unknown")
        .refused("access key unknown");
    Case::new(&model)
        .with("R2_SECRET_ACCESS_KEY", "hunter2")
        .refused("secret wrong");
    Case::new(&model)
        .with("R2_BUCKET_NAME", "no-such-one")
        .refused("no such bucket");
    Case::new(&model)
        .with("R2_ACCESS_KEY_ID", "other-key")
        .with("R2_SECRET_ACCESS_KEY", "other-secret")
        .refused("no right to this bucket");
}

#[test]
fn a_clock_that_is_off_is_told() {
    let model = R2Model::start();
    model.add_fault(FaultRule::new(Fault::error("RequestTimeTooSkewed")));
    Case::new(&model).refused("clock is off by");
}

#[test]
fn a_token_that_only_reads_is_told() {
    let model = R2Model::start();
    model.add_token(Token::new(
        "reader",
        "reader-secret",
        Permission::ObjectReadOnly,
    ));
    let case = Case::new(&model)
        .with("R2_ACCESS_KEY_ID", "reader")
        .with("R2_SECRET_ACCESS_KEY", "reader-secret");
    let ran = case.run(&["validate"]);
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(stderr.contains("no right to write"), "{stderr}");
}

#[test]
fn a_server_that_cannot_be_reached_is_told_and_mounted_without() {
    let model = R2Model::start();
    model.set_connections(Connections::Refuse);
    Case::new(&model).unreachable("connection refused");
    Case::new(&model)
        .with("R2_ENDPOINT_URL", "https://no-such-host.invalid")
        .unreachable("no network, or a wrong name");
}

#[test]
fn a_server_that_is_silent_ends_the_wait() {
    let model = R2Model::start();
    model.set_connections(Connections::BlackHole);
    let begun = Instant::now();
    Case::new(&model)
        .with("REQUEST_DEADLINE_SECONDS", "1")
        .unreachable("no network: no answer");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_mount_whose_command_was_killed_is_not_kept() {
    let model = R2Model::start();
    model.set_connections(Connections::BlackHole);
    let case = Case::new(&model).with("REQUEST_DEADLINE_SECONDS", "2");
    let mut command = case.command(&["mount", "mnt"]).spawn().unwrap();
    let lock = case.folder.path().join("staging/lock");
    let is_held = || {
        let Ok(file) = fs::File::open(&lock) else {
            return false;
        };
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    };
    wait_until("the background process has begun", is_held);
    command.kill().unwrap();
    command.wait().unwrap();
    wait_until("the background process has ended", || !is_held());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(case.folder.path().to_str().unwrap()));
}

#[track_caller]
fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_local_store_is_validated_too() {
    let model = R2Model::start();
    let case = Case::new(&model).with("USE_R2_STORAGE", "false");
    let ran = case.run(&["validate"]);
    let stdout = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert!(stdout.contains("store:    local, in "), "{stdout}");
}
