//! Plain HTTP beside gRPC: the door that every such request passes ([`access`]), health
//! ([`health`]), version, metrics, and below `/v3/` the JSON gateway of `rpc`.
//!
//! Bodies and headers are etcd's to the letter, since probes and scripts compare them.

mod access;
mod health;

use std::sync::Arc;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use tonic::body::Body;

pub(crate) use access::Access;

use crate::rpc::{API_VERSION, Router, SERVER_VERSION, Surface};

/// Answers a request that is not gRPC.
pub(crate) async fn answer<B>(
    router: Arc<Router>,
    request: Request<B>,
    surface: Surface,
    secure: bool,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let access = Arc::clone(router.access());
    let refused = match secure {
        false => access.misdirected(&request),
        true => access::mistaken(&request, router.member().reader.auth_enabled()),
    };
    if let Some(refused) = refused {
        return refused;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match *request.method() {
        Method::OPTIONS => Response::new(Body::empty()),
        _ => serve(router, request, surface).await,
    };
    if surface.serves_clients() {
        access.tell_origins(origin.as_ref(), response.headers_mut());
    }
    response
}

async fn serve<B>(router: Arc<Router>, request: Request<B>, surface: Surface) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    if surface == Surface::Grpc {
        return not_found();
    }
    let path = request.uri().path();
    let clients = surface.serves_clients();
    // etcd serves its metrics whatever the method.
    if path == "/metrics" {
        let page = router.metrics().render(router.member());
        return respond(
            200,
            "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            page,
        );
    }
    if clients && let Some(rest) = below_v3(path) {
        let path = rest.to_owned();
        return match router.gateway() {
            Some(gateway) => gateway.answer(Arc::clone(&router), &path, request).await,
            None => not_found(),
        };
    }
    let Some(page) = Page::of(path, clients) else { return not_found() };
    if request.method() != Method::GET {
        let mut response = refuse(405, "Method Not Allowed\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let query = Query(request.uri().query().unwrap_or(""));
    match page {
        Page::Version => respond(200, "application/json", version()),
        Page::Health => health::health(router.member(), router.metrics(), query).await,
        Page::Checks(checklist) => {
            health::checks(router.member(), router.metrics(), checklist, query).await
        }
    }
}

/// The path below `/v3/`; `/v3beta/` is an old name of the same.
fn below_v3(path: &str) -> Option<&str> {
    path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))
}

/// A page that answers to GET.
enum Page<'a> {
    Version,
    Health,
    Checks(health::Checklist<'a>),
}

impl<'a> Page<'a> {
    /// `/debug` is nobody's: there is no profiler to expose, and it could not be left on by mistake.
    fn of(path: &'a str, clients: bool) -> Option<Self> {
        match path {
            "/version" => clients.then_some(Self::Version),
            "/health" => Some(Self::Health),
            _ => health::Checklist::of(path).map(Self::Checks),
        }
    }
}

fn version() -> String {
    format!(
        "{{\"etcdserver\":\"{SERVER_VERSION}\",\"etcdcluster\":\"{API_VERSION}\",\
         \"storage\":\"{API_VERSION}\"}}"
    )
}

/// The query part of a URL.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// All values given for a name. Names and values of ours need no escapes.
    fn values(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| match pair.split_once('=') {
            Some((found, value)) => (found == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }

    fn has(self, name: &'a str, value: &str) -> bool {
        self.values(name).any(|found| found == value)
    }
}

fn not_found() -> Response<Body> {
    refuse(404, "404 page not found\n")
}

/// What Go's `http.Error` makes.
fn refuse(status: u16, body: impl Into<String>) -> Response<Body> {
    let mut response = respond(status, TEXT, body.into());
    no_sniffing(&mut response);
    response
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Browsers are to take the content type at its word.
fn no_sniffing(response: &mut Response<Body>) {
    let value = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, value);
}

fn respond(status: u16, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status of ours");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_gives_all_values_of_a_name() {
        let query = Query("exclude=NOSPACE&verbose&exclude=CORRUPT&serializable=true");
        assert_eq!(query.values("exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert!(query.values("verbose").next().is_some());
        assert!(query.has("serializable", "true"));
        assert!(!Query("").has("verbose", "true"));
    }

    #[test]
    fn the_old_name_of_the_gateway_is_known_and_the_older_one_is_not() {
        assert_eq!(below_v3("/v3/kv/put"), Some("kv/put"));
        assert_eq!(below_v3("/v3beta/kv/put"), Some("kv/put"));
        assert_eq!(below_v3("/v3alpha/kv/put"), None);
        assert_eq!(below_v3("/v3"), None);
    }
}
