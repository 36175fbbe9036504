//! Multipart uploads.

use md5::{Digest as _, Md5};
use r2_model::R2Model;

use crate::support::{call, hex};

pub fn begin(model: &R2Model, key: &str) -> String {
    let reply = call(model, "POST", key)
        .query("uploads", "")
        .header("x-amz-meta-g", "1")
        .send();
    reply.element("UploadId").expect("an upload id")
}

pub fn part(model: &R2Model, key: &str, id: &str, number: u32, body: &[u8]) -> String {
    let reply = call(model, "PUT", key)
        .query("partNumber", &number.to_string())
        .query("uploadId", id)
        .body(body)
        .send();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("etag").expect("an etag").to_owned()
}

pub fn completion(etags: &[String]) -> String {
    let parts: String = etags
        .iter()
        .enumerate()
        .map(|(index, etag)| {
            format!(
                "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>",
                index + 1
            )
        })
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

#[test]
fn a_multipart_upload_makes_one_object() {
    let model = R2Model::builder().min_part_bytes(10).start();
    let id = begin(&model, "take.wav");
    let pieces = [&[1u8; 10][..], &[2; 10], &[3; 4]];
    let etags: Vec<String> = (1..)
        .zip(pieces)
        .map(|(number, piece)| part(&model, "take.wav", &id, number, piece))
        .collect();
    assert_eq!(model.open_uploads()[0].parts[&3], 4);
    assert!(model.get("take.wav").is_none());
    let complete = || {
        call(&model, "POST", "take.wav")
            .query("uploadId", &id)
            .body(completion(&etags))
            .send()
    };
    assert_eq!(complete().status, 200);
    let object = model.get("take.wav").expect("stored");
    assert_eq!(object.bytes, pieces.concat());
    assert_eq!(object.metadata["g"], "1");
    let mut digest = Md5::new();
    pieces
        .iter()
        .for_each(|piece| digest.update(Md5::digest(piece)));
    assert_eq!(object.etag, format!("{}-3", hex(&digest.finalize())));
    let again = complete();
    assert_eq!((again.status, again.code().as_str()), (404, "NoSuchUpload"));
    let second = call(&model, "GET", "take.wav")
        .query("partNumber", "2")
        .send();
    assert_eq!((second.status, &second.body[..]), (206, pieces[1]));
}

#[test]
fn part_sizes_and_conditions_are_checked_at_completion() {
    let model = R2Model::builder().min_part_bytes(10).start();
    for (sizes, code) in [
        (&[10, 11][..], "InvalidPart"),
        (&[10, 9, 9], "InvalidPart"),
        (&[9, 9], "EntityTooSmall"),
    ] {
        let id = begin(&model, "a");
        let etags: Vec<String> = (1..)
            .zip(sizes)
            .map(|(n, &size)| part(&model, "a", &id, n, &vec![0; size]))
            .collect();
        let reply = call(&model, "POST", "a")
            .query("uploadId", &id)
            .body(completion(&etags))
            .send();
        assert_eq!((reply.status, reply.code().as_str()), (400, code));
        let abort = || {
            call(&model, "DELETE", "a")
                .query("uploadId", &id)
                .send()
                .status
        };
        assert_eq!((abort(), abort()), (204, 204));
    }
    model.put("a", "other");
    let id = begin(&model, "a");
    let etags = [part(&model, "a", &id, 1, b"x")];
    let reply = call(&model, "POST", "a")
        .query("uploadId", &id)
        .header("if-none-match", "*")
        .body(completion(&etags))
        .send();
    assert_eq!(reply.status, 412);
    assert!(model.open_uploads().is_empty());
    let create = call(&model, "POST", "a")
        .query("uploads", "")
        .header("if-none-match", "*");
    assert_eq!(create.send().status, 412);
}

#[test]
fn parts_can_be_copied() {
    let model = R2Model::builder().min_part_bytes(4).start();
    model.put("src", "0123456789");
    let id = begin(&model, "dst");
    let copy = |number: &str, range: &str| {
        call(&model, "PUT", "dst")
            .query("partNumber", number)
            .query("uploadId", &id)
            .header("x-amz-copy-source", &format!("{}/src", model.bucket()))
            .header("x-amz-copy-source-range", range)
            .send()
    };
    let first = copy("1", "bytes=2-6").element("ETag").expect("an etag");
    let second = copy("2", "bytes=8-99").element("ETag").expect("an etag");
    assert_eq!(copy("3", "bytes=5-2").status, 400);
    let reply = call(&model, "POST", "dst")
        .query("uploadId", &id)
        .body(completion(&[first, second]))
        .send();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(model.get("dst").expect("stored").bytes, "2345689");
}
