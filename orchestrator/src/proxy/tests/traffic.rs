//! Real connections through elements written by our own netlink messages.
//!
//! A thread becomes a node: it unshares a network namespace of its own, with a bridge and no default
//! route; each endpoint is a thread in another namespace, joined by a veth pair. Namespaces without a
//! name end with their last thread, so nothing is left behind whatever happens.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::super::KernelError;
use super::super::guard::Guard;
use super::super::message::{Batch, DEL_TABLE};
use super::super::plan::{Changes, Element, Endpoint, Plan, Protocol, Service, ServicePort, Slice};
use super::super::routes;
use super::super::ruleset::{self, Ranges, Writer};
use super::super::socket::Socket;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const WAIT: Duration = Duration::from_secs(5);

/// Runs the body in a network namespace of its own.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let node = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        body();
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is there");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn allow_forwarding() {
    let output = Command::new("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).output();
    assert!(output.is_ok_and(|output| output.status.success()), "sysctl sets ip_forward");
}

/// A pod: a thread in its own namespace that answers on TCP and UDP 8080 with its address, and on
/// request connects somewhere.
struct Pod {
    address: Ipv4Addr,
    calls: mpsc::Sender<(SocketAddr, mpsc::Sender<Result<String, ErrorKind>>)>,
}

impl Pod {
    fn start(last: u8) -> Self {
        let address = Ipv4Addr::new(10, 244, 0, last);
        let (ready, started) = mpsc::channel();
        let (attached, attach) = mpsc::channel();
        let (calls, requests) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            ready.send(nix::unistd::gettid()).expect("the node waits");
            let () = attach.recv().expect("the node attaches the veth");
            ip("link set lo up");
            ip(&format!("addr add {address}/24 dev eth{last}"));
            ip(&format!("link set eth{last} up"));
            ip("route add default via 10.244.0.1");
            serve(address);
            ready.send(nix::unistd::gettid()).expect("the node waits");
            for (to, answer) in requests {
                let answer: mpsc::Sender<_> = answer;
                let _ = answer.send(ask(to));
            }
        });
        let thread_id = started.recv_timeout(WAIT).expect("the pod starts");
        ip(&format!("link add veth{last} type veth peer name eth{last} netns {thread_id}"));
        ip(&format!("link set veth{last} master orch0 up"));
        ip(&format!("link set veth{last} type bridge_slave hairpin on"));
        attached.send(()).expect("the pod waits");
        started.recv_timeout(WAIT).expect("the pod is up");
        Self { address, calls }
    }

    fn ask(&self, to: SocketAddr) -> Result<String, ErrorKind> {
        let (answer, answered) = mpsc::channel();
        self.calls.send((to, answer)).expect("the pod lives");
        answered.recv_timeout(WAIT).expect("the pod answers")
    }
}

fn serve(address: Ipv4Addr) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).expect("a port of its own");
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)).expect("a port of its own");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(address.to_string().as_bytes()));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(address.to_string().as_bytes(), from);
        }
    });
}

fn ask(to: SocketAddr) -> Result<String, ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&to, WAIT).map_err(|error| error.kind())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.kind())?;
    Ok(text)
}

fn ask_udp(to: SocketAddr) -> Result<String, ErrorKind> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    socket.set_read_timeout(Some(WAIT)).expect("a time-out");
    socket.connect(to).map_err(|error| error.kind())?;
    socket.send(b"?").map_err(|error| error.kind())?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A node with a bridge, a table and nothing else.
struct Node {
    socket: Socket,
    writer: Writer,
    plan: Plan,
}

impl Node {
    fn start() -> Self {
        ip("link set lo up");
        ip("link add orch0 type bridge");
        ip("addr add 10.244.0.1/24 dev orch0");
        ip("link set orch0 up");
        allow_forwarding();
        let ranges = Ranges {
            cluster: "10.244.0.0/16".parse().expect("a range"),
            service: "10.96.0.0/12".parse().expect("a range"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(routes::install(ranges.service)).expect("routes");
        let mut node = Self {
            socket: Socket::open().expect("a socket"),
            writer: Writer::new(ranges),
            plan: Plan::default(),
        };
        let table = node.writer.replace(&[]);
        node.socket.commit(&table).expect("the kernel takes the table");
        node
    }

    fn set(&mut self, port: u16, pods: &[&Pod]) {
        let ports = |port, node_port| {
            [("t", Protocol::Tcp), ("u", Protocol::Udp)]
                .map(|(name, protocol)| ServicePort {
                    name: name.into(),
                    protocol,
                    port,
                    node_port,
                })
                .to_vec()
        };
        let ports_of_service = ports(port, Some(30_000 + port));
        let service = Service { addresses: vec![VIP], ports: ports_of_service, local_only: false };
        let endpoints = pods.iter().map(|pod| Endpoint {
            address: pod.address,
            ready: true,
            serving: true,
            terminating: false,
            local: true,
        });
        let slice = Slice { ports: ports(8080, None), endpoints: endpoints.collect() };
        let changes = self.plan.set(&port.to_string(), Some(&service), &[slice]);
        self.commit(&changes);
    }

    fn commit(&mut self, changes: &Changes) {
        self.socket.commit(&self.writer.change(changes)).expect("the kernel takes the change");
    }
}

fn answers(mut ask: impl FnMut() -> Result<String, ErrorKind>) -> BTreeSet<String> {
    (0..40).map(|_| ask().expect("an answer")).collect()
}

/// Goal: what the plan wants is what packets meet: from the node and from pods, over TCP and UDP, to one
/// and to many endpoints, to oneself, and to nobody.
#[test]
fn packets_follow_the_elements() {
    if !::tests::root("packets_follow_the_elements") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::start();
        let pods = [Pod::start(5), Pod::start(6), Pod::start(7)];
        let names: BTreeSet<String> = pods.iter().map(|pod| pod.address.to_string()).collect();
        let web = SocketAddr::from((VIP, 80));

        assert_eq!(ask(web), Err(ErrorKind::ConnectionRefused), "no element: rejected on the node");
        assert_eq!(pods[0].ask(web), Err(ErrorKind::ConnectionRefused), "and for pods");
        // The kernel tells a local UDP sender at once, by the error of a packet that was dropped.
        assert_eq!(ask_udp(web), Err(ErrorKind::PermissionDenied), "and for UDP");

        node.set(80, &pods.each_ref());
        assert_eq!(answers(|| ask(web)), names, "from the node to all three");
        assert_eq!(answers(|| ask_udp(web)), names, "over UDP too");
        assert_eq!(answers(|| pods[0].ask(web)), names, "from a pod to all three, itself included");

        let node_port = SocketAddr::from(([10, 244, 0, 1], 30_080));
        assert_eq!(answers(|| ask(node_port)), names, "through the node's own address");
        assert_eq!(answers(|| ask_udp(node_port)), names, "over UDP too");
        assert_eq!(answers(|| pods[0].ask(node_port)), names, "from a pod, itself included");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 30_080));
        assert_eq!(ask(loopback), Err(ErrorKind::ConnectionRefused), "loopback is the node's own");

        node.set(80, &[&pods[1]]);
        assert_eq!(
            answers(|| ask(web)),
            BTreeSet::from([names.iter().nth(1).expect("three").clone()])
        );

        // A replaced endpoint, and a second port of the same address.
        node.set(80, &[&pods[2]]);
        node.set(81, &[&pods[0]]);
        assert_eq!(ask(web).as_deref(), Ok("10.244.0.7"));
        assert_eq!(
            pods[0].ask(SocketAddr::from((VIP, 81))).as_deref(),
            Ok("10.244.0.5"),
            "hairpin"
        );

        node.set(80, &[]);
        assert_eq!(ask(web), Err(ErrorKind::ConnectionRefused), "the last endpoint left");
        let nobody = SocketAddr::from(([10, 100, 3, 4], 80));
        assert_eq!(pods[0].ask(nobody), Err(ErrorKind::ConnectionRefused), "no such Service");
    });
}

/// Goal: a proxy that starts again replaces its table without a trace of the old one, and `down` leaves
/// none at all.
#[test]
fn a_table_is_replaced_and_removed_as_a_whole() {
    if !::tests::root("a_table_is_replaced_and_removed_as_a_whole") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::start();
        let pod = Pod::start(5);
        node.set(80, &[&pod]);
        node.set(81, &[&pod]);
        let mut again =
            Node { socket: Socket::open().expect("a socket"), plan: Plan::default(), ..node };
        let empty = again.writer.replace(&[]);
        again.socket.commit(&empty).expect("the kernel takes the table");
        assert_eq!(ask(SocketAddr::from((VIP, 80))), Err(ErrorKind::ConnectionRefused));
        again.set(80, &[&pod]);
        assert_eq!(ask(SocketAddr::from((VIP, 80))).as_deref(), Ok("10.244.0.5"));

        again.socket.commit(&ruleset::remove(1000)).expect("the kernel removes the table");
        let mut gone = Batch::new(2000);
        gone.push(DEL_TABLE, 0, |table| table.text(1, ruleset::TABLE));
        let error = again.socket.commit(&gone.finish()).expect_err("there is no table");
        assert!(matches!(error, KernelError::Refused { nth: 1, errno: Errno::ENOENT }), "{error}");
        again.socket.commit(&ruleset::remove(3000)).expect("removing nothing is fine");
    });
}

/// Goal: pods reach the world outside by the node's address, since nobody there knows theirs.
#[test]
fn pods_leave_by_the_address_of_the_node() {
    if !::tests::root("pods_leave_by_the_address_of_the_node") {
        return;
    }
    in_namespace(|| {
        let _node = Node::start();
        let pod = Pod::start(5);
        let outside = Ipv4Addr::new(192, 0, 2, 2);
        let (ready, started) = mpsc::channel();
        let (attached, attach) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            ready.send(nix::unistd::gettid()).expect("the node waits");
            let () = attach.recv().expect("the node attaches the veth");
            // No route back to the pods: an answer only finds the node itself.
            ip("addr add 192.0.2.2/24 dev eth0");
            ip("link set eth0 up");
            serve(outside);
            ready.send(nix::unistd::gettid()).expect("the node waits");
            let _ = attach.recv();
        });
        let thread_id = started.recv_timeout(WAIT).expect("it starts");
        ip(&format!("link add uplink type veth peer name eth0 netns {thread_id}"));
        ip("addr add 192.0.2.1/24 dev uplink");
        ip("link set uplink up");
        attached.send(()).expect("it waits");
        started.recv_timeout(WAIT).expect("it is up");
        assert_eq!(pod.ask(SocketAddr::from((outside, 8080))).as_deref(), Ok("192.0.2.2"));
    });
}

/// Goal: the guard tells a removal of our table, and nothing else that happens to it.
#[test]
fn a_removal_by_somebody_else_is_noticed() {
    if !::tests::root("a_removal_by_somebody_else_is_noticed") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut guard = Guard::open().expect("a socket");
            let noticed = async |guard: &mut Guard, wait| {
                tokio::time::timeout(wait, guard.removed()).await.is_ok()
            };
            let service = Element::Hairpin(VIP);
            node.commit(&Changes { add: vec![service], remove: Vec::new() });
            assert!(
                !noticed(&mut guard, Duration::from_millis(50)).await,
                "an element is no removal"
            );
            node.socket.commit(&node.writer.look()).expect("the table is there");

            let mut other = Socket::open().expect("a socket");
            other.commit(&ruleset::remove(1)).expect("removed");
            assert!(noticed(&mut guard, WAIT).await);
            let error = node.socket.commit(&node.writer.look()).expect_err("the table is gone");
            assert!(matches!(error, KernelError::Refused { errno: Errno::ENOENT, .. }), "{error}");
            let table = node.writer.replace(&[service]);
            node.socket.commit(&table).expect("it is back");
            node.socket.commit(&node.writer.look()).expect("the table is there");
        });
    });
}

/// Goal: ten thousand Services are one transaction, and one more is a small one.
#[test]
fn ten_thousand_services_are_one_transaction() {
    if !::tests::root("ten_thousand_services_are_one_transaction") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::start();
        let mut all = Changes::default();
        for nth in 0..10_000u32 {
            let address = Ipv4Addr::from(u32::from(VIP) + 256 + nth);
            let ports = |port| {
                let (name, protocol, node_port) = (String::new(), Protocol::Tcp, None);
                vec![ServicePort { name, protocol, port, node_port }]
            };
            let service = Service { addresses: vec![address], ports: ports(80), local_only: false };
            let endpoint = |last| Endpoint {
                address: Ipv4Addr::new(10, 244, 0, last),
                ready: true,
                serving: true,
                terminating: false,
                local: true,
            };
            let slice = Slice { ports: ports(8080), endpoints: vec![endpoint(5), endpoint(6)] };
            all.append(node.plan.set(&nth.to_string(), Some(&service), &[slice]));
        }
        node.commit(&all);
        let pod = Pod::start(5);
        node.set(80, &[&pod]);
        assert_eq!(ask(SocketAddr::from((VIP, 80))).as_deref(), Ok("10.244.0.5"));
    });
}
