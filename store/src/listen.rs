//! From sockets to requests: acceptors, one worker per core, connections.
//!
//! Each worker is a thread with a current-thread runtime; a connection lives on one worker from
//! its first byte to its last, so its HTTP/2 state never crosses a core. One acceptor per
//! listening socket hands each connection to the worker with the fewest. Plain and TLS sockets,
//! and the in-process pipes of an embedded store, differ only here: what comes out is a request
//! for [`Router`]. HTTP/2, which nearly all clients speak, is driven by [`http2`]; HTTP/1 by hyper.

mod gather;
mod http2;
mod opening;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::opening::Opened;
use crate::limits::{CONNECTIONS_MAX, TLS_HANDSHAKE_DEADLINE};
use crate::metered::{Heard, Metered};
use crate::pings::watched::Watched;
use crate::raft::courier;
use crate::rpc::{Answering, Router, Surface};
use crate::socket::{Listener, Socket, Stream};
use crate::tasks::Tasks;
use crate::tls::{PeerCertificate, Tls};

/// A client must have said what it is there for by then: begun to speak HTTP/2, or sent the headers
/// of a request.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// The headers of an HTTP/1 client's next request must have come by then. It may be silent until
/// it sends them, and those that keep connections ask every half minute or so.
const HEADERS_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// How long connections may go on after the stop signal.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// Connections a worker has been handed and has not looked at yet.
const HANDED_MAX: usize = 128;

enum Transport {
    Socket(Socket, Option<Arc<Tls>>),
    Pipe(DuplexStream),
}

struct Arrival {
    transport: Transport,
    surface: Surface,
    /// Gives the place back when the connection ends.
    _place: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// The workers, and the way to hand them connections.
#[derive(Clone)]
pub(crate) struct Workers {
    workers: Arc<[Worker]>,
    places: Arc<Semaphore>,
}

struct Worker {
    hand: mpsc::Sender<Arrival>,
    open: Arc<AtomicUsize>,
}

/// The workers' threads, to wait for.
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Waits until all connections have ended; the stop signal must have been given.
    pub(crate) fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a connection worker panicked");
            }
        }
    }
}

impl Workers {
    /// Starts one worker per core.
    pub(crate) fn start(
        router: &Arc<Router>,
        stop: &CancellationToken,
    ) -> io::Result<(Self, Threads)> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for nth in 0..count {
            let (hand, arrivals) = mpsc::channel(HANDED_MAX);
            let open = Arc::new(AtomicUsize::new(0));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Its own: each turn of each connection looks at it, under its lock.
            let stop = stop.child_token();
            let work = work(arrivals, Arc::clone(router), Arc::clone(&open), stop);
            let thread = std::thread::Builder::new()
                .name(format!("client-{nth}"))
                .spawn(move || runtime.block_on(work))?;
            workers.push(Worker { hand, open });
            threads.push(thread);
        }
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok((Self { workers: workers.into(), places }, Threads(threads)))
    }

    /// A connection without a socket, for a client in this process.
    pub(crate) async fn pipe(&self) -> io::Result<DuplexStream> {
        const PIPE_BYTES: usize = 256 << 10;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.hand(Transport::Pipe(ours), Surface::Client, None).await?;
        Ok(theirs)
    }

    async fn hand(
        &self,
        transport: Transport,
        surface: Surface,
        place: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        let worker = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let worker = worker.expect("there is at least one core");
        worker.open.fetch_add(1, Ordering::Relaxed);
        let arrival = Arrival { transport, surface, _place: place };
        worker.hand.send(arrival).await.map_err(|_| io::Error::other("the store has stopped"))
    }

    /// Accepts on a bound socket until told to stop.
    pub(crate) async fn accept(
        self,
        listener: Listener,
        tls: Option<Arc<Tls>>,
        surface: Surface,
        stop: CancellationToken,
    ) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            let place = tokio::select! {
                place = place => place.expect("never closed"),
                () = stop.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let handed = match accepted {
                Ok(socket) => {
                    self.hand(Transport::Socket(socket, tls.clone()), surface, Some(place)).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = handed {
                // Out of descriptors, or the peer was gone already: neither may end the acceptor.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// A worker's life.
async fn work(
    mut arrivals: mpsc::Receiver<Arrival>,
    router: Arc<Router>,
    open: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    // Ends with the runtime: answers must arrive for as long as anybody waits.
    Tasks::new().spawn("courier", courier());
    let tasks = Tasks::new();
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            () = stop.cancelled() => None,
        };
        let Some(arrival) = arrival else { break };
        let router = Arc::clone(&router);
        let left = Leaving(Arc::clone(&open));
        let (stop, streams) = (stop.clone(), tasks.clone());
        tasks.spawn("connection", async move {
            let _left = left;
            serve(arrival, router, streams, stop).await;
        });
    }
    let _ = tokio::time::timeout(DRAIN_DEADLINE, tasks.finish()).await;
}

/// Counts a connection out.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(arrival: Arrival, router: Arc<Router>, tasks: Tasks, stop: CancellationToken) {
    let surface = arrival.surface;
    let stopping = Stopping { tasks, stop };
    let counts_pings = surface.serves_grpc();
    let mut door = Door { router, surface, secure: false, peer: None, counts_pings };
    match arrival.transport {
        Transport::Pipe(pipe) => {
            door.counts_pings = false;
            speak(pipe, door, stopping).await;
        }
        Transport::Socket(socket, tls) => {
            let remote = tls.is_some().then(|| socket.remote());
            let socket = match socket.into_stream() {
                Ok(socket) => socket,
                Err(error) => return tracing::warn!(%error, "a connection could not be used"),
            };
            let Some(tls) = tls else { return speak(socket, door, stopping).await };
            let Some(secured) = shake_hands(&tls, socket, remote.as_deref()).await else { return };
            let chain = secured.get_ref().1.peer_certificates();
            door.peer = chain.and_then(PeerCertificate::new);
            door.secure = true;
            // Where HTTP shares the port, etcd leaves HTTP/2 over TLS to Go's server, which counts
            // no pings.
            door.counts_pings = surface == Surface::Grpc;
            speak(secured, door, stopping).await;
        }
    }
}

/// The TLS handshake, by the rules of this moment.
async fn shake_hands(
    tls: &Tls,
    socket: Stream,
    remote: Option<&str>,
) -> Option<tokio_rustls::server::TlsStream<Stream>> {
    const REJECTED: &str = "rejected connection on client endpoint";
    let acceptor = TlsAcceptor::from(tls.current());
    match tokio::time::timeout(TLS_HANDSHAKE_DEADLINE, acceptor.accept(socket)).await {
        Ok(Ok(secured)) => return Some(secured),
        // Port scanners and health checks of load balancers do this all day.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!("remote-addr" = remote, %error, "{REJECTED}");
        }
        Ok(Err(error)) => tracing::warn!("remote-addr" = remote, %error, "{REJECTED}"),
        Err(_) => {
            let error = "the TLS handshake took too long";
            tracing::warn!("remote-addr" = remote, error, "{REJECTED}");
        }
    }
    None
}

/// Where a connection's requests go, and what is said of where they come from.
struct Door {
    router: Arc<Router>,
    /// What the listener offers.
    surface: Surface,
    /// Whether the connection speaks TLS.
    secure: bool,
    /// Who the client has proved to be.
    peer: Option<PeerCertificate>,
    /// Whether it may ping too often.
    counts_pings: bool,
}

impl Door {
    fn answer<B>(&self, mut request: http::Request<B>) -> Answering
    where
        B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync>,
        B: Send + Unpin + 'static,
    {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        Arc::clone(&self.router).route(request, self.surface, self.secure)
    }
}

/// What a connection needs to end in order.
struct Stopping {
    /// Where its streams run.
    tasks: Tasks,
    /// Given when no more requests are to be taken.
    stop: CancellationToken,
}

/// Speaks HTTP/1 or HTTP/2, whichever the client begins with.
async fn speak(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    stopping: Stopping,
) {
    let heard = Heard::new();
    let io = Metered::new(io, Arc::clone(door.router.metrics()), heard.clone());
    let min_time = door.router.connections().keepalive.min_time;
    let io = Watched::new(io, door.counts_pings.then_some(min_time));
    let deadline = Instant::now() + GREETING_DEADLINE;
    let opened = tokio::select! {
        opened = Opened::read(io) => opened,
        () = tokio::time::sleep_until(deadline) => return quiet(),
        () = stopping.stop.cancelled() => return,
    };
    let ended = match opened {
        Ok(io) if io.is_over() => return,
        // Once it has begun to speak HTTP/2 a client may be silent for as long as it likes: that is
        // what an idle gRPC client is.
        Ok(io) if io.is_http2() => http2::serve(io, door, heard, stopping).await,
        Ok(io) => speak_http1(io, door, deadline, stopping.stop).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // Clients that go away in the middle are everyday life.
        tracing::debug!(%error, "a connection broke");
    }
}

/// A connection of HTTP/1, one request after the other.
async fn speak_http1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    deadline: Instant,
    stop: CancellationToken,
) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        hyper::service::service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            door.answer(request).whole().map(Ok::<_, std::convert::Infallible>)
        })
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_DEADLINE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    // A client that connects and asks nothing holds a place that others may need.
    let silence = async {
        tokio::time::sleep_until(deadline).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silence => {
            quiet();
            return Ok(());
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

fn quiet() {
    tracing::debug!("a client had nothing to say");
}
