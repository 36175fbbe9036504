//! A long line in front of a server: every byte arrives later, and no faster than the line carries.
//!
//! It imitates a bucket far away for benchmarks and for tests of what is asked for at once. Slow
//! start and loss are not imitated.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Bytes that travel together: little, so that the first ones do not wait for the last.
const PIECE_BYTES: usize = 64 << 10;
/// At least so much may be on its way on one connection.
const LEAST_IN_FLIGHT: u64 = 512 << 10;

/// How long and how wide a line is.
#[derive(Debug, Clone, Copy)]
pub struct LineOptions {
    /// From one end to the other; half a round trip.
    pub delay: Duration,
    /// Bytes a second of one connection in one direction; 0 for any.
    pub connection_rate: u64,
    /// Bytes a second of all connections together in one direction; 0 for any.
    pub total_rate: u64,
    /// Round trips before the first byte of a new connection: 1 for TCP, 1 more for TLS.
    pub connect_round_trips: u32,
}

impl Default for LineOptions {
    fn default() -> LineOptions {
        LineOptions {
            delay: Duration::from_millis(30),
            connection_rate: 50_000_000,
            total_rate: 0,
            connect_round_trips: 2,
        }
    }
}

/// A running line; dropping it cuts all connections.
#[derive(Debug)]
pub struct Line {
    runtime: Option<Runtime>,
    port: u16,
}

impl Line {
    /// Listens on the loopback interface for a server on `port`.
    pub fn start(port: u16, options: LineOptions) -> io::Result<Line> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("line")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let here = listener.local_addr()?.port();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let totals = [
            Pacer::new(options.total_rate),
            Pacer::new(options.total_rate),
        ];
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, server, options, totals.clone()));
            }
        });
        Ok(Line {
            runtime: Some(runtime),
            port: here,
        })
    }

    /// Returns the port of the near end.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// When the next bytes may leave, on a line of so many bytes a second.
#[derive(Debug, Clone)]
struct Pacer {
    rate: u64,
    free_at: Arc<Mutex<Instant>>,
}

impl Pacer {
    fn new(rate: u64) -> Pacer {
        Pacer {
            rate,
            free_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Returns when so many bytes have left.
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let mut free_at = self.free_at.lock();
        let time = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *free_at = now.max(*free_at) + time;
        *free_at
    }
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    options: LineOptions,
    totals: [Pacer; 2],
) -> io::Result<()> {
    let accepted = Instant::now();
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let [total_up, total_down] = totals;
    let direction = |total, open_at| Direction {
        delay: options.delay,
        open_at,
        own: Pacer::new(options.connection_rate),
        total,
        most_in_flight: LEAST_IN_FLIGHT
            .max((options.connection_rate as f64 * (options.delay * 2).as_secs_f64() * 1.5) as u64),
    };
    let handshake = options.delay * 2 * options.connect_round_trips;
    let up = direction(total_up, accepted + handshake).carry(from_client, to_server);
    let down = direction(total_down, accepted).carry(from_server, to_client);
    tokio::join!(up, down);
    Ok(())
}

/// One direction of one connection.
struct Direction {
    delay: Duration,
    /// Nothing leaves before that.
    open_at: Instant,
    own: Pacer,
    total: Pacer,
    most_in_flight: u64,
}

/// What is on its way.
#[derive(Default)]
struct InFlight {
    /// Each with the time of its arrival.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: u64,
    /// The sender has closed its end, or the receiver is gone.
    ended: bool,
}

impl Direction {
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let flight = Mutex::new(InFlight::default());
        let (left, arrived) = (Notify::new(), Notify::new());
        let send = self.send(from, &flight, &left, &arrived);
        tokio::join!(send, deliver(to, &flight, &left, &arrived));
    }

    async fn send(
        &self,
        mut from: OwnedReadHalf,
        flight: &Mutex<InFlight>,
        left: &Notify,
        arrived: &Notify,
    ) {
        loop {
            while flight.lock().bytes >= self.most_in_flight && !flight.lock().ended {
                left.notified().await;
            }
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = from.read_buf(&mut piece).await.unwrap_or(0);
            let now = Instant::now();
            let mut flight = flight.lock();
            if read == 0 || flight.ended {
                flight.ended = true;
                arrived.notify_one();
                return;
            }
            let leaves = self
                .own
                .reserve(read, now)
                .max(self.total.reserve(read, now))
                .max(self.open_at);
            let at = leaves + self.delay;
            let after = flight.pieces.back().map_or(at, |(last, _)| *last);
            flight.pieces.push_back((at.max(after), piece));
            flight.bytes += read as u64;
            arrived.notify_one();
        }
    }
}

async fn deliver(
    mut to: OwnedWriteHalf,
    flight: &Mutex<InFlight>,
    left: &Notify,
    arrived: &Notify,
) {
    loop {
        let (next, ended) = {
            let mut flight = flight.lock();
            (flight.pieces.pop_front(), flight.ended)
        };
        let Some((at, piece)) = next else {
            if ended {
                let _ = to.shutdown().await;
                return;
            }
            arrived.notified().await;
            continue;
        };
        sleep_until(at).await;
        let written = to.write_all(&piece).await;
        let mut flight = flight.lock();
        flight.bytes -= piece.len() as u64;
        if written.is_err() {
            flight.ended = true;
            left.notify_one();
            return;
        }
        left.notify_one();
    }
}
