//! The kubelet's own HTTPS server on port 10250: container logs, health, the pods it runs.
//!
//! It admits one client: the apiserver, by a certificate of the cluster's CA with the apiserver's
//! name. Everybody else ends in the TLS handshake or with 403. What upstream's kubelet also serves
//! (exec, attach, portForward, stats, metrics) is not built and answers 501.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::logs::{Filter, Query, entry};
use super::running::Running;
use crate::api::Key;

/// Connections beyond this many at once wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// A client that does not finish the handshake within this long is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a followed log is looked at once everything in it is told.
const FOLLOW_STEP: Duration = Duration::from_millis(50);
/// Log text is handed over in pieces of about this size.
const CHUNK: usize = 32 << 10;
/// Longer lines than any writer of ours makes end the reading.
const LINE_MAX: usize = 1 << 20;

type Body = BoxBody<Bytes, io::Error>;

/// Certificates of the server, and who may come.
#[derive(Clone)]
pub struct ServerTls {
    /// The server's certificate chain, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// The CA that vouches for clients, PEM.
    pub client_ca: String,
    /// Common names of the clients that are admitted.
    pub admitted: BTreeSet<String>,
}

impl std::fmt::Debug for ServerTls {
    /// Without the key: it must not reach a log.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ServerTls").field("admitted", &self.admitted).finish_non_exhaustive()
    }
}

/// The server.
pub(super) struct Server {
    acceptor: TlsAcceptor,
    admitted: BTreeSet<String>,
    running: Arc<Running>,
    log_dir: PathBuf,
}

impl Server {
    /// Checks the certificates.
    pub(super) fn new(
        tls: &ServerTls,
        running: Arc<Running>,
        log_dir: PathBuf,
    ) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(tls.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the kubelet's certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes())
            .map_err(|error| format!("the kubelet's key: {error}"))?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(tls.client_ca.as_bytes()) {
            root.map_err(|error| error.to_string())
                .and_then(|root| roots.add(root).map_err(|error| error.to_string()))
                .map_err(|error| format!("the client CA: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| format!("the client CA: {error}"))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| format!("the kubelet's certificate: {error}"))?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            admitted: tls.admitted.clone(),
            running,
            log_dir,
        })
    }

    /// Serves until `stop`; running answers are cut off.
    pub(super) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Arc::clone(&server).serve(stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the kubelet's server cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let handshake = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client of the kubelet failed its handshake");
                return;
            }
            Err(_) => return,
        };
        let admitted = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| common_name(chain.first()?))
            .is_some_and(|name| self.admitted.contains(&name));
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move {
                Ok::<_, std::convert::Infallible>(if admitted {
                    server.answer(&request).await
                } else {
                    text(StatusCode::FORBIDDEN, "Forbidden: only the apiserver is admitted")
                })
            }
        });
        // A client that goes away mid-answer is its own business.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if request.method() != http::Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served");
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["pods"] => self.pods(),
            ["containerLogs", namespace, pod, container] => {
                let query = request.uri().query().unwrap_or("");
                self.logs(namespace, pod, container, query).await
            }
            [
                "exec" | "attach" | "portForward" | "run" | "metrics" | "stats" | "checkpoint",
                ..,
            ] => text(StatusCode::NOT_IMPLEMENTED, "this kubelet does not serve that yet"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn pods(&self) -> Response<Body> {
        let list = serde_json::json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.running.objects(),
        });
        let mut response = text(StatusCode::OK, list.to_string());
        let kind = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }

    async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Response<Body> {
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        };
        let key = Key::namespaced(namespace, pod);
        let Some(attempt) = self.running.attempt(&key, container) else {
            let message = format!("container \"{container}\" in pod \"{pod}\" is not on this node");
            return text(StatusCode::NOT_FOUND, message);
        };
        let wanted = match (attempt.latest, query.previous) {
            (Some(latest), false) => Some(latest),
            (Some(latest), true) => latest.checked_sub(1),
            (None, _) => None,
        };
        let Some(wanted) = wanted else {
            let message = if query.previous {
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
            } else {
                format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: {}",
                    attempt.waiting
                )
            };
            return text(StatusCode::BAD_REQUEST, message);
        };
        let directory = log_directory(&self.log_dir, namespace, pod, &attempt.uid);
        let path = directory.join(container).join(format!("{wanted}.log"));
        let reader = LogReader {
            path,
            query,
            running: Arc::clone(&self.running),
            key,
            container: container.to_owned(),
            attempt: wanted,
        };
        let (pieces, stream) = mpsc::channel(4);
        // The body drives the reading: it ends with the connection, or with the log.
        let produce = async move {
            if let Err(error) = reader.send(&pieces).await {
                let _ = pieces.send(Err(error)).await;
            }
        };
        let body = StreamBody::new(driven(produce, stream));
        let mut response = Response::new(BodyExt::boxed(body));
        let kind = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

/// A stream of what `produce` sends, which polls `produce` itself: no task is left behind.
fn driven(
    produce: impl Future<Output = ()> + Send + Sync + 'static,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> impl tokio_stream::Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync {
    let produce = Box::pin(produce);
    let nothing = futures_util::stream::once(produce).filter_map(|()| None);
    ReceiverStream::new(pieces).map(|piece| piece.map(Frame::data)).merge(nothing)
}

/// Where a pod's logs are.
pub(super) fn log_directory(root: &Path, namespace: &str, pod: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{pod}_{uid}"))
}

struct LogReader {
    path: PathBuf,
    query: Query,
    running: Arc<Running>,
    key: Key,
    container: String,
    attempt: u32,
}

impl LogReader {
    async fn send(self, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let now = Timestamp::now();
        let lines = if self.query.tail_lines.is_some() { self.count(now).await? } else { 0 };
        let mut filter = Filter::new(&self.query, now, lines);
        for old in (1..=4).rev() {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{old}"));
            if let Ok(file) = tokio::fs::File::open(name).await {
                let mut reader = BufReader::new(file);
                if !self.drain(&mut reader, &mut filter, pieces).await? {
                    return Ok(());
                }
            }
        }
        let mut reader = BufReader::new(tokio::fs::File::open(&self.path).await?);
        loop {
            // Asked before reading: what was written before the end is read after it.
            let alive = self.running.is_running(&self.key, &self.container, self.attempt);
            if !self.drain(&mut reader, &mut filter, pieces).await? {
                return Ok(());
            }
            if let Some(next) = self.rotated(&reader).await? {
                if !self.drain(&mut reader, &mut filter, pieces).await? {
                    return Ok(());
                }
                reader = BufReader::new(next);
                continue;
            }
            if !self.query.follow || !alive {
                return Ok(());
            }
            tokio::select! {
                () = pieces.closed() => return Ok(()),
                () = tokio::time::sleep(FOLLOW_STEP) => {}
            }
        }
    }

    /// The file now at the path, if the one being read was set aside.
    async fn rotated(
        &self,
        reader: &BufReader<tokio::fs::File>,
    ) -> io::Result<Option<tokio::fs::File>> {
        use std::os::unix::fs::MetadataExt;
        let Ok(there) = tokio::fs::metadata(&self.path).await else { return Ok(None) };
        if there.ino() == reader.get_ref().metadata().await?.ino() {
            return Ok(None);
        }
        tokio::fs::File::open(&self.path).await.map(Some)
    }

    /// Hands over every whole line there is; says whether more may be given out.
    async fn drain(
        &self,
        reader: &mut BufReader<tokio::fs::File>,
        filter: &mut Filter,
        pieces: &mpsc::Sender<io::Result<Bytes>>,
    ) -> io::Result<bool> {
        let mut out = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).await?;
            let whole = line.last() == Some(&b'\n');
            if !whole || length > LINE_MAX {
                // The writer is in the middle of a line: take it up again from its start.
                let back = i64::try_from(length).unwrap_or(0);
                if back > 0 {
                    reader.seek(io::SeekFrom::Current(-back)).await?;
                }
                break;
            }
            line.pop();
            let more = entry(&line).is_none_or(|entry| filter.render(&entry, &mut out));
            if !more || out.len() >= CHUNK {
                let piece = Bytes::from(std::mem::take(&mut out));
                if pieces.send(Ok(piece)).await.is_err() || !more {
                    return Ok(false);
                }
            }
        }
        Ok(out.is_empty() || pieces.send(Ok(Bytes::from(out))).await.is_ok())
    }

    /// Counts the lines that the time and the stream asked for let through.
    async fn count(&self, now: Timestamp) -> io::Result<u64> {
        let filter = Filter::new(&self.query, now, 0);
        let mut lines = 0;
        for old in (0..=4).rev() {
            let mut name = self.path.clone().into_os_string();
            if old > 0 {
                name.push(format!(".{old}"));
            }
            let Ok(file) = tokio::fs::File::open(name).await else { continue };
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await? > 0 {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                lines += u64::from(entry(text).is_some_and(|one| one.full && filter.admits(&one)));
                line.clear();
            }
        }
        Ok(lines)
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(body.into())).map_err(|never| match never {});
    let mut response = Response::new(BodyExt::boxed(body));
    *response.status_mut() = status;
    response
}
