//! From the wire form of a message to JSON, by its descriptor: names as in the `.proto` file, 64-bit
//! integers as strings, bytes as base64, enums by name, and nothing that is zero or empty.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::ser::SerializeMap;
use tonic::Status;

const OPTIONS: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// A message of ours as JSON.
pub(super) fn json(message: &MessageDescriptor, wire: Bytes) -> Result<Vec<u8>, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        // Only a service that sends another message than its descriptor says ends here.
        Status::internal(format!("an answer could not be written as JSON: {error}"))
    };
    let capacity = wire.len() * 2 + 64;
    let message = DynamicMessage::decode(message.clone(), wire).map_err(|error| failed(&error))?;
    let mut out = Vec::with_capacity(capacity);
    let mut writer = serde_json::Serializer::new(&mut out);
    message.serialize_with_options(&mut writer, &OPTIONS).map_err(|error| failed(&error))?;
    Ok(out)
}

/// An error as JSON: a number for clients, a text for people.
pub(super) fn status(status: &Status) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + status.message().len());
    let mut writer = serde_json::Serializer::new(&mut out);
    let written = serde::Serializer::serialize_map(&mut writer, Some(2)).and_then(|mut map| {
        map.serialize_entry("code", &i32::from(status.code()))?;
        map.serialize_entry("message", status.message())?;
        map.end()
    });
    written.expect("a number and a text can be written");
    out
}
