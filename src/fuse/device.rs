//! What we ask of the session's device beside its requests: passthrough and invalidations.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Once};

use fuser::{INodeNo, Notifier};

use crate::fs::Kernel;
use crate::fs::attr::Ino;
use crate::fs::passthrough::{Backing, Registrar};

/// Registers backing files over the session's own device.
pub struct DeviceRegistrar {
    device: Arc<OwnedFd>,
    /// Said once: why passthrough is not to be had.
    refused: Once,
}

impl DeviceRegistrar {
    /// Returns a registrar for the session that `device` belongs to.
    pub fn new(device: impl AsFd) -> io::Result<DeviceRegistrar> {
        let device = Arc::new(device.as_fd().try_clone_to_owned()?);
        Ok(DeviceRegistrar {
            device,
            refused: Once::new(),
        })
    }
}

impl Registrar for DeviceRegistrar {
    fn register(&self, file: &File) -> io::Result<Arc<dyn Backing>> {
        match fuser::BackingId::create_raw(&*self.device, file) {
            Ok(id) => Ok(Arc::new(DeviceBacking {
                device: self.device.clone(),
                id,
            })),
            Err(error) => {
                self.refused.call_once(|| {
                    log::info!("no kernel passthrough, files are read through us: {error}");
                });
                Err(error)
            }
        }
    }
}

struct DeviceBacking {
    device: Arc<OwnedFd>,
    id: u32,
}

impl Backing for DeviceBacking {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for DeviceBacking {
    fn drop(&mut self) {
        // `FUSE_DEV_IOC_BACKING_CLOSE` of linux/fuse.h: _IOW(229, 2, uint32_t).
        const BACKING_CLOSE: libc::c_ulong = (1 << 30) | (4 << 16) | (229 << 8) | 2;
        // SAFETY: the device is open, and the request reads one u32 that outlives the call.
        let closed = unsafe {
            libc::ioctl(
                self.device.as_raw_fd(),
                BACKING_CLOSE as _,
                &self.id as *const u32,
            )
        };
        if closed != 0 {
            log::debug!("backing id {} was gone already", self.id);
        }
    }
}

impl Kernel for Notifier {
    fn forget_entry(&self, parent: Ino, name: &OsStr) {
        if let Err(error) = self.inval_entry(INodeNo(parent.0), name) {
            log::debug!("the kernel does not know {name:?} in {parent:?}: {error}");
        }
    }

    fn forget_pages(&self, ino: Ino) {
        if let Err(error) = self.inval_inode(INodeNo(ino.0), 0, 0) {
            log::debug!("the kernel does not know {ino:?}: {error}");
        }
    }

    fn forget_attributes(&self, ino: Ino) {
        // A negative offset spares the pages.
        if let Err(error) = self.inval_inode(INodeNo(ino.0), -1, 0) {
            log::debug!("the kernel does not know {ino:?}: {error}");
        }
    }
}
