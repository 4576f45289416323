//! The schema of every kind.

use serde_json::Value;

/// What becomes of fields the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

/// A definition by its full name, such as `io.k8s.api.core.v1.Pod`, with references of the form
/// `{"$ref": "#/definitions/NAME"}`; the API server makes OpenAPI documents of these. `None` if the
/// schema has no such definition.
pub fn definition(_name: &str) -> Option<Value> {
    None
}
