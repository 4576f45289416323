//! The checkpoint thread: moves versions down, from memtables into a run, from a run into the
//! database.
//!
//! Of what could be done it does the most pressing. A frozen memtable waits for nothing but room in
//! the run: spilling it takes milliseconds and frees its memory. A run is written when it is full,
//! or when somebody waits for what is in it, or when it is old, or when nothing else happens. What
//! is compacted is removed in what time is left.
//!
//! A run that is being written does not grow; a second one takes the memtables meanwhile. When that
//! is full too, memtables wait, and then `apply` does.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    backend::Home,
    checkpoint::{Aside, Frozen, Retired, Writer},
    meta::Cut,
    run::{Run, RunLimits},
    shared::{Durable, HELD, Shared},
};
use crate::{fault::Fault, limits::MEMTABLES_FROZEN_MAX};

/// When runs are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cadence {
    pub(super) run: RunLimits,
    pub(super) age: Duration,
    pub(super) idle: Duration,
}

/// The run being filled, and what was true when the last memtable in it was frozen.
struct Open {
    run: Arc<Run>,
    cut: Cut,
}

/// Spills memtables.
struct Spiller {
    shared: Arc<Shared>,
    home: Home,
    limits: RunLimits,
    open: Option<Open>,
    /// How much of the run being written is in the database, in percent; all if none is.
    done: usize,
    retired: Retired,
}

impl Spiller {
    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            // What is noted of leases is in memory as keys are.
            open.run.is_full(self.limits) || open.cut.touched.len() >= self.limits.versions
        })
    }

    fn spill(&mut self, frozen: &Frozen) -> Result<(), Fault> {
        let (mut cut, revision) = (frozen.cut.clone(), frozen.cut.revision);
        let before = self.open.take().map(|Open { run, cut: earlier }| {
            let later = std::mem::replace(&mut cut.touched, earlier.touched);
            cut.touched.extend(later);
            run
        });
        let create = || self.home.run();
        let run = match &before {
            Some(before) => before.with(&frozen.table, revision, &create)?,
            None => Run::new(self.limits).with(&frozen.table, revision, &create)?,
        };
        let run = Arc::new(run);
        let log = self.shared.spilled(&frozen.table, before.as_ref(), &run);
        self.open = Some(Open { run, cut });
        self.retired.push(frozen.table.clone());
        self.retired.push(log);
        Ok(())
    }
}

impl Aside for Spiller {
    fn stand(&mut self, percent: usize) -> Result<(), Fault> {
        self.done = percent;
        loop {
            let open = self.open.as_ref().map_or(0, |open| open.run.percent(self.limits));
            self.shared.ahead(open.saturating_sub(self.done));
            let waiting = self.shared.queue().frozen.front().cloned();
            match waiting {
                Some(frozen) if !self.is_full() => self.spill(&frozen)?,
                // Whatever is spilled next has to wait for what is being written.
                Some(_) => {
                    self.shared.hurry();
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    fn rest(&mut self, time: Duration) -> Result<bool, Fault> {
        let calm = |queue: &mut super::shared::Queue| {
            queue.frozen.is_empty() && !queue.keep && !queue.stop
        };
        let shared = Arc::clone(&self.shared);
        let waited = shared.queue_changed.wait_timeout_while(shared.queue(), time, calm);
        drop(waited.expect(HELD));
        self.stand(self.done)?;
        Ok(calm(&mut shared.queue()))
    }
}

enum Job {
    Spill(Arc<Frozen>),
    /// Whether compacted versions may go in the same transaction.
    Write(Box<Open>, bool),
    Compact,
    Freeze,
    Stop,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    spiller: Spiller,
    writer: Writer,
    cadence: Cadence,
    /// The open run is to be written, full or not.
    seal: bool,
    /// Somebody has asked for that.
    asked: bool,
    /// When a run was written last, or should have been.
    written: Instant,
    /// The last entry when there was nothing to do last.
    seen: Option<u64>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, home: Home, writer: Writer, cadence: Cadence) -> Self {
        let spiller = Spiller {
            shared: Arc::clone(&shared),
            home,
            limits: cadence.run,
            open: None,
            done: 100,
            retired: Retired::default(),
        };
        let seen = writer.last.applied;
        let written = Instant::now();
        Self { shared, spiller, writer, cadence, seal: false, asked: false, written, seen }
    }

    /// Works until the engine stops or the disk fails.
    pub(super) fn run(mut self) {
        loop {
            let done = match self.next_job() {
                Job::Stop => return,
                Job::Freeze => {
                    self.shared.freeze();
                    continue;
                }
                Job::Spill(frozen) => match self.spiller.spill(&frozen) {
                    Ok(()) => continue,
                    Err(fault) => Err(fault),
                },
                Job::Write(open, compact) => self.write(*open, compact),
                Job::Compact => {
                    let compacted = self.writer.compact(&mut self.spiller);
                    compacted.map(|base| self.shared.rebase(base))
                }
            };
            if let Err(fault) = done {
                return self.shared.fail(fault);
            }
            self.shared.durable.send_replace(Durable {
                index: self.writer.last.applied,
                raft: self.writer.last.raft.clone(),
                revision: self.writer.last.revision,
                compacted: self.writer.progress.done,
            });
            // Taken and let go, so that nobody can look at the old news and then sleep.
            drop(self.shared.queue());
            self.shared.queue_changed.notify_all();
        }
    }

    fn write(&mut self, open: Open, compact: bool) -> Result<(), Fault> {
        let Open { run, cut } = open;
        self.spiller.done = 0;
        let base = self.writer.checkpoint(&run, cut, compact, &mut self.spiller)?;
        self.shared.written(&run, base);
        self.spiller.done = 100;
        self.shared.ahead(0);
        self.spiller.retired.push(run);
        self.written = Instant::now();
        Ok(())
    }

    fn next_job(&mut self) -> Job {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        queue.busy = false;
        shared.queue_changed.notify_all();
        loop {
            if queue.stop || queue.failed.is_some() {
                return Job::Stop;
            }
            if let Some(store) = queue.moved.take() {
                self.writer.move_to(store);
            }
            let is_full = self.spiller.is_full();
            if let Some(oldest) = queue.frozen.front().filter(|_| !is_full) {
                return Job::Spill(Arc::clone(oldest));
            }
            if !queue.hold {
                if (is_full || self.seal)
                    && let Some(open) = self.spiller.open.take()
                {
                    // What is still frozen has to follow.
                    self.seal &= !queue.frozen.is_empty();
                    queue.busy = true;
                    // Whoever has asked for it waits.
                    let hurry = self.asked || queue.frozen.len() >= MEMTABLES_FROZEN_MAX;
                    self.asked &= self.seal;
                    self.writer.store.pace.hurry(hurry);
                    return Job::Write(Box::new(open), !queue.keep);
                }
                (self.seal, self.asked) = (false, false);
                if std::mem::take(&mut queue.force) {
                    (self.seal, self.asked) = (true, true);
                    return Job::Freeze;
                }
                // Before what may take long.
                if self.written.elapsed() >= self.cadence.age {
                    (self.seal, self.written) = (true, Instant::now());
                    return Job::Freeze;
                }
                if self.writer.compaction_is_due() && !queue.keep {
                    queue.busy = true;
                    return Job::Compact;
                }
            }
            self.writer.retired.clear();
            self.spiller.retired.clear();
            let (waited, timed_out) =
                shared.queue_changed.wait_timeout(queue, self.cadence.idle).expect(HELD);
            queue = waited;
            if timed_out.timed_out() && !queue.hold {
                drop(queue);
                if self.is_idle() {
                    self.seal = true;
                    return Job::Freeze;
                }
                queue = shared.queue();
            }
        }
    }

    /// After a while with nothing to do: whether there is something to write, and nothing was
    /// applied meanwhile.
    fn is_idle(&mut self) -> bool {
        let applied = self.shared.core().applied;
        std::mem::replace(&mut self.seen, applied) == applied && applied != self.writer.last.applied
    }
}
