//! What R2's errors mean. See the table of statuses and codes in R2's api/error-codes; where the
//! body is missing (HEAD) or no XML (the edge's own pages), the status decides.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_types::date_time::{DateTime, Format};

use super::super::StoreError;

/// The longest `Retry-After` that is believed: a wrong one must not stop uploads for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Turns a failed request into what a caller can do about it.
pub(super) fn from_sdk<E>(error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match &error {
        SdkError::ServiceError(service) => {
            let failure = Failure {
                raw: service.raw(),
                code: service.err().code(),
                message: service.err().message(),
            };
            failure.classify()
        }
        SdkError::ResponseError(response) => {
            let text = chain(&error);
            let failure = Failure {
                raw: response.raw(),
                code: None,
                message: Some(&text),
            };
            failure.classify()
        }
        SdkError::ConstructionFailure(_) => StoreError::Refused(chain(&error)),
        _ => StoreError::Unavailable {
            message: chain(&error),
            retry_after: None,
        },
    }
}

/// Returns an error's message with those of its sources, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

struct Failure<'a> {
    raw: &'a HttpResponse,
    code: Option<&'a str>,
    message: Option<&'a str>,
}

impl Failure<'_> {
    fn classify(&self) -> StoreError {
        let error = self
            .code
            .and_then(|code| self.by_code(code))
            .unwrap_or_else(|| self.by_status());
        log::debug!("{} -> {error}", self.detail());
        error
    }

    fn by_code(&self, code: &str) -> Option<StoreError> {
        use StoreError::*;
        Some(match code {
            "NoSuchKey" => NotFound,
            "NoSuchUpload" => UploadGone,
            "NoSuchBucket" => NoSuchBucket(self.detail()),
            "Unauthorized" | "InvalidAccessKeyId" | "ExpiredToken" | "InvalidToken" => {
                UnknownCredentials(self.detail())
            }
            "SignatureDoesNotMatch" => WrongSecret(self.detail()),
            "RequestTimeTooSkewed" => ClockSkew(self.skew()),
            "ObjectLockedByBucketPolicy" => Locked(self.detail()),
            "AccessDenied" | "NotEntitled" => Denied(self.detail()),
            "PreconditionFailed" | "ConditionalRequestConflict" => PreconditionFailed,
            "InvalidRange" => InvalidRange,
            "EntityTooLarge" => TooLarge(self.detail()),
            "TooManyRequests" | "SlowDown" | "TooMuchConcurrency" => Throttled {
                retry_after: self.retry_after(),
            },
            // Hurt on the way, or signed too long ago: the same bytes sent anew may pass.
            "IncompleteBody" | "ClientDisconnect" | "BadDigest" | "ExpiredRequest"
            | "InternalError" | "ServiceUnavailable" => self.unavailable(),
            _ => return None,
        })
    }

    fn by_status(&self) -> StoreError {
        use StoreError::*;
        match self.raw.status().as_u16() {
            // An error within a 200, or an answer that is no S3 at all.
            200..=299 => self.unavailable(),
            304 => NotModified,
            401 => UnknownCredentials(self.detail()),
            403 => Denied(self.detail()),
            // The body of a HEAD is empty and so tells no code. A 404 with a page of something
            // else (a proxy, a wrong endpoint) is no statement about the object.
            404 if self.body().is_empty() => NotFound,
            404 if self.code.is_none() => self.unavailable(),
            408 => self.unavailable(),
            412 => PreconditionFailed,
            413 => TooLarge(self.detail()),
            416 => InvalidRange,
            429 => Throttled {
                retry_after: self.retry_after(),
            },
            501 => Refused(self.detail()),
            500.. => self.unavailable(),
            _ => Refused(self.detail()),
        }
    }

    fn unavailable(&self) -> StoreError {
        StoreError::Unavailable {
            message: self.detail(),
            retry_after: self.retry_after(),
        }
    }

    fn body(&self) -> &[u8] {
        self.raw.body().bytes().unwrap_or_default()
    }

    /// R2 has no S3 request ids; Cloudflare's support asks for `cf-ray`.
    fn detail(&self) -> String {
        let mut text = self.raw.status().as_u16().to_string();
        for part in [self.code, self.message].into_iter().flatten() {
            text.push(' ');
            text.push_str(part);
        }
        if let Some(ray) = self.raw.headers().get("cf-ray") {
            text.push_str(" (cf-ray ");
            text.push_str(ray);
            text.push(')');
        }
        text
    }

    fn retry_after(&self) -> Option<Duration> {
        let text = self.raw.headers().get("retry-after")?.trim();
        let wait = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => http_date(text)?
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        };
        Some(wait.min(MAX_RETRY_AFTER))
    }

    fn skew(&self) -> String {
        let detail = self.detail();
        let Some(server) = self.raw.headers().get("date").and_then(http_date) else {
            return detail;
        };
        let (distance, way) = match SystemTime::now().duration_since(server) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        format!("{} s {way} the server's; {detail}", distance.as_secs())
    }
}

fn http_date(text: &str) -> Option<SystemTime> {
    let date = DateTime::from_str(text, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::config::http::HttpResponse;
    use aws_sdk_s3::primitives::SdkBody;

    fn failure(
        status: u16,
        code: Option<&str>,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> StoreError {
        let mut raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            raw.headers_mut().insert(*name, *value);
        }
        let failure = Failure {
            raw: &raw,
            code,
            message: None,
        };
        failure.classify()
    }

    #[test]
    fn codes_and_statuses_are_told_apart() {
        use StoreError::*;
        let xml = "<Error/>";
        let is = |error: StoreError, wanted: &str| {
            assert!(
                format!("{error:?}").starts_with(wanted),
                "{error:?}, not {wanted}"
            );
        };
        is(failure(404, Some("NoSuchKey"), &[], xml), "NotFound");
        is(failure(404, None, &[], ""), "NotFound");
        is(failure(404, None, &[], "<html>"), "Unavailable");
        is(failure(404, Some("RouteNotFound"), &[], xml), "Refused");
        is(failure(404, Some("NoSuchUpload"), &[], xml), "UploadGone");
        is(failure(404, Some("NoSuchBucket"), &[], xml), "NoSuchBucket");
        is(
            failure(401, Some("Unauthorized"), &[], xml),
            "UnknownCredentials",
        );
        is(
            failure(403, Some("SignatureDoesNotMatch"), &[], xml),
            "WrongSecret",
        );
        is(failure(403, Some("AccessDenied"), &[], xml), "Denied");
        is(
            failure(403, Some("ObjectLockedByBucketPolicy"), &[], xml),
            "Locked",
        );
        is(failure(304, None, &[], ""), "NotModified");
        is(
            failure(409, Some("ConditionalRequestConflict"), &[], xml),
            "PreconditionFailed",
        );
        is(failure(409, Some("BucketConflict"), &[], xml), "Refused");
        is(failure(412, None, &[], ""), "PreconditionFailed");
        is(failure(400, Some("BadDigest"), &[], xml), "Unavailable");
        is(failure(400, Some("EntityTooLarge"), &[], xml), "TooLarge");
        is(failure(400, Some("InvalidPart"), &[], xml), "Refused");
        is(failure(501, Some("NotImplemented"), &[], xml), "Refused");
        is(failure(522, None, &[], "<html>"), "Unavailable");
        is(failure(200, Some("InternalError"), &[], xml), "Unavailable");
        assert!(matches!(
            failure(429, Some("TooManyRequests"), &[("retry-after", "5")], xml),
            Throttled { retry_after: Some(wait) } if wait == Duration::from_secs(5)
        ));
        assert!(matches!(
            failure(503, None, &[("retry-after", "99999999")], "<html>"),
            Unavailable { retry_after: Some(wait), .. } if wait == MAX_RETRY_AFTER
        ));
    }

    #[test]
    fn messages_carry_the_ray_and_the_skew() {
        let error = failure(502, None, &[("cf-ray", "8f-AMS")], "<html>");
        assert!(error.to_string().contains("cf-ray 8f-AMS"), "{error}");
        let date = [("date", "Tue, 15 Nov 1994 08:12:31 GMT")];
        let error = failure(403, Some("RequestTimeTooSkewed"), &date, "<Error/>");
        assert!(
            error.to_string().contains("s ahead of the server's"),
            "{error}"
        );
    }
}
