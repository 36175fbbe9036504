//! Names: what audio people call their files, and what cannot be a name here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use r2_model::R2Model;
use serde_json::Value;

use super::Bucket;
use super::bucket::on_each_bucket;
use crate::common::mount::{DEADLINE, Mount};

on_each_bucket!(odd_names_work);

const ODD: [&str; 22] = [
    "two words.wav",
    " leading and trailing ",
    "hash#tag.wav",
    "50%.wav",
    "%2Fslash%20.wav",
    "a+b.wav",
    "q?x=1&y=2;z.wav",
    "it's \"quoted\" `so`.wav",
    "back\\slash.wav",
    "tab\there.wav",
    "new\nline.wav",
    "colon:star*pipe|.wav",
    "<less> & [more] {}.wav",
    "$HOME ~ ^ @ = ,.wav",
    "-rf",
    ".hidden",
    "...",
    "noch ein Stück – größer.wav",
    "録音 その一.wav",
    "🎹🥁.wav",
    "Case.wav",
    "case.wav",
];

fn odd_names_work(bucket: &Bucket) {
    let mut mount = bucket.mount();
    let long = "ü".repeat(127) + "x";
    assert_eq!(long.len(), 255);
    let mut names: BTreeSet<&str> = ODD.into_iter().chain([&*long]).collect();
    if bucket.as_model().is_none() {
        // The emulator knows no route for such a key and answers 404.
        names.remove("new\nline.wav");
    }
    for name in &names {
        fs::create_dir_all(mount.path("projects/dirs").join(name)).unwrap();
        fs::write(mount.path("segments").join(name), format!("of {name}")).unwrap();
        fs::write(mount.path("projects/dirs").join(name).join("in it"), *name).unwrap();
        bucket.put(&format!("layers/{name}"), format!("theirs {name}"));
    }
    mount.wait_uploaded();
    let check = |mount: &Mount, when: &str| {
        for folder in ["segments", "layers", "projects/dirs"] {
            let listed: BTreeSet<String> = fs::read_dir(mount.path(folder))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
            assert_eq!(listed, names, "{folder} {when}");
        }
        for name in &names {
            let read = |path: &str| fs::read_to_string(mount.path(path).join(name)).unwrap();
            assert_eq!(read("segments"), format!("of {name}"), "{when}");
            assert_eq!(read("layers"), format!("theirs {name}"), "{when}");
            let inside = mount.path("projects/dirs").join(name).join("in it");
            assert_eq!(fs::read_to_string(inside).unwrap(), **name, "{when}");
        }
    };
    check(&mount, "at once");
    for name in &names {
        let key = format!("segments/{name}");
        assert_eq!(
            bucket.bytes(&key),
            format!("of {name}").as_bytes(),
            "{name:?}"
        );
    }
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    check(&mount, "after a remount");
    // Renames carry the source's name in a header, where it must be escaped.
    for name in &names {
        fs::rename(
            mount.path("layers").join(name),
            mount.path("rhythms").join(name),
        )
        .unwrap();
    }
    mount.wait_uploaded();
    for name in &names {
        let key = format!("rhythms/{name}");
        assert_eq!(
            bucket.bytes(&key),
            format!("theirs {name}").as_bytes(),
            "{name:?}"
        );
    }
}

#[test]
fn both_unicode_spellings_are_one_file() {
    let model = R2Model::start();
    let (nfc, nfd) = ("Stu\u{308}ck é.wav", "Stück e\u{301}.wav");
    let (composed, decomposed) = ("Stück é.wav", "Stu\u{308}ck e\u{301}.wav");
    model.put(&format!("layers/{decomposed}"), "theirs");
    let mut mount = Mount::of(&model);
    for name in [nfc, nfd, composed, decomposed] {
        assert_eq!(
            fs::read(mount.path("layers").join(name)).unwrap(),
            b"theirs"
        );
    }
    fs::write(mount.path("segments").join(composed), "one").unwrap();
    fs::write(mount.path("segments").join(decomposed), "two").unwrap();
    assert_eq!(
        fs::read(mount.path("segments").join(composed)).unwrap(),
        b"two"
    );
    let names = |mount: &Mount| -> Vec<_> {
        fs::read_dir(mount.path("segments"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    assert_eq!(names(&mount).len(), 1);
    mount.wait_uploaded();
    assert_eq!(model.keys().len(), 2);
    assert_eq!(
        model.get(&format!("segments/{composed}")).unwrap().bytes,
        "two"
    );
    // To the kernel both names are one file already, so it renames nothing.
    fs::rename(
        mount.path("segments").join(composed),
        mount.path("segments").join(decomposed),
    )
    .unwrap();
    assert_eq!(names(&mount).len(), 1);
    mount.wait_uploaded();
    assert_eq!(
        fs::read(mount.path("segments").join(decomposed)).unwrap(),
        b"two"
    );
    assert_eq!(
        model.get(&format!("segments/{composed}")).unwrap().bytes,
        "two"
    );
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    assert_eq!(
        fs::read(mount.path("segments").join(composed)).unwrap(),
        b"two"
    );
    // Looked up by either, removed by one, gone for both.
    for name in [composed, decomposed] {
        fs::metadata(mount.path("segments").join(name)).unwrap();
    }
    fs::remove_file(mount.path("segments").join(decomposed)).unwrap();
    let end = Instant::now() + DEADLINE;
    while fs::metadata(mount.path("segments").join(composed)).is_ok() {
        assert!(Instant::now() < end, "the other spelling stays");
    }
    mount.wait_uploaded();
    assert_eq!(model.keys().len(), 1);
}

#[test]
fn what_cannot_be_a_name_is_refused_before_anything_is_written() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let bad = OsStr::from_bytes(b"not \xff UTF-8");
    let long = "x".repeat(256);
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    let segments = mount.path("segments");
    assert_eq!(errno(fs::write(segments.join(bad), "x")), libc::EILSEQ);
    assert_eq!(errno(fs::create_dir(segments.join(bad))), libc::EILSEQ);
    assert_eq!(
        errno(fs::write(segments.join(&long), "x")),
        libc::ENAMETOOLONG
    );
    fs::write(segments.join("good"), "x").unwrap();
    let renamed = fs::rename(segments.join("good"), segments.join(bad));
    assert_eq!(errno(renamed), libc::EILSEQ);
    assert!(fs::metadata(segments.join(bad)).is_err());

    for name in ["file.wav", "Segments", ".Trash-x"] {
        assert_eq!(
            errno(fs::write(mount.path(name), "x")),
            libc::EPERM,
            "{name}"
        );
        assert_eq!(
            errno(fs::create_dir(mount.path(name))),
            libc::EPERM,
            "{name}"
        );
    }
    let to_root = fs::rename(segments.join("good"), mount.path("good"));
    assert!([libc::EPERM, libc::EXDEV].contains(&errno(to_root)));
    assert_eq!(errno(fs::remove_dir(mount.path("segments"))), libc::EPERM);
    assert_eq!(
        errno(fs::rename(segments, mount.path("others"))),
        libc::EPERM
    );
    mount.wait_uploaded();
    let files: Vec<_> = model
        .keys()
        .into_iter()
        .filter(|key| !key.ends_with('/'))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

#[test]
fn what_is_longer_than_the_bucket_takes_is_kept_here_and_told() {
    let model = R2Model::start();
    let mut mount = Mount::of(&model);
    let part = |letter: &str| letter.repeat(200);
    // 9 + 4 * 201 bytes: the longest key below it ends after 211 more.
    let edge = format!("projects/{}", vec![part("d"); 4].join("/"));
    let beyond = format!("{edge}/{}", vec![part("e"); 4].join("/"));
    fs::create_dir_all(mount.path(&beyond)).unwrap();
    fs::write(mount.path(&edge).join("y".repeat(211)), "fits").unwrap();
    for take in ["take", "other"] {
        fs::write(mount.path(&beyond).join(take), take).unwrap();
    }
    let parked = |wanted: u64| move |status: &Value| status["uploads"]["parked"] == wanted;
    mount.wait_for("three folders and two files are parked", parked(5));
    let told = mount.run(&["queue", "list"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("the bucket takes at most 1024"), "{told}");

    // What is in the bucket cannot go where the bucket has no room for its name.
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    fs::write(mount.path("segments/far"), "far").unwrap();
    mount.wait_for("all but these is uploaded", |status| {
        status["uploads"]["queued"] == 5
    });
    let to = mount.path(&beyond).join("far");
    assert_eq!(
        errno(fs::rename(mount.path("segments/far"), to)),
        libc::ENAMETOOLONG
    );

    mount.kill();
    mount.mount();
    let names = fs::read_dir(mount.path(&beyond)).unwrap();
    let names: BTreeSet<_> = names.map(|name| name.unwrap().file_name()).collect();
    assert_eq!(
        names,
        ["other", "take"].map(OsStr::new).map(Into::into).into()
    );
    assert!(fs::metadata(mount.path(&beyond).join("none")).is_err());
    for take in ["take", "other"] {
        let read = fs::read(mount.path(&beyond).join(take)).unwrap();
        assert_eq!(read, take.as_bytes());
    }

    // A shorter name is all that it takes, of the file or of the folder.
    fs::rename(
        mount.path(&beyond).join("take"),
        mount.path("segments/take"),
    )
    .unwrap();
    let cut = format!("{edge}/{}", part("e"));
    fs::rename(mount.path(&cut), mount.path("projects/short")).unwrap();
    mount.wait_uploaded();
    mount.wait_for("nothing is parked", parked(0));
    let rest = vec![part("e"); 3].join("/");
    let short = format!("projects/short/{rest}/other");
    assert_eq!(model.get(&short).unwrap().bytes, "other");
    assert_eq!(model.get("segments/take").unwrap().bytes, "take");
    fs::remove_dir_all(mount.path("projects").join("d".repeat(200))).unwrap();
    mount.wait_uploaded();
    assert!(model.keys().iter().all(|key| key.len() <= 1024));
}

#[test]
fn what_no_name_can_stand_for_is_told_in_the_status() {
    let model = R2Model::start();
    let long = format!("layers/{}", "l".repeat(300));
    let hidden = [
        "layers//slashes",
        "layers/./dot",
        "layers/../dots",
        "layers/folder",
        "layers/folder/",
        &long,
    ];
    for key in hidden {
        model.put(key, format!("of {key}"));
    }
    model.put("layers/folder/inside", "inside");
    model.put("layers/plain", "plain");
    let mount = Mount::of(&model);
    let names = |path: &str| {
        let names = fs::read_dir(mount.path(path)).unwrap();
        let names: BTreeSet<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(names("layers"), ["folder", "plain"]);
    assert_eq!(names("layers/folder"), ["inside"]);
    assert_eq!(
        fs::read(mount.path("layers/folder/inside")).unwrap(),
        b"inside"
    );
    let status = mount.status();
    let told: BTreeSet<&str> = status["hidden"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    let expected = [
        "layers//",
        "layers/./",
        "layers/../",
        "layers/folder",
        "layers/folder/",
        &long,
    ];
    assert_eq!(told, BTreeSet::from(expected));
    let alerts = status["alerts"].to_string();
    assert!(
        alerts.contains("6 keys in the bucket cannot be shown"),
        "{alerts}"
    );
    fs::remove_dir_all(mount.path("layers/folder")).unwrap();
    fs::remove_file(mount.path("layers/plain")).unwrap();
    mount.wait_uploaded();
    for key in hidden {
        assert!(model.get(key).is_some(), "{key} is gone");
    }
}
