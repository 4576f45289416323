//! Scheduler and controllers against a real store in this process, with a kubelet that only writes
//! what a kubelet would.
//!
//! Every test waits for a state, never for an event, and fails with what it waited for. Nothing
//! listens on a port and all data are in a directory that goes with the test.

use std::time::{Duration, Instant};

use orchestrator::api::kinds::{
    DEPLOYMENT, ENDPOINT_SLICE, EVENT, LEASE, NAMESPACE, NODE, POD, REPLICA_SET, SERVICE,
    SERVICE_ACCOUNT,
};
use orchestrator::api::{Key, Kind, Object};
use orchestrator::client::election::Election;
use orchestrator::client::etcd::Store;
use orchestrator::client::view::Pod;
use orchestrator::client::{Api, Cache, Context, Controller, Error, Next, Work, controller};
use orchestrator::controllers::Patience;
use orchestrator::registry::{
    Actor, Config, DeleteOptions, ListOptions, Part, Propagation, Registry, WriteOptions, claim,
};
use orchestrator::tasks::Tasks;
use orchestrator::{controllers, scheduler};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    context: Context,
    registry: Registry,
    tasks: Tasks,
    store: store::Node,
    _data: tempfile::TempDir,
}

/// Starts pods that are bound to any node, and ends those that are told to end.
struct Kubelet {
    pods: Cache<Pod>,
}

impl Controller for Kubelet {
    type Key = Key;
    const NAME: &'static str = "kubelet";

    fn keys(&self) -> Vec<Key> {
        self.pods.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod.node.is_empty()) else {
            return Ok(Next::Await);
        };
        if pod.meta.is_deleting() {
            let mut now = orchestrator::client::api::exactly(&pod.meta.uid);
            now.grace_period_seconds = Some(0);
            api.delete(&POD, key, &now).await?;
        } else if pod.phase != "Running" {
            let ip = address(&pod.meta.uid);
            let run = |object: &mut Object| {
                object.set("/status/phase", "Running");
                object.set("/status/podIP", ip.as_str());
                object.set("/status/podIPs", json!([{"ip": ip}]));
                object.set_condition(json!({"type": "Ready", "status": "True",
                                            "lastTransitionTime": "2026-01-01T00:00:00Z"}));
                Ok(())
            };
            api.modify(&POD, key, Part::Status, run).await?;
        }
        Ok(Next::Await)
    }
}

/// An address nobody else is likely to have.
fn address(uid: &str) -> String {
    let hash = uid.bytes().fold(17_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
    let [_, a, b, c] = hash.to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

impl Cluster {
    async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, Patience::default()).await
    }

    async fn start_with(nodes: usize, patience: Patience) -> Self {
        let data = tempfile::tempdir().expect("a directory for the data");
        let config = store::config::Config::new("test", data.path().join("store"));
        let store = store::Node::start(config).await.expect("the store starts");
        let client = Store::from_channel(store.connect());
        claim(&client).await.expect("the store is empty");
        let registry = Registry::new(client, Config::default());
        let tasks = Tasks::new();
        let root = Tasks::new();
        let context = Context::new(registry.clone(), &tasks, &root);
        let cluster = Self { context, registry, tasks, store, _data: data };
        for namespace in ["default", "kube-node-lease"] {
            cluster.create(&NAMESPACE, json!({"metadata": {"name": namespace}})).await;
        }
        for nth in 0..nodes {
            cluster.add_node(&format!("n{nth}")).await;
        }
        let context = &cluster.context;
        let kubelet = Kubelet { pods: context.caches.get() };
        let work: Work<Key> = Work::default();
        let queue = work.clone();
        kubelet.pods.subscribe(move |change| queue.add(change.key.clone()));
        let api = context.api("kubelet");
        let stop = context.token();
        cluster.tasks.spawn("kubelet", &root, async move {
            controller::run(&kubelet, &work, &api, stop).await;
            Ok::<(), Error>(())
        });
        cluster.tasks.spawn("scheduler", &root, scheduler::run(context.clone()));
        let config = controllers::Config { root_ca: "the authority".to_owned() };
        cluster.tasks.spawn(
            "controllers",
            &root,
            controllers::run_with(context.clone(), config, patience),
        );
        cluster
    }

    async fn stop(self) {
        self.tasks.stop();
        self.tasks.wait(Duration::from_secs(10)).await.expect("no part failed");
        self.store.shutdown().await;
    }

    fn actor() -> Actor {
        Actor::system("system:test")
    }

    async fn create(&self, kind: &'static Kind, object: Value) -> Object {
        let object = Object::from_value(object).expect("an object");
        let made =
            self.registry.create(&Self::actor(), kind, object, &WriteOptions::default()).await;
        made.expect("the object is valid")
    }

    async fn add_node(&self, name: &str) {
        let labels = json!({"kubernetes.io/hostname": name});
        self.create(&NODE, json!({"metadata": {"name": name, "labels": labels}})).await;
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        self.modify(&NODE, &Key::cluster(name), Part::Status, |node| {
            node.set("/status/capacity", room.clone());
            node.set("/status/allocatable", room.clone());
            node.set_condition(json!({"type": "Ready", "status": "True"}));
        })
        .await;
    }

    async fn modify(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        mut change: impl FnMut(&mut Object) + Send,
    ) {
        let change = |object: &mut Object| {
            change(object);
            Ok(())
        };
        let done = self.registry.modify(&Self::actor(), kind, key, part, change).await;
        done.expect("the change is valid");
    }

    async fn delete(&self, kind: &'static Kind, key: &Key, how: Propagation) {
        let options = DeleteOptions { propagation: Some(how), ..DeleteOptions::default() };
        let done = self.registry.delete(&Self::actor(), kind, key, &options).await;
        done.expect("the object is there");
    }

    async fn get(&self, kind: &'static Kind, key: &Key) -> Option<Object> {
        match self.registry.get(kind, key).await {
            Ok(object) => Some(object),
            Err(status) if status.is_not_found() => None,
            Err(status) => panic!("{status}"),
        }
    }

    async fn list(&self, kind: &'static Kind) -> Vec<Object> {
        let listed = self.registry.list(kind, Some("default"), &ListOptions::default()).await;
        listed.expect("the list is read").items
    }

    /// Waits until the objects of a kind look right.
    async fn until(&self, what: &str, kind: &'static Kind, right: impl Fn(&[Object]) -> bool) {
        let start = Instant::now();
        loop {
            let all = self.list(kind).await;
            if right(&all) {
                return;
            }
            if start.elapsed() > PATIENCE {
                let all: Vec<_> = all.iter().map(Object::as_value).collect();
                panic!("not within {PATIENCE:?}: {what}; there is {}", json!(all));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a node looks right.
    async fn until_node(&self, what: &str, key: &Key, right: impl Fn(&Object) -> bool) {
        let start = Instant::now();
        loop {
            let node = self.get(&NODE, key).await.expect("the node is there");
            if right(&node) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not in time: {what}; it is {}", node.as_value());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a Deployment is rolled out as `kubectl rollout status` would have it.
    async fn rolled_out(&self, replicas: i64) {
        self.until("the deployment is rolled out", &DEPLOYMENT, |all| {
            let [one] = all else { return false };
            one.int("/status/observedGeneration") == Some(one.generation())
                && one.int("/status/updatedReplicas") == Some(replicas)
                && one.int("/status/replicas") == Some(replicas)
                && one.int("/status/availableReplicas") == Some(replicas)
        })
        .await;
    }
}

fn deployment(replicas: i64, image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                    {"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]},
            },
        },
    })
}

fn web() -> Key {
    Key::namespaced("default", "web")
}

fn image(pod: &Object) -> &str {
    pod.text("/spec/containers/0/image").unwrap_or("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_from_roll_out_to_removal() {
    let cluster = Cluster::start(2).await;
    cluster.create(&DEPLOYMENT, deployment(3, "a:1")).await;
    cluster.rolled_out(3).await;
    let pods = cluster.list(&POD).await;
    assert!(pods.iter().all(|pod| pod.text("/spec/nodeName").is_some()));
    assert!(pods.iter().all(|pod| pod.label("pod-template-hash").is_some()));

    cluster.modify(&DEPLOYMENT, &web(), Part::Main, |one| one.set("/spec/replicas", 5)).await;
    cluster.rolled_out(5).await;

    let update = |image: &'static str| {
        move |one: &mut Object| one.set("/spec/template/spec/containers/0/image", image)
    };
    cluster.modify(&DEPLOYMENT, &web(), Part::Main, update("a:2")).await;
    cluster.rolled_out(5).await;
    cluster
        .until("only new pods are left", &POD, |pods| {
            pods.len() == 5 && pods.iter().all(|pod| image(pod) == "a:2")
        })
        .await;
    assert_eq!(cluster.list(&REPLICA_SET).await.len(), 2);

    // `kubectl rollout undo` writes the old template back.
    cluster.modify(&DEPLOYMENT, &web(), Part::Main, update("a:1")).await;
    cluster.rolled_out(5).await;
    let revision =
        |one: &Object| one.annotation("deployment.kubernetes.io/revision").map(str::to_owned);
    let back = cluster.get(&DEPLOYMENT, &web()).await.expect("it is there");
    assert_eq!(revision(&back).as_deref(), Some("3"));
    let condition = |name| back.condition(name).and_then(|one| one["status"].as_str());
    assert_eq!((condition("Available"), condition("Progressing")), (Some("True"), Some("True")));

    cluster.delete(&DEPLOYMENT, &web(), Propagation::Background).await;
    cluster.until("the pods are gone", &POD, <[_]>::is_empty).await;
    cluster.until("the sets are gone", &REPLICA_SET, <[_]>::is_empty).await;
    cluster
        .until("events told of it", &EVENT, |events| {
            ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled"]
                .iter()
                .all(|reason| events.iter().any(|event| event.text("/reason") == Some(reason)))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_take_along_what_their_deletion_says() {
    let cluster = Cluster::start(1).await;
    cluster.create(&DEPLOYMENT, deployment(2, "a:1")).await;
    cluster.rolled_out(2).await;
    cluster.delete(&DEPLOYMENT, &web(), Propagation::Orphan).await;
    cluster.until("the deployment is gone", &DEPLOYMENT, <[_]>::is_empty).await;
    let sets = cluster.list(&REPLICA_SET).await;
    assert!(sets.iter().all(|set| set.owner_references().count() == 0), "the set is free");
    assert_eq!(cluster.list(&POD).await.len(), 2);

    // A new deployment adopts it; deleted in foreground it outlives its pods.
    cluster.create(&DEPLOYMENT, deployment(2, "a:1")).await;
    cluster
        .until("the set is adopted", &REPLICA_SET, |sets| {
            sets.len() == 1 && sets[0].controller().is_some()
        })
        .await;
    cluster.rolled_out(2).await;
    cluster.delete(&DEPLOYMENT, &web(), Propagation::Foreground).await;
    cluster.until("the deployment is gone", &DEPLOYMENT, <[_]>::is_empty).await;
    assert!(cluster.list(&REPLICA_SET).await.is_empty(), "it waited for what it owned");
    assert!(cluster.list(&POD).await.is_empty(), "and for what that owned");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_finds_its_pods_and_loses_them_before_they_stop() {
    let cluster = Cluster::start(1).await;
    cluster
        .create(
            &SERVICE,
            json!({
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
            }),
        )
        .await;
    let endpoints = |slices: &[Object]| -> Vec<Value> {
        slices.iter().flat_map(|slice| slice.items("/endpoints")).cloned().collect()
    };
    cluster.until("an empty slice", &ENDPOINT_SLICE, |slices| slices.len() == 1).await;
    cluster.create(&DEPLOYMENT, deployment(3, "a:1")).await;
    cluster
        .until("three ready endpoints", &ENDPOINT_SLICE, |slices| {
            let all = endpoints(slices);
            all.len() == 3 && all.iter().all(|one| one["conditions"]["ready"] == true)
        })
        .await;
    let slices = cluster.list(&ENDPOINT_SLICE).await;
    assert_eq!(slices.len(), 1, "the empty slice was filled");
    assert_eq!(slices[0].int("/ports/0/port"), Some(80));
    assert!(slices[0].controller().is_some_and(|owner| owner.kind == "Service"));
    cluster.modify(&DEPLOYMENT, &web(), Part::Main, |one| one.set("/spec/replicas", 1)).await;
    cluster.until("one endpoint", &ENDPOINT_SLICE, |slices| endpoints(slices).len() == 1).await;
    cluster.delete(&SERVICE, &web(), Propagation::Background).await;
    cluster.until("the slice is gone", &ENDPOINT_SLICE, <[_]>::is_empty).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_its_defaults_and_goes_with_all_it_holds() {
    let cluster = Cluster::start(1).await;
    let account = Key::namespaced("default", "default");
    cluster.until("a service account", &SERVICE_ACCOUNT, |all| all.len() == 1).await;
    cluster.delete(&SERVICE_ACCOUNT, &account, Propagation::Background).await;
    cluster.until("it comes back", &SERVICE_ACCOUNT, |all| all.len() == 1).await;

    cluster.create(&NAMESPACE, json!({"metadata": {"name": "team"}})).await;
    let mut object = deployment(2, "a:1");
    object["metadata"]["namespace"] = "team".into();
    cluster.create(&DEPLOYMENT, object).await;
    let team = |kind: &'static Kind| {
        let registry = cluster.registry.clone();
        async move {
            let all = registry.list(kind, Some("team"), &ListOptions::default()).await;
            all.expect("the list is read").items.len()
        }
    };
    let start = Instant::now();
    while team(&POD).await < 2 {
        assert!(start.elapsed() < PATIENCE, "the pods of the namespace are made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.delete(&NAMESPACE, &Key::cluster("team"), Propagation::Background).await;
    while cluster.get(&NAMESPACE, &Key::cluster("team")).await.is_some() {
        assert!(start.elapsed() < 2 * PATIENCE, "the namespace ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for kind in [&POD, &REPLICA_SET, &DEPLOYMENT, &SERVICE_ACCOUNT, &EVENT] {
        assert_eq!(team(kind).await, 0, "{}", kind.kind);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_a_place_says_why_and_gets_the_first_that_comes() {
    let cluster = Cluster::start(0).await;
    cluster
        .create(
            &POD,
            json!({
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {"containers": [{"name": "c", "image": "a:1"}]},
            }),
        )
        .await;
    let says = |pods: &[Object], text: &str| {
        pods.iter().any(|pod| {
            pod.condition("PodScheduled").is_some_and(|one| {
                one["reason"] == "Unschedulable" && one["message"].as_str() == Some(text)
            })
        })
    };
    cluster
        .until("the pod says why", &POD, |pods| says(pods, "no nodes available to schedule pods"))
        .await;
    cluster
        .until("an event says why", &EVENT, |events| {
            events.iter().any(|event| event.text("/reason") == Some("FailedScheduling"))
        })
        .await;
    cluster.add_node("n0").await;
    cluster
        .until("the pod runs", &POD, |pods| {
            pods.iter().any(|pod| pod.text("/status/phase") == Some("Running"))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_they_do_not_endure() {
    let cluster = Cluster::start(2).await;
    cluster.create(&DEPLOYMENT, deployment(4, "a:1")).await;
    cluster.rolled_out(4).await;
    let taint = json!([{"key": "fire", "effect": "NoExecute"}]);
    cluster
        .modify(&NODE, &Key::cluster("n0"), Part::Main, |node| {
            node.set("/spec/taints", taint.clone());
        })
        .await;
    cluster
        .until("all pods run on the other node", &POD, |pods| {
            pods.len() == 4
                && pods.iter().all(|pod| {
                    pod.text("/spec/nodeName") == Some("n1")
                        && pod.text("/status/phase") == Some("Running")
                })
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_out_until_it_speaks_again() {
    let patience = Patience { silent_node: Duration::from_millis(400), ..Patience::default() };
    let cluster = Cluster::start_with(1, patience).await;
    cluster.create(&DEPLOYMENT, deployment(1, "a:1")).await;
    let n0 = Key::cluster("n0");
    let taints = |node: &Object| -> Vec<String> {
        let key = |taint: &Value| taint["key"].as_str().unwrap_or_default().to_owned();
        node.items("/spec/taints").iter().map(key).collect()
    };
    cluster
        .until_node("it is unreachable", &n0, |node| {
            node.condition("Ready").is_some_and(|one| one["status"] == "Unknown")
                && taints(node) == ["node.kubernetes.io/unreachable"; 2]
        })
        .await;
    cluster
        .until("its pod is out of service and still there", &POD, |pods| {
            pods.len() == 1 && pods[0].condition("Ready").is_none_or(|one| one["status"] == "False")
        })
        .await;
    let lease = json!({"metadata": {"name": "n0", "namespace": "kube-node-lease"}});
    cluster.create(&LEASE, lease).await;
    let speak = async {
        for second in 0.. {
            let at = format!("2026-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60);
            let lease = Key::namespaced("kube-node-lease", "n0");
            let renew = |lease: &mut Object| lease.set("/spec/renewTime", at.as_str());
            cluster.modify(&LEASE, &lease, Part::Main, renew).await;
            let ready = json!({"type": "Ready", "status": "True"});
            let says = |node: &mut Object| node.set_condition(ready.clone());
            cluster.modify(&NODE, &n0, Part::Status, says).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = speak => {}
        () = cluster.until_node("it is back", &n0, |node| taints(node).is_empty()) => {}
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_are_forgotten() {
    let patience = Patience { missing_node: Duration::from_millis(100), ..Patience::default() };
    let cluster = Cluster::start_with(2, patience).await;
    cluster.create(&DEPLOYMENT, deployment(4, "a:1")).await;
    cluster.rolled_out(4).await;
    cluster.delete(&NODE, &Key::cluster("n0"), Propagation::Background).await;
    cluster
        .until("all pods are on the node that is left", &POD, |pods| {
            pods.len() == 4 && pods.iter().all(|pod| pod.text("/spec/nodeName") == Some("n1"))
        })
        .await;
    cluster.stop().await;
}

/// Candidates of one election lead one after the other, and the next as soon as one resigns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_at_a_time() {
    let cluster = Cluster::start(0).await;
    let store = cluster.registry.store().clone();
    let (leads, mut led) = tokio::sync::watch::channel(String::new());
    let candidate = |name: &'static str| {
        let election = Election::new(store.clone(), "test", name);
        let (stop, leads) = (CancellationToken::new(), leads.clone());
        let run = {
            let stop = stop.clone();
            async move {
                let lead = |term: CancellationToken| {
                    let leads = leads.clone();
                    async move {
                        let was = leads.send_replace(name.to_owned());
                        assert_eq!(was, "", "two lead at once");
                        term.cancelled().await;
                        leads.send_replace(String::new());
                        Ok::<(), Error>(())
                    }
                };
                election.run(&stop, lead).await
            }
        };
        (stop, tokio::spawn(run))
    };
    let (stop_first, first) = candidate("first");
    led.wait_for(|who| who == "first").await.expect("the sender lives");
    let (stop_second, second) = candidate("second");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(*led.borrow(), "first");
    let resigned = Instant::now();
    stop_first.cancel();
    led.wait_for(|who| who == "second").await.expect("the sender lives");
    assert!(resigned.elapsed() < Duration::from_secs(5), "nobody waits for the lease to end");
    stop_second.cancel();
    for task in [first, second] {
        task.await.expect("no panic").expect("no error");
    }
    cluster.stop().await;
}

/// Prints figures: run it alone, with `--ignored --nocapture`, from a release build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand"]
async fn figures() {
    const PODS: i64 = 2000;
    let cluster = Cluster::start(40).await;
    let pods: Cache<Pod> = cluster.context.caches.get();
    let count = |right: fn(&Pod) -> bool| pods.list().iter().filter(|pod| right(pod)).count();
    let until = async |wanted: i64, right: fn(&Pod) -> bool| {
        while count(right) < usize::try_from(wanted).expect("few") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let bound = |pod: &Pod| !pod.node.is_empty();
    cluster.create(&DEPLOYMENT, deployment(1, "a:0")).await;
    until(1, Pod::is_ready).await;
    let mut each = Vec::new();
    for replicas in 2..=21 {
        let start = Instant::now();
        let scale = |one: &mut Object| one.set("/spec/replicas", replicas);
        cluster.modify(&DEPLOYMENT, &web(), Part::Main, scale).await;
        until(replicas, bound).await;
        let placed = start.elapsed();
        until(replicas, Pod::is_ready).await;
        each.push((start.elapsed(), placed));
    }
    each.sort_unstable();
    let (running, placed) = each[each.len() / 2];
    eprintln!("one more replica, p50: bound {placed:?}, running {running:?}");
    let start = Instant::now();
    let scale = |one: &mut Object| one.set("/spec/replicas", PODS);
    cluster.modify(&DEPLOYMENT, &web(), Part::Main, scale).await;
    until(PODS, bound).await;
    let placed = start.elapsed();
    until(PODS, Pod::is_ready).await;
    let per_second = |took: Duration| 1979.0 / took.as_secs_f64();
    eprintln!(
        "{PODS} pods of one deployment: bound {:.0}/s, running {:.0}/s",
        per_second(placed),
        per_second(start.elapsed()),
    );
    cluster.stop().await;
}
