//! Selectors: which objects a list, a watch or a controller is about.

mod field;
mod label;

pub use self::field::FieldSelector;
pub use self::label::{LabelSelector, Operator, Requirement};

use super::object::Object;

/// What a list or a watch is limited to. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selector {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}
