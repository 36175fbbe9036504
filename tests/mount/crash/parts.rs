//! SIGKILL in the middle of a multipart upload: it goes on where it was, or is taken back.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use r2_model::{Operation, R2Model, UploadInfo};

use super::*;
use crate::common::mount::DEADLINE;

const SIZE: usize = 41_000_000;
const PARTS: usize = 5;

/// How many parts of the one upload that is open are in the bucket.
fn parts_held(model: &R2Model) -> usize {
    let open = model.open_uploads();
    open.first().map_or(0, |open| open.parts.len())
}

fn wait_for_parts(model: &R2Model, mount: &Mount, count: usize) {
    let end = Instant::now() + DEADLINE;
    while parts_held(model) < count {
        assert!(Instant::now() < end, "no parts in time\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes a file and kills the mount when some of its parts are in the bucket, and not all. Returns
/// what is there.
fn kill_in_the_middle(model: &R2Model, mount: &mut Mount) -> UploadInfo {
    fs::write(mount.path("layers/long.wav"), noise(9, SIZE)).unwrap();
    wait_for_parts(model, mount, 2);
    mount.kill();
    // The kernel may still carry away what the process had given it.
    model.cut_connections();
    let mut open = model.open_uploads();
    let open = open.remove(0);
    assert!(open.parts.len() < PARTS, "it was too fast");
    mount.set("UPLOAD_MAX_BYTES_PER_SECOND", "0");
    open
}

fn slow(model: &R2Model) -> Mount {
    Mount::with(model, &[("UPLOAD_MAX_BYTES_PER_SECOND", "5MB")])
}

/// Waits until no upload is open in the bucket.
fn wait_for_no_upload(model: &R2Model, mount: &Mount) {
    let end = Instant::now() + DEADLINE;
    while !model.open_uploads().is_empty() {
        assert!(
            Instant::now() < end,
            "{:?}\n{}",
            model.open_uploads(),
            mount.log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn parts_that_are_in_the_bucket_are_not_sent_again_after_a_kill() {
    let model = R2Model::start();
    let mut mount = slow(&model);
    let before = kill_in_the_middle(&model, &mut mount);
    model.clear_requests();
    mount.mount();
    mount.wait_uploaded();
    assert_object(&model, "layers/long.wav", &noise(9, SIZE));
    assert_file(&mount.path("layers/long.wav"), &noise(9, SIZE));
    wait_for_no_upload(&model, &mount);
    let mut sent: BTreeMap<u32, usize> = BTreeMap::new();
    for request in model.requests() {
        assert_ne!(request.operation, Operation::CreateMultipartUpload);
        if request.operation == Operation::UploadPart {
            let number = request.parameter("partNumber").unwrap().parse();
            *sent.entry(number.unwrap()).or_default() += 1;
        }
    }
    let rest = (1..=PARTS as u32).filter(|number| !before.parts.contains_key(number));
    assert_eq!(sent, rest.map(|number| (number, 1)).collect());
}

#[test]
fn an_upload_whose_file_is_deleted_after_a_kill_is_taken_back() {
    let model = R2Model::start();
    let mut mount = slow(&model);
    kill_in_the_middle(&model, &mut mount);
    mount.set("WRITE_BACK_SECONDS", HOLD);
    mount.mount();
    fs::remove_file(mount.path("layers/long.wav")).unwrap();
    wait_for_no_upload(&model, &mount);
    assert_eq!(model.keys(), [""; 0]);
}

#[test]
fn an_unmount_keeps_what_is_sent_and_the_next_mount_goes_on() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[("UPLOAD_MAX_BYTES_PER_SECOND", "2MB")]);
    fs::write(mount.path("layers/long.wav"), noise(9, SIZE)).unwrap();
    wait_for_parts(&model, &mount, 1);
    mount.unmount();
    let before = parts_held(&model);
    assert!((1..PARTS).contains(&before), "{before} parts");
    model.clear_requests();
    mount.set("UPLOAD_MAX_BYTES_PER_SECOND", "0");
    mount.mount();
    mount.wait_uploaded();
    assert_object(&model, "layers/long.wav", &noise(9, SIZE));
    let requests = model.requests();
    let sent = requests
        .iter()
        .filter(|r| r.operation == Operation::UploadPart);
    assert_eq!(sent.count(), PARTS - before);
    wait_for_no_upload(&model, &mount);
}
