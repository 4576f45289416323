//! Clients that other people wrote, in other languages, against the real server.
//!
//! Each session (`tests/clients/`) connects, puts, gets, transacts, watches, holds leases and locks,
//! and ends with an error at the first surprise; with users, it logs in. Python's gRPC gives no token
//! away without TLS, so it does that over TLS. `tests/tools/fetch` brings the clients from their
//! registries into folders of their own; where it could not, the test says so and counts as skipped.
//! `TESTS_PEER=etcd-3.7` runs the same sessions against etcd.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::authority::Authority;
use tests::server::{Program, Server};
use tests::tools;
use tests::world::run;

fn program() -> Program {
    match std::env::var("TESTS_PEER") {
        Ok(peer) => Program::Peer(tools::required(&peer)),
        Err(_) => Program::Ours,
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs one session: `command` gets the server's endpoint.
fn session(name: &str, client: &str, parts: usize, command: impl Fn(&Path, &str) -> Command) {
    let Some(client) = client_of(name, client) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program(), &dir.path().join("data"), &[]);
    let told = run(&mut command(&client, &server.endpoint));
    let done = told.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(done, parts, "{name} has done:\n{told}");
}

/// Runs the part about users, on a server that has some; for `secure` over TLS, with certificates in
/// a folder that the session is told.
fn guarded(name: &str, client: &str, secure: bool, command: impl Fn(&Path, &str) -> Command) {
    let Some(client) = client_of(name, client) else { return };
    let Some(ctl) = tools::theirs("etcdctl-3.7") else {
        tests::skip(name, "needs etcdctl 3.7 to make users");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let server = if secure {
        let authority = Authority::new(&dir.path().join("ca.pem"));
        // The name of a certificate would be a user's.
        authority.sign_nameless(&dir.path().join("server"));
        authority.sign_nameless(&dir.path().join("client"));
        Server::start_secure(program(), &data, dir.path(), &[])
    } else {
        Server::start(program(), &data, &[])
    };
    for args in
        ["user add root:rootpw", "role add root", "user grant-role root root", "auth enable"]
    {
        let mut ctl = Command::new(&ctl);
        ctl.arg(format!("--endpoints={}", server.url())).args(args.split(' '));
        if secure {
            for (flag, file) in
                [("cacert", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")]
            {
                ctl.arg(format!("--{flag}={}", dir.path().join(file).display()));
            }
        }
        run(&mut ctl);
    }
    let mut command = command(&client, &server.endpoint);
    command.arg("auth");
    if secure {
        command.arg(dir.path());
    }
    assert_eq!(run(&mut command), "ok guarded\n", "{name} with users");
}

fn client_of(name: &str, client: &str) -> Option<PathBuf> {
    let found = tools::theirs(client);
    if found.is_none() {
        tests::skip(name, &format!("needs the client {client}"));
    }
    found
}

fn python(client: &Path, script: &str, endpoint: &str) -> Command {
    let (host, port) = endpoint.split_once(':').expect("host:port");
    let mut command = Command::new(client.join("bin/python"));
    command.arg(sources().join("python").join(script)).args([host, port]);
    // It would outdo the authority that the session names.
    command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
    command
}

fn over_grpc(client: &Path, endpoint: &str) -> Command {
    python(client, "over_grpc.py", endpoint)
}

fn over_gateway(client: &Path, endpoint: &str) -> Command {
    python(client, "over_gateway.py", endpoint)
}

#[test]
fn python_over_grpc() {
    session("clients::python_over_grpc", "python", 7, over_grpc);
    guarded("clients::python_over_grpc", "python", true, over_grpc);
}

#[test]
fn python_saves_a_snapshot() {
    session("clients::python_saves_a_snapshot", "python", 1, |client, endpoint| {
        let mut command = over_grpc(client, endpoint);
        command.arg("snapshot");
        command
    });
}

#[test]
fn python_over_the_gateway() {
    session("clients::python_over_the_gateway", "python", 7, over_gateway);
    guarded("clients::python_over_the_gateway", "python", true, over_gateway);
}

fn node_session(client: &Path, endpoint: &str) -> Command {
    let mut command = Command::new("node");
    command.env("SESSIONS_MODULES", client);
    command.arg(sources().join("node/session.js")).arg(endpoint);
    command
}

#[test]
fn node() {
    session("clients::node", "node", 8, node_session);
    guarded("clients::node", "node", false, node_session);
}

fn rust_session(client: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(client);
    command.arg(endpoint);
    command
}

#[test]
fn rust() {
    session("clients::rust", "rust-session", 8, rust_session);
    guarded("clients::rust", "rust-session", false, rust_session);
}
