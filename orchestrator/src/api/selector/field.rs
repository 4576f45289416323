//! Field selectors: `metadata.name=a,status.phase!=Running`.
//!
//! Only equality, and only on the fields each kind offers: those Kubernetes indexes, because
//! clients rely on exactly these. Another field is refused, never ignored: a selector that
//! silently selects everything deletes everything.

use serde_json::Value;

use crate::api::kinds::Kind;
use crate::api::object::Object;
use crate::api::status::Status;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    /// The field as the client writes it.
    field: String,
    pointer: &'static str,
    value: String,
    equal: bool,
}

/// All terms must hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

const METADATA: &[(&str, &str)] =
    &[("metadata.name", "/metadata/name"), ("metadata.namespace", "/metadata/namespace")];

/// Fields beyond the metadata that a kind can be selected by, and where they stand.
fn fields_of(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (kind.group, kind.kind) {
        ("", "Pod") => &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        ("", "Event") => &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        ("events.k8s.io", "Event") => &[
            ("regarding.kind", "/regarding/kind"),
            ("regarding.namespace", "/regarding/namespace"),
            ("regarding.name", "/regarding/name"),
            ("regarding.uid", "/regarding/uid"),
            ("regarding.apiVersion", "/regarding/apiVersion"),
            ("regarding.resourceVersion", "/regarding/resourceVersion"),
            ("regarding.fieldPath", "/regarding/fieldPath"),
            ("reason", "/reason"),
            ("reportingController", "/reportingController"),
            ("type", "/type"),
        ],
        ("", "Node") => &[("spec.unschedulable", "/spec/unschedulable")],
        ("", "Namespace") => &[("status.phase", "/status/phase")],
        ("", "Secret") => &[("type", "/type")],
        ("", "Service") => &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        ("apps", "ReplicaSet") => &[("status.replicas", "/status/replicas")],
        _ => &[],
    }
}

impl FieldSelector {
    /// Selects the object of one name.
    pub fn name(name: &str) -> Self {
        let (field, pointer) = METADATA[0];
        let term = Term { field: field.into(), pointer, value: name.to_owned(), equal: true };
        Self { terms: vec![term] }
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must have, if the selector names one.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }

    /// Reads `fieldSelector=` for a kind.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            terms.push(term(kind, &part)?);
        }
        Ok(Self { terms })
    }

    /// Whether every term holds.
    pub fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|term| (said(object, term.pointer) == term.value) == term.equal)
    }
}

/// A field as text, the way selectors compare it.
fn said(object: &Object, pointer: &str) -> String {
    match object.get(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => match pointer {
            "/spec/unschedulable" | "/spec/hostNetwork" => "false".into(),
            "/status/replicas" => "0".into(),
            // Events of old reporters name themselves in one place, new ones in the other.
            "/source/component" => {
                object.text("/reportingComponent").unwrap_or_default().to_owned()
            }
            _ => String::new(),
        },
        Some(other) => other.to_string(),
    }
}

/// Splits at commas that no backslash hides; the backslashes stay.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        let last = parts.last_mut().expect("begins with one part");
        match c {
            ',' if !escaped => parts.push(String::new()),
            _ => last.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(value: &str) -> Result<String, Status> {
    let mut plain = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(hidden @ ('\\' | ',' | '=')) => plain.push(hidden),
                other => {
                    let sequence = other.map_or_else(|| "\\".into(), |c| format!("\\{c}"));
                    return Err(Status::bad_request(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(Status::bad_request(format!(
                    "invalid field selector: unescaped character: {c}"
                )));
            }
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

fn term(kind: &Kind, part: &str) -> Result<Term, Status> {
    let Some(at) = part.find('=') else {
        return Err(Status::bad_request(format!(
            "invalid selector: '{part}'; can't understand '{part}'"
        )));
    };
    let (left, right) = (&part[..at], &part[at + 1..]);
    let (field, equal) = match left.strip_suffix('!') {
        Some(field) => (field, false),
        None => (left, true),
    };
    let value = unescape(if equal { right.strip_prefix('=').unwrap_or(right) } else { right })?;
    let known = METADATA.iter().chain(fields_of(kind)).find(|(name, _)| *name == field);
    let offered = |name: &str| kind.namespaced || name != "metadata.namespace";
    match known {
        Some((name, pointer)) if offered(name) => {
            Ok(Term { field: field.to_owned(), pointer, value, equal })
        }
        _ => Err(unsupported(kind, field)),
    }
}

fn unsupported(kind: &Kind, field: &str) -> Status {
    let message = match (kind.group, kind.kind) {
        ("", "Pod" | "Event" | "Namespace" | "Node" | "Secret" | "Service") => {
            format!("field label not supported: {field}")
        }
        _ => format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    };
    Status::bad_request(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds;

    fn pod() -> Object {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "a"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        Object::from_value(pod).expect("an object")
    }

    #[test]
    fn equality_and_inequality() {
        for (selector, selected) in [
            ("metadata.name=web", true),
            ("metadata.name==web,spec.nodeName=n1", true),
            ("status.phase!=Running", false),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
            ("", true),
        ] {
            let parsed = FieldSelector::parse(&kinds::POD, selector).expect(selector);
            assert_eq!(parsed.matches(&pod()), selected, "{selector}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let refuse = |kind, text| FieldSelector::parse(kind, text).map_err(|s| s.message);
        assert_eq!(
            refuse(&kinds::POD, "spec.image=x"),
            Err("field label not supported: spec.image".into())
        );
        assert_eq!(
            refuse(&kinds::DEPLOYMENT, "spec.x=1"),
            Err("\"spec.x\" is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
                .into())
        );
        assert!(refuse(&kinds::NODE, "metadata.namespace=x").is_err());
        assert!(refuse(&kinds::POD, "metadata.name").is_err());
    }

    #[test]
    fn commas_can_be_escaped() {
        let parsed = FieldSelector::parse(&kinds::POD, r"metadata.name=a\,b").expect("valid");
        assert_eq!(parsed.required("metadata.name"), Some("a,b"));
    }
}
