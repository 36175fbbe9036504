//! Objects, conditions, copies and listings, as `r2.md` says.

use std::time::{Duration, SystemTime};

use md5::{Digest as _, Md5};
use r2_model::{R2Model, generated_bytes};

use crate::support::{call, get, hex, put};

#[test]
fn an_object_comes_back_with_its_headers() {
    let model = R2Model::start();
    let reply = call(&model, "PUT", "Takes/lead vocal #1 (100%).wav")
        .header("content-type", "audio/wav")
        .header("x-amz-meta-Generation".to_lowercase().as_str(), "7")
        .body("RIFF")
        .send();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let etag = format!("\"{}\"", hex(&Md5::digest("RIFF")));
    assert_eq!(reply.header("etag"), Some(etag.as_str()));

    let reply = get(&model, "Takes/lead vocal #1 (100%).wav");
    assert_eq!((reply.status, reply.text().as_str()), (200, "RIFF"));
    assert_eq!(reply.header("etag"), Some(etag.as_str()));
    assert_eq!(reply.header("content-type"), Some("audio/wav"));
    assert_eq!(reply.header("x-amz-meta-generation"), Some("7"));
    assert_eq!(reply.header("content-length"), Some("4"));

    let reply = call(&model, "HEAD", "Takes/lead vocal #1 (100%).wav").send();
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-length"), Some("4"));

    let object = model.get("Takes/lead vocal #1 (100%).wav").expect("stored");
    assert_eq!(object.content_type, "audio/wav");
    assert_eq!(object.metadata["generation"], "7");
    assert_eq!(object.write_count, 1);
}

#[test]
fn a_missing_object_is_404_and_head_has_no_body() {
    let model = R2Model::start();
    let reply = get(&model, "x");
    assert_eq!((reply.status, reply.code().as_str()), (404, "NoSuchKey"));
    let reply = call(&model, "HEAD", "x").send();
    assert_eq!((reply.status, reply.body.len()), (404, 0));
    assert_eq!(call(&model, "DELETE", "x").send().status, 204);
}

#[test]
fn keys_are_odd_and_kept_apart() {
    let model = R2Model::start();
    let keys = [
        "a",
        "a/",
        "a/b",
        "a//b",
        " a",
        "a+b",
        "a%2Fb",
        "a?b&c",
        "\u{1f3b5}",
        "A",
    ];
    for key in keys {
        assert_eq!(put(&model, key, key).status, 200, "{key}");
    }
    for key in keys {
        assert_eq!(get(&model, key).text(), key);
    }
    assert_eq!(model.keys().len(), keys.len());
    let long = "k".repeat(1025);
    let reply = put(&model, &long, "");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "InvalidObjectName")
    );
    assert_eq!(put(&model, &long[..1024], "").status, 200);
}

#[test]
fn both_normal_forms_are_one_object() {
    let model = R2Model::start();
    put(&model, "caf\u{e9}.wav", "composed");
    assert_eq!(get(&model, "cafe\u{301}.wav").text(), "composed");
    put(&model, "cafe\u{301}.wav", "decomposed");
    assert_eq!(get(&model, "caf\u{e9}.wav").text(), "decomposed");
    assert_eq!(model.keys(), ["cafe\u{301}.wav"]);
}

#[test]
fn ranges_are_served() {
    let model = R2Model::start();
    model.put("a", "0123456789");
    model.put("empty", "");
    let range = |key, range| call(&model, "GET", key).header("range", range).send();
    let reply = range("a", "bytes=2-4");
    assert_eq!((reply.status, reply.text().as_str()), (206, "234"));
    assert_eq!(reply.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(range("a", "bytes=-3").text(), "789");
    assert_eq!(range("a", "bytes=8-99").text(), "89");
    let reply = range("a", "bytes=10-");
    assert_eq!((reply.status, reply.code().as_str()), (416, "InvalidRange"));
    assert_eq!(range("empty", "bytes=0-0").status, 416);
    assert_eq!(range("a", "bytes=0-1,4-5").status, 400);
    assert_eq!(
        call(&model, "HEAD", "a")
            .header("range", "bytes=0-1")
            .send()
            .status,
        206
    );
}

#[test]
fn a_large_object_needs_no_memory() {
    let model = R2Model::start();
    model.put_generated("big.wav", 1 << 40);
    let reply = call(&model, "GET", "big.wav").header("range", "bytes=900000000005-900000300004");
    let reply = reply.send();
    assert_eq!(
        reply.body,
        generated_bytes("big.wav", 900_000_000_005, 300_000)
    );
    let head = call(&model, "HEAD", "big.wav").send();
    assert_eq!(head.header("content-length"), Some("1099511627776"));
    assert_eq!(model.stat("big.wav").expect("stored").size, 1 << 40);
    model.put_generated_behind("small.wav", "RIFF", 6);
    assert_eq!(
        get(&model, "small.wav").body[4..],
        generated_bytes("small.wav", 0, 6)
    );
}

#[test]
fn read_conditions_are_304_or_412() {
    let model = R2Model::start();
    model.put("a", "x");
    let etag = format!("\"{}\"", model.get("a").expect("stored").etag);
    let with = |name, value: &str| call(&model, "GET", "a").header(name, value).send();
    assert_eq!(with("if-match", &etag).status, 200);
    let reply = with("if-match", "\"other\"");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (412, "PreconditionFailed")
    );
    let reply = with("if-none-match", &etag);
    assert_eq!((reply.status, reply.body.len()), (304, 0));
    assert_eq!(reply.header("etag"), Some(etag.as_str()));
    let future = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    assert_eq!(with("if-modified-since", &future).status, 304);
    let past = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(60));
    assert_eq!(with("if-unmodified-since", &past).status, 412);
}

#[test]
fn write_conditions_are_412_and_deletes_have_none() {
    let model = R2Model::start();
    let put_if = |name, value: &str| {
        call(&model, "PUT", "a")
            .header(name, value)
            .body("x")
            .send()
    };
    assert_eq!(put_if("if-match", "*").status, 412);
    assert_eq!(put_if("if-none-match", "*").status, 200);
    let reply = put_if("if-none-match", "*");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (412, "PreconditionFailed")
    );
    let etag = format!("\"{}\"", model.get("a").expect("stored").etag);
    assert_eq!(put_if("if-none-match", &etag).status, 412);
    assert_eq!(put_if("if-match", &etag).status, 200);
    let reply = call(&model, "DELETE", "a")
        .header("if-match", "\"other\"")
        .send();
    assert_eq!(reply.status, 204);
    assert!(model.get("a").is_none());
}

#[test]
fn of_many_conditional_writers_one_wins() {
    let model = R2Model::start();
    let wins: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|number| {
                let call = call(&model, "PUT", "a").header("if-none-match", "*");
                scope.spawn(move || call.body(format!("{number}")).send().status)
            })
            .collect();
        let statuses = writers
            .into_iter()
            .map(|writer| writer.join().expect("joined"));
        statuses.filter(|&status| status == 200).count()
    });
    assert_eq!(wins, 1);
}

#[test]
fn copies_obey_both_sides_conditions() {
    let model = R2Model::start();
    model.put_with("src dir/a", "x", "audio/wav", &[("k", "v")]);
    let source = format!("{}/src%20dir/a", model.bucket());
    let etag = format!("\"{}\"", model.get("src dir/a").expect("stored").etag);
    let copy = |key, name: &str, value: &str| {
        call(&model, "PUT", key)
            .header("x-amz-copy-source", &source)
            .header(name, value)
            .send()
    };
    let reply = copy("b", "cf-copy-destination-if-none-match", "*");
    assert_eq!(
        (reply.status, reply.element("ETag")),
        (200, Some(etag.replace('"', "&quot;")))
    );
    let copied = model.get("b").expect("copied");
    assert_eq!(
        (copied.content_type.as_str(), &*copied.metadata["k"]),
        ("audio/wav", "v")
    );
    assert_eq!(
        copy("b", "cf-copy-destination-if-none-match", "*").status,
        412
    );
    assert_eq!(copy("b", "cf-copy-destination-if-match", &etag).status, 200);
    // R2 does not list the plain header for copies: it protects nothing.
    assert_eq!(copy("b", "if-none-match", "*").status, 200);
    assert_eq!(
        copy("c", "x-amz-copy-source-if-match", "\"other\"").status,
        412
    );
    assert_eq!(
        copy("c", "x-amz-copy-source-if-none-match", &etag).status,
        412
    );
    assert!(model.get("c").is_none());

    let reply = call(&model, "PUT", "b")
        .header("x-amz-copy-source", &format!("/{}/b", model.bucket()))
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-new", "1")
        .send();
    assert_eq!(reply.status, 200);
    let replaced = model.get("b").expect("there");
    assert_eq!(
        replaced.metadata.into_iter().collect::<Vec<_>>(),
        [("new".into(), "1".into())]
    );
    assert_eq!(replaced.content_type, "application/octet-stream");

    let missing = call(&model, "PUT", "d")
        .header("x-amz-copy-source", &format!("{}/none", model.bucket()))
        .send();
    assert_eq!(
        (missing.status, missing.code().as_str()),
        (404, "NoSuchKey")
    );
}

#[test]
fn digests_are_checked() {
    let model = R2Model::start();
    let put = |name, value| {
        call(&model, "PUT", "a")
            .header(name, value)
            .body("x")
            .send()
    };
    // The MD5 of "x", then of something else.
    assert_eq!(put("content-md5", "ndTkYSaMgDT1yFZOFVxnpg==").status, 200);
    assert_eq!(
        put("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==").code(),
        "BadDigest"
    );
    assert_eq!(put("content-md5", "short").code(), "InvalidDigest");
    assert_eq!(put("x-amz-checksum-crc32", "jNwWgw==").status, 200);
    assert_eq!(put("x-amz-checksum-crc32", "AAAAAA==").code(), "BadDigest");
    let reply = call(&model, "PUT", "a")
        .payload_hash(&"0".repeat(64))
        .body("x")
        .send();
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "XAmzContentSHA256Mismatch")
    );
    let unsigned = call(&model, "PUT", "a")
        .payload_hash("UNSIGNED-PAYLOAD")
        .body("y")
        .send();
    assert_eq!(unsigned.status, 200);
}

#[test]
fn chunked_bodies_are_unpacked() {
    let model = R2Model::start();
    let body = "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    let send = |body: &str| {
        call(&model, "PUT", "a")
            .payload_hash("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .header("content-encoding", "aws-chunked")
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .header("x-amz-decoded-content-length", "5")
            .body(body)
            .send()
    };
    let reply = send(body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = get(&model, "a");
    assert_eq!(
        (reply.text().as_str(), reply.header("content-encoding")),
        ("hello", None)
    );
    assert_eq!(send(&body.replace("NhCm", "AAAA")).code(), "BadDigest");
}

#[test]
fn metadata_has_a_limit_and_refused_headers_are_501() {
    let model = R2Model::start();
    let put = |name, value: &str| call(&model, "PUT", "a").header(name, value).send();
    assert_eq!(put("x-amz-meta-k", &"v".repeat(8191)).status, 200);
    assert_eq!(
        put("x-amz-meta-k", &"v".repeat(8192)).code(),
        "MetadataTooLarge"
    );
    let reply = put("x-amz-tagging", "a=b");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (501, "NotImplemented")
    );
    assert_eq!(
        put("x-amz-storage-class", "GLACIER").code(),
        "InvalidStorageClass"
    );
}

#[test]
fn listings_page_and_encode() {
    let model = R2Model::start();
    for number in 0..1500 {
        model.put(&format!("d/{number:04}"), "");
    }
    model.put("e+ f/\u{e9}<&", "xyz");
    let list = || call(&model, "GET", "").query("list-type", "2");
    let first = list().send();
    assert_eq!(first.elements("Key").len(), 1000);
    assert_eq!(first.element("IsTruncated").as_deref(), Some("true"));
    let token = first.element("NextContinuationToken").expect("a token");
    let second = list().query("continuation-token", &token).send();
    assert_eq!(second.elements("Key").len(), 501);
    assert_eq!(second.element("IsTruncated").as_deref(), Some("false"));
    let folders = list().query("delimiter", "/").send();
    assert_eq!(folders.elements("Prefix"), ["", "d/", "e+ f/"]);
    let encoded = list()
        .query("prefix", "e")
        .query("encoding-type", "url")
        .send();
    assert_eq!(
        encoded.element("Key").as_deref(),
        Some("e%2B%20f/%C3%A9%3C%26")
    );
    assert_eq!(encoded.element("Size").as_deref(), Some("3"));
    let plain = list().query("prefix", "e").send();
    assert_eq!(
        plain.element("Key").as_deref(),
        Some("e+ f/\u{e9}&lt;&amp;")
    );
    assert_eq!(
        list().query("max-keys", "-1").send().code(),
        "InvalidMaxKeys"
    );
    assert_eq!(list().query("metadata", "true").send().status, 501);
    let none = list().query("max-keys", "0").send();
    assert_eq!(none.element("KeyCount").as_deref(), Some("0"));
    let v1 = call(&model, "GET", "").query("marker", "d/1498").send();
    assert_eq!(v1.elements("Key").len(), 2);
}

#[test]
fn many_keys_are_deleted_at_once() {
    let model = R2Model::start();
    model.put("a", "");
    model.put("b", "");
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>none</Key></Object></Delete>";
    let reply = call(&model, "POST", "")
        .query("delete", "")
        .body(body)
        .send();
    assert_eq!((reply.status, reply.elements("Key").len()), (200, 2));
    assert_eq!(model.keys(), ["b"]);
    let many = format!(
        "<Delete>{}</Delete>",
        "<Object><Key>k</Key></Object>".repeat(1001)
    );
    let reply = call(&model, "POST", "")
        .query("delete", "")
        .body(many)
        .send();
    assert_eq!(reply.code(), "MalformedXML");
}
