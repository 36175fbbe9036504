//! What lies between this machine and the bucket: a proxy, and whose certificates are trusted.

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Secret;
use super::env_file::{self, OpenError};
use super::r2::host_of;
use super::value::Invalid;

/// A proxy (`HTTPS_PROXY`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Its URL as it was given, perhaps with a user and a password.
    pub url: Secret,
    /// The hosts that are reached without it (`NO_PROXY`).
    pub not_for: String,
}

/// Certificates of authorities that are trusted beside those of this machine (`R2_CA_FILE`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Where they stand.
    pub path: PathBuf,
    /// Each of them, as DER.
    pub certificates: Vec<Vec<u8>>,
}

/// Reads the URL of a proxy. Its port may be left out, as other programs allow: then it is 80, or
/// 443 over https.
pub(super) fn proxy_url(text: &str) -> Result<Secret, Invalid> {
    let lower = text.to_ascii_lowercase();
    let rest = match lower.split_once("://") {
        Some(("http" | "https", _)) => text.split_once("://").map_or("", |(_, rest)| rest),
        Some((scheme, _)) if scheme.starts_with("socks") => {
            return Err(Some("must be a proxy for HTTP: SOCKS is not spoken".into()));
        }
        Some(_) => return Err(None),
        None => text,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let is_plain = authority.bytes().all(|b| b.is_ascii_graphic()) && !authority.contains('/');
    match is_plain && host_of(host).is_some() {
        true => Ok(Secret::new(text)),
        false => Err(None),
    }
}

/// Reads a list of hosts.
pub(super) fn hosts(text: &str) -> Result<String, Invalid> {
    match text.chars().any(char::is_control) {
        true => Err(None),
        false => Ok(text.into()),
    }
}

impl Authorities {
    /// Reads a PEM file for a process of user `uid`, or says why it cannot be used.
    pub(super) fn read(path: PathBuf, uid: u32) -> Result<Authorities, String> {
        let read = env_file::read("R2_CA_FILE", &path, uid);
        // What may be read by others is no fault: there are no secrets in it.
        let text = match read {
            Ok(file) => file.text,
            Err(OpenError::Absent(text) | OpenError::Refused(text)) => return Err(text),
        };
        let wrong = |number: usize, reason: &dyn std::fmt::Display| {
            let shown = path.display();
            format!("R2_CA_FILE {shown}: certificate {number} cannot be used: {reason}")
        };
        let mut certificates = Vec::new();
        for (index, found) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
            let certificate = found.map_err(|error| wrong(index + 1, &error))?;
            let added = RootCertStore::empty().add(certificate.clone());
            added.map_err(|error| wrong(index + 1, &error))?;
            certificates.push(certificate.to_vec());
        }
        match certificates.is_empty() {
            true => Err(format!(
                "R2_CA_FILE {} has no certificate in it: it must be PEM text with \
                 \"-----BEGIN CERTIFICATE-----\"",
                path.display()
            )),
            false => Ok(Authorities { path, certificates }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_proxy_is_an_address_perhaps_with_a_user() {
        for good in [
            "http://proxy:3128",
            "https://proxy.studio",
            "proxy:3128",
            "HTTP://10.0.0.1:8080/",
            "http://user:pa%40ss@proxy:3128",
            "http://[fd00::1]:3128",
        ] {
            assert_eq!(proxy_url(good), Ok(Secret::new(good)), "{good}");
        }
        for bad in [
            "",
            "http://",
            "ftp://proxy:21",
            "http://proxy:port",
            "http://proxy/path",
            "http://us er@proxy",
        ] {
            assert_eq!(proxy_url(bad), Err(None), "{bad}");
        }
        let socks = proxy_url("socks5h://proxy:1080").unwrap_err().unwrap();
        assert!(socks.contains("SOCKS"), "{socks}");
    }

    #[test]
    fn a_file_that_has_no_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = folder.path().join("ca.pem");
        let refused = |path: &PathBuf| Authorities::read(path.clone(), uid).unwrap_err();
        assert!(refused(&path).contains("does not exist"));
        fs::write(&path, "notes\n").unwrap();
        assert!(refused(&path).contains("has no certificate"));
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "-----END CERTIFICATE-----\n";
        for body in ["AAAA\n", "?\n", ""] {
            fs::write(&path, format!("{begin}{body}{end}")).unwrap();
            let text = refused(&path);
            assert!(text.contains("certificate 1 cannot be used"), "{text}");
        }
    }
}
