//! The engine as Raft's state machine.
//!
//! Beside applying, it tells someone else what was applied: the watch hub, which must learn of a
//! change before the one who made it is answered, so that a client that waits for its own write on
//! a watch never outruns it.

use super::machine::{Checkpoint, Checkpoints, Failure, StateMachine};
use crate::command::{Command, Outcome};
use crate::engine::{Applied, Durable, Engine, Reader};
use crate::fault::Fault;
use bytes::Bytes;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// An engine, and a function that is called for every entry right after it is applied, with the
/// time that took. It may take the events; the outcomes belong to the callers.
pub struct Applier<F> {
    engine: Engine,
    /// Only ever reached through `&mut`; the mutex makes it shareable in name.
    on_applied: Mutex<F>,
}

impl<F: FnMut(&[Command], &mut Applied, Duration) + Send + 'static> Applier<F> {
    pub fn new(engine: Engine, on_applied: F) -> Self {
        Self { engine, on_applied: Mutex::new(on_applied) }
    }
}

impl<F: FnMut(&[Command], &mut Applied, Duration) + Send + 'static> StateMachine for Applier<F> {
    type Checkpoints = EngineCheckpoints;

    fn applied(&self) -> Option<Checkpoint> {
        let (index, raft_state) = self.engine.applied();
        index.map(|index| Checkpoint { index, raft_state })
    }

    fn apply(
        &mut self,
        index: u64,
        raft_state: Option<Bytes>,
        commands: &[Command],
    ) -> Result<Vec<Outcome>, Failure> {
        let begun = Instant::now();
        let mut applied = self.engine.apply(index, raft_state, commands)?;
        let took = begun.elapsed();
        let on_applied = self.on_applied.get_mut().unwrap_or_else(PoisonError::into_inner);
        on_applied(commands, &mut applied, took);
        Ok(applied.outcomes)
    }

    fn checkpoints(&self) -> EngineCheckpoints {
        let reader = self.engine.reader();
        let durable = reader.durable();
        let seen = durable.borrow().index;
        EngineCheckpoints { seen, durable, fault: reader.fault(), reader }
    }
}

/// The engine's checkpoints.
#[derive(Clone)]
pub struct EngineCheckpoints {
    reader: Reader,
    /// The last one that `next` returned for.
    seen: Option<u64>,
    durable: watch::Receiver<Durable>,
    fault: watch::Receiver<Option<Fault>>,
}

impl EngineCheckpoints {
    /// Waits for a durable checkpoint that `enough` accepts.
    async fn wait(&mut self, enough: impl Fn(&Durable) -> bool) -> Result<(), Failure> {
        tokio::select! {
            reached = self.durable.wait_for(enough) => Ok(reached.map(drop)?),
            fault = self.fault.wait_for(Option::is_some) => {
                Err(fault?.clone().expect("was waited for").into())
            }
        }
    }
}

impl Checkpoints for EngineCheckpoints {
    fn durable(&self) -> Option<Checkpoint> {
        let durable = self.durable.borrow();
        durable.index.map(|index| Checkpoint { index, raft_state: durable.raft.clone() })
    }

    async fn next(&mut self) -> Result<(), Failure> {
        let seen = self.seen;
        self.wait(|durable| durable.index > seen).await?;
        self.seen = self.durable.borrow().index;
        Ok(())
    }

    async fn force(&self) -> Result<(), Failure> {
        let wanted = self.reader.request_checkpoint();
        self.clone().wait(|durable| durable.index >= wanted).await
    }
}
