//! What the headers of a gateway request ask for: metadata, a time limit, another method.

use std::time::Duration;

use http::{HeaderMap, Method, Request, header};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// What of the headers goes with the call: the token, and whatever is marked as metadata.
pub(super) fn metadata(headers: &HeaderMap) -> MetadataMap {
    const MARK: &str = "grpc-metadata-";
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = if name == header::AUTHORIZATION {
            Some(name.clone())
        } else {
            name.as_str().strip_prefix(MARK).and_then(|name| name.parse().ok())
        };
        if let Some(name) = name {
            metadata.append(name, value.clone());
        }
    }
    MetadataMap::from_headers(metadata)
}

/// When the client has waited long enough, by `Grpc-Timeout`: a number and a unit. None without the
/// header and for zero. The header is refused in the gateway library's words.
pub(super) fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, Status> {
    let Some(asked) = headers.get("grpc-timeout").filter(|asked| !asked.is_empty()) else {
        return Ok(None);
    };
    let timeout = asked.to_str().ok().and_then(timeout).ok_or_else(|| {
        let asked = String::from_utf8_lossy(asked.as_bytes());
        Status::invalid_argument(format!("invalid grpc-timeout: {asked}"))
    })?;
    Ok(match timeout {
        Timeout::None => None,
        Timeout::Over => Some(now),
        // A time that no clock reaches is none.
        Timeout::After(time) => now.checked_add(time),
    })
}

/// What a limit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    None,
    /// A negative one has passed already.
    Over,
    After(Duration),
}

fn timeout(text: &str) -> Option<Timeout> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    Some(match u64::try_from(number) {
        Ok(0) => Timeout::None,
        Err(_) => Timeout::Over,
        Ok(number) => {
            let nanos = u128::from(number) * unit.as_nanos();
            Timeout::After(u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos))
        }
    })
}

/// How a request is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// As it is.
    AsSent,
    /// It is a form, and a form says nothing to the gateway.
    Empty,
    /// By a method that no path has.
    WrongMethod,
}

/// By which method a request is meant. A form that is posted may say in `X-HTTP-Method-Override`
/// that it is something else; its fields are then read as a form's, so that nothing is left of them.
pub(super) fn taken<B>(request: &Request<B>) -> Taken {
    let headers = request.headers();
    if request.method() != Method::POST {
        return Taken::WrongMethod;
    }
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    match headers.get("x-http-method-override").filter(|method| is_form && !method.is_empty()) {
        None => Taken::AsSent,
        Some(method) if method.as_bytes().eq_ignore_ascii_case(b"POST") => Taken::Empty,
        Some(_) => Taken::WrongMethod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_and_a_unit() {
        let after = |nanos| Some(Timeout::After(Duration::from_nanos(nanos)));
        let cases = [
            ("1n", after(1)),
            ("7u", after(7_000)),
            ("2m", after(2_000_000)),
            ("+3S", after(3_000_000_000)),
            ("1M", after(60_000_000_000)),
            ("1H", after(3_600_000_000_000)),
            ("9223372036854775807H", Some(Timeout::After(Duration::MAX))),
            ("0S", Some(Timeout::None)),
            ("-1S", Some(Timeout::Over)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("1.5S", None),
            ("9223372036854775808S", None),
            ("5µ", None),
        ];
        for (text, expected) in cases {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_limit_out_of_reach_is_none_and_a_past_one_is_now() {
        let now = Instant::now();
        let by = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            deadline(&headers, now).map_err(|status| status.message().to_owned())
        };
        assert_eq!(by(""), Ok(None));
        assert_eq!(by("9223372036854775807H"), Ok(None));
        assert_eq!(by("-1S"), Ok(Some(now)));
        assert_eq!(by("1S"), Ok(Some(now + Duration::from_secs(1))));
        assert_eq!(by("1x"), Err("invalid grpc-timeout: 1x".to_owned()));
    }

    #[test]
    fn only_a_posted_form_can_be_something_else() {
        let taken = |method: &str, kind: &str, other: &str| {
            let request = Request::builder().method(method).header("content-type", kind);
            taken(&request.header("x-http-method-override", other).body(()).expect("a request"))
        };
        let form = "application/x-www-form-urlencoded";
        assert_eq!(taken("POST", form, ""), Taken::AsSent);
        assert_eq!(taken("POST", form, "post"), Taken::Empty);
        assert_eq!(taken("POST", form, "GET"), Taken::WrongMethod);
        assert_eq!(taken("POST", "application/json", "GET"), Taken::AsSent);
        assert_eq!(taken("GET", "application/json", "POST"), Taken::WrongMethod);
    }
}
