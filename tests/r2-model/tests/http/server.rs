//! Credentials, the log, and the server's life.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use r2_model::{Costs, Operation, Permission, R2Model, Token};

use crate::support::{Call, call, call_path, get, put};

#[test]
fn credentials_and_scopes_are_enforced() {
    let model = R2Model::builder()
        .other_bucket("other")
        .token(Token::new("reader", "s1", Permission::ObjectReadOnly))
        .token(Token::new("bound", "s2", Permission::ObjectReadWrite).for_buckets(&["other"]))
        .token(Token::new("admin", "s3", Permission::AdminReadWrite))
        .start();
    model.put("a", "x");
    let answer = |call: Call<'_>| {
        let reply = call.send();
        (reply.status, reply.code())
    };
    let is = |status, code: &str| (status, code.to_owned());
    let get = || call(&model, "GET", "a");
    assert_eq!(
        answer(get().credentials("nobody", "x")),
        is(401, "Unauthorized")
    );
    let secret = get().credentials(model.access_key(), "x");
    assert_eq!(answer(secret), is(403, "SignatureDoesNotMatch"));
    let late = get().at(SystemTime::now() - Duration::from_secs(1000));
    assert_eq!(answer(late), is(403, "RequestTimeTooSkewed"));
    assert_eq!(call(&model, "GET", "a").send_unsigned().status, 400);
    assert_eq!(
        answer(get().credentials("bound", "s2")),
        is(403, "AccessDenied")
    );
    assert_eq!(answer(get().credentials("reader", "s1")).0, 200);
    let write = call(&model, "PUT", "a").credentials("reader", "s1");
    assert_eq!(answer(write), is(403, "AccessDenied"));
    assert_eq!(
        answer(call_path(&model, "GET", "/missing/a")),
        is(404, "NoSuchBucket")
    );
    let missing = call_path(&model, "GET", "/missing").query("list-type", "2");
    assert_eq!(answer(missing), is(404, "NoSuchBucket"));
    assert_eq!(
        answer(call_path(&model, "GET", "/")),
        is(403, "AccessDenied")
    );
    assert_eq!(call_path(&model, "HEAD", "/other").send().status, 403);
    let admin = call_path(&model, "GET", "/")
        .credentials("admin", "s3")
        .send();
    assert_eq!(admin.elements("Name"), ["other", "voicebeat-audio"]);
    let costs = model.costs();
    assert_eq!(
        costs,
        Costs {
            class_a: 2,
            class_b: 3,
            free: 0
        },
        "{:?}",
        model.requests()
    );
    model.revoke("reader");
    assert_eq!(answer(get().credentials("reader", "s1")).0, 401);
}

#[test]
fn a_temporary_token_ends() {
    let model = R2Model::start();
    model.put("a", "x");
    let hour = Duration::from_secs(3600);
    let token = |name| Token::new(name, "s", Permission::ObjectReadOnly);
    model.add_token(token("alive").session("session", hour));
    model.add_token(token("ended").session("session", Duration::ZERO));
    let get = |name, session| {
        call(&model, "GET", "a")
            .credentials(name, "s")
            .header("x-amz-security-token", session)
            .send()
            .status
    };
    assert_eq!(get("alive", "session"), 200);
    assert_eq!(get("alive", "another"), 401);
    assert_eq!(get("ended", "session"), 401);
}

#[test]
fn requests_are_logged_and_can_be_cleared() {
    let model = R2Model::start();
    put(&model, "a", "12345");
    call(&model, "GET", "a").header("range", "bytes=1-2").send();
    let log = model.requests();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].operation, Operation::PutObject);
    assert_eq!((log[0].bytes_in, log[0].status), (5, Some(200)));
    assert_eq!(
        (log[1].key.as_deref(), log[1].range.as_deref()),
        (Some("a"), Some("bytes=1-2"))
    );
    assert_eq!((log[1].bytes_out, log[1].status), (2, Some(206)));
    assert!(log[1].header("x-amz-date").is_some());
    assert!(log[1].header("authorization").is_none());
    model.clear_requests();
    assert!(model.requests().is_empty());
    assert_eq!(model.costs(), Costs::default());
}

#[test]
fn hasty_writes_are_counted() {
    let model = R2Model::start();
    put(&model, "a", "1");
    put(&model, "b", "1");
    assert!(model.write_rate_violations().is_empty());
    put(&model, "a", "2");
    assert_eq!(model.write_rate_violations()[0].key, "a");
}

#[test]
fn a_cut_upload_leaves_nothing() {
    let model = R2Model::start();
    call(&model, "PUT", "a").body([0; 1000]).send_cut(500);
    put(&model, "b", "");
    assert_eq!(model.keys(), ["b"]);
    assert!(model.get("a").is_none());
}

#[test]
fn the_server_stops_and_comes_back_on_its_port() {
    let model = R2Model::start();
    put(&model, "a", "x");
    for _ in 0..3 {
        model.stop();
        assert!(call(&model, "GET", "a").try_send().is_err());
        model.restart();
        assert_eq!(get(&model, "a").text(), "x");
    }
    model.stop();
    model.stop();
    model.restart();
    model.restart();
    assert_eq!(get(&model, "a").text(), "x");
}

#[test]
fn a_model_can_live_and_die_inside_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let model = R2Model::start();
        let port = model.port();
        model.stop();
        model.restart();
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        assert!(connected.is_ok());
    });
}

#[test]
fn a_refused_upload_hears_why() {
    let model = R2Model::start();
    for _ in 0..10 {
        let reply = call(&model, "PUT", "a")
            .credentials("nobody", "x")
            .body(vec![0; 4_000_000])
            .send();
        assert_eq!((reply.status, reply.code().as_str()), (401, "Unauthorized"));
    }
}

#[test]
fn idle_connections_can_be_cut() {
    let model = R2Model::start();
    let mut stream = TcpStream::connect(("127.0.0.1", model.port())).expect("a connection");
    let head = "HEAD /b/a HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).expect("sent");
        let count = stream
            .read(&mut buffer)
            .expect("an answer on a connection that stays");
        assert!(buffer[..count].starts_with(b"HTTP/1.1 400"));
    }
    model.cut_connections();
    assert!(matches!(stream.read(&mut buffer), Ok(0) | Err(_)));
    assert_eq!(call(&model, "GET", "a").send().status, 404);
}
