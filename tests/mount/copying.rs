//! Copies of files within the mount, as `cp` makes them (`copy_file_range`): what the bucket has it
//! copies by itself, and nothing is sent to it a second time.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use r2_model::{Fault, FaultRule, Operation, R2Model};

use crate::common::mount::Mount;
use crate::crash::{assert_file, assert_object, noise};

const SMALL: usize = 300_000;
/// More than one part, and more than one call of `copy_file_range` copies.
const LARGE: usize = 20 << 20;

/// The bytes that PUTs and parts have brought into the bucket.
fn sent_bytes(model: &R2Model) -> u64 {
    let sent = [Operation::PutObject, Operation::UploadPart];
    let requests = model.requests();
    let sent = requests.iter().filter(|r| sent.contains(&r.operation));
    sent.map(|request| request.bytes_in).sum()
}

fn copy(mount: &Mount, from: &str, to: &str) {
    let mut copy = Command::new("cp");
    copy.arg("-p").args([mount.path(from), mount.path(to)]);
    assert!(copy.status().unwrap().success(), "{}", mount.log());
}

fn upload(mount: &Mount, name: &str, length: usize) -> Vec<u8> {
    let bytes = noise(length as u64, length);
    fs::write(mount.path(name), &bytes).unwrap();
    let file = File::open(mount.path(name)).unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    mount.wait_uploaded();
    bytes
}

#[test]
fn a_copy_of_an_uploaded_file_is_made_by_the_bucket() {
    let model = R2Model::start();
    let mut mount = Mount::with(&model, &[]);
    let small = upload(&mount, "segments/small.wav", SMALL);
    let large = upload(&mount, "segments/large.wav", LARGE);
    model.clear_requests();
    copy(&mount, "segments/small.wav", "projects/small.wav");
    copy(&mount, "segments/large.wav", "projects/large.mp3");
    mount.wait_uploaded();
    assert_eq!(sent_bytes(&model), 0, "{}", mount.log());
    // What is not here any more is brought, and still not sent.
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    copy(&mount, "segments/large.wav", "layers/large.wav");
    mount.wait_uploaded();
    assert_eq!(sent_bytes(&model), 0, "{}", mount.log());
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    for (name, original, bytes) in [
        ("projects/small.wav", "segments/small.wav", &small),
        ("projects/large.mp3", "segments/large.wav", &large),
        ("layers/large.wav", "segments/large.wav", &large),
    ] {
        assert_object(&model, name, bytes);
        assert_file(&mount.path(name), bytes);
        let [copy, original] = [name, original].map(|at| fs::metadata(mount.path(at)).unwrap());
        assert_eq!(copy.mode(), original.mode(), "{name}");
        assert_eq!(copy.modified().unwrap(), original.modified().unwrap());
    }
    let object = model.get("projects/large.mp3").unwrap();
    assert_eq!(object.content_type, "audio/mpeg");
}

#[test]
fn what_is_no_copy_any_more_is_sent() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[]);
    let small = upload(&mount, "segments/small.wav", SMALL);
    // The header is written last, as by whoever makes another file of it.
    copy(&mount, "segments/small.wav", "segments/header.wav");
    let file = File::options()
        .write(true)
        .open(mount.path("segments/header.wav"));
    file.unwrap().write_all_at(b"RIFF", 0).unwrap();
    // Only its beginning.
    copy(&mount, "segments/small.wav", "segments/half.wav");
    let file = File::options()
        .write(true)
        .open(mount.path("segments/half.wav"));
    file.unwrap().set_len(SMALL as u64 / 2).unwrap();
    // The original is another one by then.
    copy(&mount, "segments/small.wav", "segments/kept.wav");
    model.put("segments/small.wav", "somebody else's");
    mount.wait_uploaded();
    let mut header = small.clone();
    header[..4].copy_from_slice(b"RIFF");
    assert_object(&model, "segments/header.wav", &header);
    assert_object(&model, "segments/half.wav", &small[..SMALL / 2]);
    assert_object(&model, "segments/kept.wav", &small);
}

#[test]
fn a_copy_whose_answer_is_lost_is_made_once() {
    let model = R2Model::start();
    let mount = Mount::with(&model, &[]);
    let small = upload(&mount, "segments/small.wav", SMALL);
    model.clear_requests();
    let lost = FaultRule::new(Fault::lost_to_error("InternalError"));
    let lost = model.add_fault(lost.on(&[Operation::CopyObject]).once());
    copy(&mount, "segments/small.wav", "segments/copy.wav");
    mount.wait_uploaded();
    assert_eq!(model.fired(lost), 1);
    assert_object(&model, "segments/copy.wav", &small);
    let written = model.history();
    let written = written.iter().filter(|w| w.key == "segments/copy.wav");
    assert_eq!(written.count(), 1);
    assert_eq!(sent_bytes(&model), 0);
    assert_eq!(mount.status()["conflicts"], 0);
}
