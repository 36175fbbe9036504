//! What a process that mounts as root gives up: it answers every program of the machine, and bytes from the
//! network go through it.

use rustix::io;
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet as Set, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is kept, and for what.
const KEPT: Set = Set::empty()
    // Kernel passthrough, mounts, the attributes that only root may set.
    .union(Set::SYS_ADMIN)
    // Files of others, in `samples/` and beside: opened, and given to who made them.
    .union(Set::DAC_OVERRIDE)
    .union(Set::DAC_READ_SEARCH)
    .union(Set::CHOWN)
    .union(Set::FOWNER)
    .union(Set::FSETID)
    .union(Set::MKNOD)
    // The proof that nobody writes a file any more, where the file is another's.
    .union(Set::LEASE)
    // The part of a full disk that is root's, where a recording may still go.
    .union(Set::SYS_RESOURCE)
    // `METRICS_ADDR` below 1024.
    .union(Set::NET_BIND_SERVICE);

/// Gives up, for good, what is not needed. To be called before there are threads: each keeps its own.
pub(super) fn keep_what_is_needed() {
    // Others have nothing to give up, and their `fusermount3` needs what it is installed with.
    if geteuid().is_root()
        && let Err(error) = give_up()
    {
        log::warn!("privileges that are not needed are kept: {error}");
    }
}

fn give_up() -> io::Result<()> {
    for capability in (0..u64::BITS).map(|number| Set::from_bits_retain(1 << number)) {
        if !KEPT.contains(capability) && capability_is_in_bounding_set(capability) == Ok(true) {
            // A service manager that gave us few may have kept the right to this: what follows is
            // enough then, for this process.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let mut sets = capabilities(None)?;
    sets.permitted &= KEPT;
    sets.effective &= KEPT;
    sets.inheritable = Set::empty();
    set_capabilities(None, sets)?;
    set_no_new_privs(true)
}
