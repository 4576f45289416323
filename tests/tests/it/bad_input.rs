//! Bad input has a one-line error that says what to do, a non-zero exit, and loses nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tests::authority::Authority;
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

/// Goal: what others could have written is not trusted, and not touched; what they can only read is
/// used, with a warning.
#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let open_to = |mode| {
        std::fs::create_dir_all(&data).expect("a folder can be made");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&data, mode).expect("its mode can be set");
    };
    for mode in [0o777, 0o720, 0o702] {
        open_to(mode);
        let args = loopback(&data);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = store(&args);
        says(&output, &format!("others may write to it (mode {mode:o}); make it 0700"));
        assert!(!data.join("member").exists(), "it was touched");
    }
    open_to(0o755);
    let server = Server::start(Program::Ours, &data, &[]);
    assert!(server.process.output().contains("others can read the data; 0700 is safer"));
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

/// Goal: an orchestrator that cannot trust its store, or is not trusted by it, says so at once.
/// Method: one store with client certificates, and every wrong way to come to it.
#[test]
fn a_wrong_certificate_for_the_store_is_told_in_one_line() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (ours, ca) = (Authority::new(&dir.path().join("ours.pem")), file("ours.pem"));
    let (theirs, their_ca) = (Authority::new(&dir.path().join("theirs.pem")), file("theirs.pem"));
    for (authority, name) in [(&ours, "server"), (&ours, "client"), (&theirs, "stranger")] {
        authority.sign(&dir.path().join(name), |_| ());
    }
    let pair = |name: &str| (file(&format!("{name}.pem")), file(&format!("{name}.key")));
    let ((server_cert, server_key), (cert, key)) = (pair("server"), pair("client"));
    let (their_cert, their_key) = pair("stranger");
    let endpoint = format!("https://127.0.0.1:{}", free_port());
    let mut command = Command::new(tools::ours("store"));
    command.args([
        format!("--data-dir={}", dir.path().join("data").display()),
        format!("--listen-client-urls={endpoint}"),
        format!("--advertise-client-urls={endpoint}"),
        format!("--cert-file={server_cert}"),
        format!("--key-file={server_key}"),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth".to_owned(),
    ]);
    let mut server = tests::process::Process::start(&mut command, &dir.path().join("log"));
    server.wait_for("ready to serve client requests", 0);

    let missing = dir.path().join("missing.pem").display().to_string();
    for (ca, cert, key, needle) in [
        (&their_ca, &cert, &key, endpoint.as_str()),
        (&ca, &their_cert, &their_key, endpoint.as_str()),
        (&missing, &cert, &key, missing.as_str()),
        (&server_key, &cert, &key, endpoint.as_str()),
    ] {
        let home = dir.path().join("home");
        let output = Command::new(tools::ours("orchestrator"))
            .args(["up", "--no-node", "--store-endpoints", &endpoint])
            .args(["--store-cacert", ca, "--store-cert", cert, "--store-key", key])
            .arg("--data-dir")
            .arg(home.join("data"))
            .env("HOME", &home)
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        says(&output, needle);
        let told = String::from_utf8_lossy(&output.stderr);
        let errors = told.lines().filter(|line| line.contains("error")).count();
        assert_eq!(errors, 1, "one line tells it: {told}");
    }
}
