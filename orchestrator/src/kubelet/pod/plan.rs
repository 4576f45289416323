//! What to do next for one pod: a pure function of what is wished, what is, and what time it is.
//!
//! The worker calls [`plan`] whenever something changed or the plan's own wake-up time came, does
//! what it says, and asks again. Nothing here is told *what* changed; the plan only compares. What
//! must be remembered between calls (when a signal was sent, how long a crashing container has to
//! wait) is in [`Memory`], which a new kubelet starts empty: the containers' own history is the
//! shim's, and that survives.
//!
//! Restarts: the first after an exit is immediate, then 10 s, 20 s, 40 s … at most 5 min between an
//! exit and the next start; a run of 10 min clears the slate.

use std::collections::BTreeMap;

use crate::kubelet::shim::{ContainerPhase, ContainerState, State};

const BACKOFF_FIRST_MS: i64 = 10_000;
const BACKOFF_MAX_MS: i64 = 300_000;
const BACKOFF_RESET_MS: i64 = 600_000;
/// A killed process that does not go (uninterruptible sleep) is killed again this often.
const KILL_AGAIN_MS: i64 = 5_000;
/// How long a ready pod goes on undisturbed once it is being deleted: endpoints leave the proxies
/// before its containers are asked to stop.
const DRAIN_MS: i64 = 500;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// When an ended container runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// If it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// What is wished, as far as the plan cares.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Init containers, in order.
    pub init: Vec<String>,
    /// The others.
    pub main: Vec<String>,
    /// For the others; init containers restart on failure unless it is `Never`.
    pub restart: RestartPolicy,
    /// Grace between SIGTERM and SIGKILL when the node stops a container by itself.
    pub grace_ms: i64,
    /// The pod is to go, with this much grace.
    pub deleting: Option<i64>,
    /// The pod may not run after this moment.
    pub active_until_ms: Option<i64>,
}

/// What is, beside the containers.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The shim answers and the network is up.
    pub sandbox: bool,
    /// The pod is (or was, when it began to go) ready: somebody may be sending to it.
    pub ready: bool,
    /// Running containers, by id, whose liveness or startup probe gave up on them.
    pub unhealthy: BTreeMap<String, String>,
}

/// A container that could not be started, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: &'static str,
    /// Whole sentence.
    pub message: String,
    /// When it failed.
    pub failed_ms: i64,
    /// When to try again.
    pub until_ms: i64,
}

/// How long a container that ended must wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The attempt that ended.
    pub attempt: u32,
    /// The wait.
    pub delay_ms: i64,
    /// When it is over.
    pub until_ms: i64,
}

/// A container on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stop {
    term_ms: i64,
    kill_ms: i64,
    term_sent: bool,
    kill_sent: Option<i64>,
}

/// What is remembered between plans.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Containers that could not be started, by name.
    pub waits: BTreeMap<String, Wait>,
    /// Containers that ended and wait, by name.
    pub crashes: BTreeMap<String, Crash>,
    /// The pod is over by the node's decision: reason and message.
    pub failed: Option<(&'static str, String)>,
    stops: BTreeMap<String, Stop>,
    deletion_seen_ms: Option<i64>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the shim and connect the network.
    MakeSandbox,
    /// Start a container.
    Start {
        /// Its name.
        name: String,
        /// How many starts came before.
        attempt: u32,
    },
    /// Send a signal to a running container.
    Signal {
        /// Its id.
        id: String,
        /// The signal.
        signal: i32,
        /// Why, where an event should say so.
        because: Option<String>,
    },
    /// Drop an ended container that nobody asks about any more.
    Forget {
        /// Its id.
        id: String,
    },
    /// The pod is over: let go of its shim and its network, keep what it left to say.
    ReleaseSandbox,
    /// The pod is to go and nothing of it runs: remove everything.
    Remove,
}

/// Steps to do now, and when to plan again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps; none depends on another.
    pub actions: Vec<Action>,
    /// The next moment at which the plan will differ.
    pub wake_ms: Option<i64>,
}

impl Plan {
    fn wake(&mut self, at: i64) {
        self.wake_ms = Some(self.wake_ms.map_or(at, |known| known.min(at)));
    }
}

/// The id of a container's attempt.
pub fn id(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}")
}

/// The latest attempt of a container.
pub fn newest<'a>(state: &'a State, name: &str) -> Option<(&'a String, &'a ContainerState)> {
    state
        .containers
        .iter()
        .filter(|(_, container)| container.name == name)
        .max_by_key(|(_, container)| container.attempt)
}

/// Exit code and time, if the container is over.
pub fn ended(phase: &ContainerPhase) -> Option<(i32, i64)> {
    match phase {
        ContainerPhase::Starting | ContainerPhase::Running => None,
        ContainerPhase::Failed { finished_ms, .. } => Some((128, *finished_ms)),
        ContainerPhase::Exited { code, finished_ms, .. } => Some((*code, *finished_ms)),
        ContainerPhase::Lost { finished_ms } => Some((137, *finished_ms)),
    }
}

/// Whether a container that ended with `code` runs again.
pub fn restarts(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// Whether every init container is done, or was before the others began.
pub fn initialized(wish: &Wish, state: &State) -> bool {
    let done = |name: &String| {
        newest(state, name)
            .and_then(|(_, container)| ended(&container.phase))
            .is_some_and(|(code, _)| code == 0)
    };
    wish.main.iter().any(|name| newest(state, name).is_some()) || wish.init.iter().all(done)
}

/// Whether the pod is over and will never run again.
pub fn over(wish: &Wish, state: &State, memory: &Memory) -> bool {
    if memory.failed.is_some() {
        return true;
    }
    let final_end = |name: &String, policy| {
        newest(state, name)
            .and_then(|(_, container)| ended(&container.phase))
            .is_some_and(|(code, _)| !restarts(policy, code))
    };
    if !initialized(wish, state) && wish.restart == RestartPolicy::Never {
        let failed = |name: &String| {
            newest(state, name)
                .and_then(|(_, container)| ended(&container.phase))
                .is_some_and(|(code, _)| code != 0)
        };
        return wish.init.iter().any(failed);
    }
    wish.main.iter().all(|name| final_end(name, wish.restart))
}

/// Plans the next steps.
pub fn plan(wish: &Wish, state: &State, seen: &Seen, memory: &mut Memory, now: i64) -> Plan {
    let mut plan = Plan::default();
    if let Some(until) = wish.active_until_ms
        && memory.failed.is_none()
        && !over(wish, state, memory)
    {
        if now >= until {
            let message = "Pod was active on the node longer than the specified deadline";
            memory.failed = Some(("DeadlineExceeded", message.to_owned()));
        } else {
            plan.wake(until);
        }
    }
    if wish.deleting.is_some() || memory.failed.is_some() {
        stop_all(&mut plan, wish, state, seen, memory, now);
        return plan;
    }
    if over(wish, state, memory) {
        if seen.sandbox {
            plan.actions.push(Action::ReleaseSandbox);
        }
        return plan;
    }
    if !seen.sandbox {
        match memory.waits.get(SANDBOX).map(|wait| wait.until_ms) {
            Some(until) if until > now => plan.wake(until),
            _ => plan.actions.push(Action::MakeSandbox),
        }
        return plan;
    }
    if initialized(wish, state) {
        for name in &wish.main {
            step(&mut plan, wish, state, seen, memory, name, wish.restart, now);
        }
    } else {
        let policy = match wish.restart {
            RestartPolicy::Never => RestartPolicy::Never,
            RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        };
        let undone = wish.init.iter().find(|name| {
            newest(state, name)
                .and_then(|(_, container)| ended(&container.phase))
                .is_none_or(|(code, _)| code != 0)
        });
        if let Some(name) = undone {
            step(&mut plan, wish, state, seen, memory, name, policy, now);
        }
    }
    forget_old(&mut plan, state);
    memory.stops.retain(|id, _| state.containers.contains_key(id));
    plan
}

/// The key under which a failure to make the sandbox waits.
pub const SANDBOX: &str = "";

#[expect(clippy::too_many_arguments, reason = "the whole input of the plan, for one container")]
fn step(
    plan: &mut Plan,
    wish: &Wish,
    state: &State,
    seen: &Seen,
    memory: &mut Memory,
    name: &str,
    policy: RestartPolicy,
    now: i64,
) {
    let Some((id, container)) = newest(state, name) else {
        start(plan, memory, name, 0, now);
        return;
    };
    let Some((code, finished)) = ended(&container.phase) else {
        if let Some(why) = seen.unhealthy.get(id) {
            stop(plan, memory, id, now, wish.grace_ms, 0, Some(why));
        }
        return;
    };
    if !restarts(policy, code) {
        return;
    }
    let crash = crash(memory, name, container, finished);
    if crash.until_ms > now {
        plan.wake(crash.until_ms);
    } else {
        start(plan, memory, name, container.attempt + 1, now);
    }
}

fn start(plan: &mut Plan, memory: &Memory, name: &str, attempt: u32, now: i64) {
    match memory.waits.get(name) {
        Some(wait) if wait.until_ms > now => plan.wake(wait.until_ms),
        _ => plan.actions.push(Action::Start { name: name.to_owned(), attempt }),
    }
}

/// The wait after this exit: decided once, then remembered.
fn crash(memory: &mut Memory, name: &str, container: &ContainerState, finished: i64) -> Crash {
    let known = memory.crashes.get(name);
    if let Some(crash) = known.filter(|crash| crash.attempt == container.attempt) {
        return crash.clone();
    }
    let ran_long = finished - container.started_ms >= BACKOFF_RESET_MS;
    let delay_ms = match known {
        _ if ran_long => 0,
        Some(last) => (last.delay_ms * 2).clamp(BACKOFF_FIRST_MS, BACKOFF_MAX_MS),
        // A former kubelet kept count, or the node itself was away: begin anew.
        None => 0,
    };
    let crash =
        Crash { attempt: container.attempt, delay_ms, until_ms: finished.saturating_add(delay_ms) };
    memory.crashes.insert(name.to_owned(), crash.clone());
    crash
}

fn stop_all(
    plan: &mut Plan,
    wish: &Wish,
    state: &State,
    seen: &Seen,
    memory: &mut Memory,
    now: i64,
) {
    let grace = wish.deleting.unwrap_or(wish.grace_ms);
    let begun = *memory.deletion_seen_ms.get_or_insert(now);
    let drain = if seen.ready && wish.deleting.is_some() { DRAIN_MS.min(grace / 2) } else { 0 };
    let mut running = false;
    for (id, container) in &state.containers {
        if ended(&container.phase).is_none() {
            running = true;
            let left = (begun + grace - now).max(0);
            let why = "Stopping container";
            let drain = (begun + drain - now).max(0);
            stop(plan, memory, id, now, left, drain, Some(why));
        }
    }
    match (running, wish.deleting) {
        (true, _) => {}
        (false, Some(_)) => plan.actions.push(Action::Remove),
        (false, None) if seen.sandbox => plan.actions.push(Action::ReleaseSandbox),
        (false, None) => {}
    }
}

fn stop(
    plan: &mut Plan,
    memory: &mut Memory,
    id: &str,
    now: i64,
    grace: i64,
    drain: i64,
    why: Option<&str>,
) {
    let stop = memory.stops.entry(id.to_owned()).or_insert(Stop {
        term_ms: now + drain,
        kill_ms: now + grace,
        term_sent: false,
        kill_sent: None,
    });
    // A second, more impatient request shortens the wait; none lengthens it.
    stop.kill_ms = stop.kill_ms.min(now + grace);
    let signal = |signal, because: Option<&str>| Action::Signal {
        id: id.to_owned(),
        signal,
        because: because.map(str::to_owned),
    };
    if now >= stop.kill_ms {
        if stop.kill_sent.is_none_or(|sent| now >= sent + KILL_AGAIN_MS) {
            plan.actions.push(signal(SIGKILL, why.filter(|_| !stop.term_sent)));
            stop.term_sent = true;
            stop.kill_sent = Some(now);
        }
        plan.wake(stop.kill_sent.unwrap_or(now) + KILL_AGAIN_MS);
    } else if stop.term_sent {
        plan.wake(stop.kill_ms);
    } else if now >= stop.term_ms {
        stop.term_sent = true;
        plan.actions.push(signal(SIGTERM, why));
        plan.wake(stop.kill_ms);
    } else {
        plan.wake(stop.term_ms.min(stop.kill_ms));
    }
}

/// Keeps the latest attempt and the one before, which `logs --previous` and `lastState` show.
fn forget_old(plan: &mut Plan, state: &State) {
    for (id, container) in &state.containers {
        let latest = newest(state, &container.name).map_or(0, |(_, newest)| newest.attempt);
        if container.attempt + 1 < latest && ended(&container.phase).is_some() {
            plan.actions.push(Action::Forget { id: id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(restart: RestartPolicy) -> Wish {
        Wish {
            init: vec![],
            main: vec!["a".into()],
            restart,
            grace_ms: 30_000,
            deleting: None,
            active_until_ms: None,
        }
    }

    fn seen() -> Seen {
        Seen { sandbox: true, ..Seen::default() }
    }

    fn exited(code: i32, finished_ms: i64) -> ContainerPhase {
        ContainerPhase::Exited { code, signal: 0, oom: false, finished_ms }
    }

    fn state(containers: &[(&str, u32, i64, ContainerPhase)]) -> State {
        let mut state = State::default();
        for (name, attempt, started_ms, phase) in containers {
            state.containers.insert(
                id(name, *attempt),
                ContainerState {
                    name: (*name).to_owned(),
                    attempt: *attempt,
                    image: String::new(),
                    image_id: String::new(),
                    pid: 1,
                    started_ms: *started_ms,
                    phase: phase.clone(),
                },
            );
        }
        state
    }

    fn start_of(name: &str, attempt: u32) -> Action {
        Action::Start { name: name.to_owned(), attempt }
    }

    fn signals(plan: &Plan) -> Vec<i32> {
        plan.actions
            .iter()
            .filter_map(|action| match action {
                Action::Signal { signal, .. } => Some(*signal),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_then_its_containers() {
        let wish = wish(RestartPolicy::Always);
        let mut memory = Memory::default();
        let first = plan(&wish, &State::default(), &Seen::default(), &mut memory, 0);
        assert_eq!(first.actions, [Action::MakeSandbox]);
        let second = plan(&wish, &State::default(), &seen(), &mut memory, 0);
        assert_eq!(second.actions, [start_of("a", 0)]);
        let running = state(&[("a", 0, 0, ContainerPhase::Running)]);
        assert_eq!(plan(&wish, &running, &seen(), &mut memory, 0), Plan::default());
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_back_off() {
        let wish = wish(RestartPolicy::Always);
        let mut memory = Memory::default();
        let mut now = 1000;
        let mut delays = Vec::new();
        for attempt in 0..8 {
            let crashed = state(&[("a", attempt, now, exited(1, now))]);
            let planned = plan(&wish, &crashed, &seen(), &mut memory, now);
            let at = planned.wake_ms.unwrap_or(now);
            delays.push((at - now) / 1000);
            let later = plan(&wish, &crashed, &seen(), &mut memory, at);
            assert!(later.actions.contains(&start_of("a", attempt + 1)), "{later:?}");
            now = at;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_clears_the_slate() {
        let wish = wish(RestartPolicy::Always);
        let mut memory = Memory::default();
        let crash = Crash { attempt: 3, delay_ms: 300_000, until_ms: 0 };
        memory.crashes.insert("a".into(), crash);
        let crashed = state(&[("a", 4, 0, exited(1, BACKOFF_RESET_MS))]);
        let planned = plan(&wish, &crashed, &seen(), &mut memory, BACKOFF_RESET_MS);
        assert_eq!(planned.actions, [start_of("a", 5)]);
    }

    #[test]
    fn policies_decide_who_runs_again() {
        for (policy, code, again) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 1, false),
        ] {
            let ended = state(&[("a", 0, 0, exited(code, 5))]);
            let planned = plan(&wish(policy), &ended, &seen(), &mut Memory::default(), 5);
            let expected = if again { start_of("a", 1) } else { Action::ReleaseSandbox };
            assert_eq!(planned.actions, [expected], "{policy:?} {code}");
        }
    }

    #[test]
    fn deletion_drains_terminates_waits_kills_and_removes() {
        let wish = Wish { deleting: Some(10_000), ..wish(RestartPolicy::Always) };
        let mut memory = Memory::default();
        let ready = Seen { ready: true, ..seen() };
        let running = state(&[("a", 0, 0, ContainerPhase::Running)]);
        let mut at = |now| plan(&wish, &running, &ready, &mut memory, now);
        assert_eq!((signals(&at(0)), at(0).wake_ms), (vec![], Some(DRAIN_MS)));
        assert_eq!(signals(&at(DRAIN_MS)), [SIGTERM]);
        assert_eq!((signals(&at(600)), at(600).wake_ms), (vec![], Some(10_000)));
        assert_eq!(signals(&at(10_000)), [SIGKILL]);
        assert_eq!(signals(&at(10_001)), Vec::<i32>::new());
        assert_eq!(signals(&at(15_000)), [SIGKILL]);
        let gone = state(&[("a", 0, 0, exited(137, 1))]);
        let last = plan(&wish, &gone, &ready, &mut memory, 15_001);
        assert_eq!(last.actions, [Action::Remove]);
    }

    #[test]
    fn a_second_deletion_without_grace_is_obeyed_at_once() {
        let mut wish = Wish { deleting: Some(30_000), ..wish(RestartPolicy::Always) };
        let mut memory = Memory::default();
        let running = state(&[("a", 0, 0, ContainerPhase::Running)]);
        assert_eq!(signals(&plan(&wish, &running, &seen(), &mut memory, 0)), [SIGTERM]);
        wish.deleting = Some(0);
        assert_eq!(signals(&plan(&wish, &running, &seen(), &mut memory, 100)), [SIGKILL]);
    }

    #[test]
    fn init_containers_run_one_after_the_other() {
        let wish = Wish { init: vec!["i".into(), "j".into()], ..wish(RestartPolicy::Always) };
        let mut memory = Memory::default();
        let mut next = |state: &State| plan(&wish, state, &seen(), &mut memory, 100).actions;
        assert_eq!(next(&State::default()), [start_of("i", 0)]);
        assert_eq!(next(&state(&[("i", 0, 0, ContainerPhase::Running)])), []);
        assert_eq!(next(&state(&[("i", 0, 0, exited(1, 50))])), [start_of("i", 1)]);
        let one = ("i", 0, 0, exited(0, 50));
        assert_eq!(next(&state(std::slice::from_ref(&one))), [start_of("j", 0)]);
        assert_eq!(next(&state(&[one, ("j", 0, 0, exited(0, 60))])), [start_of("a", 0)]);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let wish = Wish { init: vec!["i".into()], ..wish(RestartPolicy::Never) };
        let failed = state(&[("i", 0, 0, exited(1, 50))]);
        let planned = plan(&wish, &failed, &seen(), &mut Memory::default(), 100);
        assert_eq!(planned.actions, [Action::ReleaseSandbox]);
    }

    #[test]
    fn a_container_that_could_not_start_waits_its_turn() {
        let wish = wish(RestartPolicy::Always);
        let mut memory = Memory::default();
        let wait =
            Wait { reason: "ErrImagePull", message: String::new(), failed_ms: 0, until_ms: 5000 };
        memory.waits.insert("a".into(), wait);
        let early = plan(&wish, &State::default(), &seen(), &mut memory, 100);
        assert_eq!(early, Plan { actions: vec![], wake_ms: Some(5000) });
        let later = plan(&wish, &State::default(), &seen(), &mut memory, 5000);
        assert_eq!(later.actions, [start_of("a", 0)]);
    }

    #[test]
    fn an_unhealthy_container_is_stopped_and_then_restarted() {
        let wish = wish(RestartPolicy::Always);
        let mut memory = Memory::default();
        let running = state(&[("a", 0, 0, ContainerPhase::Running)]);
        let unhealthy = Seen {
            unhealthy: BTreeMap::from([("a-0".to_owned(), "probe failed".to_owned())]),
            ..seen()
        };
        assert_eq!(signals(&plan(&wish, &running, &unhealthy, &mut memory, 0)), [SIGTERM]);
        assert_eq!(signals(&plan(&wish, &running, &unhealthy, &mut memory, 30_000)), [SIGKILL]);
        let gone = state(&[("a", 0, 0, exited(137, 30_001))]);
        let next = plan(&wish, &gone, &unhealthy, &mut memory, 30_001);
        assert_eq!(next.actions, [start_of("a", 1)]);
    }

    #[test]
    fn an_overdue_pod_is_stopped_and_failed() {
        let wish = Wish { active_until_ms: Some(1000), ..wish(RestartPolicy::Always) };
        let mut memory = Memory::default();
        let running = state(&[("a", 0, 0, ContainerPhase::Running)]);
        assert_eq!(plan(&wish, &running, &seen(), &mut memory, 0).wake_ms, Some(1000));
        assert_eq!(signals(&plan(&wish, &running, &seen(), &mut memory, 1000)), [SIGTERM]);
        let gone = state(&[("a", 0, 0, exited(143, 1001))]);
        let last = plan(&wish, &gone, &seen(), &mut memory, 1001);
        assert_eq!(last.actions, [Action::ReleaseSandbox]);
        assert_eq!(memory.failed.map(|(reason, _)| reason), Some("DeadlineExceeded"));
    }

    #[test]
    fn only_two_attempts_are_kept() {
        let wish = wish(RestartPolicy::Always);
        let history = state(&[
            ("a", 0, 0, exited(1, 1)),
            ("a", 1, 0, exited(1, 2)),
            ("a", 2, 0, ContainerPhase::Running),
        ]);
        let planned = plan(&wish, &history, &seen(), &mut Memory::default(), 10);
        assert_eq!(planned.actions, [Action::Forget { id: "a-0".into() }]);
    }
}
