//! Gives every pod a node.
//!
//! ```text
//!  caches of pods and nodes ──changes──▶ snapshot (what is free) and pending (who waits)
//!                                             │ decide: one pod, all nodes, no I/O
//!                            ┌────────────────┴───────────────┐
//!                 bind, many in flight             explain: condition and event
//! ```
//!
//! A decided pod is counted on its node at once, by assumption, so that the next decision need not
//! wait for the store. If the bind fails the assumption is taken back; if it succeeds the cache soon
//! says the same. The bind itself is a compare-and-swap (a pod is bound once), so a wrong picture
//! costs a retry and never a pod in two places.
//!
//! What a pod can ask for and is not built here (affinity between pods, hard topology spread) keeps
//! it Pending with an event that names it. Preemption is not built: a pod of high priority goes
//! first when there is room and makes none.

pub mod decide;
pub mod pending;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decide::{Waiting, decide};
use self::pending::{Change as Help, Pending};
use self::snapshot::Snapshot;
use crate::api::Object;
use crate::api::kinds::POD;
use crate::client::condition::{Say, say};
use crate::client::view::{Node, ObjectRef, Pod};
use crate::client::{Api, Cache, Change, Context, Error, Severity};
use crate::registry::Part;

/// Pods whose `schedulerName` is another are left to that scheduler.
const NAME: &str = "default-scheduler";
/// Binds and explanations on their way to the store.
const IN_FLIGHT_MAX: usize = 256;

/// Runs the scheduler until the context's token ends.
pub async fn run(context: Context) -> Result<(), Error> {
    let scheduler = Scheduler::new(&context);
    context.lead("scheduler", |term| Box::pin(scheduler.work(term))).await
}

struct Scheduler {
    api: Api,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    state: Arc<Mutex<State>>,
    woken: Arc<Notify>,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    pending: Pending,
}

/// A decision on its way to the store.
enum Act {
    Bind(Arc<Pod>, String),
    Explain(Arc<Pod>, Waiting),
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic inside is a bug that the log shows; the tables themselves are changed step by step
    // and are corrected by the next change of the same pod or node.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scheduler {
    /// Follows the caches from now on: a scheduler that does not lead yet is warm when it does.
    fn new(context: &Context) -> Self {
        let scheduler = Self {
            api: context.api("kube-scheduler"),
            pods: context.caches.get(),
            nodes: context.caches.get(),
            state: Arc::default(),
            woken: Arc::default(),
        };
        let (state, woken) = (Arc::clone(&scheduler.state), Arc::clone(&scheduler.woken));
        scheduler.nodes.subscribe(move |change| {
            lock(&state).node_changed(change, Instant::now());
            woken.notify_one();
        });
        let (state, woken) = (Arc::clone(&scheduler.state), Arc::clone(&scheduler.woken));
        scheduler.pods.subscribe(move |change| {
            lock(&state).pod_changed(change, Instant::now());
            woken.notify_one();
        });
        scheduler
    }

    async fn work(&self, stop: CancellationToken) -> Result<(), Error> {
        let synced = async { tokio::join!(self.nodes.synced(), self.pods.synced()) };
        if stop.run_until_cancelled(synced).await.is_none() {
            return Ok(());
        }
        self.recover();
        let mut acts = FuturesUnordered::new();
        loop {
            while acts.len() < IN_FLIGHT_MAX {
                let Some(act) = self.next_act() else { break };
                acts.push(self.act(act));
                // Starts it, and takes leave of those that are done.
                while let Some(Some(())) = acts.next().now_or_never() {}
                tokio::task::yield_now().await;
            }
            let wake = lock(&self.state).pending.wake_at().filter(|_| acts.len() < IN_FLIGHT_MAX);
            let alarm = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.woken.notified() => {}
                () = alarm => {}
                Some(()) = acts.next(), if !acts.is_empty() => {}
            }
        }
    }

    /// Takes back what an earlier term of leadership assumed and did not finish.
    fn recover(&self) {
        let mut state = lock(&self.state);
        for key in state.pending.recover() {
            if let Some(pod) = self.pods.get(&key).filter(|pod| pod.node.is_empty()) {
                state.snapshot.remove_pod(&pod.meta.uid);
            }
        }
    }

    /// Decides the next pod.
    fn next_act(&self) -> Option<Act> {
        let now = Instant::now().into_std();
        let mut state = lock(&self.state);
        let state = &mut *state;
        loop {
            let key = state.pending.pop(now)?;
            let Some(pod) = self.pods.get(&key).filter(|pod| wants_node(pod)) else {
                state.pending.remove(&key);
                continue;
            };
            match decide(&state.snapshot, &pod) {
                Ok(slot) => {
                    let node = state.snapshot.names[slot].clone();
                    state.snapshot.place(&pod, &node);
                    return Some(Act::Bind(pod, node));
                }
                Err(why) => {
                    state.pending.waits(&key, why.clone(), now);
                    return Some(Act::Explain(pod, why));
                }
            }
        }
    }

    async fn act(&self, act: Act) {
        match act {
            Act::Bind(pod, node) => self.bind(&pod, &node).await,
            Act::Explain(pod, why) => self.explain(&pod, &why).await,
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) {
        let key = pod.meta.key();
        match self.api.bind(&key, &pod.meta.uid, node).await {
            Ok(_) => {
                lock(&self.state).pending.remove(&key);
                let message = format!("Successfully assigned {key} to {node}");
                self.api.report(&ObjectRef::to(pod), Severity::Normal, "Scheduled", message);
            }
            Err(error) => {
                tracing::debug!(pod = %key, node, %error, "not bound");
                let mut state = lock(&self.state);
                match self.pods.get(&key).filter(|now| now.meta.uid == pod.meta.uid) {
                    // It is bound after all, by a write whose answer was lost or by somebody else.
                    Some(now) if !now.node.is_empty() => state.snapshot.place(&now, &now.node),
                    _ => {
                        state.snapshot.remove_pod(&pod.meta.uid);
                    }
                }
                state.pending.failed(&key, Instant::now().into_std());
                self.woken.notify_one();
            }
        }
    }

    /// Says on the pod and in an event why it waits.
    async fn explain(&self, pod: &Pod, why: &Waiting) {
        let message = why.to_string();
        let reason = match why {
            Waiting::Gated(_) => "SchedulingGated",
            Waiting::Nodes { .. } | Waiting::Unsupported(_) => "Unschedulable",
        };
        let says_so = pod.condition("PodScheduled").is_some_and(|one| {
            one.status == "False" && one.reason == reason && one.message == message
        });
        if reason == "Unschedulable" {
            let about = ObjectRef::to(pod);
            self.api.report(&about, Severity::Warning, "FailedScheduling", message.clone());
        }
        if says_so {
            return;
        }
        let now = self.api.now();
        let what = Say { kind: "PodScheduled", status: "False", reason, message: &message };
        let change = |object: &mut Object| {
            if object.uid() == pod.meta.uid
                && object.text("/spec/nodeName").is_none_or(str::is_empty)
            {
                say(object, what, now);
            }
            Ok(())
        };
        let key = pod.meta.key();
        let written = self.api.modify(&POD, &key, Part::Status, change).await;
        if let Err(error) = written {
            tracing::debug!(pod = %key, %error, "the reason for waiting is not written");
        }
    }
}

impl State {
    fn node_changed(&mut self, change: &Change<'_, Node>, now: Instant) {
        let helps = match change.new {
            Some(node) => self.snapshot.set_node(node),
            None => {
                self.snapshot.remove_node(&change.key.name);
                false
            }
        };
        if helps {
            self.pending.wake(Help::Nodes, now.into_std());
        }
    }

    fn pod_changed(&mut self, change: &Change<'_, Pod>, now: Instant) {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && old.meta.uid != new.meta.uid
        {
            self.snapshot.remove_pod(&old.meta.uid);
        }
        let Some(pod) = change.new.filter(|pod| !pod.is_terminal()) else {
            self.pending.remove(change.key);
            if self.snapshot.remove_pod(&change.latest().meta.uid) {
                self.pending.wake(Help::Room, now.into_std());
            }
            return;
        };
        if !pod.node.is_empty() {
            self.pending.remove(change.key);
            self.snapshot.place(pod, &pod.node);
        } else if !wants_node(pod) {
            self.pending.remove(change.key);
        } else if change.old.is_none_or(|old| wishes_differ(old, pod)) {
            self.pending.add(change.key, pod.priority);
        }
    }
}

/// The pod is ours to place.
fn wants_node(pod: &Pod) -> bool {
    pod.node.is_empty() && pod.is_active() && (pod.scheduler.is_empty() || pod.scheduler == NAME)
}

/// Something changed that a decision depends on. Status changes, our own among them, do not count.
fn wishes_differ(old: &Pod, new: &Pod) -> bool {
    old.meta.uid != new.meta.uid
        || !wants_node(old)
        || old.gates != new.gates
        || old.tolerations != new.tolerations
        || old.node_selector != new.node_selector
        || old.affinity != new.affinity
        || old.hard_spread != new.hard_spread
        || old.requests != new.requests
}
