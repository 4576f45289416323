//! Label selectors, as text (`app=web,tier in (a, b),!old`) and as JSON (`matchLabels`,
//! `matchExpressions`).
//!
//! `!=` and `notin` also select objects that lack the label: Kubernetes' rule, and the one people
//! trip over.

use serde_json::Value;

use crate::api::object::Object;
use crate::api::status::Status;
use crate::api::validate::names;

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Its value is one of those named.
    In,
    /// Its value is none of those named, or it is absent.
    NotIn,
    /// It is present.
    Exists,
    /// It is absent.
    DoesNotExist,
    /// Its value is a number above the one named.
    GreaterThan,
    /// Its value is a number below the one named.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// What with.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label with this value, or its absence, fulfils the condition.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let named = |value| self.values.iter().any(|one| one == value);
        match self.operator {
            Operator::In => value.is_some_and(named),
            Operator::NotIn => !value.is_some_and(named),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.numbers(value).is_some_and(|(own, bound)| own > bound),
            Operator::LessThan => self.numbers(value).is_some_and(|(own, bound)| own < bound),
        }
    }

    fn numbers(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }

    fn equals(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] }
    }
}

/// All conditions must hold. The default, without conditions, selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the object's labels fulfil every condition.
    pub fn matches(&self, object: &Object) -> bool {
        self.requirements.iter().all(|one| one.holds(object.label(&one.key)))
    }

    /// Whether a JSON map of labels fulfils every condition.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.requirements
            .iter()
            .all(|one| one.holds(labels.and_then(|all| all.get(&one.key)).and_then(Value::as_str)))
    }

    /// Selects by a plain map of labels, as a Service does.
    pub fn from_map(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        let equals =
            |(key, value): (&String, &Value)| Some(Requirement::equals(key, value.as_str()?));
        Self { requirements: pairs.filter_map(equals).collect() }
    }

    /// Reads `{"matchLabels": …, "matchExpressions": …}`. `None` when an expression cannot be
    /// understood; validation has told the writer why.
    pub fn from_json(selector: &Value) -> Option<Self> {
        let mut all = selector.get("matchLabels").map_or_else(Self::default, Self::from_map);
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let operator = match expression.get("operator")?.as_str()? {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            };
            let values = expression.get("values").and_then(Value::as_array);
            all.requirements.push(Requirement {
                key: expression.get("key")?.as_str()?.to_owned(),
                operator,
                values: values
                    .into_iter()
                    .flatten()
                    .filter_map(|value| Some(value.as_str()?.to_owned()))
                    .collect(),
            });
        }
        Some(all)
    }

    /// Reads the text form of `labelSelector=`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parser = Parser { rest: text };
        let refuse =
            |why: String| Status::bad_request(format!("unable to parse requirement: {why}"));
        let mut requirements = Vec::new();
        parser.spaces();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement().map_err(refuse)?);
            parser.spaces();
            match parser.next_token() {
                "" => break,
                "," => parser.spaces(),
                other => {
                    return Err(refuse(format!(
                        "found '{other}', expected: ',' or 'end of string'"
                    )));
                }
            }
            if parser.rest.is_empty() {
                return Err(refuse("found '', expected: identifier after ','".into()));
            }
        }
        Ok(Self { requirements })
    }

    /// The text form, canonical: `a=b,c in (d,e),!f`.
    pub fn to_text(&self) -> String {
        let parts: Vec<String> = self.requirements.iter().map(Requirement::to_text).collect();
        parts.join(",")
    }
}

impl Requirement {
    fn to_text(&self) -> String {
        let (key, values) = (&self.key, self.values.join(","));
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => format!("{key}={values}"),
            (Operator::In, _) => format!("{key} in ({values})"),
            (Operator::NotIn, 1) => format!("{key}!={values}"),
            (Operator::NotIn, _) => format!("{key} notin ({values})"),
            (Operator::Exists, _) => key.clone(),
            (Operator::DoesNotExist, _) => format!("!{key}"),
            (Operator::GreaterThan, _) => format!("{key}>{values}"),
            (Operator::LessThan, _) => format!("{key}<{values}"),
        }
    }
}

/// A hand-written scanner: symbols `! = == != ( ) , < >` and words between them.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn peek(&self) -> &'a str {
        let rest = self.rest;
        for symbol in ["==", "!=", "=", "!", "(", ")", ",", "<", ">"] {
            if rest.starts_with(symbol) {
                return &rest[..symbol.len()];
            }
        }
        let end =
            rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(rest.len());
        &rest[..end]
    }

    fn next_token(&mut self) -> &'a str {
        let token = self.peek();
        self.rest = self.rest[token.len()..].trim_start();
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == "!" {
            self.next_token();
            let key = self.key()?;
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let key = self.key()?;
        let (operator, values) = match self.peek() {
            "" | "," => (Operator::Exists, Vec::new()),
            "=" | "==" => (Operator::In, vec![self.after_symbol()]),
            "!=" => (Operator::NotIn, vec![self.after_symbol()]),
            ">" => (Operator::GreaterThan, vec![self.number(&key)?]),
            "<" => (Operator::LessThan, vec![self.number(&key)?]),
            "in" => (Operator::In, self.set()?),
            "notin" => (Operator::NotIn, self.set()?),
            other => {
                return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        for value in &values {
            if let Some(why) = names::label_value(value).into_iter().next() {
                return Err(format!("values[0][{key}]: Invalid value: {value:?}: {why}"));
            }
        }
        Ok(Requirement { key, operator, values })
    }

    fn key(&mut self) -> Result<String, String> {
        let key = self.next_token();
        if key.is_empty() || "=!(),<>".contains(&key[..1]) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        match names::qualified_name(key).into_iter().next() {
            Some(why) => Err(format!("key: Invalid value: {key:?}: {why}")),
            None => Ok(key.to_owned()),
        }
    }

    /// The word after an operator; none at all is the empty value.
    fn after_symbol(&mut self) -> String {
        self.next_token();
        match self.peek() {
            "" | "," => String::new(),
            _ => self.next_token().to_owned(),
        }
    }

    fn number(&mut self, key: &str) -> Result<String, String> {
        let value = self.after_symbol();
        match value.parse::<i64>() {
            Ok(_) => Ok(value),
            Err(_) => Err(format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value \
                 must be an integer"
            )),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        self.next_token();
        let open = self.next_token();
        if open != "(" {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values = Vec::new();
        loop {
            let token = self.next_token();
            match token {
                ")" if values.is_empty() => values.push(String::new()),
                "," => {
                    values.push(String::new());
                    continue;
                }
                "" => return Err("found '', expected: ',' or ')'".into()),
                word if word != ")" => values.push(word.to_owned()),
                _ => values.push(String::new()),
            }
            if token == ")" {
                break;
            }
            match self.next_token() {
                ")" => break,
                "," => {}
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).expect(selector).matches_labels(Some(&labels))
    }

    #[test]
    fn text_selects() {
        let web = || json!({"app": "web", "tier": "front", "n": "5"});
        for yes in [
            "",
            "app=web",
            "app==web",
            "app = web , tier=front",
            "app in (web, api)",
            "app,!old",
            "other!=x",
            "app notin (db)",
            "other notin (db)",
            "n>4,n<6",
        ] {
            assert!(matches(yes, web()), "{yes}");
        }
        for no in ["app=db", "app!=web", "!app", "old", "tier notin (front,back)", "n>5", "app="] {
            assert!(!matches(no, web()), "{no}");
        }
    }

    #[test]
    fn bad_text_is_refused() {
        for bad in ["a=b,", "=b", "a in b", "a in (b", "a b", "a=b c", "a>x", "a=-", "-a=b"] {
            assert_eq!(LabelSelector::parse(bad).map_err(|s| s.code), Err(400), "{bad}");
        }
    }

    #[test]
    fn json_selects() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["back"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        });
        let selector = LabelSelector::from_json(&selector).expect("a valid selector");
        assert!(selector.matches_labels(Some(&json!({"app": "web"}))));
        assert!(!selector.matches_labels(Some(&json!({"app": "web", "tier": "back"}))));
        assert!(!selector.matches_labels(None));
        assert_eq!(selector.to_text(), "app=web,tier!=back,!old");
    }
}
