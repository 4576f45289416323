//! TLS of the listeners: one set of rules for every place that is `https` or `unixs`.
//!
//! Certificates are renewed, authorities replaced and certificates revoked while a store runs for
//! months. So nothing is read once and kept: before each handshake the files are looked at (a few
//! `stat` calls), and when one has changed all are read again and a new rustls configuration takes
//! the place of the old. Files that do not fit together, as happens in the middle of a renewal,
//! leave the old one in place and are told once. A new configuration also begins with no sessions
//! to resume, and with client certificates none are resumed at all: a client that was revoked must
//! not come back by a ticket.
//!
//! The ring provider is named here instead of being installed process-wide, so that a program
//! which embeds the store keeps its own choice.

mod clients;
mod peer;
mod read;
mod self_signed;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::config::{Identity, TlsConfig, TlsVersion};
use read::Stamp;

pub(crate) use peer::PeerCertificate;

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

fn unfit(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Unfit { path: path.to_owned(), reason: reason.to_string() }
}

/// The rules of a store's secure listeners, as of the files of this moment.
pub(crate) struct Tls {
    config: TlsConfig,
    source: Source,
    /// Every file that was read.
    watched: Vec<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    stamps: Vec<Stamp>,
    server: Arc<ServerConfig>,
}

/// Where the server's certificate comes from.
enum Source {
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// Made here and in no file.
    Made(Pair),
}

/// A certificate chain and its key.
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// Reads the files, or makes what was asked to be made: in `fixtures`, or in memory only.
    pub(crate) fn load(config: &TlsConfig, fixtures: Option<&Path>) -> Result<Self, TlsError> {
        let source = match (&config.identity, fixtures) {
            (Identity::Files { cert, key }, _) => {
                Source::Files { cert: cert.clone(), key: key.clone() }
            }
            (Identity::SelfSigned { years, hosts }, Some(folder)) => {
                let (cert, key) = self_signed::in_folder(folder, *years, hosts)?;
                Source::Files { cert, key }
            }
            (Identity::SelfSigned { years, hosts }, None) => {
                Source::Made(self_signed::in_memory(*years, hosts)?)
            }
        };
        let mut watched = Vec::new();
        if let Source::Files { cert, key } = &source {
            watched.extend([cert.clone(), key.clone()]);
        }
        watched.extend(config.client_ca_file.clone());
        watched.extend(config.client_crl_file.clone());
        // Stamps first: a file that changes while it is read is then read again.
        let stamps = read::stamps(&watched);
        let server = Arc::new(build(config, &source)?);
        let config = config.clone();
        Ok(Self { config, source, watched, current: Mutex::new(Current { stamps, server }) })
    }

    /// What the next handshake goes by.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let stamps = read::stamps(&self.watched);
        let mut current = self.current.lock().expect("nobody panics while holding it");
        if stamps == current.stamps {
            return Arc::clone(&current.server);
        }
        // Remembered even if they are bad, so that each change is told once.
        current.stamps = stamps;
        match build(&self.config, &self.source) {
            Ok(server) => {
                tracing::info!("certificate files have changed and were read again");
                current.server = Arc::new(server);
            }
            Err(error) => {
                tracing::warn!(%error, "changed certificate files cannot be used; the old go on");
            }
        }
        Arc::clone(&current.server)
    }
}

fn build(config: &TlsConfig, source: &Source) -> Result<ServerConfig, TlsError> {
    // Errors that are of the pair as a whole name its first file.
    let (pair, path) = match source {
        Source::Files { cert, key } => {
            (Pair { chain: read::certificates(cert)?, key: read::key(key)? }, cert.as_path())
        }
        Source::Made(made) => {
            let pair = Pair { chain: made.chain.clone(), key: made.key.clone_key() };
            (pair, Path::new("--auto-tls"))
        }
    };
    let provider = Arc::new(provider(&config.cipher_suites));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(config))
        .map_err(|error| unfit(path, error))?;
    let demand = config.client_ca_file.is_some();
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(clients::verifier(config, ca, provider)?),
    };
    let mut server =
        builder.with_single_cert(pair.chain, pair.key).map_err(|error| unfit(path, error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if demand {
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(server)
}

/// ring, with the chosen cipher suites. As in Go, a list that names no suite of TLS 1.3 leaves all
/// of those in place: they are all good, and cannot be chosen there.
fn provider(suites: &[u16]) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if suites.is_empty() {
        return provider;
    }
    let is_13 = |number: u16| number >> 8 == 0x13;
    let names_13 = suites.iter().any(|suite| is_13(*suite));
    provider.cipher_suites.retain(|suite| {
        let number = u16::from(suite.suite());
        suites.contains(&number) || (is_13(number) && !names_13)
    });
    provider
}

fn versions(config: &TlsConfig) -> Vec<&'static SupportedProtocolVersion> {
    let all =
        [(TlsVersion::V13, &rustls::version::TLS13), (TlsVersion::V12, &rustls::version::TLS12)];
    let spoken = config.min_version..=config.max_version;
    all.into_iter().filter(|(version, _)| spoken.contains(version)).map(|(_, spec)| spec).collect()
}
