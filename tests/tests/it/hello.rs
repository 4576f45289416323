//! The main job, end to end: a Deployment behind a Service, with real containers and real kubectl,
//! through every trouble that a first user meets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::process::eventually;
use tests::tools;
use tests::world::run;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../orchestrator/examples/hello.yaml");

#[test]
fn a_deployment_behind_a_service_from_up_to_purge() {
    if !tests::root("hello::a_deployment_behind_a_service_from_up_to_purge") {
        return;
    }
    let mut cluster = Cluster::up("hello");
    cluster.kubectl(&format!("apply -f {MANIFEST}"));
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    let url = service_url(&cluster);
    all_pods_answer(&cluster, &url, 3);

    a_killed_container_restarts(&cluster);
    cluster.kubectl("scale deployment/hello --replicas=5");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    all_pods_answer(&cluster, &url, 5);

    a_rolling_update_fails_no_request(&cluster, &url);
    the_store_shows_the_objects(&cluster);
    pods_outlive_the_orchestrator(&mut cluster, &url);

    cluster.kubectl(&format!("delete -f {MANIFEST} --timeout=60s"));
    cluster.eventually_items("pods", "the pods are gone", <[Value]>::is_empty);
    cluster.purge();
    nothing_is_left(&cluster);
}

fn service_url(cluster: &Cluster) -> String {
    let service = cluster.json("service hello");
    format!("http://{}/", service["spec"]["clusterIP"].as_str().expect("the Service has an IP"))
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    cluster.items("pods -l app=hello")
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().expect("pods have names").to_string()
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}

/// Asks until every pod has told its name.
fn all_pods_answer(cluster: &Cluster, url: &str, count: usize) {
    let mut seen = BTreeSet::new();
    eventually("every pod answers through the Service", || {
        let answer = cluster.http(url).expect("the Service answers");
        let pods = pods(cluster);
        let from = pods.iter().map(name).find(|name| answer.contains(name));
        seen.insert(from.unwrap_or_else(|| panic!("{answer:?} names no pod")));
        (seen.len() == count).then_some(())
    });
}

fn a_killed_container_restarts(cluster: &Cluster) {
    let victim = pods(cluster).remove(0);
    let uid = victim["metadata"]["uid"].as_str().expect("pods have uids");
    let pids = cluster.pids_of(uid);
    assert!(!pids.is_empty(), "no process in the control group of pod {uid}");
    for pid in pids {
        // A container's process may have ended with the one before it.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let name = name(&victim);
    eventually("the killed container runs again, restarted once", || {
        let pod = cluster.json(&format!("pod {name}"));
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        (ready && restarts(&pod) == 1).then_some(())
    });
}

fn a_rolling_update_fails_no_request(cluster: &Cluster, url: &str) {
    let stop = AtomicBool::new(false);
    let (answered, updated) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = cluster.http(url).expect("no request fails during the update");
                    answered.fetch_add(1, Ordering::Relaxed);
                    updated.fetch_add(u64::from(answer.contains("v2")), Ordering::Relaxed);
                }
            });
        }
        // Ends the clients also when kubectl fails, or the scope would wait for them for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.kubectl("set image deployment/hello web=testbox:v2");
            cluster.kubectl("rollout status deployment/hello --timeout=90s");
            eventually("only the new version is left", || (pods(cluster).len() == 5).then_some(()));
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(answered.load(Ordering::Relaxed) > 20, "too few requests to mean anything");
    assert!(updated.load(Ordering::Relaxed) > 0, "no answer came from the new version");
}

fn the_store_shows_the_objects(cluster: &Cluster) {
    let output = cluster.orchestrator(&["env"]);
    let text = String::from_utf8(output.stdout).expect("variables are text");
    let Some(etcdctl) = tools::theirs("etcdctl-3.7").or_else(|| tools::theirs("etcdctl-3.4"))
    else {
        panic!("no etcdctl: run tests/tools/fetch");
    };
    let mut command = cluster.world.command(etcdctl);
    for line in text.lines().filter(|line| line.contains("ETCDCTL_")) {
        let assignment = line.trim_start_matches("export ").trim_end_matches(';');
        let (name, value) = assignment.split_once('=').expect("lines are assignments");
        command.env(name, value.trim_matches(|c| c == '"' || c == '\''));
    }
    let keys = run(command.args(["get", "--prefix", "/registry", "--keys-only"]));
    for key in ["/registry/deployments/default/hello", "/registry/services/specs/default/hello"] {
        assert!(keys.lines().any(|line| line == key), "{key} is not among:\n{keys}");
    }
}

fn pods_outlive_the_orchestrator(cluster: &mut Cluster, url: &str) {
    let identity = |pods: Vec<Value>| -> BTreeSet<(String, String, u64)> {
        let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].to_string();
        pods.iter().map(|pod| (name(pod), id(pod), restarts(pod))).collect()
    };
    let before = identity(pods(cluster));
    cluster.process.kill();
    for _ in 0..20 {
        cluster.http(url).expect("pods serve while the orchestrator is dead");
    }
    cluster.up_again();
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    all_pods_answer(cluster, url, 5);
    assert_eq!(identity(pods(cluster)), before, "the same containers, adopted");
}

fn nothing_is_left(cluster: &Cluster) {
    let mut left = Vec::new();
    let data = cluster.data_dir();
    if data.exists() {
        left.push(format!("data folder {}", data.display()));
    }
    let mounts = std::fs::read_to_string("/proc/mounts").expect("/proc/mounts is readable");
    let dir = cluster.dir().display().to_string();
    left.extend(
        mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")),
    );
    left.extend(
        processes().into_iter().filter(|line| line.contains(&dir)).map(|p| format!("process {p}")),
    );
    let links = run(cluster.world.command("ip").args(["-o", "link"]));
    left.extend(links.lines().filter(|line| !line.contains(" lo:")).map(|l| format!("link {l}")));
    left.extend(
        tree("/sys/fs/cgroup", "kubepods").into_iter().map(|path| format!("cgroup {path}")),
    );
    left.extend(tree("/var/log/pods", "hello-").into_iter().map(|path| format!("log {path}")));
    if let Ok(output) = cluster.world.command("nft").args(["list", "tables"]).output() {
        let tables = String::from_utf8_lossy(&output.stdout).into_owned();
        left.extend(tables.lines().map(|line| format!("nftables {line}")));
    }
    assert!(left.is_empty(), "purge left behind:\n  {}", left.join("\n  "));
}

fn processes() -> Vec<String> {
    let proc = std::fs::read_dir("/proc").expect("/proc is readable");
    proc.filter_map(|entry| {
        let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    })
    .collect()
}

/// Folders two levels below `root` whose name begins with `prefix`.
fn tree(root: &str, prefix: &str) -> Vec<String> {
    let children = |path: &Path| -> Vec<_> {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let first = children(Path::new(root));
    let second: Vec<_> = first.iter().flat_map(|path| children(path)).collect();
    first
        .into_iter()
        .chain(second)
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .map(|path| path.display().to_string())
        .collect()
}
