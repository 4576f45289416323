//! From an HTTP request to the service it is for.
//!
//! A gRPC request is known by its content type; its path names service and method. The table of
//! methods is closed: each RPC has its counters, and a method that is not in the table is answered
//! as grpc-go answers it. Everything else on the port is plain HTTP (`http`), whose gateway comes
//! back here with gRPC calls of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_server::Kv as _;
use proto::etcdserverpb::lease_server::Lease as _;
use proto::v3electionpb::election_server::ElectionServer;
use proto::v3lockpb::lock_server::LockServer;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::auth::Auth;
use super::cluster::Cluster;
use super::counted::{Answered, Asked};
use super::election::Election;
use super::gateway::Gateway;
use super::kv::Kv;
use super::lease::LeaseService;
use super::lock::Lock;
use super::maintenance::Maintenance;
use super::unary::{self, Framed};
use super::watch::{WatchCall, WatchCodec};
use super::{Member, health, status};
use crate::config::{HttpConfig, KeepaliveConfig, ListenConfig};
use crate::http::{self, Access};
use crate::limits::REQUEST_BYTES_SLACK;
use crate::metrics::{self, METHODS, Metrics, Shape};
use crate::raft::Unavailable;
use crate::slow::Slow;

/// What a listener offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Everything.
    Client,
    /// gRPC only: HTTP has URLs of its own.
    Grpc,
    /// All that is not gRPC.
    Http,
    /// Metrics and health only.
    Metrics,
}

impl Surface {
    /// Whether more than metrics and health is to be had here over HTTP.
    pub(crate) fn serves_clients(self) -> bool {
        match self {
            Self::Client | Self::Http => true,
            Self::Grpc | Self::Metrics => false,
        }
    }

    pub(crate) fn serves_grpc(self) -> bool {
        match self {
            Self::Client | Self::Grpc => true,
            Self::Http | Self::Metrics => false,
        }
    }
}

/// How a request is being answered. The future is on the heap at once: it is moved several times
/// before it runs.
pub(crate) enum Answering {
    /// By one message, soon: by whoever speaks to the client, beside its other work.
    Quick(BoxFuture<'static, Reply>),
    /// By anything, over any time.
    Whole(BoxFuture<'static, ::http::Response<Body>>),
}

/// The answer to a quick call.
pub(crate) enum Reply {
    /// A message with its prefix; the status behind it is success.
    Message(Bytes),
    /// All of a response that has no body.
    Failure(::http::Response<()>),
}

impl Answering {
    /// The same for who wants responses only.
    pub(crate) fn whole(self) -> BoxFuture<'static, ::http::Response<Body>> {
        match self {
            Self::Quick(reply) => Box::pin(reply.map(|reply| match reply {
                Reply::Message(message) => unary::respond(message),
                Reply::Failure(head) => head.map(|()| Body::empty()),
            })),
            Self::Whole(response) => response,
        }
    }
}

/// All services of a member, behind one door.
pub(crate) struct Router {
    member: Arc<Member>,
    metrics: Arc<Metrics>,
    kv: pb::kv_server::KvServer<Kv>,
    lease: pb::lease_server::LeaseServer<LeaseService>,
    cluster: pb::cluster_server::ClusterServer<Cluster>,
    maintenance: pb::maintenance_server::MaintenanceServer<Maintenance>,
    auth: pb::auth_server::AuthServer<Auth>,
    lock: LockServer<Lock>,
    election: ElectionServer<Election>,
    gateway: Option<Gateway>,
    access: Arc<Access>,
    message_bytes_max: usize,
    connections: Connections,
    slow: Arc<Slow>,
}

/// What a connection may do, and how its silence is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections {
    pub(crate) max_concurrent_streams: u32,
    pub(crate) keepalive: KeepaliveConfig,
}

impl Router {
    pub(crate) fn new(
        member: Arc<Member>,
        metrics: Arc<Metrics>,
        listen: &ListenConfig,
        http: &HttpConfig,
        slow: Arc<Slow>,
    ) -> Self {
        let max = member.requests.max_bytes + REQUEST_BYTES_SLACK;
        let kv = pb::kv_server::KvServer::new(Kv(Arc::clone(&member)));
        let lease = pb::lease_server::LeaseServer::new(LeaseService(Arc::clone(&member)));
        let cluster = pb::cluster_server::ClusterServer::new(Cluster(Arc::clone(&member)));
        let maintenance =
            pb::maintenance_server::MaintenanceServer::new(Maintenance(Arc::clone(&member)));
        let auth = pb::auth_server::AuthServer::new(Auth(Arc::clone(&member)));
        let lock = LockServer::new(Lock(Arc::clone(&member)));
        let election = ElectionServer::new(Election(Arc::clone(&member)));
        Self {
            lock: lock.max_decoding_message_size(max),
            election: election.max_decoding_message_size(max),
            kv: kv.max_decoding_message_size(max),
            lease: lease.max_decoding_message_size(max),
            cluster: cluster.max_decoding_message_size(max),
            maintenance: maintenance.max_decoding_message_size(max),
            auth: auth.max_decoding_message_size(max),
            gateway: http.gateway.then(Gateway::new),
            access: Arc::new(Access::new(http)),
            message_bytes_max: max,
            connections: Connections {
                max_concurrent_streams: listen.max_concurrent_streams,
                keepalive: listen.keepalive,
            },
            slow,
            member,
            metrics,
        }
    }

    pub(crate) fn connections(&self) -> Connections {
        self.connections
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Who may ask over plain HTTP.
    pub(crate) fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The JSON gateway, unless it is turned off.
    pub(crate) fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    /// The largest message a service takes.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Answers one request that came over a plain or a secure connection; never fails.
    pub(crate) fn route<B>(
        self: Arc<Self>,
        request: ::http::Request<B>,
        surface: Surface,
        secure: bool,
    ) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError> + Send,
    {
        // gRPC is HTTP/2; over HTTP/1 the content type is somebody's mistake.
        let is_grpc = request.version() == ::http::Version::HTTP_2
            && request
                .headers()
                .get(::http::header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc && surface.serves_grpc() {
            return self.grpc(request);
        }
        Answering::Whole(Box::pin(http::answer(self, request, surface, secure)))
    }

    /// Answers a gRPC call, whoever made it.
    pub(super) fn grpc<B>(self: Arc<Self>, request: ::http::Request<B>) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let began = Instant::now();
        let Some(method) = metrics::find(request.uri().path()) else {
            let path = request.uri().path();
            let (service, name) = split(path).unwrap_or((path, ""));
            let known = METHODS.iter().any(|known| known.service() == service);
            return answer_now(status::unknown_method(service, name, known));
        };
        let Ok(version) = client_version(&request) else {
            self.metrics.started(method, None);
            self.metrics.handled(method, Code::InvalidArgument, Duration::ZERO);
            return answer_now(status::invalid_client_version());
        };
        self.metrics.started(method, version);
        if wants_leader(&request) && self.member.raft.status().leader.is_none() {
            self.metrics.handled(method, Code::Unavailable, Duration::ZERO);
            return answer_now(status::unavailable(Unavailable::NoLeader { leader: None }));
        }
        if let Err(status) = self.member.door(&request) {
            return self.finish_whole(method, began, std::future::ready(status.into_http()));
        }
        if METHODS[method].shape == Shape::BidiStream {
            let metrics = Arc::clone(&self.metrics);
            let request = request.map(|body| Body::new(Asked::new(body, metrics, method)));
            return self.at_length(method, began, request);
        }
        if !unary::is_plain(&request) {
            return self.at_length(method, began, request);
        }
        self.quickly(method, began, request)
    }

    /// The calls that load is made of, the short way.
    fn quickly<B>(
        self: Arc<Self>,
        method: usize,
        began: Instant,
        request: ::http::Request<B>,
    ) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let (max, kv) = (self.message_bytes_max, Kv(Arc::clone(&self.member)));
        match METHODS[method].path {
            "/etcdserverpb.KV/Put" => {
                let call = |put| async move { framed(kv.put(put).await) };
                self.finish_quick(method, began, unary::serve(request, max, call))
            }
            "/etcdserverpb.KV/Range" => {
                let call = |range| async move { kv.range_framed(range).await };
                self.finish_quick(method, began, unary::serve(request, max, call))
            }
            "/etcdserverpb.KV/Txn" => {
                let call = |txn| async move { framed(kv.txn(txn).await) };
                self.finish_quick(method, began, unary::serve(request, max, call))
            }
            "/etcdserverpb.KV/DeleteRange" => {
                let call = |delete| async move { framed(kv.delete_range(delete).await) };
                self.finish_quick(method, began, unary::serve(request, max, call))
            }
            "/etcdserverpb.Lease/LeaseGrant" => {
                let lease = LeaseService(Arc::clone(&self.member));
                let call = |grant| async move { framed(lease.lease_grant(grant).await) };
                self.finish_quick(method, began, unary::serve(request, max, call))
            }
            _ => self.at_length(method, began, request),
        }
    }

    /// Any method, by tonic.
    fn at_length<B>(
        self: Arc<Self>,
        method: usize,
        began: Instant,
        request: ::http::Request<B>,
    ) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let router = Arc::clone(&self);
        self.finish_whole(method, began, async move { router.dispatch(request).await })
    }

    /// What every call ends with: a panic becomes an error, and how it ended is counted.
    fn finish_whole(
        self: Arc<Self>,
        method: usize,
        began: Instant,
        answered: impl Future<Output = ::http::Response<Body>> + Send + 'static,
    ) -> Answering {
        // A chain of functions and no async block: that would hold the call's state twice.
        Answering::Whole(Box::pin(AssertUnwindSafe(answered).catch_unwind().map(move |answered| {
            let response = answered.unwrap_or_else(|_| self.panicked().into_http());
            self.count(method, began, response)
        })))
    }

    /// The same for one message.
    fn finish_quick(
        self: Arc<Self>,
        method: usize,
        began: Instant,
        answered: impl Future<Output = Result<Framed, Status>> + Send + 'static,
    ) -> Answering {
        Answering::Quick(Box::pin(AssertUnwindSafe(answered).catch_unwind().map(move |answered| {
            match answered.unwrap_or_else(|_| Err(self.panicked())) {
                Ok(message) => {
                    let took = began.elapsed();
                    self.slow.request(METHODS[method].path, Code::Ok, took);
                    self.metrics.handled(method, Code::Ok, took);
                    Reply::Message(message.into_bytes())
                }
                Err(status) => {
                    Reply::Failure(self.count(method, began, status.into_http()).map(drop))
                }
            }
        })))
    }

    fn panicked(&self) -> Status {
        self.metrics.panicked();
        status::handler_panicked()
    }

    async fn dispatch<B>(&self, request: ::http::Request<B>) -> ::http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let path = request.uri().path();
        let service = split(path).map_or("", |(service, _)| service);
        let answered = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => {
                let mut grpc = tonic::server::Grpc::new(WatchCodec)
                    .max_decoding_message_size(self.message_bytes_max);
                let call = WatchCall(Arc::clone(&self.member));
                Ok(Box::pin(grpc.streaming(call, request)).await)
            }
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "grpc.health.v1.Health" => Ok(health::answer(request, self.message_bytes_max).await),
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            _ => Ok(status::not_built(path).into_http()),
        };
        answered.unwrap_or_else(|never| match never {})
    }

    /// Counts how a request ended: an error is told in the headers, a success when its body ends.
    fn count(
        &self,
        method: usize,
        began: Instant,
        response: ::http::Response<Body>,
    ) -> ::http::Response<Body> {
        let code =
            response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
        let took = began.elapsed();
        let unary = METHODS[method].shape == Shape::Unary;
        if unary {
            self.slow.request(METHODS[method].path, code.unwrap_or(Code::Ok), took);
        }
        if let Some(code) = code {
            self.metrics.handled(method, code, took);
            return match status::oversize(&response, code) {
                Some(status) => status.into_http(),
                None => response,
            };
        }
        if unary {
            self.metrics.handled(method, Code::Ok, took);
            return response;
        }
        let metrics = Arc::clone(&self.metrics);
        response.map(|body| Body::new(Answered::new(body, metrics, method, began)))
    }
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn answer_now(status: Status) -> Answering {
    Answering::Whole(Box::pin(std::future::ready(status.into_http())))
}

fn framed<A: prost::Message>(
    answered: Result<tonic::Response<A>, Status>,
) -> Result<Framed, Status> {
    Framed::of(answered?.get_ref())
}

/// A client that sends `hasleader` would rather hear that there is none than wait.
fn wants_leader<B>(request: &::http::Request<B>) -> bool {
    request.headers().get("hasleader").is_some_and(|value| value == "true")
}

/// The version of the API that a client says it speaks.
fn client_version<B>(request: &::http::Request<B>) -> Result<Option<&str>, std::str::Utf8Error> {
    let version = request.headers().get("client-api-version");
    version.map(|version| std::str::from_utf8(version.as_bytes())).transpose()
}

/// Service and method of a path.
fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}
