//! Two machines and one project: who has it open is told, and heeded where that was asked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use r2_model::{Ending, Fault, FaultRule, Operation, Permission, R2Model, Token};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use rustix::io::Errno;
use serde_json::Value;

use crate::clocks::{mount_with_clock, set_clock};
use crate::common::mount::{DEADLINE, Mount};
use crate::crash::{assert_object, noise};

/// All leases lie there.
const LEASES: &str = ".voicebeatfs/leases/";
/// That of the project of these tests.
const LEASE: &str = ".voicebeatfs/leases/song.json";
/// Long enough that no machine under load forgets to renew; a sixth of it is how long a look counts.
const LONG: (&str, &str) = ("LEASE_SECONDS", "30");
/// The shortest.
const SHORT: (&str, &str) = ("LEASE_SECONDS", "3");

fn machine(model: &R2Model, name: &str, settings: &[(&str, &str)]) -> Mount {
    let own = [("LEASE_MODE", "advise"), ("LEASE_NAME", name), LONG];
    Mount::with(model, &[&own[..], settings].concat())
}

/// Returns what the mount tells of who else has the project of a file or folder open.
fn told(path: &Path) -> Result<String, Errno> {
    let mut value = [0; 512];
    let length = getxattr(path, "user.voicebeat.lease", &mut value[..])?;
    Ok(String::from_utf8(value[..length].to_vec()).unwrap())
}

#[track_caller]
fn wait(mount: &Mount, what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !wanted() {
        assert!(Instant::now() < end, "{what}: not in time\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the mount holds the lease of the project.
fn holds(mount: &Mount) -> bool {
    leases(mount).iter().any(|lease| lease["held"] == true)
}

fn leases(mount: &Mount) -> Vec<Value> {
    mount.status()["leases"].as_array().unwrap().clone()
}

#[track_caller]
fn wait_held(mount: &Mount) {
    wait(mount, "the lease is held", || holds(mount));
}

#[track_caller]
fn wait_told(mount: &Mount, name: &str) {
    let folder = mount.path("projects/song");
    wait(mount, "somebody else has it open", || {
        told(&folder).is_ok_and(|text| text.starts_with(&format!("open by {name} on ")))
    });
}

/// Returns how many requests of a kind there were about leases.
fn asked(model: &R2Model, operation: Operation) -> usize {
    let about = |key: &Option<String>| key.as_ref().is_some_and(|key| key.starts_with(LEASES));
    let requests = model.requests().into_iter();
    let requests = requests.filter(|request| request.operation == operation && about(&request.key));
    requests.count()
}

/// Returns the lease as it lies in the bucket.
fn object(model: &R2Model) -> Value {
    let object = model.get(LEASE).expect("a lease");
    serde_json::from_slice(&object.bytes).unwrap()
}

#[track_caller]
fn assert_read_only<T>(what: &str, done: io::Result<T>) {
    let error = done.err().expect(what);
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
}

#[test]
fn who_works_in_a_project_is_told_to_the_others_until_the_unmount() {
    let model = R2Model::start();
    model.put("projects/other/other.rpp", "other");
    let (mut anna, ben) = (machine(&model, "Anna", &[]), machine(&model, "Ben", &[]));
    fs::create_dir(anna.path("projects/song")).unwrap();
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    anna.wait_uploaded();
    let written = object(&model);
    assert_eq!(written["version"], 1);
    assert_eq!(written["project"], "song");
    assert_eq!(written["name"], "Anna");
    assert_eq!(written["ttl_seconds"], 30);
    let host = written["host"].as_str().unwrap();
    let since = written["since"].as_str().unwrap();
    let text = format!("open by Anna on {host} since {since}");
    for path in ["projects/song", "projects/song/song.rpp"] {
        assert_eq!(told(&ben.path(path)).as_ref(), Ok(&text), "{path}");
        // Her own is no news to her.
        assert_eq!(told(&anna.path(path)), Err(Errno::NODATA), "{path}");
    }
    for path in ["projects/other/other.rpp", "projects/other", "projects"] {
        assert_eq!(told(&ben.path(path)), Err(Errno::NODATA), "{path}");
    }
    let entry = |held| {
        serde_json::json!({"path": "projects/song", "held": held, "name": "Anna", "host": host,
            "since": since})
    };
    assert_eq!(leases(&ben), [entry(false)]);
    assert_eq!(leases(&anna), [entry(true)]);
    for (mount, line) in [
        (
            &anna,
            format!("projects/song: held by this mount since {since}"),
        ),
        (&ben, format!("projects/song: {text}")),
    ] {
        let status = String::from_utf8(mount.run(&["status"]).stdout).unwrap();
        assert!(status.contains(&line), "{status}");
    }
    // It is told, neither set nor listed, and shows nowhere else.
    let song = ben.path("projects/song/song.rpp");
    let set = setxattr(&song, "user.voicebeat.lease", b"me", XattrFlags::empty());
    assert_eq!(set, Err(Errno::PERM));
    assert_eq!(listxattr(&song, &mut [0u8; 512][..]), Ok(0));
    assert!(fs::metadata(ben.path(".voicebeatfs")).is_err());
    // She leaves.
    anna.unmount();
    assert!(model.get(LEASE).is_none(), "{}", anna.log());
    wait(&ben, "it is free", || {
        told(&ben.path("projects/song")) == Err(Errno::NODATA)
    });
    assert_eq!(leases(&ben), [Value::Null; 0]);
}

#[test]
fn leases_are_off_unless_asked_for() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    fs::create_dir(mount.path("projects/song")).unwrap();
    fs::write(mount.path("projects/song/song.rpp"), "mine").unwrap();
    assert_eq!(told(&mount.path("projects/song")), Err(Errno::NODATA));
    mount.wait_uploaded();
    assert_eq!(asked(&model, Operation::GetObject), 0);
    assert_eq!(asked(&model, Operation::PutObject), 0);
    assert_eq!(leases(&mount), [Value::Null; 0]);
}

#[test]
fn a_killed_holder_is_forgotten_when_its_lease_has_ended() {
    let model = R2Model::start();
    let mut anna = machine(&model, "Anna", &[SHORT]);
    let ben = machine(&model, "Ben", &[SHORT]);
    fs::create_dir(anna.path("projects/song")).unwrap();
    let mut take = File::create(anna.path("projects/song/take.wav")).unwrap();
    take.write_all(b"a take").unwrap();
    // That is what lies there, so that the other sees the folder.
    model.put("projects/song/notes.txt", "notes");
    wait_told(&ben, "Anna");
    anna.kill();
    drop(take);
    let left = object(&model);
    wait(&ben, "it has ended", || {
        told(&ben.path("projects/song")) == Err(Errno::NODATA)
    });
    fs::write(ben.path("projects/song/notes.txt"), "his").unwrap();
    wait_held(&ben);
    let taken = object(&model);
    assert_eq!(taken["name"], "Ben");
    assert_ne!(taken["id"], left["id"]);
}

#[test]
fn a_mount_that_comes_back_has_its_own_lease() {
    let model = R2Model::start();
    let settings = [("LEASE_MODE", "read-only"), ("LEASE_SECONDS", "600")];
    let mut anna = machine(&model, "Anna", &settings);
    fs::create_dir(anna.path("projects/song")).unwrap();
    fs::write(anna.path("projects/song/song.rpp"), "first").unwrap();
    wait_held(&anna);
    anna.wait_uploaded();
    let before = object(&model);
    anna.kill();
    anna.mount();
    for content in ["second", "third"] {
        fs::write(anna.path("projects/song/song.rpp"), content).unwrap();
        wait_held(&anna);
        assert_eq!(leases(&anna)[0]["since"], before["since"]);
        assert_eq!(object(&model)["id"], before["id"]);
    }
}

#[test]
fn what_another_has_open_cannot_be_changed_in_read_only_mode() {
    let model = R2Model::start();
    for key in ["song/song.rpp", "song/takes/a.wav", "free/free.rpp"] {
        model.put(&format!("projects/{key}"), "theirs");
    }
    let mut anna = machine(&model, "Anna", &[]);
    let ben = machine(&model, "Ben", &[("LEASE_MODE", "read-only")]);
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    anna.wait_uploaded();
    wait_told(&ben, "Anna");
    let song = |name: &str| ben.path(&format!("projects/song/{name}"));
    let take = song("takes/a.wav");
    let append = |path: &Path| File::options().append(true).open(path);
    let mode = fs::metadata(&take).unwrap().permissions();
    assert_read_only("create", fs::write(song("new.wav"), "x"));
    assert_read_only("open to write", append(&take));
    assert_read_only("truncate", File::create(&take));
    assert_read_only("unlink", fs::remove_file(&take));
    assert_read_only("rename", fs::rename(&take, song("b.wav")));
    assert_read_only("rename out", fs::rename(&take, ben.path("layers/b.wav")));
    let free = ben.path("projects/free/free.rpp");
    assert_read_only("rename in", fs::rename(&free, song("b.rpp")));
    assert_read_only(
        "rename all",
        fs::rename(song(""), ben.path("projects/mine")),
    );
    assert_read_only("mkdir", fs::create_dir(song("mix")));
    assert_read_only("rmdir", fs::remove_dir(song("takes")));
    assert_read_only("chmod", fs::set_permissions(&take, mode));
    assert_read_only("link", fs::hard_link(&take, song("c.wav")));
    let set = setxattr(&take, "user.mood", b"x", XattrFlags::empty());
    assert_eq!(set, Err(Errno::ROFS));
    // It can be read, and all else changed; what stays on this disk as well.
    assert_eq!(fs::read(&take).unwrap(), b"theirs");
    fs::write(ben.path("projects/free/new.wav"), "x").unwrap();
    fs::write(ben.path("layers/new.wav"), "x").unwrap();
    fs::write(song("takes/a.wav.reapeaks"), "x").unwrap();
    let said = "projects/song cannot be changed here: open by Anna on ";
    assert_eq!(ben.log().matches(said).count(), 1, "{}", ben.log());
    anna.unmount();
    wait(&ben, "it may be changed", || append(&take).is_ok());
    fs::write(song("new.wav"), "x").unwrap();
    wait_held(&ben);
}

#[test]
fn what_was_begun_goes_on_in_read_only_mode_and_is_uploaded() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let anna = machine(&model, "Anna", &[]);
    let ben = machine(&model, "Ben", &[("LEASE_MODE", "read-only")]);
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    // Nobody has told him yet, and no program waits for the bucket to know.
    let bytes = noise(7, 300_000);
    let path = ben.path("projects/song/take.wav");
    let mut take = File::create(&path).unwrap();
    take.write_all(&bytes[..100_000]).unwrap();
    wait(&ben, "nothing else is begun", || {
        let error = File::options().append(true).open(&path).err();
        error.is_some_and(|error| error.raw_os_error() == Some(libc::EROFS))
    });
    take.write_all(&bytes[100_000..]).unwrap();
    take.set_len(200_000).unwrap();
    take.sync_all().unwrap();
    take.set_permissions(fs::metadata(&path).unwrap().permissions())
        .unwrap();
    drop(take);
    ben.wait_uploaded();
    assert_object(&model, "projects/song/take.wav", &bytes[..200_000]);
    assert!(!holds(&ben) && holds(&anna));
}

#[test]
fn without_the_bucket_nothing_is_refused_and_the_lease_is_taken_when_it_is_back() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let anna = machine(&model, "Anna", &[]);
    let settings = [
        ("LEASE_MODE", "read-only"),
        ("REQUEST_DEADLINE_SECONDS", "2"),
    ];
    let ben = machine(&model, "Ben", &settings);
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    anna.wait_uploaded();
    wait_told(&ben, "Anna");
    assert_eq!(
        fs::read(ben.path("projects/song/song.rpp")).unwrap(),
        b"hers"
    );
    assert_read_only("create", File::create(ben.path("projects/song/ben.wav")));
    for folder in ["projects", "projects/song"] {
        assert_eq!(fs::read_dir(ben.path(folder)).unwrap().count(), 1);
    }
    model.stop();
    wait(&ben, "it may be changed", || {
        fs::write(ben.path("projects/song/ben.wav"), "his").is_ok()
    });
    fs::create_dir(ben.path("projects/fresh")).unwrap();
    fs::write(ben.path("projects/fresh/fresh.rpp"), "new").unwrap();
    assert_eq!(leases(&ben).iter().filter(|l| l["held"] == true).count(), 0);
    model.restart();
    let fresh = |mount: &Mount| {
        let leases = leases(mount);
        let own = leases.iter().filter(|lease| lease["held"] == true);
        own.map(|lease| lease["path"].clone()).collect::<Vec<_>>()
    };
    wait(&ben, "it is taken", || {
        fresh(&ben).contains(&Value::from("projects/fresh"))
    });
    ben.wait_uploaded();
    assert_object(&model, "projects/song/ben.wav", b"his");
}

#[test]
fn of_two_who_begin_at_once_one_holds_the_lease() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    // Both have looked before either has written.
    let slow = Fault::latency(Duration::from_millis(500));
    model.add_fault(FaultRule::new(slow).key(LEASE).on(&[Operation::PutObject]));
    let mounts = ["Anna", "Ben"].map(|name| machine(&model, name, &[]));
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for (mount, name) in mounts.iter().zip(["a.wav", "b.wav"]) {
            let barrier = &barrier;
            scope.spawn(move || {
                assert_eq!(
                    fs::read_dir(mount.path("projects/song")).unwrap().count(),
                    1
                );
                barrier.wait();
                fs::write(mount.path("projects/song").join(name), "x").unwrap();
            });
        }
    });
    let all = || mounts.iter().flat_map(leases).collect::<Vec<_>>();
    wait(&mounts[0], "both know who has it", || all().len() == 2);
    let holders = all();
    let held = holders.iter().filter(|lease| lease["held"] == true);
    assert_eq!(held.count(), 1, "{holders:#?}");
    let name = &object(&model)["name"];
    assert!(holders.iter().all(|lease| lease["name"] == *name), "{name}");
}

#[test]
fn who_comes_a_moment_too_late_does_not_hold_the_lease() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let clara = serde_json::json!({"version": 1, "project": "song", "name": "Clara",
        "host": "studio-3", "id": "0", "since": "2026-11-30T21:00:00Z",
        "renewed_at": "2026-11-30T21:00:00Z", "ttl_seconds": 600});
    let first = Fault::before(move |other| other.put(LEASE, clara.to_string()));
    let first = FaultRule::new(first).key(LEASE);
    model.add_fault(first.on(&[Operation::PutObject]).once());
    let anna = machine(&model, "Anna", &[]);
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    let text = "open by Clara on studio-3 since 2026-11-30T21:00:00Z";
    wait(&anna, "it is Clara's", || {
        told(&anna.path("projects/song")).as_deref() == Ok(text)
    });
    assert!(!holds(&anna));
    anna.wait_uploaded();
    assert_object(&model, "projects/song/song.rpp", b"hers");
    assert_eq!(object(&model)["name"], "Clara");
}

#[test]
fn a_lease_whose_answer_was_lost_is_held() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let lost = FaultRule::new(Fault::Lost(Ending::Cut)).key(LEASE);
    model.add_fault(lost.on(&[Operation::PutObject]).once());
    let anna = machine(&model, "Anna", &[]);
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    assert_eq!(leases(&anna)[0]["since"], object(&model)["since"]);
}

/// As whoever wants to end it does, with any client.
#[test]
fn a_lease_that_somebody_removed_is_taken_anew_by_who_still_works() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let anna = machine(&model, "Anna", &[SHORT]);
    let song = anna.path("projects/song/song.rpp");
    let _open = File::options().append(true).open(song).unwrap();
    wait_held(&anna);
    let before = object(&model);
    assert!(model.delete(LEASE));
    wait(&anna, "it is taken anew", || model.get(LEASE).is_some());
    let after = object(&model);
    assert_eq!(after["id"], before["id"]);
    wait_held(&anna);
}

#[test]
fn opening_a_project_is_work_and_listening_to_a_take_is_none() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    model.put("projects/song/take.wav", "a take");
    model.put("projects/mix.rpp", "in no folder of its own");
    let anna = machine(&model, "Anna", &[]);
    fs::read(anna.path("projects/mix.rpp")).unwrap();
    fs::read(anna.path("projects/song/take.wav")).unwrap();
    wait(&anna, "it is looked at", || {
        asked(&model, Operation::GetObject) == 1
    });
    assert_eq!(leases(&anna), [Value::Null; 0]);
    fs::read(anna.path("projects/song/song.rpp")).unwrap();
    wait_held(&anna);
    assert_eq!(asked(&model, Operation::PutObject), 1);
}

#[test]
fn looking_costs_next_to_nothing_and_an_idle_mount_nothing_at_all() {
    let model = R2Model::start();
    for number in 0..30 {
        model.put(&format!("projects/song/{number:02}.wav"), "bytes");
    }
    let (anna, ben) = (
        machine(&model, "Anna", &[SHORT]),
        machine(&model, "Ben", &[("LEASE_SECONDS", "600")]),
    );
    // Who looks at names costs nothing, who reads all files one look.
    for entry in fs::read_dir(ben.path("projects/song")).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    assert_eq!(asked(&model, Operation::GetObject), 0);
    for number in 0..30 {
        fs::read(ben.path(&format!("projects/song/{number:02}.wav"))).unwrap();
    }
    wait(&ben, "it is looked at", || {
        asked(&model, Operation::GetObject) > 0
    });
    assert_eq!(asked(&model, Operation::GetObject), 1);
    // Who has a file open renews the lease each 1.5 s, and no oftener.
    let open = File::options()
        .append(true)
        .open(anna.path("projects/song/00.wav"))
        .unwrap();
    wait_held(&anna);
    model.clear_requests();
    let begun = Instant::now();
    wait(&anna, "it is renewed", || {
        asked(&model, Operation::PutObject) >= 4
    });
    let renewals = asked(&model, Operation::PutObject) as f64;
    assert!(renewals <= begun.elapsed().as_secs_f64() / 1.5 + 1.0);
    assert_eq!(asked(&model, Operation::GetObject), 0);
    assert_eq!(model.write_rate_violations().len(), 0);
    // It is given back some time after the last use, and nothing follows.
    drop(open);
    wait(&anna, "it is given back", || model.get(LEASE).is_none());
    model.clear_requests();
    std::thread::sleep(Duration::from_secs(4));
    for operation in [Operation::PutObject, Operation::GetObject] {
        assert_eq!(asked(&model, operation), 0, "{:?}", model.requests());
    }
}

#[test]
fn what_waits_for_its_upload_keeps_the_lease() {
    let model = R2Model::start();
    let anna = machine(&model, "Anna", &[SHORT]);
    assert!(anna.run(&["queue", "pause"]).status.success());
    fs::create_dir(anna.path("projects/song")).unwrap();
    fs::write(anna.path("projects/song/take.wav"), "a take").unwrap();
    wait_held(&anna);
    // Without that it would be given back after three times its length.
    std::thread::sleep(Duration::from_secs(11));
    assert!(model.get(LEASE).is_some(), "{}", anna.log());
    assert!(anna.run(&["queue", "resume"]).status.success());
    wait(&anna, "it is given back", || model.get(LEASE).is_none());
    assert_object(&model, "projects/song/take.wav", b"a take");
}

#[test]
fn a_token_that_may_not_write_looks_and_takes_nothing() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    model.put("projects/other/other.rpp", "other");
    let reader = Token::new("reader", "reader-secret", Permission::ObjectReadOnly);
    model.add_token(reader);
    let settings = [
        ("R2_ACCESS_KEY_ID", "reader"),
        ("R2_SECRET_ACCESS_KEY", "reader-secret"),
    ];
    let (anna, ben) = (
        machine(&model, "Anna", &[]),
        machine(&model, "Ben", &settings),
    );
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    wait_told(&ben, "Anna");
    assert_eq!(leases(&ben)[0]["held"], false);
    fs::read(ben.path("projects/other/other.rpp")).unwrap();
    assert_eq!(told(&ben.path("projects/other")), Err(Errno::NODATA));
    let writes = model.requests().into_iter().filter(|request| {
        let by_reader = request.client.as_deref() == Some("reader");
        by_reader && request.operation == Operation::PutObject
    });
    assert_eq!(writes.count(), 0);
    assert!(holds(&anna));
}

/// The time of a lease is told by the bucket's clock, whatever time it is at the machines.
#[test]
fn clocks_that_are_off_neither_end_nor_prolong_a_lease() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", "theirs");
    let read_only = [("LEASE_MODE", "read-only"), ("LEASE_NAME", "Ben"), LONG];
    let advise = [("LEASE_MODE", "advise"), ("LEASE_NAME", "Anna"), LONG];
    let (mut anna, her_clock) = mount_with_clock(&model, &advise);
    let (ben, his_clock) = mount_with_clock(&model, &read_only);
    set_clock(&her_clock, "-600");
    set_clock(&his_clock, "+600");
    fs::write(anna.path("projects/song/song.rpp"), "hers").unwrap();
    wait_held(&anna);
    wait_told(&ben, "Anna");
    assert_read_only("create", File::create(ben.path("projects/song/ben.wav")));
    assert!(!holds(&ben) && holds(&anna));
    set_clock(&his_clock, "-600");
    assert_read_only("create", File::create(ben.path("projects/song/ben.wav")));
    anna.unmount();
    wait(&ben, "it is free", || {
        File::create(ben.path("projects/song/ben.wav")).is_ok()
    });
}
