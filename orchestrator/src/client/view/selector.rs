//! Label selectors as objects carry them, and the requirements of node affinity.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::or_default;

/// `matchLabels` and `matchExpressions`, all of which must hold. Empty selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels with exactly these values.
    #[serde(default, deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, deserialize_with = "or_default")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label (or field).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Requirement {
    /// The label's name.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; for nodes also `Gt` and `Lt`.
    pub operator: String,
    /// Values for the operators that take some.
    #[serde(default, deserialize_with = "or_default")]
    pub values: Vec<String>,
}

impl Selector {
    /// True when it selects every object.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|one| one.matches(labels.get(&one.key).map(String::as_str)))
    }
}

impl Selector {
    /// The selector as objects carry it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({});
        if !self.match_labels.is_empty() {
            value["matchLabels"] = json!(self.match_labels);
        }
        if !self.match_expressions.is_empty() {
            let one = |one: &Requirement| {
                let mut value = json!({"key": one.key, "operator": one.operator});
                if !one.values.is_empty() {
                    value["values"] = json!(one.values);
                }
                value
            };
            value["matchExpressions"] = self.match_expressions.iter().map(one).collect();
        }
        value
    }
}

impl Requirement {
    /// Whether a label with this value, or an absent one, satisfies it. An operator nobody knows is
    /// never satisfied: validation refuses it, and guessing would place a pod wrongly.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|one| one == value));
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = |holds: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|text| number(text));
            match (value.and_then(number), bound) {
                (Some(value), Some(bound)) => holds(value, bound),
                _ => false,
            }
        };
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared(|value, bound| value > bound),
            "Lt" => compared(|value, bound| value < bound),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_follow_the_documentation() {
        let cases = [
            ("In", vec!["a", "b"], Some("a"), true),
            ("In", vec!["a"], None, false),
            ("NotIn", vec!["a"], Some("b"), true),
            ("NotIn", vec!["a"], None, true),
            ("Exists", vec![], Some(""), true),
            ("DoesNotExist", vec![], Some("x"), false),
            ("Gt", vec!["3"], Some("4"), true),
            ("Gt", vec!["3"], Some("x"), false),
            ("Lt", vec!["3"], Some("2"), true),
            ("Near", vec!["3"], Some("3"), false),
        ];
        for (operator, values, value, expected) in cases {
            let requirement = Requirement {
                key: "k".into(),
                operator: operator.into(),
                values: values.iter().map(|&one| one.to_owned()).collect(),
            };
            assert_eq!(requirement.matches(value), expected, "{operator} {values:?} {value:?}");
        }
    }
}
