//! Request bodies: bounded, then read from JSON, YAML or protobuf into one JSON value.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::protobuf;
use crate::api::Status;
use crate::api::decode::{self, Format};
use crate::api::schema::FieldValidation;

/// The largest body, as upstream: twice the store's largest request, because JSON is wordier.
const BODY_MAX: usize = 3 * 1024 * 1024;

/// The media types bodies are read from, as a 415 lists them.
const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads the whole body, or refuses one that is larger than allowed.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Status> {
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(BODY_MAX)),
        Err(error) => Err(Status::bad_request(format!("cannot read the request body: {error}"))),
    }
}

/// The media type of a body without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    header.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Decodes an object from a body of the given media type; none means JSON, as upstream. The
/// strings are warnings about fields given twice.
pub(crate) fn decode(
    media: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    match media {
        "" | "application/json" => decode::value(body, Format::Json, validation),
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            decode::value(body, Format::Yaml, validation)
        }
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(body);
            value
                .map(|value| (value, Vec::new()))
                .map_err(|why| Status::bad_request(why.to_string()))
        }
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {READ}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_decides() {
        let ignore = FieldValidation::Ignore;
        assert!(decode("", b"{}", ignore).is_ok());
        assert!(decode("application/yaml", b"a: 1", ignore).is_ok());
        assert_eq!(decode("application/json", b"a: 1", ignore).expect_err("YAML").code, 400);
        assert_eq!(
            decode("application/vnd.kubernetes.protobuf", b"{}", ignore).expect_err("JSON").code,
            400
        );
        assert_eq!(decode("text/plain", b"{}", ignore).expect_err("unknown").code, 415);
    }
}
