//! One worker per pod: asks the plan, does what it says, tells the world, waits.
//!
//! ```text
//!  pod object ─┐                         ┌─▶ sandbox: shim, network, files of the pod
//!  shim state ─┼─▶ plan ──▶ actions ─────┼─▶ start: image, environment, volumes, container
//!  probes     ─┤                         └─▶ signal, forget, remove
//!  the clock  ─┘         └─▶ status ─────▶ the registry
//! ```
//!
//! A worker owns its pod's directory and everything made for it. It begins by adopting what it
//! finds there: a shim that lives on from a former kubelet, or the traces of one that died. It ends
//! when everything of the pod is gone.

mod probing;
mod sandbox;
mod start;
mod telling;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::watch;

use super::Shared;
use super::pod::oci::Qos;
use super::pod::plan::{
    Action, Memory, Plan, RestartPolicy, Seen, Wait, Wish, ended, newest, plan,
};
use super::pod::status::FRESH_FAILURE_MS;
use super::pod::support::unsupported;
use super::shim::{ContainerPhase, Shim, ShimError, State, Watch};
use super::volumes;
use crate::api::kinds::POD;
use crate::api::{Key, Object};
use crate::client::Severity;
use crate::registry::{DeleteOptions, Preconditions};
use probing::{Probes, Verdict};

pub(super) use sandbox::kill_shim;

/// Pauses after failed writes to the registry.
const WRITE_RETRY: Duration = Duration::from_millis(500);
/// A last message longer than this is cut.
const MESSAGE_BYTES: usize = 4096;
/// What of the log stands in for a missing last message.
const LOG_TAIL_BYTES: usize = 2048;

/// What a worker is told from outside; only the latest counts.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// The pod as the registry has it.
    pub(super) object: Arc<Object>,
    /// It has been removed there: clean up, nobody needs to be told.
    pub(super) gone: bool,
    /// The node stops and takes its pods along.
    pub(super) stop: bool,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing of the pod is left.
    Removed,
    /// The node stops; the pod is stopped and waits for the next start.
    Stopped,
    /// Nobody tells this worker anything any more; the pod is left as it is.
    Left,
}

/// A pod in a worker's care.
pub(super) struct Worker {
    shared: Arc<Shared>,
    told: watch::Receiver<Told>,
    object: Arc<Object>,
    key: Key,
    uid: String,
    pod: Pod,
    dir: PathBuf,
    cgroup: String,
    shim: Shim,
    wish: Wish,
    state: State,
    memory: Memory,
    /// The shim answers and the network is up.
    sandbox: bool,
    address: Option<Ipv4Addr>,
    watch: Option<Watch>,
    probes: Probes,
    messages: BTreeMap<String, String>,
    /// The last status that was written.
    written: Value,
    retry: bool,
}

impl Worker {
    /// Takes a pod into care. Fails if the object is no pod at all.
    pub(super) fn new(
        shared: Arc<Shared>,
        told: watch::Receiver<Told>,
    ) -> Result<Self, serde_json::Error> {
        let Told { object, gone, stop } = told.borrow().clone();
        let pod: Pod = object.typed()?;
        let uid = object.uid().to_owned();
        let spec = pod.spec.clone().unwrap_or_default();
        let dir = shared.pod_dir(&uid);
        Ok(Self {
            key: object.key(),
            cgroup: Qos::of(&spec).pod_cgroup(&shared.config.cgroup_root, &uid),
            shim: Shim::at(&dir),
            wish: wish(&object, &pod, gone || stop),
            state: State::default(),
            memory: Memory::default(),
            sandbox: false,
            address: None,
            watch: None,
            probes: Probes::default(),
            messages: BTreeMap::new(),
            written: object.get("/status").cloned().unwrap_or(Value::Null),
            retry: false,
            shared,
            told,
            object,
            uid,
            pod,
            dir,
        })
    }

    /// Runs until the pod is gone or the node stops.
    pub(super) async fn run(mut self) -> End {
        self.adopt().await;
        loop {
            let end = self.turn().await;
            if let Some(end) = end {
                if end == End::Removed {
                    self.shared.running.forget(&self.key, &self.uid);
                }
                return end;
            }
        }
    }

    /// Plans, acts, tells, waits.
    async fn turn(&mut self) -> Option<End> {
        let refusal = unsupported(self.object.get("/spec").unwrap_or(&Value::Null));
        let nothing_runs = self.state.containers.is_empty() && !self.sandbox;
        if !refusal.is_empty() && nothing_runs && self.wish.deleting.is_none() {
            self.refuse(&refusal).await;
            return self.wait(None).await;
        }
        let now = now_ms();
        let seen = self.seen();
        let planned = plan(&self.wish, &self.state, &seen, &mut self.memory, now);
        let acted = !planned.actions.is_empty();
        for action in planned.actions {
            if let Some(end) = self.act(action).await {
                return Some(end);
            }
        }
        self.learn();
        if acted {
            return None;
        }
        let stopping = self.told.borrow().stop;
        if stopping && !self.anything_runs() {
            return Some(End::Stopped);
        }
        self.tell().await;
        let plan = Plan { actions: Vec::new(), wake_ms: self.wake(planned.wake_ms, now) };
        self.wait(plan.wake_ms).await
    }

    fn anything_runs(&self) -> bool {
        self.state.containers.values().any(|one| ended(&one.phase).is_none())
    }

    fn seen(&self) -> Seen {
        let ready = self
            .written
            .get("conditions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        Seen { sandbox: self.sandbox, ready, unhealthy: self.probes.unhealthy() }
    }

    /// A fresh failure changes its name without anything happening: look again then.
    fn wake(&self, planned: Option<i64>, now: i64) -> Option<i64> {
        let renames = self
            .memory
            .waits
            .values()
            .map(|wait| wait.failed_ms + FRESH_FAILURE_MS)
            .filter(|at| *at > now);
        let retry = self.retry.then(|| now + i64::try_from(WRITE_RETRY.as_millis()).unwrap_or(500));
        renames.chain(planned).chain(retry).min()
    }

    async fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::MakeSandbox => self.make_sandbox().await,
            Action::Start { name, attempt } => self.start(&name, attempt).await,
            Action::Signal { id, signal, because } => self.signal(&id, signal, because).await,
            Action::Forget { id } => self.forget(&id).await,
            Action::ReleaseSandbox => self.release_sandbox().await,
            Action::Remove => {
                let told = self.told.borrow().clone();
                if told.stop && !told.gone && self.object.deletion_timestamp().is_none() {
                    self.rest().await;
                    return Some(End::Stopped);
                }
                return self.remove().await;
            }
        }
        None
    }

    async fn signal(&mut self, id: &str, signal: i32, because: Option<String>) {
        if let Some(why) = because {
            let name = self.state.containers.get(id).map_or(id, |one| one.name.as_str());
            self.event(Severity::Normal, "Killing", format!("{why} {name}"));
        }
        if let Err(error) = self.shim.signal(id, signal).await {
            self.shim_failed(&error).await;
        }
    }

    async fn forget(&mut self, id: &str) {
        let outcome = self.shim.forget(id).await;
        let Some(container) = self.state.containers.remove(id) else { return };
        let bundle = self.dir.join("containers").join(id);
        let log = self.log_file(&container.name, container.attempt);
        let message = volumes::message_file(&self.dir, id);
        self.messages.remove(id);
        off_thread(move || {
            let _ = std::fs::remove_dir_all(bundle);
            let _ = std::fs::remove_file(message);
            let _ = std::fs::remove_file(&log);
            for old in 1..=4 {
                let mut name = log.clone().into_os_string();
                name.push(format!(".{old}"));
                let _ = std::fs::remove_file(name);
            }
        })
        .await;
        if let Err(error) = outcome {
            self.shim_failed(&error).await;
        }
    }

    fn log_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.shared.log_dir(&self.key, &self.uid).join(container).join(format!("{attempt}.log"))
    }

    /// Brings everything derived up to what is known now.
    fn learn(&mut self) {
        let address = self.host_or_pod_address();
        self.probes.follow(&self.pod, &self.state, address);
        for (id, container) in &self.state.containers {
            let Some((code, _)) = ended(&container.phase) else { continue };
            if self.messages.contains_key(id) {
                continue;
            }
            let text = self.last_words(id, &container.name, container.attempt, code);
            self.messages.insert(id.clone(), text);
        }
        self.shared.running.publish(&self.object, &self.state);
    }

    fn host_or_pod_address(&self) -> Option<std::net::IpAddr> {
        if self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            return Some(self.shared.config.node_ip);
        }
        self.address.map(Into::into)
    }

    /// The container's termination message, or the end of its log where that is asked for.
    fn last_words(&self, id: &str, name: &str, attempt: u32, code: i32) -> String {
        let file = volumes::message_file(&self.dir, id);
        let mut text = std::fs::read(file).unwrap_or_default();
        text.truncate(MESSAGE_BYTES);
        let spec = self.pod.spec.as_ref();
        let fallback = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| container.name == name)
            .and_then(|container| container.termination_message_policy.as_deref())
            == Some("FallbackToLogsOnError");
        if text.is_empty() && fallback && code != 0 {
            return log_tail(&self.log_file(name, attempt));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until something changed or `wake` came.
    async fn wait(&mut self, wake: Option<i64>) -> Option<End> {
        let now = now_ms();
        let sleep = wake.map(|at| Duration::from_millis(u64::try_from(at - now).unwrap_or(0)));
        let shim = async {
            match &mut self.watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        let clock = async {
            match sleep {
                Some(span) => tokio::time::sleep(span).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.told.changed() => {
                if changed.is_err() {
                    return Some(End::Left);
                }
                self.hear();
            }
            state = shim => match state {
                Some(state) if state.version > self.state.version => self.state = state,
                // Sent before the state that is known already was asked for.
                Some(_) => {}
                None => self.lost().await,
            },
            Some(verdict) = self.probes.next() => self.judge(&verdict),
            () = clock => {}
        }
        None
    }

    fn hear(&mut self) {
        let told = self.told.borrow_and_update().clone();
        if told.object.resource_version() >= self.object.resource_version() {
            self.object = told.object;
            match self.object.typed() {
                Ok(pod) => self.pod = pod,
                Err(error) => tracing::error!(pod = %self.key, %error, "is no readable pod"),
            }
        }
        self.wish = wish(&self.object, &self.pod, told.gone || told.stop);
    }

    fn judge(&mut self, verdict: &Verdict) {
        if let Some(message) = &verdict.failure {
            let text = format!("{} probe failed: {message}", verdict.purpose.text());
            self.event(Severity::Warning, "Unhealthy", text);
        }
        if verdict.gave_up {
            let name = newest_name(&self.state, &verdict.id);
            let text = format!(
                "Container {name} failed {} probe, will be restarted",
                verdict.purpose.text().to_lowercase()
            );
            self.event(Severity::Normal, "Killing", text);
        }
    }

    /// Confirms the deletion once nothing is left.
    async fn remove(&mut self) -> Option<End> {
        if let Err(message) = self.dismantle().await {
            tracing::warn!(pod = %self.key, message, "the pod cannot be removed yet");
            tokio::time::sleep(WRITE_RETRY).await;
            return None;
        }
        if self.told.borrow().gone {
            return Some(End::Removed);
        }
        // The end of the containers belongs to the record of the pod.
        self.tell().await;
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Preconditions { uid: Some(self.uid.clone()), resource_version: None },
            ..DeleteOptions::default()
        };
        match self.shared.registry().delete(&self.shared.actor, &POD, &self.key, &options).await {
            Ok(_) => Some(End::Removed),
            Err(error) if error.is_not_found() || error.is_conflict() => Some(End::Removed),
            Err(error) => {
                tracing::warn!(pod = %self.key, %error, "the pod's end cannot be confirmed yet");
                tokio::time::sleep(WRITE_RETRY).await;
                None
            }
        }
    }

    /// The shim refused or is gone; the next plan sees which.
    async fn shim_failed(&mut self, error: &ShimError) {
        tracing::warn!(pod = %self.key, %error, "the shim failed");
        if matches!(error, ShimError::Gone(_)) {
            self.lost().await;
        }
    }

    fn fail(&mut self, name: &str, reason: &'static str, message: String, again_ms: i64) {
        let now = now_ms();
        let known = self.memory.waits.get(name);
        // The same failure goes on: only its next try moves.
        let failed_ms = known
            .filter(|wait| wait.reason == reason && wait.message == message)
            .map_or(now, |wait| wait.failed_ms);
        let wait = Wait { reason, message, failed_ms, until_ms: now + again_ms };
        self.memory.waits.insert(name.to_owned(), wait);
    }
}

fn newest_name<'a>(state: &'a State, id: &'a str) -> &'a str {
    state
        .containers
        .get(id)
        .and_then(|one| newest(state, &one.name))
        .map_or(id, |(_, one)| one.name.as_str())
}

/// The end of a log, as plain text.
fn log_tail(path: &std::path::Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut text = String::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(entry) = super::logs::entry(line) {
            text.push_str(&String::from_utf8_lossy(entry.text));
            if entry.full {
                text.push('\n');
            }
        }
    }
    let mut from = text.len().saturating_sub(LOG_TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

/// Reads the wishes out of a pod. `leave` asks it to go although nobody deleted it.
fn wish(object: &Object, pod: &Pod, leave: bool) -> Wish {
    let spec = pod.spec.as_ref();
    let names = |list: &[k8s_openapi::api::core::v1::Container]| {
        list.iter().map(|container| container.name.clone()).collect::<Vec<_>>()
    };
    let grace_ms = spec
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30)
        .clamp(0, i64::from(i32::MAX))
        * 1000;
    let restart = match spec.and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    };
    let deleting = object.deletion_timestamp().map(|_| {
        let grace = object.int("/metadata/deletionGracePeriodSeconds").unwrap_or(30);
        grace.clamp(0, i64::from(i32::MAX)) * 1000
    });
    let begun = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let limit = spec.and_then(|spec| spec.active_deadline_seconds);
    Wish {
        init: spec.and_then(|spec| spec.init_containers.as_deref()).map(names).unwrap_or_default(),
        main: spec.map(|spec| names(&spec.containers)).unwrap_or_default(),
        restart,
        grace_ms,
        deleting: deleting.or_else(|| leave.then_some(grace_ms)),
        active_until_ms: limit.zip(begun).map(|(seconds, begun)| {
            begun.0.as_millisecond().saturating_add(seconds.saturating_mul(1000))
        }),
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Runs blocking work on a thread of its own kind.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // A panic there is a panic here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Marks everything that ran under a dead shim.
fn mark_lost(state: &mut State) {
    for container in state.containers.values_mut() {
        if ended(&container.phase).is_none() {
            container.phase = ContainerPhase::Lost { finished_ms: now_ms() };
        }
    }
}
