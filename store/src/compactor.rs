//! Automatic compaction: which history may go, and when.
//!
//! Two rules, etcd's: keep the last N revisions, looked at every five minutes; or keep what is
//! younger than a period. For the second the leader notes the revision now and then, so it knows
//! which one was current a period ago; nothing of this is stored, so after a restart the first
//! compaction waits for a full period.
//!
//! Pure: the shell below `node.rs` gives time and revision and proposes what comes out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::command::Revision;
use crate::config::AutoCompaction;

/// How often the revision rule looks.
const REVISION_EVERY: Duration = Duration::from_secs(5 * 60);

/// The longest pause between two compactions of the period rule.
const PERIODIC_EVERY_MAX: Duration = Duration::from_secs(60 * 60);

/// Notes taken between two compactions of the period rule.
const NOTES: u32 = 10;

/// Decides on compactions.
#[derive(Debug)]
pub struct Compactor {
    rule: AutoCompaction,
    /// When which revision was current, oldest first; as far back as the period.
    notes: VecDeque<(Duration, Revision)>,
    last_run: Option<Duration>,
    last_compacted: Revision,
}

impl Compactor {
    /// A compactor by a rule.
    pub fn new(rule: AutoCompaction) -> Self {
        Self { rule, notes: VecDeque::new(), last_run: None, last_compacted: Revision(0) }
    }

    /// How often to call [`Compactor::tick`]; never for a rule that is off.
    pub fn every(&self) -> Option<Duration> {
        match self.rule {
            AutoCompaction::Off => None,
            AutoCompaction::Revision(_) => Some(REVISION_EVERY),
            AutoCompaction::Periodic(period) => Some(period.min(PERIODIC_EVERY_MAX) / NOTES),
        }
    }

    /// The revision to compact at, if it is time.
    pub fn tick(&mut self, now: Duration, current: Revision) -> Option<Revision> {
        let at = match self.rule {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision(keep) => Revision(current.0.saturating_sub(keep)),
            AutoCompaction::Periodic(period) => self.a_period_ago(period, now, current)?,
        };
        if at <= Revision::FIRST || at <= self.last_compacted {
            return None;
        }
        self.last_run = Some(now);
        self.last_compacted = at;
        Some(at)
    }

    fn a_period_ago(
        &mut self,
        period: Duration,
        now: Duration,
        current: Revision,
    ) -> Option<Revision> {
        self.notes.push_back((now, current));
        let limit = now.checked_sub(period)?;
        // The newest note that is old enough is the one that counts; those before it are done with.
        while self.notes.get(1).is_some_and(|(at, _)| *at <= limit) {
            self.notes.pop_front();
        }
        let pause = period.min(PERIODIC_EVERY_MAX);
        if self.last_run.is_some_and(|last| now < last + pause) {
            return None;
        }
        self.notes.front().filter(|(at, _)| *at <= limit).map(|(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn the_last_revisions_are_kept() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(100));
        assert_eq!(compactor.tick(minutes(5), Revision(50)), None);
        assert_eq!(compactor.tick(minutes(10), Revision(150)), Some(Revision(50)));
        assert_eq!(compactor.tick(minutes(15), Revision(150)), None, "nothing new");
        assert_eq!(compactor.tick(minutes(20), Revision(151)), Some(Revision(51)));
    }

    #[test]
    fn a_period_is_kept() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(minutes(60)));
        assert_eq!(compactor.every(), Some(minutes(6)));
        let mut runs = Vec::new();
        for tick in 0..40 {
            let now = minutes(6 * tick);
            // One revision a minute.
            let current = Revision(i64::try_from(6 * tick).expect("small") + 1);
            runs.extend(compactor.tick(now, current).map(|at| (6 * tick, at.0)));
        }
        assert_eq!(runs, [(66, 7), (126, 67), (186, 127)]);
    }

    #[test]
    fn a_long_period_runs_hourly() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(minutes(24 * 60)));
        let mut runs = Vec::new();
        for tick in 0..(27 * 10) {
            let current = Revision(i64::try_from(tick).expect("small") + 1);
            if compactor.tick(minutes(6 * tick), current).is_some() {
                runs.push(6 * tick / 60);
            }
        }
        assert_eq!(runs, [24, 25, 26]);
        assert!(compactor.notes.len() <= 242, "notes are bounded by the period");
    }

    #[test]
    fn off_is_off() {
        let mut compactor = Compactor::new(AutoCompaction::Off);
        assert_eq!((compactor.every(), compactor.tick(minutes(9), Revision(9))), (None, None));
    }
}
