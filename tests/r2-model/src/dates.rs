//! Time stamps in the two forms that S3 uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the current time cut to milliseconds, which is what listings show.
pub(crate) fn now() -> SystemTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the time cut to seconds, which is what headers show and conditions compare.
pub(crate) fn whole_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Returns the form of XML documents, in milliseconds.
pub(crate) fn iso8601(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_show_milliseconds() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
        assert_eq!(iso8601(time), "2023-11-14T22:13:20.042Z");
        assert_eq!(
            httpdate::fmt_http_date(time),
            "Tue, 14 Nov 2023 22:13:20 GMT"
        );
        assert_eq!(whole_seconds(time), 1_700_000_000);
    }
}
