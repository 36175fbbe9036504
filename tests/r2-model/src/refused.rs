//! Headers and parameters that R2 answers with 501 and does not ignore.

use hyper::HeaderMap;

use crate::error::{R2Error, R2Result};
use crate::operation::{Operation, Target};

const ALWAYS: [&str; 6] = [
    "x-amz-expected-bucket-owner",
    "x-amz-source-expected-bucket-owner",
    "x-amz-tagging",
    "x-amz-tagging-directive",
    "x-amz-website-redirect-location",
    "x-amz-request-payer",
];

const PREFIXES: [&str; 3] = [
    "x-amz-grant-",
    "x-amz-object-lock-",
    "x-amz-server-side-encryption-aws-kms",
];

const CANNED_ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];

const LIST_V2: [&str; 8] = [
    "list-type",
    "prefix",
    "delimiter",
    "continuation-token",
    "start-after",
    "max-keys",
    "encoding-type",
    "fetch-owner",
];

const LIST_V1: [&str; 5] = ["prefix", "delimiter", "marker", "max-keys", "encoding-type"];

/// Fails with 501 if the request carries what R2 does not implement.
pub(crate) fn check(target: &Target, headers: &HeaderMap) -> R2Result<()> {
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.to_str().unwrap_or_default());
        if header_refused(target.operation, name, value) {
            return Err(R2Error::not_implemented(&format!(
                "Header '{name}' with value '{value}'"
            )));
        }
    }
    let known: &[&str] = match target.operation {
        Operation::ListObjectsV2 => &LIST_V2,
        Operation::ListObjects => &LIST_V1,
        Operation::Unknown => return Err(R2Error::not_implemented("The request is")),
        _ => return Ok(()),
    };
    for (name, _) in &target.query {
        let passes = name == "x-id" || name.to_ascii_lowercase().starts_with("x-amz-");
        if !passes && !known.contains(&name.as_str()) {
            return Err(R2Error::not_implemented(&format!(
                "Search parameter {name}"
            )));
        }
    }
    Ok(())
}

fn header_refused(operation: Operation, name: &str, value: &str) -> bool {
    if ALWAYS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    match name {
        "x-amz-server-side-encryption" => value != "AES256",
        "x-amz-acl" => !CANNED_ACLS.contains(&value),
        "x-amz-checksum-algorithm" => operation == Operation::CopyObject,
        "x-amz-mfa" | "x-amz-bypass-governance-retention" => {
            matches!(
                operation,
                Operation::DeleteObject | Operation::DeleteObjects
            )
        }
        _ => operation == Operation::UploadPartCopy && name.starts_with("x-amz-copy-source-if-"),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    fn status(
        method: &Method,
        path: &str,
        query: &str,
        header: Option<(&'static str, &str)>,
    ) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().expect("a value"));
        }
        let target = Target::of(method, path, Some(query), false);
        check(&target, &headers).map_or_else(|error| error.status, |()| 200)
    }

    #[test]
    fn refused_headers_are_501_and_unknown_ones_pass() {
        let put = |name, value| status(&Method::PUT, "/b/k", "", Some((name, value)));
        assert_eq!(put("x-amz-tagging", "a=b"), 501);
        assert_eq!(put("x-amz-grant-read", "id"), 501);
        assert_eq!(put("x-amz-expected-bucket-owner", "1"), 501);
        assert_eq!(put("x-amz-server-side-encryption", "aws:kms"), 501);
        assert_eq!(put("x-amz-server-side-encryption", "AES256"), 200);
        assert_eq!(put("x-amz-acl", "public-read"), 200);
        assert_eq!(put("x-amz-acl", "mine"), 501);
        assert_eq!(put("x-amz-something-new", "1"), 200);
    }

    #[test]
    fn unknown_list_parameters_are_501() {
        let list = |query| status(&Method::GET, "/b", query, None);
        assert_eq!(
            list("list-type=2&prefix=a&x-id=ListObjectsV2&X-Amz-Date=1"),
            200
        );
        assert_eq!(list("list-type=2&metadata=true"), 501);
        assert_eq!(list("list-type=2&marker=a"), 501);
        assert_eq!(list("marker=a"), 200);
        assert_eq!(list("start-after=a"), 501);
    }
}
