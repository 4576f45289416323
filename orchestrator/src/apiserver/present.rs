//! Objects and lists in the form a client asked for.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::dispatch::Ask;
use super::negotiate::Form;
use super::respond::Spelling;
use crate::api::table::{self, Include};
use crate::api::{Kind, Object, Status};
use crate::registry::List;

/// The form of an answer, and how much of each object a table carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) spelling: Spelling,
    form: Form,
    include: Include,
}

impl Shape {
    /// What the request asks for among the possible forms.
    pub(crate) fn of(ask: &Ask, forms: &[Form]) -> Result<Self, Status> {
        let (form, spelling) = ask.form(forms)?;
        let include = match ask.query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("Object") => Include::Object,
            Some("None") => Include::None,
            Some(other) => {
                let message = format!("unrecognized includeObject value: {other:?}");
                return Err(Status::bad_request(message));
            }
        };
        Ok(Self { spelling, form, include })
    }

    /// One object.
    pub(crate) fn one(&self, kind: &'static Kind, object: Object) -> Value {
        self.event(kind, object, true)
    }

    /// One object in a watch. A table tells its columns only once.
    pub(crate) fn event(&self, kind: &'static Kind, object: Object, columns: bool) -> Value {
        match self.form {
            Form::Table => {
                let version = object.resource_version();
                let objects = [object];
                let mut table =
                    table::render(kind, &objects, self.include, columns, Timestamp::now());
                table["metadata"] = version_only(version);
                table
            }
            Form::Partial => partial(object),
            Form::Object | Form::Discovery => object.into_value(),
        }
    }

    /// A list with its metadata.
    pub(crate) fn list(&self, kind: &'static Kind, list: List) -> Value {
        let metadata = list_metadata(&list);
        match self.form {
            Form::Table => {
                let mut table =
                    table::render(kind, &list.items, self.include, true, Timestamp::now());
                table["metadata"] = metadata;
                table
            }
            Form::Partial => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": list.items.into_iter().map(partial).collect::<Vec<_>>(),
            }),
            Form::Object | Form::Discovery => json!({
                "kind": kind.list_kind(),
                "apiVersion": kind.api_version(),
                "metadata": metadata,
                "items": list.items.into_iter().map(item).collect::<Vec<_>>(),
            }),
        }
    }

    /// What a bookmark carries: a revision and nothing else.
    pub(crate) fn bookmark(&self, kind: &Kind, revision: i64) -> Value {
        let (name, version) = match self.form {
            Form::Table => ("Table", "meta.k8s.io/v1".to_owned()),
            Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Form::Object | Form::Discovery => (kind.kind, kind.api_version()),
        };
        json!({"kind": name, "apiVersion": version, "metadata": version_only(Some(revision))})
    }
}

fn version_only(revision: Option<i64>) -> Value {
    json!({"resourceVersion": revision.map(|revision| revision.to_string()).unwrap_or_default()})
}

fn list_metadata(list: &List) -> Value {
    let mut metadata = version_only(Some(list.resource_version));
    if let Some(token) = &list.continue_token {
        metadata["continue"] = json!(token);
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}

/// An item of a list does not repeat what the list says of all.
fn item(object: Object) -> Value {
    let mut value = object.into_value();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    value
}

fn partial(mut object: Object) -> Value {
    let metadata = object.fields_mut().remove("metadata").unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Key, kinds};

    fn shape(form: Form) -> Shape {
        Shape { spelling: Spelling::JSON, form, include: Include::Metadata }
    }

    fn pod() -> Object {
        let mut pod = Object::new(&kinds::POD, &Key::namespaced("a", "p"));
        pod.set_resource_version(7);
        pod.set("/spec/nodeName", "n1");
        pod
    }

    #[test]
    fn metadata_alone() {
        let value = shape(Form::Partial).one(&kinds::POD, pod());
        assert_eq!(value["kind"], "PartialObjectMetadata");
        assert_eq!(value["metadata"]["name"], "p");
        assert_eq!(value.get("spec"), None);
    }

    #[test]
    fn a_list_says_once_what_its_items_are() {
        let list = List {
            items: vec![pod()],
            resource_version: 9,
            continue_token: Some("t".into()),
            remaining: Some(3),
        };
        let value = shape(Form::Object).list(&kinds::POD, list);
        assert_eq!(value["kind"], "PodList");
        assert_eq!(
            value["metadata"],
            json!({"resourceVersion": "9", "continue": "t", "remainingItemCount": 3})
        );
        assert_eq!(value["items"][0].get("kind"), None);
        assert_eq!(value["items"][0]["spec"]["nodeName"], "n1");
    }
}
