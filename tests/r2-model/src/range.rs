//! The `Range` header and `x-amz-copy-source-range`.

use std::ops::Range;

use crate::error::{R2Error, R2Result};

/// Returns the bytes that a `Range` header asks for, clamped to the object.
///
/// One range only. A start at or past the end, any range of an empty object and an empty suffix
/// are 416; several ranges, inverted and malformed ones are 400.
pub(crate) fn resolve(header: &str, size: u64) -> R2Result<Range<u64>> {
    let (first, last) = split(header)?;
    let range = match (first, last) {
        (Some(first), Some(last)) if first > last => return Err(malformed(header)),
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
        (Some(first), None) => first..size,
        (None, Some(suffix)) => size.saturating_sub(suffix)..size,
        (None, None) => return Err(malformed(header)),
    };
    if range.start >= range.end {
        return Err(R2Error::new(
            "InvalidRange",
            "The requested range is not satisfiable",
        ));
    }
    Ok(range)
}

/// Returns the header with the last byte moved, for a server that answers another range.
pub(crate) fn with_moved_end(header: &str, size: u64, delta: i64) -> String {
    match resolve(header, size) {
        Ok(range) => {
            let last = (range.end - 1)
                .saturating_add_signed(delta)
                .max(range.start);
            format!("bytes={}-{last}", range.start)
        }
        Err(_) => header.to_owned(),
    }
}

fn split(header: &str) -> R2Result<(Option<u64>, Option<u64>)> {
    let (first, last) = header
        .strip_prefix("bytes=")
        .and_then(|spec| spec.split_once('-'))
        .ok_or_else(|| malformed(header))?;
    let number = |text: &str| match text {
        "" => Ok(None),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| malformed(header))
        }
        _ => Err(malformed(header)),
    };
    Ok((number(first)?, number(last)?))
}

fn malformed(header: &str) -> R2Error {
    R2Error::invalid_argument(format!("The range {header:?} is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clamped() {
        assert_eq!(resolve("bytes=0-3", 10).expect("inside"), 0..4);
        assert_eq!(resolve("bytes=8-99", 10).expect("clamped"), 8..10);
        assert_eq!(resolve("bytes=9-", 10).expect("open"), 9..10);
        assert_eq!(resolve("bytes=-3", 10).expect("suffix"), 7..10);
        assert_eq!(resolve("bytes=-30", 10).expect("long suffix"), 0..10);
    }

    #[test]
    fn what_cannot_be_served_is_416_and_what_is_wrong_400() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(resolve(header, 10).expect_err(header).status, 416);
        }
        assert_eq!(
            resolve("bytes=0-0", 0).expect_err("empty object").status,
            416
        );
        assert_eq!(
            resolve("bytes=-1", 0).expect_err("empty object").status,
            416
        );
        for header in [
            "bytes=0-1,3-4",
            "bytes=3-1",
            "items=0-1",
            "bytes=",
            "bytes=-",
            "bytes=+1-2",
        ] {
            assert_eq!(resolve(header, 10).expect_err(header).status, 400);
        }
    }

    #[test]
    fn the_end_can_be_moved() {
        assert_eq!(with_moved_end("bytes=2-5", 10, -2), "bytes=2-3");
        assert_eq!(with_moved_end("bytes=2-5", 10, 2), "bytes=2-7");
        assert_eq!(with_moved_end("bytes=2-5", 10, -9), "bytes=2-2");
    }
}
