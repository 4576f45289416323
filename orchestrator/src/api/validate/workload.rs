//! What makes pods from a template.

use serde_json::{Map, Value};

use super::error::{Causes, Path, text};
use super::{meta, pod};
use crate::api::LabelSelector;
use crate::api::object::Object;

fn spec(object: &Object) -> Value {
    object.get("/spec").cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

pub(super) fn replica_set(object: &Object, causes: &mut Causes) {
    let spec = spec(object);
    let path = Path::root("spec");
    counts(&spec, &path, &["replicas", "minReadySeconds"], causes);
    selector_and_template(&spec, &path, "replicaset", causes);
}

pub(super) fn deployment(object: &Object, causes: &mut Causes) {
    let spec = spec(object);
    let path = Path::root("spec");
    counts(&spec, &path, &["replicas", "minReadySeconds", "revisionHistoryLimit"], causes);
    selector_and_template(&spec, &path, "deployment", causes);
    if let Some(strategy) = spec.get("strategy") {
        check_strategy(strategy, &path.child("strategy"), causes);
    }
    let seconds = |field: &str| spec.get(field).and_then(Value::as_i64);
    if let Some(deadline) = seconds("progressDeadlineSeconds") {
        let path = path.child("progressDeadlineSeconds");
        causes.not_negative(&path, Some(&deadline.into()));
        if deadline <= seconds("minReadySeconds").unwrap_or(0) {
            causes.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn counts(spec: &Value, path: &Path, fields: &[&str], causes: &mut Causes) {
    for field in fields {
        causes.not_negative(&path.child(field), spec.get(*field));
    }
}

fn selector_and_template(spec: &Value, path: &Path, kind: &str, causes: &mut Causes) {
    let field = path.child("selector");
    let selector = spec.get("selector");
    match selector {
        None => causes.required(&field, ""),
        Some(selector) => {
            meta::selector(selector, &field, causes);
            let none = |part: &str| match selector.get(part) {
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                _ => true,
            };
            if none("matchLabels") && none("matchExpressions") {
                let why = format!("empty selector is invalid for {kind}");
                causes.invalid(&field, selector.clone(), &why);
            }
        }
    }
    let path = path.child("template");
    let Some(template) = spec.get("template") else {
        causes.required(&path, "");
        return;
    };
    if let Some(metadata) = template.get("metadata") {
        meta::labels(metadata, "labels", &path.child("metadata"), causes);
    }
    let labels = template.pointer("/metadata/labels");
    let matched = selector
        .and_then(LabelSelector::from_json)
        .is_none_or(|selector| selector.matches_labels(labels));
    if !matched {
        let said = labels.cloned().unwrap_or(Value::Null);
        let why = "`selector` does not match template `labels`";
        causes.invalid(&path.child("metadata").child("labels"), said, why);
    }
    let path = path.child("spec");
    pod::check_spec(template.get("spec"), &path, causes);
    let Some(spec) = template.get("spec") else { return };
    if text(spec, "restartPolicy") != "Always" {
        causes.supported(&path.child("restartPolicy"), spec.get("restartPolicy"), &["Always"]);
    }
    if spec.get("activeDeadlineSeconds").is_some() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        causes.forbidden(&path.child("activeDeadlineSeconds"), why);
    }
}

fn check_strategy(strategy: &Value, path: &Path, causes: &mut Causes) {
    let rolling = strategy.get("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if rolling.is_some() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            causes.forbidden(&path.child("rollingUpdate"), why);
        }
        "RollingUpdate" => {
            if let Some(rolling) = rolling {
                check_rolling(rolling, &path.child("rollingUpdate"), causes);
            }
        }
        _ => causes.supported(
            &path.child("type"),
            strategy.get("type"),
            &["Recreate", "RollingUpdate"],
        ),
    }
}

fn check_rolling(rolling: &Value, path: &Path, causes: &mut Causes) {
    for field in ["maxUnavailable", "maxSurge"] {
        match rolling.get(field) {
            Some(Value::String(text)) if percent(text).is_none() => {
                let why = "a valid percent string must be a numeric string followed by an ending \
                           '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                causes.invalid(&path.child(field), text.as_str(), why);
            }
            value => causes.not_negative(&path.child(field), value),
        }
    }
    if let Some(Value::String(text)) = rolling.get("maxUnavailable")
        && percent(text).is_some_and(|percent| percent > 100)
    {
        causes.invalid(
            &path.child("maxUnavailable"),
            text.as_str(),
            "must not be greater than 100%",
        );
    }
    let none = |field: &str| match rolling.get(field) {
        Some(Value::String(text)) => percent(text) == Some(0),
        Some(number) => number.as_i64() == Some(0),
        None => true,
    };
    if none("maxUnavailable") && none("maxSurge") {
        let said = rolling.get("maxUnavailable").cloned().unwrap_or(Value::Null);
        causes.invalid(&path.child("maxUnavailable"), said, "may not be 0 when `maxSurge` is 0");
    }
}

fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(spec: Value) -> Vec<String> {
        let mut causes = Causes::default();
        deployment(&Object::from_value(json!({"spec": spec})).expect("an object"), &mut causes);
        let causes = causes.into_vec();
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn template(app: &str) -> Value {
        json!({
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"name": "a", "image": "i"}], "restartPolicy": "Always"},
        })
    }

    #[test]
    fn the_selector_must_match_the_template() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let good = json!({"selector": selector.clone(), "template": template("web")});
        assert!(said(good).is_empty());
        assert_eq!(
            said(json!({"selector": selector, "template": template("db")})),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not \
              match template `labels`"
            ]
        );
        assert_eq!(said(json!({"template": template("web")})), ["spec.selector: Required value"]);
    }

    #[test]
    fn a_rolling_update_must_be_able_to_roll() {
        let rolling = |unavailable: Value, surge: Value| {
            said(json!({
                "selector": {"matchLabels": {"app": "web"}}, "template": template("web"),
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {
                    "maxUnavailable": unavailable, "maxSurge": surge,
                }},
            }))
        };
        assert!(rolling(json!("25%"), json!(0)).is_empty());
        assert_eq!(
            rolling(json!(0), json!("0%")),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when \
              `maxSurge` is 0"]
        );
        assert_eq!(rolling(json!("x"), json!(1)).len(), 1);
        assert_eq!(rolling(json!(-1), json!(1)).len(), 1);
    }
}
