//! The whole node agent on an embedded store: pods from the registry to running containers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use orchestrator::api::kinds::{CONFIG_MAP, NAMESPACE, NODE, POD};
use orchestrator::api::{Key, Object};
use orchestrator::client::Context;
use orchestrator::client::etcd::Store;
use orchestrator::kubelet::network::NetworkConfig;
use orchestrator::kubelet::{
    self, AtEnd, Dns, KubeletConfig, Leftovers, ServerTls, cgroup, teardown,
};
use orchestrator::pki::{Names, Pki, Role};
use orchestrator::registry::{self, Actor, Config, DeleteOptions, Registry, WriteOptions};
use orchestrator::tasks::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{in_private_network, program};

const PATIENCE: Duration = Duration::from_secs(30);

/// A store, a registry and a kubelet, alone in their network namespace.
struct Node {
    dir: tempfile::TempDir,
    store: Option<store::Node>,
    registry: Registry,
    context: Context,
    tasks: Tasks,
    pki: Pki,
    cgroup_root: String,
    kubelet: Option<(JoinHandle<()>, CancellationToken, AtEnd)>,
    port: u16,
}

impl Node {
    async fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mut config = store::config::Config::new("default", dir.path().join("store"));
        config.listen.client_urls =
            vec![store::config::urls::Url::parse("http://127.0.0.1:12379").expect("an address")];
        config.listen.peer_urls.clear();
        let store = store::Node::start(config).await.expect("the store starts");
        let client = Store::from_channel(store.connect());
        registry::claim(&client).await.expect("the store is empty");
        let config =
            Config { service_cidr: "10.96.0.0/12".parse().expect("a range"), ..Config::default() };
        let registry = Registry::new(client, config);
        let tasks = Tasks::new();
        let context = Context::new(registry.clone(), &tasks, &tasks);
        let names = Names {
            node: "node".into(),
            host: "node".into(),
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            api_service: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
        };
        let pki = Pki::open(&dir.path().join("pki"), &names, time::OffsetDateTime::now_utc())
            .expect("certificates are made");
        for namespace in ["default", "kube-node-lease"] {
            let object = Object::new(&NAMESPACE, &Key::cluster(namespace));
            registry
                .create(&actor(), &NAMESPACE, object, &WriteOptions::default())
                .await
                .expect("the namespace is new");
        }
        let cgroup_root = format!("/orchestrator-test-{}-{name}", std::process::id());
        let mut node = Self {
            dir,
            store: Some(store),
            registry,
            context,
            tasks,
            pki,
            cgroup_root,
            kubelet: None,
            port: 0,
        };
        node.start_kubelet().await;
        node
    }

    async fn start_kubelet(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        self.port = listener.local_addr().expect("bound").port();
        let server = self.pki.identity(Role::KubeletServer).expect("is there");
        let config = KubeletConfig {
            context: self.context.clone(),
            node_name: "node".into(),
            node_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            data_dir: self.dir.path().to_owned(),
            log_dir: self.dir.path().join("logs"),
            cgroup_root: self.cgroup_root.clone(),
            program: program().to_owned(),
            network: network(),
            dns: Dns::default(),
            api_service: (Ipv4Addr::new(10, 96, 0, 1), 443),
            listener,
            tls: ServerTls {
                certificate: server.cert_pem,
                key: server.key_pem,
                client_ca: self.pki.ca_pem.clone(),
                admitted: BTreeSet::from(["kube-apiserver-kubelet-client".to_owned()]),
            },
        };
        let (stop, at_end) = (CancellationToken::new(), AtEnd::default());
        let running = Box::pin(kubelet::run(config, stop.clone(), at_end.clone()));
        let handle = tokio::spawn(async move {
            running.await.expect("the kubelet runs");
        });
        self.kubelet = Some((handle, stop, at_end));
    }

    /// As `kill -9` would: no farewell of any kind.
    async fn kill_kubelet(&mut self) {
        let (handle, _, _) = self.kubelet.take().expect("it runs");
        handle.abort();
        let _ = handle.await;
    }

    async fn stop_kubelet(&mut self, stop_pods: bool) {
        let (handle, stop, at_end) = self.kubelet.take().expect("it runs");
        if stop_pods {
            at_end.stop_pods();
        }
        stop.cancel();
        handle.await.expect("it ends well");
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "node".into();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": spec,
        });
        let pod = Object::from_value(pod).expect("an object");
        self.registry
            .create(&actor(), &POD, pod, &WriteOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    async fn pod(&self, name: &str) -> Object {
        self.registry.get(&POD, &Key::namespaced("default", name)).await.expect("is there")
    }

    async fn wait(&self, name: &str, what: &str, holds: impl Fn(&Object) -> bool) -> Object {
        let begun = Instant::now();
        loop {
            let pod = self.pod(name).await;
            if holds(&pod) {
                return pod;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} is not {what}: {:#}", pod.as_value());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn running(&self, name: &str) -> Object {
        self.wait(name, "running", |pod| pod.text("/status/phase") == Some("Running")).await
    }

    async fn delete(&self, name: &str) {
        let key = Key::namespaced("default", name);
        let options = DeleteOptions::default();
        self.registry.delete(&actor(), &POD, &key, &options).await.expect("may be deleted");
    }

    async fn gone(&self, name: &str) {
        let key = Key::namespaced("default", name);
        let begun = Instant::now();
        while let Ok(pod) = self.registry.get(&POD, &key).await {
            assert!(begun.elapsed() < PATIENCE, "{name} does not go: {:#}", pod.as_value());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A pod's log, as the apiserver would fetch it.
    async fn logs(&self, path: &str) -> (u16, String) {
        let identity = self.pki.identity(Role::ApiserverKubeletClient).expect("is there");
        get(self.port, &self.pki, &identity.cert_pem, &identity.key_pem, path).await
    }

    /// Deletes every pod, and checks that nothing is left.
    async fn end(mut self) {
        if let Some((handle, stop, _)) = self.kubelet.take() {
            stop.cancel();
            let _ = handle.await;
        }
        let left = teardown(&Leftovers {
            data_dir: self.dir.path().to_owned(),
            log_dir: self.dir.path().join("logs"),
            cgroup_root: self.cgroup_root.clone(),
            bridge: "orch0".into(),
            cluster_cidr: Some(network().cluster_cidr),
        })
        .await;
        assert!(left.is_empty(), "{left:?}");
        self.tasks.stop();
        let _ = self.tasks.wait(Duration::from_secs(5)).await;
        self.store.take().expect("it runs until here").shutdown().await;
        assert!(cgroup::child_names(&self.cgroup_root).is_empty());
        let links = std::fs::read_to_string("/proc/thread-self/net/dev").expect("lists links");
        let names: Vec<&str> =
            links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        assert!(!names.iter().any(|name| name.starts_with("ve") || *name == "orch0"), "{names:?}");
        let here = self.dir.path().to_string_lossy().into_owned();
        for process in std::fs::read_dir("/proc").expect("lists").flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            assert!(!command.contains(&here), "a process is left: {command:?}");
        }
    }
}

impl Drop for Node {
    /// A test that failed half way must not leave its pods running either.
    fn drop(&mut self) {
        let pods = std::fs::read_dir(self.dir.path().join("pods")).into_iter().flatten().flatten();
        for pod in pods {
            let state = std::fs::read(pod.path().join("state.json")).unwrap_or_default();
            let state: Value = serde_json::from_slice(&state).unwrap_or_default();
            let shim = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(shim) = shim.filter(|pid| *pid > 1) {
                let shim = nix::unistd::Pid::from_raw(shim);
                let _ = nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = cgroup::kill_all(&self.cgroup_root, Duration::from_secs(5));
        let _ = cgroup::remove(&self.cgroup_root);
    }
}

fn network() -> NetworkConfig {
    NetworkConfig {
        cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
        pod_cidr: "10.244.0.0/24".parse().expect("a range"),
        bridge: "orch0".into(),
    }
}

fn actor() -> Actor {
    Actor { user: "test".into(), groups: vec!["system:masters".into()] }
}

fn testbox(name: &str, args: &[&str]) -> Value {
    json!({"name": name, "image": "testbox:v1", "args": args})
}

async fn get(port: u16, pki: &Pki, cert: &str, key: &str, path: &str) -> (u16, String) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pki.ca_pem.as_bytes()) {
        roots.add(root.expect("a certificate")).expect("is a CA");
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("fits");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("listens");
    let name = ServerName::try_from("127.0.0.1").expect("an address").to_owned();
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    // The peer may close without a farewell; what came counts.
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (code, body)
}

async fn http(address: &str) -> String {
    let mut answer = String::new();
    for _ in 0..30 {
        let connect = TcpStream::connect(address);
        let connected = tokio::time::timeout(Duration::from_secs(1), connect).await;
        if let Ok(Ok(mut stream)) = connected {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            let _ = stream.read_to_string(&mut answer).await;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned()
}

fn container<'a>(pod: &'a Object, pointer: &str) -> &'a Value {
    pod.get(&format!("/status/containerStatuses/0{pointer}")).unwrap_or(&Value::Null)
}

fn pid_of(node: &Node, pod: &Object) -> i32 {
    let path: PathBuf = node.dir.path().join("pods").join(pod.uid()).join("state.json");
    let state: Value =
        serde_json::from_slice(&std::fs::read(path).expect("a state")).expect("is JSON");
    let containers = state["containers"].as_object().expect("containers");
    let running = containers.values().find(|one| one["phase"]["phase"] == "running");
    let pid = running.and_then(|one| one["pid"].as_i64()).expect("one runs");
    i32::try_from(pid).expect("a pid")
}

#[test]
fn a_pod_runs_is_reached_restarted_logged_and_removed() {
    in_private_network(|| async {
        let begun = Instant::now();
        let node = Node::start("life").await;
        let ready =
            |object: &Object| object.condition("Ready").is_some_and(|one| one["status"] == "True");
        loop {
            match node.registry.get(&NODE, &Key::cluster("node")).await {
                Ok(object) if ready(&object) => break,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            assert!(begun.elapsed() < PATIENCE, "the node does not get ready");
        }
        eprintln!("node ready after {:?} (store and certificates included)", begun.elapsed());

        node.create(
            "web",
            json!({"terminationGracePeriodSeconds": 5,
            "containers": [testbox("c", &["http"])]}),
        )
        .await;
        let pod = node.running("web").await;
        let ip = pod.text("/status/podIP").expect("an address").to_owned();
        assert_eq!(http(&format!("{ip}:8080")).await, "web v1");
        assert_eq!(container(&pod, "/ready"), true);
        assert_eq!(pod.text("/status/qosClass"), Some("BestEffort"));

        let (code, text) = node.logs("/containerLogs/default/web/c?tailLines=5").await;
        assert_eq!((code, text.as_str()), (200, "testbox v1 of web serves on port 8080\n"));
        let (code, _) = node.logs("/containerLogs/default/web/nope").await;
        assert_eq!(code, 404);
        let admin = node.pki.identity(Role::Admin).expect("is there");
        let (code, _) =
            get(node.port, &node.pki, &admin.cert_pem, &admin.key_pem, "/healthz").await;
        assert_eq!(code, 403, "only the apiserver is admitted");

        let first = pid_of(&node, &pod);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(first),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("it runs");
        let pod = node
            .wait("web", "restarted", |pod| {
                *container(pod, "/restartCount") == 1
                    && container(pod, "/state/running").is_object()
            })
            .await;
        assert_eq!(container(&pod, "/lastState/terminated/exitCode"), 137);
        assert_eq!(pod.text("/status/podIP"), Some(ip.as_str()));
        let (_, previous) = node.logs("/containerLogs/default/web/c?previous=true").await;
        assert!(previous.contains("serves on port 8080"), "{previous}");

        let uid = pod.uid().to_owned();
        node.delete("web").await;
        node.gone("web").await;
        assert!(!node.dir.path().join("pods").join(&uid).exists());
        assert!(
            std::fs::read_dir(node.dir.path().join("logs")).expect("is there").next().is_none()
        );
        node.end().await;
    });
}

#[test]
fn a_new_kubelet_adopts_what_runs_and_removes_what_was_deleted_meanwhile() {
    in_private_network(|| async {
        let mut node = Node::start("adopt").await;
        for name in ["stays", "goes"] {
            node.create(
                name,
                json!({"terminationGracePeriodSeconds": 0,
                "containers": [testbox("c", &["http"])]}),
            )
            .await;
        }
        let pod = node.running("stays").await;
        node.running("goes").await;
        let (ip, pid) = (pod.text("/status/podIP").map(str::to_owned), pid_of(&node, &pod));
        let address = format!("{}:8080", ip.clone().unwrap_or_default());
        assert_eq!(http(&address).await, "stays v1");
        node.kill_kubelet().await;
        assert_eq!(http(&address).await, "stays v1", "pods do not need a kubelet");
        node.delete("goes").await;
        node.start_kubelet().await;
        node.gone("goes").await;
        let begun = Instant::now();
        let pods = node.dir.path().join("pods");
        while std::fs::read_dir(&pods).expect("is there").count() > 1 {
            assert!(begun.elapsed() < PATIENCE, "the deleted pod is not removed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let adopted = node.pod("stays").await;
        assert_eq!(pid_of(&node, &adopted), pid, "the very same process");
        assert_eq!(adopted.text("/status/podIP").map(str::to_owned), ip);
        assert_eq!(container(&adopted, "/restartCount"), 0);
        assert_eq!(http(&address).await, "stays v1");

        // A shim that dies takes its containers along; the pod goes on with a new one.
        let path = node.dir.path().join("pods").join(adopted.uid()).join("state.json");
        let state: Value =
            serde_json::from_slice(&std::fs::read(path).expect("is there")).expect("JSON");
        let shim = i32::try_from(state["pid"].as_i64().expect("a pid")).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
            .expect("it runs");
        let pod = node
            .wait("stays", "running again", |pod| {
                *container(pod, "/restartCount") == 1
                    && container(pod, "/state/running").is_object()
            })
            .await;
        let last = container(&pod, "/lastState/terminated/reason");
        assert_eq!(last, "ContainerStatusUnknown");
        assert_eq!(pod.text("/status/podIP").map(str::to_owned), ip);
        assert_eq!(http(&address).await, "stays v1");

        // Ctrl-C: pods stop with the node, and come back with it.
        node.stop_kubelet(true).await;
        assert!(TcpStream::connect(&address).await.is_err());
        node.start_kubelet().await;
        node.wait("stays", "back", |pod| *container(pod, "/restartCount") == 2).await;
        assert_eq!(http(&address).await, "stays v1");
        node.end().await;
    });
}

#[test]
fn statuses_say_what_happened() {
    in_private_network(|| async {
        let node = Node::start("status").await;
        let once = |containers: Value| json!({"restartPolicy": "Never", "containers": containers});
        node.create("done", once(json!([testbox("c", &["write", "/dev/termination-log", "bye"])])))
            .await;
        node.create("failed", once(json!([testbox("c", &["exit", "3"])]))).await;
        let mut eater = testbox("c", &["eat", "100"]);
        eater["resources"] = json!({"limits": {"memory": "20Mi"}});
        node.create("eater", once(json!([eater]))).await;
        node.create("absent", json!({"containers": [{"name": "c", "image": "nowhere/nothing:1"}]}))
            .await;
        node.create(
            "nocmd",
            json!({"containers": [{"name": "c", "image": "testbox:v1", "command": ["/nope"]}]}),
        )
        .await;
        node.create("crash", json!({"containers": [testbox("c", &["exit", "1"])]})).await;
        let mut tty = testbox("c", &["http"]);
        tty["tty"] = true.into();
        node.create("fancy", json!({"hostPID": true, "containers": [tty]})).await;

        let done =
            node.wait("done", "done", |pod| pod.text("/status/phase") == Some("Succeeded")).await;
        assert_eq!(container(&done, "/state/terminated/reason"), "Completed");
        assert_eq!(container(&done, "/state/terminated/message"), "bye");
        let failed =
            node.wait("failed", "failed", |pod| pod.text("/status/phase") == Some("Failed")).await;
        assert_eq!(container(&failed, "/state/terminated/exitCode"), 3);
        let eater =
            node.wait("eater", "failed", |pod| pod.text("/status/phase") == Some("Failed")).await;
        assert_eq!(container(&eater, "/state/terminated/reason"), "OOMKilled");
        let absent = node
            .wait("absent", "backing off", |pod| {
                container(pod, "/state/waiting/reason") == "ImagePullBackOff"
            })
            .await;
        let message = container(&absent, "/state/waiting/message").to_string();
        assert!(message.contains("orchestrator image import FILE"), "{message}");
        let nocmd = node
            .wait("nocmd", "crash looping", |pod| {
                container(pod, "/state/waiting/reason") == "CrashLoopBackOff"
            })
            .await;
        let last = container(&nocmd, "/lastState/terminated");
        assert_eq!((&last["reason"], &last["exitCode"]), (&json!("StartError"), &json!(128)));
        let crash = node
            .wait("crash", "crash looping", |pod| {
                container(pod, "/state/waiting/reason") == "CrashLoopBackOff"
            })
            .await;
        assert!(container(&crash, "/restartCount").as_i64() >= Some(1), "the first did not wait");
        let fancy = node.wait("fancy", "refused", |pod| pod.text("/status/reason").is_some()).await;
        assert_eq!(fancy.text("/status/phase"), Some("Pending"));
        let message = fancy.text("/status/message").unwrap_or_default();
        assert!(
            message.contains("spec.hostPID") && message.contains("spec.containers[0].tty"),
            "{message}"
        );
        for name in ["done", "failed", "eater", "absent", "nocmd", "crash", "fancy"] {
            node.delete(name).await;
        }
        for name in ["done", "failed", "eater", "absent", "nocmd", "crash", "fancy"] {
            node.gone(name).await;
        }
        node.end().await;
    });
}

#[test]
fn configuration_reaches_the_container() {
    in_private_network(|| async {
        let node = Node::start("config").await;
        let mut pod = json!({
            "restartPolicy": "Never", "hostname": "box",
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 1002},
            "initContainers": [testbox("i", &[])],
            "containers": [{
                "name": "c", "image": "testbox:v2", "workingDir": "/shared",
                "args": ["env", "then", "id", "then", "cat", "a", "/config/key", "/meta/labels",
                         "/mem/x", "/etc/hosts", "then", "write", "/config/no", "x"],
                "env": [
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
                    {"name": "BOTH", "value": "$(NODE)/$(KEY)"},
                ],
                "volumeMounts": [
                    {"name": "s", "mountPath": "/shared"}, {"name": "cm", "mountPath": "/config"},
                    {"name": "d", "mountPath": "/meta"}, {"name": "m", "mountPath": "/mem"}],
            }],
            "volumes": [
                {"name": "s", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}},
                {"name": "cm", "configMap": {"name": "cm"}},
                {"name": "d", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ],
        });
        pod["initContainers"][0]["volumeMounts"] = json!([
            {"name": "s", "mountPath": "/shared"}, {"name": "m", "mountPath": "/mem"}]);
        pod["initContainers"][0]["args"] =
            json!(["write", "/shared/a", "from init\n", "then", "write", "/mem/x", "in memory\n"]);
        node.create("full", pod).await;
        let waiting = |pod: &Object| {
            let reason = pod.get("/status/initContainerStatuses/0/state/waiting/reason");
            reason.is_some_and(|reason| reason == "CreateContainerConfigError")
        };
        node.wait("full", "waiting for its config map", waiting).await;
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cm", "namespace": "default"}, "data": {"key": "value\n"}});
        let map = Object::from_value(map).expect("an object");
        node.registry
            .create(&actor(), &CONFIG_MAP, map, &WriteOptions::default())
            .await
            .expect("is new");
        let pod =
            node.wait("full", "over", |pod| pod.text("/status/phase") == Some("Failed")).await;
        let (_, log) = node.logs("/containerLogs/default/full/c").await;
        let ip = pod.text("/status/podIP").unwrap_or("none").to_owned();
        for line in [
            "TESTBOX_VERSION=v2",
            "HOSTNAME=box",
            "NODE=node",
            "KEY=value",
            "BOTH=node/value",
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "Uid: 1000 1000 1000 1000",
            "Gid: 1001 1001 1001 1001",
            "Groups: 1002",
            "from init",
            "value",
            "app=\"full\"",
            "in memory",
        ] {
            assert!(log.lines().any(|found| found == line), "no {line:?} in {log}");
        }
        assert!(log.contains("IP=10.244.0."), "{log} {ip}");
        assert!(log.contains("Read-only file system"), "{log}");
        node.end().await;
    });
}

#[test]
fn readiness_follows_the_probe() {
    in_private_network(|| async {
        let node = Node::start("probe").await;
        let mut good = testbox("c", &["http", "8080"]);
        good["readinessProbe"] =
            json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
        let mut bad = testbox("c", &["http", "8080"]);
        bad["readinessProbe"] = json!({"tcpSocket": {"port": 9}, "periodSeconds": 1});
        let mut sick = testbox("c", &["http", "8080"]);
        sick["livenessProbe"] =
            json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1});
        node.create("good", json!({"containers": [good]})).await;
        node.create("bad", json!({"containers": [bad]})).await;
        node.create("sick", json!({"terminationGracePeriodSeconds": 1, "containers": [sick]}))
            .await;
        let ready = |pod: &Object| {
            pod.condition("Ready").is_some_and(|condition| condition["status"] == "True")
        };
        node.wait("good", "ready", ready).await;
        let bad = node.running("bad").await;
        assert!(!ready(&bad));
        node.wait("sick", "restarted", |pod| {
            container(pod, "/restartCount").as_i64().is_some_and(|count| count >= 1)
        })
        .await;
        assert!(!ready(&node.pod("bad").await));
        node.end().await;
    });
}

#[test]
fn pods_start_quickly() {
    in_private_network(|| async {
        let node = Node::start("quick").await;
        let spec =
            || json!({"terminationGracePeriodSeconds": 0, "containers": [testbox("c", &["http"])]});
        let mut times = Vec::new();
        for round in 0..10 {
            let name = format!("one-{round}");
            let begun = Instant::now();
            node.create(&name, spec()).await;
            node.running(&name).await;
            times.push(begun.elapsed());
        }
        times.sort();
        eprintln!("create to Running: p50 {:?}, max {:?}", times[5], times[9]);
        let begun = Instant::now();
        for round in 0..20 {
            node.create(&format!("many-{round}"), spec()).await;
        }
        for round in 0..20 {
            node.running(&format!("many-{round}")).await;
        }
        eprintln!("20 pods at once: {:?}", begun.elapsed());
        // Generous: it guards against steps that wait, not against a busy machine.
        assert!(times[5] < Duration::from_secs(3), "{times:?}");
        node.end().await;
    });
}
