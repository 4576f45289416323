//! Pod templates: when two are the same, and the hash that names one.
//!
//! The ReplicaSet of a template is `<deployment>-<hash>`, and all its pods carry the hash as a
//! label, so that the sets of one Deployment never select each other's pods. The hash is ours (over
//! the canonical JSON) and need not equal upstream's: it is read back from the label, never
//! computed anew for an existing set.

use serde_json::{Map, Value};

/// The label that keeps the pods of two templates apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates ask for the same pods. The hash label, `null`s and empty values do not
/// count.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    canonical(one) == canonical(other)
}

/// The hash of a template. `collisions` makes another one when the first is taken.
pub(super) fn hash(template: &Value, collisions: i64) -> String {
    let mut text = canonical(template).to_string();
    if collisions > 0 {
        text.push_str(&collisions.to_string());
    }
    // FNV-1a. JSON objects keep their keys sorted or as given; sorted here by `canonical`.
    let hash = text
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    readable(hash)
}

/// Digits as letters without vowels, so that no hash spells a word.
fn readable(hash: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let digits = hash.to_string();
    digits.bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

fn canonical(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    tidy(&template).unwrap_or(Value::Null)
}

/// The value with sorted keys and without what says nothing. An empty object stays when it is a
/// list's item or says something by being there (`emptyDir: {}`), so only `null` and the metadata's
/// own empties go.
fn tidy(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let mut tidied = Map::new();
            for (name, value) in sorted {
                let idle = name == "metadata" || name == "labels" || name == "annotations";
                match tidy(value) {
                    Some(Value::Object(empty)) if empty.is_empty() && idle => {}
                    Some(value) => {
                        tidied.insert(name.clone(), value);
                    }
                    None => {}
                }
            }
            Some(Value::Object(tidied))
        }
        Value::Array(items) => Some(items.iter().filter_map(tidy).collect()),
        plain => Some(plain.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sameness_ignores_what_says_nothing() {
        let plain = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let noisy = json!({
            "metadata": {"creationTimestamp": null, "labels": {HASH_LABEL: "abc"}},
            "spec": {"nodeSelector": null, "volumes": [{"emptyDir": {}, "name": "v"}]},
        });
        assert!(same(&plain, &noisy));
        assert_eq!(hash(&plain, 0), hash(&noisy, 0));
        let other = json!({"spec": {"volumes": [{"name": "v", "hostPath": {}}]}});
        assert!(!same(&plain, &other));
        assert_ne!(hash(&plain, 0), hash(&plain, 1));
    }
}
