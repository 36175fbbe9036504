//! A folder with more names than are held in memory. `NAMES` chooses another number, for
//! `scripts/soak names`; the resident memory is bounded whatever it is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};

use crate::common::mount::Mount;
use crate::crash::random::setting;

/// Twice what is held in memory.
const NAMES: u64 = 20_500;
const MOST_RESIDENT_KIB: u64 = 100 << 10;
const MOST_LOOKED_AT: u64 = 50_000;
const MOST_INDEX_BYTES_A_NAME: u64 = 300;

fn name(number: u64) -> String {
    format!("take-{number:08}-7d3c4b5a.wav")
}

fn filled(names: u64) -> R2Model {
    let model = R2Model::start();
    for number in 0..names {
        model.put(&format!("segments/{}", name(number)), "bytes");
    }
    model
}

fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn shown(folder: &Path) -> BTreeSet<String> {
    let names = listed(folder);
    let shown: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(shown.len(), names.len(), "a name is told twice");
    shown
}

fn lists(model: &R2Model) -> usize {
    let requests = model.requests();
    let lists = requests
        .iter()
        .filter(|request| request.operation == Operation::ListObjectsV2);
    lists.count()
}

/// Peak of the resident memory, in KiB.
fn resident_kib(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let figure = line.split_whitespace().nth(1).unwrap();
    figure.parse().unwrap()
}

#[test]
fn a_folder_of_very_many_names_is_read_as_it_arrives_in_little_memory() {
    let names = setting("NAMES", NAMES);
    let model = filled(names);
    let mut mount = Mount::of(&model);
    let folder = mount.path("segments");
    model.clear_requests();
    let one = fs::read(folder.join(name(names / 2))).unwrap();
    assert_eq!(one, b"bytes");
    let behind = lists(&model);
    // A look at the name, and a few pages behind it.
    assert!(behind <= 8, "{behind}: {:?}", model.requests());
    let begun = Instant::now();
    let first = fs::read_dir(&folder).unwrap().next();
    let first = first.map(|entry| entry.unwrap().file_name());
    println!("first name after {:?}", begun.elapsed());
    assert_eq!(first.unwrap().to_str(), Some(&*name(0)));
    let all: BTreeSet<String> = (0..names).map(name).collect();
    assert_eq!(shown(&folder), all);
    println!("all after {:?}", begun.elapsed());
    model.clear_requests();
    assert_eq!(shown(&folder), all);
    // The kernel holds what was looked at.
    let looked_at = names.min(MOST_LOOKED_AT) as usize;
    for name in all.iter().take(looked_at) {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().size(), 5);
    }
    let asked = model.requests();
    assert!(asked.is_empty(), "all is known: {asked:?}");
    println!("resident {} KiB", resident_kib(&mount));
    assert!(resident_kib(&mount) < MOST_RESIDENT_KIB);

    mount.unmount();
    let index = fs::metadata(mount.beside("cache/index.db")).unwrap().len();
    println!("index {} bytes a name", index / names);
    assert!(index < MOST_INDEX_BYTES_A_NAME * names, "{index}");
    model.stop();
    let begun = Instant::now();
    mount.mount();
    println!("mounted again after {:?}", begun.elapsed());
    assert_eq!(shown(&folder), all, "without the bucket");
    assert_eq!(fs::read(folder.join(name(names / 2))).unwrap(), b"bytes");
    assert!(resident_kib(&mount) < MOST_RESIDENT_KIB);
    mount.unmount();
}

/// What is done here shows at once, stays through a refresh that was begun before, and through a start.
#[test]
fn changes_in_a_folder_of_very_many_names_show_and_stay() {
    let model = filled(NAMES);
    let mut mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "1")]);
    let folder = mount.path("segments");
    let mut wanted: BTreeSet<String> = (0..NAMES).map(name).collect();
    assert_eq!(shown(&folder), wanted);
    // Pages come slowly, so that the changes fall within a listing.
    let slow =
        FaultRule::new(Fault::latency(Duration::from_millis(40))).on(&[Operation::ListObjectsV2]);
    model.add_fault(slow);
    std::thread::sleep(Duration::from_secs(4));
    let _ = fs::read_dir(&folder).unwrap().next();

    fs::write(folder.join("a new one.wav"), "new").unwrap();
    fs::write(folder.join(name(7)), "changed").unwrap();
    fs::remove_file(folder.join(name(8))).unwrap();
    fs::rename(folder.join(name(9)), folder.join("renamed.wav")).unwrap();
    fs::rename(folder.join(name(10)), folder.join(name(11))).unwrap();
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/x.wav"), "x").unwrap();
    for number in [8, 9, 10] {
        wanted.remove(&name(number));
    }
    wanted.extend(["a new one.wav", "renamed.wav", "sub"].map(str::to_owned));
    let check = |wanted: &BTreeSet<String>, what: &str| {
        assert_eq!(shown(&folder), *wanted, "{what}");
        for (name, bytes) in [
            ("a new one.wav", "new"),
            (&*name(7), "changed"),
            ("renamed.wav", "bytes"),
            (&*name(11), "bytes"),
            ("sub/x.wav", "x"),
        ] {
            let read = fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!(read, bytes, "{what}: {name}");
        }
        for number in [8, 9, 10] {
            assert!(!folder.join(name(number)).exists(), "{what}");
        }
    };
    check(&wanted, "at once");
    mount.wait_uploaded();
    check(&wanted, "uploaded");
    model.clear_faults();
    mount.run(&["refresh"]);
    check(&wanted, "listed anew");
    mount.kill();
    mount.mount();
    check(&wanted, "after a kill");

    // What others do shows with the next listing, and when it is asked for by its name at once.
    model.put("segments/by another.wav", "other");
    model.delete(&format!("segments/{}", name(20)));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fs::read(folder.join("by another.wav")).unwrap(), b"other");
    wanted.insert("by another.wav".into());
    wanted.remove(&name(20));
    mount.run(&["refresh"]);
    check(&wanted, "of others");
    let one = fs::metadata(folder.join(name(30))).unwrap();
    assert_eq!(
        (one.size(), one.ino()),
        (5, fs::metadata(folder.join(name(30))).unwrap().ino())
    );
    mount.unmount();
}

/// The listing of one ends, since its bucket does not answer: it is an error, and no end.
#[test]
fn a_listing_that_breaks_off_is_an_error_and_goes_on_later() {
    let model = filled(NAMES);
    let mount = Mount::with(&model, &[("REQUEST_DEADLINE_SECONDS", "3")]);
    let folder = mount.path("segments");
    let broken = FaultRule::new(Fault::error("InternalError"))
        .on(&[Operation::ListObjectsV2])
        .from_nth(8);
    model.add_fault(broken);
    let mut entries = fs::read_dir(&folder).unwrap();
    assert!(
        entries.any(|entry| entry.is_err()),
        "an incomplete folder looks like a whole one"
    );
    model.clear_faults();
    let deadline = Instant::now() + Duration::from_secs(60);
    let whole = loop {
        let names: Result<Vec<_>, _> = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect(),
            Err(error) => Err(error),
        };
        match names {
            Ok(names) => break names.len(),
            Err(_) => assert!(Instant::now() < deadline),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(whole as u64, NAMES);
}

/// A folder that is read from the index is renamed with all it holds.
#[test]
fn a_folder_of_very_many_names_is_renamed() {
    let model = R2Model::start();
    for number in 0..11_000 {
        model.put(&format!("projects/long/{}", name(number)), "bytes");
    }
    let mount = Mount::of(&model);
    assert_eq!(shown(&mount.path("projects/long")).len(), 11_000);
    fs::rename(mount.path("projects/long"), mount.path("projects/other")).unwrap();
    assert_eq!(shown(&mount.path("projects/other")).len(), 11_000);
    assert_eq!(
        shown(&mount.path("projects")),
        BTreeSet::from(["other".to_owned()])
    );
    let mut bytes = String::new();
    let mut file = File::open(mount.path("projects/other").join(name(10_999))).unwrap();
    file.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "bytes");
}
