//! Faults: each does what it says, leaves its trace in the log, and can be counted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use r2_model::{Connections, Ending, Fault, FaultRule, Operation, R2Model, Reply, RetryAfter};

use crate::multipart::{begin, completion, part};
use crate::support::{call, get, put};

const MOMENT: Duration = Duration::from_millis(150);

#[test]
fn hasty_writes_are_refused() {
    let model = R2Model::builder()
        .too_many_requests(RetryAfter::Seconds(5))
        .start();
    assert_eq!(put(&model, "a", "1").status, 200);
    let reply = put(&model, "a", "2");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "TooManyRequests")
    );
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(model.get("a").expect("stored").bytes, "1");
    model.set_too_many_requests(Some(RetryAfter::Absent));
    let reply = call(&model, "DELETE", "a").send();
    assert_eq!((reply.status, reply.header("retry-after")), (429, None));
    assert_eq!(model.write_rate_violations().len(), 2);
    model.set_too_many_requests(None);
    assert_eq!(put(&model, "a", "3").status, 200);
}

#[test]
fn answers_can_be_replaced() {
    let model = R2Model::start();
    for (reply, status, code) in [
        (Reply::error("InternalError"), 500, "InternalError"),
        (
            Reply::error("ServiceUnavailable"),
            503,
            "ServiceUnavailable",
        ),
        (Reply::error("Unauthorized"), 401, "Unauthorized"),
        (
            Reply::error_with_status(200, "InternalError"),
            200,
            "InternalError",
        ),
        (Reply::html(520), 520, ""),
        (Reply::empty(200), 200, ""),
    ] {
        let rule = FaultRule::new(Fault::reply(reply))
            .on(&[Operation::PutObject])
            .once();
        let id = model.add_fault(rule);
        let got = call(&model, "PUT", "a").body(vec![0; 300_000]).send();
        assert_eq!((got.status, got.code().as_str()), (status, code));
        assert_eq!(model.fired(id), 1);
    }
    assert!(model.get("a").is_none());
    assert_eq!(model.costs().class_a, 0);
    assert_eq!(model.requests()[0].faults, ["instead"]);
    assert_eq!(model.requests()[0].outcome, None);
    let reply = Fault::too_many_requests(Some(3));
    model.add_fault(FaultRule::new(reply).key("slow").once());
    assert_eq!(get(&model, "slow").header("retry-after"), Some("3"));
}

#[test]
fn a_write_is_done_but_its_answer_lost() {
    let model = R2Model::builder().write_interval(Duration::ZERO).start();
    for ending in [Ending::Cut, Ending::Reset, Ending::Silence(MOMENT)] {
        let rule = FaultRule::new(Fault::Lost(ending))
            .on(&[Operation::PutObject])
            .once();
        model.add_fault(rule);
        assert!(call(&model, "PUT", "a").body("x").try_send().is_err());
        let record = model.requests().pop().expect("logged");
        assert_eq!((record.status, record.outcome), (None, Some(200)));
        assert!(model.other_client().delete("a"));
    }
    assert_eq!(model.costs().class_a, 3);

    model.add_fault(
        FaultRule::new(Fault::lost_to_error("InternalError"))
            .on(&[Operation::PutObject])
            .once(),
    );
    let create = || {
        call(&model, "PUT", "a")
            .header("if-none-match", "*")
            .body("x")
            .send()
    };
    assert_eq!((create().status, create().status), (500, 412));

    model.add_fault(
        FaultRule::new(Fault::lost_to_error("ServiceUnavailable"))
            .on(&[Operation::CopyObject, Operation::DeleteObject])
            .up_to(2),
    );
    let source = format!("{}/a", model.bucket());
    let copy = call(&model, "PUT", "b")
        .header("x-amz-copy-source", &source)
        .send();
    assert_eq!(copy.status, 503);
    assert_eq!(call(&model, "DELETE", "a").send().status, 503);
    assert_eq!(model.keys(), ["b"]);
}

#[test]
fn a_lost_completion_has_made_its_object() {
    let model = R2Model::start();
    let id = begin(&model, "a");
    let etags = [part(&model, "a", &id, 1, b"x")];
    let reply = Reply::error_with_status(200, "InternalError");
    model.add_fault(
        FaultRule::new(Fault::Lost(Ending::Reply(reply)))
            .on(&[Operation::CompleteMultipartUpload])
            .once(),
    );
    let complete = || {
        call(&model, "POST", "a")
            .query("uploadId", &id)
            .body(completion(&etags))
            .send()
    };
    let first = complete();
    assert_eq!(
        (first.status, first.code().as_str()),
        (200, "InternalError")
    );
    assert!(model.get("a").is_some());
    assert_eq!(complete().code(), "NoSuchUpload");
}

#[test]
fn a_late_commit_lands_after_the_cut() {
    let model = R2Model::start();
    model.add_fault(FaultRule::new(Fault::LateCommit(MOMENT * 2)).once());
    assert!(call(&model, "PUT", "a").body("x").try_send().is_err());
    assert!(model.get("a").is_none());
    let start = Instant::now();
    while model.get("a").is_none() {
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
    }
    assert_eq!(model.get("a").expect("stored").bytes, "x");
}

#[test]
fn a_chosen_condition_fails_and_ends_a_completion() {
    let model = R2Model::start();
    let id = begin(&model, "a");
    let etags = [part(&model, "a", &id, 1, b"x")];
    let rule = FaultRule::new(Fault::ConditionFails)
        .on(&[Operation::PutObject, Operation::CompleteMultipartUpload]);
    let fault = model.add_fault(rule);
    assert_eq!(put(&model, "b", "x").status, 412);
    let body = completion(&etags);
    let reply = call(&model, "POST", "a")
        .query("uploadId", &id)
        .body(body)
        .send();
    assert_eq!(reply.status, 412);
    assert!(model.open_uploads().is_empty());
    model.clear_fault(fault);
    assert_eq!(put(&model, "b", "x").status, 200);
}

#[test]
fn another_writer_comes_in_between() {
    let model = R2Model::start();
    model.put("a", "old");
    let etag = format!("\"{}\"", model.get("a").expect("stored").etag);
    let hook = Fault::before(|other| other.put("a", "theirs"));
    model.add_fault(FaultRule::new(hook).on(&[Operation::PutObject]).once());
    let write = || {
        call(&model, "PUT", "a")
            .header("if-match", &etag)
            .body("ours")
            .send()
    };
    assert_eq!(write().status, 412);
    assert_eq!(model.get("a").expect("stored").bytes, "theirs");
    model.put("a", "old");
    assert_eq!(write().status, 200);
}

#[test]
fn answers_are_slow() {
    let model = R2Model::builder().write_interval(Duration::ZERO).start();
    model.put("a", vec![7; 100_000]);
    let pause = MOMENT;
    let random = Fault::Latency {
        least: pause,
        most: pause * 2,
    };
    for fault in [
        Fault::latency(pause),
        random,
        Fault::SlowFirstByte(pause),
        Fault::Stall {
            after: 50_000,
            pause,
        },
        Fault::SlowBody(400_000),
    ] {
        let id = model.add_fault(FaultRule::new(fault.clone()));
        let start = Instant::now();
        let reply = get(&model, "a");
        assert!(start.elapsed() >= pause, "{fault:?}");
        assert_eq!(reply.body, vec![7; 100_000]);
        model.clear_fault(id);
    }
}

#[test]
fn bodies_are_cut_shortened_and_damaged() {
    let model = R2Model::start();
    let whole: Vec<u8> = (0..=255).cycle().take(600_000).collect();
    model.put("a", whole.clone());
    let with = |fault| {
        let id = model.add_fault(FaultRule::new(fault));
        let reply = call(&model, "GET", "a")
            .header("range", "bytes=0-499999")
            .send();
        model.clear_fault(id);
        reply
    };
    let cut = with(Fault::CutBody(300_000));
    assert_eq!((cut.status, cut.body.len(), cut.cut), (206, 300_000, true));
    let ended = with(Fault::EndBody(300_000));
    assert_eq!((ended.body.len(), ended.cut), (300_000, false));
    assert_eq!(ended.header("content-length"), None);
    let flipped = with(Fault::FlipBit(400_000));
    let wrong: Vec<usize> = (0..500_000)
        .filter(|&at| flipped.body[at] != whole[at])
        .collect();
    assert_eq!((wrong, flipped.cut), (vec![400_000], false));
    let longer = with(Fault::RangeEndMoved(10));
    assert_eq!((longer.status, longer.body.len()), (206, 500_010));
    let shorter = with(Fault::RangeEndMoved(-10));
    assert_eq!((shorter.status, shorter.body.len()), (206, 499_990));
    let all = with(Fault::WholeObject);
    assert_eq!((all.status, all.body.len()), (200, 600_000));
    let open = with(Fault::NoContentLength);
    assert_eq!(
        (open.body.len(), open.header("content-length")),
        (500_000, None)
    );
}

#[test]
fn encoded_objects_arrive_plain_unless_asked_for() {
    let model = R2Model::start();
    model.put_encoded("a", "encoded", "plain bytes", "gzip");
    let plain = get(&model, "a");
    assert_eq!(
        (plain.text().as_str(), plain.header("content-length")),
        ("plain bytes", None)
    );
    assert_eq!(plain.header("content-encoding"), None);
    let stored = call(&model, "GET", "a")
        .header("accept-encoding", "br, gzip")
        .send();
    assert_eq!(stored.text(), "encoded");
    assert_eq!(stored.header("content-encoding"), Some("gzip"));
    assert_eq!(stored.header("content-length"), Some("7"));
}

#[test]
fn listings_come_in_short_pages() {
    let model = R2Model::start();
    for key in ["a", "b", "c", "d"] {
        model.put(key, "");
    }
    model.add_fault(FaultRule::new(Fault::ShortPage(0)).once());
    model.add_fault(FaultRule::new(Fault::ShortPage(3)).nth(2));
    let (mut token, mut pages) = (None::<String>, Vec::new());
    loop {
        let mut list = call(&model, "GET", "").query("list-type", "2");
        if let Some(token) = &token {
            list = list.query("continuation-token", token);
        }
        let page = list.send();
        pages.push(page.elements("Key").len());
        token = page.element("NextContinuationToken");
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [0, 3, 1]);
}

#[test]
fn an_upload_is_cut_in_the_middle() {
    let model = R2Model::start();
    model.add_fault(FaultRule::new(Fault::CutUpload(1_000_000)).once());
    assert!(
        call(&model, "PUT", "a")
            .body(vec![0; 4_000_000])
            .try_send()
            .is_err()
    );
    assert!(model.get("a").is_none());
}

#[test]
fn connections_fail() {
    let model = R2Model::start();
    model.put("a", "x");
    model.set_connections(Connections::Refuse);
    let error = call(&model, "GET", "a").try_send().expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    model.set_connections(Connections::Reset);
    assert!(call(&model, "GET", "a").try_send().is_err());
    model.set_connections(Connections::BlackHole);
    let start = Instant::now();
    assert!(call(&model, "GET", "a").try_send_within(MOMENT).is_err());
    assert!(start.elapsed() >= MOMENT);
    assert_eq!(model.connections_failed(), 2);
    model.set_connections(Connections::Serve);
    assert_eq!(get(&model, "a").text(), "x");

    model.add_fault(FaultRule::new(Fault::Instead(Ending::Reset)).once());
    let error = call(&model, "GET", "a").try_send().expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_new_token_is_denied_for_a_while() {
    let model = R2Model::start();
    model.put("a", "x");
    let rule = FaultRule::new(Fault::error("AccessDenied")).lasting(MOMENT);
    let id = model.add_fault(rule);
    assert_eq!(get(&model, "a").status, 403);
    sleep(MOMENT);
    assert_eq!(get(&model, "a").status, 200);
    assert_eq!((model.matched(id), model.fired(id)), (2, 1));
    model.add_fault(FaultRule::new(Fault::error("Unauthorized")).from_nth(2));
    assert_eq!([(); 3].map(|()| get(&model, "a").status), [200, 401, 401]);
    model.clear_faults();
    assert_eq!(get(&model, "a").status, 200);
}
