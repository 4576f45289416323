//! Bad input has a one-line error that says what to do, a non-zero exit, and loses nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tests::server::{Program, Server, free_port};
use tests::tools;
use tests::world::text;

/// Runs the store with arguments that cannot work.
fn store(args: &[&str]) -> Output {
    let output = Command::new(tools::ours("store")).args(args).output().expect("the binary starts");
    assert!(!output.status.success(), "{args:?} must fail");
    output
}

/// The last line names the trouble; none before it is a panic.
fn says(output: &Output, needle: &str) {
    let text = text(output);
    assert!(text.contains(needle), "{needle:?} is not in:\n{text}");
    assert!(!text.contains("panicked"), "a panic is not an error message:\n{text}");
}

fn loopback(dir: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", dir.display()),
        format!("--listen-client-urls=http://127.0.0.1:{}", free_port()),
        "--advertise-client-urls=http://127.0.0.1:1".to_string(),
        format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()),
    ]
}

#[test]
fn an_unknown_flag_is_named() {
    let output = store(&["--no-such-flag"]);
    says(&output, "no-such-flag");
    assert_eq!(output.status.code(), Some(2), "etcd's exit code for usage");
}

#[test]
fn a_port_in_use_is_named() {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).expect("a free port can be bound");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut args = loopback(&data);
    args[1] = format!("--listen-client-urls=http://{address}");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    says(&store(&args), &address);
}

#[test]
fn a_data_folder_in_use_is_refused_and_its_owner_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut server = Server::start(Program::Ours, &data, &[]);
    let args = loopback(&data);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    says(&store(&args), "in use");
    assert!(
        server.process.stop().code().is_some_and(|code| code == 0) || true_by_signal(&mut server)
    );
}

/// etcd dies by the signal that stopped it, unless it is process 1.
fn true_by_signal(server: &mut Server) -> bool {
    use std::os::unix::process::ExitStatusExt;
    server.process.wait().signal() == Some(15)
}

#[test]
fn bad_values_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let cases = [
        ("--listen-client-urls=127.0.0.1:2379", "listen-client-urls"),
        ("--listen-client-urls=http://example.com:2379", "example.com"),
        ("--election-timeout=100", "election"),
        ("--quota-backend-bytes=lots", "quota-backend-bytes"),
        ("--cert-file=/no/such/file.pem", "/no/such/file.pem"),
    ];
    for (bad, needle) in cases {
        let mut args = loopback(&data);
        args.retain(|arg| !arg.starts_with(bad.split('=').next().expect("flags have names")));
        args.push(bad.to_string());
        if bad.starts_with("--cert-file") {
            args[1] = args[1].replace("http://", "https://");
            args.push("--key-file=/no/such/key.pem".to_string());
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        says(&store(&args), needle);
        assert!(!data.join("member").exists(), "{bad} touched the data folder");
    }
}

#[test]
fn the_orchestrator_says_what_is_wrong_with_its_flags() {
    for (args, needle) in [
        (vec!["up", "--no-such-flag"], "no-such-flag"),
        (vec!["up", "--no-node", "--cluster-cidr", "10.96.0.0/16"], "overlap"),
        (vec!["up", "--no-node", "--cluster-cidr", "banana"], "banana"),
        (vec!["image", "import", "/no/such/image.tar"], "/no/such/image.tar"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let output = Command::new(tools::ours("orchestrator"))
            .args(&args)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .env("HOME", dir.path())
            .output()
            .expect("the binary starts");
        assert!(!output.status.success(), "{args:?} must fail");
        says(&output, needle);
    }
}
