//! Roll-outs played to their end against a model of ReplicaSets whose pods become ready one by one.
//!
//! Every step checks what a rolling update promises: never more pods than `maxSurge` allows, never
//! fewer available than `maxUnavailable` allows.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rollout::{self, Plan, REVISION};
use super::{set_for, status, template};
use crate::client::view::{Deployment, ObjectRef, ReplicaSet};

/// A Deployment, its sets, and a clock that moves a second with each step.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    second: i64,
    log: Vec<String>,
}

fn deployment(replicas: i64, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "strategy": strategy,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template_of(image),
            "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
        },
    }))
    .expect("a valid deployment")
}

fn template_of(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
           "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
           "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), second: 0, log: Vec::new() }
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.template = template_of(image);
        self.deployment.meta.generation += 1;
    }

    fn image(set: &ReplicaSet) -> String {
        set.spec.template["spec"]["containers"][0]["image"].as_str().unwrap_or("?").to_owned()
    }

    /// One run of the controller; tells whether it did anything.
    fn run(&mut self, old_pods: bool) -> bool {
        let plan = rollout::plan(&self.deployment, &self.sets, old_pods);
        let moved = self.apply(&plan);
        let now = Timestamp::from_second(self.second).expect("a valid time");
        let (status, _) = status::status(&self.deployment, &plan, now);
        let told = status != self.deployment.status;
        self.deployment.status = status;
        moved || told
    }

    fn apply(&mut self, plan: &Plan) -> bool {
        let mut moved = false;
        if let Some(create) = &plan.create {
            let value = set_for(&self.deployment, &ObjectRef::to(&self.deployment), create);
            let mut set: ReplicaSet = serde_json::from_value(value).expect("a valid set");
            set.meta.created = Timestamp::from_second(self.second).ok();
            set.meta.uid.clone_from(&create.hash);
            self.log.push(format!("create {} {}", Self::image(&set), create.replicas));
            self.sets.push(Arc::new(set));
            moved = true;
        }
        for change in plan.new.iter().chain(&plan.old).filter(|set| set.is_changed()) {
            let at = self.sets.iter().position(|set| set.meta.name == change.set.meta.name);
            let at = at.expect("a planned set exists");
            let mut set = (*self.sets[at]).clone();
            if change.is_scaled() {
                let (from, to) = (set.spec.replicas, change.replicas);
                self.log.push(format!("{} {from} to {to}", Self::image(&set)));
            }
            set.spec.replicas = change.replicas;
            set.meta.annotations.extend(change.annotations.clone());
            self.sets[at] = Arc::new(set);
            moved = true;
        }
        for gone in &plan.forget {
            self.log.push(format!("forget {}", Self::image(gone)));
            self.sets.retain(|set| set.meta.name != gone.meta.name);
            moved = true;
        }
        if let Some(revision) = &plan.revision {
            self.deployment.meta.annotations.insert(REVISION.to_owned(), revision.clone());
        }
        moved
    }

    /// Lets the sets' pods follow: surplus pods go at once, one missing pod of each set is born, one
    /// born pod becomes available. Tells whether anything moved.
    fn pods(&mut self, healthy: &dyn Fn(&ReplicaSet) -> bool) -> bool {
        self.second += 1;
        let mut moved = false;
        for set in &mut self.sets {
            let mut next = (**set).clone();
            let status = &mut next.status;
            if status.available_replicas < status.replicas && healthy(set) {
                status.available_replicas += 1;
            }
            status.replicas = match set.spec.replicas - status.replicas {
                1.. => status.replicas + 1,
                _ => set.spec.replicas,
            };
            status.available_replicas = status.available_replicas.min(status.replicas);
            status.ready_replicas = status.available_replicas;
            moved |= next.status != set.status;
            *set = Arc::new(next);
        }
        moved
    }

    fn settle(&mut self, most: i64, least: i64) {
        self.settle_with(most, least, &|_| true);
    }

    fn settle_with(&mut self, most: i64, least: i64, healthy: &dyn Fn(&ReplicaSet) -> bool) {
        for _ in 0..200 {
            let ran = self.run(false);
            let wanted: i64 = self.sets.iter().map(|set| set.spec.replicas).sum();
            assert!(wanted <= most, "{wanted} pods of at most {most}: {:?}", self.log);
            let moved = self.pods(healthy);
            let available: i64 = self.sets.iter().map(|set| set.status.available_replicas).sum();
            assert!(available >= least, "{available} available of {least}: {:?}", self.log);
            if !ran && !moved {
                return;
            }
        }
        panic!("no end: {:?}", self.log);
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let all = &self.deployment.status.conditions;
        let one = all.iter().find(|one| one.kind == kind).expect("the condition is there");
        (one.status.clone(), one.reason.clone())
    }

    fn revision(&self) -> &str {
        self.deployment.meta.annotation(REVISION).unwrap_or("none")
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

fn done() -> (String, String) {
    ("True".to_owned(), "NewReplicaSetAvailable".to_owned())
}

#[test]
fn a_first_roll_out_makes_one_set_and_says_so() {
    let mut world = World::new(deployment(3, "a", rolling(json!("25%"), json!("25%"))));
    assert!(world.run(false));
    let progressing = world.condition("Progressing");
    assert_eq!(progressing, ("True".to_owned(), "NewReplicaSetCreated".to_owned()));
    assert_eq!(world.condition("Available").0, "False");
    world.settle(3, 0);
    assert_eq!(world.take_log(), ["create a 3"]);
    assert_eq!(world.condition("Progressing"), done());
    assert_eq!(world.condition("Available").0, "True");
    assert_eq!(world.revision(), "1");
}

#[test]
fn a_rolling_update_stays_within_its_bounds() {
    for (surge, unavailable, most, least) in [
        ("25%", "25%", 5, 3),
        ("1", "0", 5, 4),
        ("0", "1", 4, 3),
        ("100%", "100%", 8, 0),
        ("0", "0", 4, 3),
    ] {
        let share = |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n));
        let mut world = World::new(deployment(4, "a", rolling(share(surge), share(unavailable))));
        world.settle(most, 0);
        world.set_image("b");
        world.settle(most, least);
        let sizes: Vec<_> =
            world.sets.iter().map(|set| (World::image(set), set.spec.replicas)).collect();
        assert_eq!(sizes, [("a".to_owned(), 0), ("b".to_owned(), 4)], "{surge} {unavailable}");
        assert_eq!((world.condition("Progressing"), world.revision()), (done(), "2"));
    }
}

#[test]
fn a_step_by_step_update_reads_like_this() {
    let mut world = World::new(deployment(2, "a", rolling(json!(1), json!(0))));
    world.settle(3, 0);
    world.set_image("b");
    world.settle(3, 2);
    assert_eq!(world.take_log(), ["create a 2", "create b 1", "a 2 to 1", "b 1 to 2", "a 1 to 0"]);
}

#[test]
fn a_rollback_brings_the_old_set_back_under_a_new_revision() {
    let mut world = World::new(deployment(2, "a", rolling(json!(1), json!(0))));
    world.settle(3, 0);
    world.set_image("b");
    world.settle(3, 2);
    world.take_log();
    world.set_image("a");
    world.settle(3, 2);
    assert_eq!(world.take_log(), ["a 0 to 1", "b 2 to 1", "a 1 to 2", "b 1 to 0"]);
    assert_eq!(world.revision(), "3");
    let back = world.sets.iter().find(|set| World::image(set) == "a").expect("it came back");
    assert_eq!(back.meta.annotation("deployment.kubernetes.io/revision-history"), Some("1"));
}

#[test]
fn a_broken_image_stops_the_update_and_runs_into_the_deadline() {
    let mut world = World::new(deployment(4, "a", rolling(json!(1), json!(1))));
    world.settle(5, 0);
    world.set_image("bad");
    world.settle_with(5, 3, &|set| World::image(set) != "bad");
    let sizes: Vec<_> = world.sets.iter().map(|set| set.spec.replicas).collect();
    assert_eq!(sizes, [3, 2]);
    world.second += 601;
    assert!(world.run(false));
    let late = ("False".to_owned(), "ProgressDeadlineExceeded".to_owned());
    assert_eq!(world.condition("Progressing"), late);
    // The way out: pods that never worked are the first to go.
    world.set_image("c");
    world.settle(5, 3);
    assert_eq!(world.condition("Progressing"), done());
}

#[test]
fn a_new_number_goes_to_the_one_set_or_in_proportion() {
    let mut world = World::new(deployment(10, "a", rolling(json!(3), json!(2))));
    world.settle(13, 0);
    world.deployment.spec.replicas = 4;
    world.settle(13, 0);
    assert_eq!(world.take_log(), ["create a 10", "a 10 to 4"]);
    // Stuck in the middle of an update: 8 old pods and 5 new ones of 10 + 3.
    let mut world = World::new(deployment(10, "a", rolling(json!(3), json!(2))));
    world.settle(13, 0);
    world.set_image("bad");
    world.settle_with(13, 8, &|set| World::image(set) != "bad");
    world.take_log();
    world.deployment.spec.replicas = 15;
    world.run(false);
    assert_eq!(world.take_log(), ["bad 5 to 7", "a 8 to 11"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(deployment(2, "a", json!({"type": "Recreate"})));
    world.settle(2, 0);
    world.set_image("b");
    world.take_log();
    world.run(true);
    world.pods(&|_| true);
    world.run(true);
    assert_eq!(world.take_log(), ["a 2 to 0"]);
    world.settle(2, 0);
    assert_eq!(world.take_log(), ["create b 2"]);
}

#[test]
fn paused_means_scaling_only() {
    let mut world = World::new(deployment(2, "a", rolling(json!(1), json!(0))));
    world.settle(3, 0);
    world.set_image("b");
    world.deployment.spec.paused = true;
    world.deployment.spec.replicas = 3;
    world.settle(4, 2);
    assert_eq!(world.take_log(), ["create a 2", "a 2 to 3"]);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    world.deployment.spec.paused = false;
    world.settle(4, 3);
    assert_eq!(world.condition("Progressing"), done());
}

#[test]
fn old_revisions_are_forgotten_beyond_the_limit() {
    let mut world = World::new(deployment(1, "v1", rolling(json!(1), json!(0))));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.settle(2, 0);
    }
    let left: Vec<String> = world.sets.iter().map(|set| World::image(set)).collect();
    assert_eq!(left, ["v3", "v4", "v5"]);
}

#[test]
fn the_set_of_a_template_is_found_by_the_template() {
    let deployment = deployment(1, "a", json!({}));
    let plan = rollout::plan(&deployment, &[], false);
    let create = plan.create.expect("there is no set yet");
    let set = set_for(&deployment, &ObjectRef::to(&deployment), &create);
    assert_eq!(set["metadata"]["name"], format!("web-{}", create.hash));
    assert_eq!(set["spec"]["selector"]["matchLabels"][super::HASH_LABEL], create.hash.as_str());
    assert!(template::same(&set["spec"]["template"], &deployment.spec.template));
}
