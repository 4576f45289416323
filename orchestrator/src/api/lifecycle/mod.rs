//! The life of an object: what a create, an update and a delete make of what the client sent.
//!
//! Metadata is shared between client and server. The server alone decides identity, times and
//! `generation`, which counts the changes of the wished-for state so that a controller can tell
//! whether it has seen them all. Status and the rest belong to different writers, so a write of one
//! part never touches the other ([`Part`]).
//!
//! Deletion has two steps for an object that someone must clean up after, or a pod that must stop
//! first: it is marked, and it goes when the last finalizer is off and the grace period is over.

mod delete;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::delete::{
    DeleteOptions, Deletion, FOREGROUND, ORPHAN, Preconditions, Propagation, decide,
};
use super::kinds::{self, Kind};
use super::object::Object;
use super::status::Status;
use super::time;

/// The part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// The object without its status.
    #[default]
    Main,
    /// The `status` sub-resource.
    Status,
    /// The `scale` sub-resource: given and taken as an `autoscaling/v1` Scale.
    Scale,
    /// The `finalize` sub-resource of namespaces: `spec.finalizers`.
    Finalize,
}

/// Longest name that `generateName` makes, so that it is still a DNS label.
const GENERATED_MAX: usize = 63;
/// Letters and digits of generated names: no vowels, so that no word appears.
pub const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them a generated name ends with.
pub const SUFFIX_LENGTH: usize = 5;

/// The name made from a `generateName` and some random letters.
pub fn generated_name(prefix: &str, suffix: &str) -> String {
    let keep = prefix.len().min(GENERATED_MAX - suffix.len());
    let end = (0..=keep).rev().find(|at| prefix.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{suffix}", &prefix[..end])
}

/// Gives an object that is to be created what the server decides.
pub fn begin(kind: &Kind, object: &mut Object, uid: &str, now: Timestamp) -> Result<(), Status> {
    if object.text("/metadata/resourceVersion").is_some_and(|version| !version.is_empty()) {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "managedFields",
    ] {
        object.remove(&format!("/metadata/{field}"));
    }
    object.set("/metadata/uid", uid);
    object.set("/metadata/creationTimestamp", time::seconds(now));
    if kind.has_generation {
        object.set("/metadata/generation", 1);
    }
    begin_status(kind, object);
    Ok(())
}

/// The status of a new object is the server's to say; only nodes tell of themselves at once.
fn begin_status(kind: &Kind, object: &mut Object) {
    if !kind.has_status || *kind == kinds::NODE {
        return;
    }
    if *kind == kinds::NAMESPACE {
        object.set("/status", json!({"phase": "Active"}));
        // Keeps the namespace until its content is gone.
        if !object.items("/spec/finalizers").iter().any(|one| one == "kubernetes") {
            let mut all = object.items("/spec/finalizers").to_vec();
            all.push("kubernetes".into());
            object.set("/spec/finalizers", all);
        }
    } else if *kind == kinds::POD {
        let class = super::resources::qos_class(object);
        object.set("/status", json!({"phase": "Pending", "qosClass": class}));
    } else if *kind == kinds::SERVICE {
        object.set("/status", json!({"loadBalancer": {}}));
    } else if *kind == kinds::REPLICA_SET {
        object.set("/status", json!({"replicas": 0}));
    } else {
        object.set("/status", json!({}));
    }
}

/// What the client's version of an object becomes, given the stored one: everything outside the
/// part it may write is taken from `current`.
pub fn merge(kind: &Kind, part: Part, current: &Object, wanted: Object) -> Object {
    let mut next = match part {
        Part::Main => {
            let mut next = wanted;
            if kind.has_status {
                replace(&mut next, current, "/status");
            }
            if *kind == kinds::NAMESPACE {
                replace(&mut next, current, "/spec");
            }
            next
        }
        Part::Status => with_status(kind, current, &wanted),
        Part::Scale => {
            let mut next = current.clone();
            if let Some(replicas) = wanted.get("/spec/replicas") {
                next.set("/spec/replicas", replicas.clone());
            }
            next
        }
        Part::Finalize => {
            let mut next = current.clone();
            replace(&mut next, &wanted, "/spec/finalizers");
            next
        }
    };
    keep_server_fields(&mut next, current);
    if kind.has_generation && wish_changed(kind, current, &next) {
        next.set("/metadata/generation", current.generation() + 1);
    }
    next
}

fn with_status(kind: &Kind, current: &Object, wanted: &Object) -> Object {
    let mut next = current.clone();
    replace(&mut next, wanted, "/status");
    replace(&mut next, wanted, "/metadata/annotations");
    // Who reports on a workload does not relabel it; nodes and pods are labelled by who runs them.
    if kind.group.is_empty() {
        replace(&mut next, wanted, "/metadata/labels");
    }
    next
}

/// Makes a field of `target` what it is in `source`, absent included.
fn replace(target: &mut Object, source: &Object, pointer: &str) {
    match source.get(pointer) {
        Some(value) => target.set(pointer, value.clone()),
        None => drop(target.remove(pointer)),
    }
}

fn keep_server_fields(next: &mut Object, current: &Object) {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        replace(next, current, &format!("/metadata/{field}"));
    }
    next.remove("/metadata/selfLink");
    // Who manages which field is not recorded yet; what is not kept up to date is not kept.
    next.remove("/metadata/managedFields");
}

/// Whether anything but metadata and status differs. Annotations of a Deployment count too: they
/// are copied to its ReplicaSets, so its controller has work to do.
fn wish_changed(kind: &Kind, before: &Object, after: &Object) -> bool {
    let wish = |object: &'_ Object| -> Vec<(String, Value)> {
        let outside = |field: &str| matches!(field, "metadata" | "status" | "apiVersion" | "kind");
        let fields = object.fields().iter().filter(|(field, _)| !outside(field));
        fields.map(|(field, value)| (field.clone(), value.clone())).collect()
    };
    let annotated = *kind == kinds::DEPLOYMENT
        && before.get("/metadata/annotations") != after.get("/metadata/annotations");
    annotated || wish(before) != wish(after)
}

/// Whether an update leaves nothing to wait for, so that the object goes instead of being written.
pub fn ends_with_update(kind: &Kind, object: &Object) -> bool {
    let waits = |pointer| !object.items(pointer).is_empty();
    object.is_deleting()
        && !waits("/metadata/finalizers")
        && object.int("/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !(*kind == kinds::NAMESPACE && waits("/spec/finalizers"))
}

/// The Scale of an object that has replicas.
pub fn scale(object: &Object) -> Object {
    let selector = object
        .get("/spec/selector")
        .and_then(super::LabelSelector::from_json)
        .map_or_else(String::new, |selector| selector.to_text());
    let metadata = |field: &str| object.get(&format!("/metadata/{field}")).cloned();
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {},
        "spec": {"replicas": object.int("/spec/replicas").unwrap_or(0)},
        "status": {
            "replicas": object.int("/status/replicas").unwrap_or(0), "selector": selector,
        },
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata(field) {
            scale["metadata"][field] = value;
        }
    }
    Object::from_value(scale).expect("made as a JSON object above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Object {
        let value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "a", "uid": "1", "generation": 3,
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 1}, "status": {"replicas": 1},
        });
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn a_wish_raises_the_generation_and_a_status_does_not() {
        let mut wanted = deployment();
        wanted.set("/spec/replicas", 2);
        wanted.set("/status/replicas", 9);
        wanted.set("/metadata/uid", "forged");
        let next = merge(&kinds::DEPLOYMENT, Part::Main, &deployment(), wanted.clone());
        assert_eq!(next.generation(), 4);
        assert_eq!(next.int("/status/replicas"), Some(1));
        assert_eq!(next.uid(), "1");

        let next = merge(&kinds::DEPLOYMENT, Part::Status, &deployment(), wanted);
        assert_eq!(next.generation(), 3);
        assert_eq!(next.int("/spec/replicas"), Some(1));
        assert_eq!(next.int("/status/replicas"), Some(9));
    }

    #[test]
    fn labels_alone_leave_the_generation() {
        let mut wanted = deployment();
        wanted.set_label("a", "b");
        let next = merge(&kinds::DEPLOYMENT, Part::Main, &deployment(), wanted.clone());
        assert_eq!(next.generation(), 3);
        wanted.set_annotation("a", "b");
        let next = merge(&kinds::DEPLOYMENT, Part::Main, &deployment(), wanted);
        assert_eq!(next.generation(), 4);
    }

    #[test]
    fn scaling_changes_replicas_only() {
        let mut wanted = scale(&deployment());
        wanted.set("/spec/replicas", 5);
        let next = merge(&kinds::DEPLOYMENT, Part::Scale, &deployment(), wanted);
        assert_eq!((next.int("/spec/replicas"), next.generation()), (Some(5), 4));
    }

    #[test]
    fn generated_names_stay_labels() {
        assert_eq!(generated_name("web-", "bcdfg"), "web-bcdfg");
        assert_eq!(generated_name(&"a".repeat(80), "bcdfg").len(), GENERATED_MAX);
    }

    #[test]
    fn a_new_object_starts_without_claims() {
        let mut object = deployment();
        object.set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z");
        begin(&kinds::DEPLOYMENT, &mut object, "u", Timestamp::UNIX_EPOCH).expect("valid");
        assert!(!object.is_deleting());
        assert_eq!((object.generation(), object.uid()), (1, "u"));
        assert_eq!(object.get("/status"), Some(&json!({})));
        object.set_resource_version(7);
        assert!(begin(&kinds::DEPLOYMENT, &mut object, "u", Timestamp::UNIX_EPOCH).is_err());
    }
}
