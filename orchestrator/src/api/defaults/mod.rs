//! Defaults: what an object says where its writer said nothing.
//!
//! Kubernetes writes defaults into the object, so that a reader never needs to know them and an
//! object keeps its meaning when a later version defaults otherwise. Applying them twice changes
//! nothing. Defaults that need to know the cluster are the registry's (`registry/admission.rs`).

mod pod;
mod service;
mod workload;

use base64::Engine;
use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::object::Object;

type Fields = Map<String, Value>;

/// Fills in what the writer of an object of a kind left open.
pub fn apply(kind: &Kind, object: &mut Object) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::apply(object),
        ("", "Service") => service::apply(object),
        ("", "Namespace") => namespace(object),
        ("", "Secret") => secret(object),
        ("", "Node") => node(object),
        ("apps", "Deployment") => workload::deployment(object),
        ("apps", "ReplicaSet") => workload::replica_set(object),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        _ => {}
    }
}

/// Sets a field that is absent, null or an empty text.
fn fill(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    let open = match fields.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if open {
        fields.insert(name.to_owned(), value.into());
    }
}

/// The object at a field, if there is one.
fn inner<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

/// The object at a field; made when there is none.
fn made<'a>(fields: &'a mut Fields, name: &str) -> &'a mut Fields {
    let value = fields.entry(name).or_insert(Value::Null);
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made an object just above")
}

/// The objects of the list at a field.
fn each<'a>(fields: &'a mut Fields, name: &str) -> impl Iterator<Item = &'a mut Fields> {
    let items = fields.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn namespace(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.set_label("kubernetes.io/metadata.name", &name);
    }
}

/// `stringData` is for people to write; only `data` is kept.
fn secret(object: &mut Object) {
    let fields = object.fields_mut();
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        let data = made(fields, "data");
        for (key, value) in plain {
            let text = value.as_str().unwrap_or("");
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            data.insert(key, encoded.into());
        }
    }
    fill(fields, "type", "Opaque");
}

fn node(object: &mut Object) {
    if let Some(capacity) = object.get("/status/capacity").cloned()
        && object.get("/status/allocatable").is_none()
    {
        object.set("/status/allocatable", capacity);
    }
}

fn endpoint_slice(object: &mut Object) {
    for port in each(object.fields_mut(), "ports") {
        fill(port, "name", "");
        fill(port, "protocol", "TCP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn plain_secrets_are_encoded() {
        let value = json!({"stringData": {"a": "hello"}, "data": {"b": "eA=="}});
        let mut object = Object::from_value(value).expect("an object");
        apply(&kinds::SECRET, &mut object);
        let wanted = json!({"data": {"a": "aGVsbG8=", "b": "eA=="}, "type": "Opaque"});
        assert_eq!(object.as_value(), &wanted);
    }

    #[test]
    fn namespaces_name_themselves() {
        let mut object = Object::new(&kinds::NAMESPACE, &super::super::Key::cluster("a"));
        apply(&kinds::NAMESPACE, &mut object);
        assert_eq!(object.label("kubernetes.io/metadata.name"), Some("a"));
    }
}
