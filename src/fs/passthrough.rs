//! One I/O mode and one backing id per inode while it is open.
//!
//! The kernel gives an inode one mode as long as any handle is open: with a passthrough handle, any
//! other open must carry the same backing id, with a cached handle a passthrough open fails with
//! EIO. So the first open decides (`docs/architecture.md`, "I/O modes").

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// A file registered with the kernel as the bytes of an inode. Dropping it takes it back, which
/// must not happen while a handle is open.
pub trait Backing: Send + Sync {
    /// The kernel's number for it.
    fn id(&self) -> u32;
}

/// Registers backing files with the kernel.
pub trait Registrar: Send + Sync {
    /// Registers the file below `file`.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `ELOOP` on a stacking file system, `EOPNOTSUPP` on a kernel
    /// without passthrough.
    fn register(&self, file: &File) -> io::Result<Arc<dyn Backing>>;
}

/// How the kernel is to do the I/O of one handle.
pub enum IoChoice {
    /// Through this process and the page cache.
    Cached {
        /// Whether the pages the kernel holds are still those of the file.
        keep_pages: bool,
    },
    /// Through this process, each write as the program made it, past the page cache: a handle that
    /// only writes.
    Direct,
    /// Reads, writes and maps go to the backing file.
    Passthrough(Arc<dyn Backing>),
    /// Reads and writes come to us, maps go to the backing file: a writer beside readers.
    PassthroughDirect(Arc<dyn Backing>),
}

#[derive(Default)]
enum Mode {
    #[default]
    Idle,
    Cached,
    Passthrough(Arc<dyn Backing>),
}

/// The I/O mode of one inode.
#[derive(Default)]
pub struct IoGate {
    handles: u32,
    mode: Mode,
    /// Whether pages that the kernel may hold from cached handles are the file's present bytes.
    pages_valid: bool,
}

/// What an open asks of the gate.
pub struct Open<'a> {
    /// The file to pass through to, if the inode's bytes are whole and all in it.
    pub file: Option<&'a File>,
    /// Whether writes of this handle must come to us although others pass through.
    pub writes_to_us: bool,
    /// Whether it may go past the page cache.
    pub past_pages: bool,
}

impl IoGate {
    /// Decides the mode of a new handle, which counts as open from now on.
    pub fn open(&mut self, open: &Open<'_>, registrar: Option<&dyn Registrar>) -> IoChoice {
        self.handles += 1;
        if matches!(self.mode, Mode::Idle) {
            self.mode = match backing(open, registrar) {
                Some(backing) => Mode::Passthrough(backing),
                None => Mode::Cached,
            };
        }
        match &self.mode {
            Mode::Passthrough(backing) => {
                self.pages_valid = false;
                let backing = backing.clone();
                if open.writes_to_us {
                    IoChoice::PassthroughDirect(backing)
                } else {
                    IoChoice::Passthrough(backing)
                }
            }
            // The kernel drops the pages that are written over; the others are as they were.
            Mode::Cached | Mode::Idle if open.past_pages => IoChoice::Direct,
            Mode::Cached | Mode::Idle => {
                let keep_pages = std::mem::replace(&mut self.pages_valid, true);
                IoChoice::Cached { keep_pages }
            }
        }
    }

    /// A handle is closed. With the last one the backing goes, for the caller to drop when it holds
    /// no lock: kept, it would keep an evicted file's bytes on the disk for as long as the kernel
    /// knows the inode. Registering it anew costs 10 to 80 µs.
    pub fn close(&mut self) -> Option<Arc<dyn Backing>> {
        self.handles = self.handles.saturating_sub(1);
        if self.handles > 0 {
            return None;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Passthrough(backing) => Some(backing),
            Mode::Idle | Mode::Cached => None,
        }
    }

    /// Whether handles are open that read the backing file without us.
    pub fn passes_through(&self) -> bool {
        matches!(self.mode, Mode::Passthrough(_))
    }

    /// How many handles are open.
    pub fn handles(&self) -> u32 {
        self.handles
    }

    /// The inode's bytes were changed without the kernel's knowledge.
    pub fn invalidate_pages(&mut self) {
        self.pages_valid = false;
    }
}

fn backing(open: &Open<'_>, registrar: Option<&dyn Registrar>) -> Option<Arc<dyn Backing>> {
    let (file, registrar) = (open.file?, registrar?);
    let status = file.metadata().ok()?;
    // Holes would be read as zeros that a later fill must not change under the reader, and an
    // empty file gains nothing.
    if status.len() == 0 || status.blocks().saturating_mul(512) < status.len() {
        return None;
    }
    registrar.register(file).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Numbered(u32);
    impl Backing for Numbered {
        fn id(&self) -> u32 {
            self.0
        }
    }

    #[derive(Default)]
    struct Counter(AtomicU32);
    impl Registrar for Counter {
        fn register(&self, _: &File) -> io::Result<Arc<dyn Backing>> {
            Ok(Arc::new(Numbered(self.0.fetch_add(1, Ordering::Relaxed))))
        }
    }

    fn file() -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn open(file: Option<&File>, writes_to_us: bool) -> Open<'_> {
        Open {
            file,
            writes_to_us,
            past_pages: false,
        }
    }

    #[test]
    fn the_first_open_decides_until_the_last_close() {
        let (file, registrar) = (file(), Counter::default());
        let mut gate = IoGate::default();
        assert!(matches!(
            gate.open(&open(None, true), Some(&registrar)),
            IoChoice::Cached { keep_pages: false }
        ));
        assert!(matches!(
            gate.open(&open(Some(&file), false), Some(&registrar)),
            IoChoice::Cached { keep_pages: true }
        ));
        gate.close();
        assert!(!gate.passes_through());
        gate.close();
        let IoChoice::Passthrough(first) = gate.open(&open(Some(&file), false), Some(&registrar))
        else {
            panic!("a whole file passes through")
        };
        let IoChoice::PassthroughDirect(second) = gate.open(&open(None, true), Some(&registrar))
        else {
            panic!("a writer shares the backing")
        };
        assert_eq!(first.id(), second.id());
        assert!(gate.close().is_none());
        assert!(gate.close().is_some(), "the backing is given back");
        // Pages of the cached time are not kept.
        assert!(matches!(
            gate.open(&open(None, true), Some(&registrar)),
            IoChoice::Cached { keep_pages: false }
        ));
    }

    #[test]
    fn what_only_writes_leaves_the_pages_of_others_alone() {
        let writer = || Open {
            past_pages: true,
            ..open(None, true)
        };
        let mut gate = IoGate::default();
        assert!(matches!(gate.open(&writer(), None), IoChoice::Direct));
        assert!(matches!(
            gate.open(&open(None, false), None),
            IoChoice::Cached { keep_pages: false }
        ));
        gate.invalidate_pages();
        assert!(matches!(gate.open(&writer(), None), IoChoice::Direct));
        assert!(matches!(
            gate.open(&open(None, false), None),
            IoChoice::Cached { keep_pages: false }
        ));
    }

    #[test]
    fn without_registrar_or_with_holes_it_is_cached() {
        let whole = file();
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(1 << 20).unwrap();
        for (file, registrar) in [(&whole, None), (&sparse, Some(Counter::default()))] {
            let mut gate = IoGate::default();
            let registrar = registrar.as_ref().map(|r| r as &dyn Registrar);
            assert!(matches!(
                gate.open(&open(Some(file), false), registrar),
                IoChoice::Cached { .. }
            ));
        }
    }
}
