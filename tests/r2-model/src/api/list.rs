//! ListObjects and ListObjectsV2.

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Answer, Request};
use crate::dates::iso8601;
use crate::error::{R2Error, R2Result};
use crate::key::fold;
use crate::listing::{Entry, Listing, MAX_PAGE, Page, page};
use crate::state::State;
use crate::xml;

/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// The parts of a listing request that both versions have.
struct Common<'a> {
    request: &'a Request,
    max_keys: usize,
    url: bool,
}

impl<'a> Common<'a> {
    fn of(request: &'a Request) -> R2Result<Self> {
        let url = match request.target.parameter("encoding-type") {
            None => false,
            Some("url") => true,
            Some(_) => return Err(R2Error::invalid_argument("Invalid Encoding Method")),
        };
        let max_keys = match request.target.parameter("max-keys") {
            None => MAX_PAGE,
            Some(text) => text.parse().map_err(|_| {
                R2Error::new(
                    "InvalidMaxKeys",
                    "MaxKeys params must be a positive integer.",
                )
            })?,
        };
        Ok(Self {
            request,
            max_keys,
            url,
        })
    }

    fn parameter(&self, name: &str) -> &str {
        self.request.target.parameter(name).unwrap_or_default()
    }

    fn listing(&self, start_after: &str, after_entry: String) -> Listing {
        let limit = self.max_keys.min(MAX_PAGE);
        Listing {
            prefix: self.parameter("prefix").to_owned(),
            delimiter: self.parameter("delimiter").to_owned(),
            start_after: start_after.to_owned(),
            after_entry,
            limit: self
                .request
                .steer
                .page_limit
                .map_or(limit, |cap| limit.min(cap)),
        }
    }

    /// Appends an element whose text `encoding-type=url` covers.
    fn name(&self, out: &mut String, element: &str, text: &str) {
        if self.url {
            xml::element(out, element, &utf8_percent_encode(text, URL).to_string());
        } else {
            xml::element(out, element, text);
        }
    }

    fn head(&self, out: &mut String, truncated: bool) -> R2Result<()> {
        xml::element(out, "Name", self.request.bucket()?);
        self.name(out, "Prefix", self.parameter("prefix"));
        if !self.parameter("delimiter").is_empty() {
            self.name(out, "Delimiter", self.parameter("delimiter"));
        }
        if self.url {
            xml::element(out, "EncodingType", "url");
        }
        xml::element(out, "MaxKeys", &self.max_keys.to_string());
        xml::element(out, "IsTruncated", if truncated { "true" } else { "false" });
        Ok(())
    }

    fn entries(&self, out: &mut String, page: &Page<'_>) {
        for entry in &page.entries {
            match entry {
                Entry::Object(object) => xml::nested(out, "Contents", |out| {
                    self.name(out, "Key", &object.spelled);
                    xml::element(out, "LastModified", &iso8601(object.last_modified));
                    xml::element(out, "ETag", &format!("\"{}\"", object.etag));
                    xml::element(out, "Size", &object.content.len().to_string());
                    xml::element(out, "StorageClass", "STANDARD");
                }),
                Entry::CommonPrefix(prefix) => xml::nested(out, "CommonPrefixes", |out| {
                    self.name(out, "Prefix", prefix);
                }),
            }
        }
    }
}

pub(super) fn v2(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let common = Common::of(request)?;
    let token = request.target.parameter("continuation-token");
    let after_entry = token.map(read_token).transpose()?.unwrap_or_default();
    let state = state.lock();
    let objects = &state.bucket(request.bucket()?)?.objects;
    let page = page(
        objects,
        &common.listing(common.parameter("start-after"), after_entry),
    );
    let next = page.next.as_deref().filter(|_| common.max_keys > 0);
    let mut head = String::new();
    common.head(&mut head, next.is_some())?;
    Ok(Answer::xml(xml::document("ListBucketResult", |out| {
        out.push_str(&head);
        xml::element(out, "KeyCount", &page.entries.len().to_string());
        if let Some(token) = token {
            xml::element(out, "ContinuationToken", token);
        }
        if let Some(next) = next {
            xml::element(out, "NextContinuationToken", &write_token(next));
        }
        if let Some(start_after) = request.target.parameter("start-after") {
            common.name(out, "StartAfter", start_after);
        }
        common.entries(out, &page);
    })))
}

pub(super) fn v1(state: &Mutex<State>, request: &Request) -> R2Result<Answer> {
    let common = Common::of(request)?;
    let marker = common.parameter("marker");
    let state = state.lock();
    let objects = &state.bucket(request.bucket()?)?.objects;
    // The marker may be a common prefix that the page before ended with.
    let page = page(objects, &common.listing("", fold(marker)));
    let next = page.next.as_deref().filter(|_| common.max_keys > 0);
    let mut head = String::new();
    common.head(&mut head, next.is_some())?;
    Ok(Answer::xml(xml::document("ListBucketResult", |out| {
        out.push_str(&head);
        common.name(out, "Marker", marker);
        if let Some(next) = next {
            common.name(out, "NextMarker", next);
        }
        common.entries(out, &page);
    })))
}

/// Returns a token that says nothing to a client that tries to read it as a key.
fn write_token(entry: &str) -> String {
    format!("1{}", hex::encode(entry))
}

fn read_token(token: &str) -> R2Result<String> {
    let bytes = token
        .strip_prefix('1')
        .and_then(|digits| hex::decode(digits).ok());
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| R2Error::invalid_argument("The continuation token provided is incorrect"))
}
