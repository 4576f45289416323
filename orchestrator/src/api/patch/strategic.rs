//! The strategic merge.
//!
//! Maps merge field by field and a null removes, as in RFC 7386. Lists replace unless the schema
//! marks them `merge`: then lists of scalars are sets, and lists of objects are maps by their merge
//! key. Directives in the patch say what plain data cannot:
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` in a map | the map replaces the present one |
//! | `$patch: delete` in a map | the map becomes empty |
//! | `$patch: delete` in an item | the item with that merge key goes |
//! | `$patch: replace` in an item | the other items of the patch replace the list |
//! | `$retainKeys: [a, b]` in a map | present fields other than these go first |
//! | `$deleteFromPrimitiveList/x: [1]` | these scalars leave the list `x` |
//! | `$setElementOrder/x: [...]` | items of `x` are brought into this order |
//!
//! After a list was merged, the items the patch names stand in the order of the patch, and those
//! only the server knew keep their places relative to them as far as that is possible.

use serde_json::{Map, Value};

use crate::api::schema::{self, Shape};
use crate::api::status::Status;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Fields = Map<String, Value>;

/// What the schema says of the value at hand. Without a definition, maps merge and lists replace.
#[derive(Clone, Copy)]
struct Type<'a> {
    definition: Option<&'a str>,
}

/// How one field merges.
struct How<'a> {
    /// Type of the field's value, or of its items.
    inner: Type<'a>,
    merge: bool,
    replace: bool,
    key: Option<&'a str>,
}

impl<'a> Type<'a> {
    fn field(self, name: &str) -> How<'a> {
        let field = self.definition.and_then(|definition| schema::field(definition, name));
        let Some(field) = field else {
            let inner = Type { definition: None };
            return How { inner, merge: false, replace: false, key: None };
        };
        let has = |wanted| {
            field.patch_strategy.as_deref().is_some_and(|all| all.split(',').any(|s| s == wanted))
        };
        let definition = match &field.shape {
            Shape::Ref(name) => Some(name.as_str()),
            Shape::List(items) => items.reference(),
            _ => None,
        };
        How {
            inner: Type { definition },
            merge: has("merge"),
            replace: has("replace"),
            key: field.patch_merge_key.as_deref(),
        }
    }
}

fn bad(why: impl Into<String>) -> Status {
    Status::bad_request(why)
}

/// Merges a patch into a value of a definition.
pub(super) fn merge(definition: &str, value: &mut Value, patch: Value) -> Result<(), Status> {
    let (Value::Object(fields), Value::Object(patch)) = (value, patch) else {
        return Err(bad("a strategic merge patch and what it changes must be objects"));
    };
    merge_map(Type { definition: Some(definition) }, fields, patch)
}

fn merge_map(of: Type<'_>, original: &mut Fields, mut patch: Fields) -> Result<(), Status> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(word)) if word == "replace" => {
            *original = plain_map(patch);
            return Ok(());
        }
        Some(Value::String(word)) if word == "delete" => {
            original.clear();
            return Ok(());
        }
        Some(other) => return Err(bad(format!("unknown patch type: {other} in map"))),
    }
    retain_keys(original, &mut patch)?;
    set_orders(of, original, &mut patch)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let how = of.field(&name);
        match (original.get_mut(&name), value) {
            (Some(Value::Object(present)), Value::Object(value)) if !how.replace => {
                merge_map(how.inner, present, value)?;
            }
            (Some(Value::Array(present)), Value::Array(items)) if how.merge => {
                let merged = merge_list(&how, std::mem::take(present), items)?;
                *present = merged;
            }
            (_, value) => {
                original.insert(name, plain(value));
            }
        }
    }
    Ok(())
}

/// Drops directives and nulls from what is new.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(plain_map(fields)),
        Value::Array(items) => {
            let is_directive = |item: &Value| item.get(PATCH).is_some();
            items.into_iter().filter(|item| !is_directive(item)).map(plain).collect()
        }
        other => other,
    }
}

fn plain_map(fields: Fields) -> Fields {
    let directive = |name: &str| {
        name == PATCH
            || name == RETAIN
            || name.starts_with(ORDER)
            || name.starts_with(DELETE_PRIMITIVES)
    };
    let kept = fields.into_iter().filter(|(name, value)| !value.is_null() && !directive(name));
    kept.map(|(name, value)| (name, plain(value))).collect()
}

fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), Status> {
    let Some(names) = patch.remove(RETAIN) else { return Ok(()) };
    let Value::Array(names) = names else {
        return Err(bad("invalid patch format of retainKeys"));
    };
    let retained = |name: &str| names.iter().any(|one| one.as_str() == Some(name));
    let named = |name: &String| name.starts_with('$') || retained(name);
    if !patch.iter().all(|(name, value)| value.is_null() || named(name)) {
        return Err(bad("invalid patch format of retainKeys"));
    }
    original.retain(|name, _| retained(name));
    Ok(())
}

fn delete_primitives(original: &mut Fields, list: &str, gone: &Value) -> Result<(), Status> {
    let Value::Array(gone) = gone else {
        return Err(bad("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = original.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Merges and orders every list for which the patch gives an order.
fn set_orders(of: Type<'_>, original: &mut Fields, patch: &mut Fields) -> Result<(), Status> {
    let names: Vec<String> =
        patch.keys().filter_map(|name| name.strip_prefix(ORDER)).map(str::to_owned).collect();
    for name in names {
        let order = patch.remove(&format!("{ORDER}{name}"));
        let Some(Value::Array(order)) = order else {
            return Err(bad("invalid patch format of setElementOrder list"));
        };
        let how = of.field(&name);
        let items = match patch.remove(&name) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            // A null removes the list, whatever its order; the common path does that.
            Some(other) => {
                patch.insert(name, other);
                continue;
            }
        };
        let present = match original.get_mut(&name) {
            Some(Value::Array(present)) => Some(std::mem::take(present)),
            _ => None,
        };
        let server_order = present.clone().unwrap_or_default();
        let merged = match (present, items) {
            (None, None) => continue,
            (Some(present), None) => present,
            (None, Some(items)) => merge_list(&how, Vec::new(), items)?,
            (Some(present), Some(items)) => merge_list(&how, present, items)?,
        };
        let ordered = in_order(how.key, merged, &order, &server_order);
        original.insert(name, Value::Array(ordered));
    }
    Ok(())
}

/// What tells an item from others: the value of the merge key, or a scalar itself.
fn identity<'a>(key: Option<&str>, item: &'a Value) -> Option<&'a Value> {
    match (key, item) {
        (Some(key), Value::Object(fields)) => fields.get(key),
        (None, Value::Object(_)) => None,
        (_, scalar) => Some(scalar),
    }
}

fn find(key: Option<&str>, list: &[Value], item: &Value) -> Option<usize> {
    let wanted = identity(key, item)?;
    list.iter().position(|one| identity(key, one) == Some(wanted))
}

fn merge_list(
    how: &How<'_>,
    original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let server_order = original.clone();
    let (mut merged, order) = if patch.iter().chain(&original).any(Value::is_object) {
        merge_objects(how, original, patch)?
    } else {
        let mut merged = original;
        for item in &patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        (merged, patch)
    };
    merged = in_order(how.key, merged, &order, &server_order);
    Ok(merged)
}

/// Merges a list of objects by key; answers it with the items of the patch, in their order.
fn merge_objects(
    how: &How<'_>,
    mut original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let Some(key) = how.key else {
        return Err(bad("unable to merge a list of objects without a merge key"));
    };
    let (directives, items): (Vec<Value>, Vec<Value>) =
        patch.into_iter().partition(|item| item.get(PATCH).is_some());
    for directive in &directives {
        match directive[PATCH].as_str() {
            Some("replace") => {
                let items: Vec<Value> = items.into_iter().map(plain).collect();
                return Ok((items.clone(), items));
            }
            Some("delete") => {
                let gone = identity(Some(key), directive).ok_or_else(|| no_key(directive, key))?;
                original.retain(|item| identity(Some(key), item) != Some(gone));
            }
            _ => return Err(bad(format!("unknown patch type: {} in list", directive[PATCH]))),
        }
    }
    for item in &items {
        if identity(Some(key), item).is_none() {
            return Err(no_key(item, key));
        }
        match find(Some(key), &original, item) {
            Some(nth) => {
                if let (Value::Object(present), Value::Object(item)) =
                    (&mut original[nth], item.clone())
                {
                    merge_map(how.inner, present, item)?;
                }
            }
            None => original.push(plain(item.clone())),
        }
    }
    Ok((original, items))
}

fn no_key(item: &Value, key: &str) -> Status {
    bad(format!("map: {item} does not contain declared merge key: {key}"))
}

/// Brings a list into order: items that `order` names stand in its order; the others keep their
/// order of `server_order`, and go before a named item exactly if they did there.
fn in_order(
    key: Option<&str>,
    list: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
) -> Vec<Value> {
    let place = |within: &[Value], item: &Value| find(key, within, item);
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(server_order, item));

    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(other), Some(name)) = (others.peek(), named.peek()) {
        let before = match (place(server_order, other), place(server_order, name)) {
            (Some(other), Some(name)) => other < name,
            _ => false,
        };
        ordered.extend(if before { others.next() } else { named.next() });
    }
    ordered.extend(others);
    ordered.extend(named);
    ordered
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value, patch: Value) -> Value {
        let mut value = json!({"spec": spec});
        merge("io.k8s.api.core.v1.Pod", &mut value, json!({"spec": patch})).expect("a good patch");
        value["spec"].take()
    }

    #[test]
    fn lists_with_a_key_are_maps() {
        let spec =
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        let merged = pod(spec, json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}));
        assert_eq!(
            merged,
            json!({"containers": [
                {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"},
            ]})
        );
    }

    #[test]
    fn set_image_as_kubectl_sends_it() {
        let spec = json!({"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"},
        ]});
        let patch = json!({
            "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
            "containers": [{"image": "2", "name": "a"}],
        });
        assert_eq!(
            pod(spec, patch),
            json!({"containers": [
                {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}]}, {"name": "b"},
            ]})
        );
    }

    #[test]
    fn items_are_deleted_and_replaced() {
        let spec = || json!({"containers": [{"name": "a"}, {"name": "b", "image": "1"}]});
        let gone = pod(spec(), json!({"containers": [{"name": "a", "$patch": "delete"}]}));
        assert_eq!(gone, json!({"containers": [{"name": "b", "image": "1"}]}));
        let new = pod(spec(), json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}));
        assert_eq!(new, json!({"containers": [{"name": "z"}]}));
    }

    #[test]
    fn maps_merge_are_replaced_or_emptied() {
        let spec = || json!({"nodeSelector": {"a": "1", "b": "2"}});
        let merged = pod(spec(), json!({"nodeSelector": {"a": null, "c": "3"}}));
        assert_eq!(merged, json!({"nodeSelector": {"b": "2", "c": "3"}}));
        let new = pod(spec(), json!({"nodeSelector": {"$patch": "replace", "c": "3"}}));
        assert_eq!(new, json!({"nodeSelector": {"c": "3"}}));
        let none = pod(spec(), json!({"nodeSelector": {"$patch": "delete"}}));
        assert_eq!(none, json!({"nodeSelector": {}}));
    }

    #[test]
    fn retained_keys_make_room_for_another_kind_of_volume() {
        let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({
            "$setElementOrder/volumes": [{"name": "v"}],
            "volumes": [{
                "$retainKeys": ["configMap", "name"], "configMap": {"name": "c"},
                "emptyDir": null, "name": "v",
            }],
        });
        assert_eq!(
            pod(spec, patch),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})
        );
    }

    #[test]
    fn sets_of_scalars_grow_and_shrink() {
        let mut value = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        let patch = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["d", "a", "c"],
            "finalizers": ["d"],
        }});
        merge("io.k8s.api.core.v1.Pod", &mut value, patch).expect("a good patch");
        assert_eq!(value["metadata"]["finalizers"], json!(["d", "a", "c"]));
    }

    #[test]
    fn items_only_the_server_knows_keep_their_place() {
        let items = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({"name": name})).collect()
        };
        let list = items(&["a", "x", "b", "y"]);
        let ordered = in_order(Some("name"), list.clone(), &items(&["b", "a"]), &list);
        assert_eq!(ordered, items(&["x", "b", "a", "y"]));
        let ordered = in_order(Some("name"), list.clone(), &items(&["b"]), &list);
        assert_eq!(ordered, items(&["a", "x", "b", "y"]));
    }

    #[test]
    fn lists_without_a_strategy_are_replaced() {
        let spec = json!({"containers": [{"name": "a", "args": ["1", "2"]}], "tolerations": [{}]});
        let merged = pod(
            spec,
            json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "k"}]}),
        );
        assert_eq!(
            merged,
            json!({
                "containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "k"}],
            })
        );
    }

    #[test]
    fn bad_patches_are_refused() {
        for spec in [
            json!({"containers": [{"image": "no name"}]}),
            json!({"containers": [{"$patch": "delete"}]}),
            json!({"containers": [{"name": "a", "$patch": "upset"}]}),
            json!({"nodeSelector": {"$patch": "upset"}}),
            json!({"nodeSelector": {"$retainKeys": ["a"], "b": "1"}}),
            json!({"$setElementOrder/containers": {}}),
        ] {
            let mut value =
                json!({"spec": {"containers": [{"name": "a"}], "nodeSelector": {"a": "1"}}});
            let done = merge("io.k8s.api.core.v1.Pod", &mut value, json!({"spec": spec}));
            assert_eq!(done.map_err(|status| status.code), Err(400), "{spec}");
        }
    }
}
