//! Moving in and out: our backups under etcd's own tools and etcd itself, and the way back.
//!
//! Goal: a backup of ours is one of etcd's. `etcdctl` saves it while writes go on, `etcdutl` finds
//! it sound, restores it, and a real etcd 3.7 serves from it the same keys, revisions, versions and
//! leases with the same digest of the whole history.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;
use tests::process::eventually;
use tests::server::{Program, Server};
use tests::tools;
use tests::world::text;

/// The other program's tools.
pub(super) struct Tools {
    pub(super) etcd: PathBuf,
    pub(super) etcdctl: PathBuf,
    pub(super) etcdutl: PathBuf,
}

impl Tools {
    /// Nothing, and a line in the list of skipped tests, where they are missing.
    pub(super) fn find(test: &str) -> Option<Self> {
        let [etcd, etcdctl, etcdutl] =
            ["etcd-3.7", "etcdctl-3.7", "etcdutl-3.7"].map(tools::theirs);
        match (etcd, etcdctl, etcdutl) {
            (Some(etcd), Some(etcdctl), Some(etcdutl)) => Some(Self { etcd, etcdctl, etcdutl }),
            _ => {
                tests::skip(test, "needs etcd, etcdctl and etcdutl 3.7");
                None
            }
        }
    }

    pub(super) fn ctl(&self, server: &Server, args: &[&str]) -> String {
        let mut command = Command::new(&self.etcdctl);
        command.arg(format!("--endpoints={}", server.endpoint)).args(args);
        good(&mut command)
    }

    pub(super) fn utl(&self, args: &[&str]) -> String {
        good(Command::new(&self.etcdutl).args(args))
    }
}

pub(super) fn good(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).expect("the tools print text")
}

pub(super) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(super) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(super) fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Everything that two servers with the same data answer alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    digest: String,
    keys: Value,
    past: Value,
    leases: Vec<Value>,
}

pub(super) fn contents(
    tools: &Tools,
    server: &Server,
    revision: i64,
    leases: &[String],
) -> Contents {
    let hash = json(
        &tools.ctl(server, &["endpoint", "hashkv", &format!("--rev={revision}"), "-w", "json"]),
    );
    let hash = &hash[0]["HashKV"];
    let range = |args: &[&str]| {
        let args = [&["get", "--prefix", "", "-w", "json"], args].concat();
        json(&tools.ctl(server, &args))["kvs"].take()
    };
    let leases = leases.iter().map(|lease| {
        let mut found =
            json(&tools.ctl(server, &["lease", "timetolive", "--keys", lease, "-w", "json"]));
        let found = found.as_object_mut().expect("an answer is an object");
        // What remains of it, and who says so.
        found.remove("ttl");
        for header in ["cluster_id", "member_id", "raft_term", "revision"] {
            found.remove(header);
        }
        Value::Object(std::mem::take(found))
    });
    Contents {
        digest: format!(
            "{} at {} from {}",
            hash["hash"], hash["hash_revision"], hash["compact_revision"]
        ),
        keys: range(&[&format!("--rev={revision}")]),
        past: range(&[&format!("--rev={}", revision - 20)]),
        leases: leases.collect(),
    }
}

/// A history with everything in it: overwrites, deletions, leases, values of many pages, a
/// compaction, and the same again after it. Returns the leases.
pub(super) fn fill(tools: &Tools, server: &Server) -> Vec<String> {
    let grant = |ttl: &str| {
        let granted = json(&tools.ctl(server, &["lease", "grant", ttl, "-w", "json"]));
        let id = granted["ID"].as_i64().expect("a lease has an id");
        format!("{id:x}")
    };
    let leases = vec![grant("3000"), grant("5000")];
    let put = |key: &str, value: &str, args: &[&str]| {
        tools.ctl(server, &[&["put", key, value], args].concat());
    };
    for round in 0..2 {
        for nth in 0..40 {
            put(&format!("key/{nth:03}"), &"v".repeat(nth * (150 + round)), &[]);
        }
        // As long as an argument may be.
        put("large", &"x".repeat(100_000), &[]);
        put("leased/a", "1", &["--lease", &leases[0]]);
        put("leased/b", "2", &["--lease", &leases[round]]);
        tools.ctl(server, &["del", "--prefix", "key/00"]);
        put("key/001", "back", &[]);
        let revision = json(&tools.ctl(server, &["endpoint", "status", "-w", "json"]));
        let revision = revision[0]["Status"]["header"]["revision"].as_i64().expect("a number");
        if round == 0 {
            tools.ctl(server, &["compact", &(revision - 1).to_string()]);
        }
    }
    leases
}

fn restored(tools: &Tools, file: &Path, dir: &Path) -> Server {
    tools.utl(&["snapshot", "restore", path(file), "--data-dir", path(dir)]);
    Server::start(Program::Peer(tools.etcd.clone()), dir, &[])
}

#[test]
fn etcd_serves_from_our_backup() {
    let Some(tools) = Tools::find("snapshot::etcd_serves_from_our_backup") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let ours = Server::start(Program::Ours, &dir.path().join("ours"), &[]);
    let leases = fill(&tools, &ours);
    let file = dir.path().join("backup.db");
    tools.ctl(&ours, &["snapshot", "save", path(&file)]);

    let status = json(&tools.utl(&["snapshot", "status", path(&file), "-w", "json"]));
    let revision = status["revision"].as_i64().expect("a revision");
    assert_eq!(status["version"], "3.7.0");
    let theirs = restored(&tools, &file, &dir.path().join("theirs"));
    let expected = contents(&tools, &ours, revision, &leases);
    assert_eq!(contents(&tools, &theirs, revision, &leases), expected);
    assert_eq!(
        status["totalKey"].as_u64(),
        expected.keys.as_array().map(|keys| keys.len() as u64),
        "the tool counts the live keys"
    );

    // It also goes on from there: both compact and delete, and agree about what is left.
    for server in [&ours, &theirs] {
        tools.ctl(server, &["compact", &revision.to_string()]);
        tools.ctl(server, &["del", "--prefix", "key/"]);
        tools.ctl(server, &["put", "after", "all"]);
    }
    tools.ctl(&theirs, &["defrag"]);
    let then = |server| contents(&tools, server, revision + 20, &leases);
    for server in [&ours, &theirs] {
        for nth in 0..18 {
            tools.ctl(server, &["put", "more", &nth.to_string()]);
        }
    }
    assert_eq!(then(&theirs), then(&ours));
}

#[test]
fn a_backup_under_writes_is_one_moment() {
    let Some(tools) = Tools::find("snapshot::a_backup_under_writes_is_one_moment") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let ours = Server::start(Program::Ours, &dir.path().join("ours"), &[]);
    let leases = fill(&tools, &ours);
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let files: Vec<PathBuf> = (0..3).map(|nth| dir.path().join(format!("{nth}.db"))).collect();
    let beside = thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&ours, &stop, &count));
        let mut beside = 0;
        for file in &files {
            let before = count.load(Ordering::Relaxed);
            let written = || count.load(Ordering::Relaxed) - before;
            eventually("the writer writes", || (written() > 100).then_some(()));
            let begun = written();
            tools.ctl(&ours, &["snapshot", "save", path(file)]);
            beside += written() - begun;
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic");
        beside
    });
    assert!(beside > 5, "too quiet to mean anything: {beside} writes beside three backups");
    let mut last = 0;
    for (nth, file) in files.iter().enumerate() {
        let status = json(&tools.utl(&["snapshot", "status", path(file), "-w", "json"]));
        let revision = status["revision"].as_i64().expect("a revision");
        assert!(revision > last, "a later backup holds more");
        last = revision;
        let theirs = restored(&tools, file, &dir.path().join(format!("theirs{nth}")));
        assert_eq!(
            contents(&tools, &theirs, revision, &leases),
            contents(&tools, &ours, revision, &leases)
        );
    }
}

/// Puts and deletes as fast as one client can, and counts them.
fn write_until(server: &Server, stop: &AtomicBool, written: &AtomicU64) {
    use proto::etcdserverpb::kv_client::KvClient;
    use proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let endpoint = tonic::transport::Channel::from_shared(server.url()).expect("a URL");
        let mut client = KvClient::new(endpoint.connect().await.expect("the server accepts"));
        let mut count = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("busy/{:03}", count % 200).into_bytes();
            if count.is_multiple_of(7) {
                let request = DeleteRangeRequest { key: key.into(), ..Default::default() };
                client.delete_range(request).await.expect("a delete is answered");
            } else {
                let value = count.to_string().repeat(20).into();
                let request = PutRequest { key: key.into(), value, ..Default::default() };
                client.put(request).await.expect("a put is answered");
            }
            count += 1;
            written.store(count, Ordering::Relaxed);
        }
    });
}

/// Passwords, roles and the demand to log in, in both directions.
#[test]
fn users_and_roles_move_with_the_data() {
    let Some(tools) = Tools::find("snapshot::users_and_roles_move_with_the_data") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let root = "--user=root:secret";
    for (from, to) in [(true, false), (false, true)] {
        let program = |ours| if ours { Program::Ours } else { Program::Peer(tools.etcd.clone()) };
        let name = |what: &str| dir.path().join(format!("{what}-{from}"));
        let source = Server::start(program(from), &name("source"), &[]);
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "add", "alice:wonder"],
            &["user", "add", "bob", "--no-password"],
            &["role", "add", "reader"],
            &["role", "grant-permission", "reader", "read", "open/", "--prefix=true"],
            &["role", "grant-permission", "reader", "readwrite", "one"],
            &["user", "grant-role", "alice", "reader"],
            &["user", "grant-role", "root", "root"],
            &["put", "open/door", "1"],
            &["put", "shut/door", "2"],
            &["auth", "enable"],
        ] {
            tools.ctl(&source, args);
        }
        let file = name("file");
        tools.ctl(&source, &["snapshot", "save", path(&file), root]);
        let data = name("restored");
        let restore = ["snapshot", "restore", path(&file), "--data-dir", path(&data)];
        if to {
            good(Command::new(tools::ours("store")).args(restore));
        } else {
            tools.utl(&restore);
        }
        let target = Server::start(program(to), &data, &[]);
        for server in [&source, &target] {
            let alice = "--user=alice:wonder";
            assert_eq!(tools.ctl(server, &["get", "open/door", alice]), "open/door\n1\n");
            let denied = |args: &[&str]| {
                let endpoint = format!("--endpoints={}", server.endpoint);
                let output = run(Command::new(&tools.etcdctl).arg(endpoint).args(args));
                assert!(!output.status.success(), "{args:?}");
                text(&output)
            };
            assert!(denied(&["get", "shut/door", alice]).contains("permission denied"));
            assert!(denied(&["get", "open/door", "--user=alice:wrong"]).contains("authentication"));
            assert!(denied(&["get", "open/door"]).contains("user name is empty"));
        }
        let told = |server: &Server, args: &[&str]| tools.ctl(server, &[args, &[root]].concat());
        for args in [
            &["user", "list"][..],
            &["user", "get", "bob"],
            &["role", "list"],
            &["role", "get", "reader"],
            &["auth", "status"],
        ] {
            assert_eq!(told(&source, args), told(&target, args), "{args:?}");
        }
    }
}
