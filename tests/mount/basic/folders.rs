//! Folders: made, nested, emptied, removed, listed while they change.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use r2_model::R2Model;

use super::Bucket;
use super::bucket::on_each_bucket;
use crate::common::mount::Mount;

on_each_bucket!(folders_come_and_go);

fn folders_come_and_go(bucket: &Bucket) {
    bucket.put("projects/theirs/deep/a.wav", "a");
    let mut mount = bucket.mount();
    fs::create_dir_all(mount.path("projects/album/song/takes")).unwrap();
    fs::create_dir(mount.path("projects/empty")).unwrap();
    let refused = fs::create_dir(mount.path("projects/empty")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    fs::write(mount.path("projects/album/song/takes/1.wav"), "one").unwrap();
    mount.wait_uploaded();
    assert_eq!(bucket.bytes("projects/album/song/takes/1.wav"), b"one");
    assert_eq!(bucket.bytes("projects/empty/"), b"");

    // They are there for a machine that knows nothing, the empty one too.
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    assert!(fs::metadata(mount.path("projects/empty")).unwrap().is_dir());
    assert_eq!(
        fs::read_dir(mount.path("projects/empty")).unwrap().count(),
        0
    );
    let mut names: Vec<_> = fs::read_dir(mount.path("projects"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["album", "empty", "theirs"]);

    for full in [
        "projects/theirs",
        "projects/theirs/deep",
        "projects/album/song",
    ] {
        let refused = fs::remove_dir(mount.path(full)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTEMPTY), "{full}");
    }
    let refused = fs::remove_dir(mount.path("projects/theirs/deep/a.wav")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR));
    let refused = fs::remove_file(mount.path("projects/empty")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EISDIR));
    for root in ["projects", "samples"] {
        assert!(fs::remove_dir(mount.path(root)).is_err(), "{root} stays");
    }

    fs::remove_file(mount.path("projects/theirs/deep/a.wav")).unwrap();
    fs::remove_dir(mount.path("projects/theirs/deep")).unwrap();
    fs::remove_dir_all(mount.path("projects/album")).unwrap();
    fs::remove_dir(mount.path("projects/empty")).unwrap();
    mount.wait_uploaded();
    let gone = |name: &str| {
        let error = fs::metadata(mount.path(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    };
    gone("projects/album");
    gone("projects/empty");
    gone("projects/theirs/deep");
    let left = bucket.keys();
    assert!(left.iter().all(|key| key == "projects/theirs/"), "{left:?}");
}

#[test]
fn a_listing_goes_on_while_its_names_are_deleted() {
    let model = R2Model::start();
    let all: BTreeSet<String> = (0..700).map(|n| format!("take {n:03}.wav")).collect();
    for name in &all {
        model.put(&format!("segments/{name}"), "x");
    }
    let mount = Mount::with(&model, &[("DELETE_LIMIT", "none")]);
    // As `rm -rf` does: each name is removed as soon as it is read.
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(mount.path("segments")).unwrap() {
        let entry = entry.unwrap();
        fs::remove_file(entry.path()).unwrap();
        assert!(
            seen.insert(entry.file_name().into_string().unwrap()),
            "read twice"
        );
    }
    assert_eq!(seen, all);
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 0);
    // And one that others remove names from, and add to, shows every name that stays.
    for name in &all {
        fs::write(mount.path("layers").join(name), "x").unwrap();
    }
    let mut listing = fs::read_dir(mount.path("layers")).unwrap();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (n, name) in all.iter().enumerate() {
        let entry = listing.next().unwrap().unwrap();
        seen.insert(entry.file_name().into_string().unwrap());
        if n % 3 == 0 {
            fs::remove_file(mount.path("layers").join(name)).unwrap();
            fs::write(mount.path("layers").join(format!("new {name}")), "y").unwrap();
        }
    }
    seen.extend(listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    for (n, name) in all.iter().enumerate() {
        assert!(n % 3 == 0 || seen.contains(name), "{name} was passed over");
    }
    mount.wait_uploaded();
    assert_eq!(model.keys().len(), 700);
    assert!(model.keys().iter().all(|key| key.starts_with("layers/")));
}

/// A listing of many pages goes on in several ranges at once, and has every name once.
#[test]
fn a_folder_of_many_pages_is_listed_in_ranges() {
    let model = R2Model::start();
    let mut names = BTreeSet::new();
    for number in 0..20_000 {
        let name = format!("take-{number:06}.wav");
        model.put(&format!("segments/{name}"), "");
        names.insert(name);
    }
    let mount = Mount::of(&model);
    model.clear_requests();
    let listed: Vec<_> = fs::read_dir(mount.path("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(listed.len(), names.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    let requests = model.requests();
    let ranges = requests
        .iter()
        .filter(|request| request.parameter("start-after").is_some());
    assert!(ranges.count() > 2, "it is listed in ranges");
    assert!(
        requests.len() < 80,
        "few ranges hold nothing: {}",
        requests.len()
    );
}
