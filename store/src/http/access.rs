//! Who may ask over plain HTTP: CORS and the host list.
//!
//! Both guard people whose browser is turned against a store that it can reach. A page of another
//! origin may read an answer only if the answer says so, and `--cors` says whose may. DNS rebinding
//! makes a foreign page look like our own origin, but it cannot change the name the browser asked
//! for: `--host-whitelist` names the hosts that are ours. Over TLS the certificate already does
//! that. etcd's default for both is everybody.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use tonic::body::Body;

use super::refuse;
use crate::config::{Allowed, HttpConfig};
use crate::tls::PeerCertificate;

/// The two lists.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    origins: Allowed,
    hosts: Allowed,
}

impl Access {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        Self { origins: config.cors.clone(), hosts: config.hosts.clone() }
    }

    /// The refusal, if the request is for a host that is not ours.
    pub(super) fn misdirected<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let host = host(request);
        if self.hosts.allows(host) {
            return None;
        }
        tracing::warn!(host, "refused a request for a host that is not listed");
        Some(refuse(
            421,
            format!(
                "\nThis host name is not one that this store answers to: {host:?}.\n\n\
             Either of these helps:\n\
             - Use TLS: any HTTPS request is allowed.\n\
             - Add the name to the list in the settings.\n  \
               - e.g. etcd --host-whitelist {host:?}\n\n\
             The list prevents DNS rebinding attacks (CVE-2018-5702).\n\n"
            ),
        ))
    }

    /// Says in an answer whose pages may read it.
    pub(super) fn tell_origins(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let allowed = match origin {
            _ if self.origins == Allowed::Any => HeaderValue::from_static("*"),
            Some(origin) if self.lists(origin) => origin.clone(),
            _ => return,
        };
        let pairs: [(HeaderName, HeaderValue); 3] = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
            ),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("accept, content-type, authorization"),
            ),
        ];
        headers.extend(pairs);
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.allows(origin))
    }
}

/// The refusal of a gateway request whose certificate has a name while logging in is required: the
/// name would not be used, and whoever sends it thinks that it is.
pub(super) fn mistaken<B>(request: &Request<B>, auth_enabled: bool) -> Option<Response<Body>> {
    let certificate = request.extensions().get::<PeerCertificate>()?;
    let is_named = certificate.common_name().is_some();
    let is_for_gateway = super::below_v3(request.uri().path()).is_some();
    if !(auth_enabled && is_named && is_for_gateway) {
        return None;
    }
    let text = "CommonName of client sending a request against gateway will be ignored and not \
                used as expected\n";
    Some(refuse(400, text))
}

/// The host a request is for, without the port and without the brackets of an IPv6 address.
fn host<B>(request: &Request<B>) -> &str {
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let named = header.or(authority).unwrap_or("");
    if let Some(rest) = named.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    match named.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> Request<()> {
        Request::builder().header(header::HOST, host).body(()).expect("a request")
    }

    fn only(names: &[&str]) -> Allowed {
        Allowed::Only(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_listed_hosts_are_answered_whatever_the_port() {
        let access = Access { origins: Allowed::Any, hosts: only(&["store.local", "::1"]) };
        for good in ["store.local", "store.local:2379", "[::1]:2379", "[::1]"] {
            assert!(access.misdirected(&asked(good)).is_none(), "{good}");
        }
        for bad in ["evil.example", "evil.example:2379", "store.local.evil", "127.0.0.1:2379", ""] {
            let refused = access.misdirected(&asked(bad)).expect(bad);
            assert_eq!(refused.status(), 421);
        }
        let everybody = Access { origins: Allowed::Any, hosts: Allowed::Any };
        assert!(everybody.misdirected(&asked("evil.example")).is_none());
    }

    #[test]
    fn only_listed_origins_are_told_that_they_may() {
        let told = |access: &Access, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            access.tell_origins(origin.map(HeaderValue::from_static).as_ref(), &mut headers);
            headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned()
        };
        let listed = Access { origins: only(&["http://ours"]), hosts: Allowed::Any };
        let everybody = Access { origins: Allowed::Any, hosts: Allowed::Any };
        assert_eq!(told(&listed, Some("http://ours")).expect("told"), "http://ours");
        assert_eq!(told(&listed, Some("http://theirs")), None);
        assert_eq!(told(&listed, None), None);
        assert_eq!(told(&everybody, Some("http://theirs")).expect("told"), "*");
        assert_eq!(told(&everybody, None).expect("told"), "*");
    }

    #[test]
    fn a_named_certificate_is_no_way_into_the_gateway_while_users_must_log_in() {
        let certified = |name: Option<&str>, path: &str| {
            let mut subject = rcgen::DistinguishedName::new();
            if let Some(name) = name {
                subject.push(rcgen::DnType::CommonName, name);
            }
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = subject;
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let peer = PeerCertificate::new(&[certificate.der().clone()]).expect("it is one");
            let mut request = Request::builder().uri(path).body(()).expect("a request");
            request.extensions_mut().insert(peer);
            request
        };
        let refused = mistaken(&certified(Some("root"), "/v3/kv/put"), true).expect("refused");
        assert_eq!(refused.status(), 400);
        assert!(mistaken(&certified(Some("root"), "/v3/kv/put"), false).is_none());
        assert!(mistaken(&certified(Some("root"), "/health"), true).is_none());
        assert!(mistaken(&certified(None, "/v3/kv/put"), true).is_none());
        assert!(mistaken(&asked("x"), true).is_none());
    }
}
