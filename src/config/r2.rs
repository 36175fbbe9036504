//! How the settings name a bucket: endpoint, bucket and prefix.

use std::net::IpAddr;

/// The host name under which every account's endpoint lies.
const R2_HOST: &str = "r2.cloudflarestorage.com";

/// An endpoint URL taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// The path segments, as written.
    pub(super) segments: Vec<String>,
    /// Whether the host is R2 itself, which has nothing but buckets below its root.
    pub(super) is_r2: bool,
    /// Whether the host is this machine itself.
    pub(super) is_here: bool,
}

impl Endpoint {
    /// Reads `text`, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, Option<String>> {
        let lower = text.to_ascii_lowercase();
        let scheme = if lower.starts_with("https://") {
            "https"
        } else if lower.starts_with("http://") {
            "http"
        } else {
            return Err(None);
        };
        let rest = &text[scheme.len() + 3..];
        if rest.contains(['?', '#', '@']) || rest.contains(|c: char| c.is_whitespace()) {
            return Err(None);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.to_ascii_lowercase();
        let host = host_of(&authority).ok_or(None)?;
        if scheme == "http" && !is_loopback(host) {
            return Err(Some(
                "must begin with https://: over http everybody on the way reads the recordings"
                    .into(),
            ));
        }
        Ok(Self {
            is_r2: host == R2_HOST || host.ends_with(&format!(".{R2_HOST}")),
            is_here: is_loopback(host),
            origin: format!("{scheme}://{authority}"),
            segments: path
                .split('/')
                .filter(|s| !s.is_empty())
                .map(Into::into)
                .collect(),
        })
    }

    /// Takes the bucket off the end, which the dashboard's "S3 API" field shows as part of the
    /// URL. Returns it if it was there: below R2's root a path is always a bucket, elsewhere it
    /// may belong to the server unless it is the `expected` bucket.
    pub(super) fn take_bucket(&mut self, expected: Option<&str>) -> Option<String> {
        let last_is_bucket = self.is_r2 && self.segments.len() == 1
            || expected.is_some() && self.segments.last().map(String::as_str) == expected;
        if last_is_bucket {
            self.segments.pop()
        } else {
            None
        }
    }

    /// Returns the URL, with a trailing slash if it has a path (the SDK joins it to the bucket
    /// without one).
    pub(super) fn url(&self) -> String {
        let mut url = self.origin.clone();
        for segment in &self.segments {
            url.push('/');
            url.push_str(segment);
        }
        if !self.segments.is_empty() {
            url.push('/');
        }
        url
    }
}

/// Returns the endpoint of an account in a jurisdiction.
pub(super) fn account_endpoint(account: &str, jurisdiction: &str) -> String {
    match jurisdiction {
        "" | "default" => format!("https://{account}.{R2_HOST}"),
        named => format!("https://{account}.{named}.{R2_HOST}"),
    }
}

/// Reads an account id.
pub(super) fn account(text: &str) -> Result<String, Option<String>> {
    let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.len() == 32 && hexadecimal {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(None)
    }
}

/// Reads a jurisdiction.
pub(super) fn jurisdiction(text: &str) -> Result<String, Option<String>> {
    match text.to_ascii_lowercase() {
        known if ["default", "eu", "fedramp"].contains(&known.as_str()) => Ok(known),
        _ => Err(None),
    }
}

/// Reads a bucket name.
pub(super) fn bucket(text: &str) -> Result<String, Option<String>> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    let edges_are_alphanumeric = !text.starts_with('-') && !text.ends_with('-');
    if (3..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| allowed(b))
        && edges_are_alphanumeric
    {
        Ok(text.into())
    } else {
        Err(None)
    }
}

/// Reads a SOURCE argument: a bucket and the prefix below it (empty, or `a/b/`).
pub(super) fn source(text: &str) -> Result<(String, String), String> {
    let (name, path) = text.split_once('/').unwrap_or((text, ""));
    let path = path.trim_end_matches('/');
    let name = bucket(name).map_err(|_| {
        "must be BUCKET or BUCKET/PREFIX, where a bucket name has 3 to 63 lower-case letters, \
         digits and hyphens"
            .to_string()
    })?;
    if path.is_empty() {
        return Ok((name, String::new()));
    }
    let wrong = |segment: &str| {
        matches!(segment, "" | "." | ".." | ".voicebeatfs") || segment.chars().any(char::is_control)
    };
    if path.split('/').any(wrong) || path.len() > 512 {
        return Err(
            "has a prefix that is no path: no empty parts, \"..\", control characters or \
                    \".voicebeatfs\", at most 512 bytes"
                .into(),
        );
    }
    Ok((name, format!("{path}/")))
}

/// Returns the host of `host:port`, or nothing if it is no authority.
pub(super) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                after
                    .strip_prefix(':')
                    .or(after.is_empty().then_some("443"))?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, "443")),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let is_host = !host.is_empty() && host.chars().all(allowed);
    (is_host && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str, bucket: Option<&str>) -> (String, Option<String>) {
        let mut endpoint = Endpoint::parse(text).unwrap();
        let taken = endpoint.take_bucket(bucket);
        (endpoint.url(), taken)
    }

    #[test]
    fn the_bucket_is_taken_off_a_pasted_url() {
        let host = format!("https://abc.{R2_HOST}");
        for (pasted, known, taken) in [
            ("", Some("vb"), None),
            ("/", Some("vb"), None),
            ("/vb", Some("vb"), Some("vb")),
            ("/vb/", Some("vb"), Some("vb")),
            ("/vb", None, Some("vb")),
            ("/other", Some("vb"), Some("other")),
        ] {
            let found = endpoint(&format!("{host}{pasted}"), known);
            assert_eq!(found, (host.clone(), taken.map(Into::into)), "{pasted}");
        }
    }

    #[test]
    fn another_servers_path_is_kept_with_a_slash() {
        let base = "http://127.0.0.1:8787/cdn-cgi/local/r2/s3/";
        assert_eq!(endpoint(base, Some("vb")), (base.into(), None));
        assert_eq!(
            endpoint(&format!("{base}vb"), Some("vb")),
            (base.into(), Some("vb".into()))
        );
        assert_eq!(endpoint(base, None), (base.into(), None));
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in [
            "http://localhost:9000",
            "http://[::1]:9000",
            "http://127.0.0.2",
            "HTTPS://h",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com",
            "http://10.0.0.1",
            "http://localhost.evil.example",
        ] {
            assert!(
                Endpoint::parse(bad)
                    .unwrap_err()
                    .unwrap()
                    .contains("https://"),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for bad in [
            "",
            "example.com",
            "s3://vb",
            "https://",
            "https://u:p@h",
            "https://h?x=1",
            "https://h/#f",
            "https://h:0",
            "https://h:port",
            "https://a b",
            "https://[::1",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_is_a_bucket_and_perhaps_a_prefix() {
        assert_eq!(source("vb-audio"), Ok(("vb-audio".into(), "".into())));
        assert_eq!(
            source("vb-audio/a/b/"),
            Ok(("vb-audio".into(), "a/b/".into()))
        );
        for bad in [
            "",
            "VB",
            "vb",
            "/x",
            "-vb",
            "vba/..",
            "vba/a//b",
            "vba/.voicebeatfs/x",
        ] {
            assert!(source(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accounts_have_an_endpoint_in_their_jurisdiction() {
        assert_eq!(
            account_endpoint("a", "default"),
            format!("https://a.{R2_HOST}")
        );
        assert_eq!(
            account_endpoint("a", "eu"),
            format!("https://a.eu.{R2_HOST}")
        );
        assert!(account("your_account_id").is_err());
        assert!(jurisdiction("us").is_err());
    }
}
