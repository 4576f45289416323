//! One request from head to answer.
//!
//! Health and version are for anybody. Everything else goes the same way: who asks, what for, may
//! they, then whatever the path stands for. Requests that end soon and requests that stay (watches,
//! followed logs) draw from two pools, so that a thousand watches never keep a write out; who finds
//! a pool empty is told to come back in a second. A request that ends soon has a deadline.
//!
//! A panic while answering is a bug of ours in one request: it becomes a 500 and a line in the
//! log, and the server goes on.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES};
use http::header::{HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::authz::{self, Attributes};
use super::discovery::{self, DISCOVERY};
use super::identity::{Authenticator, Proof};
use super::listen::Handler;
use super::negotiate::{self, Form, Negotiated};
use super::openapi::{OPENAPI, OpenApi};
use super::respond::{self, Body, Spelling};
use super::route::{Query, Route, Target, route};
use super::{VERSION, body, resource};
use crate::api::Status;
use crate::registry::{Actor, Registry};

/// Requests that end soon, at one time. Upstream allows 600 in all.
const SHORT_MAX: usize = 600;
/// Watches and followed logs at one time.
const LONG_MAX: usize = 10_000;
/// How long a request that ends soon may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the store may take to answer a readiness check.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// All that answers share.
pub(crate) struct Server {
    pub(crate) registry: Registry,
    /// Dials kubelets.
    pub(crate) kubelets: TlsConnector,
    /// Ends watches and followed logs when the server stops.
    pub(crate) stop: CancellationToken,
    authenticator: Arc<Authenticator>,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// A request whose sender is known and may do this.
pub(crate) struct Ask {
    pub(crate) actor: Actor,
    pub(crate) verb: &'static str,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// Empty for a request that [stays](resource::stays).
    pub(crate) body: Bytes,
}

impl Ask {
    /// The form of the answer among those possible here, or a 406.
    pub(crate) fn form(&self, forms: &[Form]) -> Result<(Form, Spelling), Status> {
        let Negotiated { form, media } = negotiated(&self.headers, forms)?;
        Ok((form, Spelling { media, pretty: self.query.flag("pretty") }))
    }
}

impl Handler for Server {
    async fn handle(&self, proof: &Proof, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let about = format!("{} {}", parts.method, parts.uri.path());
        let head_only = parts.method == Method::HEAD;
        let response = match AssertUnwindSafe(self.answer(proof, parts, body)).catch_unwind().await
        {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                if status.code >= 500 {
                    tracing::warn!(request = about, code = status.code, "{}", status.message);
                }
                respond::refusal(&status)
            }
            Err(_) => {
                tracing::error!(request = about, "a request handler panicked");
                respond::refusal(&Status::internal("the request handler failed"))
            }
        };
        if head_only { respond::without_body(response) } else { response }
    }
}

impl Server {
    pub(crate) fn new(
        registry: Registry,
        authenticator: Arc<Authenticator>,
        kubelets: TlsConnector,
        stop: CancellationToken,
    ) -> Self {
        let short = Arc::new(Semaphore::new(SHORT_MAX));
        let long = Arc::new(Semaphore::new(LONG_MAX));
        Self { registry, kubelets, stop, authenticator, short, long }
    }

    async fn answer(
        &self,
        proof: &Proof,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let path = head.uri.path().to_owned();
        let route = route(&path);
        match &route {
            Route::Health if is_read(&head.method) => return Ok(self.health(&path).await),
            Route::Version if is_read(&head.method) => return Ok(version()),
            _ => {}
        }
        let actor = self.recognise(proof, &head.headers)?;
        let query = Query::parse(head.uri.query().unwrap_or(""))
            .ok_or_else(|| Status::bad_request("the query string holds a bad escape"))?;
        let wanted = attributes(&route, &head.method, &path, &query)?;
        if !authz::allowed(&actor, &wanted) {
            return Err(wanted.forbidden(&actor));
        }
        let target = match route {
            Route::Resource(target) => target,
            other => return describe(&other, &head, &path, &query).await,
        };
        let mut ask = Ask {
            actor,
            verb: wanted.verb,
            target,
            query,
            headers: head.headers,
            body: Bytes::new(),
        };
        if resource::stays(&ask) {
            let slot = slot(&self.long)?;
            return resource::answer(self, ask, Some(slot)).await;
        }
        let slot = slot(&self.short)?;
        let answer = tokio::time::timeout(DEADLINE, async {
            // The whole body before any refusal: a client that is still sending may never look.
            ask.body = body::read(body).await?;
            resource::answer(self, ask, None).await
        });
        let answer = answer.await;
        drop(slot);
        answer.unwrap_or_else(|_| {
            Err(Status::timeout("Timeout: request did not complete within the allotted timeout"))
        })
    }

    fn recognise(&self, proof: &Proof, headers: &HeaderMap) -> Result<Actor, Status> {
        let actor = self.authenticator.recognise(proof, headers, UnixTime::now());
        let actor = actor.map_err(|_| Status::unauthorized())?;
        // To ignore it would do in the asker's name what was asked in another's.
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(Status::not_implemented("impersonation is not supported by this server"));
        }
        Ok(actor)
    }

    /// `livez` and `healthz` say that requests are answered; `readyz` that the store answers too.
    async fn health(&self, path: &str) -> Response<Body> {
        const TEXT: &str = "text/plain; charset=utf-8";
        let mut checks = path.trim_start_matches('/').split('/');
        let (which, check) = (checks.next().unwrap_or(""), checks.next());
        if !matches!(check, None | Some("" | "ping" | "etcd")) {
            return respond::bytes(StatusCode::NOT_FOUND, TEXT, "404 page not found\n");
        }
        let ask_store = check == Some("etcd") || (which == "readyz" && check.is_none());
        if ask_store {
            let asked = tokio::time::timeout(READY_WITHIN, self.registry.store().status()).await;
            if !matches!(asked, Ok(Ok(_))) {
                let text = "[+]ping ok\n[-]etcd failed: the store does not answer\n";
                return respond::bytes(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text);
            }
        }
        respond::bytes(StatusCode::OK, TEXT, "ok")
    }
}

/// Answers the paths with which the API describes itself.
async fn describe(
    route: &Route,
    head: &Parts,
    path: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    if !is_read(&head.method) {
        return Err(Status::no_such_method());
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let known = head.headers.get(IF_NONE_MATCH);
    match route {
        Route::CoreVersions | Route::Groups => discovery(path, &head.headers),
        Route::Group(_) | Route::Resources { .. } => {
            let document = DISCOVERY.legacy(path).ok_or_else(Status::no_such_path)?;
            let media = negotiated(&head.headers, &[Form::Object])?.media;
            Ok(respond::document(document, media, known))
        }
        Route::OpenApiIndex => {
            let media = negotiated(&head.headers, &[Form::Object])?.media;
            Ok(respond::document(&schemas().await?.index, media, known))
        }
        Route::OpenApiDocument(name) => openapi(schemas().await?, name, &head.headers, query),
        // Only the third version of OpenAPI is made: kubectl asks for the second beside it and
        // goes on without.
        Route::OpenApiV2 | Route::Health | Route::Version | Route::Resource(_) | Route::Unknown => {
            Err(Status::no_such_path())
        }
    }
}

/// The OpenAPI documents. Whoever asks first waits while they are made, on a thread that may.
async fn schemas() -> Result<&'static OpenApi, Status> {
    tokio::task::spawn_blocking(|| &*OPENAPI).await.map_err(Status::internal)
}

fn slot(pool: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    pool.clone()
        .try_acquire_owned()
        .map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn negotiated(headers: &HeaderMap, forms: &[Form]) -> Result<Negotiated, Status> {
    let accept = headers.get(ACCEPT).map(|value| value.to_str().unwrap_or("-"));
    negotiate::negotiate(accept, forms).ok_or_else(|| Status::not_acceptable(negotiate::OFFERED))
}

fn attributes(
    route: &Route,
    method: &Method,
    path: &str,
    query: &Query,
) -> Result<Attributes, Status> {
    let Route::Resource(target) = route else {
        let verb = match *method {
            Method::GET => "get",
            Method::HEAD => "head",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::OPTIONS => "options",
            _ => return Err(Status::no_such_method()),
        };
        return Ok(Attributes { verb, path: Some(path.to_owned()), ..Attributes::default() });
    };
    let named = target.name.is_some();
    let verb = match *method {
        Method::GET | Method::HEAD if query.flag("watch") && target.subresource.is_none() => {
            "watch"
        }
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return Err(Status::no_such_method()),
    };
    Ok(Attributes {
        verb,
        group: target.group.clone(),
        resource: target.resource.clone(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        path: None,
    })
}

fn version() -> Response<Body> {
    let answer = json!({
        "major": "1",
        "minor": "37",
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    });
    respond::value(StatusCode::OK, &answer, Spelling::JSON)
}

/// The machine in Go's words, which clients expect.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/api` and `/apis`: aggregated for clients that know it, else the legacy list.
fn discovery(path: &str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let Negotiated { form, media } = negotiated(headers, &[Form::Object, Form::Discovery])?;
    let known = headers.get(IF_NONE_MATCH);
    let mut response = match form {
        Form::Discovery => {
            let document = DISCOVERY.aggregated(path).ok_or_else(Status::no_such_path)?;
            respond::document(document, discovery::AGGREGATED, known)
        }
        Form::Object | Form::Table | Form::Partial => {
            let document = DISCOVERY.legacy(path).ok_or_else(Status::no_such_path)?;
            respond::document(document, media, known)
        }
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// One OpenAPI document. Asked for by the hash of its content it may be kept for ever.
fn openapi(
    all: &'static OpenApi,
    name: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let document = all.document(name).ok_or_else(Status::no_such_path)?;
    let media = negotiated(headers, &[Form::Object])?.media;
    let tag = format!("\"{}\"", document.hash);
    let known = headers.get(IF_NONE_MATCH).is_some_and(|header| respond::names(header, &tag));
    let zipped = headers
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|list| list.split(',').any(|one| one.trim().starts_with("gzip")));
    let mut response = match (known, zipped) {
        (true, _) => respond::bytes(StatusCode::NOT_MODIFIED, media, ""),
        (false, true) => respond::bytes(StatusCode::OK, media, document.gzip()),
        (false, false) => respond::bytes(StatusCode::OK, media, document.plain()),
    };
    let answer = response.headers_mut();
    if zipped && !known {
        answer.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    answer.insert(ETAG, HeaderValue::from_str(&tag).expect("hexadecimal in quotes"));
    if query.get("hash") == Some(document.hash.as_str()) {
        answer.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 365);
        let expires = year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        answer.insert(EXPIRES, HeaderValue::from_str(&expires).expect("a date is plain text"));
    }
    Ok(response)
}
