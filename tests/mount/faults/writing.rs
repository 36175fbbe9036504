//! Uploads, renames and deletes that fail, or succeed and do not say so.

use std::fs;
use std::time::Duration;

use r2_model::{Ending, Fault, FaultRule, Operation, R2Model, Reply, RetryAfter};

use super::*;
use crate::crash::{assert_file, assert_object, names, noise};

/// Larger than what goes with one PUT.
const LARGE: usize = 17_000_000;

/// The ways in which an answer gets lost.
fn endings() -> [(&'static str, Ending); 5] {
    [
        ("cut", Ending::Cut),
        ("reset", Ending::Reset),
        ("500", Ending::Reply(Reply::error("InternalError"))),
        ("503", Ending::Reply(Reply::error("ServiceUnavailable"))),
        ("silence", Ending::Silence(Duration::from_secs(3))),
    ]
}

/// Everything is uploaded, nothing is parked, and there is no conflict.
#[track_caller]
fn assert_settled(mount: &Mount) {
    mount.wait_uploaded();
    let status = mount.status();
    assert_eq!(status["uploads"]["parked"], 0, "{status:#}");
    assert_eq!(status["conflicts"], 0, "{status:#}");
}

#[test]
fn a_put_whose_answer_is_lost_is_not_done_twice() {
    let model = R2Model::start();
    let mount = impatient(&model);
    for (name, ending) in endings() {
        let lost = Fault::Lost(ending);
        let rule = FaultRule::new(lost).on(&[Operation::PutObject]);
        model.add_fault(rule.clone().key(&format!("segments/{name}.wav")).once());
        model.add_fault(rule.key(&format!("layers/{name}.wav")).nth(2));
        fs::write(mount.path(&format!("segments/{name}.wav")), name).unwrap();
        fs::write(mount.path(&format!("layers/{name}.wav")), "before").unwrap();
    }
    assert_settled(&mount);
    for (name, _) in endings() {
        fs::write(mount.path(&format!("layers/{name}.wav")), name).unwrap();
    }
    assert_settled(&mount);
    for (name, _) in endings() {
        for (folder, writes) in [("segments", 1), ("layers", 2)] {
            let key = format!("{folder}/{name}.wav");
            assert_object(&model, &key, name.as_bytes());
            assert_eq!(model.stat(&key).unwrap().write_count, writes, "{key}");
            assert_file(&mount.path(&key), name.as_bytes());
        }
    }
    assert_eq!(model.keys().len(), 2 * endings().len());
    assert_eq!(model.write_rate_violations(), []);
}

#[test]
fn a_completion_whose_answer_is_lost_is_not_done_twice() {
    let model = R2Model::start();
    let mount = impatient(&model);
    for (name, ending) in endings() {
        let rule = FaultRule::new(Fault::Lost(ending)).on(&[Operation::CompleteMultipartUpload]);
        let key = format!("segments/{name}.wav");
        model.add_fault(rule.key(&key).once());
        fs::write(mount.path(&key), noise(name.len() as u64, LARGE)).unwrap();
    }
    assert_settled(&mount);
    for (name, _) in endings() {
        let key = format!("segments/{name}.wav");
        assert_object(&model, &key, &noise(name.len() as u64, LARGE));
        assert_eq!(model.stat(&key).unwrap().write_count, 1, "{key}");
    }
    assert_eq!(model.open_uploads(), []);
}

#[test]
fn a_rename_or_delete_whose_answer_is_lost_ends_with_one_file() {
    let model = R2Model::start();
    for (name, _) in endings() {
        for what in ["copy", "leave", "delete"] {
            model.put(&format!("projects/{what}-{name}.mp3"), name);
        }
    }
    let mount = impatient(&model);
    let path = |what: &str, name: &str| mount.path(&format!("projects/{what}-{name}.mp3"));
    for (name, ending) in endings() {
        let lost = FaultRule::new(Fault::Lost(ending)).once();
        let copied = format!("projects/copied-{name}.mp3");
        let copy = lost.clone().on(&[Operation::CopyObject]).key(&copied);
        let delete = lost.on(&[Operation::DeleteObject]);
        model.add_fault(copy);
        for what in ["leave", "delete"] {
            let key = format!("projects/{what}-{name}.mp3");
            model.add_fault(delete.clone().key(&key));
        }
        fs::rename(path("copy", name), path("copied", name)).unwrap();
        fs::rename(path("leave", name), path("left", name)).unwrap();
        fs::remove_file(path("delete", name)).unwrap();
    }
    assert_settled(&mount);
    let mut wanted = Vec::new();
    for (name, _) in endings() {
        for what in ["copied", "left"] {
            let key = format!("projects/{what}-{name}.mp3");
            assert_object(&model, &key, name.as_bytes());
            assert_eq!(model.stat(&key).unwrap().write_count, 1, "{key}");
            assert_file(&path(what, name), name.as_bytes());
            wanted.push(key);
        }
    }
    wanted.sort();
    assert_eq!(model.keys(), wanted);
    assert_eq!(names(&mount, "projects").len(), wanted.len());
}

#[test]
fn refusals_that_pass_are_outlasted() {
    let model = R2Model::start();
    let mount = impatient(&model);
    let page = |status| Fault::reply(Reply::html(status));
    let faults = [
        ("429", Fault::too_many_requests(None)),
        ("429-after", Fault::too_many_requests(Some(2))),
        ("500", Fault::error("InternalError")),
        ("502", page(502)),
        ("503", Fault::error("ServiceUnavailable")),
        ("520", page(520)),
        ("524", page(524)),
        ("empty", Fault::reply(Reply::empty(500))),
        ("condition", Fault::ConditionFails),
        ("client-cut", Fault::CutUpload(1000)),
    ];
    for (name, fault) in &faults {
        let key = format!("segments/{name}.wav");
        let rule = FaultRule::new(fault.clone()).key(&key);
        model.add_fault(rule.on(&[Operation::PutObject]).up_to(2));
        fs::write(mount.path(&key), noise(1, 50_000)).unwrap();
    }
    assert_settled(&mount);
    for (name, _) in &faults {
        let key = format!("segments/{name}.wav");
        assert_object(&model, &key, &noise(1, 50_000));
        assert_eq!(model.stat(&key).unwrap().write_count, 1, "{key}");
    }
    assert_eq!(model.write_rate_violations(), []);
}

#[test]
fn a_server_that_counts_writes_is_not_provoked() {
    let rules = R2Model::builder().too_many_requests(RetryAfter::Seconds(5));
    let model = rules.start();
    let mount = Mount::of(&model);
    for round in 0..3u8 {
        for number in 0..5 {
            let path = mount.path(&format!("projects/{number}.rpp"));
            fs::write(path, [round; 1000]).unwrap();
        }
        let temporary = mount.path("projects/save.tmp");
        fs::write(&temporary, [round; 10]).unwrap();
        fs::rename(&temporary, mount.path("projects/save.rpp")).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    fs::rename(mount.path("projects/0.rpp"), mount.path("projects/z.rpp")).unwrap();
    fs::remove_file(mount.path("projects/1.rpp")).unwrap();
    assert_settled(&mount);
    assert_eq!(model.write_rate_violations(), []);
    assert_object(&model, "projects/z.rpp", &[2; 1000]);
    assert_object(&model, "projects/save.rpp", &[2; 10]);
}

#[test]
fn an_error_inside_a_success_is_an_error() {
    let model = R2Model::start();
    model.put("projects/a.mp3", "song");
    let mount = impatient(&model);
    let error = Fault::reply(Reply::error_with_status(200, "InternalError"));
    let rule = FaultRule::new(error).up_to(2);
    model.add_fault(rule.clone().on(&[Operation::CopyObject]));
    model.add_fault(rule.on(&[Operation::CompleteMultipartUpload]));
    fs::rename(mount.path("projects/a.mp3"), mount.path("projects/b.mp3")).unwrap();
    fs::write(mount.path("segments/large.wav"), noise(5, LARGE)).unwrap();
    assert_settled(&mount);
    assert_eq!(model.keys(), ["projects/b.mp3", "segments/large.wav"]);
    assert_object(&model, "projects/b.mp3", b"song");
    assert_object(&model, "segments/large.wav", &noise(5, LARGE));
}

#[test]
fn what_somebody_else_wrote_meanwhile_is_left_alone() {
    let model = R2Model::start();
    let mount = impatient(&model);
    let first = |other: &r2_model::OtherClient| other.put("layers/l.wav", "theirs");
    let rule = FaultRule::new(Fault::before(first)).on(&[Operation::PutObject]);
    model.add_fault(rule.key("layers/l.wav").once());
    fs::write(mount.path("layers/l.wav"), "ours").unwrap();
    mount.wait_for("both are kept", |status| {
        status["conflicts"] == 1 || status["uploads"]["parked"] == 1
    });
    assert_object(&model, "layers/l.wav", b"theirs");
    let shown = names(&mount, "layers");
    let ours = shown.iter().find(|name| {
        let bytes = fs::read(mount.path(&format!("layers/{name}")));
        bytes.is_ok_and(|bytes| bytes == b"ours")
    });
    assert!(ours.is_some(), "ours is not among {shown:?}");
}

#[test]
fn slow_parts_and_cut_uploads_arrive_whole() {
    let model = R2Model::start();
    let mount = impatient(&model);
    let parts = [Operation::UploadPart];
    let cut = FaultRule::new(Fault::CutUpload(1_000_000));
    let slow = FaultRule::new(Fault::latency(Duration::from_millis(500)));
    let create = FaultRule::new(Fault::Lost(Ending::Cut));
    model.add_fault(cut.on(&parts).nth(2));
    model.add_fault(slow.on(&parts).nth(3));
    model.add_fault(create.on(&[Operation::CreateMultipartUpload]).once());
    fs::write(mount.path("segments/large.wav"), noise(6, 2 * LARGE)).unwrap();
    assert_settled(&mount);
    assert_object(&model, "segments/large.wav", &noise(6, 2 * LARGE));
    assert_eq!(model.stat("segments/large.wav").unwrap().write_count, 1);
}
