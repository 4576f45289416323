//! The Service proxy: virtual addresses become pod addresses, in the kernel.
//!
//! ```text
//! Services, slices ── view ──▶ plan ──▶ changes ── ruleset, message ──▶ socket ──▶ nf_tables
//! ```
//!
//! `plan` says which map elements the Services need, `ruleset` and `message` write them as nf_tables
//! messages, `socket` commits them in one transaction, `routes` leads the Service range to the rules.
//! This file only moves data: a change of a Service or of a slice marks the Service, and whatever is
//! marked is planned anew and written together.
//!
//! A starting proxy replaces the whole table, elements included, in one transaction once it knows all
//! Services: what an earlier process left keeps working until that moment. A proxy that stops leaves the
//! table behind for the same reason; [`teardown`] is for `down`. A transaction that the kernel refuses
//! changed nothing, so the answer is always the same: replace the whole table. So it is when somebody
//! else removed the table, which `guard` notices.

mod guard;
mod message;
mod plan;
mod routes;
mod ruleset;
mod socket;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::Cidr;
use crate::client::view::{EndpointSlice, SERVICE_NAME_LABEL, Service};
use crate::client::view::{Index, ObjectRef, View as _};
use crate::client::{Cache, Context, Severity};
use guard::Guard;
use message::Finished;
use plan::{Changes, Element, Plan};
use ruleset::{Ranges, Writer};
use socket::Socket;

pub use socket::Error as KernelError;

const COMPONENT: &str = "orchestrator-proxy";

/// Pause before the table is replaced again after the kernel refused it.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy needs to know about its node.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    pub node_name: String,
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open nf_tables, the kernel's packet filter: {0}")]
    Open(#[source] KernelError),
    #[error("cannot set the route of the Service range")]
    Route(#[source] io::Error),
    #[error("cannot remove the proxy's table: {0}")]
    Remove(#[source] KernelError),
}

/// Keeps the kernel's table as the Services ask, until `stop`.
pub async fn run(
    context: Context,
    config: ProxyConfig,
    stop: CancellationToken,
) -> Result<(), Error> {
    let ranges = Ranges { cluster: config.cluster_cidr, service: config.service_cidr };
    routes::install(ranges.service).await.map_err(Error::Route)?;
    let mut kernel = Kernel::open(ranges).map_err(Error::Open)?;
    let mut guard = Guard::open().map_err(|error| Error::Open(error.into()))?;
    let mut desired = Desired::new(context, config);
    let marked = Marked::default();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = desired.follow(&marked) => {}
    }
    // The first write replaces the table, so that it is there also when there is no Service.
    let mut whole = true;
    loop {
        let changes = desired.update(marked.take());
        if whole || !changes.is_empty() {
            whole = !kernel.write(whole, &changes, &desired.plan).await;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = marked.wait() => {}
            () = tokio::time::sleep(RETRY), if whole => {}
            removed = guard.removed() => {
                removed.map_err(|error| Error::Open(error.into()))?;
                whole = whole || !kernel.holds_table().await;
            }
        }
    }
}

/// Removes everything a proxy has put into this machine's network.
pub async fn teardown() -> Result<(), Error> {
    let removed = Socket::open().and_then(|mut socket| socket.commit(&ruleset::remove(1)));
    match removed {
        // A kernel without nf_tables holds no table of ours.
        Err(error) if !error.is_unsupported() => return Err(Error::Remove(error)),
        _ => {}
    }
    routes::remove().await.map_err(Error::Route)
}

/// What the Services ask for.
struct Desired {
    context: Context,
    config: ProxyConfig,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    plan: Plan,
    /// Services that were told that their affinity is not honoured, by the uid they had.
    told: HashMap<String, String>,
}

impl Desired {
    fn new(context: Context, config: ProxyConfig) -> Self {
        let services = context.caches.get();
        let slices = context.caches.get();
        Self { context, config, services, slices, plan: Plan::default(), told: HashMap::new() }
    }

    /// Marks Services from now on; returns once all present ones are known.
    async fn follow(&self, marked: &Marked) {
        let services = marked.clone();
        self.services.subscribe(move |change| services.add(service_name(change.latest())));
        let slices = marked.clone();
        self.slices.subscribe(move |change| {
            // A slice that was moved from one Service to another concerns both.
            change.sides().filter_map(|slice| slice_owner(slice)).for_each(|name| slices.add(name));
        });
        self.services.synced().await;
        self.slices.synced().await;
    }

    /// Plans the marked Services anew. Those that are gone come first: an address that one gives up is
    /// free for the next.
    fn update(&mut self, marked: BTreeSet<String>) -> Changes {
        let mut changes = Changes::default();
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for name in marked {
            match self.services.get(&view::key(&name)) {
                Some(service) => there.push((name, service)),
                None => gone.push(name),
            }
        }
        for name in gone {
            self.told.remove(&name);
            changes.append(self.plan.set(&name, None, &[]));
        }
        for (name, service) in there {
            let slices = self.slices.by(Index::Service, &name);
            let slices: Vec<plan::Slice> = slices
                .iter()
                .filter_map(|slice| view::slice(slice, &self.config.node_name))
                .collect();
            changes.append(self.plan.set(&name, Some(&view::service(&service)), &slices));
            self.tell_affinity(&name, &service);
        }
        changes
    }

    /// A wish that is not honoured is never ignored in silence.
    fn tell_affinity(&mut self, name: &str, service: &Service) {
        let uid = &service.meta().uid;
        if service.spec.session_affinity != "ClientIP" || self.told.get(name) == Some(uid) {
            return;
        }
        self.told.insert(name.to_owned(), uid.clone());
        self.context.events.report(
            COMPONENT,
            &ObjectRef::to(service),
            Severity::Warning,
            "AffinityNotHonoured",
            "sessionAffinity: ClientIP is not supported yet; connections are spread at random"
                .into(),
        );
    }
}

fn service_name(service: &Service) -> String {
    format!("{}/{}", service.meta().namespace, service.meta().name)
}

fn slice_owner(slice: &EndpointSlice) -> Option<String> {
    let service = slice.meta().labels.get(SERVICE_NAME_LABEL)?;
    Some(format!("{}/{service}", slice.meta().namespace))
}

/// Services that have to be looked at. Bounded by the number of Services: a mark is a set member.
#[derive(Debug, Clone, Default)]
struct Marked(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    names: Mutex<BTreeSet<String>>,
    added: Notify,
}

impl Marked {
    fn add(&self, name: String) {
        self.names().insert(name);
        self.0.added.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.names())
    }

    async fn wait(&self) {
        self.0.added.notified().await;
    }

    fn names(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's table and the socket that leads to it.
struct Kernel {
    socket: Option<Socket>,
    writer: Writer,
}

impl Kernel {
    fn open(ranges: Ranges) -> Result<Self, KernelError> {
        Ok(Self { socket: Some(Socket::open()?), writer: Writer::new(ranges) })
    }

    /// Writes the changes, or everything; false when the kernel may not hold what it should.
    async fn write(&mut self, whole: bool, changes: &Changes, plan: &Plan) -> bool {
        let batch = if whole {
            let elements: Vec<Element> = plan.everything();
            tracing::info!(elements = elements.len(), "replacing the table of Services");
            self.writer.replace(&elements)
        } else {
            self.writer.change(changes)
        };
        let result = self.commit(batch).await;
        if let Err(error) = &result {
            tracing::warn!(%error, "Services were not written; replacing the table");
        }
        result.is_ok()
    }

    /// Whether the table is still there.
    async fn holds_table(&mut self) -> bool {
        let query = self.writer.look();
        let result = self.commit(query).await;
        if let Err(error) = &result {
            tracing::warn!(%error, "somebody removed the table of Services");
        }
        result.is_ok()
    }

    /// Sends one batch from a thread that may block: it takes up to a tenth of a second for ten thousand
    /// Services at start. A socket that failed is not used again, since a late answer on it would be
    /// taken for the next one's.
    async fn commit(&mut self, batch: Finished) -> Result<(), KernelError> {
        let held = self.socket.take();
        let sent = tokio::task::spawn_blocking(move || {
            let mut socket = held.map_or_else(Socket::open, Ok)?;
            socket.commit(&batch).map(|()| socket)
        });
        let socket = sent.await.map_err(|error| KernelError::Socket(io::Error::other(error)))??;
        self.socket = Some(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
