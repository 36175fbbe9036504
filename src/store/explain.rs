//! What a store's error means for the person who set the mount up, and what they can do.
//!
//! `validate` and a failing `mount` say the same, because both say this.

use super::{
    ETag, Key, ListRequest, Md5, ObjectHeaders, ObjectStore, PutRequest, ReadCondition, StoreError,
    StoreResult, WriteCondition,
};

/// A key of our own that is never written: asking for it tells rights, not content.
const PROBE_KEY: &str = ".voicebeatfs/probe";

/// Returns that key.
pub fn probe_key() -> Key {
    Key::new(PROBE_KEY).expect("the probe's key is short")
}

/// What a token may do in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Read objects.
    pub read: bool,
    /// Write objects.
    pub write: bool,
}

/// Asks for one entry of a listing: it takes the right key, secret, clock and bucket to get it.
/// Bucket calls would not do: tokens for objects have no right to them (R2: api/tokens).
pub async fn check_reachable(store: &dyn ObjectStore) -> StoreResult<()> {
    let request = ListRequest {
        delimited: true,
        max_keys: Some(1),
        ..ListRequest::default()
    };
    store.list(request).await.map(|_| ())
}

/// Returns what the token may do, without writing anything: a write on the condition of a version
/// that never was fails, for want of the version or for want of the right.
pub async fn check_rights(store: &dyn ObjectStore) -> StoreResult<Rights> {
    let read = match store.head(&probe_key(), ReadCondition::None).await {
        Ok(_) | Err(StoreError::NotFound) => true,
        Err(StoreError::Denied(_)) => false,
        Err(error) => return Err(error),
    };
    let never = ETag::of_md5(Md5([0; 16]));
    let put = PutRequest {
        key: probe_key(),
        md5: Md5::of(b""),
        body: Default::default(),
        condition: WriteCondition::IfMatch(never),
        headers: ObjectHeaders::default(),
    };
    let write = match store.put(put).await {
        // Some servers say of a missing object that it is missing.
        Ok(_) | Err(StoreError::PreconditionFailed | StoreError::NotFound) => true,
        Err(StoreError::Denied(_)) => false,
        Err(error) => return Err(error),
    };
    Ok(Rights { read, write })
}

/// Returns what is wrong, with what the person can do about it.
pub fn explain(error: &StoreError, bucket: &str, endpoint: &str) -> String {
    use StoreError::*;
    match error {
        UnknownCredentials(detail) => format!(
            "access key unknown: R2_ACCESS_KEY_ID is no token of this account, or it was revoked \
             or has expired ({detail})"
        ),
        WrongSecret(detail) => format!(
            "secret wrong: R2_SECRET_ACCESS_KEY does not belong to R2_ACCESS_KEY_ID ({detail})"
        ),
        Denied(detail) => format!(
            "no right to this bucket: the token must have \"Object Read & Write\" for \
             \"{bucket}\"; a new one may take a minute to work ({detail})"
        ),
        NoSuchBucket(detail) => format!(
            "no such bucket: \"{bucket}\" is not at {endpoint}; look at R2_BUCKET_NAME, and for a \
             bucket in a jurisdiction at R2_JURISDICTION ({detail})"
        ),
        ClockSkew(detail) => format!("clock is off by {detail}: set this machine's clock"),
        Unavailable { message, .. } => unavailable(message, endpoint),
        Throttled { .. } => format!("{endpoint} asks to slow down: try again in a moment"),
        Refused(detail) => format!(
            "{endpoint} refuses the request, so it may be no S3 endpoint: look at R2_ENDPOINT_URL \
             ({detail})"
        ),
        NotFound | NotModified | PreconditionFailed | SourceChanged | UploadGone | InvalidRange
        | Locked(_) | TooLarge(_) | Damaged(_) | Io(_) => error.to_string(),
    }
}

/// The HTTP client tells its reasons as text only.
fn unavailable(message: &str, endpoint: &str) -> String {
    let lower = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let what = if has(&["proxy authorization required"]) {
        "the proxy wants a user and a password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
    } else if has(&["tunnel error: failed to create"]) {
        "the proxy cannot be reached: look at HTTPS_PROXY"
    } else if has(&["tunnel error"]) {
        "the proxy does not let this host through: ask who runs it, or put the host into NO_PROXY"
    } else if has(&["unknownissuer"]) {
        "no secure connection: nobody that this machine trusts stands for the host's certificate; \
         if it is one of your own or of a proxy that looks into connections, name its authority in \
         R2_CA_FILE"
    } else if has(&[
        "dns error",
        "failed to lookup address",
        "name or service not known",
    ]) {
        "no network, or a wrong name: the host is not known to DNS"
    } else if has(&["network is unreachable", "no route to host"]) {
        "no network: the host cannot be reached from here"
    } else if has(&["connection refused"]) {
        "connection refused: nothing answers on that host and port"
    } else if has(&["certificate", "handshake", "tls"]) {
        "no secure connection: the host's certificate or protocol is not accepted"
    } else if has(&["timed out", "timeout", "no answer in time"]) {
        "no network: no answer in time"
    } else {
        "the store cannot be reached or fails"
    };
    format!("{what} ({endpoint}: {message})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: StoreError) -> String {
        explain(&error, "vb", "https://h")
    }

    fn unavailable_text(message: &str) -> String {
        text(StoreError::Unavailable {
            message: message.into(),
            retry_after: None,
        })
    }

    #[test]
    fn each_trouble_is_told_apart() {
        let detail = || "403 X".to_string();
        let texts = [
            text(StoreError::UnknownCredentials(detail())),
            text(StoreError::WrongSecret(detail())),
            text(StoreError::Denied(detail())),
            text(StoreError::NoSuchBucket(detail())),
            text(StoreError::ClockSkew("7200 s ahead of the server's".into())),
            unavailable_text("dispatch failure: dns error: failed to lookup address information"),
            unavailable_text("dispatch failure: Connection refused (os error 111)"),
            unavailable_text("Network is unreachable (os error 101)"),
            unavailable_text("no answer in time"),
            unavailable_text("invalid peer certificate: UnknownIssuer"),
            unavailable_text("502 Bad Gateway"),
            unavailable_text("the proxy http://p: tunnel error: proxy authorization required"),
            unavailable_text(
                "the proxy http://p: tunnel error: failed to create underlying connection: tcp \
                 connect error: Connection refused (os error 111)",
            ),
            unavailable_text("the proxy http://p: tunnel error: unsuccessful"),
        ];
        let begins = [
            "access key unknown",
            "secret wrong",
            "no right to this bucket",
            "no such bucket",
            "clock is off by 7200 s ahead",
            "no network, or a wrong name",
            "connection refused",
            "no network: the host cannot",
            "no network: no answer",
            "no secure connection",
            "the store cannot be reached",
            "the proxy wants a user and a password",
            "the proxy cannot be reached",
            "the proxy does not let this host through",
        ];
        for (text, begin) in texts.iter().zip(begins) {
            assert!(text.starts_with(begin), "{text}");
        }
    }
}
