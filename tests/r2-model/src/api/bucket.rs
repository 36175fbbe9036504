//! Operations on buckets; a file system needs none of them.

use parking_lot::Mutex;

use super::{Answer, Request};
use crate::error::{R2Error, R2Result};
use crate::state::{Bucket, State};
use crate::xml;

pub(super) fn list(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let state = state.lock();
    Ok(Answer::xml(xml::document(
        "ListAllMyBucketsResult",
        |out| {
            xml::nested(out, "Buckets", |out| {
                for name in state.buckets.keys() {
                    if request.token.check_bucket(name).is_ok() {
                        xml::nested(out, "Bucket", |out| xml::element(out, "Name", name));
                    }
                }
            });
        },
    )))
}

pub(super) fn create(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let name = request.bucket()?;
    let mut state = state.lock();
    if state.buckets.contains_key(name) {
        let message = "The bucket you tried to create already exists, and you own it.";
        return Err(R2Error {
            status: 409,
            ..R2Error::new("BucketAlreadyOwnedByYou", message)
        });
    }
    state.buckets.insert(name.to_owned(), Bucket::default());
    Ok(Answer::empty(200))
}

pub(super) fn delete(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let name = request.bucket()?;
    let mut state = state.lock();
    let bucket = state.bucket(name)?;
    if !bucket.objects.is_empty() || !bucket.uploads.is_empty() {
        let message = "The bucket you tried to delete is not empty.";
        return Err(R2Error::new("BucketNotEmpty", message));
    }
    state.buckets.remove(name);
    Ok(Answer::empty(204))
}

pub(super) fn location() -> Answer {
    Answer::xml(xml::document("LocationConstraint", |out| {
        out.push_str("auto")
    }))
}

/// Answers the few reads of settings for which R2 has a fixed document.
pub(super) fn setting(request: &Request) -> R2Result<Answer> {
    let has = |name| request.target.parameter(name).is_some();
    if request.target.key.is_some() {
        return Err(R2Error::not_implemented("The sub-resource is"));
    }
    if has("versioning") {
        return Ok(Answer::xml(xml::document(
            "VersioningConfiguration",
            |_| {},
        )));
    }
    if has("tagging") {
        return Err(R2Error::new("NoSuchTagSet", "The TagSet does not exist."));
    }
    Err(R2Error::not_implemented("The bucket setting is"))
}
