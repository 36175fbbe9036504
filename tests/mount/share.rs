//! Links to single files, and seeing what others did at once.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use r2_model::{Fault, FaultRule, Operation, R2Model};
use serde_json::Value;

use crate::common::mount::Mount;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

#[track_caller]
fn refused(mount: &Mount, args: &[&str], code: i32, part: &str) {
    let output = mount.run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(
        said.contains(part),
        "{args:?}: \"{part}\" is not in: {said}"
    );
}

/// Fetches an http address as a browser would, without any credentials of its own.
fn fetch(url: &str) -> (String, Vec<u8>) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, target) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "GET /{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    (head, answer[end + 4..].to_vec())
}

#[test]
fn a_link_reads_what_is_in_the_bucket_and_nothing_else_can_be_shared() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    fs::write(mount.path("segments/my take é.wav"), b"sound").unwrap();
    mount.wait_uploaded();
    let shared = mount.run(&["share", "segments/my take é.wav"]);
    let url = stdout(&shared);
    assert!(url.contains("X-Amz-Expires=3600"), "{url}");
    assert!(String::from_utf8_lossy(&shared.stderr).contains("whoever has the link"));
    let (head, body) = fetch(&url);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, b"sound");
    let (head, _) = fetch(&url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"));
    assert!(
        head.starts_with("HTTP/1.1 403"),
        "it is signed for its time: {head}"
    );

    // By its place in the mount, for a week, for a program.
    let path = mount.path("segments/my take é.wav");
    let output = mount.run(&["share", path.to_str().unwrap(), "--for", "7d", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["path"], "segments/my take é.wav");
    let url = told["url"].as_str().unwrap();
    assert!(url.contains("X-Amz-Expires=604800") && url.contains("X-Amz-Signature="));
    assert!(told["until"].as_str().unwrap().ends_with('Z'));

    refused(
        &mount,
        &["share", "segments/none.wav"],
        1,
        "is not in the bucket",
    );
    refused(&mount, &["share", "segments/"], 1, "is not in the bucket");
    refused(&mount, &["share"], 2, "Usage");
    refused(
        &mount,
        &["share", "segments/x", "--for", "8d"],
        2,
        "from 1s to 7d",
    );
    assert!(
        !mount.log().contains("X-Amz-Signature"),
        "a link is as good as a key"
    );
    let local = Mount::local();
    refused(&local, &["share", "segments/x"], 1, "there is no bucket");
}

#[test]
fn a_file_that_is_still_on_its_way_is_refused_or_waited_for() {
    let model = R2Model::start();
    let slow = FaultRule::new(Fault::latency(Duration::from_secs(2)));
    model.add_fault(slow.on(&[Operation::PutObject]));
    let mount = Mount::of(&model);
    fs::write(mount.path("layers/new.wav"), b"new").unwrap();
    refused(
        &mount,
        &["share", "layers/new.wav"],
        1,
        "is not in the bucket yet",
    );
    refused(
        &mount,
        &["share", "layers/new.wav", "--wait=0.1"],
        1,
        "still not in the bucket",
    );
    let url = stdout(&mount.run(&["share", "layers/new.wav", "--wait"]));
    assert_eq!(fetch(&url).1, b"new");
}

#[test]
fn what_others_did_shows_after_a_refresh() {
    let model = R2Model::start();
    model.put("segments/old.wav", b"old".to_vec());
    model.put("layers/a.wav", b"a".to_vec());
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "3600")]);
    let names = |folder: &str| {
        let entries = fs::read_dir(mount.path(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!((names("segments").len(), names("layers").len()), (1, 1));
    assert_eq!(fs::read(mount.path("segments/old.wav")).unwrap(), b"old");
    model.put("segments/new.wav", b"new".to_vec());
    model.put("segments/old.wav", b"changed".to_vec());
    model.put("layers/b.wav", b"b".to_vec());
    assert_eq!(names("segments"), ["old.wav"]);
    // A file is refreshed with its folder; other folders are not.
    let output = mount.run(&["refresh", "segments/old.wav"]);
    assert_eq!(stdout(&output), "1 folders listed anew");
    assert_eq!(names("segments"), ["new.wav", "old.wav"]);
    assert_eq!(
        fs::read(mount.path("segments/old.wav")).unwrap(),
        b"changed"
    );
    assert_eq!(names("layers"), ["a.wav"]);
    let told: Value = serde_json::from_slice(&mount.run(&["refresh", "--json"]).stdout).unwrap();
    assert_eq!(told, serde_json::json!({"listed": 2, "failed": 0}));
    assert_eq!(names("layers"), ["a.wav", "b.wav"]);
    let output = mount.run(&["refresh", mount.path("projects").to_str().unwrap()]);
    assert_eq!(stdout(&output), "0 folders listed anew");
    refused(&mount, &["refresh", "--nope"], 2, "Usage");
    model.add_fault(FaultRule::new(Fault::error("AccessDenied")).on(&[Operation::ListObjectsV2]));
    refused(&mount, &["refresh"], 1, "2 folders could not be listed");
}
