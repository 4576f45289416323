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

/// The OpenAPI v3 document of a group and version, `("apps", "v1")`.
pub fn openapi(_group: &str, _version: &str) -> Value {
    Value::Null
}
