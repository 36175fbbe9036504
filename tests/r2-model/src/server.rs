//! Sockets: a listener that can be taken away and brought back on the same port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as sync;
use std::task::{Context, Poll};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::front::Front;

/// Enough for any client under test.
const BACKLOG: u32 = 1024;

/// The running server; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Option<Runtime>,
    commands: mpsc::UnboundedSender<(Command, sync::Sender<io::Result<()>>)>,
    port: u16,
}

/// What a test can do to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Change what happens to new connections.
    Connections(Connections),
    /// Cut the open ones.
    Cut,
}

/// What happens to new connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Connections {
    /// They are served.
    #[default]
    Serve,
    /// They are refused: the port is closed.
    Refuse,
    /// They are accepted and at once reset.
    Reset,
    /// They are accepted and never answered.
    BlackHole,
}

impl Server {
    /// Listens on the loopback interface; port 0 takes any that is free.
    pub(crate) fn start(front: Front, port: u16) -> io::Result<Self> {
        // Its own runtime: the test may have none, or one that it blocks.
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("r2-model")
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (commands, receiver) = mpsc::unbounded_channel();
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(entered);
        let gate = Gate {
            port,
            mode: Connections::Serve,
            open: Some(listener),
            held: None,
            front: Arc::new(front),
            connections: JoinSet::new(),
        };
        runtime.spawn(gate.run(receiver));
        Ok(Self {
            runtime: Some(runtime),
            commands,
            port,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Carries a command out before it returns.
    pub(crate) fn command(&self, command: Command) -> io::Result<()> {
        let gone = || io::Error::other("the model's server has ended");
        let (done, wait) = sync::channel();
        self.commands.send((command, done)).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Never waits: the test may be panicking, or inside a runtime of its own.
            runtime.shutdown_background();
        }
    }
}

/// The port, open or closed, and the connections that came through it.
struct Gate {
    port: u16,
    mode: Connections,
    open: Option<TcpListener>,
    /// A bound socket that does not listen: connections are refused, and nobody else, not even
    /// the client's own end, can be given the port meanwhile.
    held: Option<TcpSocket>,
    front: Arc<Front>,
    connections: JoinSet<()>,
}

impl Gate {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<(Command, sync::Sender<io::Result<()>>)>,
    ) {
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some((command, done)) = command else { return };
                    let outcome = self.obey(command).await;
                    // A test that no longer waits needs no answer.
                    let _ = done.send(outcome);
                }
                accepted = accept(self.open.as_ref()) => {
                    if let Ok((stream, _)) = accepted {
                        self.admit(stream);
                    }
                }
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => {}
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        match self.mode {
            Connections::Serve | Connections::Refuse => {
                self.connections
                    .spawn(serve(Arc::clone(&self.front), stream));
            }
            Connections::Reset => {
                self.front.count_failed_connection();
                drop(Socket {
                    stream,
                    reset: Arc::new(AtomicBool::new(true)),
                });
            }
            Connections::BlackHole => {
                self.front.count_failed_connection();
                self.connections.spawn(async move {
                    let _held = stream;
                    std::future::pending().await
                });
            }
        }
    }

    async fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Cut => self.connections.shutdown().await,
            Command::Connections(mode) => {
                self.mode = mode;
                if mode == Connections::Refuse {
                    self.close()?
                } else {
                    self.listen()?
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        if self.open.take().is_some() {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
            self.held = Some(socket);
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        if let Some(socket) = self.held.take() {
            self.open = Some(socket.listen(BACKLOG)?);
        }
        Ok(())
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn serve(front: Arc<Front>, stream: TcpStream) {
    // Small answers should not wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let socket = Socket {
        stream,
        reset: Arc::clone(&reset),
    };
    let handler = service_fn(move |request| {
        let (front, reset) = (Arc::clone(&front), Arc::clone(&reset));
        async move { front.handle(request, &reset).await }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), handler);
    // A client that goes away is no concern of ours.
    let _ = connection.await;
}

/// A connection that ends with a reset, if somebody asked for it.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // Closing a socket that does not linger throws away what is unsent and resets.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
