//! Queries and `DeleteOptions`, read into what the registry takes.
//!
//! An option that is understood is honoured; one that is not built is refused. What Kubernetes
//! refuses, it refuses with 422 and the name of the option, and so do we.

use serde_json::Value;

use super::body;
use super::dispatch::Ask;
use super::route::Query;
use crate::api::schema::FieldValidation;
use crate::api::{FieldSelector, Kind, LabelSelector, Selector, Status};
use crate::registry::{
    DeleteOptions, ListOptions, Match, Preconditions, Propagation, WatchOptions, WriteOptions,
};

/// Longest name a field manager may have, as upstream.
const MANAGER_MAX: usize = 128;

/// Options of create, update and patch.
pub(crate) fn write(query: &Query) -> Result<WriteOptions, Status> {
    let field_validation = match query.get("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            let allowed = "\"Ignore\", \"Warn\", \"Strict\"";
            return Err(unsupported("fieldValidation", other, allowed));
        }
    };
    let field_manager = query.get("fieldManager").map(str::to_owned);
    if field_manager.as_ref().is_some_and(|name| name.len() > MANAGER_MAX) {
        return Err(invalid(&format!(
            "fieldManager: Too long: may not be more than {MANAGER_MAX} bytes"
        )));
    }
    Ok(WriteOptions {
        dry_run: dry_run(query.all("dryRun"))?,
        field_manager,
        field_validation,
        ..WriteOptions::default()
    })
}

/// Options of a list, and of what `deletecollection` selects.
pub(crate) fn list(kind: &Kind, query: &Query) -> Result<ListOptions, Status> {
    refuse_initial_events(query)?;
    let limit = query.number("limit").map_err(|why| Status::bad_request(why.to_string()))?;
    let version_match = match query.get("resourceVersionMatch") {
        None => None,
        Some("Exact") => Some(Match::Exact),
        Some("NotOlderThan") => Some(Match::NotOlderThan),
        Some(other) => {
            return Err(unsupported("resourceVersionMatch", other, "\"Exact\", \"NotOlderThan\""));
        }
    };
    let resource_version = query.get("resourceVersion").unwrap_or_default().to_owned();
    if version_match.is_some() && resource_version.is_empty() {
        return Err(invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
             resourceVersion is provided",
        ));
    }
    Ok(ListOptions {
        selector: selector(kind, query)?,
        limit: usize::try_from(limit.unwrap_or(0).max(0)).unwrap_or(usize::MAX),
        continue_token: query.get("continue").map(str::to_owned),
        resource_version,
        version_match,
    })
}

/// Options of a watch.
pub(crate) fn watch(kind: &Kind, query: &Query) -> Result<WatchOptions, Status> {
    refuse_initial_events(query)?;
    if query.get("resourceVersionMatch").is_some() {
        return Err(invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
             sendInitialEvents is provided",
        ));
    }
    let since = match query.get("resourceVersion") {
        None | Some("0") => None,
        Some(text) => {
            Some(text.parse().ok().filter(|revision| *revision > 0).ok_or_else(|| {
                Status::bad_request(format!("resourceVersion: Invalid value: {text:?}"))
            })?)
        }
    };
    let bookmarks = query.flag("allowWatchBookmarks");
    Ok(WatchOptions { selector: selector(kind, query)?, since, bookmarks })
}

/// Never ignored: a client that asked for it waits for a bookmark that would never come, and one
/// that is refused lists instead.
fn refuse_initial_events(query: &Query) -> Result<(), Status> {
    if query.get("sendInitialEvents").is_none() {
        return Ok(());
    }
    Err(invalid(
        "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the \
         WatchList feature gate is enabled",
    ))
}

fn selector(kind: &Kind, query: &Query) -> Result<Selector, Status> {
    let labels = match query.get("labelSelector") {
        Some(text) => LabelSelector::parse(text)?,
        None => LabelSelector::default(),
    };
    let fields = match query.get("fieldSelector") {
        Some(text) => FieldSelector::parse(kind, text)?,
        None => FieldSelector::default(),
    };
    Ok(Selector { labels, fields })
}

/// Options of a deletion: a `DeleteOptions` body, or else the query.
pub(crate) fn delete(ask: &Ask) -> Result<DeleteOptions, Status> {
    let mut options = if ask.body.is_empty() {
        DeleteOptions {
            grace_period_seconds: grace_from_query(&ask.query)?,
            propagation: ask.query.get("propagationPolicy").map(propagation).transpose()?,
            dry_run: dry_run(ask.query.all("dryRun"))?,
            preconditions: Preconditions::default(),
        }
    } else {
        let media = body::media_type(&ask.headers);
        let (value, _) = body::decode(&media, &ask.body, FieldValidation::Ignore)?;
        delete_body(&value)?
    };
    options.dry_run |= dry_run(ask.query.all("dryRun"))?;
    if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        // As upstream: less than nothing means one second.
        options.grace_period_seconds = Some(1);
    }
    Ok(options)
}

fn grace_from_query(query: &Query) -> Result<Option<i64>, Status> {
    query.number("gracePeriodSeconds").map_err(|why| Status::bad_request(why.to_string()))
}

fn delete_body(value: &Value) -> Result<DeleteOptions, Status> {
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    match text("/kind") {
        None | Some("" | "DeleteOptions") => {}
        Some(other) => {
            return Err(Status::bad_request(format!("{other} cannot be handled as DeleteOptions")));
        }
    }
    let policy = text("/propagationPolicy").filter(|policy| !policy.is_empty());
    let orphan = value.get("orphanDependents").and_then(Value::as_bool);
    let propagation = match (policy, orphan) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "propagationPolicy: Invalid value: orphanDependents and deletionPropagation \
                 cannot be both set",
            ));
        }
        (Some(policy), None) => Some(propagation(policy)?),
        (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
    };
    let dry = value.get("dryRun").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Ok(DeleteOptions {
        grace_period_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
        propagation,
        preconditions: Preconditions {
            uid: text("/preconditions/uid").map(str::to_owned),
            resource_version: text("/preconditions/resourceVersion").map(str::to_owned),
        },
        dry_run: dry_run(dry.iter().map(|one| one.as_str().unwrap_or_default()))?,
    })
}

fn propagation(text: &str) -> Result<Propagation, Status> {
    match text {
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(unsupported(
            "propagationPolicy",
            other,
            "\"Background\", \"Foreground\", \"Orphan\"",
        )),
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, Status> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(unsupported("dryRun", value, "\"All\""));
        }
        dry = true;
    }
    Ok(dry)
}

fn unsupported(option: &str, value: &str, allowed: &str) -> Status {
    invalid(&format!("{option}: Unsupported value: {value:?}: supported values: {allowed}"))
}

fn invalid(what: &str) -> Status {
    Status::unprocessable(format!("Options.meta.k8s.io \"\" is invalid: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds;

    fn query(text: &str) -> Query {
        Query::parse(text).expect("well formed")
    }

    #[test]
    fn options_that_are_not_understood_are_refused() {
        let pods = &kinds::POD;
        let codes = [
            write(&query("dryRun=Some")).map(|_| ()),
            write(&query("fieldValidation=Maybe")).map(|_| ()),
            list(pods, &query("resourceVersionMatch=Exact")).map(|_| ()),
            list(pods, &query("resourceVersionMatch=Odd&resourceVersion=1")).map(|_| ()),
            list(pods, &query("sendInitialEvents=false")).map(|_| ()),
            watch(pods, &query("sendInitialEvents=true")).map(|_| ()),
            delete_body(&json!({"propagationPolicy": "Both"})).map(|_| ()),
            delete_body(&json!({"propagationPolicy": "Orphan", "orphanDependents": true}))
                .map(|_| ()),
        ]
        .map(|outcome| outcome.expect_err("refused").code);
        assert_eq!(codes, [422; 8]);
    }

    #[test]
    fn a_watch_begins_where_it_is_told() {
        let pods = &kinds::POD;
        let since = |text: &str| watch(pods, &query(text)).map(|options| options.since);
        assert_eq!(since(""), Ok(None));
        assert_eq!(since("resourceVersion=0"), Ok(None));
        assert_eq!(since("resourceVersion=7"), Ok(Some(7)));
        assert_eq!(since("resourceVersion=x").expect_err("no number").code, 400);
    }

    #[test]
    fn the_body_of_a_deletion() {
        let options = delete_body(&json!({
            "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan",
            "preconditions": {"uid": "u"}, "dryRun": ["All"],
        }))
        .expect("understood");
        assert_eq!(options.grace_period_seconds, Some(0));
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
        assert!(options.dry_run);
    }
}
