//! What looking costs: requests by R2's price classes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use r2_model::R2Model;

use crate::common::mount::Mount;

#[test]
fn ls_of_1000_files_is_one_class_a_and_at_most_one_class_b() {
    let model = R2Model::start();
    for number in 0..1000 {
        model.put(&format!("projects/song/{number:04}.wav"), "bytes");
    }
    let mount = Mount::of(&model);
    // Whoever gets there has looked at the folder above.
    assert_eq!(fs::read_dir(mount.path("projects")).unwrap().count(), 1);
    model.clear_requests();
    let ls = || {
        let mut command = Command::new("ls");
        let output = command.arg("-l").arg(mount.path("projects/song")).output();
        let listed = String::from_utf8(output.unwrap().stdout).unwrap();
        listed.lines().count()
    };
    assert_eq!(ls(), 1001);
    let costs = model.costs();
    let is_within = costs.class_a == 1 && costs.class_b <= 1;
    assert!(is_within, "{costs:?}: {:?}", model.requests());
    model.clear_requests();
    assert_eq!(ls(), 1001);
    let costs = model.costs();
    assert_eq!(
        (costs.class_a, costs.class_b),
        (0, 0),
        "{:?}",
        model.requests()
    );
}

/// Ten folders have been looked at, and nobody looks any more. Listings age three hundred times as
/// fast as they do, so that the seconds of the test are more than an hour of them.
#[test]
fn an_idle_mount_costs_next_to_nothing() {
    let model = R2Model::start();
    let folders: Vec<String> = (0..10).map(|n| format!("projects/song-{n}")).collect();
    for folder in &folders {
        for number in 0..20 {
            model.put(&format!("{folder}/{number}.wav"), "bytes");
        }
    }
    let mount = Mount::with(&model, &[("LIST_TTL_SECONDS", "0.1")]);
    let open = fs::File::open(mount.path("projects/song-0/1.wav")).unwrap();
    for folder in &folders {
        let names = fs::read_dir(mount.path(folder)).unwrap();
        assert_eq!(
            names
                .filter(|entry| entry.as_ref().unwrap().metadata().is_ok())
                .count(),
            20
        );
    }
    std::thread::sleep(Duration::from_secs(1));
    model.clear_requests();
    std::thread::sleep(Duration::from_secs(12));
    let costs = model.costs();
    assert!(costs.class_a <= 20, "{:?}", model.requests());
    assert!(costs.class_b <= 20, "{:?}", model.requests());
    drop(open);
}
