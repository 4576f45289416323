//! Watches over HTTP: one JSON document per line, for as long as the client likes.
//!
//! Events are pulled from the registry's watch only as fast as the client reads, so a slow client
//! costs one buffered event here and whatever bound the registry's watch has; when it falls out of
//! that, its stream ends with the ERROR event that makes it list again. A watch ends by itself
//! after `timeoutSeconds`, or half an hour to an hour, spread so that clients which came together
//! do not come back together.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dispatch::{Ask, Server};
use super::negotiate::Form;
use super::options;
use super::present::Shape;
use super::respond::Body;
use crate::api::{FieldSelector, Kind, Status};
use crate::registry::{Event, Watch};

/// The shortest life of a watch whose client named none; the longest is twice that, as upstream.
const LIFE: Duration = Duration::from_secs(1800);

/// Opens a watch on a collection, or on the one object that the path names.
pub(crate) async fn answer(
    server: &Server,
    kind: &'static Kind,
    ask: Ask,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Status> {
    let shape = Shape::of(&ask, &[Form::Object, Form::Table, Form::Partial])?;
    let mut options = options::watch(kind, &ask.query)?;
    if let Some(name) = ask.target.name.as_deref().filter(|_| *kind != crate::api::kinds::NAMESPACE)
    {
        options.selector.fields = FieldSelector::name(name);
    }
    let life = match ask.query.number("timeoutSeconds") {
        Ok(Some(seconds)) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        Ok(_) => LIFE + LIFE.mul_f64(rand::random::<f64>()),
        Err(why) => return Err(Status::bad_request(why.to_string())),
    };
    let namespace = ask.target.namespace.as_deref().filter(|_| kind.namespaced);
    let watch = server.registry.watch(kind, namespace, options).await?;
    let lines = Lines {
        watch,
        kind,
        shape,
        columns_told: false,
        until: Instant::now() + life,
        stop: server.stop.clone(),
        ended: false,
        _slot: slot,
    };
    let frames = futures_util::stream::unfold(lines, Lines::next).map(|line| Ok(Frame::data(line)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(shape.spelling.media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// A watch on its way to a client.
struct Lines {
    watch: Watch,
    kind: &'static Kind,
    shape: Shape,
    columns_told: bool,
    until: Instant,
    stop: CancellationToken,
    ended: bool,
    /// The request's place among those that stay; given back with the stream.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Lines {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if self.ended {
            return None;
        }
        let told = tokio::select! {
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep_until(self.until) => return None,
            told = self.watch.recv() => told?,
        };
        let line = match told {
            Ok(event) => self.line(event),
            Err(status) => {
                self.ended = true;
                line("ERROR", &status.to_value())
            }
        };
        Some((line, self))
    }

    fn line(&mut self, event: Event) -> Bytes {
        let (name, object) = match event {
            Event::Added(object) => ("ADDED", object),
            Event::Modified(object) => ("MODIFIED", object),
            Event::Deleted(object) => ("DELETED", object),
            Event::Bookmark(revision) => {
                return line("BOOKMARK", &self.shape.bookmark(self.kind, revision));
            }
        };
        let columns = !std::mem::replace(&mut self.columns_told, true);
        line(name, &self.shape.event(self.kind, object, columns))
    }
}

fn line(name: &str, object: &Value) -> Bytes {
    let mut line = BytesMut::new().writer();
    serde_json::to_writer(&mut line, &json!({"type": name, "object": object}))
        .expect("a JSON value serialises into memory");
    let mut line = line.into_inner();
    line.put_u8(b'\n');
    line.freeze()
}
