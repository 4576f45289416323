//! Patches: changes of an object told as a document.

use serde_json::Value;

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
