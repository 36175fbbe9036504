//! What a client says about its body, held against the body: MD5 and checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};

use super::Request;
use crate::error::{R2Error, R2Result};

/// Returns the MD5 of the body once everything that the request says of the body is true.
pub(super) fn check(request: &Request) -> R2Result<[u8; 16]> {
    let md5: [u8; 16] = Md5::digest(&request.body).into();
    if let Some(claimed) = request.header("content-md5") {
        let claimed = STANDARD
            .decode(claimed)
            .ok()
            .filter(|bytes| bytes.len() == md5.len());
        let claimed = claimed.ok_or_else(|| {
            R2Error::new(
                "InvalidDigest",
                "The Content-MD5 you specified is not valid.",
            )
        })?;
        if claimed != md5 {
            return Err(bad_digest("Content-MD5"));
        }
    }
    check_checksum(request)?;
    Ok(md5)
}

fn check_checksum(request: &Request) -> R2Result<()> {
    let claims: Vec<(&str, &str)> = request
        .headers
        .iter()
        .chain(&request.trailers)
        .filter_map(|(name, value)| {
            let algorithm = name.as_str().strip_prefix("x-amz-checksum-")?;
            let known = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"].contains(&algorithm);
            known.then_some((algorithm, value.to_str().unwrap_or_default()))
        })
        .collect();
    match claims[..] {
        [] => Ok(()),
        [(algorithm, claimed)] if checksum(algorithm, &request.body) == claimed => Ok(()),
        [(algorithm, _)] => Err(bad_digest(algorithm)),
        _ => Err(R2Error::new(
            "InvalidRequest",
            "You can only specify one checksum at a time.",
        )),
    }
}

fn checksum(algorithm: &str, body: &[u8]) -> String {
    let mut hasher = ChecksumHasher {
        crc32: (algorithm == "crc32").then(Crc32::new),
        crc32c: (algorithm == "crc32c").then(Crc32c::new),
        sha1: (algorithm == "sha1").then(Sha1::new),
        sha256: (algorithm == "sha256").then(Sha256::new),
        crc64nvme: (algorithm == "crc64nvme").then(Crc64Nvme::new),
    };
    hasher.update(body);
    let sums = hasher.finalize();
    sums.checksum_crc32
        .or(sums.checksum_crc32c)
        .or(sums.checksum_sha1)
        .or(sums.checksum_sha256)
        .or(sums.checksum_crc64nvme)
        .unwrap_or_default()
}

fn bad_digest(what: &str) -> R2Error {
    R2Error::new(
        "BadDigest",
        format!("The {what} you specified did not match what we received."),
    )
}
