//! The JSON gateway: the whole API under `/v3/`, for clients that speak HTTP and no gRPC.
//!
//! A call is turned into the gRPC call it stands for, in this process: JSON is read into the wire
//! form of the request ([`read`]), the call goes through the same router and the same services as
//! one that came over gRPC, counters and permissions included, and the wire form of the answer is
//! written as JSON ([`mod@write`]). Messages are known by their descriptors, so there is no code for
//! any one RPC here; [`paths`] says which path is which. What etcd's gateway does with odd input is
//! done here too, since scripts came to rely on it.
//!
//! A stream's request body is a sequence of JSON objects ([`values`]), read as the service asks for
//! them; its answer is one line of JSON per message. Headers are sent with the first message: a
//! call that fails before that is answered with the status of its error.

mod asked;
mod paths;
mod read;
mod values;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use proto::Raw;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status, Streaming};

use self::asked::Taken;
use self::values::{Broken, Values};
use super::Router;
use crate::limits::{GATEWAY_REQUEST_DEADLINE, JSON_BYTES_PER_WIRE_BYTE, REFUSED_DEADLINE};

/// Put among a request's extensions: it came through the gateway, so the certificate of the
/// connection does not speak for whoever sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThroughGateway;

/// An RPC and its messages.
#[derive(Debug)]
struct Route {
    path: PathAndQuery,
    input: MessageDescriptor,
    output: MessageDescriptor,
    /// The client may send more than one message.
    streams_in: bool,
    /// The answer is one line per message.
    streams_out: bool,
}

/// The table of paths, with the messages looked up.
#[derive(Debug)]
pub(crate) struct Gateway {
    routes: BTreeMap<&'static str, Route>,
}

impl Gateway {
    /// Looks all messages up.
    pub(super) fn new() -> Self {
        let pool =
            DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors are built in");
        let route = |(path, service, method): &(&'static str, &str, &str)| {
            let found = pool.get_service_by_name(service)?;
            let found = found.methods().find(|found| found.name() == *method)?;
            let route = Route {
                path: PathAndQuery::try_from(format!("/{service}/{method}")).ok()?,
                input: found.input(),
                output: found.output(),
                streams_in: found.is_client_streaming(),
                streams_out: found.is_server_streaming(),
            };
            Some((*path, route))
        };
        let routes: BTreeMap<_, _> = paths::PATHS.iter().filter_map(route).collect();
        assert_eq!(routes.len(), paths::PATHS.len(), "a path names an RPC that does not exist");
        Self { routes }
    }

    /// Answers a request for a path below `/v3/`.
    pub(crate) async fn answer<B>(
        &self,
        router: Arc<Router>,
        path: &str,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let Some(route) = self.routes.get(path) else {
            return error(&Status::not_found("Not Found"), false);
        };
        let taken = asked::taken(&request);
        if taken == Taken::WrongMethod {
            return error(&Status::unimplemented("Method Not Allowed"), false);
        }
        let deadline = match asked::deadline(request.headers(), Instant::now()) {
            Ok(deadline) => deadline,
            Err(status) => return error(&status, false),
        };
        let called = match taken {
            Taken::Empty => {
                let (parts, _) = request.into_parts();
                let request = Request::from_parts(parts, Empty::<Bytes>::new());
                call(router, route, request, deadline).await
            }
            Taken::AsSent | Taken::WrongMethod => call(router, route, request, deadline).await,
        };
        match called {
            Ok(response) => response,
            Err(status) => error(&status, route.streams_out),
        }
    }
}

/// Makes the call and waits for the first message.
async fn call<B>(
    router: Arc<Router>,
    route: &Route,
    request: Request<B>,
    deadline: Option<Instant>,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (parts, body) = request.into_parts();
    let bytes_max = router.message_bytes_max().saturating_mul(JSON_BYTES_PER_WIRE_BYTE);
    let mut values = Values::new(body, bytes_max);
    let first = first(&mut values, &route.input).await;
    let first = match first {
        Ok(first) => first,
        Err(status) => {
            // Whether all of it comes or not makes no difference to the answer.
            let _ = tokio::time::timeout(REFUSED_DEADLINE, values.discard()).await;
            return Err(status);
        }
    };
    let messages = if route.streams_in {
        let rest = rest(values, route.input.clone());
        stream::iter(first).chain(rest).boxed()
    } else {
        // A call without a body is a call with an empty message.
        stream::iter([first.unwrap_or_default()]).boxed()
    };
    let mut extensions = parts.extensions;
    extensions.insert(ThroughGateway);
    let asked = tonic::Request::from_parts(asked::metadata(&parts.headers), extensions, messages);
    let mut client =
        tonic::client::Grpc::new(InProcess(router)).max_decoding_message_size(usize::MAX);
    let begun = async {
        let mut answers = client.streaming(asked, route.path.clone(), Raw).await?.into_inner();
        let first = answers.message().await?;
        Ok((first, answers))
    };
    let (first, answers) = within(deadline, begun).await?;
    match (route.streams_out, first) {
        (true, Some(first)) => Ok(lines(route.output.clone(), first, until(deadline, answers))),
        // It ended well and said nothing.
        (true, None) => Ok(Response::new(Body::empty())),
        (false, Some(first)) => {
            let mut response =
                Response::new(Body::new(Full::from(write::json(&route.output, first)?)));
            succeeded(response.headers_mut());
            Ok(response)
        }
        (false, None) => Err(Status::internal("the server sent no message")),
    }
}

/// The first message; `None` if there is nothing in the body.
async fn first<B>(
    values: &mut Values<B>,
    input: &MessageDescriptor,
) -> Result<Option<Bytes>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let json = tokio::time::timeout(GATEWAY_REQUEST_DEADLINE, values.next()).await;
    let json = json.map_err(|_| Status::deadline_exceeded("the request did not come in time"))?;
    json.map_err(broken)?.map(|json| message(input, &json)).transpose()
}

/// The messages after the first. What cannot be read ends them: by then the answer has begun, and
/// a service goes on without its client's requests or ends as it sees fit.
fn rest<B>(values: Values<B>, input: MessageDescriptor) -> impl Stream<Item = Bytes> + Send
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    stream::unfold(values, move |mut values| {
        let input = input.clone();
        async move {
            let json = match values.next().await {
                Ok(json) => json?,
                Err(broken) => {
                    tracing::warn!(?broken, "failed to read a request of a stream");
                    return None;
                }
            };
            match message(&input, &json) {
                Ok(message) => Some((message, values)),
                Err(status) => {
                    tracing::warn!(
                        error = status.message(),
                        "failed to read a request of a stream"
                    );
                    None
                }
            }
        }
    })
}

fn message(input: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let read = read::wire(input, json).map(Bytes::from);
    read.map_err(|error| Status::invalid_argument(format!("proto: {error}")))
}

fn broken(broken: Broken) -> Status {
    match broken {
        Broken::Syntax(what) => Status::invalid_argument(what),
        Broken::TooLarge => Status::resource_exhausted("grpc: received message larger than max"),
        Broken::Gone => Status::cancelled("context canceled"),
    }
}

/// Waits until the deadline at the most.
async fn within<T>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return answer.await };
    let too_late = || Status::deadline_exceeded("context deadline exceeded");
    if deadline <= Instant::now() {
        return Err(too_late());
    }
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(too_late()))
}

/// The messages until the deadline, and its error then.
fn until(
    deadline: Option<Instant>,
    answers: Streaming<Bytes>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        match within(deadline, answers.message()).await.transpose()? {
            Ok(message) => Some((Ok(message), Some(answers))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

/// A stream's answer: `{"result":…}` for each message, `{"error":…}` if it ends badly.
fn lines(
    output: MessageDescriptor,
    first: Bytes,
    rest: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Response<Body> {
    let messages = stream::once(std::future::ready(Ok(first))).chain(rest);
    let lines = messages.map(move |message| {
        let json = message.and_then(|message| write::json(&output, message));
        let line = match json {
            Ok(json) => [b"{\"result\":", json.as_slice(), b"}\n"].concat(),
            Err(status) => failed_line(&status),
        };
        Ok::<_, Status>(Frame::data(Bytes::from(line)))
    });
    let mut response = Response::new(Body::new(StreamBody::new(lines)));
    succeeded(response.headers_mut());
    response
}

fn failed_line(status: &Status) -> Vec<u8> {
    let mut line = [b"{\"error\":", write::status(status).as_slice(), b"}"].concat();
    line.push(b'\n');
    line
}

fn succeeded(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert("grpc-metadata-content-type", kind);
}

/// An answer that is only an error.
fn error(status: &Status, of_stream: bool) -> Response<Body> {
    let body = if of_stream { failed_line(status) } else { write::status(status) };
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = http_status(status.code());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if status.code() == Code::Unauthenticated
        && let Ok(reason) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, reason);
    }
    response
}

/// The HTTP status that stands for a code.
fn http_status(code: Code) -> http::StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    http::StatusCode::from_u16(number).expect("all of these are statuses")
}

/// The router as a gRPC client sees it.
struct InProcess(Arc<Router>);

impl tower::Service<Request<Body>> for InProcess {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, std::convert::Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let router = Arc::clone(&self.0);
        Box::pin(async move { Ok(router.grpc(request).whole().await) })
    }
}

#[cfg(test)]
mod tests;
