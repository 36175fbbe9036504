//! The end of the trash: what has been in it for long enough goes, and how much there is is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use crate::store::trash;
use crate::store::{Key, StoreResult};

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
        for object in self.trash_objects().await? {
            if self.is_expired(&object.version.key) {
                self.store.delete(&object.version.key).await?;
                log::debug!("{} has been kept long enough", object.version.key);
            } else {
                left.objects += 1;
                left.bytes += object.size;
            }
        }
        *self.trash_size.lock() = Some(left);
        Ok(())
    }

    /// Whether something in the trash has been there for long enough.
    fn is_expired(&self, key: &Key) -> bool {
        let age = trash::parse(key).map(|trashed| self.clock.now().duration_since(trashed.at));
        age.is_some_and(|age| age.is_ok_and(|age| age > self.options.trash_age))
    }
}
