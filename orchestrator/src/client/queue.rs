//! The work queue of a controller, without clock or task.
//!
//! Controllers are told *which* object to look at, never what happened to it, so equal keys fold
//! into one. The whole policy is five sets:
//!
//! ```text
//!             add                     next                    done
//!  (nowhere) ─────▶ ready ───────────────────▶ running ───────────────▶ (nowhere)
//!      │              ▲                          │  ▲  │
//!      │ add_at       │ its time has come        │  └──┘ add: `again`, so that it
//!      └──────────▶ later ◀──────────────────────┘       becomes ready when done
//!                             failed: back-off
//! ```
//!
//! - *Fair*: ready keys run first come, first served; a key added again while it runs goes to the
//!   back.
//! - *Exclusive*: equal keys never run at the same time, so a reconcile needs no lock of its own.
//! - *Lossless*: a change during a run is remembered and causes another run.
//! - *Patient*: each failure in a row doubles the wait of that key alone.
//!
//! Memory is bounded by the number of distinct keys, which is the number of objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Wait after the first failure. Small, because most failures are lost compare-and-swap races.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// No key waits longer than this however often it failed: what repairs itself should show soon.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How a run ended and when the next one is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    Settled,
    /// Look again at this time, changed or not.
    Again(Instant),
    /// Did not work; the back-off counts from this time.
    Failed(Instant),
}

/// Keys to run, see the module's text.
#[derive(Debug)]
pub struct Queue<K> {
    /// Keys to run now, oldest first; none is in `running`.
    ready: VecDeque<K>,
    /// The members of `ready`, to find duplicates.
    queued: BTreeSet<K>,
    /// Keys with a time before which they need not run.
    later: BTreeSet<(Instant, K)>,
    /// The time of each key in `later`: one per key, the earliest that was asked for.
    due: BTreeMap<K, Instant>,
    /// Keys handed out and not yet done.
    running: BTreeSet<K>,
    /// Running keys that were added meanwhile.
    again: BTreeSet<K>,
    /// Failures in a row of keys whose last run failed.
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            later: BTreeSet::new(),
            due: BTreeMap::new(),
            running: BTreeSet::new(),
            again: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Asks for a run of `key` as soon as possible.
    pub fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Asks for a run of `key` at `at`, unless an earlier one is already planned.
    pub fn add_at(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(&planned) if planned <= at => return,
            Some(&planned) => {
                self.later.remove(&(planned, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    /// The next key to run, if any. It must be handed back with [`Self::done`].
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while let Some((at, _)) = self.later.first()
            && *at <= now
        {
            let (_, key) = self.later.pop_first().expect("a first element was just seen");
            self.due.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        let fresh = self.running.insert(key.clone());
        assert!(fresh, "a key was ready while it ran");
        Some(key)
    }

    /// Ends the run of `key`.
    pub fn done(&mut self, key: K, outcome: Outcome) {
        let ran = self.running.remove(&key);
        assert!(ran, "a key was done that did not run");
        match outcome {
            Outcome::Settled => {
                self.failures.remove(&key);
            }
            Outcome::Again(at) => {
                self.failures.remove(&key);
                self.add_at(key.clone(), at);
            }
            Outcome::Failed(now) => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                let wait = backoff(*failures);
                *failures = failures.saturating_add(1);
                self.add_at(key.clone(), now + wait);
            }
        }
        if self.again.remove(&key) {
            self.add(key);
        }
    }

    /// Every run was given up half-way: what was running is to run again.
    pub fn recover(&mut self) {
        self.again.clear();
        for key in std::mem::take(&mut self.running) {
            self.add(key);
        }
    }

    /// When [`Self::next`] should be asked again although nothing was added.
    pub fn wake_at(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// True when no key is ready or running; planned keys do not count.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.running.is_empty()
    }
}

/// The wait after so many earlier failures in a row.
pub fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with a clock that only the test moves.
    struct Bench {
        queue: Queue<&'static str>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { queue: Queue::default(), now: Instant::now() }
        }

        fn next(&mut self) -> Option<&'static str> {
            self.queue.next(self.now)
        }

        fn pass(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }
    }

    #[test]
    fn equal_keys_fold_and_order_holds() {
        let mut bench = Bench::new();
        for key in ["b", "a", "b", "c", "a"] {
            bench.queue.add(key);
        }
        assert_eq!([bench.next(), bench.next(), bench.next()], [Some("b"), Some("a"), Some("c")]);
        assert_eq!(bench.next(), None);
    }

    #[test]
    fn a_key_never_runs_twice_at_once_and_no_change_is_lost() {
        let mut bench = Bench::new();
        bench.queue.add("a");
        assert_eq!(bench.next(), Some("a"));
        bench.queue.add("a");
        bench.queue.add("b");
        assert_eq!(bench.next(), Some("b"));
        assert_eq!(bench.next(), None);
        bench.queue.done("a", Outcome::Settled);
        assert_eq!(bench.next(), Some("a"));
        bench.queue.done("a", Outcome::Settled);
        bench.queue.done("b", Outcome::Settled);
        assert_eq!(bench.next(), None);
        assert!(bench.queue.is_idle());
    }

    #[test]
    fn failures_double_the_wait_up_to_the_cap_and_success_resets_it() {
        let mut bench = Bench::new();
        bench.queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..15 {
            assert_eq!(bench.next(), Some("a"));
            bench.queue.done("a", Outcome::Failed(bench.now));
            let wake = bench.queue.wake_at().expect("a failed key is planned");
            waits.push((wake - bench.now).as_millis());
            assert_eq!(bench.next(), None, "not before its time");
            bench.now = wake;
        }
        assert_eq!(waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits[14], 30_000);
        assert_eq!(bench.next(), Some("a"));
        bench.queue.done("a", Outcome::Settled);
        bench.queue.add("a");
        assert_eq!(bench.next(), Some("a"));
        bench.queue.done("a", Outcome::Failed(bench.now));
        assert_eq!(bench.queue.wake_at(), Some(bench.now + BACKOFF_MIN));
    }

    #[test]
    fn runs_that_were_given_up_are_run_again() {
        let mut bench = Bench::new();
        bench.queue.add("a");
        assert_eq!(bench.next(), Some("a"));
        bench.queue.add("a");
        bench.queue.recover();
        assert_eq!((bench.next(), bench.next()), (Some("a"), None));
        bench.queue.done("a", Outcome::Settled);
        assert!(bench.queue.is_idle());
    }

    #[test]
    fn the_earliest_time_wins() {
        let mut bench = Bench::new();
        let start = bench.now;
        bench.queue.add_at("a", start + Duration::from_millis(50));
        bench.queue.add_at("a", start + Duration::from_millis(20));
        bench.queue.add_at("a", start + Duration::from_millis(90));
        bench.pass(19);
        assert_eq!(bench.next(), None);
        bench.pass(1);
        assert_eq!(bench.next(), Some("a"));
        bench.queue.done("a", Outcome::Settled);
        bench.pass(1000);
        assert_eq!(bench.next(), None, "one plan per key");
    }

    #[test]
    fn a_plan_that_falls_due_during_a_run_waits_for_its_end() {
        let mut bench = Bench::new();
        bench.queue.add("a");
        assert_eq!(bench.next(), Some("a"));
        bench.queue.add_at("a", bench.now + Duration::from_millis(1));
        bench.pass(5);
        assert_eq!(bench.next(), None);
        bench.queue.done("a", Outcome::Settled);
        assert_eq!(bench.next(), Some("a"));
    }
}
