//! Addresses under which anybody may read one object for a while.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;

use super::super::{Key, StoreError, StoreResult};
use super::R2Store;

/// The longest that R2 lets such an address work (R2: api/s3/presigned-urls).
pub const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);

impl R2Store {
    /// Returns an address that reads the object for so long, at most [`LONGEST_LINK`]. Nothing is sent,
    /// and whether there is such an object is not asked.
    pub async fn presigned_get(&self, key: &Key, valid: Duration) -> StoreResult<String> {
        let refused = |error: &dyn std::error::Error| StoreError::Refused(error.to_string());
        let config =
            PresigningConfig::expires_in(valid.min(LONGEST_LINK)).map_err(|e| refused(&e))?;
        let request = self.client.get_object().bucket(&self.bucket);
        let signed = request.key(self.full_key(key)).presigned(config).await;
        Ok(signed.map_err(|error| refused(&error))?.uri().to_owned())
    }
}
