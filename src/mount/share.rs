//! Addresses under which anybody may read one file for a while.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::undo::rfc3339;
use crate::config::R2Settings;
use crate::control::share::Shared;
use crate::control::{Refusal, RefusalCode};
use crate::fs::xattr::Signer;
use crate::staging::Staging;
use crate::store::explain::explain;
use crate::store::r2::{LONGEST_LINK, R2Store};
use crate::store::{Key, ObjectStore, ReadCondition, StoreError, StoreResult};

/// What signs addresses. Only R2 knows them.
pub(super) struct Sharing {
    pub(super) settings: R2Settings,
    /// Signs; nothing is sent through it.
    pub(super) signer: Arc<Addresses>,
    /// The bucket, without local copies behind it: nobody else can read those.
    pub(super) bucket: Arc<dyn ObjectStore>,
    pub(super) staging: Arc<Staging>,
}

/// Signs the addresses that `user.voicebeat.url` tells.
pub(super) struct Addresses(pub(super) R2Store);

#[async_trait::async_trait]
impl Signer for Addresses {
    async fn link(&self, key: &Key, valid: Duration) -> StoreResult<String> {
        self.0.presigned_get(key, valid).await
    }
}

impl Sharing {
    /// Returns an address of what the bucket holds at `path`, which has to be what is here.
    pub(super) async fn share(&self, path: &str, valid: Duration) -> Result<Shared, Refusal> {
        let key = Key::of_path(path).filter(|key| !key.is_folder_marker());
        let key = key.ok_or_else(|| refusal(RefusalCode::BadRequest, path, "is no file"))?;
        let journal = self.staging.journal();
        if journal.record(&key).is_some() || journal.moves().concern(&key) {
            let text = "is not in the bucket yet as it is here; --wait waits for it";
            return Err(refusal(RefusalCode::NotUploaded, path, text));
        }
        let asked = self.bucket.head(&key, ReadCondition::default()).await;
        asked.map_err(|error| match error {
            StoreError::NotFound => {
                let text = "is not in the bucket: only single files that are can be shared";
                refusal(RefusalCode::NotFound, path, text)
            }
            error => self.failed(&error),
        })?;
        let valid = valid.min(LONGEST_LINK);
        let url = self.signer.0.presigned_get(&key, valid).await;
        Ok(Shared {
            path: key.to_string(),
            url: url.map_err(|error| self.failed(&error))?,
            until: rfc3339(SystemTime::now() + valid),
        })
    }

    fn failed(&self, error: &StoreError) -> Refusal {
        let R2Settings {
            bucket, endpoint, ..
        } = &self.settings;
        Refusal::new(RefusalCode::Failed, explain(error, bucket, endpoint))
    }
}

fn refusal(code: RefusalCode, path: &str, text: &str) -> Refusal {
    Refusal::new(code, format!("{path} {text}"))
}
