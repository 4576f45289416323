//! Which clients' certificates are taken: signed by the bundle, in date and made for clients
//! (webpki's part), not revoked, and good for one of the listed names (ours).
//!
//! Revocation is checked here and not by webpki, which takes only lists of version 2 signed by a
//! certificate's own issuer; `openssl ca` writes version 1 unless told otherwise, and etcd reads
//! any. Every certificate that the client sends is looked up, so a revoked intermediate counts.
//!
//! A certificate that is itself in the bundle is taken too, while it is in date: a self-signed one,
//! as `openssl req -x509` makes it, is its own authority, and webpki lets no authority be a client.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::read::{self, Revoked};
use super::{TlsError, unfit};
use crate::config::TlsConfig;

/// The rules for clients, from the bundle and what goes with it.
pub(super) fn verifier(
    config: &TlsConfig,
    ca: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let bundle = read::certificates(ca)?;
    for certificate in &bundle {
        roots.add(certificate.clone()).map_err(|error| unfit(ca, error))?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| unfit(ca, error))?;
    let revoked = match &config.client_crl_file {
        Some(file) => read::revoked(file)?,
        None => Revoked::new(),
    };
    let names = config.client_names.iter().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| {
            unfit(Path::new("--client-cert-allowed-hostname"), format!("{name:?} is no host name"))
        })
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Clients { chain, bundle, revoked, names }))
}

#[derive(Debug)]
struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    bundle: Vec<CertificateDer<'static>>,
    revoked: Revoked,
    names: Vec<ServerName<'static>>,
}

impl Clients {
    /// Judges a certificate that is in the bundle: nobody has to vouch for it.
    fn is_sound_anchor(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        if !self.bundle.iter().any(|anchor| anchor == certificate) {
            return false;
        }
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let now =
            i64::try_from(now.as_secs()).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
        let usage = parsed.extended_key_usage().ok().flatten();
        now.is_some_and(|now| parsed.validity().is_valid_at(now))
            && usage.is_none_or(|usage| usage.value.any || usage.value.client_auth)
    }

    fn is_revoked(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let issuer = parsed.issuer().as_raw().to_vec();
        Ok(self.revoked.contains(&(issuer, parsed.raw_serial().to_vec())))
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = match self.chain.verify_client_cert(end_entity, intermediates, now) {
            Err(_) if self.is_sound_anchor(end_entity, now) => ClientCertVerified::assertion(),
            judged => judged?,
        };
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(end_entity).chain(intermediates) {
                if self.is_revoked(certificate)? {
                    return Err(Error::InvalidCertificate(CertificateError::Revoked));
                }
            }
        }
        if !self.names.is_empty() {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            if !self.names.iter().any(|name| verify_server_name(&parsed, name).is_ok()) {
                return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
