//! Renames: at once here, carried out in the bucket behind.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

use r2_model::{Operation, R2Model};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::bucket::on_each_bucket;
use super::{Bucket, noise};
use crate::common::mount::Mount;

on_each_bucket!(
    files_are_renamed_before_and_after_their_upload,
    a_rename_replaces_a_file_that_is_open,
    a_folder_moves_with_all_that_is_in_it,
);

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Error> {
    Ok(renameat_with(CWD, from, CWD, to, flags)?)
}

/// What changed the bucket: the operations and their keys.
fn writes(model: &R2Model) -> Vec<(Operation, String)> {
    let requests = model.requests().into_iter();
    let writes = requests.filter(|request| request.operation.is_write());
    writes
        .map(|request| (request.operation, request.key.unwrap_or_default()))
        .collect()
}

fn files_are_renamed_before_and_after_their_upload(bucket: &Bucket) {
    let mut mount = bucket.mount();
    let bytes = noise(1, 200_000);
    let (a, b, c) = ("segments/a.wav", "segments/b.wav", "projects/c.wav");
    fs::write(mount.path(a), &bytes).unwrap();
    fs::rename(mount.path(a), mount.path(b)).unwrap();
    assert!(fs::read(mount.path(b)).unwrap() == bytes);
    assert_eq!(
        fs::metadata(mount.path(a)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    mount.wait_uploaded();
    assert_eq!(bucket.keys(), [b]);
    assert!(bucket.bytes(b) == bytes);

    // Across collections, as the bucket's own copy and delete; readable at every moment.
    fs::create_dir(mount.path("projects/x")).unwrap();
    fs::rename(mount.path(b), mount.path(c)).unwrap();
    assert!(fs::read(mount.path(c)).unwrap() == bytes);
    mount.wait_uploaded();
    assert!(fs::read(mount.path(c)).unwrap() == bytes);
    assert_eq!(bucket.keys(), [c, "projects/x/"]);
    assert!(bucket.bytes(c) == bytes);

    // A file of others, of which nothing is here.
    bucket.put("layers/theirs.wav", bytes.clone());
    fs::rename(
        mount.path("layers/theirs.wav"),
        mount.path("layers/mine.wav"),
    )
    .unwrap();
    assert!(fs::read(mount.path("layers/mine.wav")).unwrap() == bytes);
    mount.wait_uploaded();
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    assert!(fs::read(mount.path("layers/mine.wav")).unwrap() == bytes);
    assert_eq!(
        fs::metadata(mount.path("layers/theirs.wav"))
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    assert_eq!(bucket.keys(), ["layers/mine.wav", c, "projects/x/"]);

    // There and back, and the same name again.
    fs::rename(mount.path(c), mount.path(b)).unwrap();
    fs::write(mount.path(c), "a new one").unwrap();
    fs::rename(mount.path(c), mount.path(a)).unwrap();
    fs::rename(mount.path(b), mount.path(c)).unwrap();
    mount.wait_uploaded();
    assert!(bucket.bytes(c) == bytes);
    assert_eq!(bucket.bytes(a), b"a new one");
    assert_eq!(bucket.keys(), ["layers/mine.wav", c, "projects/x/", a]);
}

fn a_rename_replaces_a_file_that_is_open(bucket: &Bucket) {
    let (old, new) = (noise(1, 300_000), noise(2, 200_000));
    let mount = bucket.mount();
    bucket.put("projects/song.wav", old.clone());
    let song = mount.path("projects/song.wav");
    for upload_first in [false, true] {
        let mut reader = File::open(&song).unwrap();
        let replaced = fs::read(&song).unwrap();
        let text = if upload_first { &old } else { &new };
        fs::write(mount.path("projects/song.tmp"), text).unwrap();
        if upload_first {
            mount.wait_uploaded();
        }
        fs::rename(mount.path("projects/song.tmp"), &song).unwrap();
        assert!(fs::read(&song).unwrap() == *text);
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert!(seen == replaced, "an open file keeps its bytes");
        mount.wait_uploaded();
        assert!(bucket.bytes("projects/song.wav") == *text);
        assert_eq!(bucket.keys(), ["projects/song.wav"]);
        assert!(fs::read(&song).unwrap() == *text);
    }
    // Over itself, and over a folder.
    fs::rename(&song, &song).unwrap();
    fs::create_dir(mount.path("projects/folder")).unwrap();
    let refused = fs::rename(&song, mount.path("projects/folder")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EISDIR));
    let refused = fs::rename(mount.path("projects/folder"), &song).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR));
    assert!(fs::read(&song).unwrap() == old);
}

fn a_folder_moves_with_all_that_is_in_it(bucket: &Bucket) {
    let name = |folder: &str, n: usize| format!("{folder}/sub {}/deep/take {n:02}.wav", n % 3);
    let bytes = |n: usize| noise(n as u64, 1000 + n);
    for n in 0..20 {
        bucket.put(&name("projects/album", n), bytes(n));
    }
    let mut mount = bucket.mount();
    // Some of others, some written here and uploaded, some not yet uploaded.
    for n in 20..30 {
        fs::write(mount.path(&name("projects/album", n)), bytes(n)).unwrap();
    }
    fs::create_dir(mount.path("projects/album/empty")).unwrap();
    mount.wait_uploaded();
    for n in 30..40 {
        fs::write(mount.path(&name("projects/album", n)), bytes(n)).unwrap();
    }
    let mut open = File::open(mount.path(&name("projects/album", 1))).unwrap();
    fs::rename(mount.path("projects/album"), mount.path("layers/moved")).unwrap();
    let all_there = |mount: &Mount| {
        for n in 0..40 {
            assert!(
                fs::read(mount.path(&name("layers/moved", n))).unwrap() == bytes(n),
                "{n}"
            );
        }
        assert!(
            fs::metadata(mount.path("layers/moved/empty"))
                .unwrap()
                .is_dir()
        );
        let old = fs::metadata(mount.path("projects/album")).unwrap_err();
        assert_eq!(old.kind(), ErrorKind::NotFound);
        assert_eq!(fs::read_dir(mount.path("projects")).unwrap().count(), 0);
    };
    all_there(&mount);
    mount.wait_uploaded();
    let mut seen = Vec::new();
    open.read_to_end(&mut seen).unwrap();
    assert!(seen == bytes(1));
    drop(open);
    all_there(&mount);
    let keys = bucket.keys();
    assert!(
        keys.iter().all(|key| key.starts_with("layers/moved/")),
        "{keys:?}"
    );
    for n in 0..40 {
        assert!(bucket.bytes(&name("layers/moved", n)) == bytes(n), "{n}");
    }
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    all_there(&mount);

    fs::create_dir(mount.path("layers/full")).unwrap();
    fs::write(mount.path("layers/full/x"), "x").unwrap();
    let refused = fs::rename(mount.path("layers/moved"), mount.path("layers/full")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTEMPTY));
    let into_itself = mount.path("layers/moved/empty/moved");
    let refused = fs::rename(mount.path("layers/moved"), into_itself).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    fs::create_dir(mount.path("layers/hollow")).unwrap();
    fs::rename(mount.path("layers/full"), mount.path("layers/hollow")).unwrap();
    assert_eq!(fs::read(mount.path("layers/hollow/x")).unwrap(), b"x");
}

#[test]
fn a_save_by_rename_costs_one_put_of_the_final_name() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "2")]);
    // The mount's first questions do not count.
    model.clear_requests();
    let save = |text: &str| {
        let temporary = mount.path("projects/song.rpp.tmp");
        let mut file = File::create(&temporary).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        drop(file);
        fs::rename(temporary, mount.path("projects/song.rpp")).unwrap();
    };
    save("one");
    save("two");
    mount.wait_uploaded();
    let one_put = [(Operation::PutObject, "projects/song.rpp".to_owned())];
    assert_eq!(writes(&model), one_put);
    assert_eq!(model.get("projects/song.rpp").unwrap().bytes, "two");
    model.clear_requests();
    save("three");
    mount.wait_uploaded();
    assert_eq!(writes(&model), one_put);
    assert_eq!(model.get("projects/song.rpp").unwrap().bytes, "three");
}

#[test]
fn a_rename_after_the_upload_copies_and_deletes() {
    let model = R2Model::start();
    let metadata = [("mtime", "1700000000.5"), ("artist", "somebody")];
    model.put_with("segments/a.wav", "bytes", "audio/x-special", &metadata);
    let mount = Mount::of(&model);
    // The mount's first questions do not count.
    model.clear_requests();
    fs::rename(mount.path("segments/a.wav"), mount.path("segments/b.wav")).unwrap();
    mount.wait_uploaded();
    let expected = [
        (Operation::CopyObject, "segments/b.wav".to_owned()),
        (Operation::DeleteObject, "segments/a.wav".to_owned()),
    ];
    assert_eq!(writes(&model), expected);
    let object = model.get("segments/b.wav").unwrap();
    assert_eq!(object.bytes, "bytes");
    // What others have said about it goes along.
    assert_eq!(object.content_type, "audio/x-special");
    assert_eq!(object.metadata["artist"], "somebody");
    let mtime: f64 = object.metadata["mtime"].parse().unwrap();
    assert_eq!(mtime, 1_700_000_000.5);
}

#[test]
fn noreplace_is_honoured() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", "theirs");
    let mount = Mount::of(&model);
    let (ours, theirs) = (
        mount.path("segments/ours.wav"),
        mount.path("segments/theirs.wav"),
    );
    fs::write(&ours, "ours").unwrap();
    let refused = rename_with(&ours, &theirs, RenameFlags::NOREPLACE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&ours).unwrap(), b"ours");
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    let free = mount.path("segments/free.wav");
    rename_with(&ours, &free, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(&free).unwrap(), b"ours");
    let outside = fs::rename(&free, mount.path("samples/free.wav")).unwrap_err();
    assert_eq!(outside.raw_os_error(), Some(libc::EXDEV));
    let missing = fs::rename(&ours, &theirs).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}
