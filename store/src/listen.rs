//! From sockets to requests: acceptors, one worker per core, connections.
//!
//! Each worker is a thread with a current-thread runtime; a connection lives on one worker from
//! its first byte to its last, so its HTTP/2 state never crosses a core. One acceptor per
//! listening socket hands each connection to the worker with the fewest. Plain and TLS sockets,
//! and the in-process pipes of an embedded store, differ only here: what comes out is a request
//! for [`Router`].

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::limits::{CONNECTIONS_MAX, TLS_HANDSHAKE_DEADLINE};
use crate::metered::{Greeting, Metered};
use crate::pings::watched::Watched;
use crate::raft::courier;
use crate::rpc::{Connections, Router, Surface};
use crate::socket::{Listener, Socket, Stream};
use crate::tasks::Tasks;
use crate::tls::{PeerCertificate, Tls};

/// HTTP/2 flow-control windows: watch streams and large ranges need more than the 64 KiB default.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// All header fields of one request: a token is the largest of them. It also bounds how many pieces
/// they may come in.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// A client must have said what it is there for by then: begun to speak HTTP/2, or sent the headers
/// of a request.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// The headers of an HTTP/1 client's next request must have come by then. It may be silent until
/// it sends them, and those that keep connections ask every half minute or so.
const HEADERS_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Streams that a client has opened and reset before they were looked at; more end the connection.
const RESET_STREAMS_MAX: usize = 20;

/// Streams reset because of the client's own errors; more end the connection.
const ERROR_STREAMS_MAX: usize = 1024;

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
    match arrival.transport {
        Transport::Pipe(pipe) => {
            let origin = Origin { counts_pings: false, ..Origin::plain(surface) };
            speak(pipe, router, origin, tasks, stop).await;
        }
        Transport::Socket(socket, tls) => {
            let remote = tls.is_some().then(|| socket.remote());
            let socket = match socket.into_stream() {
                Ok(socket) => socket,
                Err(error) => return tracing::warn!(%error, "a connection could not be used"),
            };
            let Some(tls) = tls else {
                return speak(socket, router, Origin::plain(surface), tasks, stop).await;
            };
            let Some(secured) = shake_hands(&tls, socket, remote.as_deref()).await else { return };
            let chain = secured.get_ref().1.peer_certificates();
            let peer = chain.and_then(PeerCertificate::new);
            // Where HTTP shares the port, etcd leaves HTTP/2 over TLS to Go's server, which counts
            // no pings.
            let counts_pings = surface == Surface::Grpc;
            let origin = Origin { surface, secure: true, peer, counts_pings };
            speak(secured, router, origin, tasks, stop).await;
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

/// Where a connection's requests come from.
struct Origin {
    /// What the listener offers.
    surface: Surface,
    /// Whether it speaks TLS.
    secure: bool,
    /// Who the client has proved to be.
    peer: Option<PeerCertificate>,
    /// Whether it may ping too often.
    counts_pings: bool,
}

impl Origin {
    fn plain(surface: Surface) -> Self {
        Self { surface, secure: false, peer: None, counts_pings: surface.serves_grpc() }
    }
}

/// Speaks HTTP/1 or HTTP/2, whichever the client begins with.
async fn speak(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Arc<Router>,
    origin: Origin,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let Connections { max_concurrent_streams, keepalive } = router.connections();
    let mut builder = auto::Builder::new(Spawner(tasks));
    builder
        .http2()
        .timer(TokioTimer::new())
        // etcd sends none with gRPC, and each header of each answer costs.
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(max_concurrent_streams)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_STREAMS_MAX)
        .keep_alive_interval(keepalive.interval)
        .keep_alive_timeout(keepalive.timeout);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_DEADLINE);
    let Origin { surface, secure, peer, counts_pings } = origin;
    let greeting = Greeting::default();
    let io = Metered::new(io, Arc::clone(router.metrics()), greeting.clone());
    let io = Watched::new(io, counts_pings.then_some(keepalive.min_time));
    let greeted = greeting.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
        greeted.given();
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let answer = Arc::clone(&router).route(request, surface, secure);
        answer.map(Ok::<_, std::convert::Infallible>)
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silence(&greeting) => return tracing::debug!("a client had nothing to say"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients that go away in the middle are everyday life.
        tracing::debug!(error, "a connection broke");
    }
}

/// Returns when a client should have said something and has not; otherwise never.
async fn silence(greeting: &Greeting) {
    tokio::time::sleep(GREETING_DEADLINE).await;
    if greeting.was_given() {
        std::future::pending().await
    }
}

/// Lets hyper run a connection's streams as tasks of this worker.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.spawn("stream", stream);
    }
}
