//! Which form an answer takes, from the `Accept` header.
//!
//! Kubernetes puts a transformation into the media type: `application/json;as=Table;g=meta.k8s.io;
//! v=v1` asks for the same list as a table. A clause is served only if every parameter of it is
//! understood and the endpoint can do it, else the next one is tried; when none is left the answer
//! is 406. Protobuf and CBOR answers are not built, so their clauses are passed over: every client
//! lists JSON after them.
//!
//! JSON is a subset of YAML, so a client that accepts only YAML gets JSON text under that name.

/// What the answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object or list itself.
    Object,
    /// A `meta.k8s.io/v1` Table.
    Table,
    /// Metadata alone, of an object or of a list's items.
    Partial,
    /// `apidiscovery.k8s.io/v2` aggregated discovery.
    Discovery,
}

/// A served clause: what the answer holds and how it is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) form: Form,
    /// The media type to answer with, without parameters.
    pub(crate) media: &'static str,
}

/// The media types that every endpoint answers in, as a 406 lists them.
pub(crate) const OFFERED: &[&str] = &["application/json", "application/yaml"];

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// Picks the best clause of `accept` that one of `forms` serves, `None` for a 406.
///
/// No header, and an empty one, mean JSON.
pub(crate) fn negotiate(accept: Option<&str>, forms: &[Form]) -> Option<Negotiated> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Some(Negotiated { form: Form::Object, media: JSON });
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    // Stable: clauses of equal weight keep the client's order.
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.weight));
    clauses.iter().filter(|clause| clause.weight > 0).find_map(|clause| clause.serve(forms))
}

/// One element of the header.
struct Clause<'a> {
    media: &'a str,
    /// `q` in thousandths.
    weight: u32,
    r#as: Option<&'a str>,
    group: Option<&'a str>,
    version: Option<&'a str>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| media.contains('/'))?;
        let mut clause = Self { media, weight: 1000, r#as: None, group: None, version: None };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match name.trim() {
                "q" => clause.weight = weight(value)?,
                "as" => clause.r#as = Some(value),
                "g" => clause.group = Some(value),
                "v" => clause.version = Some(value),
                // `charset=utf-8`, `stream=watch`, `profile=…`: no other form is asked for.
                _ => {}
            }
        }
        Some(clause)
    }

    fn serve(&self, forms: &[Form]) -> Option<Negotiated> {
        let media = match self.media {
            "*/*" | "application/*" | JSON => JSON,
            YAML | "application/x-yaml" => YAML,
            _ => return None,
        };
        let form = self.form()?;
        forms.contains(&form).then_some(Negotiated { form, media })
    }

    fn form(&self) -> Option<Form> {
        let (kind, group, version) = match (self.r#as, self.group, self.version) {
            (None, _, _) => return Some(Form::Object),
            (Some(kind), Some(group), Some(version)) => (kind, group, version),
            (Some(_), _, _) => return None,
        };
        match (kind, group, version) {
            ("Table", "meta.k8s.io", "v1") => Some(Form::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Some(Form::Partial)
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Form::Discovery),
            _ => None,
        }
    }
}

/// `q=0.5` as 500. A weight that is no number spoils its clause.
fn weight(text: &str) -> Option<u32> {
    let value: f64 = text.parse().ok()?;
    if !(0.0..=1.0).contains(&value) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000, as just checked"
    )]
    Some((value * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Option<Form> {
        negotiate(Some(accept), &[Form::Object, Form::Table, Form::Partial]).map(|found| found.form)
    }

    #[test]
    fn kubectl_gets_tables_where_they_exist() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Some(Form::Table));
        assert_eq!(
            negotiate(Some(kubectl), &[Form::Object]).map(|found| found.form),
            Some(Form::Object)
        );
    }

    #[test]
    fn typed_clients_fall_to_json() {
        assert_eq!(
            form("application/vnd.kubernetes.protobuf,application/json"),
            Some(Form::Object)
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;\
                        g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;\
                        g=meta.k8s.io;v=v1,application/json";
        assert_eq!(form(metadata), Some(Form::Partial));
    }

    #[test]
    fn only_the_stable_discovery_form_is_served() {
        let discovery = |accept| {
            negotiate(Some(accept), &[Form::Object, Form::Discovery]).map(|found| found.form)
        };
        let modern = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                      application/json";
        assert_eq!(discovery(modern), Some(Form::Discovery));
        let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                   application/json";
        assert_eq!(discovery(old), Some(Form::Object));
    }

    #[test]
    fn weights_order_and_zero_forbids() {
        assert_eq!(form("application/json;q=0"), None);
        let both = "application/json;q=0.2,application/yaml;q=0.9";
        assert_eq!(negotiate(Some(both), &[Form::Object]).map(|found| found.media), Some(YAML));
        assert_eq!(form(""), Some(Form::Object));
        assert_eq!(form("*/*"), Some(Form::Object));
        assert_eq!(form("text/html"), None);
        assert_eq!(form("application/json;as=Table;v=v9;g=meta.k8s.io"), None);
    }
}
