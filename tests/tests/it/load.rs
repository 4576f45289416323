//! The measuring client itself, over TLS: that it drives a server which wants certificates, with the
//! light client and with the complete one. Its figures are not looked at.

use std::process::{Command, Output};

use tests::authority::Authority;
use tests::server::{Program, Server};
use tests::world::text;

/// Goal: each way to drive a server works over TLS with a client's certificate, and a wrong one ends
/// with an error. Method: a second of each on an empty store.
#[test]
fn load_comes_over_tls_with_a_certificate() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let authority = Authority::new(&dir.path().join("ca.pem"));
    authority.sign_nameless(&dir.path().join("server"));
    authority.sign_named(&dir.path().join("client"), "client");
    Authority::new(&dir.path().join("other.pem")).sign_named(&dir.path().join("stranger"), "x");
    let server = Server::start_secure(Program::Ours, &dir.path().join("data"), dir.path(), &[]);
    let load = |what: &str, who: &str| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
        command.args(["run", what, "--endpoint", &server.url()]);
        command.args(["--cacert", &file("ca.pem")]);
        if who != "nobody" {
            command.args(["--cert", &file(&format!("{who}.pem"))]);
            command.args(["--key", &file(&format!("{who}.key"))]);
        }
        command.args(["--clients", "4", "--connections", "2", "--seconds", "1", "--keys", "200"]);
        command.args(["--rows", "10", "--watchers", "4", "--puts", "50", "--value-size", "16"]);
        command.output().expect("it starts")
    };
    let ways = [
        "fill",
        "put",
        "range",
        "txn",
        "lease-grant",
        "lease-keepalive",
        "watch",
        "watch-latency",
        "kubernetes",
    ];
    for what in ways {
        let output = load(what, "client");
        assert!(output.status.success(), "{what}: {}", text(&output));
        assert!(text(&output).contains(&server.url()), "{what}: {}", text(&output));
    }
    for who in ["nobody", "stranger"] {
        let output = load("put", who);
        assert!(!output.status.success(), "{who} was let in: {}", text(&output));
        assert!(text(&output).contains("load: "), "{who}: {}", text(&output));
    }
}
