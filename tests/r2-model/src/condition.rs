//! Conditional requests: parsing and verdict, for reads and for writes.

use std::time::SystemTime;

use hyper::HeaderMap;

use crate::dates::whole_seconds;
use crate::error::{R2Error, R2Result};

/// The conditions of one request on one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    if_match: Option<ETags>,
    if_none_match: Option<ETags>,
    if_modified_since: Option<SystemTime>,
    if_unmodified_since: Option<SystemTime>,
    /// A fault asked for a failure, whatever the state is.
    pub(crate) doomed: bool,
}

/// What conditions are held against: the ETag without quotes and the time of the last write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current<'a> {
    pub(crate) etag: &'a str,
    pub(crate) last_modified: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ETags {
    Any,
    These(Vec<String>),
}

impl Conditions {
    /// Reads the four headers whose names start with `prefix`: empty for plain ones,
    /// `cf-copy-destination-` and `x-amz-copy-source-` for copies.
    pub(crate) fn from_headers(headers: &HeaderMap, prefix: &str) -> R2Result<Self> {
        let get = |name: &str| {
            headers
                .get(format!("{prefix}{name}"))
                .and_then(|value| value.to_str().ok())
        };
        let date = |name: &str| {
            get(name)
                .map(|value| {
                    httpdate::parse_http_date(value).map_err(|_| {
                        R2Error::invalid_argument(format!("{prefix}{name} is not a date"))
                    })
                })
                .transpose()
        };
        Ok(Self {
            if_match: get("if-match").map(ETags::parse),
            if_none_match: get("if-none-match").map(ETags::parse),
            if_modified_since: date("if-modified-since")?,
            if_unmodified_since: date("if-unmodified-since")?,
            doomed: false,
        })
    }

    /// Checks before a read: a failure is 412 or, for the two that serve caches, 304.
    pub(crate) fn check_read(&self, current: Current<'_>) -> R2Result<()> {
        if !self.wanted_holds(Some(current)) {
            return Err(R2Error::precondition_failed());
        }
        if !self.unwanted_holds(Some(current)) {
            return Err(R2Error::not_modified());
        }
        Ok(())
    }

    /// Checks before a commit, or a copy's source: every failure is 412.
    pub(crate) fn check_write(&self, current: Option<Current<'_>>) -> R2Result<()> {
        if self.doomed || !self.wanted_holds(current) || !self.unwanted_holds(current) {
            return Err(R2Error::precondition_failed());
        }
        Ok(())
    }

    /// `If-Match`, or without it `If-Unmodified-Since`.
    fn wanted_holds(&self, current: Option<Current<'_>>) -> bool {
        match (&self.if_match, self.if_unmodified_since, current) {
            (Some(etags), _, Some(current)) => etags.contain(current.etag),
            (Some(_), _, None) => false,
            (None, Some(date), Some(current)) => {
                whole_seconds(current.last_modified) <= whole_seconds(date)
            }
            _ => true,
        }
    }

    /// `If-None-Match`, or without it `If-Modified-Since`.
    fn unwanted_holds(&self, current: Option<Current<'_>>) -> bool {
        match (&self.if_none_match, self.if_modified_since, current) {
            (Some(etags), _, Some(current)) => !etags.contain(current.etag),
            (None, Some(date), Some(current)) => {
                whole_seconds(current.last_modified) > whole_seconds(date)
            }
            _ => true,
        }
    }
}

impl ETags {
    fn parse(value: &str) -> Self {
        if value.trim() == "*" {
            return Self::Any;
        }
        // A client that loses the quotes would match nothing here: the model is strict, since
        // nobody has written down that R2 is not.
        let strip = |tag: &str| {
            let tag = tag.trim();
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
        };
        Self::These(value.split(',').filter_map(strip).collect())
    }

    fn contain(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(these) => these.iter().any(|this| this == etag),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn conditions(header: &'static str, value: &str) -> Conditions {
        let mut headers = HeaderMap::new();
        headers.insert(header, value.parse().expect("a header value"));
        Conditions::from_headers(&headers, "").expect("conditions")
    }

    fn current() -> Current<'static> {
        Current {
            etag: "abc",
            last_modified: UNIX_EPOCH + Duration::from_millis(10_700),
        }
    }

    fn statuses(conditions: &Conditions) -> (u16, u16, u16) {
        let status = |result: R2Result<()>| result.map_or_else(|error| error.status, |()| 200);
        (
            status(conditions.check_read(current())),
            status(conditions.check_write(Some(current()))),
            status(conditions.check_write(None)),
        )
    }

    #[test]
    fn each_condition_has_its_verdicts() {
        let date = |seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        for (header, value, expected) in [
            ("if-match", "\"abc\"".to_owned(), (200, 200, 412)),
            ("if-match", "\"x\", W/\"abc\"".to_owned(), (200, 200, 412)),
            ("if-match", "*".to_owned(), (200, 200, 412)),
            ("if-match", "\"x\"".to_owned(), (412, 412, 412)),
            ("if-match", "abc".to_owned(), (412, 412, 412)),
            ("if-none-match", "*".to_owned(), (304, 412, 200)),
            ("if-none-match", "\"abc\"".to_owned(), (304, 412, 200)),
            ("if-none-match", "\"x\"".to_owned(), (200, 200, 200)),
            ("if-modified-since", date(10), (304, 412, 200)),
            ("if-modified-since", date(9), (200, 200, 200)),
            ("if-unmodified-since", date(10), (200, 200, 200)),
            ("if-unmodified-since", date(9), (412, 412, 200)),
        ] {
            assert_eq!(
                statuses(&conditions(header, &value)),
                expected,
                "{header}: {value}"
            );
        }
    }

    #[test]
    fn an_etag_beats_a_date() {
        let mut both = conditions("if-match", "\"abc\"");
        both.if_unmodified_since = Some(UNIX_EPOCH);
        assert_eq!(statuses(&both), (200, 200, 412));
    }

    #[test]
    fn a_prefix_picks_its_own_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "cf-copy-destination-if-none-match",
            "*".parse().expect("a value"),
        );
        let plain = Conditions::from_headers(&headers, "").expect("conditions");
        assert_eq!(plain, Conditions::default());
        let copy = Conditions::from_headers(&headers, "cf-copy-destination-").expect("conditions");
        assert!(copy.check_write(Some(current())).is_err());
    }
}
