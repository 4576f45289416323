//! Patches: changes of an object told as a document.
//!
//! Three dialects are understood. JSON patches and merge patches are generic; the strategic merge
//! is Kubernetes' own and needs the schema, because only that says which lists are sets and which
//! are maps. The fourth, server-side apply, is refused where bodies are read.

mod strategic;

use serde_json::Value;

use super::object::Object;
use super::status::Status;

/// Operations of one JSON patch: upstream's bound.
const OPERATIONS_MAX: usize = 10_000;

/// A change told as a document.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7386: an object whose nulls remove.
    Merge(Value),
    /// Kubernetes' merge, which knows which lists are sets and which are maps.
    Strategic(Value),
}

/// Applies a patch to an object of a definition.
pub fn apply(definition: &str, current: &Object, patch: &Patch) -> Result<Object, Status> {
    let mut value = current.as_value().clone();
    match patch {
        Patch::Json(operations) => json(&mut value, operations)?,
        Patch::Merge(changes) => {
            if !changes.is_object() {
                return Err(Status::bad_request("a merge patch must be an object"));
            }
            json_patch::merge(&mut value, changes);
        }
        Patch::Strategic(changes) => {
            if !changes.is_object() {
                return Err(Status::bad_request("a strategic merge patch must be an object"));
            }
            strategic::merge(definition, &mut value, changes.clone())?;
        }
    }
    Object::from_value(value)
        .ok_or_else(|| Status::unprocessable("the patch leaves something that is not an object"))
}

fn json(value: &mut Value, operations: &Value) -> Result<(), Status> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        let mut status = Status::too_large(OPERATIONS_MAX);
        status.message = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        );
        return Err(status);
    }
    let patch: json_patch::Patch = serde_json::from_value(operations.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(value, &patch).map_err(|error| {
        Status::unprocessable(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(patch: &Patch) -> Result<Value, u16> {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let object = Object::from_value(object).expect("an object");
        let done = apply("io.k8s.api.core.v1.Pod", &object, patch);
        done.map(Object::into_value).map_err(|status| status.code)
    }

    #[test]
    fn generic_patches() {
        let merged = run(&Patch::Merge(json!({"metadata": {"labels": {"a": null, "c": "3"}}})));
        assert_eq!(merged, Ok(json!({"metadata": {"labels": {"b": "2", "c": "3"}}})));
        let path = "/metadata/labels/a";
        let removed = run(&Patch::Json(json!([{"op": "remove", "path": path}])));
        assert_eq!(removed, Ok(json!({"metadata": {"labels": {"b": "2"}}})));
    }

    #[test]
    fn bad_patches_are_refused() {
        assert_eq!(run(&Patch::Merge(json!([]))), Err(400));
        assert_eq!(run(&Patch::Json(json!({"op": "remove"}))), Err(400));
        assert_eq!(run(&Patch::Json(json!([{"op": "remove", "path": "/x"}]))), Err(422));
        assert_eq!(
            run(&Patch::Json(json!([{"op": "test", "path": "/metadata", "value": 1}]))),
            Err(422)
        );
        assert_eq!(run(&Patch::Json(json!([{"op": "replace", "path": "", "value": 1}]))), Err(422));
    }
}
