//! Bodies of requests: JSON or YAML text into a value.
//!
//! A field given twice is legal JSON but never meant; what becomes of it is the writer's choice,
//! like that of an unknown field.

use serde_json::Value;

use super::schema::FieldValidation;
use super::status::Status;

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML: one document.
    Yaml,
}

/// Reads a body. Answers the value and warnings about fields given twice.
pub fn value(
    _body: &[u8],
    _format: Format,
    _validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    Err(Status::not_implemented("not yet"))
}
