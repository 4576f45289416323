//! Who is asking.
//!
//! A client proves itself by a certificate of the cluster's authority, whose common name is the
//! user and whose organisations are the groups, or by a bearer token from the cluster's list.
//!
//! The handshake itself lets every certificate in whose key the client holds, and the authority
//! is asked afterwards: so a wrong certificate gets the 401 with which kubectl says "You must be
//! logged in", and not a broken connection. A token that does not match any is a 401 too, even
//! beside a good certificate, as upstream: a wrong proof is never ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::registry::Actor;

/// A bearer token that stands for a user until it is taken from the list.
#[derive(Clone)]
pub struct StaticToken {
    /// The secret text.
    pub token: String,
    /// Whom it stands for.
    pub user: Actor,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays out of every log.
        to.debug_struct("StaticToken").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The group of everyone who has proved who they are.
const AUTHENTICATED: &str = "system:authenticated";

/// Why nobody could be recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No proof was offered.
    Anonymous,
    /// A proof was offered and is not good.
    Rejected,
}

/// The proofs this server believes.
pub(crate) struct Authenticator {
    authority: Arc<dyn ClientCertVerifier>,
    /// By the SHA-256 of the token: looking a guess up leaks nothing about its neighbours.
    tokens: BTreeMap<[u8; 32], Actor>,
}

impl Authenticator {
    pub(crate) fn new(
        client_ca: &[CertificateDer<'static>],
        tokens: Vec<StaticToken>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, BadAuthority> {
        let mut roots = RootCertStore::empty();
        for certificate in client_ca {
            roots.add(certificate.clone())?;
        }
        let authority =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let tokens = tokens
            .into_iter()
            .map(|entry| (digest(&entry.token), authenticated(entry.user)))
            .collect();
        Ok(Self { authority, tokens })
    }

    /// The verifier for the handshake: see the top of this file.
    pub(crate) fn handshake(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(AnyCertificate(self.authority.clone()))
    }

    /// Checks the chain a connection was opened with, once per connection.
    pub(crate) fn certificate(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Proof {
        let Some((own, between)) = chain.split_first() else { return Proof::Absent };
        if self.authority.verify_client_cert(own, between, now).is_err() {
            return Proof::Wrong;
        }
        subject(own).map_or(Proof::Wrong, |(user, until)| Proof::Good { user, until })
    }

    /// Recognises the sender of one request.
    pub(crate) fn recognise(
        &self,
        proof: &Proof,
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Result<Actor, Unknown> {
        if let Some(header) = headers.get(AUTHORIZATION) {
            let token = header.to_str().ok().and_then(bearer).ok_or(Unknown::Rejected)?;
            return self.tokens.get(&digest(token)).cloned().ok_or(Unknown::Rejected);
        }
        match proof {
            Proof::Absent => Err(Unknown::Anonymous),
            Proof::Good { user, until } if now.as_secs() <= *until => Ok(user.clone()),
            // A connection can outlive the certificate that opened it.
            Proof::Good { .. } | Proof::Wrong => Err(Unknown::Rejected),
        }
    }
}

/// What the certificate of a connection is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// None was shown.
    Absent,
    /// One was shown that the authority did not sign, or no longer stands for.
    Wrong,
    /// A good one, until the second it expires.
    Good { user: Actor, until: u64 },
}

/// The authority's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthority {
    /// A certificate in the list is malformed.
    #[error("client certificate authority: {0}")]
    Certificate(#[from] rustls::Error),
    /// The list is empty.
    #[error("client certificate authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

fn authenticated(mut user: Actor) -> Actor {
    if !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The token of an `Authorization` header. The scheme's case does not matter.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// User and expiry from a certificate. One without a common name stands for nobody.
fn subject(certificate: &CertificateDer<'_>) -> Option<(Actor, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject();
    let name = names.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = names
        .iter_organization()
        .map(|group| group.as_str().map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let until = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    (!name.is_empty()).then(|| (authenticated(Actor { user: name, groups }), until))
}

/// Accepts any certificate whose key the client holds; [`Authenticator::certificate`] judges it.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    struct Authority {
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs").der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn client(authority: &Authority, user: &str, group: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &authority.issuer).expect("signs").der().clone()
    }

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_hours(24 * 365 * 55))
    }

    fn authenticator(authority: &Authority) -> Authenticator {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let token = StaticToken {
            token: "sesame".into(),
            user: Actor { user: "ali".into(), groups: vec!["dev".into()] },
        };
        Authenticator::new(std::slice::from_ref(&authority.certificate), vec![token], provider)
            .expect("a usable authority")
    }

    fn with_header(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn a_certificate_names_user_and_groups() {
        let ours = authority("ours");
        let authenticator = authenticator(&ours);
        let proof = authenticator.certificate(&[client(&ours, "jane", "system:masters")], now());
        let user = authenticator.recognise(&proof, &HeaderMap::new(), now()).expect("known");
        assert_eq!(user.user, "jane");
        assert!(user.is_in("system:masters") && user.is_in(AUTHENTICATED));
    }

    #[test]
    fn a_foreign_or_expired_certificate_is_rejected() {
        let (ours, theirs) = (authority("ours"), authority("theirs"));
        let authenticator = authenticator(&ours);
        let proof = authenticator.certificate(&[client(&theirs, "jane", "system:masters")], now());
        assert_eq!(proof, Proof::Wrong);
        let good = authenticator.certificate(&[client(&ours, "jane", "dev")], now());
        let late = UnixTime::since_unix_epoch(Duration::from_hours(24 * 365 * 4000));
        assert_eq!(authenticator.recognise(&good, &HeaderMap::new(), late), Err(Unknown::Rejected));
        assert_eq!(
            authenticator.recognise(&Proof::Absent, &HeaderMap::new(), now()),
            Err(Unknown::Anonymous)
        );
    }

    #[test]
    fn tokens() {
        let ours = authority("ours");
        let authenticator = authenticator(&ours);
        let ask =
            |header: &str| authenticator.recognise(&Proof::Absent, &with_header(header), now());
        assert_eq!(ask("Bearer sesame").map(|user| user.user), Ok("ali".into()));
        assert_eq!(ask("bearer sesame").map(|user| user.user), Ok("ali".into()));
        for wrong in ["Bearer sesam", "Bearer ", "Basic sesame", "sesame"] {
            assert_eq!(ask(wrong), Err(Unknown::Rejected), "{wrong}");
        }
        // A wrong token spoils a good certificate.
        let good = authenticator.certificate(&[client(&ours, "jane", "dev")], now());
        assert_eq!(
            authenticator.recognise(&good, &with_header("Bearer x"), now()),
            Err(Unknown::Rejected)
        );
    }
}
