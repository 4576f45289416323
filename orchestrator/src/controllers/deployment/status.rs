//! What a Deployment says of itself, without I/O. `kubectl rollout status` and
//! `kubectl wait --for=condition=Available` live on these words, so they are Kubernetes' own.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rollout::{Bounds, Plan};
use crate::api::time;
use crate::client::view::{Condition, Deployment, DeploymentStatus};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The status after a run, and when the progress deadline falls due.
pub(super) fn status(
    deployment: &Deployment,
    plan: &Plan,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counts(deployment, plan);
    let available = available(deployment, &status);
    set(&mut status.conditions, available, now);
    progress(deployment, plan, &mut status, now);
    let failure = plan
        .new
        .iter()
        .chain(&plan.old)
        .flat_map(|set| &set.set.status.conditions)
        .find(|one| one.kind == FAILURE);
    match failure {
        Some(failure) => set(&mut status.conditions, failure.clone(), now),
        None => status.conditions.retain(|one| one.kind != FAILURE),
    }
    let wake = deadline(deployment, &status.conditions).and_then(|at| {
        // A second more, because times are cut to seconds.
        u64::try_from(at - now.as_second() + 1).ok().map(Duration::from_secs)
    });
    (status, wake.filter(|wait| !wait.is_zero()))
}

fn counts(deployment: &Deployment, plan: &Plan) -> DeploymentStatus {
    let all = || plan.old.iter().chain(&plan.new);
    let sum = |number: fn(&super::rollout::Set) -> i64| all().map(number).sum::<i64>();
    let available = sum(|set| set.set.status.available_replicas);
    let created = plan.create.as_ref().map_or(0, |create| create.replicas);
    let wanted = sum(|set| set.replicas) + created;
    DeploymentStatus {
        replicas: sum(|set| set.set.status.replicas),
        updated_replicas: plan.new.as_ref().map_or(0, |new| new.set.status.replicas),
        ready_replicas: sum(|set| set.set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (wanted - available).max(0),
        terminating_replicas: sum(|set| set.set.status.terminating_replicas),
        observed_generation: deployment.meta.generation,
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    }
}

fn available(deployment: &Deployment, status: &DeploymentStatus) -> Condition {
    let least = deployment.spec.replicas - Bounds::of(deployment).unavailable();
    if status.available_replicas >= least {
        say(
            AVAILABLE,
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
        )
    } else {
        say(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
        )
    }
}

fn progress(deployment: &Deployment, plan: &Plan, status: &mut DeploymentStatus, now: Timestamp) {
    if deployment.spec.progress_deadline_seconds.is_none() {
        status.conditions.retain(|one| one.kind != PROGRESSING);
        return;
    }
    let current = find(&status.conditions).cloned();
    let reason = current.as_ref().map_or("", |one| one.reason.as_str());
    if deployment.spec.paused {
        if reason != PAUSED {
            let message = "Deployment is paused".to_owned();
            set(&mut status.conditions, say(PROGRESSING, "Unknown", PAUSED, message), now);
        }
        return;
    }
    if reason == PAUSED {
        let message = "Deployment is resumed".to_owned();
        let resumed = say(PROGRESSING, "Unknown", "DeploymentResumed", message);
        set(&mut status.conditions, resumed, now);
    }
    if let Some(create) = &plan.create {
        let name = format!("{}-{}", deployment.meta.name, create.hash);
        let message = format!("Created new replica set \"{name}\"");
        replace(&mut status.conditions, "NewReplicaSetCreated", message, now);
        return;
    }
    let Some(new) = &plan.new else { return };
    let name = &new.set.meta.name;
    if find(&status.conditions).is_none() {
        let message = format!("Found new replica set \"{name}\"");
        set(&mut status.conditions, say(PROGRESSING, "True", "FoundNewReplicaSet", message), now);
    }
    let was = &deployment.status;
    if status.updated_replicas == status.replicas && reason == DONE {
        return;
    }
    let wanted = deployment.spec.replicas;
    let complete = status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted;
    let moved = status.updated_replicas > was.updated_replicas
        || status.replicas - status.updated_replicas < was.replicas - was.updated_replicas
        || status.ready_replicas > was.ready_replicas
        || status.available_replicas > was.available_replicas;
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set(&mut status.conditions, say(PROGRESSING, "True", DONE, message), now);
    } else if moved {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        replace(&mut status.conditions, "ReplicaSetUpdated", message, now);
    } else if deadline(deployment, &status.conditions).is_some_and(|at| at < now.as_second()) {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set(&mut status.conditions, say(PROGRESSING, "False", TIMED_OUT, message), now);
    }
}

/// The second at which a roll-out in progress will have taken too long.
fn deadline(deployment: &Deployment, conditions: &[Condition]) -> Option<i64> {
    let seconds = deployment.spec.progress_deadline_seconds?;
    let current = find(conditions)?;
    let open = ![DONE, TIMED_OUT, PAUSED].contains(&current.reason.as_str());
    let since = current.update.or(current.transition)?;
    open.then(|| since.as_second().saturating_add(seconds))
}

fn find(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|one| one.kind == PROGRESSING)
}

fn say(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        transition: None,
        update: None,
    }
}

/// Sets a condition unless it says the same already.
fn set(conditions: &mut Vec<Condition>, mut new: Condition, now: Timestamp) {
    // Stored times have whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    new.update = Some(now);
    new.transition = Some(now);
    match conditions.iter_mut().find(|one| one.kind == new.kind) {
        Some(old) if old.status == new.status && old.reason == new.reason => {}
        Some(old) => {
            if old.status == new.status {
                new.transition = old.transition;
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// Says that the roll-out goes on, and starts its deadline anew.
fn replace(conditions: &mut Vec<Condition>, reason: &str, message: String, now: Timestamp) {
    let transition = find(conditions).filter(|one| one.is_true()).and_then(|one| one.transition);
    conditions.retain(|one| one.kind != PROGRESSING);
    set(conditions, say(PROGRESSING, "True", reason, message), now);
    if let (Some(transition), Some(last)) = (transition, conditions.last_mut()) {
        last.transition = Some(transition);
    }
}

/// A condition as it is stored.
pub(super) fn to_value(condition: &Condition) -> Value {
    let mut value = json!({"type": condition.kind, "status": condition.status});
    for (field, text) in [("reason", &condition.reason), ("message", &condition.message)] {
        if !text.is_empty() {
            value[field] = text.as_str().into();
        }
    }
    for (field, at) in
        [("lastUpdateTime", condition.update), ("lastTransitionTime", condition.transition)]
    {
        if let Some(at) = at {
            value[field] = time::seconds(at).into();
        }
    }
    value
}
