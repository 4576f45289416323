//! From JSON to the wire form of a message, by its descriptor.
//!
//! The rules are those of Go's `protojson` with unknown fields discarded, which is what etcd's
//! gateway uses: a field goes by its JSON name or its name in the `.proto` file; numbers may be
//! strings; bytes are base64 in either alphabet, with or without padding; enums are names or
//! numbers, and a name that is not known is as good as none; `null` is the same as nothing. A field
//! given twice, or two fields of one union, are errors: of two answers to one question none can be
//! trusted. The fields are written to the wire as they are met; what is built on the way is only
//! the nested messages, whose length precedes them.
//!
//! `prost-reflect` reads JSON too, but it lets the last of two equal fields win, knows no number
//! written `1e3` in a string, and builds a tree of values that would be thrown away at once.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Reads one JSON object; what follows it is not looked at.
pub(super) fn wire(message: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(json.len());
    let mut reader = serde_json::Deserializer::from_slice(json);
    Object { message, out: &mut out }.deserialize(&mut reader)?;
    Ok(out)
}

/// A message.
struct Object<'a> {
    message: &'a MessageDescriptor,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.message.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        let mut unions = BTreeSet::new();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let named = self.message.get_field_by_json_name(&name);
            let Some(field) = named.or_else(|| self.message.get_field_by_name(&name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if !seen.insert(field.number()) {
                return Err(Error::custom(format_args!("duplicate field \"{name}\"")));
            }
            let given = map.next_value_seed(Value {
                field: &field,
                out: &mut *self.out,
                place: Place::Field,
            })?;
            if let (true, Some(union)) = (given, field.containing_oneof())
                && !unions.insert(union.name().to_owned())
            {
                let union = union.full_name().to_owned();
                return Err(Error::custom(format_args!(
                    "error parsing \"{name}\", oneof {union} is already set"
                )));
            }
        }
        Ok(())
    }
}

/// Where a value stands: only a field may be `null`, and only a field may be a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Field,
    Element,
}

/// The value of a field, or an element of a repeated one. Tells whether there was one.
struct Value<'a> {
    field: &'a FieldDescriptor,
    out: &'a mut Vec<u8>,
    place: Place,
}

impl Value<'_> {
    fn is_list(&self) -> bool {
        self.place == Place::Field && self.field.is_list()
    }

    fn varint<E>(self, value: u64) -> Result<bool, E> {
        encode_key(self.field.number(), WireType::Varint, self.out);
        encode_varint(value, self.out);
        Ok(true)
    }

    fn bytes<E>(self, value: &[u8]) -> Result<bool, E> {
        encode_key(self.field.number(), WireType::LengthDelimited, self.out);
        encode_varint(value.len() as u64, self.out);
        self.out.extend_from_slice(value);
        Ok(true)
    }

    /// A number; on the wire all of them are the 64 bits of their two's complement.
    fn integer<E: Error>(self, number: i128) -> Result<bool, E> {
        if self.is_list() {
            return Err(self.mismatch(&number));
        }
        let fits = match self.field.kind() {
            Kind::Int32 | Kind::Enum(_) => i32::try_from(number).is_ok(),
            Kind::Uint32 => u32::try_from(number).is_ok(),
            Kind::Int64 => i64::try_from(number).is_ok(),
            Kind::Uint64 => u64::try_from(number).is_ok(),
            _ => false,
        };
        if !fits {
            return Err(self.mismatch(&number));
        }
        let bits = u64::try_from(number).or_else(|_| i64::try_from(number).map(i64::cast_unsigned));
        self.varint(bits.expect("what fits 32 or 64 bits, signed or not, is one of the two"))
    }

    fn mismatch<E: Error>(&self, value: &dyn fmt::Display) -> E {
        let (kind, name) = (self.field.kind(), self.field.json_name());
        E::custom(format_args!("invalid value for {kind:?} field {name}: {value}"))
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?} field {}", self.field.kind(), self.field.json_name())
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        match self.place {
            Place::Field => Ok(false),
            Place::Element => Err(self.mismatch(&"null")),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        match self.field.kind() {
            Kind::Bool if !self.is_list() => self.varint(value.into()),
            _ => Err(self.mismatch(&value)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.integer(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        /// Up to here every whole number has a double of its own.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        if value.fract() != 0.0 || value.abs() > WHOLE_MAX {
            return Err(self.mismatch(&value));
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
        let whole = value as i64;
        self.integer(whole.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        if self.is_list() {
            return Err(self.mismatch(&value));
        }
        match self.field.kind() {
            Kind::String => self.bytes(value.as_bytes()),
            Kind::Bytes => match base64_bytes(value) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.mismatch(&"not base64")),
            },
            Kind::Enum(names) => match number_of(&names, value) {
                Some(number) => self.integer(number.into()),
                None => Ok(false),
            },
            Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => self.number_in(value),
            _ => Err(self.mismatch(&value)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if !self.is_list() {
            return Err(self.mismatch(&"a list"));
        }
        while list
            .next_element_seed(Value {
                field: self.field,
                out: &mut *self.out,
                place: Place::Element,
            })?
            .is_some()
        {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let Kind::Message(message) = self.field.kind() else {
            return Err(self.mismatch(&"an object"));
        };
        if self.is_list() {
            return Err(self.mismatch(&"an object"));
        }
        let mut nested = Vec::new();
        Object { message: &message, out: &mut nested }.visit_map(map)?;
        self.bytes(&nested)
    }
}

impl Value<'_> {
    /// A number in a string: any number that JSON could write there, and nothing around it.
    fn number_in<E: Error>(self, text: &str) -> Result<bool, E> {
        let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let parsed = serde_json::from_str::<serde_json::Number>(text).ok();
        let Some(number) = parsed.filter(|_| begins && !text.ends_with(char::is_whitespace)) else {
            return Err(self.mismatch(&text));
        };
        match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => self.visit_i64(number),
            (_, Some(number), _) => self.visit_u64(number),
            (_, _, Some(number)) => self.visit_f64(number),
            (None, None, None) => Err(self.mismatch(&text)),
        }
    }
}

fn number_of(names: &EnumDescriptor, name: &str) -> Option<i32> {
    names.get_value_by_name(name).map(|value| value.number())
}

/// The gateway's reading of base64: a length that is no multiple of four means that the padding was
/// left out, line ends (which that length counts) are skipped, stray bits at the end are dropped.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    const fn engine(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
        let config = GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(padding);
        GeneralPurpose::new(alphabet, config)
    }
    const PADDED: DecodePaddingMode = DecodePaddingMode::RequireCanonical;
    const BARE: DecodePaddingMode = DecodePaddingMode::RequireNone;
    const STANDARD: [GeneralPurpose; 2] =
        [engine(&alphabet::STANDARD, PADDED), engine(&alphabet::STANDARD, BARE)];
    const URL_SAFE: [GeneralPurpose; 2] =
        [engine(&alphabet::URL_SAFE, PADDED), engine(&alphabet::URL_SAFE, BARE)];
    let is_bare = !text.len().is_multiple_of(4);
    let is_end_of_line = |c: char| c == '\r' || c == '\n';
    let text: Cow<'_, str> = match text.contains(is_end_of_line) {
        true => text.replace(is_end_of_line, "").into(),
        false => text.into(),
    };
    let engines = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engines[usize::from(is_bare)].decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
