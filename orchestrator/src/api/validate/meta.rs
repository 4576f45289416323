//! The metadata that every object has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::{Causes, Path, entries, text};
use super::names;
use crate::api::kinds::Kind;
use crate::api::lifecycle::{FOREGROUND, ORPHAN};
use crate::api::object::Object;

/// All annotations of an object together, keys and values.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// What is wrong with the metadata of an object.
pub(super) fn check(kind: &Kind, object: &Object, causes: &mut Causes) {
    let path = Path::root("metadata");
    let name = path.child("name");
    if object.name().is_empty() {
        causes.required(&name, "name or generateName is required");
    } else {
        causes.invalid_all(&name, object.name(), name_rule(kind)(object.name()));
    }
    let Some(metadata) = object.get("/metadata") else { return };
    if let Some(namespace) = object.namespace().filter(|_| kind.namespaced) {
        let field = path.child("namespace");
        causes.invalid_all(&field, namespace, names::dns_label(namespace));
    }
    labels(metadata, "labels", &path, causes);
    annotations(metadata, &path, causes);
    finalizers(object, &path, causes);
    owners(object, &path, causes);
}

fn name_rule(kind: &Kind) -> fn(&str) -> Vec<String> {
    match (kind.group, kind.kind) {
        ("", "Namespace") => names::dns_label,
        ("", "Service") => names::dns_1035_label,
        _ => names::dns_subdomain,
    }
}

/// A map of labels.
pub(super) fn labels(owner: &Value, field: &str, path: &Path, causes: &mut Causes) {
    let path = path.child(field);
    for (key, value) in entries(owner, field) {
        causes.invalid_all(&path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        causes.invalid_all(&path, value, names::label_value(value));
    }
}

fn annotations(metadata: &Value, path: &Path, causes: &mut Causes) {
    let path = path.child("annotations");
    let mut bytes = 0;
    for (key, value) in entries(metadata, "annotations") {
        // Upper case is legal in keys of annotations, for reasons of history.
        causes.invalid_all(&path, key, names::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.too_long(&path, ANNOTATIONS_BYTES_MAX);
    }
}

fn finalizers(object: &Object, path: &Path, causes: &mut Causes) {
    let path = path.child("finalizers");
    for (nth, finalizer) in object.finalizers().enumerate() {
        causes.invalid_all(&path.item(nth), finalizer, names::qualified_name(finalizer));
    }
    if object.has_finalizer(ORPHAN) && object.has_finalizer(FOREGROUND) {
        let all = object.get("/metadata/finalizers").cloned().unwrap_or_default();
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        causes.invalid(&path, all, &why);
    }
}

fn owners(object: &Object, path: &Path, causes: &mut Causes) {
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (nth, owner) in object.owner_references().enumerate() {
        let path = path.item(nth);
        let parts = [
            ("apiVersion", owner.api_version, "version must not be empty"),
            ("kind", owner.kind, "must not be empty"),
            ("name", owner.name, "must not be empty"),
            ("uid", owner.uid, "must not be empty"),
        ];
        for (field, value, why) in parts.into_iter().filter(|(_, value, _)| value.is_empty()) {
            causes.invalid(&path.child(field), value, why);
        }
        if owner.controller {
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {}",
                    owner.name
                );
                causes.invalid(&Path::root("metadata.ownerReferences"), owner.uid, &why);
            }
            controller = Some(owner.name.to_owned());
        }
    }
}

/// What a change of the metadata may not do.
pub(super) fn check_change(before: &Object, after: &Object, causes: &mut Causes) {
    if !before.is_deleting() {
        return;
    }
    let had: BTreeSet<&str> = before.finalizers().collect();
    let new: Vec<&str> = after.finalizers().filter(|one| !had.contains(one)).collect();
    if !new.is_empty() {
        let quoted: Vec<String> = new.iter().map(|one| format!("{one:?}")).collect();
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{{{}}}",
            quoted.join(", ")
        );
        causes.forbidden(&Path::root("metadata.finalizers"), &why);
    }
}

/// A label selector: required as an object, its keys, operators and values.
pub(super) fn selector(value: &Value, path: &Path, causes: &mut Causes) {
    labels(value, "matchLabels", path, causes);
    for (path, expression) in super::error::items(value, "matchExpressions", path) {
        let key = text(expression, "key");
        causes.invalid_all(&path.child("key"), key, names::qualified_name(key));
        let values = expression.get("values").and_then(Value::as_array).map_or(0, Vec::len);
        match text(expression, "operator") {
            "In" | "NotIn" if values == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.required(&path.child("values"), why);
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(&path.child("values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                causes.invalid(&path.child("operator"), other, "not a valid selector operator")
            }
        }
    }
}
