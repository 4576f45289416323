//! A Kubernetes object as the orchestrator holds it: the JSON it was sent, with names for the parts
//! that every kind has.
//!
//! Objects are never squeezed through typed structs on their way to the store, because a struct
//! forgets every field it does not know. Code that only reads may take a typed view
//! ([`Object::typed`]); code that writes edits the JSON in place ([`Object::set`]).
//!
//! `metadata.resourceVersion` is not part of what is stored. It *is* the store's revision of the
//! last write, put in when an object is read and taken out before it is written.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::time;

/// A name within a namespace, or a bare name for kinds without namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key in a namespace.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// A key of a cluster-wide kind.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &Object) -> Self {
        Self { namespace: object.namespace().map(str::to_owned), name: object.name().to_owned() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(formatter, "{namespace}/{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// `apiVersion` of the owner.
    pub api_version: &'a str,
    /// `kind` of the owner.
    pub kind: &'a str,
    /// Name of the owner, in the same namespace or cluster-wide.
    pub name: &'a str,
    /// Identity of the owner: a new object of the same name is another owner.
    pub uid: &'a str,
    /// The one owner that manages this object.
    pub controller: bool,
    /// A foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// A Kubernetes object: always a JSON object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object(Value);

impl Object {
    /// An empty object of a kind.
    pub fn new(kind: &Kind, key: &Key) -> Self {
        let mut object = Self(json!({"apiVersion": kind.api_version(), "kind": kind.kind}));
        object.set("/metadata/name", key.name.as_str());
        if let Some(namespace) = &key.namespace {
            object.set("/metadata/namespace", namespace.as_str());
        }
        object
    }

    /// Takes a JSON value that must be an object.
    pub fn from_value(value: Value) -> Option<Self> {
        value.is_object().then_some(Self(value))
    }

    /// The JSON.
    pub fn as_value(&self) -> &Value {
        &self.0
    }

    /// The JSON, to edit. It must stay an object.
    pub fn as_value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// The JSON.
    pub fn into_value(self) -> Value {
        self.0
    }

    /// The top-level fields.
    pub fn fields(&self) -> &Map<String, Value> {
        self.0.as_object().expect("an object is made from a JSON object only")
    }

    /// The top-level fields, to edit.
    pub fn fields_mut(&mut self) -> &mut Map<String, Value> {
        self.0.as_object_mut().expect("an object is made from a JSON object only")
    }

    /// A typed view for reading. Fields the type does not know are left out.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }

    // ---- any field, by JSON pointer ----

    /// The value at a JSON pointer such as `/spec/nodeName`.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// The text at a JSON pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.get(pointer)?.as_str()
    }

    /// The integer at a JSON pointer.
    pub fn int(&self, pointer: &str) -> Option<i64> {
        self.get(pointer)?.as_i64()
    }

    /// The truth value at a JSON pointer; absent is false.
    pub fn flag(&self, pointer: &str) -> bool {
        self.get(pointer).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The items of the list at a JSON pointer; absent is empty.
    pub fn items(&self, pointer: &str) -> &[Value] {
        self.get(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Sets the value at a JSON pointer and makes the objects on the way. Steps into lists must
    /// exist.
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        set(&mut self.0, pointer, value.into());
    }

    /// Takes the value at a JSON pointer out.
    pub fn remove(&mut self, pointer: &str) -> Option<Value> {
        let (parent, last) = pointer.rsplit_once('/')?;
        match self.0.pointer_mut(parent)? {
            Value::Object(fields) => fields.remove(&unescape(last)),
            _ => None,
        }
    }

    // ---- metadata ----

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion").unwrap_or("")
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.text("/kind").unwrap_or("")
    }

    /// Name; empty while only a `generateName` is given.
    pub fn name(&self) -> &str {
        self.text("/metadata/name").unwrap_or("")
    }

    /// Namespace, if the kind has one.
    pub fn namespace(&self) -> Option<&str> {
        self.text("/metadata/namespace").filter(|namespace| !namespace.is_empty())
    }

    /// Key of the object.
    pub fn key(&self) -> Key {
        Key::of(self)
    }

    /// Unique identity over space and time.
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid").unwrap_or("")
    }

    /// Revision of the last write; `None` when absent or not a number.
    pub fn resource_version(&self) -> Option<i64> {
        self.text("/metadata/resourceVersion")?.parse().ok()
    }

    /// Puts the revision of the last write in.
    pub fn set_resource_version(&mut self, revision: i64) {
        self.set("/metadata/resourceVersion", revision.to_string());
    }

    /// Rises with every change of the wished-for state.
    pub fn generation(&self) -> i64 {
        self.int("/metadata/generation").unwrap_or(0)
    }

    /// When the object was made.
    pub fn creation_timestamp(&self) -> Option<Timestamp> {
        time::parse(self.text("/metadata/creationTimestamp")?)
    }

    /// When the object is or was to be gone; set means that it is being deleted.
    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        time::parse(self.text("/metadata/deletionTimestamp")?)
    }

    /// Whether the object is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.get("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
    }

    fn texts(&self, pointer: &str) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.get(pointer).and_then(Value::as_object);
        fields
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// Labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts("/metadata/labels")
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.get("/metadata/labels")?.get(key)?.as_str()
    }

    /// Annotations.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts("/metadata/annotations")
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.get("/metadata/annotations")?.get(key)?.as_str()
    }

    /// Sets one label.
    pub fn set_label(&mut self, key: &str, value: &str) {
        self.set(&format!("/metadata/labels/{}", escape(key)), value);
    }

    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        self.set(&format!("/metadata/annotations/{}", escape(key)), value);
    }

    /// Names that must be taken off before the object can go.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.items("/metadata/finalizers").iter().filter_map(Value::as_str)
    }

    /// Whether a finalizer is set.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().any(|finalizer| finalizer == name)
    }

    /// Adds a finalizer unless it is there.
    pub fn add_finalizer(&mut self, name: &str) {
        if !self.has_finalizer(name) {
            let mut all = self.items("/metadata/finalizers").to_vec();
            all.push(name.into());
            self.set("/metadata/finalizers", all);
        }
    }

    /// Takes a finalizer off; tells whether it was there.
    pub fn remove_finalizer(&mut self, name: &str) -> bool {
        let before = self.items("/metadata/finalizers");
        let after: Vec<Value> =
            before.iter().filter(|one| one.as_str() != Some(name)).cloned().collect();
        let removed = after.len() < before.len();
        if after.is_empty() {
            self.remove("/metadata/finalizers");
        } else {
            self.set("/metadata/finalizers", after);
        }
        removed
    }

    /// The owners.
    pub fn owner_references(&self) -> impl Iterator<Item = OwnerReference<'_>> {
        self.items("/metadata/ownerReferences").iter().map(|owner| {
            let text = |field| owner.get(field).and_then(Value::as_str).unwrap_or("");
            let flag = |field| owner.get(field).and_then(Value::as_bool).unwrap_or(false);
            OwnerReference {
                api_version: text("apiVersion"),
                kind: text("kind"),
                name: text("name"),
                uid: text("uid"),
                controller: flag("controller"),
                block_owner_deletion: flag("blockOwnerDeletion"),
            }
        })
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<OwnerReference<'_>> {
        self.owner_references().find(|owner| owner.controller)
    }

    /// The reference by which another object names this one as its managing owner.
    pub fn as_controller(&self) -> Value {
        json!({
            "apiVersion": self.api_version(), "kind": self.kind(),
            "name": self.name(), "uid": self.uid(),
            "controller": true, "blockOwnerDeletion": true,
        })
    }

    /// The condition of a type in `status.conditions`.
    pub fn condition(&self, name: &str) -> Option<&Value> {
        self.items("/status/conditions")
            .iter()
            .find(|condition| condition.get("type").and_then(Value::as_str) == Some(name))
    }

    /// Sets or replaces the condition of the same `type` in `status.conditions`.
    pub fn set_condition(&mut self, condition: Value) {
        let mut all = self.items("/status/conditions").to_vec();
        match all.iter_mut().find(|one| one.get("type") == condition.get("type")) {
            Some(one) => *one = condition,
            None => all.push(condition),
        }
        self.set("/status/conditions", all);
    }
}

/// Escapes one step of a JSON pointer, such as a label key with a slash.
pub fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// Sets the value at a JSON pointer within `root`; see [`Object::set`].
pub fn set(root: &mut Value, pointer: &str, value: Value) {
    let mut at = root;
    for step in pointer.split('/').skip(1).map(unescape) {
        at = match at {
            Value::Array(items) => {
                let index: usize = step.parse().expect("a step into a list is a number");
                &mut items[index]
            }
            other => {
                if !other.is_object() {
                    *other = Value::Object(Map::new());
                }
                let fields = other.as_object_mut().expect("made an object just above");
                fields.entry(step).or_insert(Value::Null)
            }
        };
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn fields_are_set_and_taken_by_pointer() {
        let mut pod = Object::new(&kinds::POD, &Key::namespaced("default", "web"));
        pod.set("/spec/nodeName", "n1");
        pod.set_label("app.kubernetes.io/name", "web");
        assert_eq!(pod.text("/spec/nodeName"), Some("n1"));
        assert_eq!(pod.label("app.kubernetes.io/name"), Some("web"));
        assert_eq!(pod.remove("/spec/nodeName"), Some("n1".into()));
        assert_eq!(pod.remove("/spec/nodeName"), None);
        assert_eq!(pod.key().to_string(), "default/web");
    }

    #[test]
    fn finalizers_come_and_go() {
        let mut object = Object::new(&kinds::NAMESPACE, &Key::cluster("a"));
        object.add_finalizer("x");
        object.add_finalizer("x");
        assert_eq!(object.finalizers().count(), 1);
        assert!(object.remove_finalizer("x"));
        assert!(!object.remove_finalizer("x"));
        assert!(object.get("/metadata/finalizers").is_none());
    }

    #[test]
    fn conditions_are_replaced_by_type() {
        let mut pod = Object::new(&kinds::POD, &Key::namespaced("a", "b"));
        pod.set_condition(json!({"type": "Ready", "status": "False"}));
        pod.set_condition(json!({"type": "Ready", "status": "True"}));
        assert_eq!(pod.items("/status/conditions").len(), 1);
        assert_eq!(pod.condition("Ready").and_then(|c| c["status"].as_str()), Some("True"));
    }
}
