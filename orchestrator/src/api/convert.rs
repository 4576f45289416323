//! Between the two forms of an event: the older `v1`, in which events are stored, and
//! `events.k8s.io/v1`. They differ in the names of fields only.

use super::kinds::{EVENT, EVENT_V1, Kind};
use super::object::Object;

/// Fields by their names in `v1` and in `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    mut object: Object,
    to: &Kind,
    names: impl Iterator<Item = (&'static str, &'static str)>,
) -> Object {
    let fields = object.fields_mut();
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    fields.insert("apiVersion".into(), to.api_version().into());
    object
}

/// Into the form of a kind that is stored as another.
pub fn from_stored(kind: &'static Kind, object: Object) -> Object {
    assert!(*kind == EVENT_V1, "only events have two forms");
    rename(object, kind, NAMES.into_iter())
}

/// Into the stored form.
pub fn to_stored(kind: &'static Kind, object: Object) -> Object {
    if kind.stored() == kind {
        return object;
    }
    rename(object, &EVENT, NAMES.into_iter().map(|(stored, own)| (own, stored)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_survives_the_trip() {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "message": "hello", "reason": "Started",
            "involvedObject": {"kind": "Pod"}, "count": 2,
        });
        let stored = Object::from_value(event).expect("an object");
        let shown = from_stored(&EVENT_V1, stored.clone());
        assert_eq!(shown.text("/note"), Some("hello"));
        assert_eq!(shown.api_version(), "events.k8s.io/v1");
        assert_eq!(to_stored(&EVENT_V1, shown), stored);
    }
}
