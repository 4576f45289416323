//! Certificates of the client port, from PEM files to a rustls configuration.
//!
//! The ring provider is named here instead of being installed process-wide, so that a program
//! which embeds the store keeps its own choice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{Identity, TlsConfig};

/// Why TLS cannot be served: one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds no PEM of the right kind.
    #[error("{path}: {source}", path = .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The files can be read but do not fit together.
    #[error("{path}: {reason}", path = .path.display())]
    Unfit {
        /// The file that was being used.
        path: PathBuf,
        /// What rustls says.
        reason: String,
    },
}

/// Reads the files and builds what the acceptor needs.
pub(crate) fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert_file, key_file) = match &config.identity {
        Identity::Files { cert, key } => (cert, key),
        Identity::SelfSigned { .. } => {
            return Err(unfit(Path::new("--auto-tls"), "is not built yet; give --cert-file"));
        }
    };
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|source| TlsError::Pem { path: key_file.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| unfit(cert_file, error))?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unfit(file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unfit(file, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server =
        builder.with_single_cert(chain, key).map_err(|error| unfit(cert_file, error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(pem)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem)?;
    if chain.is_empty() {
        return Err(unfit(path, "holds no certificate"));
    }
    Ok(chain)
}

fn unfit(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Unfit { path: path.to_owned(), reason: reason.to_string() }
}
