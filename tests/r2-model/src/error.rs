//! R2's errors: code, status and message, and nothing else in the body.

use crate::xml;

/// The answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct R2Error {
    /// The machine-readable code of the body.
    pub(crate) code: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What a person reads.
    pub(crate) message: String,
    /// Seconds for a `Retry-After` header, if the answer carries one.
    pub(crate) retry_after: Option<u64>,
}

/// What every semantic operation returns.
pub(crate) type R2Result<T> = Result<T, R2Error>;

impl R2Error {
    /// Makes the error of a code; the status follows from the code.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            status: status_of(code),
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn no_such_key() -> Self {
        Self::new("NoSuchKey", "The specified key does not exist.")
    }

    pub(crate) fn no_such_bucket() -> Self {
        Self::new("NoSuchBucket", "The specified bucket does not exist.")
    }

    pub(crate) fn no_such_upload() -> Self {
        Self::new(
            "NoSuchUpload",
            "The specified multipart upload does not exist. The upload ID may be invalid, \
             or the upload may have been aborted or completed.",
        )
    }

    pub(crate) fn precondition_failed() -> Self {
        Self::new(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold.",
        )
    }

    pub(crate) fn not_modified() -> Self {
        Self {
            status: 304,
            ..Self::new("NotModified", "Not Modified")
        }
    }

    pub(crate) fn access_denied() -> Self {
        Self::new("AccessDenied", "Access Denied")
    }

    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new("InvalidArgument", message)
    }

    pub(crate) fn invalid_part(message: impl Into<String>) -> Self {
        Self::new("InvalidPart", message)
    }

    pub(crate) fn malformed_xml() -> Self {
        Self::new("MalformedXML", "The XML you provided was not well formed.")
    }

    pub(crate) fn not_implemented(what: &str) -> Self {
        Self::new("NotImplemented", format!("{what} not implemented"))
    }

    pub(crate) fn too_many_requests(retry_after: Option<u64>) -> Self {
        Self {
            retry_after,
            ..Self::new(
                "TooManyRequests",
                "Reduce your concurrent request rate for the same object.",
            )
        }
    }

    /// Returns the body: `Code` and `Message`, without namespace, request id or resource.
    pub(crate) fn body(&self) -> String {
        let mut body = String::from(xml::DECLARATION);
        body.push_str("<Error>");
        xml::element(&mut body, "Code", &self.code);
        xml::element(&mut body, "Message", &self.message);
        body.push_str("</Error>");
        body
    }
}

/// Returns the status that R2 sends with a code; 400 for codes that say the request was wrong.
pub(crate) fn status_of(code: &str) -> u16 {
    match code {
        "Unauthorized" => 401,
        "AccessDenied"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "ExpiredRequest"
        | "NotEntitled" => 403,
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" | "NoSuchTagSet" | "RouteNotFound" => 404,
        "MethodNotAllowed" => 405,
        "BucketNotEmpty" | "BucketConflict" | "BucketAlreadyExists" => 409,
        "MissingContentLength" => 411,
        "PreconditionFailed" => 412,
        "InvalidRange" => 416,
        "TooManyRequests" => 429,
        "InternalError" => 500,
        "NotImplemented" => 501,
        "ServiceUnavailable" => 503,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_code_and_message_only() {
        let body = R2Error::new("NoSuchKey", "a < b").body();
        assert_eq!(
            body,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <Error><Code>NoSuchKey</Code><Message>a &lt; b</Message></Error>"
        );
    }
}
