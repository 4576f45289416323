//! Definitions in the form clients read: JSON Schema with Kubernetes' marks.

use serde_json::{Map, Value, json};

use super::{Definition, Field, Shape, get};

const MACHINERY: &str = "io.k8s.apimachinery.pkg.";

/// A definition by its full name, such as `io.k8s.api.core.v1.Pod`, with references of the form
/// `{"$ref": "#/definitions/NAME"}`; the API server makes OpenAPI documents of these. `None` if the
/// schema has no such definition.
pub fn definition(name: &str) -> Option<Value> {
    match name.strip_prefix(MACHINERY) {
        Some("api.resource.Quantity") => {
            Some(json!({"oneOf": [{"type": "string"}, {"type": "number"}]}))
        }
        Some("util.intstr.IntOrString") => Some(json!({
            "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}],
        })),
        Some("apis.meta.v1.Time" | "apis.meta.v1.MicroTime") => {
            Some(json!({"type": "string", "format": "date-time"}))
        }
        _ => get(name).map(object),
    }
}

fn object(definition: &Definition) -> Value {
    let mut made = json!({"type": "object"});
    if !definition.opaque {
        let fields = definition.fields.iter().map(|(name, field)| (name.clone(), property(field)));
        made["properties"] = Value::Object(fields.collect::<Map<_, _>>());
    }
    if !definition.required.is_empty() {
        made["required"] = json!(definition.required);
    }
    if let Some(map_type) = &definition.map_type {
        made["x-kubernetes-map-type"] = json!(map_type);
    }
    if !definition.kinds.is_empty() {
        let gvk = |[group, version, kind]: &[String; 3]| json!({"group": group, "version": version, "kind": kind});
        made["x-kubernetes-group-version-kind"] = definition.kinds.iter().map(gvk).collect();
    }
    made
}

fn property(field: &Field) -> Value {
    let mut made = shape(&field.shape);
    let marks = [
        ("x-kubernetes-patch-strategy", &field.patch_strategy),
        ("x-kubernetes-patch-merge-key", &field.patch_merge_key),
        ("x-kubernetes-list-type", &field.list_type),
        ("x-kubernetes-map-type", &field.map_type),
    ];
    for (mark, value) in marks {
        if let Some(value) = value {
            made[mark] = json!(value);
        }
    }
    if !field.list_map_keys.is_empty() {
        made["x-kubernetes-list-map-keys"] = json!(field.list_map_keys);
    }
    made
}

fn shape(of: &Shape) -> Value {
    let machinery = |name: &str| reference(&format!("{MACHINERY}{name}"));
    match of {
        Shape::Text => json!({"type": "string"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Quantity => machinery("api.resource.Quantity"),
        Shape::IntOrText => machinery("util.intstr.IntOrString"),
        Shape::Time => machinery("apis.meta.v1.Time"),
        Shape::MicroTime => machinery("apis.meta.v1.MicroTime"),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Ref(name) => reference(name),
        Shape::List(items) => json!({"type": "array", "items": shape(items)}),
        Shape::Map(items) => json!({"type": "object", "additionalProperties": shape(items)}),
        Shape::Any => json!({"type": "object"}),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::definitions;

    #[test]
    fn definitions_hold_what_clients_read() {
        let pod = definition("io.k8s.api.core.v1.PodSpec").expect("defined");
        let containers = &pod["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
        let deployment = definition("io.k8s.api.apps.v1.Deployment").expect("defined");
        let own = json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]);
        assert_eq!(deployment["x-kubernetes-group-version-kind"], own);
        assert_eq!(definition("io.k8s.api.core.v1.Unicorn"), None);
    }

    #[test]
    fn every_reference_resolves() {
        for name in definitions().keys() {
            let text = definition(name).expect("defined").to_string();
            for piece in text.split("#/definitions/").skip(1) {
                let target = piece.split('"').next().unwrap_or("");
                assert!(definition(target).is_some(), "{name} refers to {target}");
            }
        }
    }
}
