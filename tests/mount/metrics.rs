//! What monitoring sees of a mount: the metrics, over HTTP and in a file, and the alerts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use r2_model::{Fault, FaultRule, Operation, R2Model};

use crate::common::mount::Mount;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Sends one request and returns the whole answer.
fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn scrape(port: u16) -> String {
    let answer = ask(port, "GET /metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// Returns the samples by name and labels, without the label of the mount point.
fn samples(text: &str, mount: &Mount) -> BTreeMap<String, f64> {
    let label = format!("mountpoint=\"{}\"", mount.root().display());
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(
                name.contains(&label),
                "every sample says of which mount it is: {line}"
            );
            let name = name
                .replace(&label, "")
                .replace(",}", "}")
                .replace("{,", "{");
            (
                name.replace(",,", ",").replace("{}", ""),
                value.parse().unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_metrics_are_those_of_the_status_over_http_and_in_the_file() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", vec![1; 300_000]);
    let port = free_port();
    let mut mount = Mount::prepare(&[]);
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set("METRICS_ADDR", &port.to_string());
    mount.set("METRICS_FILE", "voicebeatfs.prom");
    mount.mount();
    let file = mount.beside("voicebeatfs.prom");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("voicebeatfs_info{")
    );
    for _ in 0..3 {
        fs::read(mount.path("segments/theirs.wav")).unwrap();
    }
    fs::write(mount.path("layers/ours.wav"), [2; 10_000]).unwrap();
    mount.wait_uploaded();
    mount.wait_for("both are in the cache", |status| {
        status["cache"]["files"] == 2
    });
    let found = samples(&scrape(port), &mount);
    let status = mount.status();
    for (name, field) in [
        ("cache_bytes", "/cache/bytes"),
        ("cache_max_bytes", "/cache/max_bytes"),
        ("cache_files", "/cache/files"),
        ("cache_hits_total", "/cache/hits"),
        ("cache_misses_total", "/cache/misses"),
        ("cache_hit_ratio", "/cache/hit_rate"),
        ("uploads_queued", "/uploads/queued"),
        ("uploads_done_total", "/uploads/done"),
        ("operations_total{class=\"a\"}", "/operations/class_a"),
        ("operations_total{class=\"b\"}", "/operations/class_b"),
        ("passthrough_opens_total", "/reads/passthrough_opens"),
        ("reads_total", "/reads/requests"),
    ] {
        let told = found.get(&format!("voicebeatfs_{name}")).copied();
        assert_eq!(
            told,
            status.pointer(field).unwrap().as_f64(),
            "{name}: {found:#?}"
        );
    }
    assert_eq!(found["voicebeatfs_safe_to_shut_down"], 1.0);
    assert_eq!(found["voicebeatfs_cache_hits_total"], 2.0);
    let puts = found["voicebeatfs_request_seconds_count{operation=\"put\"}"];
    assert_eq!(puts, 1.0);
    for kind in ["lookup", "open", "create", "write", "release"] {
        let count = format!("voicebeatfs_file_operation_seconds_count{{operation=\"{kind}\"}}");
        assert!(found.get(&count) >= Some(&1.0), "{kind}: {found:#?}");
    }
    assert!(ask(port, "GET /").starts_with("HTTP/1.1 404"));
    assert!(ask(port, "POST /metrics").starts_with("HTTP/1.1 405"));
    assert!(ask(port, "nonsense").starts_with("HTTP/1.1 400"));
    check_what_is_shipped(&found);
    mount.unmount();
    assert!(!file.exists(), "what nobody renews is gone");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

/// The rules, the dashboard and the documentation name no metric that does not exist, and the
/// documentation all that do.
fn check_what_is_shipped(found: &BTreeMap<String, f64>) {
    let names: Vec<&str> = found
        .keys()
        .map(|name| name.split('{').next().unwrap())
        .collect();
    let operations = include_str!("../../docs/operations.md");
    for text in [
        include_str!("../../packaging/prometheus/voicebeatfs.rules.yml"),
        include_str!("../../packaging/prometheus/voicebeatfs.rules.test.yml"),
        include_str!("../../packaging/grafana/voicebeatfs.json"),
        operations,
    ] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut seen = 0;
        for word in words.filter(|word| word.starts_with("voicebeatfs_")) {
            seen += 1;
            // They appear with the first of their kind.
            let later = [
                "voicebeatfs_request_failures_total",
                "voicebeatfs_request_retries_total",
                "voicebeatfs_trash_",
            ];
            let known = names
                .iter()
                .any(|name| *name == word || name.strip_suffix("_bucket") == Some(word));
            assert!(
                known || later.iter().any(|later| word.starts_with(later)),
                "there is no {word}"
            );
        }
        assert!(seen > 5);
    }
    for name in names {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let family = family.unwrap_or(name);
        assert!(
            operations.contains(&format!("`{family}`")),
            "{family} is not documented"
        );
    }
}

#[test]
fn failed_uploads_raise_the_alert() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    model.add_fault(FaultRule::new(Fault::too_many_requests(None)).on(&[Operation::PutObject]));
    for number in 0..8 {
        fs::write(mount.path(&format!("layers/{number}.wav")), [2; 1000]).unwrap();
    }
    mount.wait_for("the alert", |status| {
        let alerts = status["alerts"].as_array().unwrap();
        alerts.iter().any(|alert| {
            alert
                .as_str()
                .unwrap()
                .starts_with("failed uploads increase: ")
        })
    });
    let told = String::from_utf8(mount.run(&["status"]).stdout).unwrap();
    assert!(
        told.contains("alert             failed uploads increase: "),
        "{told}"
    );
}

#[test]
fn repeated_requests_and_slow_operations_are_counted() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", vec![1; 300_000]);
    let port = free_port();
    let settings = [("METRICS_ADDR", &port.to_string()[..])];
    let mount = Mount::with(&model, &settings);
    fs::read_dir(mount.path("segments")).unwrap().count();
    let slow = Fault::latency(std::time::Duration::from_millis(300));
    model.add_fault(FaultRule::new(slow).on(&[Operation::GetObject]));
    let again = Fault::too_many_requests(None);
    model.add_fault(FaultRule::new(again).on(&[Operation::PutObject]).up_to(2));
    fs::read(mount.path("segments/theirs.wav")).unwrap();
    fs::write(mount.path("layers/ours.wav"), [2; 10_000]).unwrap();
    mount.wait_uploaded();
    let found = samples(&scrape(port), &mount);
    let puts = found["voicebeatfs_request_retries_total{operation=\"put\"}"];
    assert_eq!(puts, 2.0);
    // The one that waited for the bucket is in the classes above its time, and counted once.
    let reads = |name: &str| {
        let of_kind = found.iter().filter(|(label, _)| {
            label.starts_with("voicebeatfs_file_operation_seconds") && label.contains("\"read\"")
        });
        let mut wanted = of_kind.filter(|(label, _)| label.contains(name));
        *wanted
            .next()
            .unwrap_or_else(|| panic!("{name}: {found:#?}"))
            .1
    };
    assert!(reads("seconds_sum") >= 0.25, "{found:#?}");
    assert!(reads("le=\"0.25\"") < reads("seconds_count"), "{found:#?}");
    assert_eq!(reads("seconds_count"), found["voicebeatfs_reads_total"]);
}

#[test]
fn metrics_that_cannot_be_offered_are_named_and_the_mount_works() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut mount = Mount::prepare(&[("USE_R2_STORAGE", "false")]);
    mount.set("METRICS_ADDR", &port);
    mount.set("METRICS_FILE", "none/voicebeatfs.prom");
    mount.mount();
    let log = mount.log();
    assert!(log.contains("no metrics at METRICS_ADDR"), "{log}");
    assert!(log.contains("no metrics in METRICS_FILE"), "{log}");
    mount.unmount();
    mount.set("METRICS_FILE", "metrics.txt");
    mount.set("METRICS_ADDR", "localhost");
    let error = mount.try_mount().unwrap_err();
    assert!(error.contains("METRICS_FILE is \"metrics.txt\""), "{error}");
    assert!(error.contains("METRICS_ADDR is \"localhost\""), "{error}");
}

#[test]
fn prometheus_understands_the_rules_and_each_fires() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus");
    for args in [
        ["check", "rules", "voicebeatfs.rules.yml"],
        ["test", "rules", "voicebeatfs.rules.test.yml"],
    ] {
        let mut promtool = Command::new("promtool");
        let output = promtool.args(args).current_dir(folder).output();
        let output = output.expect("promtool is needed: scripts/test takes it from its package");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
