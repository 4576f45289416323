//! History, and compaction at any revision of it, in the whole engine.
//!
//! Entries are applied by an engine on a disk in memory and by the naive model, with checkpoints,
//! defragmentations and restarts in between and compactions anywhere. Then every revision that is
//! retained is asked for, and some on either side: ranges, hashes, and the events from there on, in
//! portions of any size. A restart applies what the disk does not have again, and must come to the
//! same answers.

use std::sync::Arc;
use std::time::Duration;

use store::command::{Command, KeyRange, Outcome, RangeQuery, Refusal, Revision};
use store::engine::{Budget, Engine, EngineConfig, Identity, RunLimits, Storage};
use store::fault::Error;
use store::wal::VolatileDisk;

use crate::draw::Draw;
use crate::model::Model;

/// Entries of one seed, and commands in each.
const ENTRIES_MAX: usize = 30;
const COMMANDS_MAX: usize = 4;

struct World {
    disk: Arc<VolatileDisk>,
    memtable_bytes: usize,
    engine: Option<Engine>,
    model: Model,
    log: Vec<(Vec<Command>, Vec<Outcome>)>,
}

/// A history, and all its revisions.
pub fn seed(seed: u64) {
    let mut draw = Draw::new(seed);
    let memtable_bytes = draw.random.one_of(&[1, 4_000, 1 << 30]);
    let disk = Arc::new(VolatileDisk::default());
    let engine = Some(open(&disk, memtable_bytes));
    let mut world =
        World { disk, memtable_bytes, engine, model: Model::default(), log: Vec::new() };
    for _ in 0..1 + draw.random.below(ENTRIES_MAX) {
        let mut commands = Vec::new();
        for _ in 0..1 + draw.random.below(COMMANDS_MAX) {
            commands.push(draw.command());
            (draw.compacted, draw.revision) = (world.model.compacted.0, world.model.revision.0);
        }
        world.apply(seed, commands);
        match draw.random.below(12) {
            0 => world.engine().checkpoint().expect("memory does not fail"),
            1 => world.engine().reader().defragment_now().expect("memory does not fail"),
            2 => world.restart(seed),
            _ => {}
        }
    }
    world.check_all(seed, &mut draw);
    world.restart(seed);
    world.check_all(seed, &mut draw);
}

fn open(disk: &Arc<VolatileDisk>, memtable_bytes: usize) -> Engine {
    let storage = Storage::Disk(Arc::clone(disk) as _);
    let config = EngineConfig {
        memtable_bytes,
        // A few memtables, so that reads find rows at all levels.
        run: RunLimits { versions: 12, key_bytes: 1_000, bytes: 2_000 },
        age: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        compact_slice: 3,
        compact_gather: 5,
        compact_batch: 2,
        compact_rest: Duration::ZERO,
        bucket_keys: 2,
        ..EngineConfig::new(storage, Identity::default())
    };
    Engine::open(config).expect("memory does not fail")
}

fn refused<T>(answer: Result<T, Error>) -> Result<T, Refusal> {
    answer.map_err(|error| match error {
        Error::Refused(refusal) => refusal,
        Error::Failed(fault) => panic!("{fault}"),
    })
}

impl World {
    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("between steps there is an engine")
    }

    fn apply(&mut self, seed: u64, commands: Vec<Command>) {
        let outcomes = commands.iter().map(|command| self.model.apply(command).0).collect();
        self.log.push((commands, outcomes));
        self.replay(seed, self.log.len() - 1);
    }

    fn replay(&mut self, seed: u64, nth: usize) {
        let (commands, outcomes) = &self.log[nth];
        let engine = self.engine.as_mut().expect("between steps there is an engine");
        let applied = engine.apply(nth as u64, None, commands).expect("memory does not fail");
        assert_eq!(&applied.outcomes, outcomes, "seed {seed}: {commands:?}");
    }

    /// Stops without a word, as a killed process does.
    fn restart(&mut self, seed: u64) {
        self.engine = None;
        self.engine = Some(open(&self.disk, self.memtable_bytes));
        let next = self.engine().applied().0.map_or(0, |index| index + 1);
        for nth in usize::try_from(next).expect("few")..self.log.len() {
            self.replay(seed, nth);
        }
    }

    fn check_all(&mut self, seed: u64, draw: &mut Draw) {
        let (model, view) = (&self.model, self.engine.as_ref().expect("open").reader().view());
        assert_eq!((view.revision(), view.compacted()), (model.revision, model.compacted));
        for at in model.compacted.0.max(0) - 1..=model.revision.0 + 1 {
            let at = Revision(at);
            let whole = RangeQuery { revision: at, ..RangeQuery::new(KeyRange::all()) };
            let part = RangeQuery { revision: at, ..draw.query() };
            for query in [whole, part] {
                assert_eq!(
                    refused(view.range(&query)),
                    model.range(&query),
                    "seed {seed}: {query:?}"
                );
            }
            let digest = refused(view.hash_kv(at));
            if let Ok(digest) = &digest {
                assert_eq!(digest.hash, model.hash_kv(digest.revision), "seed {seed}: at {at}");
            }
            let readable = at.0 <= 0 || (at >= model.compacted && at <= model.revision);
            assert_eq!(digest.is_ok(), readable, "seed {seed}: at {at}");
            let budget =
                Budget { revisions: 1 + draw.random.below(9), bytes: 1 + draw.random.below(3000) };
            self.check_history(seed, at, budget);
        }
    }

    fn check_history(&self, seed: u64, from: Revision, budget: Budget) {
        let view = self.engine.as_ref().expect("open").reader().view();
        let expected = self.model.history(from);
        let (mut found, mut next) = (Vec::new(), from);
        let told = loop {
            match refused(view.history(next, budget)) {
                Ok(history) if history.revised.is_empty() => break Ok(found),
                Ok(history) => {
                    found.extend(history.revised.iter().map(|revised| (**revised).clone()));
                    next = history.next;
                }
                Err(refusal) => break Err(refusal),
            }
        };
        assert_eq!(told, expected, "seed {seed}: history from {from} by {budget:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is drawn is dense enough to say something: most commands are carried out, some
    /// history is compacted away, and keys are left.
    #[test]
    fn histories_hold_something() {
        let mut draw = Draw::new(1);
        let mut model = Model::default();
        for _ in 0..200 {
            model.apply(&draw.command());
            (draw.compacted, draw.revision) = (model.compacted.0, model.revision.0);
        }
        assert!(model.revision > Revision(50), "only up to {}", model.revision);
        assert!(model.compacted > Revision(0), "nothing is compacted");
        assert!(model.live_keys() > 3, "{} keys are left", model.live_keys());
    }
}
