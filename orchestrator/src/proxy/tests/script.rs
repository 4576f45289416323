//! Golden scripts of the plan: one file per behaviour in `scripts/`.
//!
//! `service NAME ADDRESS PORT…` and `slice NAME ENDPOINT…` describe a Service, `apply NAME…` takes the
//! named ones in and prints what changes, `gone NAME` removes one, `all` prints every element. After
//! each step the elements applied so far must be exactly those the plan would write from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Argument, Command, Context, Runner};

use super::super::plan::{
    Back, Changes, Element, Endpoint, Front, Plan, Protocol, Service, ServicePort, Slice,
};

#[derive(Default)]
struct Script {
    plan: Plan,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, Vec<Slice>>,
    kernel: BTreeSet<Element>,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let words = command.args.iter().map(|arg| match arg {
            Argument::Positional(word) => Ok(word.clone()),
            other => Err(format!("unexpected argument {other}")),
        });
        let mut words = words.collect::<Result<Vec<String>, _>>()?.into_iter();
        let name = words.next().unwrap_or_default();
        let rest: Vec<String> = words.collect();
        match command.name.as_str() {
            "service" => {
                self.services.insert(name, service(&rest)?);
                Ok(String::new())
            }
            "slice" => {
                self.slices.entry(name).or_default().push(slice(&rest)?);
                Ok(String::new())
            }
            "reslice" => {
                self.slices.insert(name, vec![slice(&rest)?]);
                Ok(String::new())
            }
            "apply" => Ok(self.apply(&name)),
            "gone" => {
                self.services.remove(&name);
                Ok(self.apply(&name))
            }
            "all" => Ok(self.plan.everything().iter().map(|element| show(' ', element)).collect()),
            other => Err(format!("no command {other}").into()),
        }
    }
}

impl Script {
    fn apply(&mut self, name: &str) -> String {
        let slices = self.slices.get(name).map_or(&[][..], Vec::as_slice);
        let changes = self.plan.set(name, self.services.get(name), slices);
        self.commit(&changes);
        let removed = changes.remove.iter().map(|element| show('-', element));
        removed.chain(changes.add.iter().map(|element| show('+', element))).collect()
    }

    /// Does what the kernel does: a removal must find its element, an addition must not.
    fn commit(&mut self, changes: &Changes) {
        for element in &changes.remove {
            assert!(self.kernel.remove(element), "{element:?} is not there to remove");
        }
        for element in &changes.add {
            assert!(self.kernel.insert(*element), "{element:?} is there already");
        }
        let everything: BTreeSet<Element> = self.plan.everything().into_iter().collect();
        assert_eq!(self.kernel, everything, "changes add up to the whole");
    }
}

fn show(sign: char, element: &Element) -> String {
    let front = |Front { address, protocol, port }| format!("{address} {protocol:?} {port}");
    let mut line = format!("{sign} ");
    let _ = match *element {
        Element::Service { front: at, count } => writeln!(line, "svc {} -> c{count}", front(at)),
        Element::Endpoint { front: at, index, back: Back { address, port } } => {
            writeln!(line, "ep {} #{index} -> {address}:{port}", front(at))
        }
        Element::Hairpin(address) => writeln!(line, "hairpin {address}"),
    };
    line
}

/// `10.96.0.10 http/TCP/80 dns/UDP/53 web/TCP/80/30080 local`
fn service(words: &[String]) -> Result<Service, Box<dyn Error>> {
    let mut service = Service::default();
    for word in words {
        match word.split('/').collect::<Vec<_>>()[..] {
            ["local"] => service.local_only = true,
            [address] => service.addresses.push(address.parse()?),
            [name, protocol, port] => service.ports.push(port_of(name, protocol, port)?),
            [name, protocol, port, node] => {
                let port = port_of(name, protocol, port)?;
                service.ports.push(ServicePort { node_port: Some(node.parse()?), ..port });
            }
            _ => return Err(format!("cannot read {word}").into()),
        }
    }
    Ok(service)
}

/// `http/TCP/8080 10.244.0.5 10.244.0.6/starting 10.244.0.7/stopping 10.244.1.2/remote`
fn slice(words: &[String]) -> Result<Slice, Box<dyn Error>> {
    let mut slice = Slice::default();
    for word in words {
        if let [name, protocol, port] = word.split('/').collect::<Vec<_>>()[..] {
            slice.ports.push(port_of(name, protocol, port)?);
            continue;
        }
        let (address, state) = word.split_once('/').unwrap_or((word, "ready"));
        slice.endpoints.push(Endpoint {
            address: address.parse()?,
            ready: matches!(state, "ready" | "remote"),
            serving: matches!(state, "ready" | "remote" | "stopping"),
            terminating: matches!(state, "stopping" | "dead"),
            local: state != "remote",
        });
    }
    Ok(slice)
}

fn port_of(name: &str, protocol: &str, port: &str) -> Result<ServicePort, Box<dyn Error>> {
    let protocol = Protocol::parse(Some(protocol)).ok_or("no such protocol")?;
    Ok(ServicePort { name: name.to_owned(), protocol, port: port.parse()?, node_port: None })
}

fn run(script: &str) {
    let path = format!("{}/src/proxy/tests/scripts/{script}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Script::default(), path).expect("the script holds");
}

#[test]
fn a_service_comes_and_goes() {
    run("life");
}

#[test]
fn endpoints_keep_their_numbers() {
    run("numbers");
}

#[test]
fn stopping_endpoints_are_the_last_resort() {
    run("stopping");
}

#[test]
fn ports_are_joined_by_name() {
    run("ports");
}

#[test]
fn node_ports_lead_to_the_same_endpoints() {
    run("node_port");
}

/// Goal: whatever the endpoints do, changes add up, numbers have no gap and survivors rarely move.
/// Method: random sets of endpoints one after the other; the script runner's own checks, plus a bound on
/// how much one step may write.
#[test]
fn any_sequence_of_endpoint_sets_adds_up() {
    use proptest::prelude::*;
    let steps = prop::collection::vec(prop::collection::btree_set(1u8..12, 0..8), 1..12);
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(steps in steps)| {
        let mut script = Script::default();
        let words = ["10.96.0.10".to_owned(), "a/TCP/80".to_owned()];
        script.services.insert("s".into(), service(&words).expect("a service"));
        let mut before = BTreeSet::new();
        for step in steps {
            let mut words = vec!["a/TCP/8080".to_owned()];
            words.extend(step.iter().map(|last| format!("10.244.0.{last}")));
            script.slices.insert("s".into(), vec![slice(&words).expect("a slice")]);
            let written = script.apply("s").lines().filter(|line| line.contains("ep ")).count();
            let changed = before.symmetric_difference(&step).count();
            prop_assert!(written <= 3 * changed, "{written} elements written for {changed} changes");
            before = step;
        }
    });
}
