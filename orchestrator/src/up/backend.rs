//! The store below the cluster: one in this process, or one that runs elsewhere.
//!
//! This is the only place of the orchestrator that knows our `store` as a crate. Everything else speaks
//! etcd's API through [`Store`], so it cannot tell the two apart.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::config::{StoreConfig, StoreListen};
use super::record::StoreAccess;
use crate::cli::args;
use crate::client::etcd::{Store, Tls};
use crate::pki::{Pki, Role};

/// How long a remote store may take to answer for the first time.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);
/// The embedded store's page cache. A cluster's objects fit; the rest of the machine is for pods.
const CACHE_BYTES: usize = 16 << 20;

/// A store in use.
pub(super) struct Backend {
    /// The client everybody shares.
    pub(super) store: Store,
    /// How others reach it.
    pub(super) access: StoreAccess,
    embedded: Option<store::Node>,
}

impl Backend {
    /// Starts the embedded store, or reaches the remote one.
    pub(super) async fn start(
        config: &StoreConfig,
        pki: &Pki,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        match config {
            StoreConfig::Embedded(listen) => embed(listen, pki, data_dir).await,
            StoreConfig::Remote(remote) => {
                let (store, access) = reach(remote).await?;
                Ok(Self { store, access, embedded: None })
            }
        }
    }

    /// Waits until the embedded store has failed, and says why. A remote one that is gone for a while
    /// is waited for by its clients.
    pub(super) async fn failed(&self) -> String {
        match &self.embedded {
            Some(node) => node.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the embedded store.
    pub(super) async fn shutdown(self) {
        if let Some(node) = self.embedded {
            node.shutdown().await;
        }
    }
}

async fn embed(listen: &StoreListen, pki: &Pki, data_dir: &Path) -> anyhow::Result<Backend> {
    let server = pki.identity(Role::StoreServer)?;
    let [cacert, cert, key] = pki.store_client_files();
    let url = store::config::Url::parse(&listen.url).map_err(anyhow::Error::msg)?;
    let mut config = store::config::Config::new("default", data_dir.join("store"));
    config.member.advertise_client_urls = vec![url.clone()];
    config.listen.client_urls = vec![url];
    config.listen.tls = listen.tls.then(|| {
        let files = store::config::TlsConfig::new(server.cert_path, server.key_path);
        store::config::TlsConfig { client_ca_file: Some(cacert.clone()), ..files }
    });
    config.disk.cache_bytes = CACHE_BYTES;
    let node = store::Node::start(config).await.context("store")?;
    let files = |path| listen.tls.then_some(path);
    let access = StoreAccess {
        endpoints: vec![listen.url.clone()],
        cacert: files(cacert),
        cert: files(cert),
        key: files(key),
    };
    Ok(Backend { store: Store::from_channel(node.connect()), access, embedded: Some(node) })
}

/// Connects to a running store and waits for its first answer, so that a wrong address or certificate
/// is told at once.
pub(super) async fn reach(remote: &args::Store) -> anyhow::Result<(Store, StoreAccess)> {
    let endpoints = remote.store_endpoints.clone();
    let named = endpoints.join(",");
    let read = |flag: &str, path: &Option<std::path::PathBuf>| match path {
        Some(path) => {
            std::fs::read(path).map(Some).with_context(|| format!("{flag} {}", path.display()))
        }
        None => Ok(None),
    };
    let ca = read("--store-cacert", &remote.store_cacert)?;
    let cert = read("--store-cert", &remote.store_cert)?;
    let key = read("--store-key", &remote.store_key)?;
    let tls = ca.map(|ca| Tls { ca, identity: cert.zip(key) });
    let secure = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    anyhow::ensure!(
        tls.is_some() || !secure,
        "--store-endpoints {named}: an https:// store needs --store-cacert"
    );
    let store = Store::connect(&endpoints, tls.as_ref())
        .with_context(|| format!("cannot use --store-endpoints {named}"))?;
    match tokio::time::timeout(REACH_TIMEOUT, store.status()).await {
        Ok(answer) => answer.with_context(|| format!("cannot reach the store at {named}"))?,
        Err(_) => anyhow::bail!("the store at {named} does not answer"),
    };
    let absolute = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map(super::config::absolute).transpose()
    };
    let access = StoreAccess {
        endpoints,
        cacert: absolute(&remote.store_cacert)?,
        cert: absolute(&remote.store_cert)?,
        key: absolute(&remote.store_key)?,
    };
    Ok((store, access))
}
