//! From the text of a setting to its value. Each parser says nothing when the general description
//! of the setting says enough, and a reason where it can say more.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::LeaseMode;
use super::name_patterns::NamePatterns;

/// Why a text is no value: a reason, or nothing beyond what the setting's description says.
pub(super) type Invalid = Option<String>;

/// Reads a switch.
pub(super) fn switch(text: &str) -> Result<bool, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(None),
    }
}

/// Reads a size in bytes: `5GB`, `50 GiB`, `1.5TB`, or plain bytes.
pub(super) fn size_bytes(text: &str) -> Result<u64, Invalid> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(None),
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole
            .checked_mul(factor)
            .ok_or_else(|| Some("is more than can be counted".into()));
    }
    // A fraction of a byte means nothing, and f64 is exact enough for what follows a point.
    let number = decimal(digits).filter(|_| factor > 1).ok_or(None)?;
    let bytes = number * factor as f64;
    if bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(None)
    }
}

/// Reads a size that must not be nothing.
pub(super) fn positive_size_bytes(text: &str) -> Result<u64, Invalid> {
    match size_bytes(text)? {
        0 => Err(Some("must be more than 0 bytes".into())),
        bytes => Ok(bytes),
    }
}

/// The least limit: below it a part takes so long that no server waits for it.
const LEAST_UPLOAD_BYTES_PER_SECOND: u64 = 10_000;

/// Reads how many bytes a second uploads may send, or that there is no limit.
pub(super) fn upload_bytes_per_second(text: &str) -> Result<Option<u64>, Invalid> {
    match size_bytes(text)? {
        0 => Ok(None),
        1..LEAST_UPLOAD_BYTES_PER_SECOND => Err(None),
        bytes => Ok(Some(bytes)),
    }
}

/// Reads a number of `unit_seconds` that is above or at 0 and at most `most`.
pub(super) fn duration(
    text: &str,
    unit_seconds: f64,
    zero_allowed: bool,
    most: f64,
) -> Result<Duration, Invalid> {
    let number = decimal(text).ok_or(None)?;
    let too_small = number == 0.0 && !zero_allowed;
    if too_small || number > most {
        return Err(None);
    }
    Ok(Duration::from_secs_f64(number * unit_seconds))
}

/// Reads a whole number from `least` to `most`.
pub(super) fn count(text: &str, least: usize, most: usize) -> Result<usize, Invalid> {
    text.parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or(None)
}

/// Reads a whole number from 1 to a million, or "none".
pub(super) fn count_or_none(text: &str) -> Result<Option<usize>, Invalid> {
    match text {
        "none" => Ok(None),
        number => count(number, 1, 1_000_000).map(Some),
    }
}

/// Reads where to listen: a port alone means this machine itself.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Invalid> {
    let address = match text.parse::<u16>() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => text.parse().map_err(|_| None)?,
    };
    match address.port() {
        0 => Err(Some("must have a port above 0".into())),
        _ => Ok(address),
    }
}

/// The longest time for which a lease may count, in seconds.
pub const MOST_LEASE_SECONDS: u64 = 3600;
/// The shortest: a third of it is between two writes of one key, of which R2 takes one a second.
const LEAST_LEASE_SECONDS: u64 = 3;

/// Reads how long a lease counts.
pub(super) fn lease_ttl(text: &str) -> Result<Duration, Invalid> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|n| (LEAST_LEASE_SECONDS..=MOST_LEASE_SECONDS).contains(n));
    seconds.map(Duration::from_secs).ok_or(None)
}

/// Reads what is done about leases.
pub(super) fn lease_mode(text: &str) -> Result<LeaseMode, Invalid> {
    match text {
        "off" => Ok(LeaseMode::Off),
        "advise" => Ok(LeaseMode::Advise),
        "read-only" => Ok(LeaseMode::ReadOnly),
        _ => Err(None),
    }
}

/// The most characters of what people are called in a lease.
pub const MOST_PERSON_CHARS: usize = 64;

/// Reads what people are called.
pub(super) fn person(text: &str) -> Result<String, Invalid> {
    let is_name = text.chars().count() <= MOST_PERSON_CHARS && !text.chars().any(char::is_control);
    is_name.then(|| text.to_owned()).ok_or(None)
}

/// Reads the names of the collections.
pub(super) fn collections(text: &str) -> Result<Vec<String>, Invalid> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        let reason = if name.is_empty() {
            "has an empty name in it".to_string()
        } else if name == "samples" {
            "must not have \"samples\" in it, which is always the local library".to_string()
        } else if name.starts_with('.') {
            format!("must not have the hidden name \"{name}\" in it")
        } else if name.contains('/') || name.chars().any(char::is_control) || name.len() > 255 {
            format!("\"{}\" is no folder name", name.escape_debug())
        } else if names.iter().any(|other| other == name) {
            format!("has \"{name}\" in it twice")
        } else {
            names.push(name.to_string());
            continue;
        };
        return Err(Some(reason));
    }
    Ok(names)
}

/// Reads the names of some collections, or that there are none.
pub(super) fn collections_or_none(text: &str) -> Result<Vec<String>, Invalid> {
    match text {
        "none" => Ok(Vec::new()),
        names => collections(names),
    }
}

/// Reads patterns of file names, or that there are none.
pub(super) fn name_patterns(text: &str) -> Result<NamePatterns, Invalid> {
    NamePatterns::parse(text).map_err(Some)
}

/// Reads patterns of file names alone, or that there are none.
pub(super) fn file_name_patterns(text: &str) -> Result<NamePatterns, Invalid> {
    NamePatterns::parse_files(text).map_err(Some)
}

/// Reads a decimal number without sign or exponent.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse::<f64>()
        .ok()
        .filter(|number| plain && number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("5GB", 5_000_000_000),
            ("50GiB", 50 << 30),
            ("50 gib", 50 << 30),
            ("1.5MiB", 3 << 19),
            ("2kb", 2000),
            ("7B", 7),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_mean_nothing_are_refused() {
        for text in [
            "",
            "GB",
            "-1",
            "5G",
            "5 apples",
            "1.5",
            "1e9",
            "1..2GB",
            "99999999TiB",
            "inf",
            "5GBB",
        ] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
        assert!(positive_size_bytes("0").is_err());
    }

    #[test]
    fn a_limit_of_uploads_is_none_or_enough() {
        assert_eq!(upload_bytes_per_second("0"), Ok(None));
        assert_eq!(upload_bytes_per_second("1.5MB"), Ok(Some(1_500_000)));
        assert_eq!(upload_bytes_per_second("10000"), Ok(Some(10_000)));
        for text in ["9999", "9KB", "-1", "fast"] {
            assert!(upload_bytes_per_second(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_fractional_and_bounded() {
        assert_eq!(
            duration("0.5", 3600.0, false, 10.0),
            Ok(Duration::from_secs(1800))
        );
        assert_eq!(duration("0", 1.0, true, 10.0), Ok(Duration::ZERO));
        for text in ["0", "-1", "11", "nan", "inf", "1e3", "", ".", "1h"] {
            assert!(duration(text, 1.0, false, 10.0).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_alone_is_for_this_machine_itself() {
        assert_eq!(
            listen_address("9464").unwrap().to_string(),
            "127.0.0.1:9464"
        );
        assert_eq!(listen_address("[::]:1").unwrap().to_string(), "[::]:1");
        for text in ["", "0", "localhost:9464", "1.2.3.4", "70000", "1.2.3.4:0"] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn collections_are_distinct_folder_names() {
        assert_eq!(collections_or_none("none"), Ok(Vec::new()));
        assert_eq!(collections_or_none("a"), Ok(vec!["a".into()]));
        assert_eq!(collections("a, b"), Ok(vec!["a".into(), "b".into()]));
        for text in [
            "a,,b",
            "samples",
            "a,a",
            ".voicebeatfs",
            "..",
            "a/b",
            "a\u{1}",
        ] {
            assert!(collections(text).unwrap_err().is_some(), "{text}");
        }
    }
}
