//! The mount's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};

use super::{
    Envelope, MAX_REQUEST_BYTES, MountIdentity, PROTOCOL_VERSION, Progress, Refusal, RefusalCode,
    Request, Response, SOCKET_NAME, StatusDocument, StatusSource, with_socket_path,
};

/// How many commands may be connected at once. A `--watch` or two and a monitor fit in easily.
const MAX_CONNECTIONS: usize = 16;

/// How long a command may take to say what it wants, or to take in an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that a `sync` is waited for, whatever the client asks.
const MAX_SYNC: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a waiting `sync` tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Answers the commands of one mount.
pub struct Server {
    identity: MountIdentity,
    source: Arc<dyn StatusSource>,
    shutdown: Arc<Notify>,
    /// The user who, beside root, may ask.
    owner: u32,
}

/// The socket's file, which goes when this is dropped, so that commands see at once that nobody
/// answers.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the socket in `staging_dir`. The caller holds that directory's lock, so a socket that
/// lies there already is left from a process that died.
pub fn bind(staging_dir: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = with_socket_path(staging_dir, |path| {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Until here only the directory's own mode, 0700, keeps others out.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })?;
    Ok((listener, SocketFile(staging_dir.join(SOCKET_NAME))))
}

impl Server {
    /// Returns a server for the mount `identity`. It notifies `shutdown` when asked to end.
    pub fn new(
        identity: MountIdentity,
        source: Arc<dyn StatusSource>,
        shutdown: Arc<Notify>,
    ) -> Self {
        Self {
            identity,
            source,
            shutdown,
            owner: rustix::process::geteuid().as_raw(),
        }
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, listener: UnixListener) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to come free.
                    log::warn!("control socket: {error}");
                    tokio::time::sleep(PROGRESS_EVERY).await;
                    continue;
                }
            };
            let server = server.clone();
            let place = places.clone().try_acquire_owned();
            tokio::spawn(async move {
                let answered = match place {
                    Ok(_place) => server.answer(stream).await,
                    Err(_) => refuse_busy(stream).await,
                };
                if let Err(error) = answered {
                    log::debug!("control socket: {error}");
                }
            });
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let asking = stream.peer_cred()?.uid();
        let (reader, mut writer) = stream.into_split();
        if asking != 0 && asking != self.owner {
            let message = format!("user {asking} is neither root nor user {}", self.owner);
            return refuse(&mut writer, Refusal::new(RefusalCode::Forbidden, message)).await;
        }
        let mut line = Vec::new();
        let mut limited = BufReader::new(reader.take(MAX_REQUEST_BYTES as u64 + 1));
        tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        let done = Response::done();
        let response = match parse(&line) {
            Ok(Request::Sync {
                timeout_seconds,
                paths,
            }) => {
                let paths = self.below_mountpoint(paths);
                return self.sync(&mut writer, timeout_seconds, &paths).await;
            }
            Ok(Request::Warm { paths }) => {
                let paths = self.below_mountpoint(paths);
                return self.warm(&mut writer, &paths).await;
            }
            Ok(Request::Shutdown) => {
                let sent = send(&mut writer, &done).await;
                self.shutdown.notify_one();
                return sent;
            }
            Ok(request) => self.carry_out(request).await,
            Err(refusal) => Err(refusal),
        };
        match response {
            Ok(response) => send(&mut writer, &response).await,
            Err(refusal) => refuse(&mut writer, refusal).await,
        }
    }

    /// Carries out what needs one answer.
    async fn carry_out(&self, request: Request) -> Result<Response, Refusal> {
        let mut response = Response::done();
        match request {
            Request::Status => {
                response.status = Some(StatusDocument {
                    identity: self.identity.clone(),
                    report: self.source.report(),
                });
            }
            Request::Queue => response.queue = Some(self.source.queue()),
            Request::Conflicts => response.conflicts = Some(self.source.conflicts()),
            Request::Retry { paths } => {
                let paths = self.below_mountpoint(paths);
                response.retried = Some(self.source.retry(&paths));
            }
            Request::Flush { paths } => {
                let paths = self.below_mountpoint(paths);
                response.flushed = Some(self.source.flush(&paths)?);
            }
            Request::Pause => self.source.pause()?,
            Request::Resume => self.source.resume()?,
            Request::Confirm { paths } => {
                let paths = self.below_mountpoint(paths);
                response.confirmed = Some(self.source.confirm(&paths)?);
            }
            Request::Discard { paths } => {
                let paths = self.below_mountpoint(paths);
                response.restored = Some(self.source.discard(&paths).await);
            }
            Request::Orphans => response.orphans = Some(self.source.orphans()),
            Request::Adopt { folder } => {
                let folder = self.below_mountpoint(folder.into_iter().collect()).pop();
                let adopted = self.source.adopt(folder.as_deref());
                let refuse = |reason| Refusal::new(RefusalCode::BadRequest, reason);
                response.restored = Some(adopted.map_err(refuse)?);
            }
            Request::Trash { paths } => {
                let paths = self.below_mountpoint(paths);
                response.trash = Some(self.source.trash(&paths).await);
            }
            Request::Restore { paths, at } => {
                let paths = self.below_mountpoint(paths);
                let restored = self.source.restore(&paths, at.as_deref()).await;
                let refuse = |reason| Refusal::new(RefusalCode::BadRequest, reason);
                response.restored = Some(restored.map_err(refuse)?);
            }
            Request::Share { path, seconds } => {
                let path = self.below_mountpoint(vec![path]).concat();
                let valid = Duration::from_secs(seconds);
                response.shared = Some(self.source.share(&path, valid).await?);
            }
            Request::Refresh { paths } => {
                let paths = self.below_mountpoint(paths);
                response.refreshed = Some(self.source.refresh(&paths).await);
            }
            Request::Verify => response.verified = Some(self.source.verify().await),
            Request::Cached { paths } => {
                let paths = self.below_mountpoint(paths);
                response.cached = Some(self.source.cached(&paths));
            }
            Request::Pin { paths } => {
                let paths = self.below_mountpoint(paths);
                response.pinned = Some(self.source.pin(&paths).await?);
            }
            Request::Unpin { paths } => {
                let paths = self.below_mountpoint(paths);
                response.unpinned = Some(self.source.unpin(&paths).await?);
            }
            // They are answered where the connection is.
            Request::Sync { .. } | Request::Warm { .. } | Request::Shutdown => {}
        }
        Ok(response)
    }

    /// Takes the mount point off paths that name it.
    fn below_mountpoint(&self, paths: Vec<String>) -> Vec<String> {
        let below = |path: String| {
            let rest = std::path::Path::new(&path).strip_prefix(&self.identity.mountpoint);
            match rest.ok().and_then(std::path::Path::to_str) {
                Some(rest) => rest.to_owned(),
                None => path,
            }
        };
        paths.into_iter().map(below).collect()
    }

    /// Waits for the queue, telling once in a while how far it is. A client that has gone away is
    /// noticed then.
    async fn sync(
        &self,
        writer: &mut OwnedWriteHalf,
        timeout_seconds: f64,
        paths: &[String],
    ) -> io::Result<()> {
        let timeout = Duration::try_from_secs_f64(timeout_seconds).unwrap_or(MAX_SYNC);
        let deadline = tokio::time::sleep(timeout.min(MAX_SYNC));
        let done = self.source.sync(paths);
        tokio::pin!(deadline, done);
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            let progress = tokio::select! {
                biased;
                ended = &mut done => {
                    return match ended {
                        Ok(()) => send(writer, &Response::done()).await,
                        Err(refusal) => refuse(writer, refusal).await,
                    };
                }
                () = &mut deadline => None,
                _ = ticks.tick() => Some(self.progress()),
            };
            let Some(progress) = progress else {
                let left = self.source.report().shutdown;
                let message = format!(
                    "{} files ({} bytes) are still not in the bucket",
                    left.files, left.bytes
                );
                return refuse(writer, Refusal::new(RefusalCode::Timeout, message)).await;
            };
            send(
                writer,
                &Response {
                    progress: Some(progress),
                    ..Response::empty()
                },
            )
            .await?;
        }
    }

    /// Brings files, telling once in a while how far it is. Ends when the client has gone away.
    async fn warm(&self, writer: &mut OwnedWriteHalf, paths: &[String]) -> io::Result<()> {
        let (sender, mut told) = tokio::sync::mpsc::channel(1);
        let warm = self.source.warm(paths, sender);
        tokio::pin!(warm);
        loop {
            let mut response = Response::empty();
            tokio::select! {
                biased;
                ended = &mut warm => match ended {
                    Ok(filled) => {
                        response.ok = Some(true);
                        response.warmed = Some(filled);
                        return send(writer, &response).await;
                    }
                    Err(refusal) => return refuse(writer, refusal).await,
                },
                Some(filled) = told.recv() => response.warmed = Some(filled),
            }
            send(writer, &response).await?;
        }
    }

    fn progress(&self) -> Progress {
        let uploads = self.source.report().uploads;
        Progress {
            queued: uploads.queued,
            queued_bytes: uploads.queued_bytes,
        }
    }
}

/// Reads a request. Its version is looked at first: the rest may mean something else there.
fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let bad = |message: String| Refusal::new(RefusalCode::BadRequest, message);
    if line.len() > MAX_REQUEST_BYTES {
        return Err(bad(format!("longer than {MAX_REQUEST_BYTES} bytes")));
    }
    let value: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    let version = value.get("v").and_then(serde_json::Value::as_u64);
    if version != Some(PROTOCOL_VERSION.into()) {
        let message = format!("this mount speaks version {PROTOCOL_VERSION}");
        return Err(Refusal::new(RefusalCode::UnsupportedVersion, message));
    }
    let envelope: Envelope = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    Ok(envelope.request)
}

async fn refuse_busy(stream: UnixStream) -> io::Result<()> {
    let message = format!("more than {MAX_CONNECTIONS} commands are connected");
    let (_, mut writer) = stream.into_split();
    refuse(&mut writer, Refusal::new(RefusalCode::Busy, message)).await
}

async fn refuse(writer: &mut OwnedWriteHalf, refusal: Refusal) -> io::Result<()> {
    send(writer, &Response::refused(refusal)).await
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, writer.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly_in_what_matters() {
        assert_eq!(
            parse(br#"{"v":1,"request":"status"}"#).unwrap(),
            Request::Status
        );
        assert_eq!(
            parse(br#"{"v":1,"request":"shutdown","x":2}"#).unwrap(),
            Request::Shutdown
        );
        let sync = parse(br#"{"v":1,"request":"sync","timeout_seconds":1.5}"#).unwrap();
        assert_eq!(
            sync,
            Request::Sync {
                timeout_seconds: 1.5,
                paths: Vec::new(),
            }
        );
        let code = |line: &[u8]| parse(line).unwrap_err().code;
        for wrong in [
            &b""[..],
            b"\xff",
            b"[]x",
            br#"{"v":1}"#,
            br#"{"v":1,"request":"format_disk"}"#,
            br#"{"v":1,"request":"sync"}"#,
            &[b' '; MAX_REQUEST_BYTES + 1],
        ] {
            assert_eq!(
                code(wrong),
                RefusalCode::BadRequest,
                "{:?}",
                wrong.escape_ascii()
            );
        }
        assert_eq!(
            code(br#"{"v":2,"request":"x"}"#),
            RefusalCode::UnsupportedVersion
        );
        assert_eq!(
            code(br#"{"request":"status"}"#),
            RefusalCode::UnsupportedVersion
        );
    }
}
