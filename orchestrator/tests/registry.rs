//! The registry on a real store: what a client sees of objects' lives.
//!
//! Each test starts an embedded store in a directory of its own that listens nowhere, and a
//! registry over it. Tests wait for what must come, with a deadline, and never sleep.

use std::time::Duration;

use orchestrator::api::kinds::{self, Kind};
use orchestrator::api::patch::Patch;
use orchestrator::api::{FieldSelector, Key, LabelSelector, Object, Selector};
use orchestrator::client::etcd::{Range, Store};
use orchestrator::registry::{
    Actor, ClaimError, Config, DeleteOptions, Deleted, Event, ListOptions, Part, Preconditions,
    Propagation, Registry, Watch, WatchOptions, WriteOptions, claim, compact,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

struct World {
    registry: Registry,
    node: store::Node,
    directory: tempfile::TempDir,
    actor: Actor,
}

impl World {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = store::config::Config::new("test", directory.path().to_path_buf());
        let node = store::Node::start(disk).await.expect("the store starts");
        let registry = Registry::new(Store::from_channel(node.connect()), config);
        claim(registry.store()).await.expect("an empty store is ours");
        let world = Self { registry, node, directory, actor: Actor::system("tester") };
        world.create(&kinds::NAMESPACE, json!({"metadata": {"name": "a"}})).await;
        world
    }

    async fn end(self) {
        drop(self.registry);
        self.node.shutdown().await;
        self.directory.close().expect("the directory is ours to remove");
    }

    async fn create(&self, kind: &'static Kind, value: Value) -> Object {
        self.try_create(kind, value).await.expect("created")
    }

    async fn try_create(&self, kind: &'static Kind, value: Value) -> Result<Object, String> {
        let object = Object::from_value(value).expect("an object");
        let created =
            self.registry.create(&self.actor, kind, object, &WriteOptions::strict()).await;
        created.map_err(|status| format!("{} {}", status.code, status.message))
    }

    async fn update(&self, kind: &'static Kind, part: Part, object: Object) -> Result<Object, u16> {
        let (key, options) = (object.key(), WriteOptions::strict());
        let updated = self.registry.update(&self.actor, kind, &key, part, object, &options).await;
        updated.map_err(|status| status.code)
    }

    async fn delete(&self, kind: &'static Kind, key: &Key, options: &DeleteOptions) -> Deleted {
        self.registry.delete(&self.actor, kind, key, options).await.expect("deleted")
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let range = Range { keys_only: true, ..Range::prefix(prefix.to_owned()) };
        let found = self.registry.store().range(&range).await.expect("read").entries;
        found.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect()
    }
}

fn in_a(name: &str) -> Key {
    Key::namespaced("a", name)
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
    })
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "data": {"k": "1"}})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec})
}

async fn next(watch: &mut Watch) -> String {
    let event = tokio::time::timeout(DEADLINE, watch.recv()).await.expect("in time");
    match event {
        Some(Ok(Event::Added(object))) => format!("added {}", object.name()),
        Some(Ok(Event::Modified(object))) => format!("modified {}", object.name()),
        Some(Ok(Event::Deleted(object))) => format!("deleted {}", object.name()),
        Some(Ok(Event::Bookmark(_))) => "bookmark".into(),
        Some(Err(status)) => format!("error {} {}", status.code, status.reason),
        None => "end".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_live_and_their_revision_is_the_stores() {
    let world = World::new().await;
    let created = world.create(&kinds::POD, pod("p")).await;
    assert_eq!(created.text("/spec/containers/0/imagePullPolicy"), Some("IfNotPresent"));
    assert_eq!(created.text("/status/phase"), Some("Pending"));
    assert_eq!(created.text("/spec/serviceAccountName"), Some("default"));
    assert_eq!(created.generation(), 1);

    let read = world.registry.get(&kinds::POD, &in_a("p")).await.expect("there");
    assert_eq!(read, created);
    let stored = world.registry.store().get("/registry/pods/a/p").await.expect("read");
    let stored = stored.expect("at upstream's path");
    assert_eq!(Some(stored.mod_revision), created.resource_version());
    let value: Value = serde_json::from_slice(&stored.value).expect("JSON");
    assert_eq!(value["kind"], "Pod");
    assert_eq!(value["metadata"].get("resourceVersion"), None);

    let again = world.try_create(&kinds::POD, pod("p")).await;
    assert_eq!(again, Err("409 pods \"p\" already exists".into()));
    let nowhere = json!({"metadata": {"name": "c", "namespace": "b"}});
    let nowhere = world.try_create(&kinds::CONFIG_MAP, nowhere).await;
    assert_eq!(nowhere, Err("404 namespaces \"b\" not found".into()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_objects_are_refused_in_known_words() {
    let world = World::new().await;
    let mut unknown = pod("p");
    unknown["spec"]["foo"] = json!(1);
    assert_eq!(
        world.try_create(&kinds::POD, unknown).await,
        Err(
            "400 Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
             field \"spec.foo\""
                .into()
        )
    );
    let empty = json!({"metadata": {"name": "Bad", "namespace": "a"}, "spec": {}});
    let said = world.try_create(&kinds::POD, empty).await.expect_err("refused");
    assert!(
        said.starts_with(
            "422 Pod \"Bad\" is invalid: [metadata.name: Invalid value: \"Bad\": a \
                              lowercase RFC 1123 subdomain"
        ),
        "{said}"
    );
    assert!(said.ends_with("spec.containers: Required value]"), "{said}");
    let other = json!({"apiVersion": "apps/v1", "metadata": {"name": "x", "namespace": "a"}});
    assert_eq!(
        world.try_create(&kinds::CONFIG_MAP, other).await,
        Err("400 the API version in the data (apps/v1) does not match the expected API version (v1)"
            .into())
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_overwrite_each_other() {
    let world = World::new().await;
    let first = world.create(&kinds::CONFIG_MAP, config_map("c")).await;
    let mut mine = first.clone();
    mine.set("/data/k", "2");
    let second = world.update(&kinds::CONFIG_MAP, Part::Main, mine.clone()).await.expect("newest");
    mine.set("/data/k", "3");
    assert_eq!(world.update(&kinds::CONFIG_MAP, Part::Main, mine.clone()).await, Err(409));
    mine.remove("/metadata/resourceVersion");
    assert!(world.update(&kinds::CONFIG_MAP, Part::Main, mine).await.is_ok(), "unconditional");
    let mut other = second.clone();
    other.set("/metadata/uid", "another");
    assert_eq!(world.update(&kinds::CONFIG_MAP, Part::Main, other).await, Err(409));

    // Concurrent edits by function all take effect.
    let key = in_a("c");
    let edits = (0..20).map(|nth| {
        let (registry, actor, key) = (&world.registry, &world.actor, &key);
        async move {
            let field = format!("/data/n{nth}");
            let edit = |object: &mut Object| {
                object.set(&field, "x");
                Ok(())
            };
            registry.modify(actor, &kinds::CONFIG_MAP, key, Part::Main, edit).await
        }
    });
    for done in futures_util::future::join_all(edits).await {
        done.expect("each edit is written in the end");
    }
    let all = world.registry.get(&kinds::CONFIG_MAP, &key).await.expect("there");
    assert_eq!(all.get("/data").and_then(Value::as_object).map(|data| data.len()), Some(21));

    // A write that changes nothing is none.
    let same = world.update(&kinds::CONFIG_MAP, Part::Main, all.clone()).await.expect("allowed");
    assert_eq!(same.resource_version(), all.resource_version());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_keep_to_themselves() {
    let world = World::new().await;
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
    });
    let made = world
        .create(
            &kinds::DEPLOYMENT,
            json!({
                "metadata": {"name": "d", "namespace": "a"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
                "status": {"replicas": 7},
            }),
        )
        .await;
    assert_eq!(made.get("/status"), Some(&json!({})));
    let mut status = made.clone();
    status.set("/status/replicas", 3);
    status.set("/spec/replicas", 9);
    let made = world.update(&kinds::DEPLOYMENT, Part::Status, status).await.expect("written");
    assert_eq!((made.int("/status/replicas"), made.int("/spec/replicas")), (Some(3), Some(1)));
    assert_eq!(made.generation(), 1);

    let (key, options) = (in_a("d"), WriteOptions::strict());
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scale = world
        .registry
        .patch(&world.actor, &kinds::DEPLOYMENT, &key, Part::Scale, &scale, &options)
        .await
        .expect("scaled");
    assert_eq!((scale.kind(), scale.int("/spec/replicas")), ("Scale", Some(5)));
    assert_eq!(scale.text("/status/selector"), Some("app=web"));

    let image = Patch::Strategic(json!({
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}},
    }));
    let patched = world
        .registry
        .patch(&world.actor, &kinds::DEPLOYMENT, &key, Part::Main, &image, &options)
        .await
        .expect("patched");
    assert_eq!(patched.text("/spec/template/spec/containers/0/image"), Some("web:2"));
    assert_eq!((patched.int("/spec/replicas"), patched.generation()), (Some(5), 3));

    let selector = Patch::Json(json!([
        {"op": "replace", "path": "/spec/selector/matchLabels", "value": {"app": "db"}},
        {"op": "replace", "path": "/spec/template/metadata/labels", "value": {"app": "db"}},
    ]));
    let refused = world
        .registry
        .patch(&world.actor, &kinds::DEPLOYMENT, &key, Part::Main, &selector, &options)
        .await
        .expect_err("a selector is for life");
    assert_eq!(
        refused.message,
        "Deployment.apps \"d\" is invalid: spec.selector: Invalid value: \
         {\"matchLabels\":{\"app\":\"db\"}}: field is immutable"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_pod_is_copied_for_its_node_until_it_is_gone() {
    let world = World::new().await;
    world.create(&kinds::POD, pod("p")).await;
    let (key, options) = (in_a("p"), WriteOptions::default());
    let copies = || world.keys("/orchestrator/index/pods-by-node/");
    assert_eq!(copies().await, Vec::<String>::new());

    let bound = world.registry.bind(&world.actor, &key, None, "n1", &options).await.expect("bound");
    assert_eq!(
        bound.condition("PodScheduled").map(|one| one["status"].clone()),
        Some(json!("True"))
    );
    assert_eq!(copies().await, ["/orchestrator/index/pods-by-node/n1/a/p"]);
    let twice = world.registry.bind(&world.actor, &key, None, "n2", &options).await;
    assert_eq!(
        twice.expect_err("once").message,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \
         \"n1\""
    );

    let edit = |pod: &mut Object| {
        pod.set("/status/phase", "Running");
        Ok(())
    };
    let running = world.registry.modify(&world.actor, &kinds::POD, &key, Part::Status, edit).await;
    let running = running.expect("reported");
    let path = "/orchestrator/index/pods-by-node/n1/a/p";
    let copy = world.registry.store().get(path).await.expect("read").expect("there");
    assert_eq!(Some(copy.mod_revision), running.resource_version());

    let first = world.delete(&kinds::POD, &key, &DeleteOptions::default()).await;
    assert!(matches!(first, Deleted::Waiting(ref pod) if pod.is_deleting()));
    assert_eq!(copies().await.len(), 1);
    let end = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Preconditions {
            uid: Some(running.uid().to_owned()),
            ..Preconditions::default()
        },
        ..DeleteOptions::default()
    };
    assert!(matches!(world.delete(&kinds::POD, &key, &end).await, Deleted::Gone(_)));
    assert_eq!(copies().await, Vec::<String>::new());
    assert!(world.registry.get(&kinds::POD, &key).await.expect_err("gone").is_not_found());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_an_object_until_they_are_off() {
    let world = World::new().await;
    world.create(&kinds::CONFIG_MAP, config_map("c")).await;
    let key = in_a("c");
    let foreground =
        DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    let held = world.delete(&kinds::CONFIG_MAP, &key, &foreground).await.into_object();
    assert!(held.has_finalizer("foregroundDeletion"));

    let add = |object: &mut Object| {
        object.add_finalizer("example.com/late");
        Ok(())
    };
    let late = world.registry.modify(&world.actor, &kinds::CONFIG_MAP, &key, Part::Main, add).await;
    assert_eq!(late.expect_err("too late").code, 422);
    let off = |object: &mut Object| {
        object.remove_finalizer("foregroundDeletion");
        Ok(())
    };
    world
        .registry
        .modify(&world.actor, &kinds::CONFIG_MAP, &key, Part::Main, off)
        .await
        .expect("taken off");
    assert!(world.registry.get(&kinds::CONFIG_MAP, &key).await.is_err(), "gone with the last one");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_ends_in_steps_and_takes_nothing_new() {
    let world = World::new().await;
    let key = Key::cluster("a");
    world.create(&kinds::CONFIG_MAP, config_map("before")).await;
    let ending = world.delete(&kinds::NAMESPACE, &key, &DeleteOptions::default()).await;
    let ending = ending.into_object();
    assert_eq!(ending.text("/status/phase"), Some("Terminating"));
    assert_eq!(
        world.try_create(&kinds::CONFIG_MAP, config_map("late")).await,
        Err("403 configmaps \"late\" is forbidden: unable to create new content in namespace a \
             because it is being terminated"
            .into())
    );
    let mut done = ending;
    done.set("/spec/finalizers", json!([]));
    world.update(&kinds::NAMESPACE, Part::Finalize, done).await.expect("finalized");
    assert!(world.registry.get(&kinds::NAMESPACE, &key).await.is_err());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_consistent_pages() {
    let world = World::new().await;
    for nth in 0..7 {
        let mut value = config_map(&format!("c{nth}"));
        value["metadata"]["labels"] = json!({"odd": (nth % 2 == 1).to_string()});
        world.create(&kinds::CONFIG_MAP, value).await;
    }
    let names = |items: &[Object]| -> Vec<String> {
        items.iter().map(|object| object.name().to_owned()).collect()
    };
    let registry = &world.registry;
    let list = |options: ListOptions| async move {
        registry.list(&kinds::CONFIG_MAP, Some("a"), &options).await
    };
    let page = list(ListOptions { limit: 3, ..ListOptions::default() }).await.expect("a page");
    assert_eq!(names(&page.items), ["c0", "c1", "c2"]);
    assert_eq!(page.remaining, Some(4));
    // What is deleted meanwhile is still in the list that was begun.
    world.delete(&kinds::CONFIG_MAP, &in_a("c4"), &DeleteOptions::default()).await;
    let rest =
        ListOptions { continue_token: page.continue_token.clone(), ..ListOptions::default() };
    let rest_page = list(rest.clone()).await.expect("the rest");
    assert_eq!(names(&rest_page.items), ["c3", "c4", "c5", "c6"]);
    assert_eq!(rest_page.resource_version, page.resource_version);

    let labels = LabelSelector::parse("odd=true").expect("valid");
    let selector = Selector { labels, ..Selector::default() };
    let odd = list(ListOptions { selector, limit: 2, ..ListOptions::default() }).await;
    let odd = odd.expect("a page");
    assert_eq!((names(&odd.items), odd.remaining), (vec!["c1".into(), "c3".into()], None));
    let fields = FieldSelector::name("c5");
    let selector = Selector { fields, ..Selector::default() };
    let one = list(ListOptions { selector, ..ListOptions::default() }).await.expect("a page");
    assert_eq!(names(&one.items), ["c5"]);

    let newest = rest_page.resource_version + 1;
    world.registry.store().compact(newest).await.expect("compacted");
    let expired = list(rest).await.expect_err("history is gone");
    assert_eq!((expired.code, expired.reason), (410, "Expired"));
    let fresh = expired.continue_token.expect("a token to go on with");
    let later = list(ListOptions { continue_token: Some(fresh), ..ListOptions::default() }).await;
    assert_eq!(names(&later.expect("inconsistent, as told").items), ["c3", "c5", "c6"]);
    let future = ListOptions { resource_version: "999999".into(), ..ListOptions::default() };
    assert_eq!(list(future).await.expect_err("not yet").code, 504);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_tell_of_coming_changing_and_going() {
    let world = World::new().await;
    world.create(&kinds::POD, pod("old")).await;
    let labels = LabelSelector::parse("app=web").expect("valid");
    let selector = Selector { labels, ..Selector::default() };
    let options = WatchOptions { selector, ..WatchOptions::default() };
    let mut watch = world.registry.watch(&kinds::POD, Some("a"), options).await.expect("a watch");
    assert_eq!(next(&mut watch).await, "added old");
    world.create(&kinds::POD, pod("new")).await;
    assert_eq!(next(&mut watch).await, "added new");
    let key = in_a("new");
    let relabel = |value: &'static str| {
        let edit = move |pod: &mut Object| {
            pod.set_label("app", value);
            Ok(())
        };
        world.registry.modify(&world.actor, &kinds::POD, &key, Part::Main, edit)
    };
    relabel("db").await.expect("relabelled");
    assert_eq!(next(&mut watch).await, "deleted new");
    relabel("web").await.expect("relabelled");
    assert_eq!(next(&mut watch).await, "added new");
    let since = world.registry.get(&kinds::POD, &key).await.expect("there").resource_version();
    world.delete(&kinds::POD, &key, &DeleteOptions::default()).await;
    assert_eq!(next(&mut watch).await, "deleted new");

    let resumed = WatchOptions { since, ..WatchOptions::default() };
    let mut resumed = world.registry.watch(&kinds::POD, None, resumed).await.expect("a watch");
    assert_eq!(next(&mut resumed).await, "deleted new");
    let last = world.create(&kinds::POD, pod("last")).await;
    assert_eq!(next(&mut resumed).await, "added last");
    world.registry.store().compact(last.resource_version().expect("set")).await.expect("compacted");
    let ancient = WatchOptions { since: Some(1), ..WatchOptions::default() };
    let mut ancient = world.registry.watch(&kinds::POD, None, ancient).await.expect("a stream");
    assert_eq!(next(&mut ancient).await, "error 410 Expired");
    assert_eq!(next(&mut ancient).await, "end");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_nobody_else_has() {
    let service_cidr = "10.96.0.0/29".parse().expect("valid");
    let world = World::with(Config { service_cidr, ..Config::default() }).await;
    let ports = json!([{"port": 80}]);
    let mut addresses = Vec::new();
    for nth in 0..6 {
        let spec = json!({"ports": ports.clone()});
        let made = world.create(&kinds::SERVICE, service(&format!("s{nth}"), spec)).await;
        let address = made.text("/spec/clusterIP").expect("chosen").to_owned();
        assert_eq!(made.text("/spec/clusterIPs/0"), Some(address.as_str()));
        assert!(!addresses.contains(&address));
        addresses.push(address);
    }
    let full = world.try_create(&kinds::SERVICE, service("s6", json!({"ports": ports}))).await;
    assert!(full.expect_err("full").contains("range is full"));
    let spec = json!({"clusterIP": addresses[0], "ports": ports});
    let taken = world.try_create(&kinds::SERVICE, service("t", spec.clone())).await;
    assert_eq!(
        taken,
        Err(format!(
            "422 Service \"t\" is invalid: spec.clusterIPs: Invalid value: [\"{0}\"]: failed to \
             allocate IP {0}: provided IP is already allocated",
            addresses[0]
        ))
    );
    world.delete(&kinds::SERVICE, &in_a("s0"), &DeleteOptions::default()).await;
    world.create(&kinds::SERVICE, service("t", spec)).await;

    let change = Patch::Merge(json!({"spec": {"type": "NodePort"}}));
    let options = WriteOptions::strict();
    let node_port = world
        .registry
        .patch(&world.actor, &kinds::SERVICE, &in_a("t"), Part::Main, &change, &options)
        .await
        .expect("changed");
    let port = node_port.int("/spec/ports/0/nodePort").expect("chosen");
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(world.keys("/orchestrator/allocated/node-ports/").await.len(), 1);
    world.delete(&kinds::SERVICE, &in_a("t"), &DeleteOptions::default()).await;
    assert_eq!(world.keys("/orchestrator/allocated/node-ports/").await.len(), 0);
    assert_eq!(world.registry.repair().await, Ok(0), "every mark is right");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn derived_keys_are_repaired() {
    let world = World::new().await;
    world.create(&kinds::POD, pod("p")).await;
    let options = WriteOptions::default();
    world.registry.bind(&world.actor, &in_a("p"), None, "n1", &options).await.expect("bound");
    let store = world.registry.store();
    let break_it = orchestrator::client::etcd::Txn::new()
        .delete("/orchestrator/index/pods-by-node/n1/a/p")
        .put("/orchestrator/index/pods-by-node/n2/a/p", "{}");
    store.txn(break_it).await.expect("broken");
    assert_eq!(world.registry.repair().await, Ok(2));
    assert_eq!(
        world.keys("/orchestrator/index/").await,
        ["/orchestrator/index/pods-by-node/n1/a/p"]
    );
    assert_eq!(world.registry.repair().await, Ok(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_share_a_lease_and_have_two_forms() {
    let world = World::new().await;
    let event = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "a"}, "type": "Normal", "reason": "Started",
            "message": "up", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"},
        })
    };
    world.create(&kinds::EVENT, event("e1")).await;
    world.create(&kinds::EVENT, event("e2")).await;
    let store = world.registry.store();
    let lease = |path: &'static str| async move {
        store.get(path).await.expect("read").expect("there").lease
    };
    let (first, second) =
        (lease("/registry/events/a/e1").await, lease("/registry/events/a/e2").await);
    assert!(first != 0 && first == second);

    let newer = world.registry.get(&kinds::EVENT_V1, &in_a("e1")).await.expect("there");
    assert_eq!(newer.text("/note"), Some("up"));
    assert_eq!(newer.text("/regarding/name"), Some("p"));
    let edit = |event: &mut Object| {
        event.set("/note", "still up");
        Ok(())
    };
    let key = in_a("e1");
    let written =
        world.registry.modify(&world.actor, &kinds::EVENT_V1, &key, Part::Main, edit).await;
    assert_eq!(written.expect("written").api_version(), "events.k8s.io/v1");
    let older = world.registry.get(&kinds::EVENT, &key).await.expect("there");
    assert_eq!((older.text("/message"), older.api_version()), (Some("still up"), "v1"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_generated_and_dry_runs_write_nothing() {
    let world = World::new().await;
    let generated = json!({"metadata": {"generateName": "c-", "namespace": "a"}});
    let made = world.create(&kinds::CONFIG_MAP, generated).await;
    assert!(made.name().starts_with("c-") && made.name().len() == 7, "{}", made.name());

    let before = world.keys("/registry/").await;
    let dry = WriteOptions { dry_run: true, ..WriteOptions::strict() };
    let object = Object::from_value(config_map("dry")).expect("an object");
    let shown =
        world.registry.create(&world.actor, &kinds::CONFIG_MAP, object, &dry).await.expect("shown");
    assert!(!shown.uid().is_empty());
    let object = made.clone();
    let options = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    world.delete(&kinds::CONFIG_MAP, &object.key(), &options).await;
    assert_eq!(world.keys("/registry/").await, before);

    let all = ListOptions::default();
    let gone = world
        .registry
        .delete_collection(
            &world.actor,
            &kinds::CONFIG_MAP,
            Some("a"),
            &DeleteOptions::default(),
            &all,
        )
        .await
        .expect("deleted");
    assert_eq!(gone.items.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_store_is_refused_and_ours_is_known_again() {
    let world = World::new().await;
    assert!(claim(world.registry.store()).await.is_ok(), "claimed by us before");
    let store = world.registry.store();
    let foreign = orchestrator::client::etcd::Txn::new().delete("/orchestrator/format");
    store.txn(foreign).await.expect("unmarked");
    assert!(matches!(claim(store).await, Err(ClaimError::Foreign(_))));
    let later = orchestrator::client::etcd::Txn::new().put("/orchestrator/format", "9");
    store.txn(later).await.expect("marked");
    assert!(matches!(claim(store).await, Err(ClaimError::Format(ref found)) if found == "9"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted_one_interval_behind() {
    let world = World::new().await;
    let first = world.create(&kinds::CONFIG_MAP, config_map("c")).await;
    let cancel = CancellationToken::new();
    let store = world.registry.store().clone();
    let compactor = tokio::spawn(compact::run(store, Duration::from_millis(20), cancel.clone()));
    let since = first.resource_version();
    let expired = async {
        loop {
            let options = WatchOptions { since: Some(1), ..WatchOptions::default() };
            let mut watch =
                world.registry.watch(&kinds::CONFIG_MAP, None, options).await.expect("a stream");
            if next(&mut watch).await == "error 410 Expired" {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, expired).await.expect("compacted in time");
    assert!(since.is_some());
    cancel.cancel();
    compactor.await.expect("ends when cancelled");
    world.end().await;
}
