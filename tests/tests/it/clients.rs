//! Clients that other people wrote, in other languages, against the real server.
//!
//! Each session (`tests/clients/`) connects, puts, gets, transacts, watches, holds leases and locks,
//! and ends with an error at the first surprise. `tests/tools/fetch` brings the clients from their
//! registries into folders of their own; where it could not, the test says so and counts as skipped.
//! `TESTS_PEER=etcd-3.7` runs the same sessions against etcd.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Runs one session, and then its part about users on the same server: `command` gets the server's
/// endpoint.
fn session(name: &str, client: &str, parts: usize, command: impl Fn(&Path, &str) -> Command) {
    let Some(client) = tools::theirs(client) else {
        tests::skip(name, &format!("needs the client {client}"));
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program(), &dir.path().join("data"), &[]);
    let told = run(&mut command(&client, &server.endpoint));
    let done = told.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(done, parts, "{name} has done:\n{told}");
    if client.ends_with("python") {
        // The one has no way to log in, the other none without TLS.
        return;
    }
    let Some(ctl) = tools::theirs("etcdctl-3.7") else {
        tests::skip(name, "needs etcdctl 3.7 to make users");
        return;
    };
    for args in
        ["user add root:rootpw", "role add root", "user grant-role root root", "auth enable"]
    {
        run(Command::new(&ctl)
            .arg(format!("--endpoints={}", server.endpoint))
            .args(args.split(' ')));
    }
    let told = run(command(&client, &server.endpoint).arg("auth"));
    assert_eq!(told, "ok guarded\n", "{name} with users");
}

fn python(client: &Path, script: &str, endpoint: &str) -> Command {
    let (host, port) = endpoint.split_once(':').expect("host:port");
    let mut command = Command::new(client.join("bin/python"));
    command.arg(sources().join("python").join(script)).args([host, port]);
    command
}

#[test]
fn python_over_grpc() {
    session("clients::python_over_grpc", "python", 7, |client, endpoint| {
        python(client, "over_grpc.py", endpoint)
    });
}

#[test]
fn python_saves_a_snapshot() {
    session("clients::python_saves_a_snapshot", "python", 1, |client, endpoint| {
        let mut command = python(client, "over_grpc.py", endpoint);
        command.arg("snapshot");
        command
    });
}

#[test]
fn python_over_the_gateway() {
    session("clients::python_over_the_gateway", "python", 7, |client, endpoint| {
        python(client, "over_gateway.py", endpoint)
    });
}

#[test]
fn node() {
    session("clients::node", "node", 8, |client, endpoint| {
        let mut command = Command::new("node");
        command.env("SESSIONS_MODULES", client);
        command.arg(sources().join("node/session.js")).arg(endpoint);
        command
    });
}

#[test]
fn rust() {
    session("clients::rust", "rust-session", 8, |client, endpoint| {
        let mut command = Command::new(client);
        command.arg(endpoint);
        command
    });
}
