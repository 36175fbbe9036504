//! The operations of the S3 API, and which one a request asks for.

use hyper::Method;
use percent_encoding::percent_decode_str;

/// An operation of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    GetObject,
    HeadObject,
    PutObject,
    DeleteObject,
    DeleteObjects,
    CopyObject,
    ListObjects,
    ListObjectsV2,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListMultipartUploads,
    ListParts,
    ListBuckets,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    GetBucketLocation,
    /// Reads or writes a setting of a bucket or a sub-resource of an object.
    Setting,
    /// Nothing that R2 knows.
    Unknown,
}

/// How an operation is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The dear ones: writes and listings.
    A,
    /// The cheap ones: reads.
    B,
    /// Not billed.
    Free,
}

impl Operation {
    /// Returns how R2 bills the operation.
    pub fn class(self) -> Class {
        match self {
            Self::GetObject
            | Self::HeadObject
            | Self::HeadBucket
            | Self::GetBucketLocation
            | Self::Setting => Class::B,
            Self::DeleteObject
            | Self::DeleteObjects
            | Self::DeleteBucket
            | Self::AbortMultipartUpload
            | Self::Unknown => Class::Free,
            _ => Class::A,
        }
    }

    /// Whether the operation changes objects or uploads.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::PutObject
                | Self::DeleteObject
                | Self::DeleteObjects
                | Self::CopyObject
                | Self::CreateMultipartUpload
                | Self::UploadPart
                | Self::UploadPartCopy
                | Self::CompleteMultipartUpload
                | Self::AbortMultipartUpload
        )
    }

    /// Whether only tokens with administrator rights may ask for it.
    pub(crate) fn is_administration(self) -> bool {
        matches!(
            self,
            Self::ListBuckets
                | Self::HeadBucket
                | Self::CreateBucket
                | Self::DeleteBucket
                | Self::GetBucketLocation
                | Self::Setting
        )
    }
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) operation: Operation,
    pub(crate) bucket: Option<String>,
    /// As the request spells it.
    pub(crate) key: Option<String>,
    pub(crate) query: Vec<(String, String)>,
}

/// The parameters that name a setting of a bucket.
const BUCKET_SETTINGS: [&str; 20] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "versioning",
    "website",
];

/// The parameters that name a sub-resource of an object.
const OBJECT_SETTINGS: [&str; 6] = [
    "acl",
    "attributes",
    "legal-hold",
    "retention",
    "tagging",
    "torrent",
];

impl Target {
    /// Reads path and query; `copies` says whether the request names a copy source.
    pub(crate) fn of(method: &Method, path: &str, query: Option<&str>, copies: bool) -> Self {
        let decoded =
            percent_decode_str(path.strip_prefix('/').unwrap_or(path)).decode_utf8_lossy();
        let (bucket, key) = match decoded.split_once('/') {
            Some((bucket, key)) => (bucket, key),
            None => (&*decoded, ""),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut target = Self {
            operation: Operation::Unknown,
            bucket: some(bucket),
            key: some(key),
            query: query.map(read_query).unwrap_or_default(),
        };
        target.operation = match (&target.bucket, &target.key) {
            (None, _) if method == Method::GET => Operation::ListBuckets,
            (None, _) => Operation::Unknown,
            (Some(_), None) => target.on_bucket(method),
            (Some(_), Some(_)) => target.on_object(method, copies),
        };
        target
    }

    /// Returns the value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The key that it is about; of a listing, the prefix.
    pub(crate) fn about(&self) -> Option<&str> {
        match self.operation {
            Operation::ListObjectsV2 => self.parameter("prefix"),
            _ => self.key.as_deref(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    fn on_bucket(&self, method: &Method) -> Operation {
        if BUCKET_SETTINGS.iter().any(|setting| self.has(setting)) {
            return Operation::Setting;
        }
        match *method {
            Method::GET if self.has("uploads") => Operation::ListMultipartUploads,
            Method::GET if self.has("location") => Operation::GetBucketLocation,
            Method::GET if self.has("list-type") => Operation::ListObjectsV2,
            Method::GET => Operation::ListObjects,
            Method::HEAD => Operation::HeadBucket,
            Method::PUT => Operation::CreateBucket,
            Method::DELETE => Operation::DeleteBucket,
            Method::POST if self.has("delete") => Operation::DeleteObjects,
            _ => Operation::Unknown,
        }
    }

    fn on_object(&self, method: &Method, copies: bool) -> Operation {
        if OBJECT_SETTINGS.iter().any(|setting| self.has(setting)) {
            return Operation::Setting;
        }
        let upload = self.has("uploadId");
        match *method {
            Method::GET if upload => Operation::ListParts,
            Method::GET => Operation::GetObject,
            Method::HEAD => Operation::HeadObject,
            Method::DELETE if upload => Operation::AbortMultipartUpload,
            Method::DELETE => Operation::DeleteObject,
            Method::POST if self.has("uploads") => Operation::CreateMultipartUpload,
            Method::POST if upload => Operation::CompleteMultipartUpload,
            Method::PUT if upload && self.has("partNumber") && copies => Operation::UploadPartCopy,
            Method::PUT if upload && self.has("partNumber") => Operation::UploadPart,
            Method::PUT if copies => Operation::CopyObject,
            // R2 takes these for a plain put of the whole key, whatever else the query says.
            Method::PUT | Method::POST => Operation::PutObject,
            _ => Operation::Unknown,
        }
    }
}

fn read_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        use Operation as Op;
        for (method, path, query, copies, operation) in [
            (Method::GET, "/", "", false, Op::ListBuckets),
            (
                Method::GET,
                "/b",
                "list-type=2&prefix=x",
                false,
                Op::ListObjectsV2,
            ),
            (Method::GET, "/b/", "prefix=x", false, Op::ListObjects),
            (Method::POST, "/b", "delete", false, Op::DeleteObjects),
            (Method::GET, "/b", "versioning=", false, Op::Setting),
            (Method::PUT, "/b/k", "", false, Op::PutObject),
            (Method::PUT, "/b/k", "", true, Op::CopyObject),
            (
                Method::PUT,
                "/b/k",
                "partNumber=1&uploadId=u",
                false,
                Op::UploadPart,
            ),
            (
                Method::PUT,
                "/b/k",
                "partNumber=1&uploadId=u",
                true,
                Op::UploadPartCopy,
            ),
            (Method::PUT, "/b/k", "uploadId=u", false, Op::PutObject),
            (
                Method::POST,
                "/b/k",
                "uploads",
                false,
                Op::CreateMultipartUpload,
            ),
            (
                Method::POST,
                "/b/k",
                "uploadId=u",
                false,
                Op::CompleteMultipartUpload,
            ),
            (Method::POST, "/b/k", "", false, Op::PutObject),
            (
                Method::DELETE,
                "/b/k",
                "uploadId=u",
                false,
                Op::AbortMultipartUpload,
            ),
            (Method::GET, "/b/k", "tagging", false, Op::Setting),
        ] {
            let target = Target::of(&method, path, Some(query), copies);
            assert_eq!(target.operation, operation, "{method} {path}?{query}");
        }
    }

    #[test]
    fn keys_are_decoded_once() {
        let target = Target::of(&Method::GET, "/b//x%2Fy%20z%25+/", Some("a=b+c%2B"), false);
        assert_eq!(target.key.as_deref(), Some("/x/y z%+/"));
        assert_eq!(target.parameter("a"), Some("b c+"));
    }
}
