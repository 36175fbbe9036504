//! Extended attributes: kept before the upload, with it, and for a machine that has nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use r2_model::{Operation, R2Model};
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::bucket::on_each_bucket;
use super::{Bucket, noise};
use crate::common::mount::{DEADLINE, Mount};

on_each_bucket!(xattrs_are_kept);

/// As Samba writes it.
const DOS: (&str, &[u8]) = (
    "user.DOSATTRIB",
    b"\0\0\x05\0\x05\0\0\0\x11\0\0\0\x20\0\0\0\xff",
);

fn set(path: &Path, (name, value): (&str, &[u8])) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Returns what a program finds that asks for the length first.
fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; getxattr_query(path, name)?];
    let length = getxattr(path, name, &mut value[..])?;
    // What the mount tells of a file may have changed between the two.
    value.truncate(length);
    Ok(value)
}

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0u8; 4096];
    let length = listxattr(path, &mut list[..]).unwrap();
    let list = std::str::from_utf8(&list[..length]).unwrap();
    list.split_terminator('\0').map(str::to_owned).collect()
}

#[track_caller]
fn expect(path: &Path, all: &[(&str, &[u8])]) {
    for (name, value) in all {
        assert_eq!(get(path, name).as_deref(), Ok(*value), "{name}");
    }
    let expected: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(path), expected, "{}", path.display());
}

fn xattrs_are_kept(bucket: &Bucket) {
    let bytes = noise(1, 70_000);
    bucket.put("layers/theirs.wav", bytes.clone());
    let mut mount = bucket.mount_with(&[("WRITE_BACK_SECONDS", "1")]);
    let large = noise(2, 60_000);
    let mood: (&str, &[u8]) = ("user.mood", b"");
    let all_as_set = |mount: &Mount, with_large: bool| {
        let mut early = vec![DOS, mood];
        if with_large {
            early.insert(1, ("user.large", &large));
        }
        expect(&mount.path("layers/early.wav"), &early);
        for name in ["layers/late.wav", "layers/renamed.wav"] {
            expect(&mount.path(name), &[DOS]);
        }
        for name in ["early", "late", "renamed"] {
            assert!(fs::read(mount.path(&format!("layers/{name}.wav"))).unwrap() == bytes);
        }
    };
    for name in ["early", "late"] {
        fs::write(mount.path(&format!("layers/{name}.wav")), &bytes).unwrap();
    }
    let folder = mount.path("layers/folder");
    fs::create_dir(&folder).unwrap();
    set(&folder, mood);
    for one in [DOS, mood, ("user.large", &large), ("user.gone", b"1")] {
        set(&mount.path("layers/early.wav"), one);
    }
    removexattr(mount.path("layers/early.wav"), "user.gone").unwrap();
    mount.wait_uploaded();
    set(&mount.path("layers/late.wav"), DOS);
    // Of what others wrote, and of a name that the bucket does not have yet.
    set(&mount.path("layers/theirs.wav"), DOS);
    fs::rename(
        mount.path("layers/theirs.wav"),
        mount.path("layers/renamed.wav"),
    )
    .unwrap();
    all_as_set(&mount, true);
    mount.wait_uploaded();
    all_as_set(&mount, true);
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    all_as_set(&mount, true);
    expect(&mount.path("layers/folder"), &[mood]);
    // Another machine has what an object carries; it asks when it is asked.
    let other = bucket.mount();
    all_as_set(&other, false);
    // An append keeps them, those too that only this disk has.
    let path = mount.path("layers/early.wav");
    let mut longer = bytes.clone();
    longer.extend(b"more");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"more").unwrap();
    drop(file);
    mount.wait_uploaded();
    expect(&path, &[DOS, ("user.large", &large), mood]);
    assert!(bucket.get("layers/early.wav").unwrap().bytes == longer);
}

#[test]
fn flags_lengths_and_foreign_names_are_answered_as_a_disk_does() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let path = mount.path("layers/a.wav");
    fs::write(&path, b"a").unwrap();
    let with = |flags| setxattr(&path, "user.a", b"12345", flags);
    assert_eq!(with(XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(with(XattrFlags::CREATE), Ok(()));
    assert_eq!(with(XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(with(XattrFlags::REPLACE), Ok(()));
    assert_eq!(getxattr(&path, "user.a", &mut [0; 4]), Err(Errno::RANGE));
    assert_eq!(listxattr(&path, &mut [0; 4]), Err(Errno::RANGE));
    assert_eq!(get(&path, "user.b"), Err(Errno::NODATA));
    assert_eq!(removexattr(&path, "user.b"), Err(Errno::NODATA));
    // Access lists are refused as cp and rsync expect it.
    for name in ["system.posix_acl_access", "trusted.a", "security.a"] {
        let refused = setxattr(&path, name, &[2, 0, 0, 0], XattrFlags::empty());
        assert_eq!(refused, Err(Errno::OPNOTSUPP), "{name}");
    }
    assert_eq!(get(&path, "security.capability"), Err(Errno::NODATA));
    assert_eq!(get(&path, "system.posix_acl_access"), Err(Errno::OPNOTSUPP));
    set(&path, ("user.1", &[1; 65_000]));
    set(&path, ("user.2", &[2; 65_536]));
    let more = setxattr(&path, "user.3", &[3; 1000], XattrFlags::empty());
    assert_eq!(more, Err(Errno::NOSPC));
    assert_eq!(names(&path), ["user.1", "user.2", "user.a"]);
}

#[test]
fn those_that_s3fs_wrote_are_read_and_cost_no_upload_to_change() {
    let model = R2Model::start();
    let value = "%7B%22user.mood%22%3A%22c2Fk%22%7D";
    model.put_with(
        "layers/a.wav",
        noise(1, 9000),
        "audio/wav",
        &[("xattr", value)],
    );
    let mount = Mount::of(&model);
    let path = mount.path("layers/a.wav");
    expect(&path, &[("user.mood", b"sad")]);
    set(&path, ("user.mood", b"glad"));
    mount.wait_uploaded();
    let requests = model.requests();
    assert!(
        requests
            .iter()
            .all(|one| one.operation != Operation::PutObject)
    );
    let carried = &model.get("layers/a.wav").unwrap().metadata["xattr"];
    assert_eq!(carried, "%7B%22user.mood%22%3A%22Z2xhZA%3D%3D%22%7D");
    expect(&path, &[("user.mood", b"glad")]);
}

#[test]
fn the_mount_tells_where_a_file_is() {
    let model = R2Model::start();
    model.put("layers/there.wav", noise(1, 9000));
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    fs::write(mount.beside("samples/kick.wav"), b"kick").unwrap();
    let told = |path: &str, name: &str| {
        let value = get(&mount.path(path), &format!("user.voicebeat.{name}"));
        value.map(|value| String::from_utf8(value).unwrap())
    };
    let state = |path: &str| told(path, "state").unwrap();
    assert_eq!(state("samples/kick.wav"), "local");
    assert_eq!(state("layers/there.wav"), "remote");
    fs::read(mount.path("layers/there.wav")).unwrap();
    // It counts as whole when its bytes were compared with its tag.
    let end = Instant::now() + DEADLINE;
    while state("layers/there.wav") != "cached" {
        assert!(Instant::now() < end, "{}", state("layers/there.wav"));
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::write(mount.path("layers/new.wav"), b"new").unwrap();
    assert_eq!(state("layers/new.wav"), "staged");
    assert_eq!(told("layers/new.wav", "upload").unwrap(), "0");
    assert_eq!(told("layers/new.wav", "etag"), Err(Errno::NODATA));
    assert_eq!(told("layers/new.wav", "url"), Err(Errno::NODATA));
    let etag = &model.get("layers/there.wav").unwrap().etag;
    let told_etag = told("layers/there.wav", "etag").unwrap();
    assert_eq!(told_etag, etag.trim_matches('"'));
    assert_eq!(told("layers/there.wav", "upload").unwrap(), "100");
    let url = told("layers/there.wav", "url").unwrap();
    assert!(url.contains("layers/there.wav?"), "{url}");
    assert!(url.contains("X-Amz-Signature="), "{url}");
    // They are not listed, so that a copy does not carry them, and cannot be set.
    assert_eq!(names(&mount.path("layers/there.wav")), [""; 0]);
    let name = "user.voicebeat.state";
    let set = setxattr(
        mount.path("layers/new.wav"),
        name,
        b"cached",
        XattrFlags::empty(),
    );
    assert_eq!(set, Err(Errno::PERM));
}
