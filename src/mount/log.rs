//! Where the log goes: the terminal, a file that can be rotated, or the system's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env_logger::{Builder, Env, Target};
use log::Level;
use parking_lot::Mutex;

/// The socket of the system's log: syslog's, or the journal's in its place.
const SYSTEM_LOG: &str = "/dev/log";

/// What is logged when `RUST_LOG` says nothing. fuser warns of each operation that we do not answer,
/// which is on purpose.
const DEFAULT_FILTER: &str = "warn,voicebeatfs=info,fuser=error";

/// Where fuser says that a reply could not be sent.
const FUSER_REPLIES: &str = "fuser::reply";

/// The most bytes of one message to the system's log, which cuts or refuses longer ones.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// syslog's number for daemons (syslog(3), `LOG_DAEMON`).
const DAEMON_FACILITY: u8 = 3 << 3;

/// The running log.
#[derive(Debug, Clone)]
pub struct Log {
    file: Option<(PathBuf, Arc<Mutex<File>>)>,
    /// What the user should know about it.
    pub warning: Option<String>,
}

impl Log {
    /// Starts the log: into `file` if there is one, else to the terminal in the `foreground` and
    /// to the system's log in the background.
    pub fn start(file: Option<&Path>, foreground: bool) -> io::Result<Log> {
        let mut builder = Builder::from_env(Env::default().default_filter_or(DEFAULT_FILTER));
        let mut log = Log {
            file: None,
            warning: None,
        };
        match file {
            Some(path) => {
                let shared = Arc::new(Mutex::new(open(path)?));
                builder.target(Target::Pipe(Box::new(SharedFile(shared.clone()))));
                log.file = Some((path.into(), shared));
            }
            None if foreground => {
                builder.target(Target::Stderr);
            }
            None => {
                let system = SystemLog::new(Path::new(SYSTEM_LOG))?;
                if !Path::new(SYSTEM_LOG).exists() {
                    log.warning = Some(format!(
                        "this machine has no system log ({SYSTEM_LOG}): set LOG_FILE to keep a log"
                    ));
                }
                builder.target(Target::Pipe(Box::new(system)));
                builder.format(|out, record| {
                    let priority = DAEMON_FACILITY | severity(record.level());
                    let pid = std::process::id();
                    writeln!(out, "<{priority}>voicebeatfs[{pid}]: {}", record.args())
                });
            }
        }
        let logger = WithoutLateAnswers(builder.build());
        let level = logger.0.filter();
        // A second start, in tests, leaves the first log in place.
        if log::set_boxed_logger(Box::new(logger)).is_ok() {
            log::set_max_level(level);
        }
        Ok(log)
    }

    /// Whether the log is a file, for which SIGHUP means that it was rotated.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the log file anew, which may have been moved away. If that fails, the old one is
    /// kept.
    pub fn reopen(&self) {
        let Some((path, shared)) = &self.file else {
            return;
        };
        match open(path) {
            Ok(file) => *shared.lock() = file,
            Err(error) => log::error!("the log file {} cannot be opened: {error}", path.display()),
        }
    }
}

/// Leaves out one line of fuser's. When a program is killed in a call the kernel asks to interrupt that
/// call; fuser refuses, and when the call was answered first, the kernel knows neither any more. Nothing
/// is lost.
struct WithoutLateAnswers(env_logger::Logger);

impl log::Log for WithoutLateAnswers {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record) {
        if record.target() != FUSER_REPLIES || !is_late(&record.args().to_string()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Whether a reply could not be sent because the kernel waits for none (`ENOENT`).
fn is_late(message: &str) -> bool {
    message.ends_with("(os error 2)")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

struct SharedFile(Arc<Mutex<File>>);

impl Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends each record as one datagram. The file system must never wait for its log: what cannot be
/// sent at once is dropped, and counted for the next message that can.
struct SystemLog {
    socket: UnixDatagram,
    path: PathBuf,
    dropped: u64,
}

impl SystemLog {
    fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.into(),
            dropped: 0,
        })
    }
}

impl Write for SystemLog {
    /// env_logger hands over one whole record at a time. The address is looked up each time, so
    /// that a log service that was started again is found.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let mut message = record[..record.len().min(MAX_MESSAGE_BYTES)]
            .trim_ascii_end()
            .to_vec();
        if self.dropped > 0 {
            message.extend(format!(" ({} earlier messages were lost)", self.dropped).bytes());
        }
        match self.socket.send_to(&message, &self.path) {
            Ok(_) => self.dropped = 0,
            Err(_) => self.dropped += 1,
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_that_the_kernel_does_not_wait_for_are_left_out() {
        let failed = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            format!("Failed to send FUSE reply: {error}")
        };
        assert!(is_late(&failed(libc::ENOENT)));
        assert!(!is_late(&failed(libc::EINVAL)));
        assert!(!is_late(&failed(libc::ENODEV)));
    }

    #[test]
    fn a_rotated_file_is_left_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let shared = Arc::new(Mutex::new(open(&path).unwrap()));
        let log = Log {
            file: Some((path.clone(), shared.clone())),
            warning: None,
        };
        let mut writer = SharedFile(shared);
        writer.write_all(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        writer.write_all(b"two\n").unwrap();
        log.reopen();
        writer.write_all(b"three\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("log.1").as_str(), read("log").as_str()),
            ("one\ntwo\n", "three\n")
        );
    }

    #[test]
    fn the_system_log_gets_one_datagram_a_record_and_hears_of_lost_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut system = SystemLog::new(&path).unwrap();
        system.write_all(b"<30>lost\n").unwrap();
        let receiver = UnixDatagram::bind(&path).unwrap();
        system.write_all(b"<30>first\n").unwrap();
        system.write_all(&[b'x'; 2 * MAX_MESSAGE_BYTES]).unwrap();
        let mut buffer = [0; 4 * MAX_MESSAGE_BYTES];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(
            &buffer[..length],
            b"<30>first (1 earlier messages were lost)"
        );
        assert_eq!(receiver.recv(&mut buffer).unwrap(), MAX_MESSAGE_BYTES);
    }
}
