//! What the kernel and we agree on when it mounts.

use std::sync::atomic::Ordering;

use fuser::{InitFlags, KernelConfig, Version};

use super::Fuse;

/// The largest write that the kernel is asked to send, in bytes: large enough that the round trip
/// does not count, and FUSE's own limit for reads on common kernels.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// How many requests the kernel may have under way in the background (read-ahead, asynchronous
/// I/O): enough for a session of many tracks.
const MAX_BACKGROUND: u16 = 128;
/// The protocol of the first kernel (Linux 6.14) that is known to drop the pages that others hold of
/// what is written past them, also when they are read while the write runs.
const DIRECT_WRITES_SINCE: Version = Version(7, 42);

impl Fuse {
    /// Asks the kernel for what it can do that helps.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            // Pages stay until we say so: our own writes move the modification time all the time.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            // Else the kernel asks for capabilities before every single write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            // What an older kernel lacks it does without.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if config.kernel_abi() >= DIRECT_WRITES_SINCE {
            self.fs.allow_direct_writes();
        }
        let wanted = self.passthrough.load(Ordering::Relaxed);
        let granted = wanted
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        self.passthrough.store(granted, Ordering::Relaxed);
    }
}
