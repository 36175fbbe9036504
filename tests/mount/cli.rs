//! The commands around a working mount: what they tell, what they wait for, and what they never
//! tell. Starting and ending without a bucket is in `tests/process.rs`, a bucket that cannot be
//! used in `tests/validate.rs`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, Permission, R2Model, Token};
use serde_json::Value;

use crate::common::mount::{DEADLINE, Mount, is_mount_point, model_settings};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every PUT takes so long.
fn slow_uploads(model: &R2Model, time: Duration) {
    model.add_fault(FaultRule::new(Fault::latency(time)).on(&[Operation::PutObject]));
}

#[test]
fn every_wrong_setting_is_named_with_its_value_and_an_example() {
    let wrong = [
        ("R2_ACCOUNT_ID", "my-account"),
        ("R2_BUCKET_NAME", "My Bucket"),
        ("R2_ENDPOINT_URL", "ftp://127.0.0.1"),
        ("R2_JURISDICTION", "mars"),
        ("USE_R2_STORAGE", "maybe"),
        ("FALLBACK_TO_LOCAL", "2"),
        ("CACHE_DIR", "~/cache"),
        ("CACHE_TTL_HOURS", "0"),
        ("CACHE_MAX_BYTES", "50 apples"),
        ("CACHE_MIN_FREE_BYTES", "-1"),
        ("ALERT_CACHE_BYTES", "lots"),
        ("STAGING_DIR", "~/staging"),
        ("OUTPUT_DIR", "~/output"),
        ("SAMPLES_DIR", "~/samples"),
        ("CATALOG_FILE", "~/samples.json"),
        ("WRITE_BACK_SECONDS", "soon"),
        ("UPLOAD_CONCURRENCY", "0"),
        ("LIST_TTL_SECONDS", "1e99"),
        ("REQUEST_DEADLINE_SECONDS", "0"),
        ("COLLECTIONS", "a/b"),
        ("PASSTHROUGH", "perhaps"),
        ("LOG_FILE", "~/log"),
        ("METRICS_ADDR", "everywhere"),
        ("METRICS_FILE", "metrics.txt"),
    ];
    for (name, value) in wrong {
        let settings = [
            ("R2_ACCOUNT_ID", "0123456789abcdef0123456789abcdef"),
            ("R2_ACCESS_KEY_ID", "key"),
            ("R2_SECRET_ACCESS_KEY", "secret"),
            ("R2_BUCKET_NAME", "voicebeat-audio"),
        ];
        let mut mount = Mount::prepare(&settings);
        mount.set(name, value);
        mount.write_env_file();
        for args in [&["validate"][..], &["mount", "mnt"]] {
            let output = mount.run(args);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{name}: {said}");
            assert!(said.contains(&format!("{name} is \"{value}\"")), "{said}");
            assert!(said.contains(&format!("example: {name}=")), "{said}");
            assert!(said.contains("/env:"), "it says where it stands: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn every_missing_setting_is_named_with_an_example() {
    let needed = [
        ("R2_ACCOUNT_ID", "0123456789abcdef0123456789abcdef"),
        ("R2_ACCESS_KEY_ID", "key"),
        ("R2_SECRET_ACCESS_KEY", "secret"),
        ("R2_BUCKET_NAME", "voicebeat-audio"),
    ];
    for (missing, _) in needed {
        let others: Vec<_> = needed
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        let mount = Mount::prepare(&others);
        mount.write_env_file();
        for args in [&["validate"][..], &["mount", "mnt"]] {
            let output = mount.run(args);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("{missing} is not set")), "{said}");
            assert!(said.contains(&format!("example: {missing}=")), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn status_tells_what_has_happened() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", vec![1; 300_000]);
    let mount = Mount::of(&model);
    // What was asked before it was mounted is not counted.
    model.clear_requests();
    for _ in 0..3 {
        fs::read(mount.path("segments/theirs.wav")).unwrap();
    }
    for number in 0..3 {
        fs::write(mount.path(&format!("layers/{number}.wav")), [2; 10_000]).unwrap();
    }
    mount.wait_uploaded();
    // Uploaded files move into the cache behind, and a listing may still be under way.
    mount.wait_for("all are in the cache", |status| {
        status["cache"]["files"] == 4
    });
    mount.wait_for("the costs are those of the model", |status| {
        let costs = model.costs();
        let told = &status["operations"];
        told["class_a"] == costs.class_a
            && told["class_b"] == costs.class_b
            && told["free"] == costs.free
    });
    let status = mount.status();
    for (name, expected) in [
        ("/version", env!("CARGO_PKG_VERSION").into()),
        ("/mountpoint", mount.root().to_str().unwrap().into()),
        ("/backend", "r2".into()),
        ("/source", "voicebeat-audio".into()),
        ("/pid", mount.pid().into()),
        ("/online", true.into()),
        ("/safe_to_shut_down", true.into()),
        ("/cache/bytes", 330_000.into()),
        ("/cache/files", 4.into()),
        ("/cache/hits", 2.into()),
        ("/cache/misses", 1.into()),
        ("/cache/hit_rate", (2.0 / 3.0).into()),
        ("/uploads/queued", 0.into()),
        ("/uploads/queued_bytes", 0.into()),
        ("/uploads/active", 0.into()),
        ("/uploads/failed", 0.into()),
        ("/uploads/parked", 0.into()),
        ("/uploads/oldest_seconds", Value::Null),
        ("/uploads/done", 3.into()),
        ("/conflicts", 0.into()),
        ("/alerts", Value::Array(Vec::new())),
    ] {
        assert_eq!(status.pointer(name), Some(&expected), "{name}: {status:#}");
    }
    assert!(status["cache"]["max_bytes"].as_u64() > Some(0));
    assert!(status["operations"]["usd_per_month"].as_f64() > Some(0.0));
    let told = stdout(&mount.run(&["status"]));
    for part in [
        "voicebeat-audio on ",
        "r2, online",
        "330.0 KB of ",
        "67 % hits (2 of 3)",
        "nothing waits, 3 done",
        "yes, everything is in the bucket",
    ] {
        assert!(told.contains(part), "\"{part}\" is not in:\n{told}");
    }
}

#[test]
fn umount_waits_for_a_slow_bucket_as_long_as_it_is_told_to() {
    let model = R2Model::start();
    slow_uploads(&model, Duration::from_secs(2));
    let mut mount = Mount::of(&model);
    fs::write(mount.path("segments/take.wav"), [1; 100_000]).unwrap();
    let status = mount.status();
    assert_eq!(status["safe_to_shut_down"], false);
    assert_eq!(status["uploads"]["queued"], 1);
    assert_eq!(status["uploads"]["queued_bytes"], 100_000);
    let told = stdout(&mount.run(&["status"]));
    assert!(told.contains("1 wait (100.0 KB"), "{told}");
    assert!(
        told.contains("safe to shut down no, 1 files, 100.0 KB"),
        "{told}"
    );

    let root = mount.root();
    let output = mount.run(&["umount", root.to_str().unwrap(), "--wait=0.1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("stays mounted: "), "{said}");
    assert!(is_mount_point(&root) && model.keys().is_empty());

    let output = mount.run(&["umount", root.to_str().unwrap(), "--wait"]);
    assert!(output.status.success(), "{}", stderr(&output));
    // It is in the bucket in this moment, not some time later.
    assert_eq!(
        model.get("segments/take.wav").unwrap().bytes,
        vec![1; 100_000]
    );
    assert!(!is_mount_point(&root));
    assert!(mount.wait_end().success());
}

#[test]
fn however_a_mount_ends_its_queue_is_there_for_the_next() {
    let model = R2Model::start();
    let unavailable = Fault::error("ServiceUnavailable");
    model.add_fault(FaultRule::new(unavailable).on(&[Operation::PutObject]));
    let mut mount = Mount::of(&model);
    for (number, end) in ["umount", "a signal", "two signals"]
        .into_iter()
        .enumerate()
    {
        fs::write(mount.path(&format!("segments/{number}.wav")), [3; 50_000]).unwrap();
        if end == "two signals" {
            // The first would wait for what is on its way.
            model.clear_faults();
            slow_uploads(&model, Duration::from_secs(600));
            mount.wait_for("on its way", |status| status["uploads"]["active"] != 0);
        } else {
            mount.wait_for("tried", |status| status["uploads"]["failed"] != 0);
        }
        let begun = Instant::now();
        match end {
            "umount" => mount.unmount(),
            _ => {
                signal(mount.pid(), libc::SIGTERM);
                if end == "two signals" {
                    while is_mount_point(&mount.root()) {
                        assert!(begun.elapsed() < Duration::from_secs(10));
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    signal(mount.pid(), libc::SIGTERM);
                }
                mount.wait_end();
                assert!(!is_mount_point(&mount.root()));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{end}");
        mount.mount();
        assert_eq!(mount.status()["uploads"]["queued"], number + 1);
    }
    model.clear_faults();
    mount.wait_uploaded();
    let keys = model.keys();
    assert_eq!(keys, ["segments/0.wav", "segments/1.wav", "segments/2.wav"]);
}

fn signal(pid: u32, number: i32) {
    // SAFETY: a plain system call, on a process that this test has started.
    assert_eq!(unsafe { libc::kill(pid as i32, number) }, 0);
}

/// As mount(8) does it for a line of fstab: its helper for FUSE finds the program by the type. Only
/// the helper can be told to look for it where the tests have it.
#[test]
fn the_helper_of_mount8_mounts_and_umount8_unmounts() {
    let model = R2Model::start();
    model.put("band/projects/song.rpp", "ours");
    model.put("projects/song.rpp", "somebody else's");
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set("CACHE_DIR", "cache");
    mount.set("STAGING_DIR", "staging");
    mount.write_env_file();
    let program = Path::new(env!("CARGO_BIN_EXE_voicebeatfs"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let source = format!("{}/band", model.bucket());
    let options = format!(
        "rw,_netdev,nofail,noatime,env_file={}",
        mount.env_file().display()
    );
    let output = Command::new("/sbin/mount.fuse3")
        .args([&source, mount.root().to_str().unwrap(), "-o", &options])
        .args(["-t", "fuse.voicebeatfs"])
        .env_clear()
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    // It is usable in this moment.
    assert_eq!(fs::read(mount.path("projects/song.rpp")).unwrap(), b"ours");
    fs::write(mount.path("layers/new.wav"), "new").unwrap();
    let status = mount.status();
    assert_eq!(status["source"], source.as_str());
    mount.wait_uploaded();
    assert_eq!(model.get("band/layers/new.wav").unwrap().bytes, "new");
    let pid = status["pid"].as_u64().unwrap();
    let umount = Command::new("umount").arg(mount.root()).output().unwrap();
    assert!(umount.status.success(), "{}", stderr(&umount));
    let end = Instant::now() + DEADLINE;
    while is_running(pid) {
        assert!(Instant::now() < end, "the process has not ended");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_running(pid: u64) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}

const SECRET: &str = "canary-of-the-secret-access-key";
const SESSION: &str = "canary-of-the-session-token";

/// A whole session with everything logged that can be, failures included: nothing that is printed,
/// logged, left on disk or shown of the process has a secret in it.
#[test]
fn no_secret_is_told_anywhere() {
    for level in ["debug", "trace"] {
        let model = R2Model::start();
        let token = Token::new("temporary-key", SECRET, Permission::ObjectReadWrite);
        model.add_token(token.session(SESSION, Duration::from_secs(3600)));
        model.put("segments/theirs.wav", vec![1; 100_000]);
        let mut mount = Mount::prepare(&[]);
        for (name, value) in model_settings(&model) {
            mount.set(&name, &value);
        }
        mount.set("R2_ACCESS_KEY_ID", "temporary-key");
        mount.set("R2_SECRET_ACCESS_KEY", SECRET);
        mount.set("R2_SESSION_TOKEN", SESSION);
        mount.set("LOG_FILE", "session.log");
        mount.write_env_file();
        let run = |mount: &Mount, args: &[&str]| {
            let output = mount.command().args(args).env("RUST_LOG", level).output();
            let output = output.unwrap();
            (output.status.success(), stdout(&output) + &stderr(&output))
        };
        let mut said = String::new();
        for args in [&["validate"][..], &["mount", "mnt"]] {
            let (done, text) = run(&mount, args);
            assert!(done, "{text}");
            said += &text;
        }
        // The first read fails, and the first upload.
        for (fault, operation) in [
            (Fault::error("AccessDenied"), Operation::GetObject),
            (Fault::error("InternalError"), Operation::PutObject),
        ] {
            model.add_fault(FaultRule::new(fault).on(&[operation]).once());
        }
        let _ = fs::read(mount.path("segments/theirs.wav"));
        assert_eq!(
            fs::read(mount.path("segments/theirs.wav")).unwrap().len(),
            100_000
        );
        fs::write(mount.path("layers/ours.wav"), [2; 1000]).unwrap();
        mount.wait_for("uploaded", |status| status["uploads"]["done"] == 1);
        for args in [
            &["status"][..],
            &["status", "--json"],
            &["queue"],
            &["conflicts"],
            &["trash"],
            &["refresh"],
            &["doctor", "--json", "--bundle", "bundle"],
            &["fstab", "mnt"],
        ] {
            said += &run(&mount, args).1;
        }
        said += &fs::read_to_string(mount.beside("bundle")).unwrap();
        // A link has to name the session that it was signed in, and is printed on demand alone.
        let link = run(&mount, &["share", "segments/theirs.wav"]).1;
        assert!(link.contains("X-Amz-Signature") && !link.contains(SECRET));
        let pid = mount.status()["pid"].clone();
        for shown in ["cmdline", "environ", "comm"] {
            let bytes = fs::read(format!("/proc/{pid}/{shown}")).unwrap();
            said += &String::from_utf8_lossy(&bytes);
        }
        // From now on it is refused.
        model.revoke("temporary-key");
        let _ = fs::read_dir(mount.path("rhythms")).map(Iterator::count);
        fs::write(mount.path("layers/late.wav"), [3; 1000]).unwrap();
        mount.wait_for("refused", |status| {
            status["uploads"]["failed"] != 0 || status["uploads"]["parked"] != 0
        });
        said += &run(&mount, &["queue"]).1;
        said += &run(&mount, &["umount", "mnt"]).1;
        said += &run(&mount, &["validate"]).1;
        said += &run(&mount, &["mount", "mnt"]).1;
        let log = fs::read_to_string(mount.beside("session.log")).unwrap();
        assert!(log.contains("Uploaded layers/ours.wav to R2"), "{log}");
        assert!(log.contains("DEBUG"), "{log}");
        assert!(!log.contains("X-Amz-Signature"), "a link is in the log");
        said += &log;
        for canary in [SECRET, SESSION] {
            let at = said.find(canary);
            let around = |at: usize| said[at.saturating_sub(300)..at].to_owned();
            assert_eq!(at.map(around), None, "{canary} was told after this");
            // Where it was put it is found, and nowhere else.
            let found = files_with(mount.env_file().parent().unwrap(), canary.as_bytes());
            assert_eq!(found, [mount.env_file()]);
        }
    }
}

#[test]
fn an_outage_is_told_of_when_it_begins_and_when_it_ends() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("REQUEST_DEADLINE_SECONDS", "1")]);
    model.stop();
    for collection in ["layers", "rhythms"] {
        assert!(fs::read_dir(mount.path(collection)).is_err());
        assert!(fs::metadata(mount.path(collection).join("none.wav")).is_err());
    }
    model.restart();
    let end = Instant::now() + DEADLINE;
    while fs::read_dir(mount.path("layers")).is_err() {
        assert!(Instant::now() < end, "{}", mount.log());
    }
    mount.unmount();
    let log = mount.log();
    let told = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(
        told("what is here is served until it answers again"),
        1,
        "{log}"
    );
    assert_eq!(told("the store answers again"), 1, "{log}");
    // One of the many calls that failed is named.
    assert_eq!(told("WARN"), 2, "{log}");
}

/// The files below a folder that have these bytes in them.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else {
            let content = fs::read(&path).unwrap_or_default();
            if content.windows(bytes.len()).any(|window| window == bytes) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_log_of_a_session_has_one_line_for_each_thing_that_happened() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", vec![1; 100_000]);
    let mut mount = Mount::of(&model);
    fs::read(mount.path("segments/theirs.wav")).unwrap();
    fs::create_dir(mount.path("projects/song")).unwrap();
    fs::write(mount.path("projects/song/a.wav"), [2; 1000]).unwrap();
    fs::copy(
        mount.path("projects/song/a.wav"),
        mount.path("projects/song/b.wav"),
    )
    .unwrap();
    mount.wait_uploaded();
    fs::rename(
        mount.path("projects/song/b.wav"),
        mount.path("layers/b.wav"),
    )
    .unwrap();
    fs::remove_file(mount.path("projects/song/a.wav")).unwrap();
    mount.wait_uploaded();
    mount.unmount();
    let log = mount.log();
    let mut said: Vec<&str> = log
        .lines()
        .map(|line| line.split_once("] ").unwrap_or(("", line)).1)
        .collect();
    said.sort_unstable();
    let mut expected = [
        "voicebeat-audio mounted on ",
        "Uploaded projects/song/a.wav to R2 (1000 bytes, ",
        "Uploaded projects/song/b.wav to R2 (1000 bytes, ",
        // In the bucket a rename is a copy, and then a delete.
        "Renamed projects/song/b.wav to layers/b.wav",
        "Deleted projects/song/b.wav",
        "Deleted projects/song/a.wav",
        " was unmounted",
    ];
    expected.sort_unstable();
    assert_eq!(said.len(), expected.len(), "{log}");
    for part in expected {
        assert!(said.iter().any(|line| line.contains(part)), "{part}: {log}");
    }
}
