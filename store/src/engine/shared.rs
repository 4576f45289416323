//! What the applying thread, the checkpoint thread and readers share, and how it changes hands.
//!
//! ```text
//!   apply ──▶ core ──publish──▶ current ──▶ View            readers
//!               │ freeze                ▲
//!               ▼                       │ spilled, written
//!             queue ──▶ checkpoint thread
//! ```
//!
//! Three locks, each held for moments. `core` (the machine's state) is taken by whoever applies or
//! freezes; `current` (what readers see) and `queue` (what is to be written) may be taken while
//! holding it, never the other way round.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    backend::Store,
    base::Base,
    checkpoint::Frozen,
    counters::Counters,
    counts::Counts,
    memtable::{Log, Memtable},
    meta::Cut,
    run::Run,
    snapshot::Snapshot,
    tables::Tables,
};
use crate::{
    command::{Alarm, Member, Revision},
    fault::Fault,
    limits::{
        APPLY_DELAY_MAX, MEMTABLE_OVERGROWTH_PERCENT, MEMTABLES_FROZEN_MAX, RUN_AHEAD_PERCENT,
    },
    machine::{Quota, State, auth::Auth, size::Sizes},
};

/// How far the database on disk has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The last log entry that is in it; the log before may go.
    pub index: Option<u64>,
    /// What raft gave with that entry.
    pub raft: Bytes,
    pub revision: Revision,
    /// Versions forgotten by compaction at this revision are physically gone.
    pub compacted: Revision,
}

/// Small facts that rarely change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) alarms: Vec<Alarm>,
    pub(super) members: Vec<Member>,
    pub(super) quota: Quota,
    pub(super) auth: Arc<Auth>,
}

impl Facts {
    pub(super) fn of(state: &State) -> Self {
        Self {
            alarms: state.alarms.iter().copied().collect(),
            members: state.members.values().cloned().collect(),
            quota: state.quota,
            auth: state.auth.clone(),
        }
    }

    fn is_of(&self, state: &State) -> bool {
        self.quota == state.quota
            && Arc::ptr_eq(&self.auth, &state.auth)
            && self.alarms.iter().eq(&state.alarms)
            && self.members.iter().eq(state.members.values())
    }
}

/// What readers see. Replaced piece by piece, under one lock, so that they see it whole.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) tables: Arc<Tables>,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) sizes: Sizes,
    pub(super) counts: Counts,
    pub(super) facts: Arc<Facts>,
}

impl Current {
    pub(super) fn rows(&self) -> Snapshot<'_> {
        Snapshot { tables: &self.tables, counts: &self.counts, revision: self.revision }
    }
}

/// The machine's state, and the log position it is at.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) counts: Counts,
    pub(super) applied: Option<u64>,
    pub(super) raft: Bytes,
    /// Something was applied since the last freeze.
    pub(super) dirty: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    /// Memtables to be spilled, oldest first.
    pub(super) frozen: VecDeque<Arc<Frozen>>,
    /// Write out what there is, without waiting for it to be large or old.
    pub(super) force: bool,
    pub(super) stop: bool,
    pub(super) failed: Option<Fault>,
    /// The checkpoint thread is in the middle of a transaction.
    pub(super) busy: bool,
    /// A defragmentation is under way: it may miss nothing, so nothing is removed.
    pub(super) keep: bool,
    /// Its last step is: nothing is written into the database.
    pub(super) hold: bool,
    /// The database to write to from now on.
    pub(super) moved: Option<Arc<Store>>,
}

pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) current: RwLock<Current>,
    queue: Mutex<Queue>,
    pub(super) queue_changed: Condvar,
    pub(super) durable: watch::Sender<Durable>,
    pub(super) fault: watch::Sender<Option<Fault>>,
    /// What `current` says too, for those who want to know nothing else.
    auth_enabled: AtomicBool,
    pub(super) counters: Arc<Counters>,
    memtable_bytes: usize,
    /// By how much, in percent of a run, the run being filled is ahead of the one being written.
    ahead: AtomicUsize,
    /// Held by whoever defragments.
    pub(super) defragmenting: tokio::sync::Mutex<()>,
}

/// How long to hold up an entry. Rises as the square: hardly felt at first, and never all at once.
fn delay(part: usize, whole: usize) -> Duration {
    let percent = u32::try_from(part.saturating_mul(100) / whole.max(1)).unwrap_or(100).min(100);
    APPLY_DELAY_MAX * (percent * percent) / 10_000
}

pub(super) const HELD: &str = "no holder of the lock panics";

impl Shared {
    pub(super) fn new(
        core: Core,
        current: Current,
        durable: Durable,
        memtable_bytes: usize,
    ) -> Self {
        let auth_enabled = AtomicBool::new(current.facts.auth.enabled());
        Self {
            auth_enabled,
            core: Mutex::new(core),
            current: RwLock::new(current),
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            durable: watch::Sender::new(durable),
            fault: watch::Sender::new(None),
            counters: Arc::default(),
            memtable_bytes,
            ahead: AtomicUsize::new(0),
            defragmenting: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(HELD)
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect(HELD)
    }

    pub(super) fn current(&self) -> Current {
        self.current.read().expect(HELD).clone()
    }

    pub(super) fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Acquire)
    }

    /// Shows readers what has been applied.
    pub(super) fn publish(&self, core: &Core) {
        let mut current = self.current.write().expect(HELD);
        current.revision = core.state.revision;
        current.compacted = core.state.compacted;
        current.sizes = core.state.sizes;
        current.counts = core.counts.clone();
        if !current.facts.is_of(&core.state) {
            current.facts = Arc::new(Facts::of(&core.state));
            self.auth_enabled.store(core.state.auth.enabled(), Ordering::Release);
        }
    }

    /// Tells by how much the run being filled is ahead of the one being written.
    pub(super) fn ahead(&self, percent: usize) {
        self.ahead.store(percent, Ordering::Relaxed);
    }

    /// Before applying: freezes the active memtable if it is full. When versions come quicker than
    /// they can be written into the database, entries are held up so that the run being filled is
    /// not full before the one being written is done. While as many as may be are
    /// frozen already, each entry is held up a little longer than the one before, until the
    /// checkpoint thread is through or the hard bound is reached.
    pub(super) fn make_room(&self) -> Result<(), Fault> {
        let bytes = self.current().tables.active.bytes();
        let mut queue = self.queue();
        let ahead = self.ahead.load(Ordering::Relaxed);
        if ahead > RUN_AHEAD_PERCENT {
            let goes_on = |queue: &mut Queue| queue.failed.is_none();
            let waited = self.queue_changed.wait_timeout_while(queue, delay(ahead, 100), goes_on);
            queue = waited.expect(HELD).0;
        }
        let behind = |queue: &mut Queue| {
            queue.frozen.len() >= MEMTABLES_FROZEN_MAX && queue.failed.is_none()
        };
        if behind(&mut queue) {
            let bytes_max = self.memtable_bytes.saturating_mul(MEMTABLE_OVERGROWTH_PERCENT) / 100;
            if bytes < bytes_max {
                let delay = delay(bytes, bytes_max);
                let waited = self.queue_changed.wait_timeout_while(queue, delay, behind);
                queue = waited.expect(HELD).0;
            } else {
                queue = self.queue_changed.wait_while(queue, behind).expect(HELD);
            }
        }
        if let Some(fault) = &queue.failed {
            return Err(fault.clone());
        }
        let freeze = bytes >= self.memtable_bytes && queue.frozen.len() < MEMTABLES_FROZEN_MAX;
        drop(queue);
        if freeze {
            self.freeze();
        }
        Ok(())
    }

    /// Turns the active memtable into a frozen one, if anything was applied since the last time.
    pub(super) fn freeze(&self) {
        let mut core = self.core();
        // After a fault the state may be that of half an entry.
        if !core.dirty || self.queue().failed.is_some() {
            return;
        }
        core.dirty = false;
        let cut = Cut {
            applied: core.applied,
            raft: core.raft.clone(),
            revision: core.state.revision,
            compacted: core.state.compacted,
            sizes: core.state.sizes,
            counts: core.counts.clone(),
            quota: core.state.quota,
            touched: core.state.leases.take_touched(),
            alarms: core.state.alarms.clone(),
            members: core.state.members.values().cloned().collect(),
            auth: core.state.auth.clone(),
        };
        let table = {
            let mut current = self.current.write().expect(HELD);
            let tables = &current.tables;
            let table = tables.active.clone();
            current.tables = Arc::new(Tables {
                active: Arc::new(Memtable::default()),
                frozen: std::iter::once(&table).chain(&tables.frozen).cloned().collect(),
                runs: tables.runs.clone(),
                base: tables.base.clone(),
                recent: tables.recent.clone(),
            });
            table
        };
        let mut queue = self.queue();
        queue.frozen.push_back(Arc::new(Frozen { table, cut }));
        if queue.frozen.len() >= MEMTABLES_FROZEN_MAX {
            self.hurry();
        }
        self.queue_changed.notify_all();
    }

    /// Lets the checkpoint that is being written take the disk as it can.
    pub(super) fn hurry(&self) {
        if let Ok(store) = self.current().tables.base.store() {
            store.pace.hurry(true);
        }
    }

    /// After the oldest memtable was spilled: reads go to the run instead, which takes the place of
    /// `before` if there was one. Gives back the log that was kept of the memtable before.
    pub(super) fn spilled(
        &self,
        table: &Arc<Memtable>,
        before: Option<&Arc<Run>>,
        run: &Arc<Run>,
    ) -> Arc<Log> {
        let kept = self.change_tables(|tables| {
            let oldest = tables.frozen.pop().expect("what was spilled is frozen");
            assert!(Arc::ptr_eq(&oldest, table), "memtables are spilled in order");
            match before {
                None => tables.runs.insert(0, run.clone()),
                Some(before) => {
                    let newest = std::mem::replace(&mut tables.runs[0], run.clone());
                    assert!(Arc::ptr_eq(&newest, before), "a run grows by its own successor");
                }
            }
            let recent = tables.recent.clone();
            if oldest.log.first().is_some() {
                tables.recent = oldest.log.clone();
            }
            recent
        });
        self.queue().frozen.pop_front();
        self.queue_changed.notify_all();
        kept
    }

    /// After the oldest run was written: reads go to the database instead.
    pub(super) fn written(&self, run: &Arc<Run>, base: Arc<Base>) {
        self.change_tables(|tables| {
            let oldest = tables.runs.pop().expect("what was written is there");
            assert!(Arc::ptr_eq(&oldest, run), "runs are written in order");
            tables.base = base;
        });
    }

    pub(super) fn rebase(&self, base: Arc<Base>) {
        self.change_tables(|tables| tables.base = base);
    }

    fn change_tables<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let mut current = self.current.write().expect(HELD);
        let mut tables = Tables::clone(&current.tables);
        let changed = change(&mut tables);
        current.tables = Arc::new(tables);
        changed
    }

    /// Asks the checkpoint thread to write out what has been applied.
    pub(super) fn force(&self) {
        self.queue().force = true;
        self.queue_changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.queue().stop = true;
        self.queue_changed.notify_all();
    }

    /// After the checkpoint thread has ended: lets go of the database, so that it is closed when
    /// the last view is gone, and what readers still ask is refused.
    pub(super) fn close(&self) {
        let queue = self.queue();
        let mut queue = self.queue_changed.wait_while(queue, |queue| queue.keep).expect(HELD);
        queue.moved = None;
        drop(queue);
        let revision = self.current().tables.base.revision;
        self.rebase(Base::closed(revision));
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.fault.send_replace(Some(fault.clone()));
        self.queue().failed = Some(fault);
        self.queue_changed.notify_all();
    }

    /// Waits until an entry is on disk, or never will be.
    pub(super) fn wait_for_durable(&self, index: Option<u64>) -> Result<(), Fault> {
        self.hurry();
        let mut queue = self.queue();
        while self.durable.borrow().index < index {
            if let Some(fault) = &queue.failed {
                return Err(fault.clone());
            }
            queue = self.queue_changed.wait(queue).expect(HELD);
        }
        Ok(())
    }

    /// Begins a defragmentation: from the return on nothing is removed from the database, which is
    /// given.
    pub(super) fn keep(&self) -> Result<Arc<Store>, Fault> {
        let mut queue = self.queue();
        queue.keep = true;
        self.wait_until_idle(queue)?;
        self.current().tables.base.store().cloned()
    }

    /// Its last step: from the return on nothing is written either.
    pub(super) fn hold(&self) -> Result<(), Fault> {
        let mut queue = self.queue();
        queue.hold = true;
        self.wait_until_idle(queue)
    }

    fn wait_until_idle(&self, queue: MutexGuard<'_, Queue>) -> Result<(), Fault> {
        let busy = |queue: &mut Queue| queue.busy && queue.failed.is_none() && !queue.stop;
        let queue = self.queue_changed.wait_while(queue, busy).expect(HELD);
        Self::alive(&queue)
    }

    fn alive(queue: &Queue) -> Result<(), Fault> {
        match &queue.failed {
            Some(fault) => Err(fault.clone()),
            None if queue.stop => Err(Fault::Stopped),
            None => Ok(()),
        }
    }

    /// Whether a defragmentation may go on.
    pub(super) fn goes_on(&self) -> Result<(), Fault> {
        Self::alive(&self.queue())
    }

    /// Makes another database, of the same contents, the one that is read and written.
    pub(super) fn move_to(&self, store: Arc<Store>, base: Arc<Base>) {
        self.rebase(base);
        self.queue().moved = Some(store);
    }

    /// Ends a defragmentation. Where it has failed so that the database cannot be trusted to be
    /// the one that a restart finds, the engine fails with it.
    pub(super) fn release(&self, fatal: Option<Fault>) {
        if let Some(fault) = fatal {
            self.fail(fault);
        }
        let mut queue = self.queue();
        (queue.keep, queue.hold) = (false, false);
        self.queue_changed.notify_all();
    }
}
