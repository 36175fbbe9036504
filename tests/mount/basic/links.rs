//! Several names of one file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};

use super::{Bucket, noise};
use crate::common::mount::{DEADLINE, Mount};
use crate::crash::assert_object;

/// Panics unless both names show one file with these bytes.
#[track_caller]
fn expect_one_file(a: &Path, b: &Path, bytes: &[u8], names: u64) {
    let (one, other) = (fs::metadata(a).unwrap(), fs::metadata(b).unwrap());
    assert_eq!(one.ino(), other.ino());
    assert_eq!((one.nlink(), other.nlink()), (names, names));
    assert!(fs::read(a).unwrap() == bytes && fs::read(b).unwrap() == bytes);
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn begin_anew(mount: &mut Mount) {
    mount.unmount();
    mount.remove_cache();
    mount.mount();
}

#[test]
fn two_names_are_one_file_before_and_after_upload_and_remount() {
    let bucket = Bucket::model();
    let theirs = noise(1, 50_000);
    bucket.put("layers/in/theirs.wav", theirs.clone());
    let mut mount = bucket.mount_with(&[("LIST_TTL_SECONDS", "1")]);
    let (theirs_here, linked) = (
        mount.path("layers/in/theirs.wav"),
        mount.path("projects/t.wav"),
    );
    fs::hard_link(&theirs_here, &linked).unwrap();
    let (take, second) = (
        mount.path("layers/take.wav"),
        mount.path("layers/second.wav"),
    );
    let mut file = File::create(&take).unwrap();
    file.write_all(b"one ").unwrap();
    fs::hard_link(&take, &second).unwrap();
    let mut other = OpenOptions::new().append(true).open(&second).unwrap();
    other.write_all(b"two ").unwrap();
    expect_one_file(&take, &second, b"one two ", 2);
    drop((file, other));
    fs::hard_link(&second, mount.path("layers/third.wav")).unwrap();
    mount.kill();
    mount.mount();
    expect_one_file(&take, &second, b"one two ", 3);
    expect_one_file(&linked, &theirs_here, &theirs, 2);
    mount.wait_uploaded();
    let keys = [
        "layers/in/theirs.wav",
        "layers/second.wav",
        "layers/take.wav",
        "layers/third.wav",
        "projects/t.wav",
    ];
    assert_eq!(bucket.keys(), keys);
    assert!(bucket.bytes("projects/t.wav") == theirs);
    begin_anew(&mut mount);
    // By name, and by listing.
    expect_one_file(&linked, &theirs_here, &theirs, 2);
    let names = |folder: &str| -> BTreeSet<String> {
        let names = fs::read_dir(mount.path(folder)).unwrap();
        names
            .map(|name| name.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let expected = ["in", "second.wav", "take.wav", "third.wav"].map(String::from);
    assert_eq!(names("layers"), BTreeSet::from(expected));
    // A change of what is uploaded, through the further name.
    let mut file = OpenOptions::new().append(true).open(&second).unwrap();
    file.write_all(b"three").unwrap();
    drop(file);
    expect_one_file(&take, &second, b"one two three", 3);
    mount.wait_uploaded();
    // Others see a file under each name.
    let elsewhere = bucket.mount();
    for name in ["take", "second", "third"] {
        let key = format!("layers/{name}.wav");
        assert_eq!(bucket.bytes(&key), b"one two three");
        assert_eq!(fs::read(elsewhere.path(&key)).unwrap(), b"one two three");
    }
}

#[test]
fn a_file_lives_on_under_its_other_names() {
    let bucket = Bucket::model();
    let mut mount = bucket.mount();
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    for (name, bytes) in [("a", b"aa"), ("b", b"bb"), ("c", b"cc"), ("new", b"nn")] {
        fs::write(path(name), bytes).unwrap();
        fs::hard_link(path(name), path(&format!("{name}2"))).unwrap();
    }
    mount.wait_uploaded();
    // Before and after an upload the first name goes, is replaced, or gets another.
    fs::remove_file(path("a")).unwrap();
    fs::rename(path("new2"), path("b")).unwrap();
    fs::rename(path("c"), path("moved")).unwrap();
    fs::rename(path("c2"), path("moved2")).unwrap();
    fs::write(path("early"), b"ee").unwrap();
    fs::hard_link(path("early"), path("early2")).unwrap();
    fs::hard_link(path("early"), path("early3")).unwrap();
    fs::remove_file(path("early")).unwrap();
    fs::write(path("over"), b"oo").unwrap();
    fs::hard_link(path("over"), path("over2")).unwrap();
    fs::write(path("x"), b"xx").unwrap();
    fs::rename(path("x"), path("over")).unwrap();
    let check = |when: &str| {
        eprintln!("{when}");
        for (name, bytes, names) in [
            ("a2", b"aa", 1),
            ("b2", b"bb", 1),
            ("over", b"xx", 1),
            ("over2", b"oo", 1),
        ] {
            assert_eq!(fs::read(path(name)).unwrap(), bytes, "{name}");
            assert_eq!(fs::metadata(path(name)).unwrap().nlink(), names, "{name}");
        }
        expect_one_file(&path("new"), &path("b"), b"nn", 2);
        expect_one_file(&path("moved"), &path("moved2"), b"cc", 2);
        expect_one_file(&path("early2"), &path("early3"), b"ee", 2);
        assert_eq!(fs::read_dir(mount.path("layers")).unwrap().count(), 10);
    };
    check("at once");
    mount.wait_uploaded();
    check("uploaded");
    let keys = bucket.keys().into_iter();
    let objects = keys.map(|key| (key.clone(), bucket.bytes(&key)));
    let shown = fs::read_dir(mount.path("layers")).unwrap();
    let shown = shown.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        (format!("layers/{name}"), fs::read(&path).unwrap())
    });
    let shown: BTreeMap<String, Vec<u8>> = shown.collect();
    assert_eq!(objects.collect::<BTreeMap<_, _>>(), shown);
    begin_anew(&mut mount);
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    expect_one_file(&path("new"), &path("b"), b"nn", 2);
    expect_one_file(&path("moved"), &path("moved2"), b"cc", 2);
    expect_one_file(&path("early2"), &path("early3"), b"ee", 2);
    assert_eq!(fs::read(path("a2")).unwrap(), b"aa");
}

#[test]
fn names_follow_their_folder_and_what_others_do_to_the_first() {
    let bucket = Bucket::model();
    bucket.put("layers/x/a", b"first".to_vec());
    let mut mount = bucket.mount_with(&[("LIST_TTL_SECONDS", "1")]);
    fs::hard_link(mount.path("layers/x/a"), mount.path("layers/x/b")).unwrap();
    fs::hard_link(mount.path("layers/x/a"), mount.path("layers/outside")).unwrap();
    fs::rename(mount.path("layers/x"), mount.path("layers/y")).unwrap();
    let (a, outside) = (mount.path("layers/y/a"), mount.path("layers/outside"));
    expect_one_file(&a, &mount.path("layers/y/b"), b"first", 3);
    mount.wait_uploaded();
    let mut keys = bucket.keys();
    keys.retain(|key| !key.ends_with('/'));
    assert_eq!(keys, ["layers/outside", "layers/y/a", "layers/y/b"]);
    begin_anew(&mut mount);
    expect_one_file(&a, &outside, b"first", 3);
    expect_one_file(&a, &mount.path("layers/y/b"), b"first", 3);
    bucket.put("layers/y/a", b"theirs".to_vec());
    wait_until("theirs shows", || fs::read(&outside).unwrap() == b"theirs");
    assert_eq!(fs::read(mount.path("layers/y/b")).unwrap(), b"theirs");
    expect_one_file(&a, &outside, b"theirs", 3);
}

#[test]
fn names_come_and_go_in_the_bucket_as_well() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[]);
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    fs::write(path("a"), b"one").unwrap();
    mount.wait_uploaded();
    // The answer is lost, and the copy there all the same.
    let lost = FaultRule::new(Fault::lost_to_error("InternalError"));
    let lost = model.add_fault(lost.on(&[Operation::CopyObject]).once());
    for name in ["b", "c", "d"] {
        fs::hard_link(path("a"), path(name)).unwrap();
    }
    let queue = mount.run(&["queue", "--json"]);
    let queue: serde_json::Value = serde_json::from_slice(&queue.stdout).unwrap();
    assert_eq!(queue["entries"][0]["operation"], "link");
    mount.wait_uploaded();
    assert_eq!(model.fired(lost), 1);
    assert_eq!(
        model.keys(),
        ["layers/a", "layers/b", "layers/c", "layers/d"]
    );
    assert_eq!(model.history().len(), 4);
    fs::remove_file(path("b")).unwrap();
    fs::rename(path("c"), path("e")).unwrap();
    fs::write(path("d"), b"two").unwrap();
    mount.wait_uploaded();
    assert_eq!(model.keys(), ["layers/a", "layers/d", "layers/e"]);
    for name in ["a", "d", "e"] {
        assert_object(&model, &format!("layers/{name}"), b"two");
    }
    // A new file under a name that was one of several, and over one that is.
    fs::write(path("b"), b"another").unwrap();
    fs::write(path("x"), b"replaced").unwrap();
    fs::rename(path("x"), path("e")).unwrap();
    mount.wait_uploaded();
    assert_object(&model, "layers/b", b"another");
    assert_object(&model, "layers/e", b"replaced");
    assert_object(&model, "layers/a", b"two");
    assert_eq!(mount.status()["conflicts"], 0);
    let hasty = model.write_rate_violations();
    assert!(hasty.is_empty(), "{hasty:?}");
}

#[test]
fn what_others_put_under_a_further_name_is_left_to_them() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[]);
    let path = |mount: &Mount, name: &str| mount.path(&format!("layers/{name}"));
    fs::write(path(&mount, "a"), b"one").unwrap();
    fs::hard_link(path(&mount, "a"), path(&mount, "b")).unwrap();
    mount.wait_uploaded();
    model.put("layers/b", "theirs");
    fs::write(path(&mount, "a"), b"two").unwrap();
    mount.wait_uploaded();
    assert_object(&model, "layers/a", b"two");
    assert_object(&model, "layers/b", b"theirs");
    assert_eq!(fs::read(path(&mount, "b")).unwrap(), b"two");
    assert!(mount.log().contains("as somebody else has it"));
    fs::remove_file(path(&mount, "b")).unwrap();
    mount.wait_uploaded();
    begin_anew(&mut mount);
    assert_eq!(fs::read(path(&mount, "b")).unwrap(), b"theirs");
    assert_object(&model, "layers/b", b"theirs");
}

#[test]
fn what_others_remove_leaves_the_other_names_to_themselves() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "1")]);
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    for (name, bytes) in [("a", "one"), ("c", "two")] {
        fs::write(path(name), bytes).unwrap();
        fs::hard_link(path(name), path(&format!("{name}2"))).unwrap();
    }
    mount.wait_uploaded();
    assert!(model.delete("layers/a"));
    assert!(model.delete("layers/c"));
    wait_until("both are gone", || {
        !path("a").exists() && !path("c").exists()
    });
    wait_until("what is left shows", || {
        fs::read(path("a2")).is_ok_and(|bytes| bytes == b"one")
    });
    assert_eq!(fs::metadata(path("a2")).unwrap().nlink(), 1);
    // Another file takes the name before anybody has looked at what was its other one.
    fs::write(path("c"), "another").unwrap();
    fs::write(path("a"), "another").unwrap();
    mount.wait_uploaded();
    assert_object(&model, "layers/a2", b"one");
    assert_object(&model, "layers/c2", b"two");
    wait_until("what is left shows", || {
        fs::read(path("c2")).is_ok_and(|bytes| bytes == b"two")
    });
    assert_object(&model, "layers/c", b"another");
    // While the copy of another version is on its way.
    fs::write(path("e"), "one").unwrap();
    fs::hard_link(path("e"), path("e2")).unwrap();
    mount.wait_uploaded();
    fs::write(path("e"), "two").unwrap();
    wait_until("the version is there", || {
        model.get("layers/e").is_some_and(|e| e.bytes == "two")
    });
    assert!(model.delete("layers/e"));
    wait_until("it is gone", || !path("e").exists());
    wait_until("what is left shows", || {
        let left = model.get("layers/e2").unwrap().bytes;
        fs::read(path("e2")).is_ok_and(|bytes| bytes == left)
    });
    mount.wait_uploaded();
    assert_eq!(mount.status()["uploads"]["parked"], 0);
}

#[test]
fn copies_follow_a_folder_that_is_renamed_and_back() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[]);
    let path = |name: &str| mount.path(&format!("layers/{name}"));
    fs::create_dir(path("x")).unwrap();
    fs::write(path("x/a"), "one").unwrap();
    fs::hard_link(path("x/a"), path("x/b")).unwrap();
    mount.wait_uploaded();
    model.stop();
    fs::rename(path("x"), path("y")).unwrap();
    fs::rename(path("y"), path("x")).unwrap();
    model.restart();
    mount.wait_uploaded();
    assert_object(&model, "layers/x/b", b"one");
    fs::write(path("x/a"), "two").unwrap();
    mount.wait_uploaded();
    assert_object(&model, "layers/x/b", b"two");
    fs::rename(path("x"), path("y")).unwrap();
    mount.wait_uploaded();
    fs::rename(path("y"), path("x")).unwrap();
    mount.wait_uploaded();
    fs::remove_file(path("x/b")).unwrap();
    mount.wait_uploaded();
    assert_eq!(model.keys(), ["layers/x/", "layers/x/a"]);
}

#[test]
fn what_a_name_was_before_it_was_another_is_in_the_trash() {
    let model = R2Model::start();
    let settings = [
        ("WRITE_BACK_SECONDS", "2"),
        ("TRASH_COLLECTIONS", "projects"),
    ];
    let mount = Mount::with(&model, &settings);
    let path = |name: &str| mount.path(&format!("projects/{name}"));
    for name in ["a", "g", "h"] {
        fs::write(path(name), name).unwrap();
    }
    mount.wait_uploaded();
    fs::remove_file(path("g")).unwrap();
    fs::hard_link(path("a"), path("g")).unwrap();
    fs::remove_file(path("g")).unwrap();
    // As `ln -f` does.
    fs::hard_link(path("a"), path("new")).unwrap();
    fs::rename(path("new"), path("h")).unwrap();
    mount.wait_uploaded();
    assert_object(&model, "projects/h", b"a");
    let keys = model.keys();
    let kept: Vec<&String> = keys.iter().filter(|key| key.contains("trash")).collect();
    let bytes = kept.iter().map(|key| model.get(key).unwrap().bytes);
    let bytes: BTreeSet<Vec<u8>> = bytes.map(|bytes| bytes.to_vec()).collect();
    assert_eq!(bytes, BTreeSet::from([b"g".to_vec(), b"h".to_vec()]));
}
