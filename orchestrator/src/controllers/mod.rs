//! The controllers: each brings one part of the cluster to what its objects ask for.
//!
//! One file (or folder) per controller, all of one shape: a struct with the caches it reads, `new`
//! which connects changes in those caches to keys in its queue, `reconcile` which reads, plans and
//! acts, and a pure `plan` that holds the policy. The loop they run in is `client/controller.rs`.
//!
//! | controller | keeps |
//! |---|---|
//! | [`deployment`] | ReplicaSets of a Deployment, rolling from one template to the next |
//! | [`replicaset`] | pods of a ReplicaSet |
//! | [`endpointslice`] | the addresses behind each Service |
//! | [`namespace`] | an ending namespace's content going, and what every namespace has |
//! | [`garbage`] | objects going with their owners |
//! | [`node`] | taints and conditions of nodes, by their heartbeat |
//! | [`eviction`] | pods off nodes that they do not endure or that are gone |

mod claim;
mod defaults;
mod deployment;
mod endpointslice;
mod eviction;
mod garbage;
mod namespace;
mod node;
mod replicaset;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::api::{Key, Object};
use crate::client::view::View;
use crate::client::{Change, Context, Controller, Error, Work, controller};

/// What the controllers must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's authority, as PEM text, for the ConfigMap `kube-root-ca.crt` of each namespace.
    pub root_ca: String,
}

/// How long silence is borne before it has consequences.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A node whose Lease is not renewed for so long counts as unreachable.
    pub silent_node: Duration,
    /// Pods of a node that does not exist are forgotten after so long.
    pub missing_node: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silent_node: Duration::from_secs(40), missing_node: Duration::from_secs(40) }
    }
}

/// Runs all controllers until the context's token ends.
pub async fn run(context: Context, config: Config) -> Result<(), Error> {
    Box::pin(run_with(context, config, Patience::default())).await
}

/// [`run`] with other deadlines than the usual.
pub async fn run_with(context: Context, config: Config, patience: Patience) -> Result<(), Error> {
    // Followed from now on, so that a process that does not lead yet is warm when it does.
    let deployments = deployment::Deployments::new(&context);
    let sets = replicaset::ReplicaSets::new(&context);
    let slices = endpointslice::EndpointSlices::new(&context);
    let namespaces = namespace::Namespaces::new(&context);
    let defaults = defaults::Defaults::new(&context, config.root_ca);
    let garbage = garbage::Garbage::new(&context);
    let nodes = node::Nodes::new(&context, patience.silent_node);
    let evictions = eviction::Evictions::new(&context, patience.missing_node);
    let context = &context;
    let work = |term: CancellationToken| {
        let all = (
            drive(context, &deployments, term.clone()),
            drive(context, &sets, term.clone()),
            drive(context, &slices, term.clone()),
            drive(context, &namespaces, term.clone()),
            drive(context, &defaults, term.clone()),
            drive(context, &garbage, term.clone()),
            drive(context, &nodes, term.clone()),
            drive(context, &evictions, term),
        );
        Box::pin(async move {
            tokio::join!(all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7);
            Ok(())
        })
    };
    context.lead("controllers", work).await
}

/// Runs one controller until `term` ends.
async fn drive<C: Controller>(
    context: &Context,
    (controller, work): &(C, Work<C::Key>),
    term: CancellationToken,
) {
    // A picture that is not complete would show owners and pods as missing.
    if term.run_until_cancelled(context.caches.all_synced()).await.is_some() {
        controller::run(controller, work, &context.api(C::NAME), term).await;
    }
}

/// A subscriber that puts each changed object's own key into the queue.
fn work_of<T: View>(work: &Work<Key>) -> impl Fn(&Change<'_, T>) + Send + Sync + 'static {
    let work = work.clone();
    move |change| work.add(change.key.clone())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Sets counters of a status. Kubernetes leaves zeros out.
fn set_counts(object: &mut Object, counts: &[(&str, i64)]) {
    for (field, number) in counts {
        let pointer = format!("/status/{field}");
        if *number == 0 {
            object.remove(&pointer);
        } else {
            object.set(&pointer, *number);
        }
    }
}
