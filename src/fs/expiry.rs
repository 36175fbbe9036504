//! The end of the trash: what has been in it for long enough goes, and how much there is is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use crate::store::trash;
use crate::store::{Key, ListRequest, StoreResult};

/// How long after the mount the trash is looked at first; a mount that ends soon does not ask.
const FIRST_LOOK: Duration = Duration::from_secs(300);
/// How often after that: one request for a thousand objects each time.
const LOOK_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What the bucket's trash holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrashSize {
    /// Objects in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Fs {
    /// Starts the task that empties the trash of what is older than it is kept.
    pub fn spawn_expiry(self: &Arc<Self>) {
        if self.options.trash_collections.is_empty() {
            return;
        }
        let fs = Arc::downgrade(self);
        self.runtime.spawn(async move {
            let mut pause = FIRST_LOOK;
            loop {
                tokio::time::sleep(pause).await;
                pause = LOOK_EVERY;
                let Some(fs) = fs.upgrade() else { return };
                if fs.stopping.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = fs.expire_trash().await {
                    log::warn!("The trash in the bucket cannot be looked at: {error}");
                    pause = FIRST_LOOK;
                }
            }
        });
    }

    /// Returns what the trash held when it was last looked at.
    pub fn trash_size(&self) -> Option<TrashSize> {
        *self.trash_size.lock()
    }

    /// Deletes what has been in the bucket's trash for longer than it is kept, and counts the rest.
    ///
    /// # Errors
    /// Those of the bucket; what is left goes the next time.
    pub async fn expire_trash(&self) -> StoreResult<()> {
        let mut left = TrashSize::default();
        let mut continuation = None;
        loop {
            let request = ListRequest {
                prefix: trash::PREFIX.into(),
                delimited: false,
                continuation,
                max_keys: None,
            };
            let page = self.store.list(request).await?;
            for object in page.objects {
                if self.is_expired(&object.version.key) {
                    self.store.delete(&object.version.key).await?;
                    log::debug!("{} has been kept long enough", object.version.key);
                } else {
                    left.objects += 1;
                    left.bytes += object.size;
                }
            }
            continuation = page.next;
            if continuation.is_none() {
                break;
            }
        }
        *self.trash_size.lock() = Some(left);
        Ok(())
    }

    /// Whether something in the trash has been there for long enough, and is not on its way back.
    fn is_expired(&self, key: &Key) -> bool {
        let Some(trashed) = trash::parse(key) else {
            return false;
        };
        let age = self.clock.now().duration_since(trashed.at);
        age.is_ok_and(|age| age > self.options.trash_age)
            && self.journal().record(key).is_none()
            && !self.journal().copies_from(key)
    }
}
