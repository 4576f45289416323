//! Who a client is by its certificate. The name goes with every request of the connection, for
//! authentication by certificate; it is there only if a certificate was demanded and verified on
//! this very connection, never by way of a gateway.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The verified certificate of a request's connection: an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    common_name: Option<Arc<str>>,
}

impl PeerCertificate {
    /// The certificate at the head of a verified chain.
    pub(crate) fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
        // Go takes the last of several, and so do users' certificates.
        let name = parsed.subject().iter_common_name().last();
        let name = name.and_then(|name| name.as_str().ok()).filter(|name| !name.is_empty());
        Some(Self { common_name: name.map(Arc::from) })
    }

    /// The subject's common name, if it has one.
    pub(crate) fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
}
