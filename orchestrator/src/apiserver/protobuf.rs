//! Kubernetes protobuf bodies, read into JSON.
//!
//! Typed Go clients, `kubectl create deployment` among them, send
//! `application/vnd.kubernetes.protobuf` and do not retry in JSON when that is refused. Everything
//! behind this file knows JSON alone, so a body is turned into the JSON that the same client would
//! have sent, at the door.
//!
//! ```text
//! "k8s\0" | Unknown { typeMeta {apiVersion, kind}, raw, contentEncoding, contentType }
//!                                                   └─ the message of that kind, proto2
//! ```
//!
//! The walk is driven by `protobuf/table.txt`, written from the Go types by the program beside it.
//! A line that starts with `:` opens a message, then the kinds it is the body of; each further
//! line is a field: `number name type rule`. `+` for a name means that the fields of that message
//! belong to the parent. The rules answer the one question the wire leaves open, whether a zero
//! was meant, because Go writes every plain scalar and a pointer only when it is set:
//!
//! | rule | Go | a zero on the wire |
//! |---|---|---|
//! | `keep` | plain, always in JSON | kept |
//! | `said` | pointer | kept: somebody wrote it |
//! | `omit` | plain with `omitempty` | dropped |

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Number, Value};

mod wire;

use wire::{Payload, Reader};

/// The first bytes of every body in this encoding.
const MAGIC: &[u8; 4] = b"k8s\0";

/// Messages nest by their types, which do not recurse, far less deep than this; the bound stands
/// so that no table can make the walk overflow the stack.
const DEPTH_MAX: usize = 48;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(include_str!("protobuf/table.txt")));

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The envelope's first bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix k8s")]
    NoEnvelope,
    /// The bytes end inside a value, or a tag or length makes no sense.
    #[error("the protobuf body is cut short or corrupt")]
    Corrupt,
    /// A string field that is not UTF-8.
    #[error("field {0} is not valid UTF-8")]
    NotText(&'static str),
    /// The wire type is not one the field can have.
    #[error("field {0} has the wrong wire type")]
    WrongType(&'static str),
    /// A value no JSON form exists for: a time outside the calendar, a number that is not finite.
    #[error("field {0} holds a value out of range")]
    OutOfRange(&'static str),
    /// Nested beyond what any known kind needs.
    #[error("the protobuf body nests too deeply")]
    TooDeep,
    /// No message is known for the kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The `apiVersion` of the envelope.
        api_version: String,
        /// The `kind` of the envelope.
        kind: String,
    },
}

/// Reads a whole body: envelope, then the message of its kind, as the JSON object it stands for.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Malformed> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Malformed::NoEnvelope)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(envelope);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(meta)) => (api_version, kind) = type_meta(meta)?,
            (2, Payload::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(message) = TABLE.message_of(&api_version, &kind) else {
        return Err(Malformed::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    fill(message, raw, &mut object, DEPTH_MAX)?;
    object.insert("apiVersion".into(), Value::String(api_version));
    object.insert("kind".into(), Value::String(kind));
    Ok(Value::Object(object))
}

fn type_meta(bytes: &[u8]) -> Result<(String, String), Malformed> {
    let mut meta = (String::new(), String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(text)) => meta.0 = string(text, "apiVersion")?,
            (2, Payload::Bytes(text)) => meta.1 = string(text, "kind")?,
            _ => {}
        }
    }
    Ok(meta)
}

/// Reads the fields of one message into `into`, inlined messages included.
fn fill(
    message: &Message,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Malformed> {
    if depth == 0 {
        return Err(Malformed::TooDeep);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        // A field of a newer version is dropped, as every protobuf reader does.
        let Some(field) = message.fields.get(&number) else { continue };
        if field.name == INLINE {
            let Type::Message(name) = &field.ty else { return Err(Malformed::Corrupt) };
            fill(TABLE.message(name)?, payload.bytes(field.name)?, into, depth - 1)?;
            continue;
        }
        put(field, payload, into, depth)?;
    }
    Ok(())
}

/// Stores one occurrence of a field: replaces a single value, extends a list or a map.
fn put(
    field: &Field,
    payload: Payload<'_>,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Malformed> {
    match &field.ty {
        Type::List(element) => {
            let entry = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = entry else { return Err(Malformed::Corrupt) };
            if let (Type::Int, Payload::Bytes(packed)) = (&**element, &payload) {
                let mut rest = Reader::new(packed);
                while let Some(number) = rest.packed_varint()? {
                    list.push(Value::from(number.cast_signed()));
                }
            } else {
                list.push(value(element, payload, field.name, depth)?);
            }
        }
        Type::Map(element) => {
            let (key, item) = map_entry(element, payload.bytes(field.name)?, field.name, depth)?;
            let entry = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = entry else { return Err(Malformed::Corrupt) };
            map.insert(key, item);
        }
        single => {
            let value = value(single, payload, field.name, depth)?;
            if value.is_null() || (field.rule == Rule::Omit && is_empty(&value)) {
                into.remove(field.name);
            } else {
                into.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn map_entry(
    element: &Type,
    bytes: &[u8],
    name: &'static str,
    depth: usize,
) -> Result<(String, Value), Malformed> {
    let mut key = String::new();
    let mut item = None;
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => key = string(payload.bytes(name)?, name)?,
            2 => item = Some(value(element, payload, name, depth)?),
            _ => {}
        }
    }
    let item = match item {
        Some(item) => item,
        None => value(element, Payload::Bytes(&[]), name, depth)?,
    };
    Ok((key, item))
}

/// One value of the given type as JSON. `Null` stands for a value that JSON leaves out.
fn value(
    ty: &Type,
    payload: Payload<'_>,
    name: &'static str,
    depth: usize,
) -> Result<Value, Malformed> {
    Ok(match ty {
        Type::String => Value::String(string(payload.bytes(name)?, name)?),
        Type::Bool => Value::Bool(payload.varint(name)? != 0),
        Type::Int => Value::from(payload.varint(name)?.cast_signed()),
        Type::Double => Number::from_f64(payload.double(name)?)
            .map(Value::Number)
            .ok_or(Malformed::OutOfRange(name))?,
        Type::Bytes => {
            Value::String(base64::engine::general_purpose::STANDARD.encode(payload.bytes(name)?))
        }
        Type::Quantity => quantity(payload.bytes(name)?, name)?,
        Type::IntOrString => int_or_string(payload.bytes(name)?, name)?,
        Type::Time => time(payload.bytes(name)?, name, false)?,
        Type::MicroTime => time(payload.bytes(name)?, name, true)?,
        Type::Json => raw_json(payload.bytes(name)?, name)?,
        Type::Message(message) => {
            let message = TABLE.message(message)?;
            let bytes = payload.bytes(name)?;
            if message.is_list { items(bytes, name)? } else { nested(message, bytes, depth)? }
        }
        Type::List(_) | Type::Map(_) => return Err(Malformed::WrongType(name)),
    })
}

fn nested(message: &Message, bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    let mut object = Map::new();
    fill(message, bytes, &mut object, depth - 1)?;
    Ok(Value::Object(object))
}

/// A named Go slice of strings travels as a message with one repeated field.
fn items(bytes: &[u8], name: &'static str) -> Result<Value, Malformed> {
    let mut list = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            list.push(Value::String(string(payload.bytes(name)?, name)?));
        }
    }
    Ok(Value::Array(list))
}

fn quantity(bytes: &[u8], name: &'static str) -> Result<Value, Malformed> {
    let mut text = String::from("0");
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            text = string(payload.bytes(name)?, name)?;
        }
    }
    Ok(Value::String(text))
}

fn int_or_string(bytes: &[u8], name: &'static str) -> Result<Value, Malformed> {
    let (mut is_text, mut number_value, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => is_text = payload.varint(name)? != 0,
            2 => number_value = payload.varint(name)?.cast_signed(),
            3 => text = string(payload.bytes(name)?, name)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::String(text) } else { Value::from(number_value) })
}

/// The zero time is what Go writes for a time nobody set.
fn time(bytes: &[u8], name: &'static str, micro: bool) -> Result<Value, Malformed> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => seconds = payload.varint(name)?.cast_signed(),
            2 => nanos = payload.varint(name)?.cast_signed(),
            _ => {}
        }
    }
    if (seconds, nanos) == (0, 0) {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| Malformed::OutOfRange(name))?;
    let moment = jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed::OutOfRange(name))?;
    let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Value::String(moment.strftime(form).to_string()))
}

fn raw_json(bytes: &[u8], name: &'static str) -> Result<Value, Malformed> {
    let mut value = Value::Null;
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            let raw = payload.bytes(name)?;
            value = serde_json::from_slice(raw).map_err(|_| Malformed::OutOfRange(name))?;
        }
    }
    Ok(value)
}

fn string(bytes: &[u8], name: &'static str) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::NotText(name))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(said) => !said,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The name of a field whose message is part of its parent.
const INLINE: &str = "+";

/// Every message by name, and the name of the message of each kind.
struct Table {
    messages: BTreeMap<&'static str, Message>,
    kinds: BTreeMap<&'static str, &'static str>,
}

#[derive(Default)]
struct Message {
    /// A named slice: one repeated field that JSON shows as the list itself.
    is_list: bool,
    fields: BTreeMap<u32, Field>,
}

struct Field {
    name: &'static str,
    ty: Type,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Keep,
    Said,
    Omit,
}

enum Type {
    String,
    Bool,
    Int,
    Double,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Json,
    Message(&'static str),
    List(Box<Self>),
    Map(Box<Self>),
}

impl Table {
    fn parse(text: &'static str) -> Self {
        let mut table = Self { messages: BTreeMap::new(), kinds: BTreeMap::new() };
        let mut open = "";
        for line in text.lines() {
            let mut words = line.split(' ');
            let first = words.next().expect("split yields at least one part");
            if let Some(name) = first.strip_prefix(':') {
                open = name;
                table.messages.insert(name, Message::default());
                table.kinds.extend(words.map(|kind| (kind, name)));
                continue;
            }
            let message = table.messages.get_mut(open).expect("a message line comes first");
            let number = first.parse().expect("field lines start with a number");
            let (name, ty) = (words.next(), words.next());
            let (Some(name), Some(ty)) = (name, ty) else { panic!("short line: {line}") };
            if ty == "list" {
                message.is_list = true;
                continue;
            }
            let rule = match words.next() {
                Some("keep") => Rule::Keep,
                Some("said") => Rule::Said,
                Some("omit") => Rule::Omit,
                _ => panic!("no rule: {line}"),
            };
            message.fields.insert(number, Field { name, ty: Type::parse(ty), rule });
        }
        table
    }

    fn message_of(&self, api_version: &str, kind: &str) -> Option<&Message> {
        let exact = format!("{api_version}/{kind}");
        let any = format!("*/{kind}");
        let name = self.kinds.get(exact.as_str()).or_else(|| self.kinds.get(any.as_str()))?;
        self.messages.get(name)
    }

    fn message(&self, name: &str) -> Result<&Message, Malformed> {
        self.messages.get(name).ok_or(Malformed::Corrupt)
    }
}

impl Type {
    fn parse(text: &'static str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::List(Box::new(Self::parse(element)));
        }
        if let Some(element) = text.strip_prefix("map:") {
            return Self::Map(Box::new(Self::parse(element)));
        }
        match text {
            "string" => Self::String,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "double" => Self::Double,
            "bytes" => Self::Bytes,
            "quantity" => Self::Quantity,
            "intorstring" => Self::IntOrString,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "json" => Self::Json,
            message => Self::Message(message),
        }
    }
}

#[cfg(test)]
mod tests;
