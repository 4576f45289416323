//! What an operator sees: the configuration file, TLS by real clients, renewal without a restart,
//! sockets in the file system, systemd's notification, versions, signals, log files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use tempfile::TempDir;
use tests::authority::Authority;
use tests::process::{Process, eventually};
use tests::server::free_port;
use tests::tools;
use tests::world::text;

/// A store of one test: its folder, its client port, its process.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) port: u16,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder can be made"),
            port: free_port(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn show(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts the store with these arguments and waits until it serves.
    pub(super) fn start(&self, args: &[String]) -> Process {
        let mut command = Command::new(tools::ours("store"));
        command.args(args).current_dir(self.dir.path());
        let mut process = Process::start(&mut command, &self.path("log"));
        process.wait_for("ready to serve client requests", 0);
        process
    }

    /// The usual places, with this scheme.
    pub(super) fn places(&self, scheme: &str) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.show("data")),
            format!("--listen-client-urls={scheme}://127.0.0.1:{}", self.port),
            format!("--advertise-client-urls={scheme}://127.0.0.1:{}", self.port),
            "--name=ops".to_owned(),
        ]
    }

    /// etcdctl 3.7 against an endpoint.
    pub(super) fn etcdctl(&self, endpoint: &str, args: &[&str]) -> Output {
        let mut command = Command::new(tools::required("etcdctl-3.7"));
        command.arg(format!("--endpoints={endpoint}")).arg("--command-timeout=3s").args(args);
        command.env_clear().output().expect("etcdctl starts")
    }

    pub(super) fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

pub(super) fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

/// Goal: only certificates of the authority, in date and made for clients, are let in, on the
/// client port and on the metrics port alike; renewal needs no restart. Method: real handshakes of
/// etcdctl with each kind of certificate, then the files are replaced under the running server.
#[test]
fn tls_lets_in_whom_it_should_and_renews_without_a_restart() {
    let bench = Bench::new();
    let authority = Authority::new(&bench.path("ca.pem"));
    let stranger = Authority::new(&bench.path("stranger-ca.pem"));
    authority.sign(&bench.path("server"), |_| ());
    authority.sign(&bench.path("good"), for_clients);
    stranger.sign(&bench.path("stranger"), for_clients);
    authority.sign(&bench.path("expired"), |params| {
        for_clients(params);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    });
    authority.sign(&bench.path("serving"), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let metrics = free_port();
    let mut args = bench.places("https");
    args.extend([
        format!("--cert-file={}", bench.show("server.pem")),
        format!("--key-file={}", bench.show("server.key")),
        format!("--trusted-ca-file={}", bench.show("ca.pem")),
        "--client-cert-auth".to_owned(),
        format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"),
    ]);
    let mut server = bench.start(&args);

    let ask_at = |endpoint: &str, ca: &str, who: &str, words: &[&str]| {
        let files = [
            format!("--cacert={}", bench.show(ca)),
            format!("--cert={}", bench.show(&format!("{who}.pem"))),
            format!("--key={}", bench.show(&format!("{who}.key"))),
        ];
        let mut all: Vec<&str> = files.iter().map(String::as_str).collect();
        all.extend(words);
        bench.etcdctl(endpoint, &all)
    };
    let ask = |ca: &str, who: &str, words: &[&str]| ask_at(&bench.https(), ca, who, words);
    fine(&ask("ca.pem", "good", &["put", "a", "1"]));
    for bad in ["stranger", "expired", "serving"] {
        let output = ask("ca.pem", bad, &["get", "a"]);
        assert!(!output.status.success(), "{bad} was let in: {}", text(&output));
        let place = format!("https://127.0.0.1:{metrics}");
        let output = ask_at(&place, "ca.pem", bad, &["endpoint", "health"]);
        assert!(!output.status.success(), "{bad} was let in at the metrics: {}", text(&output));
    }
    assert!(server.output().contains("rejected connection on client endpoint"));

    // Renewal by another authority: server, then bundle.
    let next = Authority::new(&bench.path("next-ca.pem"));
    next.sign(&bench.path("server"), |_| ());
    next.sign(&bench.path("next"), for_clients);
    fine(&ask("next-ca.pem", "good", &["get", "a"]));
    assert!(!ask("next-ca.pem", "next", &["get", "a"]).status.success(), "not in the bundle yet");
    std::fs::copy(bench.path("next-ca.pem"), bench.path("ca.fresh")).expect("copied");
    std::fs::rename(bench.path("ca.fresh"), bench.path("ca.pem")).expect("renamed");
    fine(&ask("next-ca.pem", "next", &["get", "a"]));
    assert!(!ask("next-ca.pem", "good", &["get", "a"]).status.success(), "no longer in the bundle");
    assert_eq!(server.stop().signal(), Some(Signal::SIGTERM as i32));
}

/// Goal: a client that begins a handshake and falls silent costs a place for ten seconds only.
#[test]
fn half_a_handshake_is_cut_off() {
    let bench = Bench::new();
    let mut args = bench.places("https");
    args.push("--auto-tls".to_owned());
    let mut server = bench.start(&args);
    assert!(bench.path("data/fixtures/client/cert.pem").exists(), "made by --auto-tls");
    let mut half = TcpStream::connect(("127.0.0.1", bench.port)).expect("it listens");
    half.write_all(&[0x16, 0x03, 0x01]).expect("the beginning of a hello");
    // Others are served meanwhile, over the certificate that was made.
    let skip = ["--insecure-skip-tls-verify", "endpoint", "health"];
    fine(&bench.etcdctl(&bench.https(), &skip));
    half.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let read = half.read(&mut [0; 16]);
    assert!(matches!(read, Ok(0)), "closed by the server: {read:?}");
    server.wait_for("the TLS handshake took too long", 0);
}

/// Goal: a file written for etcd works as it is, and nothing beside it counts.
#[test]
fn a_configuration_file_is_all_that_counts() {
    let bench = Bench::new();
    let metrics = free_port();
    let file = format!(
        "name: from-file\n\
         data-dir: {data}\n\
         listen-client-urls: http://127.0.0.1:{port}\n\
         advertise-client-urls: http://127.0.0.1:{port}\n\
         listen-metrics-urls: http://127.0.0.1:{metrics}\n\
         initial-cluster: from-file=http://localhost:2380\n\
         heartbeat-interval: 50\n\
         election-timeout: 500\n\
         watch-progress-notify-interval: 5000000000\n\
         log-outputs: [stderr, {log}]\n\
         no-such-key: 1\n",
        data = bench.show("data"),
        port = bench.port,
        log = bench.show("own.log"),
    );
    std::fs::write(bench.path("store.yml"), file).expect("written");
    let args = [format!("--config-file={}", bench.show("store.yml")), "--name=other".to_owned()];
    let mut server = bench.start(&args);
    let members = fine(&bench.etcdctl(&format!("127.0.0.1:{}", bench.port), &["member", "list"]));
    assert!(members.contains("from-file"), "{members}");
    let mut page = TcpStream::connect(("127.0.0.1", metrics)).expect("it listens");
    page.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("asked");
    let mut answer = String::new();
    page.read_to_string(&mut answer).expect("answered");
    assert!(answer.contains("\"health\":\"true\""), "{answer}");
    let said = server.output();
    assert!(said.contains("unknown key \\\"no-such-key\\\""), "{said}");
    assert!(said.contains("other flags and variables are ignored"), "{said}");
    let own = std::fs::read_to_string(bench.path("own.log")).expect("the second place of lines");
    assert!(own.contains("ready to serve client requests"), "{own}");
    server.stop();
}

/// Goal: a store behind a socket in the file system, for a program on the same machine; systemd is
/// told of start and stop; the socket's file goes with the process, and one that a dead process
/// left is replaced.
#[test]
fn a_socket_in_the_file_system_and_systemds_notification() {
    let bench = Bench::new();
    let socket = bench.path("s.sock");
    let notify = UnixDatagram::bind(bench.path("notify")).expect("bound");
    notify.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let told = || {
        let mut buffer = [0; 64];
        let length = notify.recv(&mut buffer).expect("told in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // Left behind by a process that died.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert!(socket.exists());
    let url = format!("unix://{}", socket.display());
    let mut command = Command::new(tools::ours("store"));
    command.env("NOTIFY_SOCKET", bench.path("notify")).args([
        format!("--data-dir={}", bench.show("data")),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        "--name=ops".to_owned(),
    ]);
    let mut server = Process::start(&mut command, &bench.path("log"));
    assert_eq!(told(), "READY=1");
    fine(&bench.etcdctl(&url, &["put", "a", "1"]));
    assert_eq!(fine(&bench.etcdctl(&url, &["get", "a"])), "a\n1\n");

    // A second one must not take it away.
    let output = Command::new(tools::ours("store"))
        .args([format!("--data-dir={}", bench.show("other")), "--name=ops".to_owned()])
        .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
        .output()
        .expect("the binary starts");
    assert!(!output.status.success() && text(&output).contains("in use"), "{}", text(&output));

    server.signal(Signal::SIGINT);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(server.wait().signal(), Some(Signal::SIGINT as i32));
    assert!(!socket.exists(), "it goes with the process");
}

/// Goal: an operator who asks for it hears of slow applies, in etcd's words and with etcd's counter,
/// and hears nothing of keys; by default a quick store says nothing.
#[test]
fn a_slow_apply_is_told_and_counted() {
    for (threshold, slow) in [("1ns", true), ("1m0s", false)] {
        let bench = Bench::new();
        let mut args = bench.places("http");
        args.push(format!("--warning-apply-duration={threshold}"));
        let mut server = bench.start(&args);
        let endpoint = format!("127.0.0.1:{}", bench.port);
        fine(&bench.etcdctl(&endpoint, &["put", "a-key-of-somebody", "value"]));
        let (_, page) = tests::http::get(&endpoint, "/metrics");
        let counted =
            page.lines().find_map(|line| line.strip_prefix("etcd_server_slow_apply_total "));
        let counted: f64 = counted.and_then(|number| number.parse().ok()).expect("it is counted");
        server.stop();
        let log = server.output();
        let line = log.lines().find(|line| line.contains("apply request took too long"));
        assert_eq!((line.is_some(), counted > 0.0), (slow, slow), "{threshold}: {counted}\n{log}");
        if let Some(line) = line {
            assert!(line.contains("\"expected-duration\":\"1ns\""), "{line}");
            assert!(line.contains("\"took\":\""), "{line}");
        }
        assert!(!log.contains("a-key-of-somebody"), "{log}");
    }
}

/// Goal: scripts that read `etcd --version` read ours; ours by its own name tells its own.
#[test]
fn versions_are_told_in_the_callers_format() {
    let version = |name: &str| {
        fine(&Command::new(tools::ours("store")).arg0(name).arg("--version").output().expect("run"))
    };
    let as_etcd = version("/usr/local/bin/etcd");
    let starts: Vec<&str> =
        as_etcd.lines().map(|line| &line[..line.find(':').unwrap_or(0)]).collect();
    assert_eq!(starts, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"], "{as_etcd}");
    let number = as_etcd.lines().next().and_then(|line| line.strip_prefix("etcd Version: "));
    let parts: Vec<_> = number.expect("the first line").split('.').map(str::parse::<u32>).collect();
    assert!(parts.len() == 3 && parts.iter().all(Result::is_ok), "{as_etcd}");
    let own = version("store");
    assert!(own.lines().next().is_some_and(|line| line.starts_with("etcd Version: ")), "{own}");
    assert!(own.contains("store Version: "), "{own}");
    let help = fine(&Command::new(tools::ours("store")).arg("-h").output().expect("run"));
    assert!(help.contains("--listen-client-urls 'http://localhost:2379'"), "{help}");
}

/// Goal: no secret reaches a log, whatever the level and the trouble; a volatile store writes
/// nothing but what it was told to.
#[test]
fn logs_hold_no_secrets_and_memory_touches_no_disk() {
    const CANARY: &str = "canary-5d1f";
    let bench = Bench::new();
    let authority = Authority::new(&bench.path("ca.pem"));
    authority.sign(&bench.path("server"), |_| ());
    let key = std::fs::read_to_string(bench.path("server.key")).expect("PEM");
    let mut args = bench.places("https");
    args.extend([
        "--storage=memory".to_owned(),
        "--log-level=debug".to_owned(),
        "--log-format=console".to_owned(),
        "--warning-unary-request-duration=1ns".to_owned(),
        format!("--log-outputs={}", bench.show("own.log")),
        format!("--cert-file={}", bench.show("server.pem")),
        format!("--key-file={}", bench.show("server.key")),
    ]);
    let mut command = Command::new(tools::ours("store"));
    command.args(&args).env("ETCD_PASSWORD", CANARY).current_dir(bench.dir.path());
    let mut server = Process::start(&mut command, &bench.path("log"));
    let log = || std::fs::read_to_string(bench.path("own.log")).unwrap_or_default();
    eventually("serving", || log().contains("ready to serve").then_some(()));
    let ca = format!("--cacert={}", bench.show("ca.pem"));
    let user = format!("--user=somebody:{CANARY}");
    for words in [&["user", "add", &format!("u:{CANARY}")][..], &[&user, "put", CANARY, CANARY]] {
        let mut all = vec![ca.as_str()];
        all.extend(words);
        bench.etcdctl(&bench.https(), &all);
    }
    fine(&bench.etcdctl(&bench.https(), &[&ca, "put", CANARY, CANARY]));
    eventually("the slow request", || log().contains("request stats").then_some(()));
    server.stop();
    let told = log() + &server.output();
    assert!(told.contains("unrecognized environment variable ETCD_PASSWORD"), "{told}");
    assert!(!told.contains(CANARY), "{told}");
    let secret = key.lines().nth(1).expect("PEM has lines");
    assert!(!told.contains(secret), "the key is in the log");
    assert!(!bench.path("data").exists(), "a volatile store has no folder");
}
