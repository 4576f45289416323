//! Certificates and keys, from PEM text to what the handshakes take.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{Authenticator, BadAuthority, StaticToken};

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct Pem {
    /// The chain, own certificate first.
    pub certificates: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of every log.
        to.debug_struct("Pem").finish_non_exhaustive()
    }
}

/// Certificates, keys or authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// The text is not PEM.
    #[error("the {0} is not PEM: {1}")]
    Pem(&'static str, #[source] pem::Error),
    /// Certificate and key cannot be used together, or at all.
    #[error("the {0} cannot be used: {1}")]
    Unfit(&'static str, #[source] rustls::Error),
    /// The authority for clients cannot be used.
    #[error(transparent)]
    Authority(#[from] BadAuthority),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(text: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| BadTls::Pem(what, error))
}

fn key(text: &str, what: &'static str) -> Result<PrivateKeyDer<'static>, BadTls> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| BadTls::Pem(what, error))
}

/// What recognises clients.
pub(crate) fn authenticator(
    authority: &str,
    tokens: Vec<StaticToken>,
) -> Result<Authenticator, BadTls> {
    let authority = certificates(authority, "certificate authority")?;
    Ok(Authenticator::new(&authority, tokens, provider())?)
}

/// What shakes hands with clients: HTTP/2 where they speak it.
pub(crate) fn acceptor(
    identity: &Pem,
    authenticator: &Authenticator,
) -> Result<TlsAcceptor, BadTls> {
    const WHAT: &str = "API server's certificate";
    let unfit = |error| BadTls::Unfit(WHAT, error);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_client_cert_verifier(authenticator.handshake())
        .with_single_cert(certificates(&identity.certificates, WHAT)?, key(&identity.key, WHAT)?)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What shakes hands with kubelets.
pub(crate) fn kubelets(identity: &Pem, authority: &str) -> Result<TlsConnector, BadTls> {
    const WHAT: &str = "certificate shown to kubelets";
    let unfit = |error| BadTls::Unfit(WHAT, error);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority, "certificate authority")? {
        roots.add(certificate).map_err(unfit)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certificates(&identity.certificates, WHAT)?,
            key(&identity.key, WHAT)?,
        )
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
