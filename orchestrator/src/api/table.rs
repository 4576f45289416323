//! Objects as rows and columns.

use jiff::Timestamp;
use serde_json::Value;

use super::{Kind, Object};

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

/// The `meta.k8s.io/v1` Table of some objects, without list metadata. Without `columns` the
/// definitions of the columns are left out, as in all events of a watch but the first.
pub fn render(
    _kind: &'static Kind,
    _objects: &[Object],
    _include: Include,
    _columns: bool,
    _now: Timestamp,
) -> Value {
    Value::Null
}
