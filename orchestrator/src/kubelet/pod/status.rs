//! What to tell the world about a pod: its `status`, from what is known now.
//!
//! Pure: times come in, and what must survive from the last status (when a condition changed, when
//! the pod started) is read from it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Map, Value, json};

use super::oci::Qos;
use super::plan::{Memory, SANDBOX, Wish, ended, initialized, newest, over};
use crate::api::time;
use crate::kubelet::shim::{ContainerPhase, ContainerState, State};

/// How long a failure to get an image is shown by its own name before it reads as waiting.
pub const FRESH_FAILURE_MS: i64 = 1_500;

/// What a status is made from.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The pod's uid.
    pub uid: &'a str,
    /// `namespace_name`.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a PodSpec,
    /// The same, as the plan reads it.
    pub wish: &'a Wish,
    /// What the shim says.
    pub state: &'a State,
    /// What the plan remembers.
    pub memory: &'a Memory,
    /// The sandbox stands.
    pub sandbox: bool,
    /// Running containers that answer their readiness probe, or have none.
    pub ready: &'a dyn Fn(&str) -> bool,
    /// Running containers that have passed their startup probe, or have none.
    pub started: &'a dyn Fn(&str) -> bool,
    /// Termination messages, by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// The pod's address, once it has one.
    pub pod_ip: Option<&'a str>,
    /// The node's address.
    pub host_ip: &'a str,
    /// The time.
    pub now_ms: i64,
}

/// The whole status. `last` is the status before this one.
pub fn status(known: &Known<'_>, last: &Value) -> Value {
    let main: Vec<Value> =
        known.spec.containers.iter().map(|one| container(known, one, false)).collect();
    let init: Vec<Value> = known
        .spec
        .init_containers
        .iter()
        .flatten()
        .map(|one| container(known, one, true))
        .collect();
    let phase = phase(known);
    let mut status = Map::new();
    status.insert("phase".into(), phase.into());
    status.insert("conditions".into(), conditions(known, phase, last).into());
    if let Some((reason, message)) = &known.memory.failed {
        status.insert("reason".into(), (*reason).into());
        status.insert("message".into(), message.as_str().into());
    }
    status.insert("hostIP".into(), known.host_ip.into());
    status.insert("hostIPs".into(), json!([{"ip": known.host_ip}]));
    if let Some(ip) = known.pod_ip {
        status.insert("podIP".into(), ip.into());
        status.insert("podIPs".into(), json!([{"ip": ip}]));
    }
    let now = time::seconds(timestamp(known.now_ms));
    let start = last.get("startTime").and_then(Value::as_str).unwrap_or(&now);
    status.insert("startTime".into(), start.into());
    if !init.is_empty() {
        status.insert("initContainerStatuses".into(), init.into());
    }
    status.insert("containerStatuses".into(), main.into());
    status.insert("qosClass".into(), Qos::of(known.spec).text().into());
    Value::Object(status)
}

/// The status of a pod this node does not run, and why.
pub fn refused(last: &Value, reason: &str, message: &str) -> Value {
    let mut status = last.as_object().cloned().unwrap_or_default();
    status.insert("phase".into(), "Pending".into());
    status.insert("reason".into(), reason.into());
    status.insert("message".into(), message.into());
    Value::Object(status)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn phase(known: &Known<'_>) -> &'static str {
    let (wish, state) = (known.wish, known.state);
    if known.memory.failed.is_some() {
        return "Failed";
    }
    if over(wish, state, known.memory) {
        let succeeded = initialized(wish, state)
            && wish.main.iter().all(|name| {
                newest(state, name)
                    .and_then(|(_, one)| ended(&one.phase))
                    .is_some_and(|(code, _)| code == 0)
            });
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    let begun = |name: &String| {
        newest(state, name)
            .is_some_and(|(_, one)| one.attempt > 0 || one.phase != ContainerPhase::Starting)
    };
    if wish.main.iter().all(begun) { "Running" } else { "Pending" }
}

fn container(known: &Known<'_>, spec: &Container, init: bool) -> Value {
    let latest = newest(known.state, &spec.name);
    let (state, last) = states(known, spec, init, latest);
    let running = latest.is_some_and(|(_, one)| one.phase == ContainerPhase::Running);
    let id = latest.map_or("", |(id, _)| id.as_str());
    let succeeded =
        latest.and_then(|(_, one)| ended(&one.phase)).is_some_and(|(code, _)| code == 0);
    let mut value = json!({
        "name": spec.name,
        "image": latest.map_or_else(|| spec.image.as_deref().unwrap_or(""), |(_, one)| &one.image),
        "imageID": latest.map_or("", |(_, one)| &one.image_id),
        "restartCount": latest.map_or(0, |(_, one)| one.attempt),
        "ready": if init { succeeded } else { running && (known.ready)(id) },
        "started": running && (known.started)(id),
        "state": state,
        "lastState": last,
    });
    if !id.is_empty() {
        value["containerID"] = container_id(known.uid, id).into();
    }
    value
}

/// The id by which the world knows a container: the node's runtime, the pod, the attempt.
pub fn container_id(uid: &str, id: &str) -> String {
    format!("orchestrator://{uid}/{id}")
}

fn states(
    known: &Known<'_>,
    spec: &Container,
    init: bool,
    latest: Option<(&String, &ContainerState)>,
) -> (Value, Value) {
    let name = spec.name.as_str();
    let waiting = |reason: &str, message: Option<&str>| {
        let mut inner = json!({"reason": reason});
        if let Some(message) = message {
            inner["message"] = message.into();
        }
        json!({"waiting": inner})
    };
    let previous = latest.and_then(|(_, one)| {
        let before = super::plan::id(name, one.attempt.checked_sub(1)?);
        let container = known.state.containers.get(&before)?;
        Some(terminated(known, &before, container))
    });
    let previous = previous.unwrap_or_else(|| json!({}));
    let failure = known.memory.waits.get(name).or_else(|| known.memory.waits.get(SANDBOX));
    let Some((id, container)) = latest else {
        return match failure {
            Some(wait) => {
                (waiting(shown_reason(wait, known.now_ms), Some(&wait.message)), json!({}))
            }
            None if !init && !initialized(known.wish, known.state) => {
                (waiting("PodInitializing", None), json!({}))
            }
            None if init => (waiting("PodInitializing", None), json!({})),
            None => (waiting("ContainerCreating", None), json!({})),
        };
    };
    match &container.phase {
        ContainerPhase::Starting => (waiting("ContainerCreating", None), previous),
        ContainerPhase::Running => {
            let started = time::seconds(timestamp(container.started_ms));
            (json!({"running": {"startedAt": started}}), previous)
        }
        ContainerPhase::Failed { .. }
        | ContainerPhase::Exited { .. }
        | ContainerPhase::Lost { .. } => {
            let end = terminated(known, id, container);
            if let Some(wait) = failure {
                return (waiting(shown_reason(wait, known.now_ms), Some(&wait.message)), end);
            }
            let crash = known.memory.crashes.get(name).filter(|crash| {
                crash.attempt == container.attempt && crash.until_ms > known.now_ms
            });
            match crash {
                Some(crash) if known.wish.deleting.is_none() && known.memory.failed.is_none() => {
                    let message = format!(
                        "back-off {} restarting failed container={name} pod={}({})",
                        span(crash.delay_ms),
                        known.name,
                        known.uid
                    );
                    (waiting("CrashLoopBackOff", Some(&message)), end)
                }
                _ => (end, previous),
            }
        }
    }
}

/// A failed pull has two names in Kubernetes: the failure, and the waiting after it.
fn shown_reason(wait: &super::plan::Wait, now: i64) -> &'static str {
    if wait.reason == "ErrImagePull" && now >= wait.failed_ms + FRESH_FAILURE_MS {
        "ImagePullBackOff"
    } else {
        wait.reason
    }
}

/// A wait as Go prints durations: `10s`, `2m40s`.
fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn terminated(known: &Known<'_>, id: &str, container: &ContainerState) -> Value {
    let (code, signal, reason, message, finished) = match &container.phase {
        ContainerPhase::Failed { message, finished_ms } => {
            (128, 0, "StartError", Some(message.clone()), *finished_ms)
        }
        ContainerPhase::Exited { code, signal, oom, finished_ms } => {
            let reason = match (code, oom) {
                (0, _) => "Completed",
                (_, true) => "OOMKilled",
                (_, false) => "Error",
            };
            (*code, *signal, reason, None, *finished_ms)
        }
        ContainerPhase::Lost { finished_ms } => {
            let message = "The container could not be located when the pod was taken over";
            (137, 0, "ContainerStatusUnknown", Some(message.to_owned()), *finished_ms)
        }
        ContainerPhase::Starting | ContainerPhase::Running => return json!({}),
    };
    let mut inner = json!({
        "exitCode": code,
        "reason": reason,
        "startedAt": time::seconds(timestamp(container.started_ms)),
        "finishedAt": time::seconds(timestamp(finished)),
        "containerID": container_id(known.uid, id),
    });
    if signal != 0 {
        inner["signal"] = signal.into();
    }
    if let Some(message) = message.or_else(|| known.messages.get(id).cloned()) {
        inner["message"] = message.into();
    }
    json!({"terminated": inner})
}

fn conditions(known: &Known<'_>, phase: &str, last: &Value) -> Vec<Value> {
    let done = phase == "Succeeded";
    let unready: Vec<&str> = known
        .spec
        .containers
        .iter()
        .map(|one| one.name.as_str())
        .filter(|name| {
            !newest(known.state, name)
                .is_some_and(|(id, one)| one.phase == ContainerPhase::Running && (known.ready)(id))
        })
        .collect();
    let initialized = initialized(known.wish, known.state) || done;
    let ready = (
        unready.is_empty(),
        match (done, phase) {
            (true, _) => ("PodCompleted", String::new()),
            (false, "Failed") => ("PodFailed", String::new()),
            _ => (
                "ContainersNotReady",
                format!("containers with unready status: [{}]", unready.join(" ")),
            ),
        },
    );
    let undone: Vec<&str> = known.wish.init.iter().map(String::as_str).collect();
    let incomplete = format!("containers with incomplete status: [{}]", undone.join(" "));
    let none = || ("", String::new());
    let wanted = [
        ("PodReadyToStartContainers", known.sandbox, none()),
        (
            "Initialized",
            initialized,
            if initialized {
                if done { ("PodCompleted", String::new()) } else { none() }
            } else {
                ("ContainersNotInitialized", incomplete)
            },
        ),
        ("Ready", ready.0, if ready.0 { none() } else { ready.1.clone() }),
        ("ContainersReady", ready.0, if ready.0 { none() } else { ready.1 }),
        ("PodScheduled", true, none()),
    ];
    let now = time::seconds(timestamp(known.now_ms));
    let old = last.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all: Vec<Value> = wanted
        .into_iter()
        .map(|(kind, on, (reason, message))| condition(&old, kind, on, reason, &message, &now))
        .collect();
    // Conditions of others (readiness gates, schedulers) are not ours to drop.
    all.extend(old.into_iter().filter(|one| {
        let kind = one.get("type").and_then(Value::as_str).unwrap_or("");
        !["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .contains(&kind)
    }));
    all
}

fn condition(old: &[Value], kind: &str, on: bool, reason: &str, message: &str, now: &str) -> Value {
    let status = if on { "True" } else { "False" };
    let before = old.iter().find(|one| one.get("type").and_then(Value::as_str) == Some(kind));
    let since = before
        .filter(|one| one.get("status").and_then(Value::as_str) == Some(status))
        .and_then(|one| one.get("lastTransitionTime"))
        .cloned()
        .unwrap_or_else(|| now.into());
    let mut value = json!({
        "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
    });
    if !reason.is_empty() {
        value["reason"] = reason.into();
    }
    if !message.is_empty() {
        value["message"] = message.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::pod::plan::{Crash, RestartPolicy, Wait};

    struct Case {
        spec: PodSpec,
        wish: Wish,
        state: State,
        memory: Memory,
    }

    fn case(restart: RestartPolicy, containers: &[(u32, ContainerPhase)]) -> Case {
        let spec = json!({"containers": [{"name": "a", "image": "testbox:v1"}]});
        let mut state = State::default();
        for (attempt, phase) in containers {
            state.containers.insert(
                format!("a-{attempt}"),
                ContainerState {
                    name: "a".into(),
                    attempt: *attempt,
                    image: "testbox:v1".into(),
                    image_id: "sha256:0".into(),
                    pid: 1,
                    started_ms: 1000,
                    phase: phase.clone(),
                },
            );
        }
        Case {
            spec: serde_json::from_value(spec).expect("a spec"),
            wish: Wish {
                init: vec![],
                main: vec!["a".into()],
                restart,
                grace_ms: 0,
                deleting: None,
                active_until_ms: None,
            },
            state,
            memory: Memory::default(),
        }
    }

    fn run(case: &Case, now_ms: i64, last: &Value) -> Value {
        status(
            &Known {
                uid: "u",
                name: "n_p",
                spec: &case.spec,
                wish: &case.wish,
                state: &case.state,
                memory: &case.memory,
                sandbox: true,
                ready: &|_| true,
                started: &|_| true,
                messages: &BTreeMap::from([("a-0".to_owned(), "bye".to_owned())]),
                pod_ip: Some("10.0.0.2"),
                host_ip: "192.0.2.1",
                now_ms,
            },
            last,
        )
    }

    fn condition_of<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| one["type"] == kind)
            .expect("is there")
    }

    fn exited(code: i32, oom: bool) -> ContainerPhase {
        ContainerPhase::Exited { code, signal: 0, oom, finished_ms: 2000 }
    }

    #[test]
    fn a_running_pod_is_ready_and_keeps_its_times() {
        let case = case(RestartPolicy::Always, &[(0, ContainerPhase::Running)]);
        let first = run(&case, 5_000, &Value::Null);
        assert_eq!(first["phase"], "Running");
        assert_eq!(first["podIP"], "10.0.0.2");
        assert_eq!(condition_of(&first, "Ready")["status"], "True");
        assert_eq!(first["containerStatuses"][0]["ready"], true);
        assert_eq!(first["containerStatuses"][0]["containerID"], "orchestrator://u/a-0");
        let second = run(&case, 60_000, &first);
        assert_eq!(second, first, "nothing changed, so nothing is written");
    }

    #[test]
    fn before_the_first_start_it_is_pending() {
        let case = case(RestartPolicy::Always, &[]);
        let status = run(&case, 0, &Value::Null);
        assert_eq!(status["phase"], "Pending");
        let state = &status["containerStatuses"][0]["state"];
        assert_eq!(state["waiting"]["reason"], "ContainerCreating");
        let ready = condition_of(&status, "Ready");
        assert_eq!(ready["message"], "containers with unready status: [a]");
    }

    #[test]
    fn a_crash_loop_says_so_and_why_it_ended() {
        let mut case =
            case(RestartPolicy::Always, &[(0, exited(1, false)), (1, exited(137, true))]);
        let crash = Crash { attempt: 1, delay_ms: 160_000, until_ms: 9_000_000 };
        case.memory.crashes.insert("a".into(), crash);
        let status = run(&case, 3_000, &Value::Null);
        let container = &status["containerStatuses"][0];
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(
            container["state"]["waiting"]["message"],
            "back-off 2m40s restarting failed container=a pod=n_p(u)"
        );
        assert_eq!(container["lastState"]["terminated"]["reason"], "OOMKilled");
        assert_eq!(container["restartCount"], 1);
        assert_eq!(status["phase"], "Running");
    }

    #[test]
    fn ended_pods_are_succeeded_or_failed() {
        let done = case(RestartPolicy::Never, &[(0, exited(0, false))]);
        let status = run(&done, 3_000, &Value::Null);
        assert_eq!(status["phase"], "Succeeded");
        assert_eq!(condition_of(&status, "Ready")["reason"], "PodCompleted");
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&end["reason"], &end["message"]), (&json!("Completed"), &json!("bye")));
        let failed = run(&case(RestartPolicy::Never, &[(0, exited(3, false))]), 0, &Value::Null);
        assert_eq!(failed["phase"], "Failed");
        let lost = ContainerPhase::Lost { finished_ms: 1 };
        let lost = run(&case(RestartPolicy::Never, &[(0, lost)]), 0, &Value::Null);
        let end = &lost["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(end["reason"], "ContainerStatusUnknown");
    }

    #[test]
    fn a_missing_image_reads_as_kubernetes_words_it() {
        let mut case = case(RestartPolicy::Always, &[]);
        let message = "no image: import it".to_owned();
        let wait = Wait { reason: "ErrImagePull", message, failed_ms: 1000, until_ms: 6000 };
        case.memory.waits.insert("a".into(), wait);
        let reason = |now| {
            run(&case, now, &Value::Null)["containerStatuses"][0]["state"]["waiting"]["reason"]
                .clone()
        };
        assert_eq!(reason(1000), "ErrImagePull");
        assert_eq!(reason(3000), "ImagePullBackOff");
    }

    #[test]
    fn conditions_of_others_stay() {
        let case = case(RestartPolicy::Always, &[]);
        let last = json!({"conditions": [{"type": "example.com/gate", "status": "True"}]});
        let status = run(&case, 0, &last);
        assert_eq!(condition_of(&status, "example.com/gate")["status"], "True");
    }
}
