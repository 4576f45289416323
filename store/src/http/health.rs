//! Whether the member is well: `/health` for people and old probes, `/livez` and `/readyz` for
//! Kubernetes.
//!
//! `/health` asks one question of everything: no alarm, a leader, and a read that works. The other
//! two are lists of named checks, each of which can be left out (`?exclude=`) or asked alone (as a
//! path below); a store that is alive but not ready is to be waited for, not restarted. None needs
//! credentials: a probe has none, and what is told is no more than "well" or "not".

use tonic::body::Body;

use super::{Query, TEXT, no_sniffing, refuse, respond};
use crate::command::{AlarmKind, KeyRange, RangeQuery};
use crate::metrics::{Check, List, Metrics};
use crate::rpc::Member;

/// `/health`: alarms, a leader, and a read.
pub(super) async fn health(
    member: &Member,
    metrics: &Metrics,
    query: Query<'_>,
) -> http::Response<Body> {
    let sickness = sickness(member, query).await;
    metrics.health(sickness.is_none());
    let Some(reason) = sickness else {
        return respond(200, TEXT, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    };
    tracing::warn!(reason, "/health error");
    let reason = serde_json::Value::from(reason);
    refuse(503, format!("{{\"health\":\"false\",\"reason\":{reason}}}\n"))
}

async fn sickness(member: &Member, query: Query<'_>) -> Option<String> {
    let standing: Vec<_> = member.reader.view().alarms().iter().map(|alarm| alarm.kind).collect();
    for kind in standing {
        let name = match kind {
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

/// A question of `/livez` or `/readyz`: the whole list, or one check of it.
#[derive(Clone, Copy)]
pub(super) struct Checklist<'a> {
    list: List,
    only: Option<&'a str>,
}

impl<'a> Checklist<'a> {
    /// What a path asks for, if it asks for a list or for a check that is in it.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (list, only) = match path.split_once('/') {
            Some((list, only)) => (list, Some(only)),
            None => (path, None),
        };
        let list = [List::Livez, List::Readyz].into_iter().find(|known| known.name() == list)?;
        let known = only.is_none_or(|only| list.checks().iter().any(|check| check.name() == only));
        known.then_some(Self { list, only })
    }
}

/// `/livez` and `/readyz`: named checks, one line each where asked or when one fails.
pub(super) async fn checks(
    member: &Member,
    metrics: &Metrics,
    Checklist { list, only }: Checklist<'_>,
    query: Query<'_>,
) -> http::Response<Body> {
    let mut lines = String::new();
    let mut failed = false;
    for check in list.checks() {
        let name = check.name();
        if only.is_some_and(|only| only != name) || query.has("exclude", name) {
            continue;
        }
        let outcome = run(member, *check).await;
        metrics.checked(list, *check, outcome.is_ok());
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if failed {
        tracing::warn!(check = list.name(), lines, "health check error");
        return refuse(503, lines + "\n");
    }
    let verbose = query.values("verbose").next().is_some();
    let mut response = respond(200, TEXT, if verbose { lines + "ok\n" } else { "ok\n".to_owned() });
    no_sniffing(&mut response);
    response
}

async fn run(member: &Member, check: Check) -> Result<(), String> {
    match check {
        Check::SerializableRead => read(member, true).await,
        Check::LinearizableRead => read(member, false).await,
        Check::DataCorruption => {
            let view = member.reader.view();
            match view.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            }
        }
        // There are no learners yet.
        Check::NonLearner => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_list_or_a_check_that_is_in_it() {
        for good in ["/livez", "/readyz", "/livez/serializable_read", "/readyz/non_learner"] {
            assert!(Checklist::of(good).is_some(), "{good}");
        }
        for bad in ["/", "", "/live", "/readyz/", "/readyz/nope", "/livez/linearizable_read"] {
            assert!(Checklist::of(bad).is_none(), "{bad}");
        }
    }
}
