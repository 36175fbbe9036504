//! Opens of one file in all modes and orders: none fails, and all see the same bytes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use r2_model::R2Model;

use super::{expect_passthrough, fetch, is_root, open_rw};
use crate::basic::noise;
use crate::common::mount::Mount;

#[derive(Clone, Copy, Debug)]
enum Mode {
    Read,
    ReadWrite,
    Write,
    Append,
    /// Opens for writing, writes, and is read through the others.
    Writing,
}

const MODES: [Mode; 5] = [
    Mode::Read,
    Mode::ReadWrite,
    Mode::Write,
    Mode::Append,
    Mode::Writing,
];

fn open(path: &Path, mode: Mode) -> File {
    let mut options = OpenOptions::new();
    let options = match mode {
        Mode::Read => options.read(true),
        Mode::ReadWrite | Mode::Writing => options.read(true).write(true),
        Mode::Write => options.write(true),
        Mode::Append => options.append(true),
    };
    options
        .open(path)
        .unwrap_or_else(|error| panic!("{mode:?}: {error}"))
}

fn check(files: &[(Mode, File)], path: &Path, expected: &[u8], what: &str) {
    for (mode, file) in files {
        assert_eq!(
            file.metadata().unwrap().len(),
            expected.len() as u64,
            "{mode:?}, {what}"
        );
        if matches!(mode, Mode::Write | Mode::Append) {
            continue;
        }
        let mut bytes = vec![0; expected.len()];
        file.read_exact_at(&mut bytes, 0)
            .unwrap_or_else(|error| panic!("{mode:?}, {what}: {error}"));
        assert!(bytes == expected, "{mode:?}, {what}");
    }
    assert!(fs::read(path).unwrap() == expected, "a new reader, {what}");
}

/// All orders of three of the modes.
fn orders() -> Vec<[Mode; 3]> {
    let mut orders = Vec::new();
    for a in MODES {
        for b in MODES {
            for c in MODES {
                orders.push([a, b, c]);
            }
        }
    }
    orders
}

#[test]
fn opens_in_all_modes_and_orders_agree() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "0")]);
    let orders = orders();
    for n in 0..orders.len() {
        model.put(&format!("segments/{n}"), noise(n as u64, 10_000));
    }
    let mut contents = Vec::new();
    for (n, order) in orders.iter().enumerate() {
        let path = mount.path(&format!("segments/{n}"));
        let mut expected = noise(n as u64, 10_000);
        // Some are whole in the cache and pass through, some are not here at all.
        if n % 4 != 0 {
            fetch(&mount, &path, &expected);
        }
        let what = format!("{order:?}");
        let mut files = Vec::new();
        for mode in order {
            let file = open(&path, *mode);
            if let Mode::Writing = mode {
                let text = format!("written as number {}", files.len());
                let at = 2000 * files.len();
                file.write_all_at(text.as_bytes(), at as u64).unwrap();
                expected[at..at + text.len()].copy_from_slice(text.as_bytes());
            }
            files.push((*mode, file));
            check(&files, &path, &expected, &what);
        }
        // Closed in the order of opening, or in the other.
        while !files.is_empty() {
            files.remove(if n % 2 == 0 { 0 } else { files.len() - 1 });
            check(&files, &path, &expected, &what);
        }
        contents.push(expected);
    }
    mount.wait_uploaded();
    for (n, expected) in contents.iter().enumerate() {
        let object = model.get(&format!("segments/{n}")).unwrap();
        assert!(object.bytes == *expected, "{:?} in the bucket", orders[n]);
        assert!(fs::read(mount.path(&format!("segments/{n}"))).unwrap() == *expected);
    }
}

#[test]
fn opening_for_writing_beside_readers_uploads_nothing() {
    let model = R2Model::start();
    let bytes = noise(1, 300_000);
    model.put("segments/a.wav", bytes.clone());
    let mount = Mount::of(&model);
    let path = mount.path("segments/a.wav");
    fetch(&mount, &path, &bytes);
    model.clear_requests();
    for round in 0..3 {
        let reader = File::open(&path).unwrap();
        let writer = open_rw(&path);
        let mut seen = vec![0; bytes.len()];
        writer.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == bytes);
        if round % 2 == 0 {
            drop(reader);
            drop(writer);
        } else {
            drop(writer);
            drop(reader);
        }
    }
    mount.wait_uploaded();
    std::thread::sleep(std::time::Duration::from_millis(700));
    mount.wait_uploaded();
    let written: Vec<_> = model
        .requests()
        .into_iter()
        .filter(|request| request.operation.is_write())
        .collect();
    assert!(written.is_empty(), "{written:#?}");
    // It is what it was: whole, in the cache, and passed through.
    mount.wait_for("the file is in the cache again", |status| {
        status["cache"]["bytes"] == 300_000
    });
    if is_root() {
        expect_passthrough(&mount, || assert!(fs::read(&path).unwrap() == bytes));
    }
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let here = fs::metadata(&path).unwrap().modified().unwrap();
    let there = model.stat("segments/a.wav").unwrap().last_modified;
    assert_eq!(seconds(here), seconds(there));
}

#[test]
fn a_file_saved_over_and_over_beside_readers_is_uploaded_as_it_is_last() {
    let model = R2Model::start();
    let mut expected = noise(1, 100_000);
    model.put("projects/session.ardour", expected.clone());
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "0")]);
    let path = mount.path("projects/session.ardour");
    fetch(&mount, &path, &expected);
    for round in 0..15_u64 {
        let reader = File::open(&path).unwrap();
        let writer = open_rw(&path);
        writer
            .write_all_at(format!("round {round}").as_bytes(), 5000 * round)
            .unwrap();
        let text = format!("round {round}");
        expected[5000 * round as usize..][..text.len()].copy_from_slice(text.as_bytes());
        drop(writer);
        let mut seen = vec![0; expected.len()];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "round {round}");
        // Sometimes the upload comes between, and the file goes back and forth.
        if round % 3 == 0 {
            mount.wait_uploaded();
            assert!(model.get("projects/session.ardour").unwrap().bytes == expected);
        }
        assert!(fs::read(&path).unwrap() == expected, "round {round}");
    }
    mount.wait_uploaded();
    assert!(model.get("projects/session.ardour").unwrap().bytes == expected);
}
