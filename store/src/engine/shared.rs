//! What the applying thread, the checkpoint thread and readers share, and how it changes hands.
//!
//! ```text
//!   apply ──▶ core ──publish──▶ current ──▶ View            readers
//!               │ freeze                ▲
//!               ▼                       │ written
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
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    base::Base,
    checkpoint::{Frozen, Writer},
    memtable::Memtable,
    meta::Cut,
    tables::Tables,
};
use crate::{
    command::{Alarm, Member, Revision},
    fault::Fault,
    limits::MEMTABLES_FROZEN_MAX,
    machine::{Quota, State, size::Sizes},
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
}

impl Facts {
    pub(super) fn of(state: &State) -> Self {
        Self {
            alarms: state.alarms.iter().copied().collect(),
            members: state.members.values().cloned().collect(),
            quota: state.quota,
        }
    }

    fn is_of(&self, state: &State) -> bool {
        self.quota == state.quota
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
    pub(super) facts: Arc<Facts>,
}

/// The machine's state, and the log position it is at.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) applied: Option<u64>,
    pub(super) raft: Bytes,
    /// Something was applied since the last freeze.
    pub(super) dirty: bool,
}

#[derive(Default)]
struct Queue {
    /// Oldest first.
    frozen: VecDeque<Arc<Frozen>>,
    /// Write out what there is, without waiting for it to be large or old.
    force: bool,
    stop: bool,
    failed: Option<Fault>,
}

enum Job {
    Write(Arc<Frozen>),
    Compact,
    Freeze,
    Stop,
}

pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) current: RwLock<Current>,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    pub(super) durable: watch::Sender<Durable>,
    pub(super) fault: watch::Sender<Option<Fault>>,
    file_bytes: Arc<AtomicU64>,
    memtable_bytes: usize,
    memtable_age: Duration,
}

const HELD: &str = "no holder of the lock panics";

impl Shared {
    pub(super) fn new(
        core: Core,
        current: Current,
        durable: Durable,
        file_bytes: Arc<AtomicU64>,
        memtable_bytes: usize,
        memtable_age: Duration,
    ) -> Self {
        Self {
            core: Mutex::new(core),
            current: RwLock::new(current),
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            durable: watch::Sender::new(durable),
            fault: watch::Sender::new(None),
            file_bytes,
            memtable_bytes,
            memtable_age,
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect(HELD)
    }

    pub(super) fn current(&self) -> Current {
        self.current.read().expect(HELD).clone()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Relaxed)
    }

    /// Shows readers what has been applied.
    pub(super) fn publish(&self, core: &Core) {
        let mut current = self.current.write().expect(HELD);
        current.revision = core.state.revision;
        current.compacted = core.state.compacted;
        current.sizes = core.state.sizes;
        if !current.facts.is_of(&core.state) {
            current.facts = Arc::new(Facts::of(&core.state));
        }
    }

    /// Before applying: if the active memtable is full, waits for a place among the frozen ones and
    /// freezes it.
    pub(super) fn make_room(&self) -> Result<(), Fault> {
        let full = self.current().tables.active.bytes() >= self.memtable_bytes;
        let mut queue = self.queue.lock().expect(HELD);
        while full && queue.frozen.len() >= MEMTABLES_FROZEN_MAX && queue.failed.is_none() {
            queue = self.queue_changed.wait(queue).expect(HELD);
        }
        if let Some(fault) = &queue.failed {
            return Err(fault.clone());
        }
        drop(queue);
        if full {
            self.freeze();
        }
        Ok(())
    }

    /// Turns the active memtable into a frozen one, if anything was applied since the last time.
    fn freeze(&self) {
        let mut core = self.core();
        if !core.dirty {
            return;
        }
        core.dirty = false;
        let cut = Cut {
            applied: core.applied,
            raft: core.raft.clone(),
            revision: core.state.revision,
            compacted: core.state.compacted,
            sizes: core.state.sizes,
            quota: core.state.quota,
            touched: core.state.leases.take_touched(),
            alarms: core.state.alarms.clone(),
            members: core.state.members.values().cloned().collect(),
        };
        let table = {
            let mut current = self.current.write().expect(HELD);
            let tables = &current.tables;
            let table = tables.active.clone();
            current.tables = Arc::new(Tables {
                active: Arc::new(Memtable::default()),
                frozen: std::iter::once(&table).chain(&tables.frozen).cloned().collect(),
                base: tables.base.clone(),
                recent: tables.recent.clone(),
            });
            table
        };
        let mut queue = self.queue.lock().expect(HELD);
        queue.frozen.push_back(Arc::new(Frozen { table, cut }));
        self.queue_changed.notify_all();
    }

    /// After a memtable was written: reads go to the database instead.
    fn written(&self, frozen: &Arc<Frozen>, base: Arc<Base>) {
        {
            let mut current = self.current.write().expect(HELD);
            let tables = &current.tables;
            let (oldest, newer) = tables.frozen.split_last().expect("what was written is frozen");
            assert!(Arc::ptr_eq(oldest, &frozen.table), "memtables are written in order");
            let recent = if oldest.log.first().is_some() { &oldest.log } else { &tables.recent };
            current.tables = Arc::new(Tables {
                active: tables.active.clone(),
                frozen: newer.to_vec(),
                base,
                recent: recent.clone(),
            });
        }
        let mut queue = self.queue.lock().expect(HELD);
        queue.frozen.pop_front();
        self.queue_changed.notify_all();
    }

    fn rebase(&self, base: Arc<Base>) {
        let mut current = self.current.write().expect(HELD);
        let Tables { active, frozen, recent, .. } = &*current.tables;
        current.tables = Arc::new(Tables {
            active: active.clone(),
            frozen: frozen.clone(),
            base,
            recent: recent.clone(),
        });
    }

    /// Asks the checkpoint thread to write out what has been applied.
    pub(super) fn force(&self) {
        self.queue.lock().expect(HELD).force = true;
        self.queue_changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.queue.lock().expect(HELD).stop = true;
        self.queue_changed.notify_all();
    }

    /// Waits until an entry is on disk, or never will be.
    pub(super) fn wait_for_durable(&self, index: Option<u64>) -> Result<(), Fault> {
        let mut queue = self.queue.lock().expect(HELD);
        while self.durable.borrow().index < index {
            if let Some(fault) = &queue.failed {
                return Err(fault.clone());
            }
            queue = self.queue_changed.wait(queue).expect(HELD);
        }
        Ok(())
    }

    pub(super) fn frozen(&self) -> usize {
        self.queue.lock().expect(HELD).frozen.len()
    }

    /// The checkpoint thread.
    pub(super) fn run(&self, mut writer: Writer) {
        loop {
            let done = match self.next_job(writer.compaction_is_due()) {
                Job::Write(frozen) => {
                    writer.checkpoint(&frozen).map(|base| self.written(&frozen, base))
                }
                Job::Compact => writer.compact().map(|base| self.rebase(base)),
                Job::Freeze => {
                    self.freeze();
                    continue;
                }
                Job::Stop => return,
            };
            if let Err(fault) = done {
                self.fault.send_replace(Some(fault.clone()));
                self.queue.lock().expect(HELD).failed = Some(fault);
                self.queue_changed.notify_all();
                return;
            }
            self.durable.send_replace(Durable {
                index: writer.last.applied,
                raft: writer.last.raft.clone(),
                revision: writer.last.revision,
                compacted: writer.progress.done,
            });
            // Taken and let go, so that nobody can look at the old news and then sleep.
            drop(self.queue.lock().expect(HELD));
            self.queue_changed.notify_all();
        }
    }

    fn next_job(&self, compaction_is_due: bool) -> Job {
        let mut queue = self.queue.lock().expect(HELD);
        loop {
            if queue.stop {
                return Job::Stop;
            }
            if let Some(oldest) = queue.frozen.front() {
                return Job::Write(oldest.clone());
            }
            if std::mem::take(&mut queue.force) {
                return Job::Freeze;
            }
            if compaction_is_due {
                return Job::Compact;
            }
            let waited = self.queue_changed.wait_timeout(queue, self.memtable_age).expect(HELD);
            queue = waited.0;
            if waited.1.timed_out() {
                return Job::Freeze;
            }
        }
    }
}
