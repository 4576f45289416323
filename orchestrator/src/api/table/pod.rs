//! The row of a pod: above all, one word for the state it is in.
//!
//! The phase alone hides what people look for, such as a container that waits to be restarted. The
//! word is the phase unless something more telling is known: a reason of the pod, what its init
//! containers wait for, what its containers wait for or ended with, or that it is being deleted.

use jiff::Timestamp;
use serde_json::Value;

use super::{Layout, age, column, name, or_none, wide};
use crate::api::object::Object;
use crate::api::time;

pub(super) const LAYOUT: Layout = Layout {
    columns: &[
        column("Name"),
        column("Ready"),
        column("Status"),
        column("Restarts"),
        column("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let sum = Summary::of(pod);
    vec![
        name(pod),
        format!("{}/{}", sum.ready, sum.total).into(),
        sum.word(pod).into(),
        sum.restarts.text(now).into(),
        age(pod, now),
        or_none(pod.text("/status/podIPs/0/ip").or_else(|| pod.text("/status/podIP"))),
        or_none(pod.text("/spec/nodeName")),
        or_none(pod.text("/status/nominatedNodeName")),
        readiness_gates(pod).into(),
    ]
}

/// Why a pod will not run again, if that is so.
pub(super) fn finished(object: &Object) -> Option<&str> {
    let phase = object.text("/status/phase")?;
    (object.kind() == "Pod" && matches!(phase, "Succeeded" | "Failed")).then_some(phase)
}

/// Restarts and when the last one was.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let ended = status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        self.last = self.last.max(ended.and_then(time::parse));
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count > 0 => {
                format!("{} ({} ago)", self.count, time::age(last, now))
            }
            _ => self.count.to_string(),
        }
    }
}

struct Summary {
    total: usize,
    ready: usize,
    restarts: Restarts,
    reason: String,
}

fn text<'a>(status: &'a Value, pointer: &str) -> Option<&'a str> {
    status.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn flag(status: &Value, field: &str) -> bool {
    status.get(field).and_then(Value::as_bool).unwrap_or(false)
}

fn is_true(pod: &Object, condition: &str) -> bool {
    pod.condition(condition).is_some_and(|condition| condition["status"] == "True")
}

/// How a container ended, in one word.
fn ending(terminated: &Value) -> String {
    let number = |field: &str| terminated.get(field).and_then(Value::as_i64).unwrap_or(0);
    match (text(terminated, "/reason"), number("signal")) {
        (Some(reason), _) => reason.to_owned(),
        (None, 0) => format!("ExitCode:{}", number("exitCode")),
        (None, signal) => format!("Signal:{signal}"),
    }
}

impl Summary {
    fn of(pod: &Object) -> Self {
        let phase = pod.text("/status/phase").unwrap_or("");
        let mut reason = pod.text("/status/reason").filter(|reason| !reason.is_empty());
        if pod.condition("PodScheduled").is_some_and(|one| one["reason"] == "SchedulingGated") {
            reason = Some("SchedulingGated");
        }
        let mut sum = Self {
            total: pod.items("/spec/containers").len(),
            ready: 0,
            restarts: Restarts::default(),
            reason: reason.unwrap_or(phase).to_owned(),
        };
        let sidecars: Vec<&str> = pod
            .items("/spec/initContainers")
            .iter()
            .filter(|container| container["restartPolicy"] == "Always")
            .filter_map(|container| container["name"].as_str())
            .collect();
        sum.total += sidecars.len();
        let (initializing, of_sidecars) = sum.init_containers(pod, &sidecars);
        if !initializing || is_true(pod, "Initialized") {
            sum.restarts = of_sidecars;
            sum.containers(pod);
        }
        sum
    }

    /// Goes through the init containers up to the first that is not done. Answers whether one is
    /// not, and the restarts of those that run beside the containers.
    fn init_containers(&mut self, pod: &Object, sidecars: &[&str]) -> (bool, Restarts) {
        let mut of_sidecars = Restarts::default();
        let count = pod.items("/spec/initContainers").len();
        for (nth, status) in pod.items("/status/initContainerStatuses").iter().enumerate() {
            self.restarts.add(status);
            let sidecar = text(status, "/name").is_some_and(|name| sidecars.contains(&name));
            if sidecar {
                of_sidecars.add(status);
            }
            let terminated = status.pointer("/state/terminated");
            if terminated.is_some_and(|end| end["exitCode"] == 0) {
                continue;
            }
            if sidecar && flag(status, "started") {
                self.ready += usize::from(flag(status, "ready"));
                continue;
            }
            self.reason = match (terminated, text(status, "/state/waiting/reason")) {
                (Some(end), _) => format!("Init:{}", ending(end)),
                (None, Some(why)) if why != "PodInitializing" => format!("Init:{why}"),
                _ => format!("Init:{nth}/{count}"),
            };
            return (true, of_sidecars);
        }
        (false, of_sidecars)
    }

    fn containers(&mut self, pod: &Object) {
        let mut running = false;
        for status in pod.items("/status/containerStatuses").iter().rev() {
            self.restarts.add(status);
            if let Some(why) = text(status, "/state/waiting/reason") {
                why.clone_into(&mut self.reason);
            } else if let Some(end) = status.pointer("/state/terminated") {
                self.reason = ending(end);
            } else if flag(status, "ready") && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = is_true(pod, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn word<'a>(&'a self, pod: &'a Object) -> &'a str {
        if !pod.is_deleting() {
            return &self.reason;
        }
        if pod.text("/status/reason") == Some("NodeLost") {
            return "Unknown";
        }
        match pod.text("/status/phase") {
            Some("Succeeded" | "Failed") => &self.reason,
            _ => "Terminating",
        }
    }
}

fn readiness_gates(pod: &Object) -> String {
    let gates = pod.items("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter_map(|gate| gate["conditionType"].as_str());
    format!("{}/{}", open.filter(|condition| is_true(pod, condition)).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(spec: Value, status: Value, deleting: bool) -> String {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": status,
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        }
        let pod = Object::from_value(pod).expect("an object");
        let now = time::parse("2026-01-01T00:05:00Z").expect("a time");
        let cells = cells(&pod, now);
        let texts: Vec<&str> = cells[..5].iter().filter_map(Value::as_str).collect();
        texts.join(" ")
    }

    fn one() -> Value {
        json!({"containers": [{"name": "a"}]})
    }

    #[test]
    fn a_pod_is_described_in_a_word() {
        let running = json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
        ]});
        assert_eq!(shown(one(), running.clone(), false), "p 1/1 Running 0 5m");
        assert_eq!(shown(one(), running, true), "p 1/1 Terminating 0 5m");
        assert_eq!(shown(one(), json!({"phase": "Pending"}), false), "p 0/1 Pending 0 5m");
    }

    #[test]
    fn what_a_container_waits_for_or_ended_with_is_told() {
        let looping = json!({"phase": "Running", "containerStatuses": [{
            "name": "a", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:04:00Z"}},
        }]});
        assert_eq!(shown(one(), looping, false), "p 0/1 CrashLoopBackOff 3 (60s ago) 5m");
        let ended = |terminated: Value| {
            let status = json!({"phase": "Failed", "containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"terminated": terminated}},
            ]});
            shown(one(), status, true)
        };
        assert_eq!(ended(json!({"reason": "OOMKilled", "exitCode": 137})), "p 0/1 OOMKilled 0 5m");
        assert_eq!(ended(json!({"exitCode": 2})), "p 0/1 ExitCode:2 0 5m");
        assert_eq!(ended(json!({"exitCode": 137, "signal": 9})), "p 0/1 Signal:9 0 5m");
    }

    #[test]
    fn init_containers_count_first() {
        let spec = || {
            json!({
                "containers": [{"name": "a"}],
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            })
        };
        let status =
            |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses});
        let first = json!([{"name": "i", "restartCount": 0, "state": {"running": {}}}]);
        assert_eq!(shown(spec(), status(first), false), "p 0/2 Init:0/2 0 5m");
        let failed = json!([{"name": "i", "restartCount": 2, "state": {
            "terminated": {"exitCode": 1, "reason": "Error"},
        }}]);
        assert_eq!(shown(spec(), status(failed), false), "p 0/2 Init:Error 2 5m");
        let done = json!([
            {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "restartCount": 1, "started": true, "ready": true, "state": {}},
        ]);
        assert_eq!(shown(spec(), status(done), false), "p 1/2 Pending 1 5m");
    }
}
