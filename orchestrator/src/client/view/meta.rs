//! What every object has: identity, labels, owners, life.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Typed, or_default, time};
use crate::api::Key;
use crate::api::kinds::Kind;

/// The `metadata` of an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Its name within namespace and kind.
    #[serde(default)]
    pub name: String,
    /// Its namespace; empty for cluster-wide kinds.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    /// Identity for all time, unlike the name.
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
    /// Counts changes of the spec.
    #[serde(default, deserialize_with = "or_default")]
    pub generation: i64,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Objects whose end is this one's end.
    #[serde(rename = "ownerReferences", default, deserialize_with = "or_default")]
    pub owners: Vec<Owner>,
    /// What must be done before it may go.
    #[serde(default, deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
    /// When it was created.
    #[serde(rename = "creationTimestamp", default, deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// When its deletion was asked for, plus grace.
    #[serde(rename = "deletionTimestamp", default, deserialize_with = "time")]
    pub deleted: Option<Timestamp>,
    /// Store revision of its last write; not part of the stored text.
    #[serde(skip)]
    pub revision: i64,
}

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Group and version of the owner's kind.
    #[serde(default)]
    pub api_version: String,
    /// The owner's kind.
    #[serde(default)]
    pub kind: String,
    /// The owner's name.
    #[serde(default)]
    pub name: String,
    /// The owner's uid.
    #[serde(default)]
    pub uid: String,
    /// This owner manages the object; at most one does.
    #[serde(default, deserialize_with = "or_default")]
    pub controller: bool,
    /// The owner may not go before the object in a foreground deletion.
    #[serde(default, deserialize_with = "or_default")]
    pub block_owner_deletion: bool,
}

impl Meta {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        if self.namespace.is_empty() {
            Key::cluster(&self.name)
        } else {
            Key::namespaced(&self.namespace, &self.name)
        }
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// True when the object with `uid` manages this one.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    /// Its deletion has been asked for.
    pub fn is_deleting(&self) -> bool {
        self.deleted.is_some()
    }

    /// Carries this finalizer.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// An annotation's text.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// A pointer to an object, for owner references and events.
#[derive(Debug, Clone)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// The revision it was seen at; 0 if that does not matter.
    pub revision: i64,
}

impl ObjectRef {
    /// A pointer to this object.
    pub fn to<T: Typed>(object: &T) -> Self {
        let meta = object.meta();
        Self { kind: T::kind(), key: meta.key(), uid: meta.uid.clone(), revision: meta.revision }
    }

    /// The owner reference that makes this object the manager of another.
    pub fn controller_reference(&self) -> Value {
        json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.kind,
            "name": self.key.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }
}
