//! Every door a client can come in by: the same certificates are let in, and the same turned away.
//!
//! A rule that holds on one listener and not on another is a hole that has been there in etcd: a
//! revocation list was looked at on one of two. So each kind of certificate tries each kind of
//! listener, with the client that fits it: `etcdctl` where gRPC is spoken, `curl` where HTTP is,
//! over TCP and over a socket in the file system.

use std::process::Command;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SerialNumber, date_time_ymd};
use tests::authority::Authority;
use tests::server::free_port;
use tests::world::text;

use super::ops::{Bench, fine, for_clients};

/// The serial number on the list.
const REVOKED: u64 = 7;

/// One certificate that is good, and each kind that is not.
const BAD: [&str; 5] = ["revoked", "expired", "not-yet", "serving", "stranger"];

fn certificates(bench: &Bench) -> Authority {
    let authority = Authority::new(&bench.path("ca.pem"));
    let stranger = Authority::new(&bench.path("stranger-ca.pem"));
    authority.sign(&bench.path("server"), |params| {
        // etcdctl takes the last part of a socket's path for the server's name.
        let names = ["127.0.0.1", "s.sock"].map(str::to_owned);
        params.subject_alt_names =
            CertificateParams::new(names).expect("parameters").subject_alt_names;
    });
    authority.sign(&bench.path("good"), for_clients);
    authority.sign(&bench.path("revoked"), |params| {
        for_clients(params);
        params.serial_number = Some(SerialNumber::from(REVOKED));
    });
    authority.sign(&bench.path("expired"), |params| {
        for_clients(params);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
    });
    authority.sign(&bench.path("not-yet"), |params| {
        for_clients(params);
        params.not_before = date_time_ymd(2120, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 2);
    });
    authority.sign(&bench.path("serving"), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    stranger.sign(&bench.path("stranger"), for_clients);
    authority.revoke(&bench.path("crl.pem"), REVOKED);
    authority
}

/// The flags of a server that asks for certificates.
fn demanding(bench: &Bench) -> Vec<String> {
    vec![
        format!("--cert-file={}", bench.show("server.pem")),
        format!("--key-file={}", bench.show("server.key")),
        format!("--trusted-ca-file={}", bench.show("ca.pem")),
        format!("--client-crl-file={}", bench.show("crl.pem")),
        "--client-cert-auth".to_owned(),
    ]
}

/// `curl` with somebody's certificate, or with none.
fn curl(bench: &Bench, who: Option<&str>, more: &[&str]) -> std::process::Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10"]);
    command.args(["--cacert", &bench.show("ca.pem")]);
    if let Some(who) = who {
        command.args(["--cert", &bench.show(&format!("{who}.pem"))]);
        command.args(["--key", &bench.show(&format!("{who}.key"))]);
    }
    command.args(more).env_clear().output().expect("curl starts")
}

/// `etcdctl` with somebody's certificate.
fn etcdctl(bench: &Bench, endpoint: &str, who: &str, words: &[&str]) -> std::process::Output {
    let files = [
        format!("--cacert={}", bench.show("ca.pem")),
        format!("--cert={}", bench.show(&format!("{who}.pem"))),
        format!("--key={}", bench.show(&format!("{who}.key"))),
    ];
    let mut all: Vec<&str> = files.iter().map(String::as_str).collect();
    all.extend(words);
    bench.etcdctl(endpoint, &all)
}

/// Goal: revoked, expired and foreign certificates are turned away on listeners of HTTP alone
/// (`--listen-client-http-urls`, `--listen-metrics-urls`) as they are on that of gRPC.
#[test]
fn a_revoked_certificate_opens_no_listener() {
    let bench = Bench::new();
    let _authority = certificates(&bench);
    let (http, metrics) = (free_port(), free_port());
    let mut args = bench.places("https");
    args.extend(demanding(&bench));
    args.push(format!("--listen-client-http-urls=https://127.0.0.1:{http}"));
    args.push(format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"));
    let mut server = bench.start(&args);

    let pages = [http, metrics].map(|port| format!("https://127.0.0.1:{port}/health"));
    let gateway = format!("https://127.0.0.1:{http}/v3/kv/put");
    let put = [gateway.as_str(), "--data", r#"{"key":"YQ==","value":"Yg=="}"#];
    fine(&etcdctl(&bench, &bench.https(), "good", &["put", "before", "1"]));
    for page in &pages {
        assert!(fine(&curl(&bench, Some("good"), &[page])).contains("\"health\":\"true\""));
    }
    assert!(fine(&curl(&bench, Some("good"), &put)).contains("\"revision\":\"3\""));

    for bad in BAD.map(Some).into_iter().chain([None]) {
        for page in &pages {
            let output = curl(&bench, bad, &[page]);
            assert!(!output.status.success(), "{bad:?} got {page}: {}", text(&output));
        }
        let output = curl(&bench, bad, &put);
        assert!(!output.status.success(), "{bad:?} has written: {}", text(&output));
        let Some(bad) = bad else { continue };
        let output = etcdctl(&bench, &bench.https(), bad, &["get", "before"]);
        assert!(!output.status.success(), "{bad} has read: {}", text(&output));
    }
    let all = fine(&etcdctl(&bench, &bench.https(), "good", &["get", "a", "-w", "json"]));
    assert!(all.contains("\"revision\":3"), "somebody else has written: {all}");

    // A list that takes back nothing lets the certificate in again, without a restart.
    std::fs::remove_file(bench.path("crl.pem")).expect("removed");
    let nothing = Authority::new(&bench.path("other-ca.pem"));
    nothing.revoke(&bench.path("crl.pem"), REVOKED);
    for page in &pages {
        assert!(fine(&curl(&bench, Some("revoked"), &[page])).contains("\"health\":\"true\""));
    }
    server.stop();
}

/// Goal: TLS over a socket in the file system (`unixs://`): for `etcdctl` and `curl` as over TCP,
/// certificates included; the plain protocol is not spoken there.
#[test]
fn a_socket_in_the_file_system_speaks_tls() {
    let bench = Bench::new();
    let _authority = certificates(&bench);
    let socket = bench.show("s.sock");
    let url = format!("unixs://{socket}");
    let mut args = vec![
        format!("--data-dir={}", bench.show("data")),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        "--name=ops".to_owned(),
    ];
    args.extend(demanding(&bench));
    let mut server = bench.start(&args);

    fine(&etcdctl(&bench, &url, "good", &["put", "a", "1"]));
    assert_eq!(fine(&etcdctl(&bench, &url, "good", &["get", "a"])), "a\n1\n");
    // The name in the URL is the one in the server's certificate; where it leads says the socket.
    let here = ["--unix-socket", socket.as_str(), "https://127.0.0.1/health"];
    assert!(fine(&curl(&bench, Some("good"), &here)).contains("\"health\":\"true\""));
    for bad in BAD {
        let output = etcdctl(&bench, &url, bad, &["get", "a"]);
        assert!(!output.status.success(), "{bad} was let in: {}", text(&output));
        let output = curl(&bench, Some(bad), &here);
        assert!(!output.status.success(), "{bad} was let in: {}", text(&output));
    }
    let output = curl(&bench, None, &here);
    assert!(!output.status.success(), "nobody was let in: {}", text(&output));
    let plain = ["--unix-socket", socket.as_str(), "http://127.0.0.1/health"];
    assert!(!curl(&bench, None, &plain).status.success());
    server.stop();
    assert!(!bench.path("s.sock").exists(), "it goes with the process");
}
