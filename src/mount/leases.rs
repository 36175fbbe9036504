//! The leases of a mount: what the settings say of them, and what the status tells.

use super::MountError;
use crate::config::{Config, LeaseMode};
use crate::control::LeaseStatus;
use crate::fs::{Fs, LeaseOptions};
use crate::staging::Staging;
use crate::store::lease::time_text;

/// Returns how leases are held; `None` if they are off. A mount that cannot write takes none.
pub(super) fn options(
    config: &Config,
    staging: &Staging,
    writes: bool,
) -> Result<Option<LeaseOptions>, MountError> {
    if config.lease_mode == LeaseMode::Off {
        return Ok(None);
    }
    let id = staging.journal().holder_id();
    Ok(Some(LeaseOptions {
        refuses: config.lease_mode == LeaseMode::ReadOnly,
        takes: writes,
        name: config.lease_name.clone(),
        id: id.map_err(MountError::start("the journal cannot be written"))?,
        ttl: config.lease_ttl,
    }))
}

/// Returns the leases that count.
pub(super) fn status(fs: &Fs) -> Vec<LeaseStatus> {
    let leases = fs.leases().into_iter();
    let told = leases.map(|lease| LeaseStatus {
        path: lease.path,
        held: lease.is_ours,
        name: lease.name,
        host: lease.host,
        since: time_text(lease.since),
    });
    told.collect()
}
