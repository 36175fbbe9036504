//! The bucket of a mount: its store, and the first question to it.

use std::time::Duration;

use tokio::runtime::Handle;

use super::alerts;
use super::error::MountError;
use crate::config::{Config, R2Settings};
use crate::store::explain::{check_reachable, explain, probe_key};
use crate::store::r2::{R2Store, R2Timeouts};
use crate::store::{ObjectStore, StoreError, Upload};

/// How long a mount waits for the bucket's first answer. Without one it mounts all the same, so
/// this is about how long the user waits for a prompt.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Returns the bucket's store, without retries.
pub fn r2_store(settings: &R2Settings, config: &Config) -> R2Store {
    let usual = R2Timeouts::default();
    let timeouts = R2Timeouts {
        answer: usual.answer.min(config.request_deadline),
        idle: usual.idle.min(config.request_deadline),
        ..usual
    };
    R2Store::new(settings, timeouts).with_upload_limit(config.upload_bytes_per_second)
}

/// Asks the bucket whether it answers, and whether the token may write. Returns that and what there is to
/// warn of.
pub(super) fn first_look(
    store: &dyn ObjectStore,
    settings: &R2Settings,
    read_only: bool,
    runtime: &Handle,
) -> Result<(bool, Vec<String>), MountError> {
    let warning = check(store, settings, runtime)?;
    // Who asked for no more than reading, or cannot be told, is not asked.
    let asks = warning.is_none() && !read_only;
    if !asks || may_write(store, runtime) {
        return Ok((true, warning.into_iter().collect()));
    }
    Ok((false, vec![alerts::NO_RIGHT_TO_WRITE.to_owned()]))
}

/// Whether the token may write. It is taken to, unless the bucket says that it may not. Giving up an upload that
/// does not exist costs nothing and changes nothing; R2 looks at the token first.
fn may_write(store: &dyn ObjectStore, runtime: &Handle) -> bool {
    let nothing = Upload {
        key: probe_key(),
        id: "none".to_owned(),
    };
    let asked =
        async { tokio::time::timeout(FIRST_ANSWER_LIMIT, store.abort_multipart(&nothing)).await };
    !matches!(runtime.block_on(asked), Ok(Err(StoreError::Denied(_))))
}

/// Asks the bucket once. What no waiting mends (key, secret, rights, bucket, clock) is an error; a
/// bucket that cannot be reached is a warning, for then the mount works from what is here.
pub fn check(
    store: &dyn ObjectStore,
    settings: &R2Settings,
    runtime: &Handle,
) -> Result<Option<String>, MountError> {
    let asked = async { tokio::time::timeout(FIRST_ANSWER_LIMIT, check_reachable(store)).await };
    let error = match runtime.block_on(asked) {
        Ok(Ok(())) => return Ok(None),
        Ok(Err(error)) => error,
        Err(_) => StoreError::Unavailable {
            message: "no answer in time".into(),
            retry_after: None,
        },
    };
    let text = explain(&error, &settings.bucket, &settings.endpoint);
    match error {
        StoreError::ClockSkew(_) => Err(MountError::Bucket(text)),
        error if error.is_transient() => Ok(Some(format!("working without the bucket: {text}"))),
        _ => Err(MountError::Bucket(text)),
    }
}
