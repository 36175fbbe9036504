//! Sockets: a listener that can be taken away and brought back on the same port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc as sync;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
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
    /// Refuse connections and cut the open ones.
    Stop,
    /// Listen again.
    Restart,
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
            open: Some(listener),
            held: None,
        };
        runtime.spawn(gate.run(Arc::new(front), receiver));
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

/// The port, open or closed.
struct Gate {
    port: u16,
    open: Option<TcpListener>,
    /// A bound socket that does not listen: connections are refused, and nobody else, not even
    /// the client's own end, can be given the port meanwhile.
    held: Option<TcpSocket>,
}

impl Gate {
    async fn run(
        mut self,
        front: Arc<Front>,
        mut commands: mpsc::UnboundedReceiver<(Command, sync::Sender<io::Result<()>>)>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some((command, done)) = command else { return };
                    let outcome = self.obey(command, &mut connections).await;
                    // A test that no longer waits needs no answer.
                    let _ = done.send(outcome);
                }
                accepted = accept(self.open.as_ref()) => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(Arc::clone(&front), stream));
                    }
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }

    async fn obey(&mut self, command: Command, connections: &mut JoinSet<()>) -> io::Result<()> {
        match command {
            Command::Stop => {
                self.close()?;
                connections.shutdown().await;
                Ok(())
            }
            Command::Restart => self.listen(),
        }
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
    let handler = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { front.handle(request).await }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler);
    // A client that goes away is no concern of ours.
    let _ = connection.await;
}
