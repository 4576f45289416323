//! Plain HTTP beside gRPC: health, version, metrics.
//!
//! The JSON gateway under `/v3/` is not built; it says so with 501 instead of a puzzling 404.

use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;

use crate::command::{AlarmKind, KeyRange, RangeQuery};
use crate::metrics::Metrics;
use crate::rpc::{API_VERSION, Member, Surface};

/// Answers a request that is not gRPC.
pub(crate) async fn answer(
    member: &Member,
    metrics: &Metrics,
    request: &http::Request<Incoming>,
    surface: Surface,
) -> http::Response<Body> {
    let path = request.uri().path();
    let query = Query(request.uri().query().unwrap_or(""));
    if !matches!(*request.method(), http::Method::GET | http::Method::HEAD) {
        return match path {
            "/health" | "/livez" | "/readyz" | "/version" | "/metrics" => {
                let mut response = text(405, "Method Not Allowed\n".to_owned());
                let get = http::HeaderValue::from_static("GET");
                response.headers_mut().insert(http::header::ALLOW, get);
                response
            }
            _ => not_here(path),
        };
    }
    match path {
        "/health" => health(member, query).await,
        "/metrics" => text(200, metrics.render(member)),
        "/version" if surface == Surface::Client => json(
            200,
            format!(
                "{{\"etcdserver\":\"{API_VERSION}\",\"etcdcluster\":\"{API_VERSION}\",\
                 \"storage\":\"{API_VERSION}\"}}"
            ),
        ),
        _ => {
            for (root, checks) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
                let Some(rest) = path.strip_prefix(root) else { continue };
                let only = rest.strip_prefix('/');
                if rest.is_empty() || only.is_some_and(|name| checks.contains(&name)) {
                    return checklist(member, root, checks, only, query).await;
                }
            }
            not_here(path)
        }
    }
}

fn not_here(path: &str) -> http::Response<Body> {
    if path.starts_with("/v3/") || path.starts_with("/v3beta/") {
        let body = "{\"code\":12,\"message\":\"the JSON gateway is not built yet; use gRPC\"}";
        return json(501, body.to_owned());
    }
    text(404, "404 page not found\n".to_owned())
}

/// The query part of a URL.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl Query<'_> {
    fn has(self, name: &str, value: &str) -> bool {
        self.0.split('&').any(|pair| pair.split_once('=') == Some((name, value)))
    }

    fn names(self, name: &str) -> bool {
        self.0.split('&').any(|pair| pair.split('=').next() == Some(name))
    }
}

/// `/health`: alarms, a leader, and a read.
async fn health(member: &Member, query: Query<'_>) -> http::Response<Body> {
    let Some(reason) = sickness(member, query).await else {
        return json(200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    };
    tracing::warn!(reason, "/health error");
    json(503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"))
}

async fn sickness(member: &Member, query: Query<'_>) -> Option<String> {
    let view = member.reader.view();
    for alarm in view.alarms() {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !query.has("exclude", name) {
            return Some(format!("ALARM {name}"));
        }
    }
    let local = query.has("serializable", "true");
    if !local && member.raft.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(member, local).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] =
    &["data_corruption", "linearizable_read", "non_learner", "serializable_read"];

/// `/livez` and `/readyz`: named checks, one line each where asked or when one fails.
async fn checklist(
    member: &Member,
    root: &str,
    checks: &[&str],
    only: Option<&str>,
    query: Query<'_>,
) -> http::Response<Body> {
    let mut lines = String::new();
    let mut failed = false;
    for name in checks {
        if only.is_some_and(|only| only != *name) || query.has("exclude", name) {
            continue;
        }
        match check(member, name).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    let name = &root[1..];
    if failed {
        tracing::warn!(check = name, "health check error");
        return text(503, format!("{lines}{name} check failed\n"));
    }
    if query.names("verbose") {
        return text(200, format!("{lines}ok\n"));
    }
    text(200, "ok\n".to_owned())
}

async fn check(member: &Member, name: &str) -> Result<(), String> {
    match name {
        "serializable_read" => read(member, true).await,
        "linearizable_read" => read(member, false).await,
        "data_corruption" => {
            let view = member.reader.view();
            match view.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            }
        }
        // There are no learners yet.
        _ => Ok(()),
    }
}

/// Reads one row, as a client would.
async fn read(member: &Member, local: bool) -> Result<(), String> {
    if !local {
        member.linearize().await.map_err(|error| error.to_string())?;
    }
    let mut query = RangeQuery::new(KeyRange::all());
    query.limit = 1;
    query.keys_only = true;
    member.reader.view().range(&query).map(|_| ()).map_err(|error| error.to_string())
}

fn text(status: u16, body: String) -> http::Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn json(status: u16, body: String) -> http::Response<Body> {
    respond(status, "application/json", body)
}

fn respond(status: u16, kind: &'static str, body: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(Full::from(body)));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status of ours");
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
