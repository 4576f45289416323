//! Addresses and node ports of services.
//!
//! Each one in use is a key of its own, which the transaction that writes the service takes only
//! if it is free and gives back when the service lets go of it. So two services can never hold one
//! address, whoever writes and however many servers there are, and no repair loop is needed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Registry, codec, key};
use crate::api::{Kind, Object, Status, kinds, validate};
use crate::client::etcd::Range;

/// Random tries before all that are taken are listed.
const RANDOM_TRIES: usize = 8;

/// What a write of a service must take and give back.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The server chooses the address.
    choose_address: bool,
    /// Ports by place in the list for which the server chooses the node port.
    choose_ports: Vec<usize>,
    /// Keys the service holds before and after the write.
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    active: bool,
}

fn kind_of(service: &Object) -> &str {
    service.text("/spec/type").unwrap_or("ClusterIP")
}

fn has_address(service: &Object) -> bool {
    kind_of(service) != "ExternalName"
}

fn has_node_ports(service: &Object) -> bool {
    match kind_of(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool)
                != Some(false)
        }
        _ => false,
    }
}

fn address(service: &Object) -> Option<Ipv4Addr> {
    service.text("/spec/clusterIP")?.parse().ok().filter(|_| has_address(service))
}

fn protocol(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}

fn node_port(port: &Value) -> Option<u16> {
    let number = port.get("nodePort").and_then(Value::as_u64)?;
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// The keys a service holds.
pub(super) fn held(kind: &Kind, service: &Object) -> Vec<String> {
    if *kind != kinds::SERVICE {
        return Vec::new();
    }
    let mut keys: BTreeSet<String> = address(service).map(key::service_ip).into_iter().collect();
    for port in service.items("/spec/ports") {
        keys.extend(node_port(port).map(|number| key::node_port(protocol(port), number)));
    }
    keys.into_iter().collect()
}

/// What the client left out because it is the server's to choose stays what it was; what no longer
/// fits a new type goes, unless the client changed it, which validation then refuses.
pub(super) fn keep_allocated(kind: &Kind, current: &Object, wanted: &mut Object) {
    if *kind != kinds::SERVICE {
        return;
    }
    let (had, has) = (has_address(current), has_address(wanted));
    if had && has && wanted.text("/spec/clusterIP").is_none_or(str::is_empty) {
        for field in ["/spec/clusterIP", "/spec/clusterIPs"] {
            if let Some(value) = current.get(field) {
                wanted.set(field, value.clone());
            }
        }
    }
    if had && !has && wanted.get("/spec/clusterIP") == current.get("/spec/clusterIP") {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            wanted.remove(&format!("/spec/{field}"));
        }
    }
    keep_node_ports(current, wanted);
    if has_node_ports(current) && !has_node_ports(wanted) {
        wanted.remove("/spec/externalTrafficPolicy");
    }
}

fn keep_node_ports(current: &Object, wanted: &mut Object) {
    let (had, has) = (has_node_ports(current), has_node_ports(wanted));
    if !had {
        return;
    }
    let old = current.items("/spec/ports").to_vec();
    let same = |one: &Value, other: &Value| {
        one.get("port") == other.get("port") && protocol(one) == protocol(other)
    };
    let ports = wanted.as_value_mut().pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        let before = old.iter().find(|old| same(old, port)).and_then(node_port);
        let Some(fields) = port.as_object_mut() else { continue };
        let own = fields.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
        match before {
            Some(number) if has && own == 0 => {
                fields.insert("nodePort".into(), number.into());
            }
            Some(number) if !has && own == u64::from(number) => {
                fields.remove("nodePort");
            }
            _ => {}
        }
    }
}

impl Plan {
    pub(super) fn create(kind: &Kind, service: &Object) -> Self {
        Self::update(kind, &Object::new(kind, &service.key()), service)
    }

    pub(super) fn update(kind: &Kind, current: &Object, service: &Object) -> Self {
        if *kind != kinds::SERVICE {
            return Self::default();
        }
        let unset = |text: Option<&str>| text.is_none_or(str::is_empty);
        let ports = service.items("/spec/ports").iter().enumerate();
        let open = ports.filter(|(_, port)| has_node_ports(service) && node_port(port).is_none());
        Self {
            choose_address: has_address(service) && unset(service.text("/spec/clusterIP")),
            choose_ports: open.map(|(nth, _)| nth).collect(),
            before: held(kind, current).into_iter().collect(),
            after: BTreeSet::new(),
            active: true,
        }
    }

    /// Keys that must be free.
    pub(super) fn taken(&self) -> impl Iterator<Item = String> {
        self.after.difference(&self.before).cloned()
    }

    /// Keys that become free.
    pub(super) fn given_back(&self) -> impl Iterator<Item = String> {
        self.before.difference(&self.after).cloned()
    }
}

impl Registry {
    /// Chooses the address and the node ports that the client left to us, and checks those that it
    /// named. What is free now may be taken when the write comes: then this runs again.
    pub(super) async fn allocate(
        &self,
        plan: &mut Plan,
        service: &mut Object,
    ) -> Result<(), Status> {
        if !plan.active {
            return Ok(());
        }
        if plan.choose_address {
            let address = self.free_address().await?;
            service.set("/spec/clusterIP", address.to_string());
        }
        if has_address(service)
            && let Some(value) = service.get("/spec/clusterIP").cloned()
        {
            service.set("/spec/clusterIPs", json!([value]));
        }
        self.choose_ports(plan, service).await?;
        plan.after = held(&kinds::SERVICE, service).into_iter().collect();
        for taken in plan.taken() {
            let owner = self
                .store()
                .get(taken.clone())
                .await
                .map_err(|error| codec::store_error(&error))?;
            if owner.is_some() {
                return Err(in_use(service, &taken));
            }
        }
        Ok(())
    }

    async fn choose_ports(&self, plan: &Plan, service: &mut Object) -> Result<(), Status> {
        for nth in &plan.choose_ports {
            service.remove(&format!("/spec/ports/{nth}/nodePort"));
        }
        // One number may serve TCP and UDP, so ports of one number but two protocols share it.
        for nth in &plan.choose_ports {
            let port = &service.items("/spec/ports")[*nth];
            let protocol = protocol(port).to_owned();
            let number = self.free_port(&protocol, service).await?;
            service.set(&format!("/spec/ports/{nth}/nodePort"), number);
        }
        Ok(())
    }

    async fn free_address(&self) -> Result<Ipv4Addr, Status> {
        let range = self.config().service_cidr;
        // Neither the address of the network nor its broadcast address.
        let (first, last) = (1, range.size().saturating_sub(2));
        let path = |n: u64| range.nth(n).map(key::service_ip);
        let chosen = self.free(first, last, key::service_ips(), path).await?;
        chosen
            .and_then(|n| range.nth(n))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    async fn free_port(&self, protocol: &str, service: &Object) -> Result<u16, Status> {
        let (first, last) = self.config().node_ports;
        let held: Vec<u16> = service.items("/spec/ports").iter().filter_map(node_port).collect();
        let path = |n: u64| {
            let number = u16::try_from(n).ok().filter(|number| !held.contains(number))?;
            Some(key::node_port(protocol, number))
        };
        let chosen = self.free(first.into(), last.into(), key::node_ports(), path).await?;
        chosen
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    /// A number whose key is free, by chance first and by search when chance finds none.
    async fn free(
        &self,
        first: u64,
        last: u64,
        prefix: &str,
        path: impl Fn(u64) -> Option<String>,
    ) -> Result<Option<u64>, Status> {
        if first > last {
            return Ok(None);
        }
        for _ in 0..RANDOM_TRIES {
            let n = rand::random_range(first..=last);
            let Some(path) = path(n) else { continue };
            let found = self.store().get(path).await.map_err(|error| codec::store_error(&error))?;
            if found.is_none() {
                return Ok(Some(n));
            }
        }
        let range = Range { keys_only: true, ..Range::prefix(prefix.to_owned()) };
        let all = self.store().range(&range).await.map_err(|error| codec::store_error(&error))?;
        let taken: BTreeSet<&[u8]> = all.entries.iter().map(|entry| &entry.key[..]).collect();
        Ok((first..=last).find(|n| path(*n).is_some_and(|path| !taken.contains(path.as_bytes()))))
    }
}

fn in_use(service: &Object, taken: &str) -> Status {
    let cause = if taken.starts_with(key::service_ips()) {
        let address = service.text("/spec/clusterIP").unwrap_or("");
        let value = json!([address]);
        let why = format!("failed to allocate IP {address}: provided IP is already allocated");
        validate::invalid_value("spec.clusterIPs", &value, &why)
    } else {
        let number: u64 = taken.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let ports = service.items("/spec/ports");
        let nth = ports.iter().position(|port| node_port(port).map(u64::from) == Some(number));
        let field = format!("spec.ports[{}].nodePort", nth.unwrap_or(0));
        validate::invalid_value(&field, &number.into(), "provided port is already allocated")
    };
    Status::invalid(&kinds::SERVICE, service.name(), vec![cause])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        let value = json!({"metadata": {"name": "s", "namespace": "a"}, "spec": spec});
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn what_was_allocated_is_kept() {
        let current = service(json!({
            "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "nodePort": 30080}],
        }));
        let mut wanted =
            service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        keep_allocated(&kinds::SERVICE, &current, &mut wanted);
        assert_eq!(wanted.text("/spec/clusterIP"), Some("10.96.0.9"));
        assert_eq!(wanted.int("/spec/ports/0/nodePort"), Some(30080));
        let plan = Plan::update(&kinds::SERVICE, &current, &wanted);
        assert_eq!((plan.choose_address, plan.choose_ports.as_slice()), (false, &[1][..]));
    }

    #[test]
    fn another_type_lets_go() {
        let current = service(json!({
            "type": "NodePort", "clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "nodePort": 30080}],
        }));
        let mut wanted = current.clone();
        wanted.set("/spec/type", "ClusterIP");
        keep_allocated(&kinds::SERVICE, &current, &mut wanted);
        assert_eq!(wanted.int("/spec/ports/0/nodePort"), None);
        let mut plan = Plan::update(&kinds::SERVICE, &current, &wanted);
        plan.after = held(&kinds::SERVICE, &wanted).into_iter().collect();
        assert_eq!(plan.taken().count(), 0);
        assert_eq!(
            plan.given_back().collect::<Vec<_>>(),
            ["/orchestrator/allocated/node-ports/TCP/30080"]
        );
        wanted.set("/spec/type", "ExternalName");
        keep_allocated(&kinds::SERVICE, &current, &mut wanted);
        assert_eq!(wanted.get("/spec/clusterIP"), None);
    }
}
