//! The API server: the one entrance for people and outside programs.
//!
//! ```text
//! TLS ─ listen ─▶ dispatch: who (identity) → what (route) → may they (authz) → answer
//!                                                                │
//!            discovery · openapi · review · log ◀───────────────┼──▶ resource ─▶ registry
//!                                                  watch ◀───────┘        └─▶ present (forms)
//! ```
//!
//! It adds nothing to what objects mean: defaults, validation and the transaction are the
//! registry's, which components use without coming through here. Its own concerns are the wire
//! (HTTP, media types, forms), identity and permission, and bounds: everything a client can make
//! grow (connections, handshakes, bodies, requests in flight) has a limit at which it is told so.

mod authz;
mod body;
mod bootstrap;
mod discovery;
mod dispatch;
mod identity;
mod listen;
mod log;
mod negotiate;
mod openapi;
mod options;
mod present;
mod protobuf;
mod resource;
mod respond;
mod review;
mod route;
mod tls;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::identity::StaticToken;
pub use self::tls::{BadTls, Pem};
use crate::api::Status;
use crate::registry::{self, ClaimError, Registry};

/// The version of Kubernetes whose API is served.
pub const VERSION: &str = "v1.37.0";

/// What the server needs.
pub struct Config {
    /// Sockets to serve on.
    pub listeners: Vec<TcpListener>,
    /// The server's certificate and key.
    pub identity: Pem,
    /// The certificate and key it shows to kubelets.
    pub kubelet_client: Pem,
    /// The authority, in PEM, that signs clients' and kubelets' certificates.
    pub authority: String,
    /// Bearer tokens that stand for users.
    pub tokens: Vec<StaticToken>,
    /// Where the objects are.
    pub registry: Registry,
    /// The address that the `kubernetes` service leads to.
    pub advertise: SocketAddr,
    /// How often history is compacted; zero: never.
    pub compact_every: Duration,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate, key or authority cannot be used.
    #[error(transparent)]
    Tls(#[from] BadTls),
    /// The store is not ours to use.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store's derived keys could not be checked.
    #[error(transparent)]
    Store(#[from] Status),
}

/// Serves until `stop`, then until running requests are done, at most a few seconds.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    registry::claim(config.registry.store()).await?;
    config.registry.repair().await?;
    let authenticator = Arc::new(tls::authenticator(&config.authority, config.tokens)?);
    let acceptor = tls::acceptor(&config.identity, &authenticator)?;
    let kubelets = tls::kubelets(&config.kubelet_client, &config.authority)?;
    let server = Arc::new(dispatch::Server::new(
        config.registry.clone(),
        authenticator.clone(),
        kubelets,
        stop.clone(),
    ));
    let listeners = config.listeners.into_iter().map(|listener| {
        listen::serve(
            listener,
            acceptor.clone(),
            authenticator.clone(),
            server.clone(),
            stop.clone(),
        )
    });
    let serving = futures_util::future::join_all(listeners);
    let keeping = bootstrap::keep(&config.registry, config.advertise, &stop);
    let store = config.registry.store().clone();
    let forgetting = registry::compact::run(store, config.compact_every, stop.clone());
    tokio::join!(serving, keeping, forgetting);
    Ok(())
}
