//! Opening a project brings its folder, and what it refers to, before anybody asks.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use r2_model::{Fault, FaultRule, Operation, R2Model};
use serde_json::Value;

use crate::common::mount::{DEADLINE, Mount};
use crate::crash::noise;

const MB: usize = 1_000_000;
const ON: (&str, &str) = ("WARM_MAX_BYTES", "1GB");

/// Returns for which keys there were requests of a kind, in their order.
fn asked(model: &R2Model, operation: Operation) -> Vec<String> {
    let requests = model.requests().into_iter();
    let requests = requests.filter(|request| request.operation == operation);
    requests.filter_map(|request| request.key).collect()
}

fn fetched(model: &R2Model) -> Vec<String> {
    let mut keys = asked(model, Operation::GetObject);
    keys.sort();
    keys.dedup();
    keys
}

/// Returns which files are whole in the cache.
fn held(mount: &Mount) -> Vec<String> {
    let output = mount.run(&["cache", "ls", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let entries = listed["entries"].as_array().unwrap().iter();
    let whole = entries.filter(|entry| entry["complete"] == true);
    whole
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until exactly these files are whole in the cache and nothing more is to come.
#[track_caller]
fn wait_for(mount: &Mount, expected: &[&str]) {
    let end = Instant::now() + DEADLINE;
    loop {
        let held = held(mount);
        if held == expected && mount.status()["warming"]["files"] == 0 {
            return;
        }
        assert!(Instant::now() < end, "{held:#?}\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn reaper(files: &[String]) -> String {
    let sources = files
        .iter()
        .map(|file| format!("  <SOURCE WAVE\n    FILE \"{file}\"\n  >\n"));
    format!("<REAPER_PROJECT 0.1\n{}>\n", sources.collect::<String>())
}

#[test]
fn a_project_brings_what_it_refers_to_and_then_the_rest_of_its_folder() {
    let model = R2Model::start();
    let mut mount = Mount::prepare(&[]);
    let outside = mount.path("layers/y z.wav");
    let project = reaper(&[
        "Media/used.wav".to_owned(),
        "../../segments/x.wav".to_owned(),
        outside.to_str().unwrap().to_owned(),
        "../../segments/none.wav".to_owned(),
        "../../../../../../etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        "../../samples/kick.wav".to_owned(),
        "../../.voicebeatfs/x".to_owned(),
    ]);
    model.put("projects/song/song.rpp", project.into_bytes());
    for (seed, key) in [
        "layers/y z.wav",
        "layers/other.wav",
        "projects/song/Media/again.wav",
        "projects/song/Media/used.wav",
        "projects/other/b.wav",
        "segments/x.wav",
    ]
    .into_iter()
    .enumerate()
    {
        model.put(key, noise(seed as u64, 6 * MB));
    }
    for (name, value) in crate::common::mount::model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.set(ON.0, ON.1);
    mount.mount();
    // Known, so it costs no look-up.
    fs::metadata(mount.path("segments/x.wav")).unwrap();
    fs::read_dir(mount.path("segments")).unwrap().count();
    fs::read_dir(mount.path("projects/song")).unwrap().count();
    model.clear_requests();
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    let all = [
        "layers/y z.wav",
        "projects/song/Media/again.wav",
        "projects/song/Media/used.wav",
        "projects/song/song.rpp",
        "segments/x.wav",
    ];
    wait_for(&mount, &all);
    assert_eq!(fetched(&model), all);
    // Of the two that are nowhere known the bucket is asked, one is there; the folder is listed once.
    let mut heads = asked(&model, Operation::HeadObject);
    heads.retain(|key| key != "segments/none.wav");
    assert_eq!(heads, ["layers/y z.wav"]);
    let lists = model.requests().into_iter();
    let lists = lists.filter(|request| request.operation == Operation::ListObjectsV2);
    assert_eq!(lists.count(), 1);
    // What is referred to comes first.
    let order = asked(&model, Operation::GetObject);
    let first = |key: &str| order.iter().position(|other| other == key).unwrap();
    assert!(
        first("segments/x.wav") < first("projects/song/Media/again.wav"),
        "{order:?}"
    );

    // Reading it asks for nothing, and opening it again brings nothing.
    model.clear_requests();
    for (seed, key) in [(5, "segments/x.wav"), (3, "projects/song/Media/used.wav")] {
        assert!(
            fs::read(mount.path(key)).unwrap() == noise(seed, 6 * MB),
            "{key}"
        );
    }
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    model.put("projects/song/new.wav", noise(9, MB));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fetched(&model), [""; 0]);

    // Once for each version of the project.
    model.put("projects/song/song.rpp", reaper(&[]).into_bytes());
    mount.run(&["refresh"]);
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    mount.wait_for("the new file", |_| {
        held(&mount).contains(&"projects/song/new.wav".to_owned())
    });
}

#[test]
fn packed_and_closed_projects_bring_their_files_too() {
    let model = R2Model::start();
    let live = "<Ableton><FileRef><RelativePath Value=\"../segments/x.wav\"/></FileRef></Ableton>";
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(live.as_bytes()).unwrap();
    model.put("projects/live.als", packer.finish().unwrap());
    model.put("projects/loose.wav", noise(1, MB));
    model.put("projects/beat/beat.flp", noise(2, 1000));
    model.put("projects/beat/kick.wav", noise(3, 6 * MB));
    let logic = "projects/x.logicx/Alternatives/000/ProjectData";
    model.put(logic, noise(4, 1000));
    model.put("projects/x.logicx/Media/a.wav", noise(5, 6 * MB));
    model.put("segments/x.wav", noise(6, 6 * MB));
    let mount = Mount::with(&model, &[ON]);
    for path in ["projects/live.als", "projects/beat/beat.flp", logic] {
        fs::read(mount.path(path)).unwrap();
    }
    // A project that lies among others has no folder of its own.
    let all = [
        "projects/beat/beat.flp",
        "projects/beat/kick.wav",
        "projects/live.als",
        logic,
        "projects/x.logicx/Media/a.wav",
        "segments/x.wav",
    ];
    wait_for(&mount, &all);
}

#[test]
fn nothing_is_brought_while_somebody_waits() {
    let model = R2Model::start();
    model.put("projects/song/song.rpp", reaper(&[]).into_bytes());
    for n in 0..8 {
        model.put_generated(&format!("projects/song/{n}.wav"), 8 << 20);
    }
    model.put_generated("segments/slow.wav", 8 << 20);
    let mount = Mount::with(&model, &[ON]);
    fs::metadata(mount.path("segments/slow.wav")).unwrap();
    // A file takes a second, and who waits waits for five.
    let slow = FaultRule::new(Fault::SlowBody(8 << 20)).key_prefix("projects/song/");
    model.add_fault(slow.on(&[Operation::GetObject]));
    let stall = FaultRule::new(Fault::SlowFirstByte(Duration::from_secs(5)));
    let stall = stall.key("segments/slow.wav").once();
    let stalled = model.add_fault(stall.on(&[Operation::GetObject]));
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    mount.wait_for("the first files", |status| {
        status["warming"]["files"]
            .as_u64()
            .is_some_and(|files| files > 0)
    });
    let brought = || {
        let keys = asked(&model, Operation::GetObject).into_iter();
        keys.filter(|key| key.starts_with("projects/song/")).count()
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let file = fs::File::open(mount.path("segments/slow.wav")).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 4096], 0).unwrap();
        });
        while model.fired(stalled) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = brought();
        std::thread::sleep(Duration::from_secs(3));
        assert!(!reader.is_finished(), "it was to wait");
        assert_eq!(brought(), before);
        let left = mount.status()["warming"]["files"].as_u64().unwrap();
        assert!(left > 0, "all of it was brought before");
        reader.join().unwrap();
    });
    // And then it goes on.
    mount.wait_for("the rest", |status| status["warming"]["files"] == 0);
    assert_eq!(held(&mount).len(), 9);
}

#[test]
fn who_opens_many_projects_searches_them() {
    let model = R2Model::start();
    for n in 0..8 {
        model.put(&format!("projects/{n}/song.rpp"), reaper(&[]).into_bytes());
        model.put(&format!("projects/{n}/take.wav"), noise(n, MB));
    }
    let mut mount = Mount::with(&model, &[ON]);
    for n in 0..8 {
        fs::read(mount.path(&format!("projects/{n}/song.rpp"))).unwrap();
    }
    std::thread::sleep(Duration::from_secs(3));
    let projects = |keys: Vec<String>| keys.iter().all(|key| key.ends_with(".rpp"));
    assert!(projects(fetched(&model)), "{:?}", fetched(&model));

    // Nor does anything come when it is switched off.
    mount.unmount();
    mount.remove_cache();
    mount.set("WARM_MAX_BYTES", "0");
    mount.mount();
    fs::read(mount.path("projects/1/song.rpp")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(projects(fetched(&model)), "{:?}", fetched(&model));
}

#[test]
fn no_more_is_brought_than_there_is_room_for() {
    let model = R2Model::start();
    for n in 0..5 {
        model.put(&format!("projects/song/{n}.wav"), noise(n, MB));
    }
    let named: Vec<String> = (0..5).rev().map(|n| format!("{n}.wav")).collect();
    model.put("projects/song/song.rpp", reaper(&named).into_bytes());
    model.put("segments/kept.wav", noise(9, MB));
    let settings = [ON, ("CACHE_MAX_BYTES", "3500KB")];
    let mut mount = Mount::with(&model, &settings);
    let path = mount.path("segments/kept.wav");
    fs::read(&path).unwrap();
    mount.wait_for("the first file", |_| held(&mount).len() == 1);
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    let expected = [
        "projects/song/3.wav",
        "projects/song/4.wav",
        "projects/song/song.rpp",
        "segments/kept.wav",
    ];
    wait_for(&mount, &expected);
    model.clear_requests();
    fs::read(&path).unwrap();
    assert_eq!(fetched(&model), [""; 0], "it made way");

    // The same for the limit of what is brought.
    mount.unmount();
    mount.remove_cache();
    mount.set("WARM_MAX_BYTES", "2500KB");
    mount.set("CACHE_MAX_BYTES", "1GB");
    mount.mount();
    fs::read(mount.path("projects/song/song.rpp")).unwrap();
    wait_for(&mount, &expected[..3]);
}
