//! What a path means, without knowing which kinds exist.
//!
//! ```text
//! /api/v1/…                the core group         /apis/GROUP/VERSION/…     every other group
//!   RESOURCE[/NAME[/SUB]]                          cluster scope, or all namespaces
//!   namespaces/NS/RESOURCE[/NAME[/SUB]]            one namespace
//!   namespaces/NAME[/status|/finalize]             the namespace object itself
//! ```
//!
//! A segment is percent-decoded once, here; one that decodes to something with a slash, or to `.`
//! or `..`, is no name of anything, and names nothing in the store either.

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/livez`, `/readyz`, `/healthz`, and the single checks below them.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/VERSION` with an empty group, or `/apis/GROUP/VERSION`.
    Resources { group: String, version: String },
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`; what follows `/openapi/v3/`.
    OpenApiDocument(String),
    /// `/openapi/v2`.
    OpenApiV2,
    /// An object, a collection, or a part of an object.
    Resource(Target),
    /// Nothing is at this path.
    Unknown,
}

/// The parts of a resource path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// What follows a `proxy` subresource.
    pub(crate) rest: Option<String>,
}

/// Parses a request path.
pub(crate) fn route(path: &str) -> Route {
    let Some(segments) = segments(path) else { return Route::Unknown };
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["livez" | "readyz" | "healthz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", document @ ..] => Route::OpenApiDocument(document.join("/")),
        ["api", version] => {
            Route::Resources { group: String::new(), version: (*version).to_owned() }
        }
        ["apis", group] => Route::Group((*group).to_owned()),
        ["apis", group, version] => {
            Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => Route::Unknown,
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    let mut found =
        Target { group: group.to_owned(), version: version.to_owned(), ..Target::default() };
    let parts = match rest {
        // The namespace object and its own two subresources.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => {
            found.namespace = rest.get(1).map(|name| (*name).to_owned());
            rest
        }
        ["namespaces", namespace, inner @ ..] => {
            found.namespace = Some((*namespace).to_owned());
            inner
        }
        cluster => cluster,
    };
    let [resource, after @ ..] = parts else { return Route::Unknown };
    found.resource = (*resource).to_owned();
    found.name = after.first().map(|name| (*name).to_owned());
    found.subresource = after.get(1).map(|name| (*name).to_owned());
    match after {
        [_, "proxy", rest @ ..] => found.rest = Some(rest.join("/")),
        [_, _, _, ..] => return Route::Unknown,
        _ => {}
    }
    Route::Resource(found)
}

/// The decoded segments, `None` if one of them cannot be a name. A trailing slash is allowed, as
/// it is upstream.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').map(segment).collect()
}

fn segment(text: &str) -> Option<String> {
    let decoded = percent_decode(text)?;
    let sound = !decoded.is_empty()
        && decoded != "."
        && decoded != ".."
        && !decoded.contains(['/', '\\', '%', '\0']);
    sound.then_some(decoded)
}

/// Decodes `%XX`, `None` for a bad escape or text that is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
    }
    String::from_utf8(bytes).ok()
}

/// The pairs of a query string, decoded; a later pair of the same name does not replace the first,
/// which is the one Go's handlers read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes a query. `None` if an escape in it is broken.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        text.split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(name)?, decode(value)?))
            })
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// The first value of a parameter, if it is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| key == name && value != "false" && value != "0")
    }

    /// A number, with the name of the parameter if it is none.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<i64>, BadNumber> {
        let parse = |text: &str| text.parse().map_err(|_| BadNumber(name, text.to_owned()));
        self.get(name).map(parse).transpose()
    }
}

/// A query parameter that should have been a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parsing query parameter {0}: invalid syntax: {1:?}")]
pub(crate) struct BadNumber(pub(crate) &'static str, pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> String {
        match route(path) {
            Route::Resource(found) => format!(
                "{}/{} {} ns={} name={} sub={}",
                found.group,
                found.version,
                found.resource,
                found.namespace.as_deref().unwrap_or("-"),
                found.name.as_deref().unwrap_or("-"),
                found.subresource.as_deref().unwrap_or("-"),
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn resource_paths() {
        let cases = [
            ("/api/v1/pods", "/v1 pods ns=- name=- sub=-"),
            ("/api/v1/namespaces", "/v1 namespaces ns=- name=- sub=-"),
            ("/api/v1/namespaces/a", "/v1 namespaces ns=a name=a sub=-"),
            ("/api/v1/namespaces/a/finalize", "/v1 namespaces ns=a name=a sub=finalize"),
            ("/api/v1/namespaces/a/pods", "/v1 pods ns=a name=- sub=-"),
            ("/api/v1/namespaces/a/pods/p/log", "/v1 pods ns=a name=p sub=log"),
            ("/api/v1/nodes/n/status", "/v1 nodes ns=- name=n sub=status"),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "apps/v1 deployments ns=a name=d sub=scale",
            ),
            ("/apis/apps/v1/deployments/", "apps/v1 deployments ns=- name=- sub=-"),
            ("/api/v1/namespaces/a/services/s/proxy/x/y", "/v1 services ns=a name=s sub=proxy"),
        ];
        for (path, wanted) in cases {
            assert_eq!(resource(path), wanted, "{path}");
        }
    }

    #[test]
    fn other_paths() {
        assert_eq!(route("/readyz/etcd"), Route::Health);
        assert_eq!(
            route("/openapi/v3/apis/apps/v1"),
            Route::OpenApiDocument("apis/apps/v1".into())
        );
        assert_eq!(
            route("/api/v1"),
            Route::Resources { group: String::new(), version: "v1".into() }
        );
        for path in ["", "/", "/foo", "//api/v1", "/api/v1/pods/a/b/c", "/apis//v1/pods"] {
            assert_eq!(route(path), Route::Unknown, "{path}");
        }
    }

    /// A name that would leave its place in the store's key space names nothing.
    #[test]
    fn traversal_is_no_route() {
        for name in ["..", ".", "%2e%2e", "a%2fb", "%252e", "a%00", "%zz", "%ff"] {
            assert_eq!(
                route(&format!("/api/v1/namespaces/{name}/pods/p")),
                Route::Unknown,
                "{name}"
            );
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("a=1&b=x%3Dy&watch&c=&a=2&d=p+q").expect("well formed");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), Some("x=y"));
        assert_eq!(query.get("c"), None);
        assert_eq!(query.get("d"), Some("p q"));
        assert!(query.flag("watch") && !query.flag("nope"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.number("a"), Ok(Some(1)));
        assert!(query.number("b").is_err());
        assert_eq!(Query::parse("a=%z"), None);
    }
}
