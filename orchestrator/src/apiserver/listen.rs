//! Connections: accept, handshake, serve, stop.
//!
//! A connection costs something before anybody has proved anything, so each step has a bound: how
//! many connections there are, how long a handshake and a request's head may take, how many
//! streams one connection carries. A listener that cannot accept, for want of file descriptors
//! say, waits a moment and tries again: it never ends by itself.
//!
//! Stopping: listeners close, connections are told to finish what they have begun, and whatever is
//! left after [`GRACE`] is cut.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::identity::{Authenticator, Proof};
use super::respond::Body;

/// Connections held at one time; more wait in the kernel's queue. Each costs some ten kilobytes.
const CONNECTIONS_MAX: usize = 4096;
/// A client that has not finished its handshake by then is cut.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request must come within this time; so long may a connection idle, too.
const HEAD: Duration = Duration::from_secs(90);
/// Requests on one HTTP/2 connection at one time, as upstream.
const STREAMS_MAX: u32 = 250;
/// Bytes of headers in one request.
const HEADERS_MAX: u32 = 64 * 1024;
/// How long a silent HTTP/2 peer is believed to be there.
const PING: Duration = Duration::from_secs(30);
/// What connections get to finish their requests when the server stops.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request from a peer whose certificate was worth `proof`.
    fn handle(
        &self,
        proof: &Proof,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves one listener until `stop`, then until its connections are done.
pub(crate) async fn serve<H: Handler>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    authenticator: Arc<Authenticator>,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, authenticator) = (acceptor.clone(), authenticator.clone());
        let (handler, stop) = (handler.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(reason) = connection(stream, acceptor, authenticator, handler, stop).await {
                tracing::debug!(reason, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Whatever is left is aborted when the set is dropped.
    let _ = tokio::time::timeout(GRACE, drained).await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// One connection from handshake to end. The error says why it ended early, for the debug log.
async fn connection<H: Handler>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    authenticator: Arc<Authenticator>,
    handler: Arc<H>,
    stop: CancellationToken,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| "handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let proof = Arc::new(authenticator.certificate(chain, UnixTime::now()));
    let service = service_fn(move |request| {
        let (handler, proof) = (handler.clone(), proof.clone());
        async move { Ok::<_, Infallible>(handler.handle(&proof, request).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(|error| error.to_string())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .keep_alive_interval(PING);
    builder
}
