//! Connections to the bucket: opened when a request needs one, and some in advance.
//!
//! A new connection costs two round trips before its first request. Who reads on after the first
//! bytes of a file soon has many requests under way at once, so at the first GET after a quiet time
//! the connections for them are opened beside it: no request is made for that, so it costs no
//! operation. hyper's pool cannot be filled from outside; it asks here when it has no connection to
//! give out, and gets one that is open already.
//!
//! HTTP/2 is not offered: all requests would share one connection, and with it its window and each
//! of its losses.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat, SdkBody};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use http::header::DATE;
use http::{HeaderMap, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;
use tower_service::Service;

use super::route::{Line, Route, tls};
use crate::config::R2Settings;

/// Idle connections kept for the next request. More than the requests that run at once by
/// default; each costs a socket and some 30 KiB of TLS buffers.
const MAX_IDLE_CONNECTIONS: usize = 32;
/// Cloudflare closes idle connections after some minutes (undocumented); ours go first, so that a
/// request seldom meets a closing connection. Those in between are warm: a new one costs two round
/// trips more, and whoever plays comes back after a minute or two.
const IDLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(180);
/// Connections that there are to be when many requests begin: as many as fill a line of 60 ms.
const WANTED_CONNECTIONS: usize = 16;
/// One that was opened in advance and has seen no request goes after this time: a server need not
/// wait for long, and who has only looked at a file needs it no more.
const SPARE_LIFETIME: Duration = Duration::from_secs(15);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Stream = MaybeHttpsStream<Line>;

/// The connections of one client.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    connector: HttpsConnector<Route>,
    timeout: Duration,
    /// Those that are open or being opened.
    count: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// What the last answer gave as its date, and when it came.
    dated: Mutex<Option<(SystemTime, std::time::Instant)>>,
}

#[derive(Default)]
struct State {
    /// Opened in advance, with the time at which they go.
    spare: Vec<(Instant, Open)>,
    /// When some were last opened in advance.
    opened_at: Option<Instant>,
}

impl Connections {
    /// Returns none; each gets so long to be made.
    pub(super) fn new(timeout: Duration, settings: &R2Settings) -> Connections {
        let with_tls = !settings.endpoint.starts_with("http://");
        let tls = tls(with_tls, settings.authorities.as_ref());
        let route = Route::of(settings, &tls);
        Connections(Arc::new(Inner {
            connector: HttpsConnector::from((route, tls)),
            timeout,
            count: Arc::default(),
            state: Mutex::default(),
            dated: Mutex::default(),
        }))
    }

    /// Returns the time by the server's clock, to the second.
    pub(super) fn time(&self) -> Option<SystemTime> {
        let (date, came_at) = (*self.0.dated.lock())?;
        Some(date + came_at.elapsed())
    }

    fn note_date(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            *self.0.dated.lock() = Some((date, std::time::Instant::now()));
        }
    }

    /// Returns the SDK's way to send requests.
    pub(super) fn http_client(&self) -> SharedHttpClient {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_LIFETIME)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(self.clone());
        let requests = SharedHttpConnector::new(Requests {
            client,
            connections: self.clone(),
        });
        http_client_fn(move |_, _| requests.clone())
    }

    /// Opens the connections that many requests at once will need, unless that was done lately:
    /// those that were used are kept by the pool.
    pub(super) fn open_in_advance(&self, uri: &Uri) {
        let now = Instant::now();
        {
            let mut state = self.0.state.lock();
            let since = state.opened_at.map(|at| now.saturating_duration_since(at));
            if since.is_some_and(|since| since < IDLE_CONNECTION_LIFETIME) {
                return;
            }
            state.opened_at = Some(now);
        }
        // One more is for the request that this is for.
        let open = self.0.count.load(Ordering::Relaxed).max(1);
        for _ in open..WANTED_CONNECTIONS {
            let (connections, opening) = (self.clone(), self.open(uri.clone()));
            tokio::spawn(async move {
                let Ok(open) = opening.await else { return };
                let end = Instant::now() + SPARE_LIFETIME;
                connections.0.state.lock().spare.push((end, open));
                tokio::time::sleep_until(end).await;
                connections.drop_old();
            });
        }
    }

    fn drop_old(&self) {
        let now = Instant::now();
        let mut old = Vec::new();
        let mut state = self.0.state.lock();
        old.extend(state.spare.extract_if(.., |(end, _)| *end <= now));
        // Closed without the lock.
        drop(state);
    }

    /// Takes one that was opened in advance and that the server has not closed.
    fn take_spare(&self) -> Option<Open> {
        loop {
            let (end, open) = self.0.state.lock().spare.pop()?;
            if end > Instant::now() && open.is_alive() {
                return Some(open);
            }
        }
    }

    fn open(&self, uri: Uri) -> impl Future<Output = Result<Open, BoxError>> + Send + 'static {
        let counted = Counted::new(&self.0.count);
        let connecting = self.0.connector.clone().call(uri);
        let connecting = tokio::time::timeout(self.0.timeout, connecting);
        async move {
            Ok(Open {
                stream: connecting.await.map_err(|_| no_connection())??,
                _counted: counted,
            })
        }
    }
}

fn no_connection() -> BoxError {
    io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into()
}

/// What hyper's pool asks for a connection.
impl Service<Uri> for Connections {
    type Response = Open;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Open, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self.take_spare() {
            Some(open) => Box::pin(std::future::ready(Ok(open))),
            None => Box::pin(self.open(uri)),
        }
    }
}

/// Counts a connection as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open connection.
pub(super) struct Open {
    stream: Stream,
    _counted: Counted,
}

impl Open {
    fn socket(&self) -> BorrowedFd<'_> {
        let line = match &self.stream {
            MaybeHttpsStream::Http(line) => line,
            MaybeHttpsStream::Https(stream) => stream.inner().get_ref().0.inner(),
        };
        match line {
            MaybeHttpsStream::Http(stream) => stream.inner().as_fd(),
            MaybeHttpsStream::Https(stream) => stream.inner().get_ref().0.inner().inner().as_fd(),
        }
    }

    /// Whether the other end has not closed it, as far as is known here. Tickets of TLS may wait to
    /// be read, so bytes alone say nothing.
    fn is_alive(&self) -> bool {
        let mut sockets = [PollFd::from_borrowed_fd(self.socket(), PollFlags::RDHUP)];
        let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let polled = poll(&mut sockets, Some(&Timespec::default()));
        polled.is_ok() && !sockets[0].revents().intersects(closed)
    }
}

impl Connection for Open {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Open {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl Write for Open {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Sends the SDK's requests.
struct Requests {
    client: Client<Connections, SdkBody>,
    connections: Connections,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Requests")
    }
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        let answer = self.client.request(request);
        let connections = self.connections.clone();
        HttpConnectorFuture::new(async move {
            // What they mean is the same for all that comes to no answer (`errors`).
            let answer = answer
                .await
                .map_err(|error| ConnectorError::io(error.into()))?;
            connections.note_date(answer.headers());
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn at(address: SocketAddr) -> (Connections, Uri) {
        let endpoint = format!("http://{address}/");
        let uri = endpoint.parse().unwrap();
        let settings = R2Settings {
            endpoint,
            ..R2Settings::default()
        };
        (Connections::new(TIMEOUT, &settings), uri)
    }

    async fn wait_for(what: &str, wanted: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !wanted() {
            assert!(Instant::now() < end, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn connections_are_opened_in_advance_once_and_given_out_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut connections, uri) = at(listener.local_addr().unwrap());
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let log = accepted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                log.lock().push(stream);
            }
        });
        let first = connections.call(uri.clone()).await.unwrap();
        connections.open_in_advance(&uri);
        connections.open_in_advance(&uri);
        let inner = connections.0.clone();
        let spare = || inner.state.lock().spare.len();
        wait_for("15 spare ones", || spare() == WANTED_CONNECTIONS - 1).await;
        assert_eq!(inner.count.load(Ordering::Relaxed), WANTED_CONNECTIONS);
        wait_for("16 at the server", || {
            accepted.lock().len() == WANTED_CONNECTIONS
        })
        .await;

        let mut taken = vec![first];
        for _ in 1..WANTED_CONNECTIONS {
            taken.push(connections.call(uri.clone()).await.unwrap());
        }
        assert_eq!(spare(), 0);
        assert_eq!(
            accepted.lock().len(),
            WANTED_CONNECTIONS,
            "no other was opened"
        );
        taken.push(connections.call(uri.clone()).await.unwrap());
        assert_eq!(inner.count.load(Ordering::Relaxed), WANTED_CONNECTIONS + 1);
        drop(taken);
        assert_eq!(inner.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_the_server_has_closed_is_not_given_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut connections, uri) = at(listener.local_addr().unwrap());
        connections.open_in_advance(&uri);
        for _ in 1..WANTED_CONNECTIONS {
            // Closed at once.
            listener.accept().await.unwrap();
        }
        let inner = connections.0.clone();
        wait_for("all of them", || {
            let state = inner.state.lock();
            let open = |(_, open): &(_, Open)| open.is_alive();
            state.spare.len() == WANTED_CONNECTIONS - 1 && !state.spare.iter().any(open)
        })
        .await;
        let serving = tokio::spawn(async move { listener.accept().await.unwrap() });
        let open = connections.call(uri).await.unwrap();
        assert!(open.is_alive());
        assert_eq!(
            inner.count.load(Ordering::Relaxed),
            1,
            "the others have gone"
        );
        drop(serving.await.unwrap());
    }

    #[tokio::test]
    async fn the_time_is_that_of_the_last_answer_that_told_it() {
        let (connections, _) = at("127.0.0.1:9".parse().unwrap());
        assert_eq!(connections.time(), None);
        let mut headers = HeaderMap::new();
        for (text, seconds) in [
            ("Tue, 24 Nov 2026 11:51:55 GMT", 1_795_521_115),
            ("no date", 1_795_521_115),
            ("Tue, 24 Nov 2026 11:51:50 GMT", 1_795_521_110),
        ] {
            headers.insert(DATE, text.parse().unwrap());
            connections.note_date(&headers);
            let told = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let since = connections.time().unwrap().duration_since(told);
            assert!(since.unwrap() < Duration::from_secs(5), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_nobody_needed_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (connections, uri) = at(listener.local_addr().unwrap());
        connections.open_in_advance(&uri);
        let mut streams = Vec::new();
        for _ in 1..WANTED_CONNECTIONS {
            streams.push(listener.accept().await.unwrap());
        }
        tokio::time::sleep(SPARE_LIFETIME + Duration::from_secs(1)).await;
        let inner = connections.0.clone();
        assert!(inner.state.lock().spare.is_empty());
        assert_eq!(inner.count.load(Ordering::Relaxed), 0);
    }
}
