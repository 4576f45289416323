//! The table as messages: its maps, chains and rules once, then elements.
//!
//! As `nft` would print it, for a cluster range 10.244.0.0/16 and a Service range 10.96.0.0/12:
//!
//! ```text
//! table ip orchestrator {
//!   map svc { type ipv4_addr . inet_proto . inet_service : verdict }
//!   map ports { type inet_proto . inet_service : verdict }
//!   map ep { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service }
//!   set hairpin { type ipv4_addr . ipv4_addr }
//!   chain c3 { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @ep }
//!   chain n3 { dnat ip to 0.0.0.0 . meta l4proto . th dport . numgen random mod 3 map @ep }
//!   chain prerouting { type nat hook prerouting priority dstnat
//!     ip daddr . meta l4proto . th dport vmap @svc
//!     fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @ports }
//!   chain output { type nat hook output priority -100
//!     the same two rules }
//!   chain postrouting { type nat hook postrouting priority srcnat
//!     ip saddr . ip daddr @hairpin masquerade
//!     ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 oif != lo masquerade }
//!   chain forward { type filter hook forward priority filter
//!     ip daddr 10.96.0.0/12 meta l4proto tcp reject with tcp reset
//!     ip daddr 10.96.0.0/12 reject }
//!   chain local { type filter hook output priority filter
//!     the same two rules }
//! }
//! ```
//!
//! The chains `cN` and `nN` serve every Service with `N` endpoints, so a Service costs elements only;
//! `nN` is for node ports, whose keys hold no address. The drawn number is part of the key (shown as `mark`, the 32-bit type whose listing is unambiguous). What is
//! still addressed to the Service range after translation has no Service, and is rejected at once
//! instead of following the default route. A pod that meets itself through a Service must see the
//! answer come from elsewhere: such packets are masqueraded.

use std::net::Ipv4Addr;

use super::message::{
    self, Attributes, Batch, DEL_ELEMENT, DEL_TABLE, F_APPEND, F_CREATE, FAMILY_IPV4, Finished,
    GET_TABLE, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET, NEW_TABLE,
};
use super::plan::{Changes, Element, Front};
use crate::api::Cidr;

/// Name of the table; `down` removes it as a whole.
pub(super) const TABLE: &str = "orchestrator";

/// Elements per message: the attribute that holds them counts its bytes in 16 bits, and an element
/// takes less than 100.
const CHUNK: usize = 400;

const MAP_SERVICES: &str = "svc";
const MAP_PORTS: &str = "ports";
const MAP_ENDPOINTS: &str = "ep";
const SET_HAIRPIN: &str = "hairpin";

// Registers are 32 bits wide here. A key is built in four neighbours, its data lands in the next two.
const VERDICT: u32 = 0;
const KEY: u32 = 8;
const DATA: u32 = 12;

const MAP_FLAG: u32 = 0x8;
const VERDICT_TYPE: u32 = 0xffff_ff00;
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
/// Bits one component takes in the number of a joined type.
const TYPE_BITS: u32 = 6;

const GOTO: i32 = -4;

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_OUT_INTERFACE: u32 = 5;
const META_PROTOCOL: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const LOOPBACK_INDEX: u32 = 1;

const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;

/// Where a packet's addresses are in the network header.
#[derive(Clone, Copy)]
enum Address {
    Source = 12,
    Destination = 16,
}

/// The ranges the rules speak of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub(super) cluster: Cidr,
    pub(super) service: Cidr,
}

/// Builds transactions and knows which of the chains `cN` exist.
#[derive(Debug)]
pub(super) struct Writer {
    ranges: Ranges,
    /// Chains `c1` to `cN` and `n1` to `nN` are there.
    chains: u32,
    sequence: u32,
}

impl Writer {
    pub(super) fn new(ranges: Ranges) -> Self {
        Self { ranges, chains: 0, sequence: 1 }
    }

    /// Replaces the table, elements and all, in one step: nothing is ever missing in between.
    pub(super) fn replace(&mut self, elements: &[Element]) -> Finished {
        let mut batch = Batch::new(self.sequence);
        drop_table(&mut batch);
        batch.push(NEW_TABLE, F_CREATE, |table| table.text(1, TABLE));
        declare_sets(&mut batch);
        self.declare_chains(&mut batch);
        self.chains = 0;
        self.add(&mut batch, elements);
        self.finish(batch)
    }

    /// Asks whether the table is there.
    pub(super) fn look(&mut self) -> Finished {
        let finished = look(self.sequence);
        self.sequence = finished.next;
        finished
    }

    /// Writes what changed.
    pub(super) fn change(&mut self, changes: &Changes) -> Finished {
        let mut batch = Batch::new(self.sequence);
        push_elements(&mut batch, DEL_ELEMENT, 0, &changes.remove);
        self.add(&mut batch, &changes.add);
        self.finish(batch)
    }

    fn finish(&mut self, batch: Batch) -> Finished {
        let finished = batch.finish();
        self.sequence = finished.next;
        finished
    }

    fn add(&mut self, batch: &mut Batch, elements: &[Element]) {
        let counts = elements.iter().map(|element| match element {
            Element::Service { count, .. } => *count,
            Element::Endpoint { .. } | Element::Hairpin(_) => 0,
        });
        let most = counts.max().unwrap_or(0);
        for count in self.chains + 1..=most {
            declare_choice(batch, count);
        }
        self.chains = self.chains.max(most);
        push_elements(batch, NEW_ELEMENT, F_CREATE, elements);
    }

    fn declare_chains(&self, batch: &mut Batch) {
        for (name, hook) in [("prerouting", HOOK_PREROUTING), ("output", HOOK_OUTPUT)] {
            base_chain(batch, name, "nat", hook, -100);
            rule(batch, name, |rule| {
                load_front(rule);
                lookup(rule, MAP_SERVICES, Some(VERDICT));
            });
            rule(batch, name, |rule| {
                to_this_node(rule);
                load_meta(rule, META_PROTOCOL, KEY);
                load_payload(rule, BASE_TRANSPORT, 2, 2, KEY + 1);
                lookup(rule, MAP_PORTS, Some(VERDICT));
            });
        }
        self.declare_masquerade(batch);
        for (name, hook) in [("forward", HOOK_FORWARD), ("local", HOOK_OUTPUT)] {
            base_chain(batch, name, "filter", hook, 0);
            rule(batch, name, |rule| {
                compare_address(rule, Address::Destination, self.ranges.service, EQUAL);
                load_meta(rule, META_PROTOCOL, KEY);
                compare(rule, EQUAL, &[6]);
                reject(rule, 1, 0);
            });
            rule(batch, name, |rule| {
                compare_address(rule, Address::Destination, self.ranges.service, EQUAL);
                reject(rule, 0, 3);
            });
        }
    }

    fn declare_masquerade(&self, batch: &mut Batch) {
        base_chain(batch, "postrouting", "nat", HOOK_POSTROUTING, 100);
        rule(batch, "postrouting", |rule| {
            load_address(rule, Address::Source, KEY);
            load_address(rule, Address::Destination, KEY + 1);
            lookup(rule, SET_HAIRPIN, None);
            expression(rule, "masq", |_| {});
        });
        rule(batch, "postrouting", |rule| {
            compare_address(rule, Address::Source, self.ranges.cluster, EQUAL);
            compare_address(rule, Address::Destination, self.ranges.cluster, NOT_EQUAL);
            load_meta(rule, META_OUT_INTERFACE, KEY);
            compare(rule, NOT_EQUAL, &LOOPBACK_INDEX.to_ne_bytes());
            expression(rule, "masq", |_| {});
        });
    }
}

/// Asks for the table: refused when it is not there.
fn look(sequence: u32) -> Finished {
    message::query(GET_TABLE, sequence, |table| table.text(1, TABLE))
}

/// Removes the table, if it is there.
pub(super) fn remove(sequence: u32) -> Finished {
    let mut batch = Batch::new(sequence);
    drop_table(&mut batch);
    batch.finish()
}

/// Creating it first makes the removal hold whether or not the table exists.
fn drop_table(batch: &mut Batch) {
    batch.push(NEW_TABLE, F_CREATE, |table| table.text(1, TABLE));
    batch.push(DEL_TABLE, 0, |table| table.text(1, TABLE));
}

fn declare_sets(batch: &mut Batch) {
    let front = [TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT];
    let drawn = [TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK];
    batch.push(NEW_SET, F_CREATE, |set| {
        set_head(set, MAP_SERVICES, 1, MAP_FLAG, &front);
        set.u32(6, VERDICT_TYPE);
        set.u32(7, 0);
    });
    batch.push(NEW_SET, F_CREATE, |set| {
        set_head(set, MAP_PORTS, 4, MAP_FLAG, &front[1..]);
        set.u32(6, VERDICT_TYPE);
        set.u32(7, 0);
    });
    batch.push(NEW_SET, F_CREATE, |set| {
        set_head(set, MAP_ENDPOINTS, 2, MAP_FLAG, &drawn);
        set.u32(6, joined(&[TYPE_ADDRESS, TYPE_PORT]));
        set.u32(7, 8);
    });
    batch.push(NEW_SET, F_CREATE, |set| {
        set_head(set, SET_HAIRPIN, 3, 0, &[TYPE_ADDRESS, TYPE_ADDRESS]);
    });
}

fn set_head(set: &mut Attributes<'_>, name: &str, id: u32, flags: u32, key: &[u32]) {
    set.text(1, TABLE);
    set.text(2, name);
    set.u32(3, flags);
    set.u32(4, joined(key));
    set.u32(5, u32::try_from(key.len() * 4).expect("a key has four parts at most"));
    set.u32(10, id);
}

fn joined(types: &[u32]) -> u32 {
    types.iter().fold(0, |joined, part| (joined << TYPE_BITS) | part)
}

/// The chains that draw one of `count` endpoints: by the packet's own address, and by none.
fn declare_choice(batch: &mut Batch, count: u32) {
    for node_port in [false, true] {
        let name = chain_name(node_port, count);
        batch.push(NEW_CHAIN, F_CREATE, |chain| {
            chain.text(1, TABLE);
            chain.text(3, &name);
        });
        rule(batch, &name, |rule| {
            load_front(rule);
            if node_port {
                expression(rule, "immediate", |immediate| {
                    immediate.u32(1, KEY);
                    immediate.nest(2, |data| data.bytes(1, &[0; 4]));
                });
            }
            draw(rule, count);
        });
    }
}

/// Draws a number below `count`, and sends the packet where the key with that number leads.
fn draw(rule: &mut Attributes<'_>, count: u32) {
    expression(rule, "numgen", |numgen| {
        numgen.u32(1, KEY + 3);
        numgen.u32(2, count);
        numgen.u32(3, 1); // random
    });
    lookup(rule, MAP_ENDPOINTS, Some(DATA));
    expression(rule, "nat", |nat| {
        nat.u32(1, 1); // destination
        nat.u32(2, u32::from(FAMILY_IPV4));
        nat.u32(3, DATA);
        nat.u32(5, DATA + 1);
    });
}

fn chain_name(node_port: bool, count: u32) -> String {
    format!("{}{count}", if node_port { 'n' } else { 'c' })
}

fn base_chain(batch: &mut Batch, name: &str, kind: &str, hook: u32, priority: i32) {
    batch.push(NEW_CHAIN, F_CREATE, |chain| {
        chain.text(1, TABLE);
        chain.text(3, name);
        chain.nest(4, |place| {
            place.u32(1, hook);
            place.i32(2, priority);
        });
        chain.u32(5, 1); // accept what no rule takes
        chain.text(7, kind);
    });
}

fn rule(batch: &mut Batch, chain: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    batch.push(NEW_RULE, F_CREATE | F_APPEND, |rule| {
        rule.text(1, TABLE);
        rule.text(2, chain);
        rule.nest(4, fill);
    });
}

fn expression(rule: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    rule.nest(1, |element| {
        element.text(1, name);
        element.nest(2, fill);
    });
}

/// Loads destination address, protocol and destination port: the key of a front.
fn load_front(rule: &mut Attributes<'_>) {
    load_address(rule, Address::Destination, KEY);
    load_meta(rule, META_PROTOCOL, KEY + 1);
    load_payload(rule, BASE_TRANSPORT, 2, 2, KEY + 2);
}

fn load_address(rule: &mut Attributes<'_>, which: Address, register: u32) {
    load_payload(rule, BASE_NETWORK, which as u32, 4, register);
}

fn load_payload(rule: &mut Attributes<'_>, base: u32, offset: u32, length: u32, register: u32) {
    expression(rule, "payload", |payload| {
        payload.u32(1, register);
        payload.u32(2, base);
        payload.u32(3, offset);
        payload.u32(4, length);
    });
}

fn load_meta(rule: &mut Attributes<'_>, key: u32, register: u32) {
    expression(rule, "meta", |meta| {
        meta.u32(1, register);
        meta.u32(2, key);
    });
}

/// Looks the key up; the rule ends there when it is not found.
fn lookup(rule: &mut Attributes<'_>, set: &str, into: Option<u32>) {
    expression(rule, "lookup", |lookup| {
        lookup.text(1, set);
        lookup.u32(2, KEY);
        if let Some(register) = into {
            lookup.u32(3, register);
        }
    });
}

/// Goes on only for packets to an address of this node. Loopback is left out: such packets cannot leave
/// for a pod.
fn to_this_node(rule: &mut Attributes<'_>) {
    expression(rule, "fib", |fib| {
        fib.u32(1, KEY);
        fib.u32(2, 3); // the kind of address
        fib.u32(3, 2); // of the destination
    });
    compare(rule, EQUAL, &2u32.to_ne_bytes()); // local
    let loopback = "127.0.0.0/8".parse().expect("a range");
    compare_address(rule, Address::Destination, loopback, NOT_EQUAL);
}

fn compare(rule: &mut Attributes<'_>, operator: u32, value: &[u8]) {
    expression(rule, "cmp", |cmp| {
        cmp.u32(1, KEY);
        cmp.u32(2, operator);
        cmp.nest(3, |data| data.bytes(1, value));
    });
}

fn compare_address(rule: &mut Attributes<'_>, which: Address, range: Cidr, operator: u32) {
    load_address(rule, which, KEY);
    expression(rule, "bitwise", |bitwise| {
        bitwise.u32(1, KEY);
        bitwise.u32(2, KEY);
        bitwise.u32(3, 4);
        bitwise.nest(4, |data| data.bytes(1, &mask(range)));
        bitwise.nest(5, |data| data.bytes(1, &[0; 4]));
    });
    compare(rule, operator, &range.network().octets());
}

fn mask(range: Cidr) -> [u8; 4] {
    u32::MAX.checked_shl(32 - u32::from(range.prefix_length())).unwrap_or(0).to_be_bytes()
}

fn reject(rule: &mut Attributes<'_>, kind: u32, code: u8) {
    expression(rule, "reject", |reject| {
        reject.u32(1, kind);
        reject.u8(2, code);
    });
}

fn push_elements(batch: &mut Batch, message: u16, flags: u16, elements: &[Element]) {
    for set in [MAP_SERVICES, MAP_PORTS, MAP_ENDPOINTS, SET_HAIRPIN] {
        let of_set: Vec<&Element> =
            elements.iter().filter(|element| set_of(element) == set).collect();
        for chunk in of_set.chunks(CHUNK) {
            batch.push(message, flags, |list| {
                list.text(1, TABLE);
                list.text(2, set);
                list.nest(3, |elements| {
                    chunk
                        .iter()
                        .for_each(|element| elements.nest(1, |out| push_element(out, element)));
                });
            });
        }
    }
}

fn set_of(element: &Element) -> &'static str {
    match element {
        Element::Service { front, .. } if front.is_node_port() => MAP_PORTS,
        Element::Service { .. } => MAP_SERVICES,
        Element::Endpoint { .. } => MAP_ENDPOINTS,
        Element::Hairpin(_) => SET_HAIRPIN,
    }
}

fn push_element(out: &mut Attributes<'_>, element: &Element) {
    match *element {
        Element::Service { front, count } => {
            let key = front_key(front);
            let key = if front.is_node_port() { &key[4..] } else { &key };
            out.nest(1, |out| out.bytes(1, key));
            out.nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.i32(1, GOTO);
                    verdict.text(2, &chain_name(front.is_node_port(), count));
                });
            });
        }
        Element::Endpoint { front, index, back } => {
            let mut key = front_key(front).to_vec();
            key.extend_from_slice(&index.to_ne_bytes());
            out.nest(1, |out| out.bytes(1, &key));
            out.nest(2, |out| out.bytes(1, &address_and_port(back.address, back.port)));
        }
        Element::Hairpin(address) => {
            let key = [address.octets(), address.octets()].concat();
            out.nest(1, |out| out.bytes(1, &key));
        }
    }
}

/// Each part of a key is padded to four bytes, as it lies in the registers.
fn front_key(front: Front) -> [u8; 12] {
    let [a, b, c, d] = front.address.octets();
    let [high, low] = front.port.to_be_bytes();
    [a, b, c, d, front.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn address_and_port(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, high, low, 0, 0]
}
