//! `UPLOAD_MAX_BYTES_PER_SECOND`: uploads keep to it, and nothing else waits for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use r2_model::R2Model;

use crate::common::mount::{DEADLINE, Mount};
use crate::crash::{assert_object, noise};

const BYTES_PER_SECOND: usize = 250_000;
/// What may go at once, with all the pieces that are on their way at the end.
const BURST: usize = 50_000;

#[test]
fn uploads_keep_to_the_limit_and_nothing_else_waits_for_them() {
    let model = R2Model::start();
    model.put("segments/read.wav", noise(1, 100_000));
    model.put("segments/removed.wav", "removed");
    model.put("segments/changed.wav", "changed");
    let limit = BYTES_PER_SECOND.to_string();
    let mount = Mount::with(&model, &[("UPLOAD_MAX_BYTES_PER_SECOND", &limit)]);
    let large = noise(2, 4_000_000);
    let begun = Instant::now();
    fs::write(mount.path("layers/large.wav"), &large).unwrap();
    mount.wait_for("the upload is on its way", |status| {
        status["uploads"]["active"] == 1
    });

    let path = |name: &str| mount.path(&format!("segments/{name}.wav"));
    assert_eq!(fs::read(path("read")).unwrap(), noise(1, 100_000));
    fs::remove_file(path("removed")).unwrap();
    fs::set_permissions(path("changed"), fs::Permissions::from_mode(0o600)).unwrap();
    let is_done = || {
        let changed = model.stat("segments/changed.wav").unwrap();
        model.stat("segments/removed.wav").is_none() && changed.metadata.contains_key("mode")
    };
    while !is_done() {
        assert!(begun.elapsed() < DEADLINE, "{}", mount.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let large_is_there = model.stat("layers/large.wav").is_some();
    assert!(!large_is_there, "it would have to be faster than its limit");

    mount.wait_uploaded();
    let most = begun.elapsed().as_secs_f64() * BYTES_PER_SECOND as f64 + BURST as f64;
    assert!(large.len() as f64 <= most, "{:?}", begun.elapsed());
    assert_object(&model, "layers/large.wav", &large);
}
