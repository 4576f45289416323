//! Which map elements a set of Services needs. No sockets, no clock, no hash order.
//!
//! A Service port is one key `(address, protocol, port)`. With `n` endpoints it needs one element in
//! the verdict map, which sends it to the chain that draws a number below `n`, and one element per
//! drawn number:
//!
//! ```text
//! svc   10.96.7.7 . tcp . 80        → goto c3
//! ep    10.96.7.7 . tcp . 80 . 0    → 10.244.0.5 . 8080
//! ep    10.96.7.7 . tcp . 80 . 1    → 10.244.0.9 . 8080
//! ep    10.96.7.7 . tcp . 80 . 2    → 10.244.0.6 . 8080
//! ```
//!
//! A node port is a key whose address is 0.0.0.0, in a verdict map of its own without the address: it
//! stands for every address of the node.
//!
//! Endpoints keep their numbers as long as they live; a hole is filled by a new endpoint, or by the
//! last one. So an endpoint that comes, goes or is replaced changes one or two elements, however many
//! its Service has. A key without endpoints has no element at all: its packets meet the reject rule.
//!
//! An endpoint that is about to stop is chosen only when no ready one is left, and only while it still
//! says that it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Transport protocols a Service can name, by their IP protocol numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Its number in the IP header.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Reads Kubernetes' spelling; an absent protocol is TCP.
    pub(super) fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Front {
    /// 0.0.0.0 for a node port.
    pub(super) address: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Back {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// A Service as far as the proxy cares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Service {
    /// The virtual addresses; none for headless and external ones.
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`: only endpoints of this node.
    pub(super) local_only: bool,
}

/// One port of a Service; its name joins it to the ports of the slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// The port every node forwards, for Services that have one.
    pub(super) node_port: Option<u16>,
}

/// An EndpointSlice as far as the proxy cares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slice {
    pub(super) ports: Vec<ServicePort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: Ipv4Addr,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    /// It runs on this node.
    pub(super) local: bool,
}

/// One element to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// `front → goto c<count>`, or `n<count>` for a node port.
    Service { front: Front, count: u32 },
    /// `front . index → back`.
    Endpoint { front: Front, index: u32, back: Back },
    /// A pod that may reach itself through a Service.
    Hairpin(Ipv4Addr),
}

/// What one transaction changes. Removals come first: an element that gets another value is removed
/// and added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changes {
    pub(super) remove: Vec<Element>,
    pub(super) add: Vec<Element>,
}

impl Changes {
    /// Nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Takes over what another Service's update changes.
    pub(super) fn append(&mut self, mut other: Self) {
        self.remove.append(&mut other.remove);
        self.add.append(&mut other.add);
    }
}

/// Everything the kernel should hold, by Service.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Which Service owns which fronts, by the Service's name.
    services: BTreeMap<String, BTreeSet<Front>>,
    /// The endpoints of each front, in the order of their numbers; never empty.
    fronts: BTreeMap<Front, Vec<Back>>,
    /// How many fronts lead to an address.
    hairpins: BTreeMap<Ipv4Addr, usize>,
}

impl Front {
    /// Whether it stands for every address of the node.
    pub(super) fn is_node_port(self) -> bool {
        self.address.is_unspecified()
    }
}

impl Plan {
    /// Takes in the present state of one Service, `None` when it is gone.
    pub(super) fn set(
        &mut self,
        name: &str,
        service: Option<&Service>,
        slices: &[Slice],
    ) -> Changes {
        let wanted = service.map(|service| wanted(service, slices)).unwrap_or_default();
        let mut changes = Changes::default();
        let before = self.services.remove(name).unwrap_or_default();
        for front in before.iter().filter(|front| !wanted.contains_key(front)) {
            self.replace(*front, Vec::new(), &mut changes);
        }
        let mut owned = BTreeSet::new();
        for (front, backs) in wanted {
            // Addresses are handed out once; should two Services claim one all the same, the first
            // keeps it, or the loser's removal would take the winner's elements away.
            if !before.contains(&front) && self.fronts.contains_key(&front) {
                continue;
            }
            let held = self.fronts.get(&front).map_or(&[][..], Vec::as_slice);
            let placed = place(held, &backs);
            self.replace(front, placed, &mut changes);
            owned.insert(front);
        }
        if !owned.is_empty() {
            self.services.insert(name.to_owned(), owned);
        }
        changes
    }

    /// Every element, for a kernel that holds none.
    pub(super) fn everything(&self) -> Vec<Element> {
        let mut all = Vec::new();
        for (front, backs) in &self.fronts {
            all.push(Element::Service { front: *front, count: count(backs) });
            all.extend(numbered(*front, backs));
        }
        all.extend(self.hairpins.keys().map(|address| Element::Hairpin(*address)));
        all
    }

    fn replace(&mut self, front: Front, backs: Vec<Back>, changes: &mut Changes) {
        let before = self.fronts.remove(&front).unwrap_or_default();
        if before == backs {
            if !backs.is_empty() {
                self.fronts.insert(front, backs);
            }
            return;
        }
        let held: BTreeSet<Element> =
            numbered(front, &before).chain(head(front, &before)).collect();
        let wanted: BTreeSet<Element> =
            numbered(front, &backs).chain(head(front, &backs)).collect();
        changes.remove.extend(held.difference(&wanted));
        changes.add.extend(wanted.difference(&held));
        self.count_hairpins(&before, &backs, changes);
        if !backs.is_empty() {
            self.fronts.insert(front, backs);
        }
    }

    fn count_hairpins(&mut self, before: &[Back], after: &[Back], changes: &mut Changes) {
        for back in after {
            let uses = self.hairpins.entry(back.address).or_default();
            *uses += 1;
            if *uses == 1 {
                changes.add.push(Element::Hairpin(back.address));
            }
        }
        for back in before {
            let uses = self.hairpins.get_mut(&back.address).expect("counted when it was placed");
            *uses -= 1;
            if *uses == 0 {
                self.hairpins.remove(&back.address);
                changes.remove.push(Element::Hairpin(back.address));
            }
        }
    }
}

fn head(front: Front, backs: &[Back]) -> Option<Element> {
    (!backs.is_empty()).then(|| Element::Service { front, count: count(backs) })
}

fn numbered(front: Front, backs: &[Back]) -> impl Iterator<Item = Element> {
    (0..).zip(backs).map(move |(index, back)| Element::Endpoint { front, index, back: *back })
}

fn count(backs: &[Back]) -> u32 {
    u32::try_from(backs.len()).expect("a store cannot hold 2^32 endpoints")
}

/// The fronts of a Service that lead somewhere, and where to.
fn wanted(service: &Service, slices: &[Slice]) -> BTreeMap<Front, BTreeSet<Back>> {
    let mut fronts = BTreeMap::new();
    for port in &service.ports {
        let backs = choose(service, slices, port);
        if backs.is_empty() {
            continue;
        }
        let clusters = service.addresses.iter().map(|address| (*address, port.port));
        let nodes = port.node_port.map(|number| (Ipv4Addr::UNSPECIFIED, number));
        for (address, number) in clusters.chain(nodes) {
            let front = Front { address, protocol: port.protocol, port: number };
            fronts.insert(front, backs.clone());
        }
    }
    fronts
}

/// The ready endpoints of a port; if there is none, those that stop but still serve.
fn choose(service: &Service, slices: &[Slice], port: &ServicePort) -> BTreeSet<Back> {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    for slice in slices {
        let matching = slice
            .ports
            .iter()
            .filter(|target| target.name == port.name && target.protocol == port.protocol);
        for target in matching {
            for endpoint in slice.endpoints.iter().filter(|end| end.local || !service.local_only) {
                let back = Back { address: endpoint.address, port: target.port };
                if endpoint.ready {
                    ready.insert(back);
                } else if endpoint.serving && endpoint.terminating {
                    leaving.insert(back);
                }
            }
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

/// Gives each wanted endpoint a number, keeping the numbers of those that stay where it can.
fn place(held: &[Back], wanted: &BTreeSet<Back>) -> Vec<Back> {
    let staying: BTreeSet<Back> =
        held.iter().copied().filter(|back| wanted.contains(back)).collect();
    let mut new = wanted.difference(&staying);
    let mut slots: Vec<Option<Back>> = held
        .iter()
        .map(|back| if staying.contains(back) { Some(*back) } else { new.next().copied() })
        .collect();
    slots.extend(new.map(|back| Some(*back)));
    // The holes left are closed from the end: the last endpoint moves into the first hole.
    while let Some(hole) = slots.iter().position(Option::is_none) {
        match slots.pop().expect("there is a hole, so there is a slot") {
            Some(last) => slots[hole] = Some(last),
            None => continue,
        }
    }
    let placed: Vec<Back> = slots.into_iter().flatten().collect();
    assert_eq!(placed.len(), wanted.len(), "every endpoint has one number");
    placed
}
