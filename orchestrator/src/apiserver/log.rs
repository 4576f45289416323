//! `pods/NAME/log`: fetched from the kubelet of the pod's node and handed on as it comes.
//!
//! The kubelet is dialled at the address its Node object tells, must show a certificate of the
//! cluster's authority for that address, and gets the query in the form upstream's kubelets take.
//! A redirect is an error like any other answer that is not 200: nothing a node says can make this
//! server dial somewhere else. The connection is driven by the body that is read from it, so it
//! ends with the client's interest and leaves no task behind.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::dispatch::{Ask, Server};
use super::respond::{self, Body};
use super::route::Query;
use crate::api::{Key, Object, Status, kinds};

/// How long a kubelet may take to accept, shake hands and answer the head of the request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Where kubelets listen unless their Node says otherwise.
const KUBELET_PORT: i64 = 10250;
/// How much of a kubelet's refusal is repeated.
const REFUSAL_MAX: usize = 16 * 1024;

type Wire = Connection<TokioIo<TlsStream<TcpStream>>, Empty<Bytes>>;

/// Streams the log of one container.
pub(crate) async fn answer(
    server: &Server,
    ask: Ask,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Status> {
    let (Some(namespace), Some(name)) = (&ask.target.namespace, &ask.target.name) else {
        return Err(Status::no_such_path());
    };
    let pod = server.registry.get(&kinds::POD, &Key::namespaced(namespace, name)).await?;
    let container = container(&pod, ask.query.get("container"))?;
    let wanted = query(&ask.query)?;
    let Some(node) = pod.text("/spec/nodeName").filter(|node| !node.is_empty()) else {
        // Not scheduled: nothing has been said yet, as upstream.
        return Ok(respond::bytes(StatusCode::OK, "text/plain", ""));
    };
    let node = match server.registry.get(&kinds::NODE, &Key::cluster(node)).await {
        Err(status) if status.is_not_found() => {
            return Err(Status::internal(format!("the pod's node {node:?} is not there")));
        }
        other => other?,
    };
    let path = format!("/containerLogs/{namespace}/{name}/{container}{wanted}");
    let fetched = tokio::time::timeout(ANSWER_WITHIN, fetch(server, &node, &path)).await;
    let (response, wire) = fetched
        .map_err(|_| {
            Status::internal(format!("the kubelet of node {:?} does not answer", node.name()))
        })?
        .map_err(|why| {
            Status::internal(format!("cannot reach the kubelet of node {:?}: {why}", node.name()))
        })?;
    let code = response.status();
    let body = Relay {
        wire,
        body: response.into_body(),
        stop: Box::pin(server.stop.clone().cancelled_owned()),
        _slot: slot,
    };
    if code != StatusCode::OK {
        return Err(refusal(code, body).await);
    }
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The container meant: the named one, or the only one.
fn container(pod: &Object, asked: Option<&str>) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let items = pod.items(list).iter();
        items.filter_map(|one| one.get("name")?.as_str().map(str::to_owned)).collect()
    };
    let (own, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let short_lived = names("/spec/ephemeralContainers");
    let pod = pod.name();
    match asked {
        Some(asked)
            if [&own, &init, &short_lived]
                .iter()
                .any(|list| list.iter().any(|one| one == asked)) =>
        {
            Ok(asked.to_owned())
        }
        Some(asked) => {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {pod}")))
        }
        None => match own.as_slice() {
            [only] => Ok(only.clone()),
            _ => {
                let mut message = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    own.join(" ")
                );
                if !init.is_empty() {
                    message += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                if !short_lived.is_empty() {
                    let names = short_lived.join(" ");
                    message += &format!(" or one of the ephemeral containers: [{names}]");
                }
                Err(Status::bad_request(message))
            }
        },
    }
}

/// The query for the kubelet: the options it knows, checked and written anew.
fn query(asked: &Query) -> Result<String, Status> {
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if asked.flag(flag) {
            pairs.push(format!("{flag}=true"));
        }
    }
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let number = asked.number(name).map_err(|why| Status::bad_request(why.to_string()))?;
        match number {
            Some(number) if number < least => {
                return Err(invalid(&format!(
                    "{name}: Invalid value: {number}: must be greater than or equal to {least}"
                )));
            }
            Some(number) => pairs.push(format!("{name}={number}")),
            None => {}
        }
    }
    if let Some(text) = asked.get("sinceTime") {
        if asked.get("sinceSeconds").is_some() {
            return Err(invalid(
                "sinceTime: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        let since = crate::api::time::parse(text)
            .ok_or_else(|| invalid(&format!("sinceTime: Invalid value: {text:?}")))?;
        pairs.push(format!("sinceTime={}", crate::api::time::seconds(since).replace(':', "%3A")));
    }
    match asked.get("stream") {
        None | Some("All") => {}
        Some(_) => {
            return Err(invalid("stream: Forbidden: may not be specified"));
        }
    }
    Ok(if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}

fn invalid(what: &str) -> Status {
    Status::unprocessable(format!("PodLogOptions is invalid: {what}"))
}

/// Dials the kubelet and sends the request. The connection only moves while it is polled.
async fn fetch(
    server: &Server,
    node: &Object,
    path: &str,
) -> Result<(Response<Incoming>, Option<Pin<Box<Wire>>>), Box<dyn std::error::Error + Send + Sync>>
{
    let address: IpAddr = address(node).ok_or("its Node tells no address")?.parse()?;
    let port = node.int("/status/daemonEndpoints/kubeletEndpoint/Port").filter(|port| *port > 0);
    let port = u16::try_from(port.unwrap_or(KUBELET_PORT))?;
    let stream = TcpStream::connect((address, port)).await?;
    let stream = server.kubelets.connect(ServerName::IpAddress(address.into()), stream).await?;
    let (mut sender, wire) = http1::handshake(TokioIo::new(stream)).await?;
    let mut wire = Box::pin(wire);
    let request = Request::get(path).header(HOST, format!("{address}:{port}")).body(Empty::new())?;
    let mut sending = Box::pin(sender.send_request(request));
    tokio::select! {
        biased;
        response = sending.as_mut() => return Ok((response?, Some(wire))),
        _ = wire.as_mut() => {}
    }
    // It hung up; what it said before that still counts.
    drop(wire);
    Ok((sending.await?, None))
}

/// The node's address: an internal IP before any other.
fn address(node: &Object) -> Option<&str> {
    let addresses = node.items("/status/addresses");
    let of = |wanted: &str| {
        addresses.iter().find(|one| one.get("type").is_some_and(|found| found == wanted))
    };
    of("InternalIP").or_else(|| of("ExternalIP"))?.get("address")?.as_str()
}

/// What the kubelet said instead of a log, under the code it said it with.
async fn refusal(code: StatusCode, body: Relay) -> Status {
    let text = match Limited::new(body, REFUSAL_MAX).collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            Status { reason: "NotFound", code: 404, ..Status::bad_request(text) }
        }
        _ => Status::internal(format!("the kubelet answered {code}: {text}")),
    }
}

/// A body together with the connection it comes over.
struct Relay {
    wire: Option<Pin<Box<Wire>>>,
    body: Incoming,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if let Some(wire) = self.wire.as_mut()
            && wire.as_mut().poll(context).is_ready()
        {
            // What went wrong on the wire shows in the body, too.
            self.wire = None;
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(std::io::Error::other)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Object {
        let list =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| json!({"name": name})).collect() };
        Object::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": list(containers), "initContainers": list(init)},
        }))
        .expect("an object")
    }

    #[test]
    fn the_container_must_be_clear() {
        assert_eq!(container(&pod(&["a"], &[]), None), Ok("a".into()));
        assert_eq!(container(&pod(&["a", "b"], &["i"]), Some("i")), Ok("i".into()));
        let text = |outcome: Result<String, Status>| outcome.expect_err("refused").message;
        assert_eq!(
            text(container(&pod(&["a", "b"], &["i"]), None)),
            "a container name must be specified for pod p, choose one of: [a b] or one of the \
             init containers: [i]"
        );
        assert_eq!(
            text(container(&pod(&["a"], &[]), Some("x"))),
            "container x is not valid for pod p"
        );
    }

    #[test]
    fn the_query_is_checked_and_written_anew() {
        let ask = |text: &str| query(&Query::parse(text).expect("well formed"));
        assert_eq!(ask(""), Ok(String::new()));
        assert_eq!(
            ask("follow=true&tailLines=0&x=%0d%0a&sinceSeconds=5&container=a"),
            Ok("?follow=true&tailLines=0&sinceSeconds=5".into())
        );
        assert_eq!(ask("tailLines=-1").expect_err("negative").code, 422);
        assert_eq!(ask("limitBytes=x").expect_err("no number").code, 400);
        assert_eq!(
            ask("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").expect_err("both").code,
            422
        );
    }
}
