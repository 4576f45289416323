//! Pods, and the pods in templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container;
use super::error::{Causes, Path, entries, items, text};
use super::{meta, names};
use crate::api::object::Object;

/// Fields of a volume that are not its source.
const VOLUME_NAME: &str = "name";
const UPDATE_TEXT: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What is wrong with the spec of a pod.
pub(super) fn check_spec(spec: Option<&Value>, path: &Path, causes: &mut Causes) {
    let empty = Value::Object(serde_json::Map::new());
    let spec = spec.unwrap_or(&empty);
    let volumes = volumes(spec, path, causes);
    containers(spec, path, &volumes, causes);
    causes.supported(
        &path.child("restartPolicy"),
        spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    causes.supported(
        &path.child("dnsPolicy"),
        spec.get("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let grace = "terminationGracePeriodSeconds";
    causes.not_negative(&path.child(grace), spec.get(grace));
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        causes.invalid(&path.child("activeDeadlineSeconds"), seconds, why);
    }
    meta::labels(spec, "nodeSelector", path, causes);
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        if !value.is_empty() {
            causes.invalid_all(&path.child(field), value, names::dns_label(value));
        }
    }
    let account = text(spec, "serviceAccountName");
    if !account.is_empty() {
        let path = path.child("serviceAccountName");
        causes.invalid_all(&path, account, names::dns_subdomain(account));
    }
    let node = text(spec, "nodeName");
    if !node.is_empty() {
        causes.invalid_all(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
    for (path, toleration) in items(spec, "tolerations", path) {
        check_toleration(toleration, &path, causes);
    }
}

fn containers(spec: &Value, path: &Path, volumes: &BTreeSet<&str>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        causes.required(&path.child("containers"), "");
    }
    for list in ["containers", "initContainers"] {
        for (path, one) in items(spec, list, path) {
            let name = text(one, "name");
            if !name.is_empty() && !seen.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
            let init = list == "initContainers";
            container::check(one, &path, volumes, init, causes);
            if !init {
                container::check_host_ports(one, &path, &mut host_ports, causes);
            }
        }
    }
    if spec.get("ephemeralContainers").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
    {
        let why = "cannot be set on create; use the ephemeralcontainers subresource";
        causes.forbidden(&path.child("ephemeralContainers"), why);
    }
}

/// Checks the volumes; answers their names.
fn volumes<'a>(spec: &'a Value, path: &Path, causes: &mut Causes) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (path, volume) in items(spec, "volumes", path) {
        let name = text(volume, VOLUME_NAME);
        let field = path.child(VOLUME_NAME);
        if name.is_empty() {
            causes.required(&field, "");
        } else {
            causes.invalid_all(&field, name, names::dns_label(name));
            if !seen.insert(name) {
                causes.duplicate(&field, name);
            }
        }
        volume_source(volume, &path, causes);
    }
    seen
}

fn volume_source(volume: &Value, path: &Path, causes: &mut Causes) {
    let sources: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys())
        .filter(|field| *field != VOLUME_NAME)
        .collect();
    match sources.as_slice() {
        [] => causes.required(path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for extra in more {
                causes.forbidden(&path.child(extra), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(source) = volume.get("hostPath")
        && text(source, "path").is_empty()
    {
        causes.required(&path.child("hostPath").child("path"), "");
    }
    if let Some(source) = volume.get("secret")
        && text(source, "secretName").is_empty()
    {
        causes.required(&path.child("secret").child("secretName"), "");
    }
    if let Some(source) = volume.get("configMap") {
        let path = path.child("configMap");
        if text(source, "name").is_empty() {
            causes.required(&path.child("name"), "");
        }
        key_paths(source, &path, causes);
    }
}

/// Files of a volume: each with a key and a path that stays inside.
fn key_paths(source: &Value, path: &Path, causes: &mut Causes) {
    for (path, item) in items(source, "items", path) {
        if text(item, "key").is_empty() {
            causes.required(&path.child("key"), "");
        }
        let file = text(item, "path");
        let field = path.child("path");
        if file.is_empty() {
            causes.required(&field, "");
        } else if file.starts_with('/') {
            causes.invalid(&field, file, "must be a relative path");
        } else if file.split('/').any(|step| step == "..") {
            causes.invalid(&field, file, "must not contain '..'");
        }
    }
}

fn check_toleration(toleration: &Value, path: &Path, causes: &mut Causes) {
    let (key, operator, effect) =
        (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
    if !key.is_empty() {
        causes.invalid_all(&path.child("key"), key, names::qualified_name(key));
    }
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and \
                   all keys\"";
        causes.invalid(&path.child("operator"), operator, why);
    }
    if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        causes.invalid(&path.child("effect"), effect, why);
    }
    match operator {
        "Equal" | "" => {
            let value = text(toleration, "value");
            causes.invalid_all(&path.child("operator"), value, names::label_value(value));
        }
        "Exists" if !text(toleration, "value").is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            causes.invalid(&path.child("operator"), text(toleration, "value"), why);
        }
        "Exists" => {}
        _ => causes.supported(
            &path.child("operator"),
            toleration.get("operator"),
            &["Equal", "Exists"],
        ),
    }
    if !effect.is_empty() {
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        causes.supported(&path.child("effect"), toleration.get("effect"), &known);
    }
}

/// What a change of a pod may not do: almost anything.
pub(super) fn check_change(before: &Object, after: &Object, causes: &mut Causes) {
    let (old, mut new) = (before.get("/spec"), after.get("/spec").cloned());
    if let (Some(old), Some(new)) = (old, new.as_mut()) {
        undo_allowed(old, new, causes);
    }
    if old != new.as_ref() {
        causes.forbidden(&Path::root("spec"), UPDATE_TEXT);
    }
}

/// Puts what may change back to what it was, so that what still differs may not.
fn undo_allowed(old: &Value, new: &mut Value, causes: &mut Causes) {
    for list in ["containers", "initContainers"] {
        let before = old.get(list).and_then(Value::as_array);
        let after = new.get_mut(list).and_then(Value::as_array_mut);
        for (before, after) in before.into_iter().flatten().zip(after.into_iter().flatten()) {
            put_back(before, after, "image");
        }
    }
    let deadline = |spec: &Value| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    match (deadline(old), deadline(new)) {
        (Some(before), Some(after)) if after > before => {
            let why = "must be less than or equal to previous value";
            causes.invalid(&Path::root("spec.activeDeadlineSeconds"), after, why);
        }
        (Some(_), None) => {
            let why = "must not update from a positive integer to nil value";
            causes.invalid(&Path::root("spec.activeDeadlineSeconds"), Value::Null, why);
        }
        _ => {}
    }
    put_back(old, new, "activeDeadlineSeconds");
    let kept = |list: &Value| {
        let old = old.get("tolerations").and_then(Value::as_array).into_iter().flatten();
        let list = list.as_array();
        let same = |one: &Value, other: &Value| {
            ["key", "operator", "value", "effect"].iter().all(|f| one.get(*f) == other.get(*f))
        };
        old.into_iter().all(|one| list.is_some_and(|all| all.iter().any(|new| same(one, new))))
    };
    if new.get("tolerations").is_none_or(kept) {
        put_back(old, new, "tolerations");
    } else {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        causes.forbidden(&Path::root("spec.tolerations"), why);
    }
}

fn put_back(old: &Value, new: &mut Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Names of resources in a map of amounts.
pub(super) fn resource_names(owner: &Value, field: &str, path: &Path, causes: &mut Causes) {
    let path = path.child(field);
    for (name, _) in entries(owner, field) {
        causes.invalid_all(&path.key(name), name, names::qualified_name(name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(spec: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        check_spec(Some(spec), &Path::root("spec"), &mut causes);
        let causes = causes.into_vec();
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn an_empty_pod_needs_containers() {
        assert_eq!(said(&json!({})), ["spec.containers: Required value"]);
        let nameless = said(&json!({"containers": [{}]}));
        assert_eq!(
            nameless,
            ["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"]
        );
    }

    #[test]
    fn names_and_references_are_checked() {
        let complaints = said(&json!({
            "containers": [
                {"name": "a", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
                {"name": "a", "image": "i"},
            ],
            "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}],
            "restartPolicy": "Sometimes",
        }));
        assert_eq!(
            complaints,
            [
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \"OnFailure\", \"Never\"",
            ]
        );
    }

    #[test]
    fn only_some_fields_of_a_pod_change() {
        let pod = |spec: Value| Object::from_value(json!({"spec": spec})).expect("an object");
        let old = pod(json!({"containers": [{"name": "a", "image": "1"}], "nodeName": "n"}));
        let complaints = |new: Value| {
            let mut causes = Causes::default();
            check_change(&old, &pod(new), &mut causes);
            causes.into_vec().len()
        };
        let image = json!({"containers": [{"name": "a", "image": "2"}], "nodeName": "n"});
        assert_eq!(complaints(image), 0);
        let tolerant = json!({
            "containers": [{"name": "a", "image": "1"}], "nodeName": "n",
            "tolerations": [{"operator": "Exists"}],
        });
        assert_eq!(complaints(tolerant), 0);
        let moved = json!({"containers": [{"name": "a", "image": "1"}], "nodeName": "m"});
        assert_eq!(complaints(moved), 1);
    }
}
