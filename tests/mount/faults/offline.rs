//! No bucket to talk to: connections that are refused, reset or never answered.

use std::fs::{self, File};
use std::io::{Read, Write};

use r2_model::{Connections, Fault, FaultRule, Operation, R2Model, Reply};

use super::*;
use crate::common::mount::{DEADLINE, model_settings};
use crate::crash::{assert_file, assert_object, names, noise};

/// The bucket goes away under a mount, and comes back.
fn goes_on_without(how: Connections) {
    let model = R2Model::start();
    let cached = noise(1, 300_000);
    for name in ["cached", "renamed", "deleted", "edited", "unread"] {
        model.put(&format!("segments/{name}.wav"), cached.clone());
    }
    let mut mount = impatient(&model);
    let root = mount.root();
    let path = |name: &str| root.join(format!("segments/{name}.wav"));
    assert_eq!(names(&mount, "segments").len(), 5);
    for name in ["cached", "edited"] {
        assert_file(&path(name), &cached);
    }
    let reader = File::open(path("cached")).unwrap();
    model.set_connections(how);
    model.cut_connections();

    answered("cached", || assert_file(&path("cached"), &cached));
    answered("listed", || assert_eq!(names(&mount, "segments").len(), 5));
    answered("made", || fs::write(path("made"), "made").unwrap());
    answered("renamed", || {
        fs::rename(path("renamed"), path("moved")).unwrap();
    });
    answered("deleted", || fs::remove_file(path("deleted")).unwrap());
    answered("edited", || {
        let mut file = File::options().append(true).open(path("edited")).unwrap();
        file.write_all(b"more").unwrap();
        file.sync_all().unwrap();
    });
    let edited = [&cached[..], b"more"].concat();
    assert_no_answer(answered("what is not here", || fs::read(path("unread"))));
    assert_no_answer(answered("a name in a folder that was never listed", || {
        fs::metadata(mount.path("layers/unknown.wav"))
    }));
    assert_no_answer(answered("a new name there", || {
        fs::write(mount.path("layers/unknown.wav"), "")
    }));
    mount.wait_for("it is noticed", |status| {
        status["online"] == false && status["uploads"]["queued"] == 5
    });
    let mut again = Vec::new();
    (&reader).read_to_end(&mut again).unwrap();
    assert_eq!(again, cached);
    drop(reader);
    answered("umount", || mount.unmount());
    answered("mount", || mount.mount());
    let shown = [
        "cached.wav",
        "edited.wav",
        "made.wav",
        "moved.wav",
        "unread.wav",
    ];
    let check = |mount: &Mount| {
        assert_eq!(names(mount, "segments"), shown);
        assert_file(&mount.path("segments/cached.wav"), &cached);
        assert_file(&mount.path("segments/edited.wav"), &edited);
        assert_file(&mount.path("segments/made.wav"), b"made");
    };
    answered("the same after a restart", || check(&mount));

    model.restart();
    mount.wait_uploaded();
    check(&mount);
    assert_object(&model, "segments/edited.wav", &edited);
    assert_object(&model, "segments/made.wav", b"made");
    assert_object(&model, "segments/moved.wav", &cached);
    assert_eq!(model.keys().len(), 5, "{:?}", model.keys());
    mount.wait_for("it is noticed", |status| status["online"] == true);
    assert_file(&mount.path("segments/unread.wav"), &cached);
    assert_file(&mount.path("segments/moved.wav"), &cached);
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
    assert_eq!(status["conflicts"], 0, "{status:#}");
}

/// An outage that lasts costs its callers nothing once it is known: they are told at once, what is
/// here is served, and one small question after another finds its end.
fn callers_do_not_wait_in(begin: impl FnOnce(&R2Model)) {
    let model = R2Model::start();
    let cached = noise(1, 300_000);
    for number in 0..CALLERS {
        model.put(&format!("segments/{number}.wav"), cached.clone());
    }
    model.put("segments/cached.wav", cached.clone());
    // All callers together would wait for minutes.
    let mut mount = Mount::with(&model, &[("REQUEST_DEADLINE_SECONDS", "10")]);
    assert_eq!(names(&mount, "segments").len(), CALLERS + 1);
    assert_file(&mount.path("segments/cached.wav"), &cached);
    begin(&model);
    model.cut_connections();
    let first = [0, 1, 2].map(|number| {
        let path = mount.path(&format!("segments/{number}.wav"));
        std::thread::spawn(move || fs::read(path))
    });
    let end = Instant::now() + DEADLINE;
    while !mount.log().contains("answers nobody") {
        assert!(Instant::now() < end, "it is noticed: {}", mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(mount.status()["online"], false);
    let gets = gets_of(&model);
    answered("all that is not here", || {
        for number in 3..CALLERS {
            assert_no_answer(fs::read(mount.path(&format!("segments/{number}.wav"))));
        }
    });
    answered("names of other folders", || {
        for number in 0..CALLERS {
            let name = format!("layers/{number}.wav");
            assert_no_answer(fs::metadata(mount.path(&name)));
        }
    });
    // The first may still have asked.
    assert!(gets_of(&model) < gets + CALLERS / 2);
    answered("cached", || {
        assert_file(&mount.path("segments/cached.wav"), &cached);
        assert_eq!(names(&mount, "segments").len(), CALLERS + 1);
        fs::write(mount.path("segments/made.wav"), "made").unwrap();
    });
    model.clear_faults();
    model.restart();
    mount.wait_for("it is back", |status| status["online"] == true);
    for reader in first {
        // Who waited since before it was known may have been served in the end.
        match reader.join().unwrap() {
            Ok(bytes) => assert_eq!(bytes, cached),
            Err(error) => assert_no_answer::<()>(Err(error)),
        }
    }
    for number in 0..CALLERS {
        assert_file(&mount.path(&format!("segments/{number}.wav")), &cached);
    }
    mount.wait_uploaded();
    assert_object(&model, "segments/made.wav", b"made");
    mount.unmount();
}

/// How many callers come while the bucket is away. One after the other they would wait for longer
/// than a test may take.
const CALLERS: usize = 30;

fn gets_of(model: &R2Model) -> usize {
    let requests = model.requests();
    let gets = requests
        .iter()
        .filter(|r| r.operation == Operation::GetObject);
    gets.count()
}

#[test]
fn callers_of_a_bucket_that_refuses_connections() {
    callers_do_not_wait_in(|model| model.set_connections(Connections::Refuse));
}

#[test]
fn callers_of_a_bucket_that_nobody_hears() {
    callers_do_not_wait_in(|model| model.set_connections(Connections::BlackHole));
}

#[test]
fn callers_of_a_bucket_that_asks_all_to_slow_down() {
    callers_do_not_wait_in(|model| {
        model.add_fault(FaultRule::new(Fault::too_many_requests(None)));
    });
}

#[test]
fn callers_of_a_bucket_that_only_fails() {
    callers_do_not_wait_in(|model| {
        model.add_fault(FaultRule::new(Fault::reply(Reply::html(500))));
    });
}

#[test]
fn a_line_of_a_kilobyte_a_second_keeps_nobody_beyond_the_deadline() {
    let model = R2Model::start();
    let bytes = noise(1, 300_000);
    model.put("segments/s.wav", bytes.clone());
    let mut mount = impatient(&model);
    assert_eq!(names(&mount, "segments"), ["s.wav"]);
    let slow = model.add_fault(FaultRule::new(Fault::SlowBody(1000)));
    let path = mount.path("segments/s.wav");
    // All of it would take five minutes.
    assert_no_answer(answered("reading", || fs::read(&path)));
    assert_no_answer(answered("appending", || {
        File::options().append(true).open(&path)?.write_all(b"more")
    }));
    assert!(model.fired(slow) > 0);
    answered("umount", || mount.unmount());
    model.clear_faults();
    mount.mount();
    assert_file(&path, &bytes);
}

#[test]
fn refused_connections() {
    goes_on_without(Connections::Refuse);
}

#[test]
fn reset_connections() {
    goes_on_without(Connections::Reset);
}

#[test]
fn connections_that_nobody_answers() {
    goes_on_without(Connections::BlackHole);
}

/// A machine that starts without network.
fn mounts_without(how: Connections) {
    let model = R2Model::start();
    model.put("segments/s.wav", "there");
    model.set_connections(how);
    let mut mount = Mount::prepare(&[("REQUEST_DEADLINE_SECONDS", REQUEST_DEADLINE)]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    answered("mount", || mount.mount());
    assert!(names(&mount, "").contains(&"segments".to_owned()));
    let begun = Instant::now();
    let unknown = fs::metadata(mount.path("segments/s.wav")).unwrap_err();
    assert_eq!(unknown.raw_os_error(), Some(libc::EIO), "{unknown}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(mount.status()["online"], false);
    answered("umount", || mount.unmount());
    mount.mount();
    model.restart();
    let end = Instant::now() + DEADLINE;
    while let Err(error) = fs::read(mount.path("segments/s.wav")) {
        assert_no_answer::<()>(Err(error));
        assert!(Instant::now() < end, "the bucket is back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_mount_starts_while_connections_are_refused() {
    mounts_without(Connections::Refuse);
}

#[test]
fn a_mount_starts_while_nobody_answers() {
    mounts_without(Connections::BlackHole);
}

#[test]
fn new_names_in_an_old_folder_wait_together_for_a_bucket_that_is_silent() {
    const NAMES: u32 = 30;
    let model = R2Model::start();
    model.put("segments/there.wav", "there");
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "1")]);
    assert_eq!(names(&mount, "segments").len(), 1);
    std::thread::sleep(Duration::from_secs(2));
    model.set_connections(Connections::BlackHole);
    model.cut_connections();
    // Each alone may wait half a second for the listing.
    let begun = Instant::now();
    for number in 0..NAMES {
        fs::write(mount.path(&format!("segments/new-{number}.wav")), "new").unwrap();
    }
    let took = begun.elapsed();
    assert!(took < NAMES * Duration::from_millis(250), "{took:?}");
    assert_eq!(names(&mount, "segments").len(), 1 + NAMES as usize);
}
