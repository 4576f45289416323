//! The API server, driven by the real kubectl.
//!
//! Each test starts a store in this process, an API server over it on a loopback port, and runs
//! kubectl against it with a kubeconfig of its own. No node and no controller runs: what is tested
//! is the API, and that an unmodified client understands it. Without kubectl in the PATH the tests
//! say so and pass.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use orchestrator::apiserver::{self, Pem, StaticToken};
use orchestrator::client::etcd::Store;
use orchestrator::pki::{Names, Pki, Role};
use orchestrator::registry::{Actor, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How long any one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store, an API server and a kubeconfig.
struct Api {
    folder: tempfile::TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), apiserver::Error>>,
    node: store::Node,
}

/// What a command said.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

impl Api {
    /// Starts everything, or counts the test as skipped: kubectl is missing.
    async fn start() -> Option<Self> {
        if tests::tools::theirs("kubectl").is_none() {
            tests::skip("apiserver", "needs kubectl: run tests/tools/fetch target/tools");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = store::config::Config::new("test", folder.path().join("store"));
        let node = store::Node::start(disk).await.expect("the store starts");
        let listener = listen().await;
        let address = listener.local_addr().expect("a bound socket");
        let pki = pki(folder.path().join("pki"));
        let stop = CancellationToken::new();
        let config = config(&pki, listener, &node);
        let server = tokio::spawn(apiserver::run(config, stop.clone()));
        let api = Self { folder, address, stop, server, node };
        let admin = pki.identity(Role::Admin).expect("issued");
        api.kubeconfig("admin", &pki.ca_pem, &user_files(&admin.cert_path, &admin.key_path));
        api.kubeconfig("jane", &pki.ca_pem, "token: jane-token");
        api.kubeconfig("nobody", &pki.ca_pem, "token: wrong");
        api.ready().await;
        Some(api)
    }

    fn kubeconfig(&self, name: &str, authority: &str, user: &str) {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(authority);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    \
             server: https://{}\n    certificate-authority-data: {authority}\ncontexts:\n- name: c\n  \
             context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user:\n    {user}\n",
            self.address
        );
        std::fs::write(self.folder.path().join(name), text).expect("a kubeconfig");
    }

    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let said = self.kubectl(&["get", "service", "kubernetes", "-o", "name"]).await;
            if said.ok {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not ready: {}", said.err);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn command(&self, user: &str, args: &[&str]) -> Command {
        let mut command = Command::new(tests::tools::required("kubectl"));
        command
            .env("KUBECONFIG", self.folder.path().join(user))
            // Discovery is cached per server address; a later server may get this one's port.
            .arg("--cache-dir")
            .arg(self.folder.path().join("cache"))
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn as_user(&self, user: &str, args: &[&str]) -> Said {
        let output = tokio::time::timeout(PATIENCE, self.command(user, args).output());
        said(output.await.expect("kubectl ends").expect("kubectl runs"))
    }

    async fn kubectl(&self, args: &[&str]) -> Said {
        self.as_user("admin", args).await
    }

    /// Runs a command that must succeed.
    async fn do_(&self, args: &[&str]) -> String {
        let said = self.kubectl(args).await;
        assert!(said.ok, "kubectl {}: {}", args.join(" "), said.err);
        said.out
    }

    /// Runs a command that must fail, and answers what it complained of.
    async fn fail(&self, args: &[&str]) -> String {
        let said = self.kubectl(args).await;
        assert!(!said.ok, "kubectl {} succeeded: {}", args.join(" "), said.out);
        said.err
    }

    /// Runs a command that reads a document.
    async fn feed(&self, args: &[&str], document: &str) -> Said {
        let mut command = self.command("admin", args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(document.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
        said(output.await.expect("kubectl ends").expect("kubectl runs"))
    }

    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.server).await.expect("the server stops");
        ended.expect("no panic").expect("no failure");
        self.node.shutdown().await;
    }
}

fn said(output: Output) -> Said {
    Said {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A loopback port below the range that outgoing connections draw from.
async fn listen() -> TcpListener {
    for port in 21_000..21_200 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return listener;
        }
    }
    panic!("no free port");
}

fn pki(folder: PathBuf) -> Pki {
    let names = Names {
        node: "test".into(),
        host: "test".into(),
        addresses: Vec::new(),
        api_service: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    };
    Pki::open(&folder, &names, time::OffsetDateTime::now_utc()).expect("certificates")
}

fn config(pki: &Pki, listener: TcpListener, node: &store::Node) -> apiserver::Config {
    let pem = |role| {
        let identity = pki.identity(role).expect("issued");
        Pem { certificates: identity.cert_pem, key: identity.key_pem }
    };
    let jane = Actor { user: "jane".into(), groups: vec!["dev".into()] };
    let registry = Registry::new(
        Store::from_channel(node.connect()),
        orchestrator::registry::Config::default(),
    );
    apiserver::Config {
        advertise: listener.local_addr().expect("a bound socket"),
        listeners: vec![listener],
        identity: pem(Role::Apiserver),
        kubelet_client: pem(Role::ApiserverKubeletClient),
        authority: pki.ca_pem.clone(),
        tokens: vec![StaticToken { token: "jane-token".into(), user: jane }],
        registry,
        compact_every: Duration::ZERO,
    }
}

fn user_files(certificate: &std::path::Path, key: &std::path::Path) -> String {
    format!("client-certificate: {}\n    client-key: {}", certificate.display(), key.display())
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: testbox:1
        ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let Some(api) = Api::start().await else { return };
    let resources = api.do_(&["api-resources"]).await;
    for kind in ["configmaps", "pods", "deployments", "replicasets", "leases", "endpointslices"] {
        assert!(resources.contains(kind), "{kind} is missing:\n{resources}");
    }
    assert!(api.do_(&["api-versions"]).await.contains("apps/v1\n"));
    assert!(api.do_(&["version"]).await.contains("Server Version: v1.37.0"));
    assert!(api.do_(&["cluster-info"]).await.contains("is running at"));
    assert!(api.do_(&["explain", "pod.spec.containers"]).await.contains("KIND:       Pod"));
    assert!(api.do_(&["auth", "whoami"]).await.contains("system:masters"));
    assert_eq!(api.do_(&["auth", "can-i", "delete", "pods"]).await, "yes\n");
    assert_eq!(api.do_(&["get", "--raw", "/readyz"]).await, "ok");
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_so() {
    let Some(api) = Api::start().await else { return };
    let said = api.as_user("nobody", &["get", "pods"]).await;
    assert!(said.err.contains("Unauthorized") || said.err.contains("logged in"), "{}", said.err);
    let said = api.as_user("jane", &["get", "pods"]).await;
    let wanted = r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(said.err.contains(wanted), "{}", said.err);
    let said = api.as_user("jane", &["auth", "can-i", "list", "pods"]).await;
    assert_eq!(said.out, "no\n");
    let said = api.kubectl(&["get", "pods", "--as=jane"]).await;
    assert!(said.err.contains("impersonation is not supported"), "{}", said.err);
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_from_flags_and_files() {
    let Some(api) = Api::start().await else { return };
    // These send protobuf.
    api.do_(&["create", "namespace", "demo"]).await;
    api.do_(&["create", "configmap", "conf", "--from-literal=a=1"]).await;
    api.do_(&["create", "serviceaccount", "robot"]).await;
    api.do_(&["create", "deployment", "zero", "--image=testbox:1", "--replicas=0"]).await;
    api.do_(&["create", "service", "clusterip", "svc", "--tcp=80:8080"]).await;
    assert_eq!(api.do_(&["get", "configmap", "conf", "-o", "jsonpath={.data.a}"]).await, "1");
    let replicas = ["get", "deployment", "zero", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(api.do_(&replicas).await, "0");
    // These validate against the OpenAPI documents and send JSON.
    let said = api.feed(&["apply", "-f", "-"], WEB).await;
    assert!(said.ok && said.out.contains("deployment.apps/web created"), "{}", said.err);
    let said = api.feed(&["apply", "-f", "-"], &WEB.replace("replicas: 3", "replicas: 2")).await;
    assert!(said.ok && said.out.contains("deployment.apps/web configured"), "{}", said.err);
    assert!(said.out.contains("service/web unchanged"), "{}", said.out);
    let said = api.feed(&["create", "-f", "-"], WEB).await;
    assert!(said.err.contains(r#"deployments.apps "web" already exists"#), "{}", said.err);
    let odd = WEB.replace("replicas: 3", "replicaz: 3");
    let said = api.feed(&["apply", "-f", "-"], &odd).await;
    assert!(said.err.contains(r#"unknown field "spec.replicaz""#), "{}", said.err);
    let said = api.feed(&["apply", "--server-side", "-f", "-"], WEB).await;
    assert!(said.err.contains("Server-side apply not available"), "{}", said.err);
    api.do_(&["run", "one", "--image=testbox:1"]).await;
    api.do_(&["expose", "deployment", "web", "--name=again", "--port=81"]).await;
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_change_in_every_way() {
    let Some(api) = Api::start().await else { return };
    assert!(api.feed(&["create", "-f", "-"], WEB).await.ok);
    api.do_(&["label", "deployment", "web", "tier=front"]).await;
    api.do_(&["annotate", "deployment", "web", "note=hello"]).await;
    api.do_(&["scale", "deployment", "web", "--replicas=5"]).await;
    api.do_(&["set", "image", "deployment/web", "web=testbox:2"]).await;
    api.do_(&["rollout", "pause", "deployment/web"]).await;
    api.do_(&["rollout", "resume", "deployment/web"]).await;
    api.do_(&["rollout", "restart", "deployment/web"]).await;
    let patches = [
        (
            "strategic",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"b"}]}}}}"#,
        ),
        ("merge", r#"{"metadata":{"labels":{"merged":"yes","tier":null}}}"#),
        ("json", r#"[{"op":"replace","path":"/spec/replicas","value":7}]"#),
    ];
    for (kind, patch) in patches {
        api.do_(&["patch", "deployment", "web", "--type", kind, "-p", patch]).await;
    }
    let path =
        "jsonpath={.spec.replicas} {.metadata.labels} {.spec.template.spec.containers[*].name}";
    let now = api.do_(&["get", "deployment", "web", "-o", path]).await;
    assert!(now.starts_with("7 ") && now.contains("merged") && !now.contains("tier"), "{now}");
    assert!(now.contains("two") && now.contains("web"), "{now}");
    let dry = ["scale", "deployment", "web", "--replicas=1", "--dry-run=server"];
    api.do_(&dry).await;
    let replicas = ["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(api.do_(&replicas).await, "7");
    let bad = ["patch", "deployment", "web", "-p", r#"{"spec":{"replicas":-1}}"#];
    assert!(api.fail(&bad).await.contains("spec.replicas: Invalid value"));
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_shown_in_every_form() {
    let Some(api) = Api::start().await else { return };
    assert!(api.feed(&["create", "-f", "-"], WEB).await.ok);
    let table = api.do_(&["get", "deployments"]).await;
    assert!(table.starts_with("NAME"), "{table}");
    for column in ["READY", "UP-TO-DATE", "AVAILABLE", "AGE"] {
        assert!(table.contains(column), "{table}");
    }
    let wide = api.do_(&["get", "services", "-o", "wide"]).await;
    assert!(wide.contains("SELECTOR") && wide.contains("10.96.0.1"), "{wide}");
    let all = api.do_(&["get", "all", "-A"]).await;
    assert!(all.contains("deployment.apps/web") && all.contains("service/web"), "{all}");
    assert_eq!(api.do_(&["get", "service", "web", "-o", "name"]).await, "service/web\n");
    assert!(
        api.do_(&["get", "service", "-l", "component=apiserver", "-o", "name"])
            .await
            .contains("kubernetes")
    );
    let one = ["get", "service", "--field-selector", "metadata.name=web", "-o", "name"];
    assert_eq!(api.do_(&one).await, "service/web\n");
    assert!(
        api.do_(&["get", "deployment", "web", "-o", "yaml"]).await.contains("kind: Deployment")
    );
    assert!(api.do_(&["describe", "deployment", "web"]).await.contains("Replicas:"));
    assert!(api.do_(&["describe", "service", "web"]).await.contains("IP:"));
    api.do_(&["events"]).await;
    api.do_(&["get", "events", "-A"]).await;
    assert!(api.fail(&["get", "pods", "nope"]).await.contains(r#"pods "nope" not found"#));
    assert!(
        api.fail(&["get", "unicorns"]).await.contains("the server doesn't have a resource type")
    );
    assert!(
        api.fail(&["get", "--raw", "/apis/nope"])
            .await
            .contains("could not find the requested resource")
    );
    assert!(api.fail(&["logs", "nope"]).await.contains(r#"pods "nope" not found"#));
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_watches() {
    let Some(api) = Api::start().await else { return };
    for nth in 0..7 {
        let name = format!("c{nth}");
        api.do_(&["create", "configmap", &name, "--from-literal=a=1"]).await;
    }
    let paged = api.do_(&["get", "configmaps", "--chunk-size=2", "-o", "name"]).await;
    assert_eq!(paged.lines().filter(|line| line.starts_with("configmap/c")).count(), 7, "{paged}");
    let raw = "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true";
    assert!(api.fail(&["get", "--raw", raw]).await.contains("sendInitialEvents"));

    let mut command = api.command("admin", &["get", "configmaps", "-w", "-o", "name"]);
    let watching = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let waiting = ["wait", "configmap/c1", "--for=delete", "--timeout=30s"];
    let (waited, ()) = tokio::join!(api.kubectl(&waiting), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        api.do_(&["label", "configmap", "c2", "seen=yes"]).await;
        api.do_(&["delete", "configmap", "c1"]).await;
    });
    assert!(waited.ok, "{}", waited.err);
    // A graceful stop ends the watch, and kubectl with it.
    let address = api.address;
    api.end().await;
    let seen = tokio::time::timeout(PATIENCE, watching.wait_with_output()).await;
    let seen = said(seen.expect("the watch ended with the server").expect("kubectl ran"));
    assert_eq!(seen.out.matches("configmap/c2").count(), 2, "{address}: {}", seen.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion() {
    let Some(api) = Api::start().await else { return };
    assert!(api.feed(&["create", "-f", "-"], WEB).await.ok);
    api.do_(&["delete", "service", "web"]).await;
    api.do_(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["test/hold"]}}"#,
    ])
    .await;
    api.do_(&["delete", "deployment", "web", "--wait=false"]).await;
    let path = "jsonpath={.metadata.deletionTimestamp}";
    assert!(!api.do_(&["get", "deployment", "web", "-o", path]).await.is_empty());
    api.do_(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ])
    .await;
    assert!(api.fail(&["get", "deployment", "web"]).await.contains("not found"));
    api.do_(&["run", "one", "--image=testbox:1"]).await;
    api.do_(&["delete", "pod", "one", "--grace-period=0", "--force"]).await;
    api.do_(&["create", "configmap", "x"]).await;
    api.do_(&["delete", "configmap", "--all"]).await;
    assert!(api.fail(&["delete", "configmap", "x"]).await.contains("not found"));
    api.end().await;
}

/// What a kubelet does for logs: checks who asks, tells the path it was asked for, and two lines
/// with a pause between them.
async fn kubelet(listener: TcpListener, pki: Pki) {
    let acceptor = tls::acceptor(&pki);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        assert!(stream.get_ref().1.peer_certificates().is_some(), "the API server shows who it is");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the head of a request"));
        }
        let head = String::from_utf8(head).expect("text");
        let path = head.split(' ').nth(1).expect("a path").to_owned();
        if path.contains("previous=true") {
            let text = "previous terminated container \"one\" in pod \"one\" not found";
            let answer =
                format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            // It hangs up at once, which must not hide what it said.
            stream.write_all(answer.as_bytes()).await.expect("written");
            stream.flush().await.expect("sent");
            continue;
        }
        let first = format!("asked {path}\n");
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let answer =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk(&first));
        stream.write_all(answer.as_bytes()).await.expect("written");
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all((chunk("second\n") + "0\r\n\r\n").as_bytes()).await.expect("written");
        stream.shutdown().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_kubelet() {
    let Some(api) = Api::start().await else { return };
    let listener = listen().await;
    let port = listener.local_addr().expect("a bound socket").port();
    let kubelet = tokio::spawn(kubelet(listener, pki(api.folder.path().join("pki"))));
    let node = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"n1"}},"status":{{
        "addresses":[{{"type":"InternalIP","address":"127.0.0.1"}}],
        "daemonEndpoints":{{"kubeletEndpoint":{{"Port":{port}}}}}}}}}"#
    );
    let made = api.feed(&["create", "--validate=false", "-f", "-"], &node).await;
    assert!(made.ok, "{}", made.err);
    let overrides = r#"{"spec":{"nodeName":"n1"}}"#;
    api.do_(&["run", "one", "--image=testbox:1", "--overrides", overrides]).await;
    let plain = api.do_(&["logs", "one"]).await;
    assert_eq!(plain, "asked /containerLogs/default/one/one\nsecond\n");
    let full = ["logs", "one", "-f", "--tail=5", "--since=1m", "--timestamps"];
    assert_eq!(
        api.do_(&full).await,
        "asked /containerLogs/default/one/one?follow=true&timestamps=true&tailLines=5&\
         sinceSeconds=60\nsecond\n"
    );
    let refused = api.fail(&["logs", "one", "--previous"]).await;
    assert!(refused.contains("(BadRequest): previous terminated container"), "{refused}");
    assert!(api.fail(&["logs", "one", "-c", "two"]).await.contains("container two is not valid"));
    kubelet.abort();
    let gone = api.fail(&["logs", "one"]).await;
    assert!(gone.contains("cannot reach the kubelet of node"), "{gone}");
    api.end().await;
}

/// What kubectl never sends, in plain HTTP over TLS.
#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_get_clear_answers() {
    let Some(api) = Api::start().await else { return };
    let pki = pki(api.folder.path().join("pki"));
    let pods = "/api/v1/namespaces/default/pods";
    let large = format!("Content-Type: application/json\r\n\r\n{}", " ".repeat(4 << 20));
    let cases = [
        ("GET", "/", "\r\n", "404", "the server could not find the requested resource"),
        ("GET", "/api/v1/namespaces/..%2fx/pods", "\r\n", "404", "could not find"),
        ("PUT", pods, "\r\n", "405", "does not allow this method"),
        ("DELETE", "/api/v1/pods", "\r\n", "405", "does not allow this method"),
        ("BREW", pods, "\r\n", "405", "does not allow this method"),
        ("GET", pods, "Accept: text/html\r\n\r\n", "406", "application/json"),
        (
            "POST",
            pods,
            "Content-Type: text/plain\r\n\r\n{}",
            "415",
            "application/vnd.kubernetes.protobuf",
        ),
        ("POST", pods, "Content-Type: application/json\r\n\r\n{", "400", "EOF"),
        ("POST", pods, &large, "413", "Request entity too large"),
        ("GET", "/api/v1/pods?limit=x", "\r\n", "400", "limit"),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.x%3D1",
            "\r\n",
            "400",
            "field label not supported",
        ),
        ("GET", "/api/v1/pods?watch=1&sendInitialEvents=true", "\r\n", "422", "sendInitialEvents"),
        ("GET", "/api/v1/pods?resourceVersion=99999", "\r\n", "504", "Too large resource version"),
        ("POST", "/api/v1/namespaces/default/pods/p/exec", "\r\n", "501", "not supported"),
    ];
    for (method, path, rest, code, text) in cases {
        let answer = tls::ask(&pki, api.address, method, path, rest).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {path}: {answer}");
        assert!(answer.contains(text), "{method} {path}: {answer}");
        assert!(answer.contains(r#""kind":"Status""#), "{method} {path}: {answer}");
    }
    let head = tls::ask(&pki, api.address, "HEAD", "/openapi/v3", "\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
    let first = tls::ask(&pki, api.address, "GET", "/apis", &format!("{accept}\r\n")).await;
    assert!(first.contains("APIGroupDiscoveryList") && first.contains("vary: Accept"), "{first}");
    let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let again = format!("{accept}If-None-Match: {tag}\r\n\r\n");
    let again = tls::ask(&pki, api.address, "GET", "/apis", &again).await;
    assert!(again.starts_with("HTTP/1.1 304 "), "{again}");
    api.end().await;
}

/// TLS ends made by hand, for what kubectl cannot play.
mod tls {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use orchestrator::pki::{Identity, Pki, Role};
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    fn parts(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
        (chain.collect::<Result<_, _>>().expect("certificates"), key)
    }

    fn roots(pki: &Pki) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).expect("PEM");
        roots.add(authority).expect("an authority");
        Arc::new(roots)
    }

    /// A kubelet's end: clients must show a certificate of the cluster.
    pub(super) fn acceptor(pki: &Pki) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots(pki),
            provider.clone(),
        );
        let (chain, key) = parts(&pki.identity(Role::KubeletServer).expect("issued"));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a fitting key");
        TlsAcceptor::from(Arc::new(config))
    }

    /// Sends one request as the admin and reads the answer to its end.
    pub(super) async fn ask(
        pki: &Pki,
        address: SocketAddr,
        method: &str,
        path: &str,
        rest: &str,
    ) -> String {
        let (chain, key) = parts(&pki.identity(Role::Admin).expect("issued"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots(pki))
            .with_client_auth_cert(chain, key)
            .expect("a fitting key");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let (mut from, mut to) = tokio::io::split(stream.expect("a handshake"));
        let body = rest.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: \
             {body}\r\n{rest}"
        );
        let mut answer = Vec::new();
        // A server that refuses half way may not read to the end.
        let (_, _) = tokio::join!(to.write_all(request.as_bytes()), from.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Serves until it is killed, for trying commands by hand; the kubeconfig's path is printed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until it is interrupted"]
async fn by_hand() {
    let api = Api::start().await.expect("kubectl is there");
    eprintln!("KUBECONFIG={}", api.folder.path().join("admin").display());
    std::future::pending::<()>().await;
}
