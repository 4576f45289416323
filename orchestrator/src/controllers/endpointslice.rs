//! Keeps the addresses behind each Service, for whoever routes to it.
//!
//! Pods that a Service selects and that have an address become endpoints: *serving* while they are
//! ready, *terminating* while they are on their way out, and *ready* only when serving and not
//! terminating, so that a pod that is told to stop gets no new connections from the very write that
//! tells it. Pods whose named ports resolve differently share a slice with their like; a slice holds
//! at most a hundred endpoints and keeps those it has, so that one change writes one slice.
//!
//! A Service without a selector is its user's own business, and so are slices managed by others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::work_of;
use crate::api::kinds::ENDPOINT_SLICE;
use crate::api::{Key, Object};
use crate::client::api::exactly;
use crate::client::view::{
    EndpointSlice, Index, ObjectRef, Pod, SERVICE_NAME_LABEL, Selector, Service, ServicePort,
    TargetPort,
};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Work};
use crate::registry::Part;

/// Endpoints of one slice, as upstream.
const SLICE_MAX: usize = 100;
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// See the module's text.
pub(super) struct EndpointSlices {
    services: Cache<Service>,
    pods: Cache<Pod>,
    slices: Cache<EndpointSlice>,
}

impl EndpointSlices {
    pub(super) fn new(context: &Context) -> (Self, Work<Key>) {
        let work = Work::default();
        let this = Self {
            services: context.caches.get(),
            pods: context.caches.get(),
            slices: context.caches.get(),
        };
        this.services.subscribe(work_of(&work));
        let (queue, services) = (work.clone(), this.services.clone());
        this.pods.subscribe(move |change| {
            for service in services.in_namespace(&change.latest().meta.namespace) {
                let concerns = |pod: &Arc<Pod>| selects(&service, pod) && !pod.addresses.is_empty();
                if change.sides().any(concerns) {
                    queue.add(service.meta.key());
                }
            }
        });
        let queue = work.clone();
        this.slices.subscribe(move |change| {
            for slice in change.sides() {
                if let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) {
                    queue.add(Key::namespaced(&slice.meta.namespace, service));
                }
            }
        });
        (this, work)
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = &service.spec.selector;
    let selector = Selector { match_labels: labels.clone(), ..Selector::default() };
    !labels.is_empty() && selector.matches(&pod.meta.labels)
}

impl Controller for EndpointSlices {
    type Key = Key;
    const NAME: &'static str = "endpointslice-controller";

    fn keys(&self) -> Vec<Key> {
        self.services.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(service) = self.services.get(key) else { return Ok(Next::Await) };
        let foreign = service.spec.selector.is_empty() || service.spec.kind == "ExternalName";
        if foreign || service.meta.is_deleting() {
            return Ok(Next::Await);
        }
        let mut pods = self.pods.in_namespace(&service.meta.namespace);
        pods.retain(|pod| selects(&service, pod));
        let slices = self.slices.by(Index::Service, &key.to_string());
        let actions = plan(&service, &pods, &slices);
        let writes = actions.into_iter().map(|action| carry_out(action, api));
        try_join_all(writes).await?;
        Ok(Next::Await)
    }
}

/// What a slice is to hold.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    address_type: &'static str,
    labels: BTreeMap<String, String>,
    endpoints: Vec<Value>,
    ports: Value,
}

/// One write.
#[derive(Debug)]
enum Action {
    Create(Value),
    Change(Arc<EndpointSlice>, Content),
    Delete(Arc<EndpointSlice>),
}

/// The policy. `pods` are the selected ones, `slices` those that name the Service.
fn plan(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let families = &service.spec.ip_families;
    let mut actions = Vec::new();
    for family in ["IPv4", "IPv6"] {
        let wanted =
            families.iter().any(|one| one == family) || (families.is_empty() && family == "IPv4");
        let own = slices.iter().filter(|slice| {
            slice.address_type == family
                && slice.meta.labels.get(MANAGED_BY_LABEL).is_some_and(|name| name == MANAGER)
        });
        let own: Vec<&Arc<EndpointSlice>> = own.collect();
        if wanted {
            plan_family(service, family, pods, own, &mut actions);
        } else {
            actions.extend(own.into_iter().cloned().map(Action::Delete));
        }
    }
    actions
}

fn plan_family(
    service: &Service,
    family: &'static str,
    pods: &[Arc<Pod>],
    own: Vec<&Arc<EndpointSlice>>,
    actions: &mut Vec<Action>,
) {
    let mut groups = grouped(service, family, pods);
    if groups.is_empty() {
        // One empty slice says that somebody looked and found nothing.
        groups.insert(String::new(), (json!([]), BTreeMap::new()));
    }
    let labels = labels(service);
    let mut spare: VecDeque<&Arc<EndpointSlice>> = VecDeque::new();
    let mut of_group: BTreeMap<String, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in own {
        let ports = Value::from(slice.ports.clone()).to_string();
        match groups.keys().find(|group| **group == ports) {
            Some(group) => of_group.entry(group.clone()).or_default().push(slice),
            None => spare.push_back(slice),
        }
    }
    for (group, (ports, endpoints)) in groups {
        let present = of_group.remove(&group).unwrap_or_default();
        let filled = fill(&present, endpoints);
        let mut present = present.into_iter();
        for endpoints in filled {
            let content = Content {
                address_type: family,
                labels: labels.clone(),
                endpoints,
                ports: ports.clone(),
            };
            match present.next().or_else(|| spare.pop_front()) {
                None => actions.push(Action::Create(create(service, &content))),
                Some(slice) if holds(slice, &content) => {}
                Some(slice) => actions.push(Action::Change(Arc::clone(slice), content)),
            }
        }
        spare.extend(present);
    }
    actions.extend(spare.into_iter().cloned().map(Action::Delete));
}

type Endpoints = BTreeMap<String, Value>;

/// The endpoints of one address family, apart by the ports they resolve to, each by its address.
fn grouped(
    service: &Service,
    family: &str,
    pods: &[Arc<Pod>],
) -> BTreeMap<String, (Value, Endpoints)> {
    let mut groups: BTreeMap<String, (Value, Endpoints)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.is_terminal()) {
        let of_family = |ip: &&String| ip.contains(':') == (family == "IPv6");
        let Some(ip) = pod.addresses.iter().find(of_family) else { continue };
        let resolved = service.spec.ports.iter().filter_map(|port| resolve(port, pod));
        let ports = Value::from(resolved.collect::<Vec<_>>());
        let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, BTreeMap::new()));
        group.1.insert(ip.clone(), endpoint(service, pod, ip));
    }
    groups
}

/// Spreads endpoints over slices. Each slice keeps what it has; free places are filled from the
/// first slice on.
fn fill(present: &[&Arc<EndpointSlice>], mut endpoints: Endpoints) -> Vec<Vec<Value>> {
    let mut slices: Vec<Vec<Value>> = Vec::new();
    for slice in present {
        let address = |one: &Value| one["addresses"][0].as_str().map(str::to_owned);
        let addresses = slice.endpoints.iter().filter_map(address);
        let kept = addresses.filter_map(|ip| endpoints.remove(&ip));
        slices.push(kept.take(SLICE_MAX).collect());
    }
    let mut rest = endpoints.into_values();
    for slice in &mut slices {
        let room = SLICE_MAX - slice.len();
        slice.extend(rest.by_ref().take(room));
    }
    loop {
        let next: Vec<Value> = rest.by_ref().take(SLICE_MAX).collect();
        if next.is_empty() {
            break;
        }
        slices.push(next);
    }
    let any = slices.iter().any(|slice| !slice.is_empty());
    // Empty slices go, but for one if all are empty.
    if any {
        while slices.last().is_some_and(Vec::is_empty) {
            slices.pop();
        }
    } else {
        slices = vec![Vec::new()];
    }
    slices
}

/// A port of the Service as this pod has it.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<Value> {
    let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
    let number = match &port.target_port {
        None => port.port,
        Some(TargetPort::Number(number)) => *number,
        Some(TargetPort::Name(name)) => {
            let mut ports = pod.containers.iter().flat_map(|container| &container.ports);
            let named = ports.find(|one| one.name == *name && one.protocol == protocol)?;
            i64::from(named.container_port)
        }
    };
    let mut value = json!({"name": port.name, "port": number, "protocol": protocol});
    if let Some(app) = &port.app_protocol {
        value["appProtocol"] = app.as_str().into();
    }
    Some(value)
}

fn endpoint(service: &Service, pod: &Pod, ip: &str) -> Value {
    let (serving, terminating) = (pod.is_ready(), pod.meta.is_deleting());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let mut value = json!({
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": pod.meta.namespace,
            "name": pod.meta.name, "uid": pod.meta.uid,
        },
    });
    if !pod.node.is_empty() {
        value["nodeName"] = pod.node.as_str().into();
    }
    if !pod.hostname.is_empty() && pod.subdomain == service.meta.name {
        value["hostname"] = pod.hostname.as_str().into();
    }
    value
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.meta.labels.clone();
    labels.remove(HEADLESS_LABEL);
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.meta.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// Whether a slice holds it already. Fields the registry adds by default are not held against it.
fn holds(slice: &EndpointSlice, content: &Content) -> bool {
    slice.meta.labels == content.labels
        && slice.endpoints == content.endpoints
        && content.ports == Value::from(slice.ports.clone())
}

fn create(service: &Service, content: &Content) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", service.meta.name),
            "namespace": service.meta.namespace,
            "labels": content.labels,
            "ownerReferences": [ObjectRef::to(service).controller_reference()],
        },
        "addressType": content.address_type,
        "endpoints": content.endpoints,
        "ports": content.ports,
    })
}

async fn carry_out(action: Action, api: &Api) -> Result<(), Error> {
    match action {
        Action::Create(value) => api.create(&ENDPOINT_SLICE, value).await.map(drop),
        Action::Delete(slice) => {
            api.delete(&ENDPOINT_SLICE, &slice.meta.key(), &exactly(&slice.meta.uid)).await
        }
        Action::Change(slice, content) => {
            let change = |object: &mut Object| {
                if object.uid() == slice.meta.uid {
                    object.set("/metadata/labels", json!(content.labels));
                    object.set("/endpoints", content.endpoints.clone());
                    object.set("/ports", content.ports.clone());
                }
                Ok(())
            };
            api.modify(&ENDPOINT_SLICE, &slice.meta.key(), Part::Main, change).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        }))
        .expect("a valid service")
    }

    fn pod(nth: usize, port: u16, facts: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": format!("p{nth}"), "namespace": "ns", "uid": format!("u{nth}"),
                         "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", nth / 250, nth % 250),
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        json_patch::merge(&mut value, &facts);
        Arc::new(serde_json::from_value(value).expect("a valid pod"))
    }

    /// Applies a plan to slices as the registry would.
    fn apply(mut slices: Vec<Arc<EndpointSlice>>, actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
        for action in actions {
            match action {
                Action::Create(mut value) => {
                    value["metadata"]["name"] = format!("web-{}", slices.len()).into();
                    slices.push(Arc::new(serde_json::from_value(value).expect("a valid slice")));
                }
                Action::Delete(gone) => slices.retain(|one| one.meta.name != gone.meta.name),
                Action::Change(old, content) => {
                    let mut new = (*old).clone();
                    new.meta.labels = content.labels;
                    new.endpoints = content.endpoints;
                    new.ports = content.ports.as_array().cloned().unwrap_or_default();
                    let at = slices.iter().position(|one| one.meta.name == old.meta.name);
                    slices[at.expect("a changed slice exists")] = Arc::new(new);
                }
            }
        }
        slices
    }

    fn settle(pods: &[Arc<Pod>], slices: Vec<Arc<EndpointSlice>>) -> Vec<Arc<EndpointSlice>> {
        let service = service();
        let after = apply(slices.clone(), plan(&service, pods, &slices));
        assert!(plan(&service, pods, &after).is_empty(), "a second run has nothing to do");
        after
    }

    #[test]
    fn endpoints_say_what_pods_are() {
        let pods = [
            pod(1, 8080, json!({})),
            pod(2, 8080, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            pod(3, 8080, json!({"status": {"conditions": []}})),
            pod(4, 8080, json!({"status": {"phase": "Failed"}})),
            pod(5, 8080, json!({"status": {"podIP": null}})),
        ];
        let slices = settle(&pods, Vec::new());
        assert_eq!(slices.len(), 1);
        let told: Vec<Value> =
            slices[0].endpoints.iter().map(|one| one["conditions"].clone()).collect();
        assert_eq!(
            told,
            [
                json!({"ready": true, "serving": true, "terminating": false}),
                json!({"ready": false, "serving": true, "terminating": true}),
                json!({"ready": false, "serving": false, "terminating": false}),
            ],
        );
        assert_eq!(slices[0].ports, [json!({"name": "http", "port": 8080, "protocol": "TCP"})]);
        assert_eq!(slices[0].meta.labels["team"], "a");
        assert_eq!(slices[0].meta.labels[SERVICE_NAME_LABEL], "web");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice_that_is_used_later() {
        let empty = settle(&[], Vec::new());
        assert_eq!((empty.len(), empty[0].endpoints.len()), (1, 0));
        let used = settle(&[pod(1, 80, json!({}))], empty.clone());
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].meta.name, empty[0].meta.name);
        let left = settle(&[], used);
        assert_eq!((left.len(), left[0].endpoints.len()), (1, 0));
    }

    #[test]
    fn pods_with_other_ports_get_a_slice_of_their_own() {
        let pods = [pod(1, 80, json!({})), pod(2, 81, json!({})), pod(3, 80, json!({}))];
        let slices = settle(&pods, Vec::new());
        let mut sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2]);
    }

    #[test]
    fn one_new_pod_changes_one_slice() {
        let mut pods: Vec<_> = (0..250).map(|nth| pod(nth, 80, json!({}))).collect();
        let slices = settle(&pods, Vec::new());
        assert_eq!(
            slices.iter().map(|one| one.endpoints.len()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        pods.remove(30);
        pods.push(pod(300, 80, json!({})));
        assert_eq!(plan(&service(), &pods, &slices).len(), 1);
        let after = settle(&pods, slices);
        assert_eq!(after.iter().map(|one| one.endpoints.len()).sum::<usize>(), 250);
    }
}
