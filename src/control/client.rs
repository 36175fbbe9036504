//! A command's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::cache::{Cached, Filled, PinEntry};
use super::queue::{ConflictEntry, OrphanEntry, Queue};
use super::share::{Refreshed, Shared};
use super::trash::{Restored, Trash};
use super::verify::Verified;
use super::{
    Envelope, MAX_RESPONSE_BYTES, PROTOCOL_VERSION, Progress, Refusal, Request, Response,
    StatusDocument, with_socket_path,
};

/// How long the mount may take for its next line. It answers from memory, and while it waits for
/// the queue it says so each second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same where it asks the bucket: a list of what is in the trash, and one look at each file that
/// is to come back.
const BUCKET_PATIENCE: Duration = Duration::from_secs(600);

/// The same where it reads all that is on its disk.
const DISK_PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Why a mount did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process answers in that staging directory.
    #[error("no mount answers in {0}")]
    NotRunning(String),
    /// The mount refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The connection failed, or the mount ended meanwhile.
    #[error("the mount does not answer: {0}")]
    Io(#[from] io::Error),
}

/// A connection for one request.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the mount that owns `staging_dir`.
    pub fn connect(staging_dir: &Path) -> Result<Client, ClientError> {
        let stream = with_socket_path(staging_dir, |path| UnixStream::connect(path));
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(staging_dir.display().to_string())
            }
            _ => ClientError::Io(error),
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Returns the status document.
    pub fn status(mut self) -> Result<StatusDocument, ClientError> {
        self.send(Request::Status)?;
        let response = self.receive()?;
        response
            .status
            .ok_or_else(|| malformed("no status in the answer").into())
    }

    /// Returns what waits for the bucket.
    pub fn queue(mut self) -> Result<Queue, ClientError> {
        self.send(Request::Queue)?;
        let response = self.receive()?;
        response
            .queue
            .ok_or_else(|| malformed("no queue in the answer").into())
    }

    /// Returns the conflicts.
    pub fn conflicts(mut self) -> Result<Vec<ConflictEntry>, ClientError> {
        self.send(Request::Conflicts)?;
        let response = self.receive()?;
        response
            .conflicts
            .ok_or_else(|| malformed("no conflicts in the answer").into())
    }

    /// Has parked entries tried again; returns how many there were.
    pub fn retry(mut self, paths: Vec<String>) -> Result<u64, ClientError> {
        self.send(Request::Retry { paths })?;
        let response = self.receive()?;
        response
            .retried
            .ok_or_else(|| malformed("no count in the answer").into())
    }

    /// Has no new upload started.
    pub fn pause(mut self) -> Result<(), ClientError> {
        self.send(Request::Pause)?;
        self.receive().map(|_| ())
    }

    /// Lets uploads go on.
    pub fn resume(mut self) -> Result<(), ClientError> {
        self.send(Request::Resume)?;
        self.receive().map(|_| ())
    }

    /// Has what waits uploaded now; returns how many there were.
    pub fn flush(mut self, paths: Vec<String>) -> Result<u64, ClientError> {
        self.send(Request::Flush { paths })?;
        let response = self.receive()?;
        response
            .flushed
            .ok_or_else(|| malformed("no count in the answer").into())
    }

    /// Lets held deletes go; returns how many there were.
    pub fn confirm(mut self, paths: Vec<String>) -> Result<u64, ClientError> {
        self.send(Request::Confirm { paths })?;
        let response = self.receive()?;
        response
            .confirmed
            .ok_or_else(|| malformed("no count in the answer").into())
    }

    /// Has brought back what held deletes have removed.
    pub fn discard(mut self, paths: Vec<String>) -> Result<Restored, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Discard { paths })?;
        let response = self.receive()?;
        response
            .restored
            .ok_or_else(|| malformed("no result in the answer").into())
    }

    /// Asks for the staged files that no record names.
    pub fn orphans(mut self) -> Result<Vec<OrphanEntry>, ClientError> {
        self.send(Request::Orphans)?;
        let response = self.receive()?;
        response
            .orphans
            .ok_or_else(|| malformed("no list in the answer").into())
    }

    /// Has them named.
    pub fn adopt(mut self, folder: Option<String>) -> Result<Restored, ClientError> {
        self.send(Request::Adopt { folder })?;
        let response = self.receive()?;
        response
            .restored
            .ok_or_else(|| malformed("no result in the answer").into())
    }

    /// Asks what can be brought back.
    pub fn trash(mut self, paths: Vec<String>) -> Result<Trash, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Trash { paths })?;
        let response = self.receive()?;
        response
            .trash
            .ok_or_else(|| malformed("no trash in the answer").into())
    }

    /// Has something brought back.
    pub fn restore(
        mut self,
        paths: Vec<String>,
        at: Option<String>,
    ) -> Result<Restored, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Restore { paths, at })?;
        let response = self.receive()?;
        response
            .restored
            .ok_or_else(|| malformed("no result in the answer").into())
    }

    /// Asks for an address of a file that works for so long.
    pub fn share(mut self, path: String, valid: Duration) -> Result<Shared, ClientError> {
        self.wait_for_the_bucket()?;
        let seconds = valid.as_secs();
        self.send(Request::Share { path, seconds })?;
        let response = self.receive()?;
        response
            .shared
            .ok_or_else(|| malformed("no address in the answer").into())
    }

    /// Has folders listed anew.
    pub fn refresh(mut self, paths: Vec<String>) -> Result<Refreshed, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Refresh { paths })?;
        let response = self.receive()?;
        response
            .refreshed
            .ok_or_else(|| malformed("no result in the answer").into())
    }

    /// Returns what the cache holds, and the pins.
    pub fn cached(mut self, paths: Vec<String>) -> Result<Cached, ClientError> {
        self.send(Request::Cached { paths })?;
        let response = self.receive()?;
        response
            .cached
            .ok_or_else(|| malformed("no list in the answer").into())
    }

    /// Has files and folders kept on this disk.
    pub fn pin(mut self, paths: Vec<String>) -> Result<Vec<PinEntry>, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Pin { paths })?;
        let response = self.receive()?;
        response
            .pinned
            .ok_or_else(|| malformed("no pins in the answer").into())
    }

    /// Lets files and folders be evicted again; returns which pins there were.
    pub fn unpin(mut self, paths: Vec<String>) -> Result<Vec<String>, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Unpin { paths })?;
        let response = self.receive()?;
        response
            .unpinned
            .ok_or_else(|| malformed("no pins in the answer").into())
    }

    /// Has files and folders brought into the cache, and waits for them. `progress` hears once in
    /// a while how far it is.
    pub fn warm(
        mut self,
        paths: Vec<String>,
        mut progress: impl FnMut(&Filled),
    ) -> Result<Filled, ClientError> {
        self.wait_for_the_bucket()?;
        self.send(Request::Warm { paths })?;
        loop {
            let response = self.receive()?;
            let filled = response
                .warmed
                .ok_or_else(|| malformed("neither progress nor an end"))?;
            match response.ok {
                Some(_) => return Ok(filled),
                None => progress(&filled),
            }
        }
    }

    /// Has all bytes on this disk compared with what they are to be.
    pub fn verify(mut self) -> Result<Verified, ClientError> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(DISK_PATIENCE))?;
        self.send(Request::Verify)?;
        let response = self.receive()?;
        response
            .verified
            .ok_or_else(|| malformed("no result in the answer").into())
    }

    /// The mount asks the bucket before it answers.
    fn wait_for_the_bucket(&self) -> io::Result<()> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(BUCKET_PATIENCE))
    }

    /// Waits until everything of `paths` (or of all, if there are none) is in the bucket, at most
    /// `timeout`. `progress` hears once in a
    /// while what is left.
    pub fn sync(
        mut self,
        paths: Vec<String>,
        timeout: Duration,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        self.send(Request::Sync {
            timeout_seconds: timeout.as_secs_f64(),
            paths,
        })?;
        loop {
            match self.receive()? {
                Response { ok: Some(true), .. } => return Ok(()),
                Response {
                    progress: Some(left),
                    ..
                } => progress(left),
                _ => return Err(malformed("neither progress nor an end").into()),
            }
        }
    }

    /// Asks the mount to end, as SIGTERM does.
    pub fn shutdown(mut self) -> Result<(), ClientError> {
        self.send(Request::Shutdown)?;
        self.receive().map(|_| ())
    }

    fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let envelope = Envelope {
            v: PROTOCOL_VERSION,
            request,
        };
        let mut line = serde_json::to_vec(&envelope).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(self.stream.get_mut().write_all(&line)?)
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = Vec::new();
        let mut limited = self.stream.by_ref().take(MAX_RESPONSE_BYTES as u64);
        limited.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let response: Response = serde_json::from_slice(&line).map_err(io::Error::from)?;
        match response.error {
            Some(refusal) => Err(ClientError::Refused(refusal)),
            None => Ok(response),
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
