//! Objects as rows and columns, the way people see them.
//!
//! The server chooses the columns and words the cells, so that every client shows the same. Columns
//! of priority 0 are always shown, the others on request (`-o wide`); the cells of both are always
//! sent. Ages are worded here too, which is why the current time is an argument.

mod pod;
mod rest;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Kind, Object, time};

/// How much of each object a table carries with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// One column.
struct Column {
    name: &'static str,
    /// `string` or `integer`; `name` marks the column that names the object.
    form: &'static str,
    /// 0 is always shown.
    priority: u8,
}

const fn column(name: &'static str) -> Column {
    Column { name, form: "string", priority: 0 }
}

const fn number(name: &'static str) -> Column {
    Column { name, form: "integer", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, form: "string", priority: 1 }
}

/// The columns of a kind and how an object fills them.
struct Layout {
    columns: &'static [Column],
    cells: fn(&Object, Timestamp) -> Vec<Value>,
}

/// The `meta.k8s.io/v1` Table of some objects, without list metadata. Without `columns` the
/// definitions of the columns are left out, as in all events of a watch but the first.
pub fn render(
    kind: &'static Kind,
    objects: &[Object],
    include: Include,
    columns: bool,
    now: Timestamp,
) -> Value {
    let layout = layout(kind);
    let rows: Vec<Value> = objects.iter().map(|one| row(&layout, one, include, now)).collect();
    let definitions: Vec<Value> = layout.columns.iter().map(definition).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": if columns { json!(definitions) } else { json!(null) },
        "rows": rows,
    })
}

fn layout(kind: &Kind) -> Layout {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::LAYOUT,
        ("", "Service") => rest::SERVICE,
        ("", "Node") => rest::NODE,
        ("", "Namespace") => rest::NAMESPACE,
        ("", "ConfigMap") => rest::CONFIG_MAP,
        ("", "Secret") => rest::SECRET,
        (_, "Event") => rest::EVENT,
        ("coordination.k8s.io", "Lease") => rest::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => rest::ENDPOINT_SLICE,
        ("apps", "Deployment") => rest::DEPLOYMENT,
        ("apps", "ReplicaSet") => rest::REPLICA_SET,
        _ => rest::PLAIN,
    }
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" && column.priority == 0 { "name" } else { "" };
    json!({
        "name": column.name, "type": column.form, "format": format,
        "description": "", "priority": column.priority,
    })
}

fn row(layout: &Layout, object: &Object, include: Include, now: Timestamp) -> Value {
    let cells = (layout.cells)(object, now);
    assert_eq!(cells.len(), layout.columns.len(), "a row has a cell for each column");
    let mut row = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.as_value().clone(),
    }
    if let Some(reason) = pod::finished(object) {
        row["conditions"] = json!([{
            "type": "Completed", "status": "True", "reason": reason,
            "message": "The pod has ended and will not run again.",
        }]);
    }
    row
}

/// An object of which only the metadata is told.
pub fn partial(object: &Object) -> Value {
    let metadata = object.get("/metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

// ---- cells that many kinds share ----

fn name(object: &Object) -> Value {
    object.name().into()
}

fn age(object: &Object, now: Timestamp) -> Value {
    match object.creation_timestamp() {
        Some(since) => time::age(since, now).into(),
        None => "<unknown>".into(),
    }
}

/// The text, or `<none>`.
fn or_none(text: Option<&str>) -> Value {
    text.filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

fn joined(parts: &[String], empty: &str) -> Value {
    if parts.is_empty() { empty.into() } else { parts.join(",").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Key, kinds};

    #[test]
    fn every_kind_has_a_table() {
        for kind in kinds::ALL {
            let key = if kind.namespaced { Key::namespaced("a", "b") } else { Key::cluster("b") };
            let object = Object::new(kind, &key);
            let table = render(kind, &[object], Include::Metadata, true, Timestamp::UNIX_EPOCH);
            let columns = table["columnDefinitions"].as_array().expect("a list").len();
            assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), Some(columns));
            assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        }
    }
}
