//! What a token may do that a mount has no need of.

use super::R2Store;
use super::client::within;

impl R2Store {
    /// Whether the token may list the buckets of the account. One for objects may not.
    pub async fn may_list_buckets(&self) -> bool {
        let asked = self.client.list_buckets().send();
        let answer = within(self.timeouts.answer, asked).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }
}
