//! The probes of one pod's running containers: a task per container, and what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::super::pod::plan::newest;
use super::super::probes::{Gauge, Purpose, ask, of, timing};
use super::super::shim::{ContainerPhase, State};

/// Verdicts that wait to be read by the worker.
const VERDICTS: usize = 16;

/// What a probe found.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The container's id.
    pub(super) id: String,
    /// Which probe.
    pub(super) purpose: Purpose,
    /// The changed verdict, if this answer changed it.
    changed: Option<bool>,
    /// What was wrong with the answer.
    pub(super) failure: Option<String>,
    /// The container has to be restarted for it.
    pub(super) gave_up: bool,
}

/// All probes of a pod.
pub(super) struct Probes {
    tasks: JoinSet<()>,
    asked: BTreeMap<String, Asked>,
    sender: mpsc::Sender<Verdict>,
    verdicts: mpsc::Receiver<Verdict>,
}

struct Asked {
    task: Option<AbortHandle>,
    ready: bool,
    started: bool,
    unhealthy: Option<String>,
}

impl Default for Probes {
    fn default() -> Self {
        let (sender, verdicts) = mpsc::channel(VERDICTS);
        Self { tasks: JoinSet::new(), asked: BTreeMap::new(), sender, verdicts }
    }
}

impl Probes {
    /// Asks every running container, and nobody else.
    pub(super) fn follow(&mut self, pod: &Pod, state: &State, address: Option<IpAddr>) {
        let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
        let running: BTreeMap<&String, &Container> = containers
            .filter_map(|container| {
                let (id, one) = newest(state, &container.name)?;
                (one.phase == ContainerPhase::Running).then_some((id, container))
            })
            .collect();
        self.asked.retain(|id, asked| {
            let keep = running.contains_key(id);
            if !keep && let Some(task) = &asked.task {
                task.abort();
            }
            keep
        });
        // Reap what was aborted.
        while self.tasks.try_join_next().is_some() {}
        for (id, container) in running {
            if self.asked.contains_key(id) {
                continue;
            }
            let has = |purpose| of(container, purpose).is_some();
            let any = has(Purpose::Startup) || has(Purpose::Readiness) || has(Purpose::Liveness);
            let task = match address {
                Some(address) if any => {
                    let asking = probe(id.clone(), container.clone(), address, self.sender.clone());
                    Some(self.tasks.spawn(asking))
                }
                _ => None,
            };
            let asked = Asked {
                task,
                ready: !has(Purpose::Readiness),
                started: !has(Purpose::Startup),
                unhealthy: None,
            };
            self.asked.insert(id.clone(), asked);
        }
    }

    /// Whether traffic may be sent to the container.
    pub(super) fn ready(&self, id: &str) -> bool {
        self.asked.get(id).is_some_and(|asked| asked.ready && asked.started)
    }

    /// Whether the container has come up.
    pub(super) fn started(&self, id: &str) -> bool {
        self.asked.get(id).is_some_and(|asked| asked.started)
    }

    /// Containers that have to be restarted, and why.
    pub(super) fn unhealthy(&self) -> BTreeMap<String, String> {
        self.asked
            .iter()
            .filter_map(|(id, asked)| Some((id.clone(), asked.unhealthy.clone()?)))
            .collect()
    }

    /// The next verdict, already taken into account. Never ends.
    pub(super) async fn next(&mut self) -> Option<Verdict> {
        let verdict = self.verdicts.recv().await?;
        if let Some(asked) = self.asked.get_mut(&verdict.id) {
            match (verdict.purpose, verdict.changed) {
                (Purpose::Readiness, Some(good)) => asked.ready = good,
                (Purpose::Startup, Some(true)) => asked.started = true,
                (Purpose::Startup | Purpose::Liveness, Some(false)) => {
                    let why = format!("Container failed {} probe", verdict.purpose.text());
                    asked.unhealthy = Some(why.to_lowercase());
                }
                (Purpose::Liveness, Some(true)) | (_, None) => {}
            }
        }
        Some(verdict)
    }
}

/// Asks one container for as long as it runs: startup first, then readiness and liveness.
async fn probe(id: String, container: Container, address: IpAddr, verdicts: mpsc::Sender<Verdict>) {
    let asking = |purpose| repeat(&id, &container, address, purpose, &verdicts);
    if of(&container, Purpose::Startup).is_some() && !asking(Purpose::Startup).await {
        return;
    }
    let purposes: BTreeSet<Purpose> = [Purpose::Readiness, Purpose::Liveness]
        .into_iter()
        .filter(|purpose| of(&container, *purpose).is_some())
        .collect();
    futures_util::future::join_all(purposes.into_iter().map(asking)).await;
}

/// Asks for one purpose, again and again; a startup probe ends with its verdict, which is returned.
async fn repeat(
    id: &str,
    container: &Container,
    address: IpAddr,
    purpose: Purpose,
    verdicts: &mpsc::Sender<Verdict>,
) -> bool {
    let Some(probe) = of(container, purpose) else { return true };
    let timing = timing(probe);
    let mut gauge = Gauge::new(probe);
    tokio::time::sleep(timing.initial_delay).await;
    let mut first = true;
    loop {
        let answer = ask(probe, container, address).await;
        let good = answer.is_ok();
        let changed = gauge.take(good);
        let gave_up = changed == Some(false) && purpose != Purpose::Readiness;
        let failure = answer.err();
        // A program that does not listen yet is no news; its first success comes soon after.
        let quiet =
            first && failure.is_some() && purpose == Purpose::Readiness && changed.is_none();
        if (changed.is_some() || failure.is_some()) && !quiet {
            let verdict = Verdict { id: id.to_owned(), purpose, changed, failure, gave_up };
            if verdicts.send(verdict).await.is_err() {
                return false;
            }
        }
        if purpose == Purpose::Startup
            && let Some(verdict) = changed
        {
            return verdict;
        }
        // Readiness is asked faster until the first success: a rollout waits for it.
        let eager = purpose != Purpose::Liveness && first && !good;
        first &= !good;
        let pause = if eager { timing.period.min(EAGER) } else { timing.period };
        tokio::time::sleep(pause).await;
    }
}

/// Between questions while nothing has ever answered.
const EAGER: std::time::Duration = std::time::Duration::from_millis(250);
