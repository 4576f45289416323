//! The pods that wait for a node, without clock or task.
//!
//! ```text
//!            pop                       no node fits
//!  active ─────────▶ (being decided) ──────────────▶ waiting ── a change that could help ─┐
//!    ▲  highest priority,    │ bind failed              │ 5 min at the latest             │
//!    │  then first come      ▼                          ▼                                 │
//!    └───── time is up ── resting ◀──── its back-off is not over yet ◀────────────────────┘
//! ```
//!
//! Nothing is tried again just because time passes, except once in five minutes as a net below a
//! wake-up that was forgotten here. A pod that was tried in vain rests twice as long each time, so
//! that thousands of hopeless pods do not keep the scheduler from the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::decide::Waiting;
use crate::api::Key;

/// First and longest rest after an attempt in vain.
const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(10);
/// A waiting pod is tried again after so long even if nothing changed.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// A change in the cluster that may help a waiting pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A node came or changed.
    Nodes,
    /// A pod went and left room.
    Room,
}

type Place = (Reverse<i32>, u64);

#[derive(Debug)]
struct Entry {
    place: Place,
    attempts: u32,
    /// Not to be tried before this.
    rests_until: Option<Instant>,
    state: State,
}

#[derive(Debug)]
enum State {
    Active,
    Deciding,
    /// Tried in vain; wakes at the time, or earlier by a change.
    Waiting(Waiting, Instant),
    /// Will be active at the time.
    Resting(Instant),
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Pending {
    pods: BTreeMap<Key, Entry>,
    active: BTreeSet<(Place, Key)>,
    timers: BTreeSet<(Instant, Key)>,
    arrivals: u64,
}

impl Pending {
    /// Takes a new pod in, or one whose wishes changed.
    pub fn add(&mut self, key: &Key, priority: i32) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.detach(key);
        let entry = self.pods.entry(key.clone()).or_insert_with(|| Entry {
            place: (Reverse(priority), arrival),
            attempts: 0,
            rests_until: None,
            state: State::Active,
        });
        // Whoever decides about the old wishes finds on its return that they are out of date.
        entry.state = State::Active;
        entry.attempts = 0;
        entry.rests_until = None;
        self.active.insert((entry.place, key.clone()));
    }

    /// Forgets a pod: it is bound, or gone.
    pub fn remove(&mut self, key: &Key) {
        self.detach(key);
        self.pods.remove(key);
    }

    /// The pod to decide next.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let (_, key) = self.timers.pop_first().expect("a first element was just seen");
            self.activate(&key);
        }
        let (_, key) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&key).expect("an active pod is pending");
        entry.state = State::Deciding;
        Some(key)
    }

    /// No node fits: the pod waits for a change.
    pub fn waits(&mut self, key: &Key, why: Waiting, now: Instant) {
        let Some(entry) = self.deciding(key) else { return };
        entry.rests_until = Some(now + rest(entry.attempts));
        entry.attempts = entry.attempts.saturating_add(1);
        entry.state = State::Waiting(why, now + FORGOTTEN);
        self.timers.insert((now + FORGOTTEN, key.clone()));
    }

    /// The decision could not be written: the pod is tried again after a rest.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.deciding(key) else { return };
        let until = now + rest(entry.attempts);
        entry.attempts = entry.attempts.saturating_add(1);
        entry.state = State::Resting(until);
        self.timers.insert((until, key.clone()));
    }

    /// Wakes the pods that a change may help, each when its rest is over.
    pub fn wake(&mut self, change: Change, now: Instant) {
        let helped = |entry: &Entry| match (&entry.state, change) {
            (State::Waiting(why, _), Change::Nodes) => why.wants_nodes(),
            (State::Waiting(why, _), Change::Room) => why.wants_room(),
            _ => false,
        };
        let woken: Vec<Key> = self
            .pods
            .iter()
            .filter(|(_, entry)| helped(entry))
            .map(|(key, _)| key.clone())
            .collect();
        for key in woken {
            self.detach(&key);
            let entry = self.pods.get_mut(&key).expect("it was found just above");
            match entry.rests_until {
                Some(until) if until > now => {
                    entry.state = State::Resting(until);
                    self.timers.insert((until, key));
                }
                _ => self.activate(&key),
            }
        }
    }

    /// Every decision on its way was given up: their pods are to be decided again. Answers them.
    pub fn recover(&mut self) -> Vec<Key> {
        let deciding = |entry: &Entry| matches!(entry.state, State::Deciding);
        let lost = self.pods.iter().filter(|(_, entry)| deciding(entry));
        let lost: Vec<Key> = lost.map(|(key, _)| key.clone()).collect();
        lost.iter().for_each(|key| self.activate(key));
        lost
    }

    /// When [`Self::pop`] should be asked again although nothing changed.
    pub fn wake_at(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many pods have no node yet.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// True when no pod waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn deciding(&mut self, key: &Key) -> Option<&mut Entry> {
        self.pods.get_mut(key).filter(|entry| matches!(entry.state, State::Deciding))
    }

    fn activate(&mut self, key: &Key) {
        let entry = self.pods.get_mut(key).expect("only pending pods have timers");
        entry.state = State::Active;
        self.active.insert((entry.place, key.clone()));
    }

    /// Takes a pod out of whatever set its state put it into.
    fn detach(&mut self, key: &Key) {
        let Some(entry) = self.pods.get(key) else { return };
        match &entry.state {
            State::Active => {
                self.active.remove(&(entry.place, key.clone()));
            }
            State::Waiting(_, at) | State::Resting(at) => {
                self.timers.remove(&(*at, key.clone()));
            }
            State::Deciding => {}
        }
    }
}

fn rest(attempts: u32) -> Duration {
    REST_MIN.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::decide::Reason;
    use super::*;

    fn key(name: &str) -> Key {
        Key::namespaced("ns", name)
    }

    fn no_room() -> Waiting {
        let reasons = BTreeMap::from([(Reason::Insufficient("cpu".to_owned()), 1)]);
        Waiting::Nodes { nodes: 1, reasons }
    }

    fn wrong_node() -> Waiting {
        Waiting::Nodes { nodes: 1, reasons: BTreeMap::from([(Reason::Affinity, 1)]) }
    }

    #[test]
    fn priority_goes_first_and_then_who_came_first() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            pending.add(&key(name), priority);
        }
        let order: Vec<_> = std::iter::from_fn(|| pending.pop(now)).map(|key| key.name).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn only_a_change_that_could_help_wakes_a_pod() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for (name, why) in [("big", no_room()), ("picky", wrong_node())] {
            pending.add(&key(name), 0);
            pending.pop(now);
            pending.waits(&key(name), why, now);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(pending.pop(later), None);
        pending.wake(Change::Room, later);
        assert_eq!(pending.pop(later), Some(key("big")));
        pending.wake(Change::Nodes, later);
        assert_eq!(pending.pop(later), Some(key("picky")));
    }

    #[test]
    fn a_woken_pod_still_rests_and_rests_longer_each_time() {
        let (mut pending, mut now) = (Pending::default(), Instant::now());
        pending.add(&key("a"), 0);
        for expected in [50, 100, 200] {
            assert_eq!(pending.pop(now), Some(key("a")));
            pending.waits(&key("a"), no_room(), now);
            pending.wake(Change::Room, now);
            assert_eq!(pending.pop(now), None);
            let wake = pending.wake_at().expect("a woken pod has a timer");
            assert_eq!((wake - now).as_millis(), expected);
            now = wake;
        }
        assert_eq!(pending.pop(now), Some(key("a")));
    }

    #[test]
    fn a_forgotten_pod_is_tried_again_after_five_minutes() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(&key("a"), 0);
        pending.pop(now);
        pending.waits(&key("a"), Waiting::Unsupported("x".to_owned()), now);
        pending.wake(Change::Nodes, now + REST_MAX);
        assert_eq!(pending.pop(now + REST_MAX), None);
        assert_eq!(pending.pop(now + FORGOTTEN), Some(key("a")));
    }

    #[test]
    fn decisions_that_were_given_up_are_made_again() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(&key("a"), 0);
        pending.pop(now);
        assert_eq!(pending.recover(), [key("a")]);
        assert_eq!(pending.pop(now), Some(key("a")));
    }

    #[test]
    fn news_during_a_decision_win_over_its_result() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(&key("a"), 0);
        pending.pop(now);
        pending.add(&key("a"), 0);
        pending.waits(&key("a"), no_room(), now);
        assert_eq!(pending.pop(now), Some(key("a")), "the new wishes are still to be decided");
        pending.remove(&key("a"));
        pending.failed(&key("a"), now);
        assert!(pending.is_empty() && pending.wake_at().is_none());
    }
}
