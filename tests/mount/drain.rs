//! The mount is gone and something still waits for the bucket: it goes on for a while, and what is
//! left then is not forgotten.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use r2_model::{Connections, Fault, FaultRule, Operation, R2Model};

use crate::common::mount::{DEADLINE, Mount, is_mount_point};
use crate::crash::{assert_object, noise};

const KEY: &str = "segments/take.wav";
const LENGTH: usize = 50_000;

/// A mount with one closed file that would wait for an hour.
fn with_a_take(model: &R2Model, drain_seconds: &str) -> Mount {
    let settings = [
        ("WRITE_BACK_SECONDS", "3600"),
        ("DRAIN_SECONDS", drain_seconds),
    ];
    let mount = Mount::with(model, &settings);
    fs::write(mount.path(KEY), noise(1, LENGTH)).unwrap();
    mount
}

fn signal(mount: &Mount, number: i32) {
    // SAFETY: a plain system call, on a process that this test has started.
    assert_eq!(unsafe { libc::kill(mount.pid() as i32, number) }, 0);
}

fn wait_until(what: &str, mount: &Mount, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !reached() {
        assert!(Instant::now() < end, "not in time: {what}\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the process has unmounted and says that it only finishes.
fn wait_draining(mount: &Mount) {
    wait_until("it drains", mount, || {
        let lock = fs::read_to_string(mount.beside("staging/lock")).unwrap();
        lock.contains(r#""draining":true"#) && !is_mount_point(&mount.root())
    });
}

fn wait_ended(mount: &Mount, process: &mut Child) {
    wait_until("the process ends", mount, || {
        process.try_wait().unwrap().is_some()
    });
}

#[track_caller]
fn assert_rest_told(mount: &Mount) {
    let log = mount.log();
    let told = "1 files, 50000 bytes remain";
    assert!(log.contains(told), "{log}");
    assert!(log.contains("uploaded at the next mount"), "{log}");
}

#[test]
fn a_signal_uploads_what_is_queued_first() {
    for number in [libc::SIGTERM, libc::SIGINT] {
        let model = R2Model::start();
        let mut mount = with_a_take(&model, "3600");
        signal(&mount, number);
        assert!(mount.wait_end().success());
        assert_object(&model, KEY, &noise(1, LENGTH));
        assert!(!mount.log().contains("remain"), "{}", mount.log());
    }
}

#[test]
fn after_a_plain_unmount_the_queue_is_uploaded() {
    let model = R2Model::start();
    let mut mount = with_a_take(&model, "3600");
    let mut left = mount.unmount_and_leave();
    wait_ended(&mount, &mut left);
    assert_object(&model, KEY, &noise(1, LENGTH));
}

#[test]
fn what_failed_a_moment_ago_is_tried_again_at_the_end() {
    let model = R2Model::start();
    let fault = FaultRule::new(Fault::error("InternalError")).on(&[Operation::PutObject]);
    model.add_fault(fault);
    let mut mount = Mount::with(&model, &[("DRAIN_SECONDS", "3600")]);
    fs::write(mount.path(KEY), noise(1, LENGTH)).unwrap();
    mount.wait_for("it has failed", |status| status["uploads"]["failed"] == 1);
    model.clear_faults();
    signal(&mount, libc::SIGTERM);
    assert!(mount.wait_end().success());
    assert_object(&model, KEY, &noise(1, LENGTH));
}

#[test]
fn without_a_time_to_go_on_nothing_more_is_sent() {
    let model = R2Model::start();
    let mut mount = with_a_take(&model, "0");
    signal(&mount, libc::SIGTERM);
    assert!(mount.wait_end().success());
    assert!(model.keys().is_empty());
    assert_rest_told(&mount);
}

#[test]
fn without_a_bucket_it_ends_in_time_and_the_next_mount_goes_on() {
    for how in [Connections::Refuse, Connections::BlackHole] {
        let model = R2Model::start();
        let mut mount = with_a_take(&model, "2");
        model.set_connections(how);
        model.cut_connections();
        let begun = Instant::now();
        signal(&mount, libc::SIGTERM);
        assert!(mount.wait_end().success());
        // The bound, what is on its way, and a busy machine.
        let took = begun.elapsed().as_secs();
        assert!((2..30).contains(&took), "{took} s");
        assert_rest_told(&mount);
        model.set_connections(Connections::Serve);
        mount.set("WRITE_BACK_SECONDS", "0");
        mount.mount();
        mount.wait_uploaded();
        assert_object(&model, KEY, &noise(1, LENGTH));
    }
}

#[test]
fn what_waits_for_somebody_keeps_nobody_waiting() {
    let model = R2Model::start();
    let mut mount = with_a_take(&model, "3600");
    assert!(mount.run(&["queue", "pause"]).status.success());
    mount.unmount();
    assert!(model.keys().is_empty());
    assert_rest_told(&mount);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for number in [libc::SIGTERM, libc::SIGINT] {
        let model = R2Model::start();
        let mut mount = with_a_take(&model, "3600");
        model.set_connections(Connections::Refuse);
        signal(&mount, libc::SIGTERM);
        wait_draining(&mount);
        signal(&mount, number);
        mount.wait_end();
        assert_rest_told(&mount);
    }
}

#[test]
fn the_next_mount_takes_over_what_the_last_one_still_uploads() {
    let model = R2Model::start();
    let mut mount = with_a_take(&model, "3600");
    let fault = FaultRule::new(Fault::error("InternalError")).on(&[Operation::PutObject]);
    model.add_fault(fault);
    let mut left = mount.unmount_and_leave();
    wait_draining(&mount);
    // It can still be asked how it is doing.
    assert_eq!(mount.status()["shutdown"]["files"], 1);
    mount.set("WRITE_BACK_SECONDS", "0");
    mount.mount();
    wait_ended(&mount, &mut left);
    assert!(mount.log().contains("the next mount goes on"));
    assert_eq!(fs::read(mount.path(KEY)).unwrap(), noise(1, LENGTH));
    model.clear_faults();
    mount.wait_uploaded();
    assert_object(&model, KEY, &noise(1, LENGTH));
}

#[test]
fn a_file_that_was_open_to_the_end_is_uploaded_as_well() {
    let model = R2Model::start();
    let mut mount = with_a_take(&model, "3600");
    let open = fs::File::create(mount.path("segments/open.wav")).unwrap();
    std::io::Write::write_all(&mut &open, b"to the end").unwrap();
    signal(&mount, libc::SIGTERM);
    wait_draining(&mount);
    drop(open);
    assert!(mount.wait_end().success());
    assert_object(&model, "segments/open.wav", b"to the end");
    assert_object(&model, KEY, &noise(1, LENGTH));
}
