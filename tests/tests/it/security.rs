//! What must not be found, and what must stay shut, when the real binary runs.
//!
//! Who may do what is asked of a node in process (`store/tests/api/access.rs` and `declared.rs`)
//! and of etcd's own client (`etcdctl/permissions.script`). Here are the cases that need a process
//! with a log and a data folder: secrets that nobody wrote down, and doors that stay shut after a
//! kill.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use proto::{authpb, etcdserverpb as pb};
use tests::server::{Program, Server};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Words that appear nowhere else, in the place of secrets.
const PASSWORD: &str = "canary-password-7f3a";
const CHANGED: &str = "canary-changed-91bc";
const WRONG: &str = "canary-wrong-22d0";
const FORGED: &str = "canaryforgedtoke.12";

async fn connect(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.url()).expect("a URL");
    endpoint.connect().await.expect("the server accepts")
}

fn auth(channel: &Channel) -> pb::auth_client::AuthClient<Channel> {
    pb::auth_client::AuthClient::new(channel.clone())
}

fn kv(channel: &Channel) -> pb::kv_client::KvClient<Channel> {
    pb::kv_client::KvClient::new(channel.clone())
}

async fn log_in(channel: &Channel, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(auth(channel).authenticate(request).await?.into_inner().token)
}

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("plain text"));
    request
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

/// Root and alice, who may write `a`; then everybody has to log in. Gives root's token.
async fn set_up(channel: &Channel) -> String {
    let mut auth = auth(channel);
    for name in ["root", "alice"] {
        let user = pb::AuthUserAddRequest {
            name: name.into(),
            password: PASSWORD.into(),
            ..Default::default()
        };
        auth.user_add(user).await.expect("a user");
    }
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.expect("a role");
    let perm = authpb::Permission {
        perm_type: authpb::permission::Type::Readwrite.into(),
        key: "a".into(),
        ..Default::default()
    };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
    auth.role_grant_permission(grant).await.expect("a permission");
    for (user, role) in [("root", "root"), ("alice", "r")] {
        if role == "root" {
            // etcd wants the role to be there; here it may be.
            let _ = auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await;
        }
        let give = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        auth.user_grant_role(give).await.expect("granted");
    }
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
    log_in(channel, "root", PASSWORD).await.expect("root logs in")
}

/// Passwords, right or wrong, and tokens are in no log line, no metric, and no file, even when
/// everything is logged that can be.
#[tokio::test]
async fn no_secret_is_written_down() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let flags = ["--bcrypt-cost=4", "--log-level=debug"];
    let mut server = Server::start(Program::Ours, &data, &flags);
    let channel = connect(&server).await;
    let root = set_up(&channel).await;
    let alice = log_in(&channel, "alice", PASSWORD).await.expect("alice logs in");
    log_in(&channel, "alice", WRONG).await.expect_err("a wrong password");
    log_in(&channel, WRONG, "x").await.expect_err("an unknown name");
    kv(&channel).put(by(&alice, put("a"))).await.expect("alice may");
    kv(&channel).put(by(&alice, put("b"))).await.expect_err("alice may not");
    kv(&channel).put(by(FORGED, put("a"))).await.expect_err("nobody may");
    let changed = pb::AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: CHANGED.into(),
        ..Default::default()
    };
    auth(&channel).user_change_password(by(&root, changed)).await.expect("root may");
    let changed = log_in(&channel, "alice", CHANGED).await.expect("with the new password");
    let metrics = metrics(&server);
    drop(channel);
    server.process.stop();

    // The letters of a token are its secret; the number behind them is not.
    let letters = |token: &str| token.split('.').next().expect("letters").to_owned();
    let mut secrets = [PASSWORD, CHANGED].map(str::to_owned).to_vec();
    secrets.extend([&root, &alice, &changed, &FORGED.to_owned()].map(|token| letters(token)));
    let mut places = vec![("metrics".to_owned(), metrics)];
    collect(dir.path(), &mut places);
    assert!(places.iter().any(|(name, _)| name.ends_with("log")), "the log is looked at");
    for (place, content) in &places {
        for secret in &secrets {
            assert!(!contains(content, secret.as_bytes()), "{secret} is in {place}");
        }
        // A wrong password least of all: it may be right elsewhere. As a name it may be logged.
        let line = |line: &[u8]| contains(line, WRONG.as_bytes()) && !contains(line, b"\"user\"");
        assert!(!content.split(|byte| *byte == b'\n').any(line), "{WRONG} is in {place}");
    }
    // The search finds what is there: the hash is.
    let hashed = |(_, content): &(String, Vec<u8>)| contains(content, b"$2a$04$");
    assert!(places.iter().any(hashed), "the search would find something");
}

/// What the server tells about itself.
fn metrics(server: &Server) -> Vec<u8> {
    let mut socket = TcpStream::connect(&server.endpoint).expect("the server accepts");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("answered");
    assert!(contains(&answer, b"etcd_server_has_leader"), "metrics are looked at");
    answer
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    content.windows(needle.len()).any(|window| window == needle)
}

/// Every file below a folder, without the zeros that fill the log in advance.
fn collect(dir: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, places);
        } else {
            let mut content = fs::read(&path).expect("a readable file");
            content.retain(|byte| *byte != 0);
            places.push((path.display().to_string(), content));
        }
    }
}

/// After a kill, with nothing written out but the log, the door is as shut as before.
#[tokio::test]
async fn a_kill_opens_no_door() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut server = Server::start(Program::Ours, &data, &["--bcrypt-cost=4"]);
    let channel = connect(&server).await;
    let token = set_up(&channel).await;
    drop(channel);
    for _ in 0..2 {
        server.process.signal(nix::sys::signal::Signal::SIGKILL);
        server.process.wait();
        server.restart();
        let channel = connect(&server).await;
        let empty = kv(&channel).put(put("a")).await.expect_err("nobody may");
        assert_eq!(empty.message(), "etcdserver: user name is empty");
        let gone = kv(&channel).put(by(&token, put("a"))).await.expect_err("it was in memory");
        assert_eq!(gone.message(), "etcdserver: invalid auth token");
        let alice = log_in(&channel, "alice", PASSWORD).await.expect("alice is still there");
        kv(&channel).put(by(&alice, put("a"))).await.expect("and may what she might");
        let outside = kv(&channel).put(by(&alice, put("b"))).await.expect_err("and no more");
        assert_eq!(outside.message(), "etcdserver: permission denied");
    }
    server.process.stop();
}

/// Options about tokens that make no sense end the start with one line, and touch nothing.
#[test]
fn bad_token_options_are_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    for (option, needle) in [
        ("jwt", "sign-method"),
        ("jwt,sign-method=none,priv-key=/dev/null", "none"),
        ("jwt,sign-method=RS256", "a key is needed"),
        ("jwt,sign-method=HS256,priv-key=/no/such/key", "/no/such/key"),
        ("magic", "magic"),
    ] {
        let data = dir.path().join("data");
        let output = std::process::Command::new(tests::tools::ours("store"))
            .arg(format!("--auth-token={option}"))
            .args(["--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://x:1"])
            .arg(format!("--data-dir={}", data.display()))
            .output()
            .expect("the binary starts");
        let text = tests::world::text(&output);
        assert_eq!(output.status.code(), Some(1), "{option}: {text}");
        assert!(text.contains(needle), "{option}: {needle} is not in {text}");
        assert!(!data.exists(), "{option} touched the data folder");
    }
}
