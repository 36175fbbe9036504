//! Stores through a shared map.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::operation::Answer;

/// Stores bytes through a map of the whole file, as many as are within it, and sends them.
pub(super) fn store(file: &OwnedFd, offset: u64, bytes: &[u8]) -> Answer {
    let stat = rustix::fs::fstat(file)?;
    let size = stat.st_size as usize;
    // The size of a folder is that of the disk's.
    if size == 0 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(b"nothing to map".to_vec());
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new map, whose place the kernel chooses; the length is not 0.
    let start = unsafe {
        let nowhere = std::ptr::null_mut();
        libc::mmap(nowhere, size, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if start == libc::MAP_FAILED {
        return Err(last_errno());
    }
    let first = (offset as usize).min(size);
    let count = bytes.len().min(size - first);
    // SAFETY: within the map, and nobody cuts the file meanwhile: the thread has it for itself, or
    // holds the lock of those that share it.
    let sent = unsafe {
        let place = start.cast::<u8>().add(first);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, count);
        libc::msync(start, size, libc::MS_SYNC)
    };
    let sent = if sent == 0 { Ok(()) } else { Err(last_errno()) };
    // SAFETY: the map that was made above; nothing points into it any more.
    unsafe { libc::munmap(start, size) };
    sent.map(|()| count.to_string().into_bytes())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno")
}
