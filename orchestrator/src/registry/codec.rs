//! Between objects and what the store holds, and between the store's failures and the API's.
//!
//! The stored form is the JSON of the object with `apiVersion` and `kind` and without
//! `metadata.resourceVersion`, which the store itself knows as the revision of the last write.

use bytes::Bytes;

use crate::api::{Kind, Object, Status};
use crate::client::etcd::{Entry, StoreError};

/// Encodes an object for the store.
pub fn encode(object: &Object) -> Bytes {
    let mut stored = object.clone();
    stored.remove("/metadata/resourceVersion");
    stored.remove("/metadata/selfLink");
    let bytes = serde_json::to_vec(stored.as_value()).expect("JSON values always encode");
    bytes.into()
}

/// Decodes what the store holds. What another server wrote in protobuf is refused.
pub fn decode(entry: &Entry) -> Result<Object, Status> {
    decode_bytes(&entry.value, entry.mod_revision)
}

/// Decodes a value that was written at a revision.
pub fn decode_bytes(value: &[u8], revision: i64) -> Result<Object, Status> {
    let parsed = serde_json::from_slice(value)
        .map_err(|error| Status::internal(format!("stored object is not JSON: {error}")))?;
    let mut object = Object::from_value(parsed)
        .ok_or_else(|| Status::internal("stored object is not a JSON object"))?;
    object.set_resource_version(revision);
    Ok(object)
}

/// What a failure of the store means to whoever asked for a write or a read.
pub fn store_error(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::Unavailable(_) => Status::unavailable(error.to_string()),
        StoreError::NoSpace => Status::internal("etcdserver: mvcc: database space exceeded"),
        StoreError::Unknown(_) => Status::timeout(
            "the request may or may not have been carried out: the store's answer was lost",
        ),
        StoreError::FutureRevision
        | StoreError::LeaseNotFound
        | StoreError::Denied(_)
        | StoreError::Refused(_)
        | StoreError::Config(_) => Status::internal(error),
    }
}

/// Turns a stored object into the form of the kind it is asked as.
pub fn present(kind: &'static Kind, object: Object) -> Object {
    if kind.stored() == kind { object } else { crate::api::convert::from_stored(kind, object) }
}
