//! The scheduler's decisions: in words for the cases people meet, and against a naive scheduler
//! written from the documentation for everything else.
//!
//! The naive one keeps nothing: it adds up from lists of nodes and pods each time it is asked. After
//! any series of changes (nodes come, change and go, pods are placed, moved and removed) both must
//! name the same node, or the same reasons.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::decide::{Waiting, decide};
use super::snapshot::Snapshot;
use crate::client::view::{Effect, Node, Pod};

fn node(name: &str, facts: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "2Gi", "pods": "4"}},
    });
    json_patch::merge(&mut value, &facts);
    serde_json::from_value(value).expect("a valid node")
}

fn pod(name: &str, facts: Value) -> Pod {
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
    });
    json_patch::merge(&mut value, &facts);
    serde_json::from_value(value).expect("a valid pod")
}

fn asks(resources: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": resources}}]}})
}

fn snapshot(nodes: &[Node], placed: &[(&Pod, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    for (pod, node) in placed {
        snapshot.place(pod, node);
    }
    snapshot
}

/// The chosen node's name, or the reason in words.
fn told(snapshot: &Snapshot, pod: &Pod) -> String {
    match decide(snapshot, pod) {
        Ok(slot) => snapshot.names[slot].clone(),
        Err(waiting) => waiting.to_string(),
    }
}

#[test]
fn reasons_are_upstreams_words() {
    let big = pod("big", asks(json!({"cpu": "8", "memory": "8Gi", "example.com/gpu": "1"})));
    let tainted =
        json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let cases = [
        (vec![], pod("p", json!({})), "no nodes available to schedule pods"),
        (
            vec![node("a", json!({}))],
            big,
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, \
             1 Insufficient memory.",
        ),
        (
            vec![
                node("a", tainted),
                node("b", json!({"spec": {"unschedulable": true}})),
                node("c", json!({})),
            ],
            pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}})),
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
             1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable.",
        ),
        (
            vec![node("a", json!({"status": {"allocatable": {"pods": "0"}}}))],
            pod("p", json!({})),
            "0/1 nodes are available: 1 Too many pods.",
        ),
        (
            vec![node("a", json!({}))],
            pod("p", json!({"spec": {"schedulingGates": [{"name": "later"}]}})),
            "Scheduling is blocked due to non-empty scheduling gates: later",
        ),
        (
            vec![node("a", json!({}))],
            pod(
                "p",
                json!({"spec": {"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}}}),
            ),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution is not \
             supported by this scheduler",
        ),
    ];
    for (nodes, pod, expected) in cases {
        assert_eq!(told(&snapshot(&nodes, &[]), &pod), expected);
    }
}

#[test]
fn host_ports_are_taken_once_per_node() {
    let with_port = |name, ip: &str| {
        let port = json!({"containerPort": 80, "hostPort": 80, "hostIP": ip});
        pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
    };
    let nodes = [node("a", json!({}))];
    let first = with_port("first", "10.0.0.1");
    let state = snapshot(&nodes, &[(&first, "a")]);
    assert_eq!(told(&state, &with_port("other-address", "10.0.0.2")), "a");
    assert_eq!(
        told(&state, &with_port("all-addresses", "")),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    );
}

#[test]
fn siblings_spread_and_equals_go_by_name() {
    let owner = json!({"metadata": {"ownerReferences": [{"uid": "set", "controller": true}]}});
    let nodes = [node("c", json!({})), node("a", json!({})), node("b", json!({}))];
    let mut state = snapshot(&nodes, &[]);
    let mut order = Vec::new();
    for nth in 0..6 {
        let pod = pod(&format!("p{nth}"), owner.clone());
        let slot = decide(&state, &pod).expect("there is room");
        let name = state.names[slot].clone();
        state.place(&pod, &name);
        order.push(name);
    }
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn wishes_outweigh_free_room() {
    let labelled = node("a", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let nodes = [labelled, node("b", json!({}))];
    let busy = pod("busy", json!({}));
    let state = snapshot(&nodes, &[(&busy, "a")]);
    assert_eq!(told(&state, &pod("plain", json!({}))), "b");
    let term = json!({"weight": 100, "preference": {"matchExpressions": [
        {"key": "disk", "operator": "In", "values": ["ssd"]}]}});
    let picky = pod(
        "picky",
        json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
    );
    assert_eq!(told(&state, &picky), "a");
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

fn random_node(dice: &mut Dice, name: &str) -> Node {
    let mut facts = json!({"status": {"allocatable": {
        "cpu": format!("{}", 1 + dice.roll(4)),
        "memory": format!("{}Gi", 1 + dice.roll(4)),
        "pods": format!("{}", 2 + dice.roll(6)),
        "example.com/gpu": format!("{}", dice.roll(2)),
    }}});
    if dice.one_in(2) {
        facts["metadata"]["labels"]["disk"] = if dice.one_in(2) { "ssd" } else { "hdd" }.into();
    }
    if dice.one_in(3) {
        let effect = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
            [usize::try_from(dice.roll(3)).expect("small")];
        facts["spec"]["taints"] = json!([{"key": "t", "value": "v", "effect": effect}]);
    }
    facts["spec"]["unschedulable"] = dice.one_in(8).into();
    node(name, facts)
}

fn random_pod(dice: &mut Dice, name: &str) -> Pod {
    let mut requests = json!({});
    if dice.one_in(2) {
        requests["cpu"] = format!("{}m", 100 * dice.roll(12)).into();
    }
    if dice.one_in(2) {
        requests["memory"] = format!("{}Mi", 128 * dice.roll(8)).into();
    }
    if dice.one_in(6) {
        requests["example.com/gpu"] = "1".into();
    }
    let mut facts = asks(requests);
    if dice.one_in(5) {
        facts["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 1, "hostPort": 80 + dice.roll(2)}]);
    }
    if dice.one_in(4) {
        facts["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    }
    if dice.one_in(3) {
        facts["spec"]["tolerations"] = json!([{"key": "t", "operator": "Exists"}]);
    }
    let owner = dice.roll(4);
    if owner > 0 {
        facts["metadata"]["ownerReferences"] =
            json!([{"uid": format!("o{owner}"), "controller": true}]);
    }
    let hdd =
        json!({"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]});
    if dice.one_in(5) {
        facts["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [hdd]});
    } else if dice.one_in(3) {
        facts["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 1 + dice.roll(9), "preference": hdd}]);
    }
    pod(name, facts)
}

/// The naive scheduler's whole state.
#[derive(Default)]
struct Naive {
    nodes: BTreeMap<String, Node>,
    placed: BTreeMap<String, (Pod, String)>,
}

impl Naive {
    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.placed.values().filter(move |(_, at)| at == node).map(|(pod, _)| pod)
    }

    fn allocatable(node: &Node, resource: &str) -> i64 {
        let text = node.status.allocatable.get(resource).map_or("0", String::as_str);
        match resource {
            "cpu" => crate::client::view::milli(text),
            _ => crate::client::view::whole(text),
        }
    }

    fn asked(pod: &Pod, resource: &str) -> i64 {
        match resource {
            "cpu" => pod.requests.cpu_milli,
            "memory" => pod.requests.memory,
            other => pod.requests.extended.get(other).copied().unwrap_or(0),
        }
    }

    fn tolerates(pod: &Pod, taint: &crate::client::view::Taint) -> bool {
        pod.tolerations.iter().any(|one| one.key == taint.key)
    }

    fn reasons(&self, name: &str, pod: &Pod) -> Vec<String> {
        let node = &self.nodes[name];
        if node.spec.unschedulable {
            return vec!["node(s) were unschedulable".into()];
        }
        for taint in &node.spec.taints {
            if taint.effect != Effect::PreferNoSchedule && !Self::tolerates(pod, taint) {
                return vec!["node(s) had untolerated taint {t: v}".into()];
            }
        }
        let disk = node.meta.labels.get("disk").map(String::as_str);
        let needs_hdd = pod.affinity.node_affinity.required.is_some();
        if (!pod.node_selector.is_empty() && disk != Some("ssd"))
            || (needs_hdd && disk == Some("ssd"))
        {
            return vec!["node(s) didn't match Pod's node affinity/selector".into()];
        }
        let host_port = |pod: &Pod| pod.containers[0].ports.first().map(|one| one.host_port);
        if let Some(port) = host_port(pod)
            && self.on(name).any(|other| host_port(other) == Some(port))
        {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        let mut reasons = Vec::new();
        if self.on(name).count() as i64 >= Self::allocatable(node, "pods") {
            reasons.push("Too many pods".to_owned());
        }
        for resource in ["cpu", "memory", "example.com/gpu"] {
            let used: i64 = self.on(name).map(|other| Self::asked(other, resource)).sum();
            let wanted = Self::asked(pod, resource);
            if wanted > 0 && used + wanted > Self::allocatable(node, resource) {
                reasons.push(format!("Insufficient {resource}"));
            }
        }
        reasons
    }

    /// Parts of the score that do not depend on other nodes, and three that do.
    fn parts(&self, name: &str, pod: &Pod) -> (i64, i64, i64, i64) {
        let node = &self.nodes[name];
        let or = |amount: i64, least: i64| if amount == 0 { least } else { amount };
        let shares: Vec<(i64, i64)> = [("cpu", 100), ("memory", 200 << 20)]
            .into_iter()
            .map(|(resource, least)| {
                let all = self.on(name).chain([pod]);
                let used: i64 = all.map(|one| or(Self::asked(one, resource), least)).sum();
                (used, Self::allocatable(node, resource))
            })
            .collect();
        let free = |(used, all): (i64, i64)| if used > all { 0 } else { (all - used) * 100 / all };
        let full = |(used, all): (i64, i64)| (used * 100 / all).min(100);
        let least = (free(shares[0]) + free(shares[1])) / 2;
        let balanced = 100 - (full(shares[0]) - full(shares[1])).abs() / 2;
        let soft = node.spec.taints.iter().filter(|taint| {
            taint.effect == Effect::PreferNoSchedule && !Self::tolerates(pod, taint)
        });
        let preferred = &pod.affinity.node_affinity.preferred;
        let ssd = node.meta.labels.get("disk").is_some_and(|disk| disk == "ssd");
        let liked = preferred.iter().map(|term| if ssd { 0 } else { term.weight }).sum();
        let owner = pod.meta.controller().map(|owner| &owner.uid);
        let sibling =
            |other: &&Pod| owner.is_some() && other.meta.controller().map(|one| &one.uid) == owner;
        (least + balanced, soft.count() as i64, liked, self.on(name).filter(sibling).count() as i64)
    }

    fn told(&self, pod: &Pod) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut feasible = Vec::new();
        for name in self.nodes.keys() {
            let reasons = self.reasons(name, pod);
            if reasons.is_empty() {
                feasible.push(name);
            }
            reasons.into_iter().for_each(|reason| *counts.entry(reason).or_insert(0) += 1);
        }
        let parts: Vec<_> = feasible.iter().map(|name| self.parts(name, pod)).collect();
        let most =
            |part: fn(&(i64, i64, i64, i64)) -> i64| parts.iter().map(part).max().unwrap_or(0);
        let (taints, liked, siblings) = (most(|one| one.1), most(|one| one.2), most(|one| one.3));
        let share = |part: i64, whole: i64| if whole == 0 { 0 } else { part * 100 / whole };
        let best = feasible.iter().zip(&parts).max_by_key(|(name, part)| {
            let score = part.0
                + 3 * (100 - share(part.1, taints))
                + 2 * share(part.2, liked)
                + 2 * (100 - share(part.3, siblings));
            let crowd = std::cmp::Reverse(self.on(name).count());
            (score, crowd, std::cmp::Reverse(name.as_str()))
        });
        if let Some((name, _)) = best {
            return (*name).clone();
        }
        if self.nodes.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut texts: Vec<_> =
            counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        format!("0/{} nodes are available: {}.", self.nodes.len(), texts.join(", "))
    }
}

#[test]
fn it_decides_as_the_naive_scheduler_does() {
    for seed in 1..=300 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let (mut state, mut naive) = (Snapshot::default(), Naive::default());
        for step in 0..60 {
            let name = format!("n{}", dice.roll(5));
            match dice.roll(10) {
                0..=1 => {
                    let node = random_node(&mut dice, &name);
                    state.set_node(&node);
                    naive.nodes.insert(name, node);
                }
                2 => {
                    state.remove_node(&name);
                    naive.nodes.remove(&name);
                }
                3 => {
                    if let Some(uid) = naive.placed.keys().next().cloned() {
                        assert!(state.remove_pod(&uid));
                        naive.placed.remove(&uid);
                    }
                }
                // The store says a pod is where nobody assumed it, known node or not.
                4 => {
                    let nth = dice.roll(step + 1);
                    let pod = random_pod(&mut dice, &format!("p{nth}"));
                    if pod.containers[0].ports.is_empty() {
                        state.place(&pod, &name);
                        naive.placed.insert(pod.meta.uid.clone(), (pod, name));
                    }
                }
                _ => {
                    let pod = random_pod(&mut dice, &format!("p{step}"));
                    let answer = told(&state, &pod);
                    assert_eq!(answer, naive.told(&pod), "seed {seed} step {step}");
                    if naive.nodes.contains_key(&answer) {
                        state.place(&pod, &answer);
                        naive.placed.insert(pod.meta.uid.clone(), (pod, answer));
                    }
                }
            }
        }
        // Everything can be taken back to nothing.
        naive.placed.keys().for_each(|uid| assert!(state.remove_pod(uid)));
        naive.nodes.keys().for_each(|name| state.remove_node(name));
        assert!(state.cpu.used.iter().chain(&state.pods.used).all(|used| *used == 0));
        assert_eq!(state.nodes().count(), 0);
    }
}

#[test]
fn what_could_help_depends_on_the_reason() {
    let full =
        decide(&snapshot(&[node("a", json!({}))], &[]), &pod("p", asks(json!({"cpu": "9"}))));
    assert!(full.is_err_and(|why| why.wants_room() && why.wants_nodes()));
    let alone = Waiting::Gated(vec!["g".into()]);
    assert!(!alone.wants_room() && !alone.wants_nodes());
}
