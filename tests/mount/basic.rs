//! Reading what others put into the bucket, and writing what they will read.

use std::fs;

use r2_model::R2Model;

use crate::common::mount::Mount;

#[test]
fn a_recording_of_others_is_read_and_a_new_one_arrives() {
    let model = R2Model::start();
    model.put("segments/theirs.wav", "RIFF of another");
    let mount = Mount::of(&model);
    assert_eq!(
        fs::read(mount.path("segments/theirs.wav")).unwrap(),
        b"RIFF of another"
    );
    fs::write(mount.path("layers/ours.wav"), "RIFF of ours").unwrap();
    mount.wait_uploaded();
    let object = model.get("layers/ours.wav").expect("it is in the bucket");
    assert_eq!(object.bytes, "RIFF of ours");
    assert_eq!(object.content_type, "audio/wav");
}
