//! Defaults of what makes pods from a template.

use super::{Fields, fill, inner, made, pod};
use crate::api::object::Object;

fn template(spec: &mut Fields) {
    if let Some(spec) = inner(spec, "template").and_then(|template| inner(template, "spec")) {
        pod::apply_spec(spec);
    }
}

pub(super) fn deployment(deployment: &mut Object) {
    let Some(spec) = inner(deployment.fields_mut(), "spec") else { return };
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    let strategy = made(spec, "strategy");
    fill(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = made(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
    template(spec);
}

pub(super) fn replica_set(set: &mut Object) {
    let Some(spec) = inner(set.fields_mut(), "spec") else { return };
    fill(spec, "replicas", 1);
    template(spec);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bare_deployment_rolls() {
        let mut object = Object::from_value(json!({"spec": {"replicas": 0}})).expect("an object");
        deployment(&mut object);
        let wanted = json!({"spec": {
            "replicas": 0, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
            },
        }});
        assert_eq!(object.as_value(), &wanted);
    }

    #[test]
    fn a_deployment_that_recreates_has_no_rolling_update() {
        let value = json!({"spec": {"strategy": {"type": "Recreate"}}});
        let mut object = Object::from_value(value).expect("an object");
        deployment(&mut object);
        assert_eq!(object.get("/spec/strategy"), Some(&json!({"type": "Recreate"})));
    }
}
