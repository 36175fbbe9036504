//! PutObject, CopyObject, DeleteObject, DeleteObjects.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;

use super::{Answer, Request, integrity};
use crate::condition::Conditions;
use crate::content::Content;
use crate::dates::iso8601;
use crate::error::{R2Error, R2Result};
use crate::key::Key;
use crate::state::{Attributes, State, Stored};
use crate::xml;

/// The most bytes of names and values of user metadata.
const MAX_METADATA_BYTES: usize = 8192;

/// The most keys of one DeleteObjects.
const MAX_DELETES: usize = 1000;

const SYSTEM_HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-language",
    "content-type",
    "expires",
];

pub(super) fn put(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let key = request.key()?;
    let attributes = attributes(request)?;
    let md5 = integrity::check(request)?;
    let conditions = conditions(request, "")?;
    let etag = hex::encode(md5);
    let streams = state.lock().streams.clone();
    let content = Content::received(&request.body, &streams);
    let length = content.len();
    let object = Stored::new(content, etag.clone(), attributes);
    let mut state = state.lock();
    let (bucket, rules) = state.bucket_mut(request.bucket()?)?;
    rules.check_length(length)?;
    bucket.put(&key, object, &conditions, &request.author(), rules)?;
    let mut answer = Answer::empty(200);
    answer.set("etag", &format!("\"{etag}\""));
    Ok(answer)
}

pub(super) fn delete(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let key = request.key()?;
    let mut state = state.lock();
    let (bucket, rules) = state.bucket_mut(request.bucket()?)?;
    bucket.delete(&key, &request.author(), rules)?;
    Ok(Answer::empty(204))
}

pub(super) fn delete_many(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    integrity::check(request)?;
    let keys = xml::read_delete(&request.body)?;
    if keys.len() > MAX_DELETES {
        return Err(R2Error::malformed_xml());
    }
    let mut state = state.lock();
    let (bucket, rules) = state.bucket_mut(request.bucket()?)?;
    let author = request.author();
    let mut delete = |name: &str| bucket.delete(&Key::new(name)?, &author, rules);
    let outcomes: Vec<_> = keys.iter().map(|name| (name, delete(name))).collect();
    Ok(Answer::xml(xml::document("DeleteResult", |out| {
        for (name, outcome) in &outcomes {
            match outcome {
                Ok(()) => xml::nested(out, "Deleted", |out| xml::element(out, "Key", name)),
                Err(error) => xml::nested(out, "Error", |out| {
                    xml::element(out, "Key", name);
                    xml::element(out, "Code", &error.code);
                    xml::element(out, "Message", &error.message);
                }),
            }
        }
    })))
}

pub(super) fn copy(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let key = request.key()?;
    let (source_bucket, source_key) = source(request)?;
    let source_conditions = Conditions::from_headers(&request.headers, "x-amz-copy-source-")?;
    let conditions = conditions(request, "cf-copy-destination-")?;
    let mut state = state.lock();
    let source = state.bucket(&source_bucket)?.get(&source_key)?.clone();
    source_conditions.check_write(Some(source.current()))?;
    state.rules.check_length(source.content.len())?;
    let attributes = copied_attributes(request, &source.attributes)?;
    let etag = source.etag.clone();
    let object = Stored {
        attributes,
        ..source
    };
    let (bucket, rules) = state.bucket_mut(request.bucket()?)?;
    bucket.put(&key, object, &conditions, &request.author(), rules)?;
    let modified = iso8601(bucket.get(&key)?.last_modified);
    Ok(Answer::xml(xml::document("CopyObjectResult", |out| {
        xml::element(out, "LastModified", &modified);
        xml::element(out, "ETag", &format!("\"{etag}\""));
    })))
}

/// Returns the conditions of a write; a fault may have asked for their failure.
pub(super) fn conditions(request: &Request, prefix: &str) -> R2Result<Conditions> {
    let mut conditions = Conditions::from_headers(&request.headers, prefix)?;
    conditions.doomed = request.steer.condition_fails;
    Ok(conditions)
}

/// Returns bucket and key of `x-amz-copy-source`, which the token must be allowed to read.
pub(super) fn source(request: &Request) -> R2Result<(String, Key)> {
    let malformed = || R2Error::invalid_argument("x-amz-copy-source is not bucket/key");
    let header = request.header("x-amz-copy-source").ok_or_else(malformed)?;
    let decoded = percent_decode_str(header)
        .decode_utf8()
        .map_err(|_| malformed())?;
    let path = decoded.strip_prefix('/').unwrap_or(&decoded);
    let (bucket, key) = path.split_once('/').ok_or_else(malformed)?;
    request.token.check_bucket(bucket)?;
    Ok((bucket.to_owned(), Key::new(key)?))
}

fn copied_attributes(request: &Request, source: &Attributes) -> R2Result<Attributes> {
    match request.header("x-amz-metadata-directive").unwrap_or("COPY") {
        "COPY" => Ok(source.clone()),
        "REPLACE" => attributes(request),
        // R2's own: what the request names replaces, the rest stays.
        "MERGE" => {
            let mut merged = source.clone();
            let named = attributes(request)?;
            merged.user.extend(named.user);
            let given = |(name, _): &(String, String)| request.headers.contains_key(name.as_str());
            merged.system.extend(named.system.into_iter().filter(given));
            check_metadata(&merged.user)?;
            Ok(merged)
        }
        other => Err(R2Error::invalid_argument(format!(
            "Unknown metadata directive {other}"
        ))),
    }
}

/// Returns what the headers of a write say about the object.
pub(super) fn attributes(request: &Request) -> R2Result<Attributes> {
    if let Some(class) = request.header("x-amz-storage-class")
        && !["STANDARD", "STANDARD_IA"].contains(&class)
    {
        return Err(R2Error::new(
            "InvalidStorageClass",
            "The storage class is not valid.",
        ));
    }
    let mut attributes = Attributes::default();
    for name in SYSTEM_HEADERS {
        if let Some(value) = request.header(name) {
            attributes.system.insert(name.to_owned(), value.to_owned());
        }
    }
    attributes
        .system
        .entry("content-type".to_owned())
        .or_insert_with(|| "application/octet-stream".to_owned());
    // `aws-chunked` describes the transfer, not the object.
    let codings = request.header("content-encoding").unwrap_or_default();
    let codings: Vec<&str> = codings
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && *coding != "aws-chunked")
        .collect();
    if !codings.is_empty() {
        attributes
            .system
            .insert("content-encoding".to_owned(), codings.join(","));
    }
    for (name, value) in &request.headers {
        if let Some(name) = name.as_str().strip_prefix("x-amz-meta-") {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            attributes.user.insert(name.to_owned(), value);
        }
    }
    check_metadata(&attributes.user)?;
    Ok(attributes)
}

fn check_metadata(user: &BTreeMap<String, String>) -> R2Result<()> {
    let bytes: usize = user
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_METADATA_BYTES {
        return Err(R2Error::new(
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size.",
        ));
    }
    Ok(())
}
