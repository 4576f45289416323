//! Checking an object against the schema of its kind, in the words of the Go decoder that clients
//! know.
//!
//! A value of a wrong type is always an error. A field the schema does not know is dropped, warned
//! of or an error, as the writer wishes. A null is the same as no field, and so is an empty list or
//! map that need not be there: Go reads and writes them alike, and who compares two objects must
//! not see a difference that means nothing.

use serde_json::{Map, Value};

use super::{FieldValidation, Shape};
use crate::api::kinds::{Kind, group_version};
use crate::api::object::Object;
use crate::api::quantity::Quantity;
use crate::api::status::Status;
use crate::api::time;

/// Complaints kept of one object.
const COMPLAINTS_MAX: usize = 100;

/// Checks an object of a kind, and drops nulls and unknown fields. Answers warnings.
pub fn check(
    kind: &Kind,
    object: &mut Object,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let value = object.as_value_mut();
    check_as(kind.definition, (kind.group, kind.version, kind.kind), value, validation)
}

/// Checks a value of a definition; `(group, version, kind)` is what it is called in messages.
pub fn check_as(
    definition_name: &str,
    (group, version, kind): (&str, &str, &str),
    value: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let mut walk = Walk { unknown: Vec::new(), wrong: None };
    let last = definition_name.rsplit('.').next().unwrap_or(definition_name);
    walk.object(definition_name, value, &Place { owner: last, path: "", go_path: "" });
    let version = group_version(group, version);
    let refuse = |why: &str| {
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    };
    if let Some(wrong) = walk.wrong {
        return Err(refuse(&wrong));
    }
    let complaints: Vec<String> =
        walk.unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(complaints),
        FieldValidation::Strict if complaints.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => {
            Err(refuse(&format!("strict decoding error: {}", complaints.join(", "))))
        }
    }
}

/// Where the walk is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Name of the innermost type, as messages say it.
    owner: &'a str,
    /// `spec.containers[0].image`.
    path: &'a str,
    /// `spec.containers.image`.
    go_path: &'a str,
}

struct Walk {
    unknown: Vec<String>,
    /// The first value of a wrong type.
    wrong: Option<String>,
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

impl Walk {
    fn object(&mut self, definition_name: &str, value: &mut Value, place: &Place<'_>) {
        let Some(definition) = super::get(definition_name) else { return };
        if definition.opaque {
            return;
        }
        let owner = definition_name.rsplit('.').next().unwrap_or(definition_name);
        let Value::Object(fields) = value else {
            return self.mismatch(value, place, &go_name(definition_name));
        };
        fields.retain(|name, value| match definition.fields.get(name) {
            Some(_) if value.is_null() => false,
            Some(field) if is_empty(&field.shape, value) && !definition.required.contains(name) => {
                false
            }
            Some(field) => {
                let path = join(place.path, name);
                let go_path = join(place.go_path, name);
                self.value(&field.shape, value, &Place { owner, path: &path, go_path: &go_path });
                true
            }
            None => {
                if self.unknown.len() < COMPLAINTS_MAX {
                    self.unknown.push(join(place.path, name));
                }
                false
            }
        });
    }

    fn value(&mut self, shape: &Shape, value: &mut Value, place: &Place<'_>) {
        match (shape, value) {
            (Shape::Any, _) => {}
            (Shape::Ref(name), value) => self.object(name, value, place),
            (Shape::List(items), Value::Array(values)) => {
                for (nth, value) in values.iter_mut().enumerate() {
                    let path = format!("{}[{nth}]", place.path);
                    self.value(items, value, &Place { path: &path, ..*place });
                }
            }
            (Shape::Map(items), Value::Object(fields)) => self.map(items, fields, place),
            (shape, value) => {
                if !fits(shape, value) {
                    let said = go_type(shape);
                    self.mismatch(value, place, &said);
                }
            }
        }
    }

    fn map(&mut self, items: &Shape, fields: &mut Map<String, Value>, place: &Place<'_>) {
        for (key, value) in fields.iter_mut() {
            if value.is_null() && *items == Shape::Text {
                *value = Value::String(String::new());
            }
            let path = join(place.path, key);
            self.value(items, value, &Place { path: &path, ..*place });
        }
    }

    fn mismatch(&mut self, value: &Value, place: &Place<'_>, wanted: &str) {
        if self.wrong.is_some() {
            return;
        }
        let said = match value {
            Value::String(text) if wanted == "resource.Quantity" => {
                return self.wrong = Some(bad_quantity(text));
            }
            Value::String(text) if wanted == "v1.Time" || wanted == "v1.MicroTime" => {
                let layout = "2006-01-02T15:04:05Z07:00";
                return self.wrong = Some(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
                ));
            }
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(number) if wanted.starts_with("int") && !number.is_i64() => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".into(),
        };
        self.wrong = Some(format!(
            "json: cannot unmarshal {said} into Go struct field {}.{} of type {wanted}",
            place.owner, place.go_path
        ));
    }
}

/// Whether a value says no more than its absence.
fn is_empty(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(fields)) => fields.is_empty(),
        _ => false,
    }
}

fn bad_quantity(text: &str) -> String {
    if text.is_empty() || !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            .into()
    } else {
        "unable to parse quantity's suffix".into()
    }
}

fn fits(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::Text => value.is_string(),
        Shape::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Shape::Int64 => value.is_i64(),
        Shape::Number => value.is_number(),
        Shape::Boolean => value.is_boolean(),
        Shape::Quantity => Quantity::from_json(value).is_some(),
        Shape::IntOrText => {
            value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
        }
        Shape::Time | Shape::MicroTime => value.as_str().is_some_and(|t| time::parse(t).is_some()),
        Shape::Bytes => value.as_str().is_some_and(is_base64),
        Shape::List(_) | Shape::Map(_) => value.is_null(),
        Shape::Ref(_) | Shape::Any => true,
    }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// The Go type of a definition as the decoder names it: `v1.Container`.
fn go_name(definition_name: &str) -> String {
    let mut parts = definition_name.rsplit('.');
    let (name, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    format!("{package}.{name}")
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Text => "string".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Number => "float64".into(),
        Shape::Boolean => "bool".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::IntOrText => "intstr.IntOrString".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Ref(name) => go_name(name),
        Shape::List(items) => format!("[]{}", go_type(items)),
        Shape::Map(items) => format!("map[string]{}", go_type(items)),
        Shape::Any => "interface {}".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds;

    fn run(value: Value, validation: FieldValidation) -> (Value, Result<Vec<String>, String>) {
        let mut object = Object::from_value(value).expect("an object");
        let said = check(&kinds::POD, &mut object, validation).map_err(|status| status.message);
        (object.into_value(), said)
    }

    #[test]
    fn unknown_fields_are_dropped_warned_of_or_refused() {
        let pod = || json!({"spec": {"foo": 1, "containers": [{"name": "a", "imag": "b"}]}});
        let (left, said) = run(pod(), FieldValidation::Warn);
        assert_eq!(left, json!({"spec": {"containers": [{"name": "a"}]}}));
        assert_eq!(
            said,
            Ok(vec![
                "unknown field \"spec.containers[0].imag\"".into(),
                "unknown field \"spec.foo\"".into()
            ])
        );
        assert_eq!(run(pod(), FieldValidation::Ignore).1, Ok(Vec::new()));
        assert_eq!(
            run(pod(), FieldValidation::Strict).1,
            Err(
                "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
                 field \"spec.containers[0].imag\", unknown field \"spec.foo\""
                    .into()
            )
        );
    }

    #[test]
    fn wrong_types_are_refused_in_words_of_go() {
        for (spec, why) in [
            (
                json!({"containers": {}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of \
                 type []v1.Container",
            ),
            (
                json!({"containers": [{"image": 5}]}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.image \
                 of type string",
            ),
            (
                json!({"priority": 1.5}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of \
                 type int32",
            ),
            (
                json!({"overhead": {"cpu": "a lot"}}),
                "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            let said = run(json!({"spec": spec}), FieldValidation::Ignore).1;
            let prefix = "Pod in version \"v1\" cannot be handled as a Pod: ";
            assert_eq!(said, Err(format!("{prefix}{why}")));
        }
    }

    #[test]
    fn empty_lists_and_maps_are_absent_unless_required() {
        let (left, _) = run(
            json!({
                "metadata": {"labels": {}, "finalizers": []},
                "spec": {"containers": [], "nodeSelector": {}, "securityContext": {}},
            }),
            FieldValidation::Strict,
        );
        let wanted = json!({"metadata": {}, "spec": {"containers": [], "securityContext": {}}});
        assert_eq!(left, wanted);
    }

    #[test]
    fn nulls_are_absent() {
        let (left, _) = run(
            json!({"metadata": {"creationTimestamp": null, "labels": {"a": null}}, "spec": null}),
            FieldValidation::Strict,
        );
        assert_eq!(left, json!({"metadata": {"labels": {"a": ""}}}));
    }
}
