//! Resources that answer about the asker and are never stored: `kubectl auth whoami`, `auth can-i`.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::authz::{self, Attributes};
use super::body;
use super::discovery::VIRTUAL;
use super::dispatch::Ask;
use super::negotiate::Form;
use super::respond::{self, Body};
use crate::api::Status;
use crate::api::schema::FieldValidation;

/// Every verb that rules know; any other is simply not allowed.
const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "head",
    "post",
    "put",
];

/// Answers a review; a 404 for whatever is no resource at all.
pub(crate) fn answer(ask: &Ask) -> Result<Response<Body>, Status> {
    let target = &ask.target;
    let known = VIRTUAL.iter().find(|one| {
        (one.group, one.version, one.plural)
            == (&*target.group, &*target.version, &*target.resource)
    });
    let known = known.ok_or_else(Status::no_such_path)?;
    if target.namespace.is_some() || target.subresource.is_some() {
        return Err(Status::no_such_path());
    }
    if ask.verb != "create" || target.name.is_some() {
        return Err(Status::no_such_method());
    }
    let (_, spelling) = ask.form(&[Form::Object])?;
    let media = body::media_type(&ask.headers);
    let (mut review, _) = body::decode(&media, &ask.body, FieldValidation::Warn)?;
    if review.get("kind").and_then(Value::as_str).is_some_and(|kind| kind != known.kind) {
        return Err(Status::bad_request(format!("the path takes a {}", known.kind)));
    }
    if !review.is_object() {
        return Err(Status::bad_request("the body of the request must be one object"));
    }
    review["status"] = match known.kind {
        "SelfSubjectReview" => {
            json!({"userInfo": {"username": ask.actor.user, "groups": ask.actor.groups}})
        }
        _ => access(ask, &review),
    };
    Ok(respond::value(StatusCode::CREATED, &review, spelling))
}

fn access(ask: &Ask, review: &Value) -> Value {
    let allowed = attributes(review).is_some_and(|wanted| authz::allowed(&ask.actor, &wanted));
    json!({"allowed": allowed})
}

/// What the review asks about; `None` for a verb no rule could allow.
fn attributes(review: &Value) -> Option<Attributes> {
    let text = |pointer: &str| {
        let found = review.pointer(pointer).and_then(Value::as_str);
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let verb = |pointer: &str| {
        let asked = text(pointer).unwrap_or_default();
        // `*` asks for every verb: only who may do anything may do that.
        if asked == "*" { Some("*") } else { VERBS.iter().copied().find(|verb| *verb == asked) }
    };
    if review.pointer("/spec/nonResourceAttributes").is_some() {
        return Some(Attributes {
            verb: verb("/spec/nonResourceAttributes/verb")?,
            path: Some(text("/spec/nonResourceAttributes/path").unwrap_or_default()),
            ..Attributes::default()
        });
    }
    Some(Attributes {
        verb: verb("/spec/resourceAttributes/verb")?,
        group: text("/spec/resourceAttributes/group").unwrap_or_default(),
        resource: text("/spec/resourceAttributes/resource").unwrap_or_default(),
        subresource: text("/spec/resourceAttributes/subresource"),
        namespace: text("/spec/resourceAttributes/namespace"),
        name: text("/spec/resourceAttributes/name"),
        path: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_becomes_what_a_request_would_be() {
        let review = json!({"spec": {"resourceAttributes": {
            "verb": "list", "resource": "pods", "namespace": "a",
        }}});
        let wanted = attributes(&review).expect("a known verb");
        assert_eq!((wanted.verb, wanted.resource.as_str()), ("list", "pods"));
        assert_eq!(wanted.namespace.as_deref(), Some("a"));
        let odd = json!({"spec": {"resourceAttributes": {"verb": "fly", "resource": "pods"}}});
        assert_eq!(attributes(&odd), None);
    }
}
