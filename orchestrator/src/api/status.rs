//! `metav1.Status`: every refusal of the API, in the words clients look for.
//!
//! Programs decide by `reason` and by `details`, people read `message`, and a few clients match
//! whole messages. So the texts here follow kube-apiserver's to the letter, and a refusal is made
//! nowhere else.

use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// One of several reasons for a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable kind of the cause.
    pub reason: &'static str,
    /// The cause in words.
    pub message: String,
    /// The field it is about.
    pub field: String,
}

/// What a refusal is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind; in most refusals the plural name stands here.
    pub kind: String,
    /// Its identity.
    pub uid: String,
    /// All reasons.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// The refusal in words.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// A fresh token to go on with a list whose old token expired.
    pub continue_token: Option<String>,
}

fn about(kind: &Kind, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        ..Details::default()
    }
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn with(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody known is asking.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the object may not be touched so.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let resource = kind.resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).with(about(kind, name))
    }

    /// 403: the asker has no right to this; `resource` and `name` may be empty.
    pub fn denied(message: impl Into<String>, group: &str, resource: &str, name: &str) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        };
        Self::new(403, "Forbidden", message).with(details)
    }

    /// 403 about something that is no object.
    pub fn forbidden_path(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message).with(Details::default())
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.resource()))
            .with(about(kind, name))
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
            .with(Details::default())
    }

    /// 405: the method means nothing at this path.
    pub fn no_such_method() -> Self {
        const WHY: &str = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", WHY).with(Details::default())
    }

    /// 405: the verb is not served here.
    pub fn method_not_allowed(kind: &Kind, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", kind.resource());
        Self::new(405, "MethodNotAllowed", message).with(about(kind, ""))
    }

    /// 406: nothing the client accepts can be given.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message =
            format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: there is one of that name.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.resource()))
            .with(about(kind, name))
    }

    /// 409: no free name was found for a `generateName`.
    pub fn generate_name_conflict(kind: &Kind, prefix: &str) -> Self {
        let message = format!(
            "{} {prefix:?} already exists, the server was not able to generate a unique name for \
             the object",
            kind.resource()
        );
        Self::new(409, "AlreadyExists", message).with(about(kind, prefix))
    }

    /// 409: the write does not fit what is stored.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(409, "Conflict", message).with(about(kind, name))
    }

    /// 409: the object was changed since the writer read it.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest \
                           version and try again";
        Self::conflict(kind, name, WHY)
    }

    /// 410: the asked revision is forgotten.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: too big.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the form of the body is not taken here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks rules; each cause names a field.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let said: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let said = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {said}", kind.qualified_kind());
        let details = Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.kind.to_owned(),
            causes,
            ..Details::default()
        };
        Self::new(422, "Invalid", message).with(details)
    }

    /// 422 about something other than an object's fields.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 429: try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details =
            Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() };
        Self::new(429, "TooManyRequests", message).with(details)
    }

    /// 500: our fault.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let cause = Cause { reason: "", message: message.clone(), field: String::new() };
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with(Details { causes: vec![cause], ..Details::default() })
    }

    /// 501: part of the API that is not built.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    /// 503: the store cannot be reached.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let details = Details { retry_after_seconds: Some(1), ..Details::default() };
        Self::new(503, "ServiceUnavailable", message).with(details)
    }

    /// 504: not done in time; whether it was done at all is unknown.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message).with(Details::default())
    }

    /// 504: a revision that does not exist yet.
    pub fn too_large_revision(asked: i64, current: i64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        };
        let details =
            Details { causes: vec![cause], retry_after_seconds: Some(1), ..Details::default() };
        Self::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        )
        .with(details)
    }

    /// Whether no such object exists.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether the object was changed in between.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether the asked revision is forgotten.
    pub fn is_expired(&self) -> bool {
        self.reason == "Expired"
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, 429 | 503 | 504) || self.is_conflict()
    }

    /// The JSON that clients get.
    pub fn to_value(&self) -> Value {
        let metadata = match &self.continue_token {
            Some(token) => json!({"continue": token}),
            None => json!({}),
        };
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        let texts = [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            fields.insert(field.into(), text.as_str().into());
        }
        if !self.causes.is_empty() {
            fields.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if let Some(seconds) = self.retry_after_seconds {
            fields.insert("retryAfterSeconds".into(), seconds.into());
        }
        Value::Object(fields)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        let texts =
            [("reason", self.reason), ("message", &self.message), ("field", self.field.as_str())];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            fields.insert(field.into(), text.into());
        }
        Value::Object(fields)
    }
}

/// The answer to a deletion that is complete.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let details = Details { uid: uid.to_owned(), ..about(kind, name) };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "details": details.to_value(),
    })
}

/// The answer to an action that gives nothing back.
pub fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn messages_are_those_of_kubernetes() {
        let texts = [
            Status::not_found(&kinds::POD, "web"),
            Status::not_found(&kinds::DEPLOYMENT, "web"),
            Status::already_exists(&kinds::NAMESPACE, "a"),
            Status::modified(&kinds::DEPLOYMENT, "web"),
        ]
        .map(|status| status.message);
        assert_eq!(
            texts,
            [
                "pods \"web\" not found",
                "deployments.apps \"web\" not found",
                "namespaces \"a\" already exists",
                "Operation cannot be fulfilled on deployments.apps \"web\": the object has been \
                 modified; please apply your changes to the latest version and try again",
            ]
        );
    }

    #[test]
    fn an_invalid_object_names_every_cause() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired",
            message: "Required value".into(),
            field: field.into(),
        };
        let one = Status::invalid(&kinds::DEPLOYMENT, "x", vec![cause("spec.selector")]);
        assert_eq!(one.message, "Deployment.apps \"x\" is invalid: spec.selector: Required value");
        let two = Status::invalid(&kinds::POD, "x", vec![cause("a"), cause("b")]);
        assert_eq!(two.message, "Pod \"x\" is invalid: [a: Required value, b: Required value]");
        assert_eq!(two.to_value()["details"]["causes"][1]["field"], "b");
    }
}
