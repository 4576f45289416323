//! Kinds with few rules: configuration, events, leases, nodes.

use base64::Engine;
use serde_json::Value;

use super::error::{Causes, Path, entries, items, text};
use super::names;
use crate::api::object::Object;

/// All data of a ConfigMap or Secret together.
const DATA_BYTES_MAX: usize = 1 << 20;

pub(super) fn config_map(object: &Object, causes: &mut Causes) {
    let value = object.as_value();
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        let path = Path::root(field);
        for (key, data) in entries(value, field) {
            causes.invalid_all(&path.key(key), key, names::config_key(key));
            if field == "binaryData" && value.pointer("/data").is_some_and(|d| d.get(key).is_some())
            {
                causes.invalid(&path.key(key), key.as_str(), "duplicate of key present in data");
            }
            bytes += data_length(field == "binaryData", data);
        }
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long(&Path::root(""), DATA_BYTES_MAX);
    }
}

fn data_length(encoded: bool, data: &Value) -> usize {
    let text = data.as_str().unwrap_or("");
    if !encoded {
        return text.len();
    }
    base64::engine::general_purpose::STANDARD.decode(text).map_or(text.len(), |bytes| bytes.len())
}

pub(super) fn secret(object: &Object, causes: &mut Causes) {
    let value = object.as_value();
    let path = Path::root("data");
    let mut bytes = 0;
    for (key, data) in entries(value, "data") {
        causes.invalid_all(&path.key(key), key, names::config_key(key));
        bytes += data_length(true, data);
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long(&path, DATA_BYTES_MAX);
    }
    let needed: &[&str] = match text(value, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if value.get("data").and_then(|data| data.get(key)).is_none() {
            causes.required(&path.key(key), "");
        }
    }
}

/// What was made immutable stays so and stays as it is.
pub(super) fn immutable(before: &Object, after: &Object, causes: &mut Causes) {
    if before.flag("/immutable") {
        let why = "field is immutable when `immutable` is set";
        if !after.flag("/immutable") {
            causes.forbidden(&Path::root("immutable"), why);
        }
        for field in ["data", "binaryData"] {
            let pointer = format!("/{field}");
            if before.get(&pointer) != after.get(&pointer) {
                causes.forbidden(&Path::root(field), why);
            }
        }
    }
    // A Secret's type says how its data is read, so it never changes; a ConfigMap has none.
    causes.unchanged(before, after, "/type");
}

/// An event stands in the namespace of what it is about.
pub(super) fn event(object: &Object, about: &str, causes: &mut Causes) {
    let involved = object.text(&format!("/{about}/namespace")).unwrap_or("");
    let own = object.namespace().unwrap_or("");
    let homeless = involved.is_empty() && matches!(own, "default" | "kube-system");
    if involved != own && !homeless {
        let path = Path::root("involvedObject").child("namespace");
        causes.invalid(&path, involved, "does not match event.namespace");
    }
}

pub(super) fn lease(object: &Object, causes: &mut Causes) {
    let Some(spec) = object.get("/spec") else { return };
    let path = Path::root("spec");
    if let Some(seconds) = spec.get("leaseDurationSeconds").and_then(Value::as_i64)
        && seconds <= 0
    {
        causes.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    causes.not_negative(&path.child("leaseTransitions"), spec.get("leaseTransitions"));
}

pub(super) fn node(object: &Object, causes: &mut Causes) {
    let Some(spec) = object.get("/spec") else { return };
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for (path, taint) in items(spec, "taints", &Path::root("spec")) {
        let key = text(taint, "key");
        causes.invalid_all(&path.child("key"), key, names::qualified_name(key));
        let value = text(taint, "value");
        causes.invalid_all(&path.child("value"), value, names::label_value(value));
        match taint.get("effect") {
            None => causes.required(&path.child("effect"), ""),
            effect => causes.supported(&path.child("effect"), effect, &effects),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(check: fn(&Object, &mut Causes), value: Value) -> Vec<String> {
        let mut causes = Causes::default();
        check(&Object::from_value(value).expect("an object"), &mut causes);
        causes.into_vec().into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn keys_of_configuration_are_file_names() {
        assert!(said(config_map, json!({"data": {"a.b": ""}})).is_empty());
        let bad = json!({"data": {"a/b": "", "c": ""}, "binaryData": {"c": ""}});
        assert_eq!(said(config_map, bad), ["data[a/b]", "binaryData[c]"]);
        let large = json!({"data": {"a": "x".repeat(DATA_BYTES_MAX + 1)}});
        assert_eq!(said(config_map, large).len(), 1);
    }

    #[test]
    fn typed_secrets_hold_what_their_type_says() {
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
        assert_eq!(said(secret, tls), ["data[tls.key]"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        let object = |value: Value| Object::from_value(value).expect("an object");
        let before = object(json!({"immutable": true, "data": {"a": "1"}}));
        let after = object(json!({"data": {"a": "2"}}));
        let mut causes = Causes::default();
        immutable(&before, &after, &mut causes);
        let fields: Vec<String> = causes.into_vec().into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["immutable", "data"]);
    }

    #[test]
    fn events_stand_beside_what_they_are_about() {
        let about = |object: &Object, causes: &mut Causes| event(object, "involvedObject", causes);
        let here = json!({
            "metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a", "name": "p"},
        });
        assert!(said(about, here).is_empty());
        let node = json!({"metadata": {"namespace": "default"}, "involvedObject": {"name": "n"}});
        assert!(said(about, node).is_empty());
        let there = json!({
            "metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b", "name": "p"},
        });
        assert_eq!(said(about, there), ["involvedObject.namespace"]);
    }
}
