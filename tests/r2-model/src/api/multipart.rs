//! Multipart uploads.

use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::write::{attributes, conditions, source};
use super::{Answer, Request, integrity};
use crate::content::{CHUNK_BYTES, Content};
use crate::dates::iso8601;
use crate::error::{R2Error, R2Result};
use crate::range;
use crate::state::State;
use crate::upload::{MAX_PARTS, Part};
use crate::xml;

/// The most parts that one answer lists.
const MAX_LISTED_PARTS: usize = 1000;

pub(super) fn create(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let key = request.key()?;
    let full = request.header("x-amz-checksum-type") == Some("FULL_OBJECT");
    let algorithm = request
        .header("x-amz-checksum-algorithm")
        .unwrap_or("CRC64NVME");
    if full && algorithm != "CRC64NVME" {
        let message = format!("The FULL_OBJECT checksum type is not supported for {algorithm}.");
        return Err(R2Error::new("InvalidRequest", message));
    }
    let attributes = attributes(request)?;
    let conditions = conditions(request, "")?;
    let name = request.bucket()?;
    let id = state
        .lock()
        .bucket_mut(name)?
        .0
        .begin_upload(&key, attributes, &conditions)?;
    Ok(Answer::xml(xml::document(
        "InitiateMultipartUploadResult",
        |out| {
            xml::element(out, "Bucket", name);
            xml::element(out, "Key", &key.spelled);
            xml::element(out, "UploadId", &id);
        },
    )))
}

pub(super) fn upload_part(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let number = part_number(request)?;
    let md5 = integrity::check(request)?;
    let streams = {
        let state = state.lock();
        state.rules.check_length(request.body.len() as u64)?;
        state.streams.clone()
    };
    // Not under the lock, since it may take long.
    let part = Part::new(Content::received(&request.body, &streams), md5);
    let mut answer = Answer::empty(200);
    answer.set("etag", &format!("\"{}\"", part.etag()));
    keep(state, request, number, part)?;
    Ok(answer)
}

pub(super) fn copy_part(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let number = part_number(request)?;
    let (source_bucket, source_key) = source(request)?;
    let content = state
        .lock()
        .bucket(&source_bucket)?
        .get(&source_key)?
        .content
        .clone();
    let window = match request.header("x-amz-copy-source-range") {
        Some(header) => content.window(range::resolve(header, content.len())?),
        None => content,
    };
    state.lock().rules.check_length(window.len())?;
    // Hashing may take long, so it happens outside the lock.
    let md5 = hash(&window);
    let part = Part::new(window, md5);
    let (etag, modified) = (part.etag(), iso8601(part.last_modified));
    keep(state, request, number, part)?;
    Ok(Answer::xml(xml::document("CopyPartResult", |out| {
        xml::element(out, "LastModified", &modified);
        xml::element(out, "ETag", &format!("\"{etag}\""));
    })))
}

pub(super) fn complete(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let key = request.key()?;
    let id = request.required("uploadId")?;
    let named = xml::read_completion(&request.body)?;
    let conditions = conditions(request, "")?;
    let name = request.bucket()?;
    let mut state = state.lock();
    let (bucket, rules) = state.bucket_mut(name)?;
    let etag = bucket.complete_upload(&key, id, named, &conditions, &request.author(), rules)?;
    Ok(Answer::xml(xml::document(
        "CompleteMultipartUploadResult",
        |out| {
            xml::element(out, "Location", &format!("/{name}/{}", key.spelled));
            xml::element(out, "Bucket", name);
            xml::element(out, "Key", &key.spelled);
            xml::element(out, "ETag", &format!("\"{etag}\""));
        },
    )))
}

pub(super) fn abort(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let id = request.required("uploadId")?;
    // Also for an upload that is gone: R2 answers 204 again.
    state
        .lock()
        .bucket_mut(request.bucket()?)?
        .0
        .uploads
        .remove(id);
    Ok(Answer::empty(204))
}

pub(super) fn list_uploads(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let name = request.bucket()?;
    let prefix = request.target.parameter("prefix").unwrap_or_default();
    let state = state.lock();
    let uploads = &state.bucket(name)?.uploads;
    Ok(Answer::xml(xml::document(
        "ListMultipartUploadsResult",
        |out| {
            xml::element(out, "Bucket", name);
            xml::element(out, "Prefix", prefix);
            xml::element(out, "IsTruncated", "false");
            for (id, upload) in uploads {
                if upload.key.spelled.starts_with(prefix) {
                    xml::nested(out, "Upload", |out| {
                        xml::element(out, "Key", &upload.key.spelled);
                        xml::element(out, "UploadId", id);
                        xml::element(out, "Initiated", &iso8601(upload.begun));
                        xml::element(out, "StorageClass", "STANDARD");
                    });
                }
            }
        },
    )))
}

pub(super) fn list_parts(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let (name, key, id) = (
        request.bucket()?,
        request.key()?,
        request.required("uploadId")?,
    );
    let after = request.target.parameter("part-number-marker");
    let after: u32 = after.and_then(|marker| marker.parse().ok()).unwrap_or(0);
    let limit = request.steer.page_limit.unwrap_or(MAX_LISTED_PARTS);
    let state = state.lock();
    let upload = state.bucket(name)?.upload(&key, id)?;
    let rest = upload.parts.range(after + 1..);
    let page: Vec<_> = rest.clone().take(limit).collect();
    let cut = rest.count() > page.len();
    Ok(Answer::xml(xml::document("ListPartsResult", |out| {
        xml::element(out, "Bucket", name);
        xml::element(out, "Key", &upload.key.spelled);
        xml::element(out, "UploadId", id);
        xml::element(out, "IsTruncated", if cut { "true" } else { "false" });
        if let (true, Some((last, _))) = (cut, page.last()) {
            xml::element(out, "NextPartNumberMarker", &last.to_string());
        }
        for (number, part) in page {
            xml::nested(out, "Part", |out| {
                xml::element(out, "PartNumber", &number.to_string());
                xml::element(out, "LastModified", &iso8601(part.last_modified));
                xml::element(out, "ETag", &format!("\"{}\"", part.etag()));
                xml::element(out, "Size", &part.content.len().to_string());
            });
        }
    })))
}

fn keep(state: &Mutex<State>, request: &Request, number: u32, part: Part) -> R2Result<()> {
    let key = request.key()?;
    let id = request.required("uploadId")?;
    state
        .lock()
        .bucket_mut(request.bucket()?)?
        .0
        .put_part(&key, id, number, part)
}

fn part_number(request: &Request) -> R2Result<u32> {
    let number = request.required("partNumber")?.parse().ok();
    number
        .filter(|number| (1..=MAX_PARTS).contains(number))
        .ok_or_else(|| {
            R2Error::invalid_argument(
                "Part number must be an integer between 1 and 10000, inclusive",
            )
        })
}

fn hash(content: &Content) -> [u8; 16] {
    let mut digest = Md5::new();
    let mut at = 0;
    while at < content.len() {
        let end = content.len().min(at + CHUNK_BYTES);
        digest.update(content.read(at..end));
        at = end;
    }
    digest.finalize().into()
}
