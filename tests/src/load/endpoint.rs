//! Where the server is, and how to reach it: plain or TLS, with the light client or a complete one.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::failure::Failure;

/// Anything that bytes go through.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Certificates, as PEM files.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsFiles {
    /// The CA to trust; needed with an https endpoint
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// One endpoint.
#[derive(Clone)]
pub struct Endpoint {
    url: String,
    authority: String,
    tls: Option<(Arc<ClientConfig>, TlsFiles)>,
}

impl Endpoint {
    /// `http://host:port`, or `https://…` with the files that it takes.
    ///
    /// # Errors
    /// When the URL is neither, or a file cannot be used.
    pub fn new(url: &str, files: &TlsFiles) -> Result<Self, Failure> {
        let (secure, authority) = match url.split_once("://") {
            Some(("http", authority)) => (false, authority),
            Some(("https", authority)) => (true, authority),
            _ => return Err(Failure::Endpoint(format!("{url}: give http:// or https://"))),
        };
        let authority = authority.trim_end_matches('/').to_owned();
        let tls =
            if secure { Some((Arc::new(client_config(files)?), files.clone())) } else { None };
        Ok(Self { url: url.trim_end_matches('/').to_owned(), authority, tls })
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// A socket for the light client.
    pub(super) async fn connect(&self) -> Result<Box<dyn Socket>, Failure> {
        let socket = TcpStream::connect(&self.authority).await?;
        socket.set_nodelay(true)?;
        let Some((config, _)) = &self.tls else { return Ok(Box::new(socket)) };
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| Failure::Endpoint(format!("{}: {error}", self.url)))?;
        Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, socket).await?))
    }

    /// A complete client, for what is asked once.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn channel(&self) -> Result<Channel, Failure> {
        let wrong = |error: tonic::transport::Error| Failure::Endpoint(error.to_string());
        let mut endpoint = Channel::from_shared(self.url.clone())
            .map_err(|error| Failure::Endpoint(error.to_string()))?;
        if let Some((_, files)) = &self.tls {
            let mut tls = ClientTlsConfig::new();
            if let Some(path) = &files.cacert {
                tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
            }
            if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
                tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        endpoint.tcp_nodelay(true).connect().await.map_err(wrong)
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Endpoint(format!("{}: {error}", path.display())))
}

fn client_config(files: &TlsFiles) -> Result<ClientConfig, Failure> {
    let wrong = |path: &PathBuf, error: &dyn std::fmt::Display| {
        Failure::Endpoint(format!("{}: {error}", path.display()))
    };
    let certificates = |path: &PathBuf| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(path, &error))
    };
    let Some(cacert) = &files.cacert else {
        return Err(Failure::Endpoint("an https endpoint needs --cacert".to_owned()));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(cacert)? {
        roots.add(certificate).map_err(|error| wrong(cacert, &error))?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
            builder
                .with_client_auth_cert(certificates(cert)?, secret)
                .map_err(|error| wrong(cert, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
