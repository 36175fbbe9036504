//! GetObject and HeadObject.

use std::ops::Range;

use parking_lot::Mutex;

use super::{Answer, Request};
use crate::condition::Conditions;
use crate::content::Content;
use crate::error::{R2Error, R2Result};
use crate::range;
use crate::state::{State, Stored};

/// Query parameters that replace headers of the answer.
const OVERRIDES: [(&str, &str); 6] = [
    ("response-content-type", "content-type"),
    ("response-content-language", "content-language"),
    ("response-expires", "expires"),
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
];

pub(super) fn get(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let object = state
        .lock()
        .bucket(request.bucket()?)?
        .get(&request.key()?)?
        .clone();
    let conditions = Conditions::from_headers(&request.headers, "")?;
    if let Err(error) = conditions.check_read(object.current()) {
        let mut answer = Answer::of_error(&error);
        answer.set("etag", &format!("\"{}\"", object.etag));
        return Ok(answer);
    }
    let mut answer = Answer::empty(200);
    describe(&mut answer, &object);
    if let Some(plain) = object
        .decoded
        .as_ref()
        .filter(|_| !accepts_coding(request, &object))
    {
        answer.headers.remove("content-encoding");
        answer.content = Content::Bytes(plain.clone());
        answer.length_omitted = true;
        return Ok(answer);
    }
    let size = object.content.len();
    match wanted(request, &object)? {
        Some(range) => {
            answer.status = 206;
            let shown = format!(
                "bytes {}-{}/{size}",
                range.start,
                range.end.saturating_sub(1)
            );
            answer.set("content-range", &shown);
            answer.content = object.content.window(range);
        }
        None => answer.content = object.content,
    }
    for (parameter, header) in OVERRIDES {
        if let Some(value) = request.target.parameter(parameter) {
            answer.set(header, value);
        }
    }
    Ok(answer)
}

pub(super) fn head(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let mut answer = get(state, request)?;
    let named = !answer.length_omitted && !request.steer.length_omitted;
    if named && answer.status < 300 {
        answer.set("content-length", &answer.content.len().to_string());
    }
    answer.content = Answer::empty(200).content;
    Ok(answer)
}

/// Sets the headers that tell about an object.
fn describe(answer: &mut Answer, object: &Stored) {
    answer.set("etag", &format!("\"{}\"", object.etag));
    answer.set(
        "last-modified",
        &httpdate::fmt_http_date(object.last_modified),
    );
    answer.set("accept-ranges", "bytes");
    for (name, value) in &object.attributes.system {
        answer.set(name, value);
    }
    for (name, value) in &object.attributes.user {
        answer.set(&format!("x-amz-meta-{name}"), value);
    }
}

/// Returns the part of the object that the request is for; `None` for all of it.
fn wanted(request: &Request, object: &Stored) -> R2Result<Option<Range<u64>>> {
    let size = object.content.len();
    if let Some(number) = request.target.parameter("partNumber") {
        let number: usize = number
            .parse()
            .map_err(|_| R2Error::invalid_argument("partNumber is not a number"))?;
        return part_range(object, number).map(Some);
    }
    let header = request
        .header("range")
        .filter(|_| !request.steer.range_ignored);
    let Some(header) = header else {
        return Ok(None);
    };
    match request.steer.range_end_moved {
        Some(delta) => range::resolve(&range::with_moved_end(header, size, delta), size),
        None => range::resolve(header, size),
    }
    .map(Some)
}

fn part_range(object: &Stored, number: usize) -> R2Result<Range<u64>> {
    let whole = [object.content.len()];
    let sizes = if object.part_sizes.is_empty() {
        &whole[..]
    } else {
        &object.part_sizes
    };
    let size = number.checked_sub(1).and_then(|index| sizes.get(index));
    let size = *size.ok_or_else(|| {
        R2Error::new(
            "InvalidRange",
            "The requested partnumber is not satisfiable",
        )
    })?;
    let start: u64 = sizes[..number - 1].iter().sum();
    Ok(start..start + size)
}

fn accepts_coding(request: &Request, object: &Stored) -> bool {
    let coding = object.attributes.system.get("content-encoding");
    let accepted = request.header("accept-encoding").unwrap_or_default();
    let mut accepted = accepted
        .split(',')
        .map(|item| item.split(';').next().unwrap_or("").trim());
    coding.is_none_or(|coding| accepted.any(|item| item.eq_ignore_ascii_case(coding)))
}
