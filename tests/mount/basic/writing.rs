//! Files written here: byte-exact in the bucket, with their type, times and modes.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use md5::{Digest, Md5};
use r2_model::{Operation, R2Model};

use super::bucket::on_each_bucket;
use super::{Bucket, noise};
use crate::common::mount::Mount;

on_each_bucket!(
    a_written_file_is_in_the_bucket_as_it_is,
    two_hundred_files_arrive,
    a_file_of_300_mib_arrives_and_comes_back,
    an_uploaded_file_is_changed_in_place,
);

const MIB: usize = 1 << 20;

fn a_written_file_is_in_the_bucket_as_it_is(bucket: &Bucket) {
    let mount = bucket.mount();
    let take = noise(1, 1_234_567);
    for (name, content_type) in [
        ("layers/take.wav", "audio/wav"),
        ("projects/mix down.mp3", "audio/mpeg"),
        ("rhythms/r.flac", "audio/flac"),
    ] {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(mount.path(name))
            .unwrap();
        // As recorders write: header last.
        file.seek(SeekFrom::Start(44)).unwrap();
        for chunk in take[44..].chunks(65_000) {
            file.write_all(chunk).unwrap();
        }
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&take[..44]).unwrap();
        drop(file);
        mount.wait_uploaded();
        let status = fs::metadata(mount.path(name)).unwrap();
        let object = bucket.get(name).unwrap();
        assert!(object.bytes == take, "{name}");
        assert_eq!(object.content_type, content_type);
        let mtime = format!("{}.{:09}", status.mtime(), status.mtime_nsec());
        assert_eq!(object.metadata["mtime"], mtime);
        assert_eq!(object.metadata["mode"], 0o640.to_string());
        assert_eq!(status.mode() & 0o7777, 0o640);
        assert_eq!(status.len(), take.len() as u64);
        assert!(status.blocks() > 0);
    }
    fs::write(mount.path("melodies/empty.mp3"), "").unwrap();
    mount.wait_uploaded();
    assert!(bucket.bytes("melodies/empty.mp3").is_empty());
    assert_eq!(bucket.keys().len(), 4);
}

fn two_hundred_files_arrive(bucket: &Bucket) {
    let mut mount = bucket.mount();
    let bytes = |n: usize| noise(1000 + n as u64, 64 << 10);
    let name = |n: usize| format!("segments/{n:03}.wav");
    for n in 0..200 {
        fs::write(mount.path(&name(n)), bytes(n)).unwrap();
    }
    mount.wait_uploaded();
    let expected: Vec<String> = (0..200).map(name).collect();
    assert_eq!(bucket.keys(), expected);
    for (n, name) in expected.iter().enumerate() {
        assert!(bucket.bytes(name) == bytes(n), "{name} in the bucket");
    }
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    for (n, name) in expected.iter().enumerate() {
        assert!(
            fs::read(mount.path(name)).unwrap() == bytes(n),
            "{name} read back"
        );
    }
}

fn a_file_of_300_mib_arrives_and_comes_back(bucket: &Bucket) {
    const CHUNK: usize = 4 * MIB;
    let mut mount = bucket.mount();
    let path = mount.path("projects/long.wav");
    let mut sum = Md5::new();
    let mut file = File::create(&path).unwrap();
    for n in 0..75 {
        let chunk = noise(n, CHUNK);
        sum.update(&chunk);
        file.write_all(&chunk).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let sum = sum.finalize();
    mount.wait_uploaded();
    let object = bucket.get("projects/long.wav").unwrap();
    assert_eq!(object.bytes.len(), 300 * MIB);
    assert_eq!(Md5::digest(&object.bytes), sum);
    assert_eq!(object.content_type, "audio/wav");
    drop(object);
    if let Some(model) = bucket.as_model() {
        let parts = model.stat("projects/long.wav").unwrap().part_sizes;
        let (last, others) = parts.split_last().unwrap();
        assert!(others.iter().all(|size| *size == others[0]), "{parts:?}");
        assert!(*last <= others[0] && others.len() > 1, "{parts:?}");
        assert!(model.open_uploads().is_empty());
    }
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    let mut file = File::open(&path).unwrap();
    let (mut back, mut chunk) = (Md5::new(), vec![0; CHUNK]);
    for _ in 0..75 {
        file.read_exact(&mut chunk).unwrap();
        back.update(&chunk);
    }
    assert_eq!(file.read(&mut chunk).unwrap(), 0);
    assert_eq!(back.finalize(), sum);
}

fn an_uploaded_file_is_changed_in_place(bucket: &Bucket) {
    let mut expected = noise(7, 500_000);
    bucket.put("segments/a.wav", expected.clone());
    let mut mount = bucket.mount();
    let path = mount.path("segments/a.wav");
    let arrived = |mount: &Mount, expected: &[u8], what: &str| {
        assert!(
            fs::read(mount.path("segments/a.wav")).unwrap() == expected,
            "{what}, here"
        );
        mount.wait_uploaded();
        assert!(
            bucket.bytes("segments/a.wav") == expected,
            "{what}, in the bucket"
        );
        assert!(
            fs::read(mount.path("segments/a.wav")).unwrap() == expected,
            "{what}, after"
        );
    };
    // Not one byte of it is here when it is edited.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"header", 0).unwrap();
    file.write_all_at(b"in the middle", 250_000).unwrap();
    drop(file);
    expected[..6].copy_from_slice(b"header");
    expected[250_000..250_013].copy_from_slice(b"in the middle");
    arrived(&mount, &expected, "in-place edit");

    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"the end").unwrap();
    drop(file);
    expected.extend_from_slice(b"the end");
    arrived(&mount, &expected, "append");

    let truncate = |length: u64| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
    };
    truncate(600_000);
    expected.resize(600_000, 0);
    arrived(&mount, &expected, "truncated up");
    truncate(123_457);
    expected.truncate(123_457);
    arrived(&mount, &expected, "truncated down");

    mount.unmount();
    mount.remove_cache();
    mount.mount();
    // By its path alone, and nothing of it is here.
    truncate_path(&path, 99_999);
    expected.truncate(99_999);
    arrived(&mount, &expected, "truncated by its name");
    truncate_path(&path, 0);
    arrived(&mount, b"", "truncated to nothing");
    fs::write(&path, "anew").unwrap();
    arrived(&mount, b"anew", "written anew");
}

/// Truncates by the name, without an open descriptor, as truncate(2).
fn truncate_path(path: &Path, length: i64) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string that outlives the call.
    let done = unsafe { libc::truncate(path.as_ptr(), length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_growing_file_is_seen_by_all_before_any_upload() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "30")]);
    let path = mount.path("layers/growing.wav");
    let mut writer = File::create(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let mut expected = Vec::new();
    for n in 0..40 {
        let chunk = noise(n, 10_000 + n as usize);
        writer.write_all(&chunk).unwrap();
        expected.extend_from_slice(&chunk);
        assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
        assert_eq!(reader.metadata().unwrap().len(), expected.len() as u64);
        let mut seen = vec![0; expected.len()];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "after {n} writes");
    }
    writer.write_all_at(b"new header", 0).unwrap();
    let mut start = [0; 10];
    reader.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"new header");
    let another = OpenOptions::new().write(true).open(&path).unwrap();
    another.set_len(100).unwrap();
    assert_eq!(writer.metadata().unwrap().len(), 100);
    assert_eq!(fs::read(&path).unwrap().len(), 100);
    assert!(model.keys().is_empty());
}

#[test]
fn exclusive_creation_has_one_winner() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", "theirs");
    let mount = Mount::of(&model);
    let exclusive = |name: &str| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(mount.path(name))
    };
    let refused = exclusive("segments/theirs.wav").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    for round in 0..20 {
        let name = format!("segments/ours {round}.wav");
        let won = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| exclusive(&name).is_ok()))
                .collect();
            tries
                .into_iter()
                .map(|one| usize::from(one.join().unwrap()))
                .sum::<usize>()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn a_file_without_a_name_works_until_it_is_closed() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", noise(1, 100_000));
    let mount = Mount::of(&model);
    let open = |name: &str| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(mount.path(name))
    };
    let (ours, theirs) = (
        open("segments/ours.wav").unwrap(),
        open("segments/theirs.wav").unwrap(),
    );
    ours.write_all_at(b"before", 0).unwrap();
    for name in ["segments/ours.wav", "segments/theirs.wav"] {
        fs::remove_file(mount.path(name)).unwrap();
        assert_eq!(
            fs::metadata(mount.path(name)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
    ours.write_all_at(b"after", 6).unwrap();
    let mut bytes = vec![0; 11];
    ours.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, b"beforeafter");
    assert_eq!(ours.metadata().unwrap().len(), 11);
    ours.set_len(3).unwrap();
    ours.sync_all().unwrap();
    theirs.write_all_at(b"still", 50_000).unwrap();
    let mut expected = noise(1, 100_000);
    expected[50_000..50_005].copy_from_slice(b"still");
    let mut bytes = vec![0; 100_000];
    theirs.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
    // The name is free meanwhile, and another file.
    fs::write(mount.path("segments/ours.wav"), "another").unwrap();
    drop((ours, theirs));
    mount.wait_uploaded();
    assert_eq!(model.keys(), ["segments/ours.wav"]);
    assert_eq!(model.get("segments/ours.wav").unwrap().bytes, "another");
    assert_eq!(fs::read_dir(mount.path("segments")).unwrap().count(), 1);
}

#[test]
fn looking_and_opening_for_writing_uploads_nothing() {
    let model = R2Model::start();
    let bytes = noise(1, 300_000);
    model.put("segments/a.wav", bytes.clone());
    let mount = Mount::of(&model);
    // The mount's first questions do not count.
    model.clear_requests();
    let path = mount.path("segments/a.wav");
    for _ in 0..2 {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut seen = vec![0; bytes.len()];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == bytes);
    }
    mount.wait_uploaded();
    std::thread::sleep(std::time::Duration::from_millis(600));
    mount.wait_uploaded();
    let written: Vec<_> = model
        .requests()
        .into_iter()
        .filter(|r| r.operation.is_write())
        .collect();
    assert!(written.is_empty(), "{written:#?}");
    // The same after a change was made and uploaded.
    fs::write(&path, "new").unwrap();
    mount.wait_uploaded();
    model.clear_requests();
    drop(OpenOptions::new().write(true).open(&path).unwrap());
    mount.wait_uploaded();
    assert!(
        model
            .requests()
            .iter()
            .all(|request| request.operation != Operation::PutObject)
    );
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn the_room_left_is_that_of_the_staging_disk() {
    let mount = Mount::local();
    let here = rustix::fs::statvfs(mount.beside("staging")).unwrap();
    let there = rustix::fs::statvfs(mount.root()).unwrap();
    assert_eq!(
        there.f_blocks * there.f_frsize,
        here.f_blocks * here.f_frsize
    );
    assert!(there.f_bavail > 0 && there.f_files > 0);
    assert_eq!(there.f_namemax, 255);
}

#[test]
fn opening_to_read_and_truncate_truncates() {
    let model = R2Model::start();
    model.put("layers/a.wav", noise(1, 5000));
    let mount = Mount::of(&model);
    let path = mount.path("layers/a.wav");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC;
    let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    drop(opened);
    mount.wait_uploaded();
    assert!(model.get("layers/a.wav").unwrap().bytes.is_empty());
}

#[test]
fn what_is_created_by_an_open_that_only_reads_is_uploaded() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let create = |name: &str| {
        let mut options = OpenOptions::new();
        // `create` of the standard library asks for the right to write.
        options
            .read(true)
            .custom_flags(libc::O_CREAT | libc::O_EXCL);
        options.open(mount.path(name)).unwrap()
    };
    drop(create("segments/empty"));
    let reader = create("segments/filled");
    fs::write(mount.path("segments/filled"), "by another").unwrap();
    drop(reader);
    mount.wait_uploaded();
    assert_eq!(mount.status()["open_files"], 0);
    assert_eq!(model.get("segments/empty").unwrap().bytes, "");
    assert_eq!(model.get("segments/filled").unwrap().bytes, "by another");
}
