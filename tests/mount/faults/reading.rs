//! Downloads that are slow, cut, too long, too short or damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use r2_model::{Fault, FaultRule, Operation, R2Model, Reply};

use super::*;
use crate::common::mount::DEADLINE;
use crate::crash::{assert_bytes, assert_file, noise};

const SIZE: usize = 400_000;

/// A model with one object, whose first so many GETs fail so.
fn failing(fault: Fault, times: u64) -> (R2Model, Mount) {
    let model = R2Model::start();
    model.put("segments/s.wav", noise(1, SIZE));
    let gets = [Operation::GetObject];
    model.add_fault(FaultRule::new(fault).on(&gets).up_to(times));
    let mount = impatient(&model);
    (model, mount)
}

/// The file is read right in spite of the fault.
fn is_read_right(fault: Fault, times: u64) {
    let (model, mount) = failing(fault, times);
    let path = mount.path("segments/s.wav");
    answered("reading", || assert_file(&path, &noise(1, SIZE)));
    assert_file(&path, &noise(1, SIZE));
    model.clear_faults();
    mount.remove_cache();
    assert_file(&path, &noise(1, SIZE));
}

/// Once the fault is over the file is read.
fn is_read_in_the_end(mount: &Mount) {
    let path = mount.path("segments/s.wav");
    let end = Instant::now() + DEADLINE;
    while let Err(error) = fs::read(&path) {
        assert_no_answer::<()>(Err(error));
        assert!(Instant::now() < end, "the bucket is back");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_file(&path, &noise(1, SIZE));
}

/// The read fails in time, or is right; once the fault is over it is right.
fn fails_in_time(fault: Fault) {
    let (model, mount) = failing(fault, u64::MAX);
    let path = mount.path("segments/s.wav");
    match answered("reading", || fs::read(&path)) {
        Ok(bytes) => assert_bytes(&bytes, &noise(1, SIZE), "read"),
        Err(error) => assert_no_answer::<()>(Err(error)),
    }
    model.clear_faults();
    is_read_in_the_end(&mount);
}

#[test]
fn slow_bodies_are_waited_for() {
    is_read_right(Fault::SlowBody(150_000), u64::MAX);
}

#[test]
fn a_slow_first_byte_is_waited_for() {
    is_read_right(Fault::SlowFirstByte(Duration::from_millis(700)), u64::MAX);
}

#[test]
fn a_short_stall_is_waited_for() {
    let stall = Fault::Stall {
        after: 100_000,
        pause: Duration::from_secs(1),
    };
    is_read_right(stall, u64::MAX);
}

#[test]
fn a_stall_for_ever_ends_with_an_error() {
    fails_in_time(Fault::Stall {
        after: 100_000,
        pause: Duration::from_secs(3600),
    });
}

#[test]
fn silence_ends_with_an_error() {
    fails_in_time(Fault::SlowFirstByte(Duration::from_secs(3600)));
}

#[test]
fn a_server_error_that_lasts_ends_with_an_error() {
    fails_in_time(Fault::reply(Reply::html(520)));
}

#[test]
fn a_cut_body_is_gone_on_with() {
    is_read_right(Fault::CutBody(100_000), 2);
}

#[test]
fn a_body_that_ends_early_is_gone_on_with() {
    is_read_right(Fault::EndBody(100_000), 2);
}

#[test]
fn ranges_of_other_lengths_than_asked_for_do_no_harm() {
    is_read_right(Fault::RangeEndMoved(-50_000), 2);
    is_read_right(Fault::RangeEndMoved(50_000), 2);
}

#[test]
fn a_whole_object_for_a_range_does_no_harm() {
    let (model, mount) = failing(Fault::WholeObject, u64::MAX);
    let file = File::open(mount.path("segments/s.wav")).unwrap();
    let mut middle = vec![0; 10_000];
    match answered("a range", || file.read_exact_at(&mut middle, 300_000)) {
        Ok(()) => assert_bytes(&middle, &noise(1, SIZE)[300_000..310_000], "a range"),
        Err(error) => assert_no_answer::<()>(Err(error)),
    }
    model.clear_faults();
    is_read_in_the_end(&mount);
}

#[test]
fn a_body_without_a_length_is_read() {
    is_read_right(Fault::NoContentLength, u64::MAX);
}

#[test]
fn an_error_that_passes_is_outlasted() {
    is_read_right(Fault::reply(Reply::html(502)), 1);
    is_read_right(Fault::too_many_requests(Some(1)), 1);
}

/// What is read before the whole file is here cannot be verified; but the damage is found when it
/// is, and nobody who opens the file then sees it.
#[test]
fn a_flipped_bit_is_found_and_not_kept() {
    let (_model, mount) = failing(Fault::FlipBit(50_000), 1);
    let path = mount.path("segments/s.wav");
    let _ = answered("reading", || fs::read(&path));
    let end = Instant::now() + DEADLINE;
    while !mount.log().contains("arrived damaged") {
        assert!(Instant::now() < end, "not found: {}", mount.log());
        let _ = fs::read(&path);
        std::thread::sleep(Duration::from_millis(50));
    }
    // The kernel lets its pages go a moment later.
    while fs::read(&path).is_ok_and(|bytes| bytes != noise(1, SIZE)) {
        assert!(Instant::now() < end, "the damage is still shown");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_file(&path, &noise(1, SIZE));
}

#[test]
fn listings_that_fail_are_no_absence() {
    let (model, mount) = failing(Fault::latency(Duration::ZERO), 0);
    let lists = [Operation::ListObjectsV2, Operation::HeadObject];
    model.add_fault(FaultRule::new(Fault::reply(Reply::html(503))).on(&lists));
    let found = answered("a look-up", || fs::metadata(mount.path("segments/s.wav")));
    assert_no_answer(found);
    let listing = answered("a listing", || {
        let entries = fs::read_dir(mount.path("segments"))?;
        entries.collect::<Result<Vec<_>, _>>()
    });
    assert_no_answer(listing);
    model.clear_faults();
    is_read_in_the_end(&mount);
}

#[test]
fn pages_without_a_name_are_no_absence() {
    let (model, mount) = failing(Fault::latency(Duration::ZERO), 0);
    model.put("segments/deep/s.wav", noise(2, SIZE));
    let lists = [Operation::ListObjectsV2];
    // The listing of the folder above may not come first and tell of it.
    let slow = FaultRule::new(Fault::SlowFirstByte(Duration::from_secs(1))).on(&lists);
    model.add_fault(slow.key("segments/"));
    let empty = FaultRule::new(Fault::ShortPage(0)).on(&lists);
    let empty = model.add_fault(empty.key("segments/deep/").once());
    let deep = mount.path("segments/deep/s.wav");
    answered("reading", || assert_file(&deep, &noise(2, SIZE)));
    assert_eq!(model.fired(empty), 1);
}
