//! The one way to read and write objects.
//!
//! Whoever writes, over HTTP or from inside, takes the same path: check against the schema →
//! default → admit → validate → one compare-and-swap transaction. The transaction carries all that
//! must hold at that moment (the revision the writer saw, the namespace that is not ending) and
//! all that must change with the object (the pods-by-node copy). It changes at most one object, so
//! that a revision names one change.
//!
//! A [`Registry`] is a cheap handle; every component holds one.

mod admission;
mod bind;
mod claim;
pub mod codec;
mod commit;
pub mod compact;
mod delete;
pub mod key;
mod leases;
mod options;
mod read;
mod repair;
mod service;
mod watch;
mod write;

use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;

pub use self::claim::{ClaimError, claim};
pub use self::options::{
    Actor, Config, Deleted, List, ListOptions, Match, Warnings, WatchOptions, WriteOptions,
};
pub use self::watch::{Event, Watch};
pub use crate::api::lifecycle::{DeleteOptions, Part, Preconditions, Propagation};
use crate::api::lifecycle::{SUFFIX_ALPHABET, SUFFIX_LENGTH, generated_name, scale};
use crate::api::validate::Limits;
use crate::api::{Key, Kind, Object, Status};
use crate::client::etcd::Store;

/// A handle on all objects.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    config: Config,
    namespaces: Mutex<admission::ActiveNamespaces>,
    event_lease: tokio::sync::Mutex<Option<leases::Shared>>,
}

impl Registry {
    /// A registry over a store.
    pub fn new(store: Store, config: Config) -> Self {
        let namespaces = Mutex::default();
        let event_lease = tokio::sync::Mutex::default();
        Self { shared: Arc::new(Shared { store, config, namespaces, event_lease }) }
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How this cluster is served.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    fn limits(&self) -> Limits {
        let Config { service_cidr, node_ports, .. } = *self.config();
        Limits { service_cidr, node_ports }
    }

    fn namespaces(&self) -> MutexGuard<'_, admission::ActiveNamespaces> {
        self.shared.namespaces.lock().expect("no code panics while it holds the map")
    }

    /// One part of one object: its Scale for [`Part::Scale`], the object otherwise.
    pub async fn get_part(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
    ) -> Result<Object, Status> {
        let object = self.get(kind, key).await?;
        Ok(match part {
            Part::Scale => scale(&object),
            Part::Main | Part::Status | Part::Finalize => object,
        })
    }
}

/// The time, read in this one place for all that is written.
fn now() -> Timestamp {
    Timestamp::now()
}

fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn generate_name(prefix: &str) -> String {
    let letter = || {
        let nth = rand::random_range(0..SUFFIX_ALPHABET.len());
        char::from(SUFFIX_ALPHABET[nth])
    };
    let suffix: String = std::iter::repeat_with(letter).take(SUFFIX_LENGTH).collect();
    generated_name(prefix, &suffix)
}

/// Reads a resource version; absent and `0` both mean no particular one.
pub fn parse_revision(text: &str) -> Result<i64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().ok().filter(|revision| *revision >= 0).ok_or_else(|| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"))
    })
}

/// A key must have a namespace exactly if the kind does.
fn check_scope(kind: &Kind, key: &Key) -> Result<(), Status> {
    match (&key.namespace, kind.namespaced) {
        (Some(_), true) | (None, false) => Ok(()),
        (None, true) => {
            Err(Status::bad_request("an empty namespace may not be set during creation"))
        }
        (Some(_), false) => {
            Err(Status::bad_request("namespace may not be set for a cluster-wide resource"))
        }
    }
}
