//! How an object is deleted: at once, or marked first.

use jiff::{SignedDuration, Timestamp};

use crate::api::kinds::{self, Kind};
use crate::api::object::Object;
use crate::api::status::Status;
use crate::api::time;

/// Finalizer that holds an owner until what it owns is gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that holds an owner until what it owns is set free.
pub const ORPHAN: &str = "orphan";
/// Namespaces the cluster cannot do without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// Grace of a pod that names none.
const GRACE_DEFAULT_S: i64 = 30;

/// What must be true of an object for a write to happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// It is this very object, not a later one of the same name.
    pub uid: Option<String>,
    /// Nobody has written it since this revision.
    pub resource_version: Option<String>,
}

/// What becomes of the objects an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes at once, the collector removes what it owned.
    Background,
    /// The owner stays until what it owned is gone.
    Foreground,
    /// What it owned stays, without owner.
    Orphan,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod may take to stop; `None` leaves it to the pod.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of owned objects; `None` leaves it to the kind.
    pub propagation: Option<Propagation>,
    /// What must be true of the object.
    pub preconditions: Preconditions,
    /// Do everything but the write.
    pub dry_run: bool,
}

/// What a delete does.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// The object goes now.
    Remove,
    /// The object is written with the mark of deletion.
    Mark(Object),
    /// The object is marked already and nothing changes.
    Wait,
}

impl Preconditions {
    /// Refuses when the object is not the one meant.
    pub fn check(&self, kind: &Kind, object: &Object) -> Result<(), Status> {
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != object.uid()) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
                 object might have been deleted and then recreated",
                object.uid()
            );
            return Err(Status::conflict(kind, object.name(), &why));
        }
        let current = object.text("/metadata/resourceVersion").unwrap_or("");
        if let Some(version) = self.resource_version.as_deref().filter(|v| *v != current) {
            let why = format!(
                "the ResourceVersion in the precondition ({version}) does not match the \
                 ResourceVersion in record ({current}). The object might have been modified"
            );
            return Err(Status::conflict(kind, object.name(), &why));
        }
        Ok(())
    }
}

/// Decides what a delete of `current` does.
pub fn decide(
    kind: &Kind,
    current: &Object,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Deletion, Status> {
    options.preconditions.check(kind, current)?;
    if *kind == kinds::NAMESPACE && IMMORTAL.contains(&current.name()) {
        let why = "this namespace may not be deleted";
        return Err(Status::forbidden(kind, current.name(), why));
    }
    let mut next = current.clone();
    if let Some(propagation) = options.propagation {
        set_propagation(&mut next, propagation);
    }
    let grace = grace(kind, current, options);
    mark(kind, &mut next, grace, now);
    let waits = grace > 0
        || next.finalizers().next().is_some()
        || (*kind == kinds::NAMESPACE && !next.items("/spec/finalizers").is_empty());
    Ok(match waits {
        false => Deletion::Remove,
        true if next == *current => Deletion::Wait,
        true => Deletion::Mark(next),
    })
}

fn set_propagation(object: &mut Object, propagation: Propagation) {
    object.remove_finalizer(FOREGROUND);
    object.remove_finalizer(ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => object.add_finalizer(FOREGROUND),
        Propagation::Orphan => object.add_finalizer(ORPHAN),
    }
}

/// Seconds the object has to stop. Only a pod that may run somewhere has any, and a second delete
/// can shorten them but not lengthen them.
fn grace(kind: &Kind, current: &Object, options: &DeleteOptions) -> i64 {
    if *kind != kinds::POD {
        return 0;
    }
    let ended = matches!(current.text("/status/phase"), Some("Succeeded" | "Failed"));
    let unbound = current.text("/spec/nodeName").is_none_or(str::is_empty);
    if ended || unbound {
        return 0;
    }
    let own = current.int("/spec/terminationGracePeriodSeconds").unwrap_or(GRACE_DEFAULT_S);
    let asked = match options.grace_period_seconds {
        // A negative grace is a mistake from before it was checked: the shortest there is.
        Some(seconds) if seconds < 0 => 1,
        Some(seconds) => seconds,
        None => own,
    };
    match current.int("/metadata/deletionGracePeriodSeconds") {
        Some(running) if current.is_deleting() => match options.grace_period_seconds {
            Some(_) => asked.min(running),
            None => running,
        },
        _ => asked,
    }
}

fn mark(kind: &Kind, object: &mut Object, grace: i64, now: Timestamp) {
    let running = object.int("/metadata/deletionGracePeriodSeconds").unwrap_or(0);
    match object.deletion_timestamp() {
        Some(end) if grace < running => {
            // The clock started at the first delete.
            let end = end - SignedDuration::from_secs(running - grace);
            object.set("/metadata/deletionTimestamp", time::seconds(end));
            object.set("/metadata/deletionGracePeriodSeconds", grace);
        }
        Some(_) => return,
        None => {
            let end = now + SignedDuration::from_secs(grace);
            object.set("/metadata/deletionTimestamp", time::seconds(end));
            object.set("/metadata/deletionGracePeriodSeconds", grace);
            if object.generation() > 0 {
                object.set("/metadata/generation", object.generation() + 1);
            }
        }
    }
    if *kind == kinds::NAMESPACE {
        object.set("/status/phase", "Terminating");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str) -> Object {
        let value = json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "1", "generation": 1},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"},
        });
        Object::from_value(value).expect("an object")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn run(kind: &Kind, object: &Object, options: &DeleteOptions) -> Deletion {
        decide(kind, object, options, at(1000)).expect("allowed")
    }

    fn marked(deletion: Deletion) -> Object {
        match deletion {
            Deletion::Mark(object) => object,
            other => panic!("not marked: {other:?}"),
        }
    }

    #[test]
    fn a_running_pod_gets_time_and_the_kubelet_ends_it() {
        let first = marked(run(&kinds::POD, &pod("n1"), &DeleteOptions::default()));
        assert_eq!(first.deletion_timestamp(), Some(at(1030)));
        assert_eq!(first.generation(), 2);
        assert_eq!(run(&kinds::POD, &first, &DeleteOptions::default()), Deletion::Wait);

        let shorter = DeleteOptions { grace_period_seconds: Some(5), ..Default::default() };
        let second = marked(run(&kinds::POD, &first, &shorter));
        assert_eq!(second.deletion_timestamp(), Some(at(1005)));
        let longer = DeleteOptions { grace_period_seconds: Some(60), ..Default::default() };
        assert_eq!(run(&kinds::POD, &first, &longer), Deletion::Wait);

        let end = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
        assert_eq!(run(&kinds::POD, &first, &end), Deletion::Remove);
    }

    #[test]
    fn a_pod_that_runs_nowhere_goes_at_once() {
        assert_eq!(run(&kinds::POD, &pod(""), &DeleteOptions::default()), Deletion::Remove);
    }

    #[test]
    fn finalizers_hold() {
        let foreground =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..Default::default() };
        let object = Object::from_value(json!({"metadata": {"name": "d"}})).expect("an object");
        let held = marked(run(&kinds::DEPLOYMENT, &object, &foreground));
        assert!(held.has_finalizer(FOREGROUND) && held.is_deleting());
        let background =
            DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
        assert_eq!(run(&kinds::DEPLOYMENT, &held, &background), Deletion::Remove);
    }

    #[test]
    fn preconditions_and_immortals() {
        let other = Preconditions { uid: Some("2".into()), resource_version: None };
        let options = DeleteOptions { preconditions: other, ..Default::default() };
        let refused = decide(&kinds::POD, &pod("n1"), &options, at(0)).expect_err("another pod");
        assert_eq!(refused.reason, "Conflict");
        let default =
            Object::from_value(json!({"metadata": {"name": "default"}})).expect("an object");
        let refused = decide(&kinds::NAMESPACE, &default, &DeleteOptions::default(), at(0))
            .expect_err("immortal");
        assert_eq!(
            refused.message,
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        );
    }
}
