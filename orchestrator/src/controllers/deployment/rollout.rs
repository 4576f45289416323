//! The policy of a Deployment, without I/O: from the Deployment and its ReplicaSets to what one run
//! does. The rules are Kubernetes' own, so that people's and tools' expectations hold.
//!
//! ```text
//! paused ─────────────▶ scale only
//! replicas changed ───▶ scale: all to one set, or in proportion during a roll-out
//! Recreate ───────────▶ old sets to 0 ─▶ their pods gone ─▶ new set up
//! RollingUpdate ──────▶ new set up within maxSurge ─▶ unhealthy old pods, then old pods down
//!                       within maxUnavailable
//! complete ───────────▶ forget old sets beyond revisionHistoryLimit
//! ```
//!
//! One run takes one step. Each step changes a ReplicaSet, whose pods then change its status, which
//! wakes the Deployment for the next step.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::template;
use crate::client::view::{Deployment, ReplicaSet, Share};

/// The Deployment's revision that a set was last; rises with each roll-out and rollback.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a set that came back by a rollback.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus the surge.
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// What kubectl notes for its own use on the object it was given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A set and what becomes of it in this run.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// The set as it is.
    pub(super) set: Arc<ReplicaSet>,
    /// Pods it is to have.
    pub(super) replicas: i64,
    /// Annotations it is to have; others stay as they are.
    pub(super) annotations: BTreeMap<String, String>,
}

impl Set {
    fn new(set: Arc<ReplicaSet>) -> Self {
        Self { replicas: set.spec.replicas, set, annotations: BTreeMap::new() }
    }

    /// Something is to be written.
    pub(super) fn is_changed(&self) -> bool {
        self.is_scaled()
            || self
                .annotations
                .iter()
                .any(|(name, text)| self.set.meta.annotation(name) != Some(text))
    }

    /// Its number of pods changes.
    pub(super) fn is_scaled(&self) -> bool {
        self.replicas != self.set.spec.replicas
    }

    fn available(&self) -> i64 {
        self.set.status.available_replicas
    }

    fn number(&self, annotation: &str) -> Option<i64> {
        self.set.meta.annotation(annotation)?.parse().ok()
    }
}

/// What one run does.
#[derive(Debug)]
pub(super) struct Plan {
    /// The set of the present template, if there is one.
    pub(super) new: Option<Set>,
    /// A set to create.
    pub(super) create: Option<NewSet>,
    /// The others, oldest first.
    pub(super) old: Vec<Set>,
    /// Sets to forget.
    pub(super) forget: Vec<Arc<ReplicaSet>>,
    /// The revision the Deployment is to carry.
    pub(super) revision: Option<String>,
}

/// A set to create.
#[derive(Debug, PartialEq)]
pub(super) struct NewSet {
    /// The template's hash.
    pub(super) hash: String,
    /// Pods it begins with.
    pub(super) replicas: i64,
    /// Its annotations.
    pub(super) annotations: BTreeMap<String, String>,
}

/// `maxSurge` and `maxUnavailable` as numbers of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    surge: i64,
    unavailable: i64,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let strategy = &deployment.spec.strategy;
        if strategy.kind == "Recreate" {
            return Self { surge: 0, unavailable: deployment.spec.replicas };
        }
        let replicas = deployment.spec.replicas;
        let share = |share: &Option<Share>, round_up: bool| match share {
            None => resolve("25%", replicas, round_up),
            Some(Share::Count(count)) => (*count).max(0),
            Some(Share::Percent(text)) => resolve(text, replicas, round_up),
        };
        let surge = share(&strategy.rolling_update.max_surge, true);
        let unavailable = share(&strategy.rolling_update.max_unavailable, false).min(replicas);
        // With neither, nothing could ever move.
        if surge == 0 && unavailable == 0 {
            return Self { surge: 0, unavailable: 1 };
        }
        Self { surge, unavailable }
    }

    /// Pods that may be missing.
    pub(super) fn unavailable(self) -> i64 {
        self.unavailable
    }

    /// Pods there may be.
    fn most(self, deployment: &Deployment) -> i64 {
        deployment.spec.replicas.saturating_add(self.surge)
    }
}

fn resolve(percent: &str, of: i64, round_up: bool) -> i64 {
    let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0).max(0);
    let hundredths = percent.saturating_mul(of.max(0));
    if round_up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 }
}

/// The policy. `sets` are the Deployment's own; `old_pods` tells whether pods of other templates
/// still run.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], old_pods: bool) -> Plan {
    let mut plan = sorted(deployment, sets);
    if deployment.meta.is_deleting() {
        return plan;
    }
    let bounds = Bounds::of(deployment);
    let desired = Some(deployment.spec.replicas);
    let mut all = plan.old.iter().chain(&plan.new);
    let rescaled = all.any(|set| {
        set.set.spec.replicas > 0 && set.number(DESIRED).is_some_and(|was| Some(was) != desired)
    });
    if deployment.spec.paused || rescaled {
        annotate_new(&mut plan, deployment);
        scale(&mut plan, deployment, bounds);
        if deployment.spec.paused {
            forget(&mut plan, deployment);
        }
        note_bounds(&mut plan, deployment, bounds);
        return plan;
    }
    match deployment.spec.strategy.kind.as_str() {
        "Recreate" => recreate(&mut plan, deployment, bounds, old_pods),
        _ => roll(&mut plan, deployment, bounds),
    }
    note_bounds(&mut plan, deployment, bounds);
    if is_complete(&plan, deployment) {
        forget(&mut plan, deployment);
    }
    plan
}

/// Finds the set of the present template: the oldest, if there should be several.
fn sorted(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
    let mut sets: Vec<Set> = sets.iter().cloned().map(Set::new).collect();
    sets.sort_by(|one, other| {
        let age = |set: &Set| (set.set.meta.created, set.set.meta.name.clone());
        age(one).cmp(&age(other))
    });
    let present = |set: &Set| template::same(&set.set.spec.template, &deployment.spec.template);
    let new = sets.iter().position(present).map(|at| sets.remove(at));
    Plan { new, create: None, old: sets, forget: Vec::new(), revision: None }
}

fn rolls_up_to(plan: &Plan, deployment: &Deployment, bounds: Bounds) -> i64 {
    let present = plan.new.as_ref().map_or(0, |new| new.replicas);
    if deployment.spec.strategy.kind == "Recreate" {
        return deployment.spec.replicas;
    }
    let pods: i64 = plan.old.iter().chain(&plan.new).map(|set| set.replicas).sum();
    let room = (bounds.most(deployment) - pods).max(0);
    present + room.min(deployment.spec.replicas - present).max(0)
}

/// One step of a rolling update.
fn roll(plan: &mut Plan, deployment: &Deployment, bounds: Bounds) {
    let wanted = deployment.spec.replicas;
    let up_to = rolls_up_to(plan, deployment, bounds);
    ensure_new(plan, deployment, up_to);
    let Some(new) = &mut plan.new else { return };
    if new.replicas != wanted {
        new.replicas = if new.replicas > wanted { wanted } else { up_to };
        if new.is_scaled() {
            return;
        }
    }
    shrink_old(plan, deployment, bounds);
}

/// Takes old pods down as far as `maxUnavailable` allows: those that do not work first, since
/// nothing is lost with them.
fn shrink_old(plan: &mut Plan, deployment: &Deployment, bounds: Bounds) {
    let Some(new) = &plan.new else { return };
    let old_pods: i64 = plan.old.iter().map(|set| set.replicas).sum();
    let least = deployment.spec.replicas - bounds.unavailable;
    let new_missing = new.replicas - new.available();
    let spare = old_pods + new.replicas - least - new_missing;
    if old_pods == 0 || spare <= 0 {
        return;
    }
    let mut left = spare;
    for set in &mut plan.old {
        let unhealthy = (set.replicas - set.available()).max(0);
        let down = unhealthy.min(left);
        set.replicas -= down;
        left -= down;
    }
    let available: i64 = plan.old.iter().map(Set::available).sum::<i64>() + new.available();
    let mut left = available - least;
    for set in &mut plan.old {
        if left <= 0 {
            break;
        }
        let down = set.replicas.min(left);
        set.replicas -= down;
        left -= down;
    }
}

/// One step of stop all, then start all.
fn recreate(plan: &mut Plan, deployment: &Deployment, bounds: Bounds, old_pods: bool) {
    annotate_new(plan, deployment);
    if plan.old.iter().any(|set| set.replicas > 0) {
        plan.old.iter_mut().for_each(|set| set.replicas = 0);
        return;
    }
    if old_pods {
        return;
    }
    let up_to = rolls_up_to(plan, deployment, bounds);
    ensure_new(plan, deployment, up_to);
    if let Some(new) = &mut plan.new {
        new.replicas = deployment.spec.replicas;
    }
}

/// Makes the set of the present template, or brings its revision up to date.
fn ensure_new(plan: &mut Plan, deployment: &Deployment, replicas: i64) {
    if plan.new.is_some() {
        annotate_new(plan, deployment);
        return;
    }
    let revision = next_revision(plan).to_string();
    let mut annotations = copied(deployment);
    annotations.insert(REVISION.to_owned(), revision.clone());
    plan.revision = Some(revision);
    let collisions = deployment.status.collision_count.unwrap_or(0);
    let hash = template::hash(&deployment.spec.template, collisions);
    plan.create = Some(NewSet { hash, replicas, annotations });
}

fn next_revision(plan: &Plan) -> i64 {
    plan.old.iter().filter_map(|set| set.number(REVISION)).max().unwrap_or(0) + 1
}

/// The newest set carries the highest revision, and the Deployment's own annotations. A set that
/// comes back by a rollback gets a new revision and keeps its old one as history.
fn annotate_new(plan: &mut Plan, deployment: &Deployment) {
    let next = next_revision(plan);
    let Some(new) = &mut plan.new else { return };
    new.annotations.extend(copied(deployment));
    let was = new.number(REVISION);
    if was.is_none_or(|was| was < next) {
        new.annotations.insert(REVISION.to_owned(), next.to_string());
        if let Some(was) = was {
            let history = match new.set.meta.annotation(HISTORY) {
                Some(history) if !history.is_empty() => format!("{history},{was}"),
                _ => was.to_string(),
            };
            new.annotations.insert(HISTORY.to_owned(), history);
        }
    }
    plan.revision =
        new.annotations.get(REVISION).cloned().or_else(|| was.map(|was| was.to_string()));
}

/// The Deployment's annotations that its sets repeat.
fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let own = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MOST];
    let all = deployment.meta.annotations.iter();
    all.filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect()
}

/// Notes on every set with pods what the Deployment wanted, to recognise a change of it.
fn note_bounds(plan: &mut Plan, deployment: &Deployment, bounds: Bounds) {
    let notes = [
        (DESIRED.to_owned(), deployment.spec.replicas.to_string()),
        (MOST.to_owned(), bounds.most(deployment).to_string()),
    ];
    let noted = plan.old.iter_mut().filter(|set| set.replicas > 0 || set.is_scaled());
    noted.chain(&mut plan.new).for_each(|set| set.annotations.extend(notes.clone()));
    if let Some(create) = &mut plan.create {
        create.annotations.extend(notes);
    }
}

/// A new number of replicas, outside a roll-out or in its midst.
fn scale(plan: &mut Plan, deployment: &Deployment, bounds: Bounds) {
    let wanted = deployment.spec.replicas;
    let mut sets: Vec<&mut Set> = plan.old.iter_mut().chain(&mut plan.new).collect();
    let active: Vec<usize> = (0..sets.len()).filter(|&at| sets[at].replicas > 0).collect();
    if let [] | [_] = active.as_slice() {
        // One set has all pods; if none has any, the new one, else the latest, gets them.
        if let Some(at) = active.first().copied().or_else(|| sets.len().checked_sub(1)) {
            sets[at].replicas = wanted;
        }
        return;
    }
    let saturated = plan.new.as_ref().is_some_and(|new| {
        new.replicas == wanted && new.number(DESIRED) == Some(wanted) && new.available() == wanted
    });
    if saturated {
        plan.old.iter_mut().for_each(|set| set.replicas = 0);
        return;
    }
    if deployment.spec.strategy.kind != "Recreate" {
        let mut active: Vec<&mut Set> =
            plan.old.iter_mut().chain(&mut plan.new).filter(|set| set.replicas > 0).collect();
        in_proportion(&mut active, deployment, bounds);
    }
}

/// Spreads a change over the active sets in proportion to their size; what rounding leaves over
/// goes to the largest.
fn in_proportion(active: &mut [&mut Set], deployment: &Deployment, bounds: Bounds) {
    let allowed = if deployment.spec.replicas > 0 { bounds.most(deployment) } else { 0 };
    let pods: i64 = active.iter().map(|set| set.replicas).sum();
    let to_add = allowed - pods;
    // Largest first; of equal ones the newer grows first and the older shrinks first.
    active.sort_by(|one, other| {
        let by_age = one.set.meta.created.cmp(&other.set.meta.created);
        let by_age = if to_add > 0 { by_age.reverse() } else { by_age };
        other.replicas.cmp(&one.replicas).then(by_age)
    });
    let mut added = 0;
    for set in active.iter_mut() {
        let share = fraction(set, deployment, bounds);
        let left = to_add - added;
        let change = if to_add > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        set.replicas += change;
        added += change;
    }
    if let Some(largest) = active.first_mut() {
        largest.replicas = (largest.replicas + to_add - added).max(0);
    }
}

fn fraction(set: &Set, deployment: &Deployment, bounds: Bounds) -> i64 {
    if deployment.spec.replicas == 0 {
        return -set.replicas;
    }
    let before = set.number(MOST).filter(|most| *most > 0).unwrap_or(deployment.status.replicas);
    if before <= 0 {
        return 0;
    }
    // Rounded to the nearest, half up.
    let scaled = (2 * set.replicas * bounds.most(deployment) + before) / (2 * before);
    scaled - set.replicas
}

/// All pods are of the present template and available.
pub(super) fn is_complete(plan: &Plan, deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas;
    let pods: i64 = plan.old.iter().chain(&plan.new).map(|set| set.set.status.replicas).sum();
    plan.create.is_none()
        && plan.new.as_ref().is_some_and(|new| {
            new.set.status.replicas == wanted && new.available() == wanted && pods == wanted
        })
}

/// Forgets the oldest revisions beyond the limit, of those that have no pods.
fn forget(plan: &mut Plan, deployment: &Deployment) {
    let Some(limit) = deployment.spec.revision_history_limit else { return };
    let mut alive: Vec<&Set> = plan.old.iter().filter(|set| !set.set.meta.is_deleting()).collect();
    let surplus = alive.len().saturating_sub(limit);
    alive.sort_by_key(|set| set.number(REVISION).unwrap_or(0));
    let unused = |set: &&&Set| {
        let ReplicaSet { meta, spec, status } = &*set.set;
        set.replicas == 0
            && spec.replicas == 0
            && status.replicas == 0
            && status.observed_generation >= meta.generation
    };
    plan.forget =
        alive.iter().take(surplus).filter(unused).map(|set| Arc::clone(&set.set)).collect();
}
