//! What others have put into the bucket: listed, read, kept, and given up when it changes.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use r2_model::{Operation, R2Model, RequestRecord};

use super::bucket::on_each_bucket;
use super::{Bucket, noise};
use crate::common::mount::{DEADLINE, Mount};

on_each_bucket!(
    what_others_put_is_listed_and_read,
    an_expired_file_is_kept_when_nothing_has_changed,
    a_changed_object_is_read_anew_and_never_mixed,
    what_others_delete_goes,
);

/// Listings and cached bytes are old after half a second.
const SHORT_LIVES: [(&str, &str); 2] = [("LIST_TTL_SECONDS", "0.3"), ("CACHE_TTL_HOURS", "0.0001")];
const OLD: Duration = Duration::from_millis(600);

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Requests that read objects.
fn reads(model: &R2Model) -> Vec<RequestRecord> {
    let of_objects = [Operation::GetObject, Operation::HeadObject];
    let mut requests = model.requests();
    requests.retain(|request| of_objects.contains(&request.operation));
    requests
}

/// Reads a file until it is as wanted: what the bucket shows comes after a time.
fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !wanted() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The ids of the files in the cache directory.
fn cached(mount: &Mount) -> Vec<String> {
    let mut names = names(&mount.beside("cache"));
    names.retain(|name| name.ends_with(".cache"));
    names
}

fn what_others_put_is_listed_and_read(bucket: &Bucket) {
    let song = noise(1, 3_000_001);
    let metadata = [("mtime", "1700000000.25")];
    bucket.put_with("segments/deep/er/song.wav", song.clone(), &metadata);
    bucket.put("segments/empty.wav", "");
    let mut mount = bucket.mount();
    assert_eq!(
        names(&mount.root()),
        [
            "layers", "melodies", "projects", "rhythms", "samples", "segments"
        ]
    );
    assert_eq!(names(&mount.path("segments")), ["deep", "empty.wav"]);
    assert_eq!(names(&mount.path("segments/deep/er")), ["song.wav"]);
    let path = mount.path("segments/deep/er/song.wav");
    assert_eq!(fs::metadata(&path).unwrap().len(), song.len() as u64);
    assert!(fs::read(&path).unwrap() == song);
    assert!(
        fs::read(mount.path("segments/empty.wav"))
            .unwrap()
            .is_empty()
    );
    // The answer to the first GET told what no listing tells.
    let mtime = UNIX_EPOCH + Duration::new(1_700_000_000, 250_000_000);
    eventually("the kernel asks again", || {
        fs::metadata(&path).unwrap().modified().unwrap() == mtime
    });

    // All of it is here now: asked for again, also by another process, nothing is fetched.
    let clear = || bucket.as_model().map(R2Model::clear_requests);
    clear();
    assert!(fs::read(&path).unwrap() == song);
    let mut part = vec![0; 70_000];
    File::open(&path)
        .unwrap()
        .read_exact_at(&mut part, 2_000_000)
        .unwrap();
    assert!(part == song[2_000_000..2_070_000]);
    let none = |when: &str| {
        let sent = bucket.as_model().map(reads).unwrap_or_default();
        assert!(sent.is_empty(), "{when}: {sent:#?}");
    };
    none("second read");
    mount.remount();
    clear();
    assert!(fs::read(&path).unwrap() == song);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), mtime);
    none("after a remount");
}

fn an_expired_file_is_kept_when_nothing_has_changed(bucket: &Bucket) {
    let song = noise(2, 400_000);
    bucket.put("layers/a.wav", song.clone());
    let mount = bucket.mount_with(&SHORT_LIVES);
    let path = mount.path("layers/a.wav");
    assert!(fs::read(&path).unwrap() == song);
    let held = cached(&mount);
    assert_eq!(held.len(), 1);
    let number = fs::metadata(&path).unwrap().ino();
    std::thread::sleep(OLD);
    if let Some(model) = bucket.as_model() {
        model.clear_requests();
    }
    assert!(fs::read(&path).unwrap() == song);
    if let Some(model) = bucket.as_model() {
        let asked = reads(model);
        assert_eq!(asked.len(), 1, "{asked:#?}");
        assert_eq!(asked[0].operation, Operation::HeadObject);
        let tag = format!("\"{}\"", model.stat("layers/a.wav").unwrap().etag);
        assert_eq!(asked[0].header("if-none-match"), Some(&*tag));
        assert_eq!(asked[0].status, Some(304));
    }
    assert_eq!(cached(&mount), held);
    assert_eq!(fs::metadata(&path).unwrap().ino(), number);
}

fn a_changed_object_is_read_anew_and_never_mixed(bucket: &Bucket) {
    let (old, new) = (noise(3, 2_000_000), noise(4, 1_500_000));
    bucket.put("segments/take.wav", old.clone());
    let mount = bucket.mount_with(&SHORT_LIVES);
    let path = mount.path("segments/take.wav");
    let mut early = File::open(&path).unwrap();
    let mut held = Vec::new();
    early.read_to_end(&mut held).unwrap();
    assert!(held == old);
    // The other one has begun only: what it misses is the old version's or an error.
    let began = File::open(&path).unwrap();
    let mut start = vec![0; 4096];
    began.read_exact_at(&mut start, 0).unwrap();

    bucket.put("segments/take.wav", new.clone());
    std::thread::sleep(OLD);
    assert!(fs::read(&path).unwrap() == new);
    assert_eq!(fs::metadata(&path).unwrap().len(), new.len() as u64);
    for reader in [&early, &began] {
        let mut bytes = vec![0; old.len()];
        reader.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == old, "open handles keep what they opened");
        assert_eq!(reader.metadata().unwrap().len(), old.len() as u64);
    }
    // Back and forth; a reader sees one of the two, whole.
    for round in 0..6 {
        let bytes = if round % 2 == 0 { &old } else { &new };
        bucket.put("segments/take.wav", bytes.clone());
        let seen = fs::read(&path).unwrap();
        assert!(seen == old || seen == new, "a mixture in round {round}");
        eventually("the newest version", || fs::read(&path).unwrap() == *bytes);
    }
}

fn what_others_delete_goes(bucket: &Bucket) {
    bucket.put("rhythms/a.mp3", "rhythm");
    bucket.put("rhythms/b.mp3", "other");
    let mount = bucket.mount_with(&SHORT_LIVES);
    let path = mount.path("rhythms/a.mp3");
    let mut open = File::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"rhythm");
    bucket.delete("rhythms/a.mp3");
    bucket.put("rhythms/c.mp3", "third");
    eventually("the deleted one goes", || {
        File::open(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    });
    eventually("the new one comes", || {
        names(&mount.path("rhythms")) == ["b.mp3", "c.mp3"]
    });
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"rhythm");
}

#[test]
fn a_version_that_went_under_an_open_file_is_never_mixed() {
    let model = R2Model::start();
    let (old, new) = (noise(5, 64 << 20), noise(6, 64 << 20));
    model.put("projects/long.wav", old.clone());
    let mount = Mount::of(&model);
    let file = File::open(mount.path("projects/long.wav")).unwrap();
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    model.put("projects/long.wav", new);
    let mut failed = 0;
    for at in (0..old.len()).step_by(4 << 20).rev() {
        match file.read_exact_at(&mut bytes, at as u64) {
            Ok(()) => assert!(bytes == old[at..at + bytes.len()], "mixed at {at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
                failed += 1;
            }
        }
    }
    assert!(failed > 0, "not all of it can have been here");
}

#[test]
fn a_folder_of_2500_lists_whole_by_its_pages_alone() {
    let model = R2Model::start();
    let all: Vec<String> = (0..2500).map(|n| format!("take {n:04}.wav")).collect();
    for (n, name) in all.iter().enumerate() {
        model.put(&format!("segments/{name}"), vec![b'x'; n % 7]);
    }
    let mount = Mount::of(&model);
    model.clear_requests();
    assert_eq!(names(&mount.path("segments")), all);
    for (n, name) in all.iter().enumerate() {
        let status = fs::metadata(mount.path("segments").join(name)).unwrap();
        assert_eq!(status.len(), n as u64 % 7);
    }
    let costs = model.costs();
    assert_eq!(
        (costs.class_a, costs.class_b),
        (3, 0),
        "{:#?}",
        model.requests()
    );
    let numbers: std::collections::HashSet<u64> = fs::read_dir(mount.path("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().ino())
        .collect();
    assert_eq!(numbers.len(), all.len());
}
