//! Going to the background, and telling the command that started us how it went.
//!
//! The fork comes before any thread, runtime or database exists: a child has only the thread that
//! forked, and everything the others held stays held for ever.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

/// The most bytes of a report.
const MAX_REPORT_BYTES: u64 = 64 * 1024;

/// The first byte of a report.
const READY: u8 = b'R';
const FAILED: u8 = b'F';

/// Which of the two processes this is after the fork.
#[derive(Debug)]
pub enum Fork {
    /// The one that the user started.
    Parent(Child),
    /// The one that stays.
    Child(Reporter),
}

/// The process in the background, as its parent sees it.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    reports: PipeReader,
}

/// The way back to the command that waits for the mount.
#[derive(Debug)]
pub struct Reporter(Option<PipeWriter>);

/// Splits off a process. Must be called while there is one thread. It stays in our process group
/// until the mount is there: of others the kernel lets nobody to a mount point of autofs whose
/// mount is awaited (Linux: `autofs_oz_mode`), as that of `x-systemd.automount` is.
pub fn fork() -> io::Result<Fork> {
    // Both ends close on exec: helpers such as fusermount3 must not keep the parent waiting.
    let (reports, reporter) = io::pipe()?;
    // SAFETY: the caller has one thread, so the child may go on as any program would.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reports);
            // The folder that the command was given in must not be kept busy by us.
            std::env::set_current_dir("/")?;
            Ok(Fork::Child(Reporter(Some(reporter))))
        }
        pid => Ok(Fork::Parent(Child { pid, reports })),
    }
}

impl Child {
    /// Waits until the mount is usable and returns what the user should know, or why it is not. The
    /// child itself puts limits on all it does before it reports.
    pub fn wait(self) -> Result<String, String> {
        let mut report = Vec::new();
        let read = self.reports.take(MAX_REPORT_BYTES).read_to_end(&mut report);
        match (read, report.split_first()) {
            (Ok(_), Some((&READY, text))) => Ok(String::from_utf8_lossy(text).into_owned()),
            (Ok(_), Some((&FAILED, text))) => Err(String::from_utf8_lossy(text).into_owned()),
            _ => Err(how_it_ended(self.pid)),
        }
    }
}

fn how_it_ended(pid: libc::pid_t) -> String {
    let mut status = 0;
    // SAFETY: `status` outlives the call, and the child is ours and not waited for elsewhere.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    let how = match waited {
        -1 => "without a word".to_string(),
        _ if libc::WIFSIGNALED(status) => format!("by signal {}", libc::WTERMSIG(status)),
        _ => format!("with exit code {}", libc::WEXITSTATUS(status)),
    };
    format!(
        "the background process ended {how} before the mount was usable; \
         --foreground shows what it says"
    )
}

impl Reporter {
    /// Returns the reporter of a process that stays in the foreground: its errors are returned,
    /// and nobody waits for it.
    pub fn foreground() -> Self {
        Reporter(None)
    }

    /// Tells the waiting command that the mount is usable and what the user should know, and lets
    /// go of its session and terminal. An error means that nobody waits any more: the command was interrupted,
    /// so its mount is not wanted.
    pub fn ready(self, warning: &str) -> io::Result<()> {
        let Some(mut pipe) = self.0 else {
            return Ok(());
        };
        rustix::process::setsid()?;
        // Before the report, so that a caller who reads our output sees its end.
        leave_terminal()?;
        pipe.write_all(&[&[READY], warning.as_bytes()].concat())
    }

    /// Tells the waiting command why there is no mount.
    pub fn failed(self, reason: &str) {
        if let Some(mut pipe) = self.0 {
            let report = [&[FAILED], reason.as_bytes()].concat();
            // The parent may be gone; then nobody is left to be told.
            let _ = pipe.write_all(&report);
        }
    }
}

/// Puts /dev/null in the place of the three standard descriptors. They are never closed: the next
/// file to be opened would take their numbers, and prints would end up in it.
fn leave_terminal() -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: both are open descriptors, and nothing in this process owns 0 to 2.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
