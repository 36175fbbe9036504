//! Is the process behind a mount a good citizen? Starting, refusing, ending, dying, and the
//! commands around it, through the real program and real mounts.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_voicebeatfs");

/// Far above what anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A folder with a mount point, settings for the local store, and nothing of the test's own
/// environment. What is still mounted when it is dropped is taken away.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.path("mnt")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("USE_R2_STORAGE", "false")
            .stdin(Stdio::null());
        if let Some(runtime_dir) = std::env::var_os("XDG_RUNTIME_DIR") {
            command.env("XDG_RUNTIME_DIR", runtime_dir);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command(args).output().unwrap())
    }

    fn mount(&self, args: &[&str]) {
        self.run(&[&["mount", "mnt"], args].concat()).succeeded();
        assert!(entry(&self.mnt()).is_some());
    }

    fn status(&self) -> serde_json::Value {
        let ran = self
            .run(&["status", "--json", "--mountpoint", "mnt"])
            .succeeded();
        serde_json::from_str(&ran.stdout()).unwrap()
    }

    fn pid(&self) -> i32 {
        self.status()["pid"].as_i64().unwrap() as i32
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while entry(&self.mnt()).is_some() {
            let detached = Command::new("umount").arg("-l").arg(self.mnt()).status();
            if !detached.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

/// What a command said and how it ended.
struct Ran(Output);

impl Ran {
    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(
            self.0.status.code(),
            Some(0),
            "{}{}",
            self.stdout(),
            self.stderr()
        );
        self
    }

    #[track_caller]
    fn failed(self, code: i32, parts: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.0.status.code(), Some(code), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "\"{part}\" is not in: {stderr}");
        }
    }
}

/// Returns the kernel's line of what is mounted on top at `mountpoint`.
fn entry(mountpoint: &Path) -> Option<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let field = mountpoint.to_str().unwrap();
    list.lines()
        .rfind(|line| line.split(' ').nth(4) == Some(field))
        .map(str::to_string)
}

#[track_caller]
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !reached() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap().trim_start();
    state.is_empty() || state.starts_with('Z')
}

fn signal(pid: i32, number: i32) {
    // SAFETY: a plain system call, on a process that this test has started.
    assert_eq!(unsafe { libc::kill(pid, number) }, 0);
}

/// A program that works in the mount, until it is dropped.
struct User(Child);

impl User {
    fn in_folder(folder: &Path) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "echo here; exec sleep 1000"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        Self(child)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_is_usable_when_the_command_returns_and_gone_when_umount_does() {
    let place = Place::new();
    place.mount(&[]);
    let line = entry(&place.mnt()).unwrap();
    assert!(
        line.contains(" - fuse.voicebeatfs voicebeatfs:local rw"),
        "{line}"
    );
    assert!(fs::metadata(place.mnt()).unwrap().is_dir());
    let status = place.status();
    assert_eq!(status["backend"], "local");
    assert_eq!(status["mountpoint"], place.mnt().to_str().unwrap());
    assert_eq!(status["safe_to_shut_down"], true);
    let human = place
        .run(&["status", "--mountpoint", "mnt"])
        .succeeded()
        .stdout();
    assert!(human.contains("safe to shut down yes"), "{human}");
    let pid = place.pid();
    let descriptors = |fd: &str| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
    for fd in ["0", "1", "2"] {
        assert_eq!(descriptors(fd), Path::new("/dev/null"));
    }
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    place.run(&["umount", "mnt"]).succeeded();
    assert_eq!(entry(&place.mnt()), None);
    assert!(has_ended(pid));
    assert!(!place.path("staging/control.sock").exists());
}

#[test]
fn mounting_and_unmounting_can_follow_at_once() {
    let place = Place::new();
    for _ in 0..10 {
        place.mount(&[]);
        place.run(&["umount", "mnt"]).succeeded();
    }
    // Unmounted by somebody else, our process needs a moment to notice: the next waits for it.
    for _ in 0..10 {
        place.mount(&[]);
        assert!(
            Command::new("umount")
                .arg(place.mnt())
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn one_staging_directory_serves_one_mount() {
    let place = Place::new();
    place.mount(&[]);
    fs::create_dir(place.path("mnt2")).unwrap();
    let pid = place.pid().to_string();
    place
        .run(&["mount", "mnt2"])
        .failed(1, &["STAGING_DIR", &pid, "mnt"]);
    place
        .run(&["mount", "mnt"])
        .failed(1, &["is busy", "mounted there already"]);
    assert_eq!(place.pid().to_string(), pid);
}

#[test]
fn a_mount_point_that_cannot_be_one_is_refused() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    place
        .run(&["mount", "nowhere"])
        .failed(1, &["nowhere does not exist"]);
    place
        .run(&["mount", "file"])
        .failed(1, &["file is not a folder"]);
    place
        .run(&["umount", "mnt"])
        .failed(1, &["mnt is not mounted"]);
    place.run(&["umount", "/proc"]).failed(1, &["type proc"]);
    place
        .run(&["status", "--mountpoint", "mnt"])
        .failed(1, &["no mount of voicebeatfs at mnt"]);
}

#[test]
fn wrong_settings_and_wrong_use_exit_with_2_and_mount_nothing() {
    let place = Place::new();
    place
        .run(&[
            "mount",
            "mnt",
            "-o",
            "cache_ttl_hours=-1,list_ttl_seconds=x",
        ])
        .failed(
            2,
            &[
                "CACHE_TTL_HOURS is \"-1\" (mount option)",
                "LIST_TTL_SECONDS is \"x\"",
                "example:",
            ],
        );
    place
        .run(&["mount", "mnt", "-o", "nope"])
        .failed(2, &["unknown mount option \"nope\""]);
    place
        .run(&["mount", "mnt", "-o", "cache_dir=mnt/c"])
        .failed(2, &["beneath the mount point"]);
    place.run(&["mount"]).failed(2, &["Usage"]);
    place.run(&["stauts"]).failed(2, &["status"]);
    place
        .run(&["mount", "mnt", "--env-file", "none"])
        .failed(2, &["none does not exist"]);
    let mut bare = place.command(&["mount", "mnt"]);
    Ran(bare.env_remove("USE_R2_STORAGE").output().unwrap()).failed(
        2,
        &[
            "R2_BUCKET_NAME is not set",
            "R2_SECRET_ACCESS_KEY is not set",
        ],
    );
    assert_eq!(entry(&place.mnt()), None);
    place.run(&["--version"]).succeeded();
}

#[test]
fn the_form_of_mount8_takes_its_options() {
    let place = Place::new();
    let with = format!(
        "cache_dir={},staging_dir={}",
        place.path("c").display(),
        place.path("s").display()
    );
    let mnt = place.mnt();
    let mut helper = place.command(&[
        "local",
        mnt.to_str().unwrap(),
        "-n",
        "-o",
        "ro,noexec,x-a=b",
    ]);
    helper.arg0("mount.voicebeatfs").args(["-o", &with, "-v"]);
    let said = Ran(helper.output().unwrap()).succeeded().stdout();
    assert!(said.contains("local mounted on"), "{said}");
    let line = entry(&mnt).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
    // What fstab says is found again, so that `mount -a` knows it is mounted.
    assert!(line.contains(" - fuse.voicebeatfs local "), "{line}");
    place.run(&["umount", "mnt"]).succeeded();
    let fake = place.run(&["local", "mnt", "-f", "-o", &with]).succeeded();
    assert_eq!(fake.stdout(), "");
    assert_eq!(entry(&mnt), None);
    place
        .run(&["other", "mnt", "-o", &with])
        .failed(2, &["USE_R2_STORAGE is off"]);
    place
        .run(&["local", "mnt", "-o", "nope"])
        .failed(2, &["\"nope\""]);
}

#[test]
fn a_signal_unmounts() {
    let place = Place::new();
    for number in [libc::SIGTERM, libc::SIGINT] {
        place.mount(&[]);
        let pid = place.pid();
        signal(pid, number);
        wait_until("the process ends", || has_ended(pid));
        assert_eq!(entry(&place.mnt()), None);
    }
}

#[test]
fn in_the_foreground_it_logs_to_the_terminal_and_ends_with_0() {
    let place = Place::new();
    let mut command = place.command(&["mount", "mnt", "--foreground"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    wait_until("mounted", || entry(&place.mnt()).is_some());
    signal(pid, libc::SIGINT);
    let ran = Ran(child.wait_with_output().unwrap()).succeeded();
    assert!(
        ran.stderr().contains("SIGINT: unmounting"),
        "{}",
        ran.stderr()
    );
    assert_eq!(entry(&place.mnt()), None);
}

#[test]
fn a_busy_mount_is_named_with_its_users_and_stays() {
    let place = Place::new();
    place.mount(&[]);
    let user = User::in_folder(&place.mnt());
    let pid = format!("(pid {})", user.0.id());
    place
        .run(&["umount", "mnt"])
        .failed(1, &["mnt is busy: used by", &pid]);
    assert!(entry(&place.mnt()).is_some());
    drop(user);
    place.run(&["umount", "mnt"]).succeeded();
}

#[test]
fn a_busy_mount_is_detached_at_a_signal_and_ends_with_its_last_user() {
    let place = Place::new();
    place.mount(&[]);
    let pid = place.pid();
    let user = User::in_folder(&place.mnt());
    signal(pid, libc::SIGTERM);
    wait_until("the mount is detached", || entry(&place.mnt()).is_none());
    assert!(!has_ended(pid));
    drop(user);
    wait_until("the process ends", || has_ended(pid));
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    place.mount(&[]);
    let pid = place.pid();
    let _user = User::in_folder(&place.mnt());
    let begun = Instant::now();
    signal(pid, libc::SIGTERM);
    wait_until("the mount is detached", || entry(&place.mnt()).is_none());
    signal(pid, libc::SIGTERM);
    wait_until("the process ends", || has_ended(pid));
    // It would have waited 20 s for the user of the detached mount.
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_dead_mount_is_cleared_by_the_next_and_by_umount() {
    let place = Place::new();
    for _ in 0..2 {
        place.mount(&[]);
        let pid = place.pid();
        signal(pid, libc::SIGKILL);
        wait_until("the process ends", || has_ended(pid));
        // Asked in the moment of its death, the kernel says ECONNABORTED.
        wait_until("the mount is dead", || {
            fs::metadata(place.mnt()).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
        });
    }
    place
        .run(&["status", "--mountpoint", "mnt"])
        .failed(1, &["nobody answers"]);
    place.run(&["umount", "mnt"]).succeeded();
    assert_eq!(entry(&place.mnt()), None);
}

#[test]
fn a_log_file_is_opened_anew_at_sighup() {
    let place = Place::new();
    place.mount(&["-o", "log_file=log"]);
    let pid = place.pid();
    let log = |name: &str| fs::read_to_string(place.path(name)).unwrap_or_default();
    assert!(log("log").contains("mounted on"));
    fs::rename(place.path("log"), place.path("log.1")).unwrap();
    signal(pid, libc::SIGHUP);
    wait_until("the file is there again", || place.path("log").exists());
    place.run(&["umount", "mnt"]).succeeded();
    assert!(log("log").contains("was unmounted"), "{}", log("log"));
    assert!(!log("log.1").contains("was unmounted"));
}

#[test]
fn of_several_mounts_one_has_to_be_chosen() {
    let (one, two) = (Place::new(), Place::new());
    one.mount(&[]);
    two.mount(&[]);
    let elsewhere = Place::new();
    let mounts = [one.mnt(), two.mnt()].map(|path| path.to_str().unwrap().to_string());
    elsewhere
        .run(&["status"])
        .failed(2, &["--mountpoint", mounts[0].as_str(), mounts[1].as_str()]);
    let by_settings = one.run(&["status", "--json"]).succeeded().stdout();
    assert!(by_settings.contains(&mounts[0]), "{by_settings}");
    let by_name = two
        .run(&["status", "--json", "--mountpoint", &mounts[0]])
        .succeeded()
        .stdout();
    assert!(by_name.contains(&mounts[0]), "{by_name}");
    // What lies in a mount says which, as an operand of a command that has no paths, as its option,
    // or as one of its paths.
    let inside = format!("{}/layers", mounts[0]);
    for args in [
        &["status", "--json", &mounts[0]][..],
        &["status", "--json", &inside],
        &["status", "--json", "--mountpoint", &inside],
    ] {
        let told = elsewhere.run(args).succeeded().stdout();
        assert!(told.contains(&mounts[0]), "{args:?}: {told}");
    }
    for args in [
        &["conflicts", &mounts[1]][..],
        &["queue", "--mountpoint", &mounts[1]],
        &["queue", "flush", &inside],
        &["cache", "ls", &inside],
        &["trash", "list", &inside],
        &["refresh", &inside],
    ] {
        elsewhere.run(args).succeeded();
    }
    elsewhere
        .run(&["refresh", &mounts[0], &mounts[1]])
        .failed(2, &["several mounts", &mounts[0], &mounts[1]]);
    elsewhere
        .run(&["status", &mounts[0], "--mountpoint", &mounts[1]])
        .failed(2, &["Usage"]);
    elsewhere
        .run(&["status", "."])
        .failed(1, &["no mount of voicebeatfs at ."]);
}

#[test]
fn umount_can_wait_for_the_bucket() {
    let place = Place::new();
    place.mount(&[]);
    place.run(&["umount", "mnt", "--wait=30"]).succeeded();
    assert_eq!(entry(&place.mnt()), None);
}
