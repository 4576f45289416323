//! Complaints about fields, in the words of `field.Error`.

use serde_json::Value;

use crate::api::object::Object;
use crate::api::status::Cause;

/// Complaints kept of one object; a broken object may have any number of them.
const CAUSES_MAX: usize = 100;

/// Where a field stands: `spec.containers[0].image`.
#[derive(Debug, Clone)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    pub(super) fn item(&self, nth: usize) -> Self {
        Self(format!("{}[{nth}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

fn cause(reason: &'static str, field: &str, message: String) -> Cause {
    Cause { reason, message, field: field.to_owned() }
}

/// The field must be there.
pub fn required(field: &str, why: &str) -> Cause {
    let message =
        if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
    cause("FieldValueRequired", field, message)
}

/// The field has a value it may not have.
pub fn invalid_value(field: &str, value: &Value, why: &str) -> Cause {
    let message = format!("Invalid value: {}: {why}", show(value));
    cause("FieldValueInvalid", field, message)
}

/// Complaints as they come.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    pub(super) fn into_vec(self) -> Vec<Cause> {
        self.0
    }

    fn push(&mut self, cause: Cause) {
        if self.0.len() < CAUSES_MAX {
            self.0.push(cause);
        }
    }

    pub(super) fn required(&mut self, field: &Path, why: &str) {
        self.push(required(&field.0, why));
    }

    pub(super) fn invalid(&mut self, field: &Path, value: impl Into<Value>, why: &str) {
        self.push(invalid_value(&field.0, &value.into(), why));
    }

    /// One complaint for each text.
    pub(super) fn invalid_all(&mut self, field: &Path, value: &str, why: Vec<String>) {
        for why in why {
            self.invalid(field, value, &why);
        }
    }

    pub(super) fn forbidden(&mut self, field: &Path, why: &str) {
        self.push(cause("FieldValueForbidden", &field.0, format!("Forbidden: {why}")));
    }

    pub(super) fn duplicate(&mut self, field: &Path, value: impl Into<Value>) {
        let message = format!("Duplicate value: {}", show(&value.into()));
        self.push(cause("FieldValueDuplicate", &field.0, message));
    }

    pub(super) fn not_found(&mut self, field: &Path, value: &str) {
        self.push(cause("FieldValueNotFound", &field.0, format!("Not found: {value:?}")));
    }

    pub(super) fn too_long(&mut self, field: &Path, bytes_max: usize) {
        let message = format!("Too long: may not be more than {bytes_max} bytes");
        self.push(cause("FieldValueTooLong", &field.0, message));
    }

    pub(super) fn too_many(&mut self, field: &Path, count: usize, max: usize) {
        let message = format!("Too many: {count}: must have at most {max} items");
        self.push(cause("FieldValueTooMany", &field.0, message));
    }

    /// The value must be one of some; absent is left to defaults and [`Causes::required`].
    pub(super) fn supported(&mut self, field: &Path, value: Option<&Value>, known: &[&str]) {
        let Some(value) = value else { return };
        if known.iter().any(|one| value == one) {
            return;
        }
        let quoted: Vec<String> = known.iter().map(|one| format!("{one:?}")).collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", show(value), quoted.join(", "));
        self.push(cause("FieldValueNotSupported", &field.0, message));
    }

    /// The number must not be negative.
    pub(super) fn not_negative(&mut self, field: &Path, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64).filter(|number| *number < 0) {
            self.invalid(field, number, "must be greater than or equal to 0");
        }
    }

    /// The number must be a port.
    pub(super) fn port(&mut self, field: &Path, value: Option<&Value>) {
        let Some(number) = value.and_then(Value::as_i64) else { return };
        if !(1..=65_535).contains(&number) {
            self.invalid(field, number, "must be between 1 and 65535, inclusive");
        }
    }

    /// The value at a pointer must not change.
    pub(super) fn unchanged(&mut self, before: &Object, after: &Object, pointer: &str) {
        if before.get(pointer) != after.get(pointer) {
            let field = Path(pointer.trim_start_matches('/').replace('/', "."));
            let value = after.get(pointer).cloned().unwrap_or_default();
            self.invalid(&field, value, "field is immutable");
        }
    }
}

/// The text at a field, empty when absent.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

/// The items of the list at a field, with their places.
pub(super) fn items<'a>(
    value: &'a Value,
    field: &str,
    path: &Path,
) -> impl Iterator<Item = (Path, &'a Value)> {
    let path = path.child(field);
    let items = value.get(field).and_then(Value::as_array).into_iter().flatten();
    items.enumerate().map(move |(nth, item)| (path.item(nth), item))
}

/// The entries of the map at a field.
pub(super) fn entries<'a>(
    value: &'a Value,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(field).and_then(Value::as_object).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn complaints_read_as_in_kubernetes() {
        let mut causes = Causes::default();
        let path = Path::root("spec").child("ports").item(0);
        causes.required(&path, "");
        causes.invalid(&path, 0, "must be between 1 and 65535, inclusive");
        causes.invalid(&path, json!({"a": "b"}), "bad");
        causes.supported(&path, Some(&json!("x")), &["A", "B"]);
        causes.duplicate(&path, "x");
        causes.forbidden(&path, "no");
        causes.not_found(&path, "v");
        causes.too_many(&path, 3, 2);
        assert_eq!(path.0, "spec.ports[0]");
        let said: Vec<String> = causes.into_vec().into_iter().map(|c| c.message).collect();
        assert_eq!(
            said,
            [
                "Required value",
                "Invalid value: 0: must be between 1 and 65535, inclusive",
                "Invalid value: {\"a\":\"b\"}: bad",
                "Unsupported value: \"x\": supported values: \"A\", \"B\"",
                "Duplicate value: \"x\"",
                "Forbidden: no",
                "Not found: \"v\"",
                "Too many: 3: must have at most 2 items",
            ]
        );
    }
}
