//! Answers: bodies, refusals and the headers that go with them.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::discovery::Document;
use crate::api::Status;

/// The body of every answer: whole, or a stream that may fail half way.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How an answer is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// The media type, see `negotiate.rs`.
    pub(crate) media: &'static str,
    /// Indented, for people.
    pub(crate) pretty: bool,
}

impl Spelling {
    /// Compact JSON, what every refusal is written in.
    pub(crate) const JSON: Self = Self { media: "application/json", pretty: false };
}

/// A whole body.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A JSON document.
pub(crate) fn value(code: StatusCode, value: &Value, spelling: Spelling) -> Response<Body> {
    let encode = if spelling.pretty { serde_json::to_vec_pretty } else { serde_json::to_vec };
    bytes(code, spelling.media, encode(value).expect("a JSON value serialises"))
}

/// A body of the given media type.
pub(crate) fn bytes(
    code: StatusCode,
    media: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    // Nothing of the API may be kept by a cache on the way, as upstream says.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A refusal.
pub(crate) fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, &status.to_value(), Spelling::JSON);
    let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if code == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"kubernetes\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The head of an answer, as a `HEAD` request gets it, with the length the body would have had.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(head, whole(Bytes::new()))
}

/// A document that is the same until the process ends: 304 if the client has it.
pub(crate) fn document(
    document: &Document,
    media: &'static str,
    if_none_match: Option<&HeaderValue>,
) -> Response<Body> {
    let tag = HeaderValue::from_str(&document.etag).expect("hexadecimal in quotes");
    let mut response = if if_none_match.is_some_and(|known| names(known, &document.etag)) {
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        bytes(StatusCode::OK, media, document.body.clone())
    };
    response.headers_mut().insert(ETAG, tag);
    response
}

/// Whether an `If-None-Match` header names the tag.
pub(crate) fn names(header: &HeaderValue, tag: &str) -> bool {
    header.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim() == tag))
}

/// Adds `Warning` headers, which kubectl prints. Text that no header can carry is left out
/// character by character.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .filter(|letter| letter.is_ascii_graphic() || *letter == ' ')
            .flat_map(|letter| {
                (matches!(letter, '"' | '\\')).then_some('\\').into_iter().chain([letter])
            })
            .collect();
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_when_to_come_back() {
        let response = refusal(&Status::too_many_requests("slow down", 3));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        assert!(refusal(&Status::unauthorized()).headers().contains_key(WWW_AUTHENTICATE));
    }

    #[test]
    fn a_known_document_is_not_sent_again() {
        let known = Document::new(&serde_json::json!({"a": 1}));
        let header = HeaderValue::from_str(&format!("\"x\", {}", known.etag)).expect("a header");
        assert_eq!(document(&known, "application/json", Some(&header)).status(), 304);
        assert_eq!(document(&known, "application/json", None).status(), 200);
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = Response::new(whole(Bytes::new()));
        warn(&mut response, &["unknown field \"spec.x\"\n".to_owned()]);
        assert_eq!(
            response.headers()[http::header::WARNING],
            r#"299 - "unknown field \"spec.x\"""#
        );
    }
}
