//! The schema of every kind: which fields there are, of what type, and how lists are merged.
//!
//! The facts are data (`definitions.json.gz`, made by `make.py`), read once at first use. Only what
//! the kinds of this server reach is kept in memory. From them follow the check of incoming objects
//! ([`check()`]), the strategic merge ([`field`]), and the schemas that clients read ([`definition`]).

mod check;
mod json;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use serde_json::Value;

pub use self::check::{check, check_as};
pub use self::json::definition;
use super::kinds;

static DATA: &[u8] = include_bytes!("definitions.json.gz");

/// Definitions that no kind refers to but requests and answers carry.
const ROOTS: [&str; 10] = [
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.core.v1.Binding",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.api.authentication.v1.TokenRequest",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

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

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    Text,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// An amount such as `100m`: text or a number.
    Quantity,
    /// A number or text, such as a port by number or name.
    IntOrText,
    /// A time in seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// Bytes as base64.
    Bytes,
    /// A value of another definition.
    Ref(String),
    /// A list.
    List(Box<Self>),
    /// A map from text.
    Map(Box<Self>),
    /// Anything.
    Any,
}

/// One field of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub shape: Shape,
    /// How a strategic merge treats it: `merge`, `replace`, `retainKeys`, or two of them.
    pub patch_strategy: Option<String>,
    /// The field by which a strategic merge tells the items of the list apart.
    pub patch_merge_key: Option<String>,
    /// `atomic`, `set` or `map`.
    pub list_type: Option<String>,
    /// The fields that tell the items of a `map` list apart.
    pub list_map_keys: Vec<String>,
    /// `atomic` or `granular`.
    pub map_type: Option<String>,
}

/// One type of object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// Its fields; none and `opaque` for anything.
    pub fields: BTreeMap<String, Field>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// `atomic` when it is replaced whole.
    pub map_type: Option<String>,
    /// Group, version and kind of the objects it defines.
    pub kinds: Vec<[String; 3]>,
    /// Its content is not described.
    pub opaque: bool,
}

/// A definition by name, such as `io.k8s.api.core.v1.Pod`.
pub fn get(name: &str) -> Option<&'static Definition> {
    definitions().get(name)
}

/// One field of a definition.
pub fn field(definition_name: &str, field: &str) -> Option<&'static Field> {
    get(definition_name)?.fields.get(field)
}

/// All definitions that the kinds of this server reach, by name.
pub fn definitions() -> &'static BTreeMap<String, Definition> {
    static DEFINITIONS: OnceLock<BTreeMap<String, Definition>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| reachable(&load()))
}

fn load() -> BTreeMap<String, Value> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(DATA)
        .read_to_end(&mut text)
        .expect("the embedded schema is whole: a test reads it");
    serde_json::from_slice(&text).expect("the embedded schema is JSON: a test reads it")
}

fn reachable(all: &BTreeMap<String, Value>) -> BTreeMap<String, Definition> {
    let lists = kinds::ALL.into_iter().map(|kind| format!("{}List", kind.definition));
    let kinds = kinds::ALL.into_iter().map(|kind| kind.definition.to_owned());
    let mut waiting: Vec<String> =
        ROOTS.into_iter().map(str::to_owned).chain(kinds).chain(lists).collect();
    let mut found = BTreeMap::new();
    while let Some(name) = waiting.pop() {
        let Some(value) = all.get(&name).filter(|_| !found.contains_key(&name)) else { continue };
        let definition = read_definition(value);
        for field in definition.fields.values() {
            waiting.extend(field.shape.reference().map(str::to_owned));
        }
        found.insert(name, definition);
    }
    found
}

impl Shape {
    /// The definition that it, or its items, refer to.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Ref(name) => Some(name),
            Self::List(items) | Self::Map(items) => items.reference(),
            _ => None,
        }
    }

    fn read(text: &str) -> Self {
        let inner = |text: &str| Box::new(Self::read(&text[1..text.len() - 1]));
        match text {
            "s" => Self::Text,
            "i32" => Self::Int32,
            "i" => Self::Int64,
            "n" => Self::Number,
            "b" => Self::Boolean,
            "q" => Self::Quantity,
            "x" => Self::IntOrText,
            "t" => Self::Time,
            "u" => Self::MicroTime,
            "y" => Self::Bytes,
            _ if text.starts_with('@') => Self::Ref(text[1..].to_owned()),
            _ if text.starts_with('[') => Self::List(inner(text)),
            _ if text.starts_with('{') => Self::Map(inner(text)),
            _ => Self::Any,
        }
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn read_definition(value: &Value) -> Definition {
    let fields = value.get("f").and_then(Value::as_object);
    let read = |(name, field): (&String, &Value)| (name.clone(), read_field(field));
    let kinds = value.get("k").and_then(Value::as_array).into_iter().flatten();
    Definition {
        opaque: fields.is_none(),
        fields: fields.into_iter().flatten().map(read).collect(),
        required: texts(value.get("r")),
        map_type: value.get("mt").and_then(Value::as_str).map(str::to_owned),
        kinds: kinds.filter_map(|kind| texts(Some(kind)).try_into().ok()).collect(),
    }
}

fn read_field(value: &Value) -> Field {
    let mark = |name: &str| value.get(1).and_then(|marks| marks.get(name));
    let text = |name: &str| mark(name).and_then(Value::as_str).map(str::to_owned);
    Field {
        shape: Shape::read(value.get(0).and_then(Value::as_str).unwrap_or("*")),
        patch_strategy: text("ps"),
        patch_merge_key: text("pk"),
        list_type: text("lt"),
        list_map_keys: texts(mark("lk")),
        map_type: text("mt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_reference_is_defined() {
        for kind in kinds::ALL {
            let found = get(kind.definition).expect(kind.definition);
            let own = [kind.group, kind.version, kind.kind].map(str::to_owned);
            assert!(found.kinds.contains(&own), "{}", kind.definition);
        }
        for (name, definition) in definitions() {
            for (field_name, field) in &definition.fields {
                if let Some(reference) = field.shape.reference() {
                    assert!(definitions().contains_key(reference), "{name}.{field_name}");
                }
            }
        }
    }

    #[test]
    fn marks_are_kept() {
        let ports = field("io.k8s.api.core.v1.ServiceSpec", "ports").expect("a field");
        assert_eq!(ports.patch_merge_key.as_deref(), Some("port"));
        assert_eq!(ports.list_map_keys, ["port", "protocol"]);
        let volumes = field("io.k8s.api.core.v1.PodSpec", "volumes").expect("a field");
        assert_eq!(volumes.patch_strategy.as_deref(), Some("merge,retainKeys"));
    }
}
