//! Conditions in `status.conditions`, with Kubernetes' rule about time: `lastTransitionTime` moves
//! only when the status does.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Object, time};

/// What a condition is to say.
#[derive(Debug, Clone, Copy)]
pub struct Say<'a> {
    /// Which condition.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// One word why.
    pub reason: &'a str,
    /// A sentence why.
    pub message: &'a str,
}

/// Makes an object say it. Other fields of the condition stay; an object that already says it stays
/// as it is, times included. Tells whether the status changed.
pub fn say(object: &mut Object, what: Say<'_>, now: Timestamp) -> bool {
    let text = |old: &Value, field: &str| old.get(field).and_then(Value::as_str).map(str::to_owned);
    let old = object.condition(what.kind).cloned().unwrap_or_else(|| json!({"type": what.kind}));
    let turned = text(&old, "status").as_deref() != Some(what.status);
    let same = !turned
        && text(&old, "reason").unwrap_or_default() == what.reason
        && text(&old, "message").unwrap_or_default() == what.message;
    if same {
        return false;
    }
    let mut new = old;
    if turned {
        new["lastTransitionTime"] = time::seconds(now).into();
    }
    new["status"] = what.status.into();
    for (field, value) in [("reason", what.reason), ("message", what.message)] {
        if value.is_empty() {
            new.as_object_mut().expect("a condition is an object").remove(field);
        } else {
            new[field] = value.into();
        }
    }
    object.set_condition(new);
    turned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Key, kinds};

    #[test]
    fn only_a_turn_moves_the_time() {
        let at = |second| Timestamp::from_second(second).expect("a valid time");
        let mut pod = Object::new(&kinds::POD, &Key::namespaced("a", "b"));
        let mut what = Say { kind: "Ready", status: "False", reason: "A", message: "" };
        assert!(say(&mut pod, what, at(0)));
        let before = pod.clone();
        assert!(!say(&mut pod, what, at(5)));
        assert_eq!(pod, before);
        what.reason = "B";
        assert!(!say(&mut pod, what, at(6)));
        assert_eq!(
            pod.text("/status/conditions/0/lastTransitionTime"),
            Some("1970-01-01T00:00:00Z")
        );
        what.status = "True";
        assert!(say(&mut pod, what, at(7)));
        assert_eq!(
            pod.text("/status/conditions/0/lastTransitionTime"),
            Some("1970-01-01T00:00:07Z")
        );
    }
}
