//! Where monitoring gets the metrics: over HTTP, or from a file that is renewed.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::exposition::Exposition;
use crate::disk;

/// How many may be connected at once: a monitor or two, and somebody who looks.
const MAX_CONNECTIONS: usize = 8;

/// How long one connection may last.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the file is renewed: Prometheus' usual pace.
const FILE_EVERY: Duration = Duration::from_secs(15);

/// The node exporter, another user, reads the file. There is nothing secret in it.
const FILE_MODE: u32 = 0o644;

/// What offers the metrics of a mount. When it is dropped they are gone, the file too: a value that
/// nobody renews would look like one that does not change.
#[derive(Debug, Default)]
pub struct Exports {
    tasks: Vec<JoinHandle<()>>,
    file: Option<PathBuf>,
}

impl Drop for Exports {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Exports {
    /// Answers at `address` from now on. Must be called on a runtime.
    ///
    /// # Errors
    /// When the address is taken, or not this machine's.
    pub fn serve(&mut self, address: SocketAddr, exposition: Arc<Exposition>) -> io::Result<()> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        log::info!("metrics at http://{}/metrics", listener.local_addr()?);
        self.tasks.push(tokio::spawn(accept(listener, exposition)));
        Ok(())
    }

    /// Writes `file` now and then. Must be called on a runtime.
    ///
    /// # Errors
    /// When it cannot be written now.
    pub fn write(&mut self, file: &Path, exposition: Arc<Exposition>) -> io::Result<()> {
        write_file(file, &exposition.text())?;
        self.file = Some(file.into());
        self.tasks
            .push(tokio::spawn(renew(file.into(), exposition)));
        Ok(())
    }
}

async fn renew(file: PathBuf, exposition: Arc<Exposition>) {
    loop {
        tokio::time::sleep(FILE_EVERY).await;
        let (file, exposition) = (file.clone(), exposition.clone());
        let written = tokio::task::spawn_blocking(move || write_file(&file, &exposition.text()));
        if let Ok(Err(error)) = written.await {
            log::warn!("METRICS_FILE cannot be written: {error}");
        }
    }
}

fn write_file(file: &Path, text: &str) -> io::Result<()> {
    disk::write_atomic_with(file, |writer| {
        writer.write_all(text.as_bytes())?;
        writer
            .get_ref()
            .set_permissions(Permissions::from_mode(FILE_MODE))
    })
}

async fn accept(listener: TcpListener, exposition: Arc<Exposition>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Who comes meanwhile waits in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let exposition = exposition.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(PATIENCE, answer(stream, exposition)).await;
        });
    }
}

async fn answer(stream: TcpStream, exposition: Arc<Exposition>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let exposition = exposition.clone();
        async move { Ok::<_, Infallible>(respond(&request, &exposition)) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        log::debug!("metrics: {error}");
    }
}

fn respond(request: &Request<Incoming>, exposition: &Exposition) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            (StatusCode::OK, prometheus::TEXT_FORMAT, exposition.text())
        }
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "the metrics are at /metrics\n".into(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(kind) = kind.parse() {
        headers.insert(CONTENT_TYPE, kind);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    }
    response
}
