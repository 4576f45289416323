//! Bodies of requests: JSON or YAML text into a value.
//!
//! A field given twice is legal JSON but never meant; what becomes of it is the writer's choice,
//! like that of an unknown field. YAML comes with a bound of its own, because a few lines of
//! aliases can stand for gigabytes.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::schema::FieldValidation;
use super::status::Status;

/// Values that the aliases of one YAML document may stand for.
const YAML_REPLAYED_MAX: usize = 100_000;

/// Messages about duplicates kept; more of them help nobody.
const DUPLICATES_MAX: usize = 100;

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
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut duplicates = Duplicates::default();
    let value = match format {
        Format::Json => json(body, &mut duplicates),
        Format::Yaml => yaml(body, &mut duplicates),
    };
    let value = value.map_err(Status::bad_request)?;
    let found: Vec<String> =
        duplicates.found.iter().map(|path| format!("duplicate field {path:?}")).collect();
    match validation {
        FieldValidation::Ignore => Ok((value, Vec::new())),
        FieldValidation::Warn => Ok((value, found)),
        FieldValidation::Strict if found.is_empty() => Ok((value, found)),
        FieldValidation::Strict => Err(strict_error(&value, &found)),
    }
}

/// The refusal of a strict reader, in kube-apiserver's words.
fn strict_error(value: &Value, found: &[String]) -> Status {
    let text = |field| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion").rsplit('/').next().unwrap_or_default());
    Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
        found.join(", ")
    ))
}

fn json(body: &[u8], duplicates: &mut Duplicates) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Collect(duplicates).deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    value.map_err(|error| format!("error decoding the body as JSON: {error}"))
}

fn yaml(body: &[u8], duplicates: &mut Duplicates) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: YAML_REPLAYED_MAX,
        },
    };
    let collect =
        |reader: serde_saphyr::Deserializer<'_, '_>| Collect(duplicates).deserialize(reader);
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, collect)
        .map_err(|error| format!("error decoding the body as YAML: {error}"))
}

/// Where the reader stands, and the fields it met twice.
#[derive(Default)]
struct Duplicates {
    path: String,
    found: Vec<String>,
}

impl Duplicates {
    /// Goes into a field or an item for as long as `inside` runs.
    fn within<T>(&mut self, step: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let result = inside(self);
        self.path.truncate(length);
        result
    }
}

/// Builds a value and notes duplicates; the last of them counts, as in Go.
struct Collect<'a>(&'a mut Duplicates);

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let step = format!("[{}]", list.len());
            let item = self.0.within(&step, |inside| items.next_element_seed(Collect(inside)))?;
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut told = BTreeSet::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            let value = self.0.within(&name, |inside| {
                if object.contains_key(&name)
                    && inside.found.len() < DUPLICATES_MAX
                    && told.insert(name.clone())
                {
                    inside.found.push(inside.path.clone());
                }
                fields.next_value_seed(Collect(inside))
            })?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// The name of a field. YAML allows numbers and truth values there, which stand for their text.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<String, D::Error> {
        match Collect(&mut Duplicates::default()).deserialize(reader)? {
            Value::String(name) => Ok(name),
            Value::Bool(name) => Ok(name.to_string()),
            Value::Number(name) => Ok(name.to_string()),
            Value::Null => Ok("null".to_owned()),
            Value::Array(_) | Value::Object(_) => {
                Err(D::Error::custom("a list or an object cannot name a field"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(format: Format, body: &str) -> Result<(Value, Vec<String>), Status> {
        value(body.as_bytes(), format, FieldValidation::Warn)
    }

    #[test]
    fn json_and_yaml_give_the_same_object() {
        let wanted = json!({"a": [1, {"b": "x"}], "c": null, "d": 1.5, "e": true});
        let from_json = read(Format::Json, r#"{"a":[1,{"b":"x"}],"c":null,"d":1.5,"e":true}"#);
        let from_yaml = read(Format::Yaml, "a:\n- 1\n- b: x\nc:\nd: 1.5\ne: true\n");
        assert_eq!(from_json, Ok((wanted.clone(), Vec::new())));
        assert_eq!(from_yaml, Ok((wanted, Vec::new())));
    }

    #[test]
    fn a_field_written_twice_is_told_once() {
        let body =
            r#"{"kind":"Pod","apiVersion":"v1","spec":{"x":1,"x":2,"x":3,"l":[{"y":1,"y":2}]}}"#;
        for format in [Format::Json, Format::Yaml] {
            let (found, warnings) = read(format, body).expect("reads");
            let wanted = [r#"duplicate field "spec.x""#, r#"duplicate field "spec.l[0].y""#];
            assert_eq!(warnings, wanted, "{format:?}");
            assert_eq!(found["spec"]["x"], 3);
        }
        let error = value(body.as_bytes(), Format::Json, FieldValidation::Strict);
        assert_eq!(
            error.expect_err("strict").message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: duplicate \
             field \"spec.x\", duplicate field \"spec.l[0].y\""
        );
    }

    #[test]
    fn bad_bodies_are_refused() {
        let deep = "[".repeat(100_000);
        let bomb = (1..30).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, nth| {
            let last = nth - 1;
            text + &format!("a{nth}: &a{nth} [*a{last},*a{last},*a{last},*a{last}]\n")
        });
        let cases = [
            (Format::Json, "{"),
            (Format::Json, "{} {}"),
            (Format::Json, "{\"a\": NaN}"),
            (Format::Json, deep.as_str()),
            (Format::Yaml, "a: [1"),
            (Format::Yaml, deep.as_str()),
            (Format::Yaml, bomb.as_str()),
        ];
        for (format, body) in cases {
            assert_eq!(read(format, body).expect_err("refused").code, 400);
        }
    }
}
