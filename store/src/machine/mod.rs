//! The state machine: what a committed command does.
//!
//! Pure and deterministic. The same commands in the same order give the same state, the same
//! answers and the same refusals on every member and after every restart. There is no clock, no
//! randomness, no I/O and no unordered iteration in this folder. Versions of keys live behind
//! [`rows::RowsMut`]; everything else that commands change is small and lives in [`State`].
//!
//! ```text
//! command ──▶ allowed? ──▶ draft of the next revision ──▶ commit: revision, sizes, leases, alarm
//!                │              │
//!                ▼              ▼ refused: versions taken back
//!             refusal        refusal
//! ```
//!
//! A command that changes keys takes the next revision; one that changes none (a delete of nothing,
//! a transaction that only read) takes no revision, and neither do leases, alarms and compaction
//! marks.

pub mod auth;
pub mod digest;
mod draft;
pub mod lease;
pub mod links;
pub mod range;
pub mod rows;
pub mod size;
mod txn;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    auth::{Auth, needs::Needs as _},
    draft::Draft,
    lease::Leases,
    rows::RowsMut,
    size::Sizes,
    size::Trace,
};
use crate::{
    command::{
        Alarm, AlarmKind, Command, DeleteRange, KeyRange, LeaseId, Member, MemberId, Outcome,
        Refusal, Response, Revised, Revision, Sender, Txn, TxnAnswer,
    },
    fault::{Error, Fault},
    limits::LEASE_BYTES_OVERHEAD,
};

/// The bytes the store may hold, and the member whose flag says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Zero is no bound.
    pub bytes: u64,
    pub member: MemberId,
}

/// All that commands change, but for the versions of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub revision: Revision,
    /// The oldest revision that can be read; −1 before the first compaction, as etcd reports it.
    pub compacted: Revision,
    pub sizes: Sizes,
    pub quota: Quota,
    pub alarms: BTreeSet<Alarm>,
    pub members: BTreeMap<MemberId, Member>,
    pub leases: Leases,
    /// Shared with readers, copied when it changes.
    pub auth: Arc<Auth>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: Revision::FIRST,
            compacted: Revision(-1),
            sizes: Sizes::default(),
            quota: Quota::default(),
            alarms: BTreeSet::new(),
            members: BTreeMap::new(),
            leases: Leases::default(),
            auth: Arc::default(),
        }
    }
}

/// What applying a command gave.
pub struct Applied {
    pub outcome: Outcome,
    /// The changes, if it made a revision, with one trace for each.
    pub revised: Option<(Arc<Revised>, Vec<Trace>)>,
}

/// Applies one committed command.
pub fn apply(state: &mut State, rows: &impl RowsMut, command: &Command) -> Result<Applied, Fault> {
    let (by, command) = command.parts();
    let allowed = state
        .allow(command)
        .and_then(|()| state.authorise(by, command))
        .and_then(|()| state.claim_space(command));
    let run = allowed.map_err(Error::from).and_then(|()| run(state, rows, command));
    let (result, revised) = match run {
        Ok((response, revised)) => (Ok(response), revised),
        Err(Error::Refused(refusal)) => (Err(refusal), None),
        Err(Error::Failed(fault)) => return Err(fault),
    };
    Ok(Applied { outcome: Outcome { revision: state.revision, result }, revised })
}

/// Answers a transaction that only asks, outside the log.
pub fn ask(
    rows: &impl rows::Rows,
    compacted: Revision,
    current: Revision,
    txn: &Txn,
) -> Result<TxnAnswer, Error> {
    txn::ask(rows, compacted, current, txn)
}

type Run = (Response, Option<(Arc<Revised>, Vec<Trace>)>);

fn run(state: &mut State, rows: &impl RowsMut, command: &Command) -> Result<Run, Error> {
    let response = match command {
        Command::Put(put) => {
            return state.revise(rows, |draft| draft.put(put).map(Response::Put));
        }
        Command::Delete(delete) => {
            return state.revise(rows, |draft| draft.delete(delete).map(Response::Delete));
        }
        Command::Txn(txn) => {
            return state.revise(rows, |draft| txn::run(draft, txn).map(Response::Txn));
        }
        Command::LeaseRevoke(id) => return state.revoke(rows, *id),
        Command::Compact(revision) => state.compact(rows, *revision)?,
        Command::LeaseGrant { id, ttl } => {
            state.leases.grant(*id, *ttl)?;
            Response::LeaseGrant { id: *id, ttl: *ttl }
        }
        Command::LeaseCheckpoint(remaining) => {
            remaining.iter().for_each(|(id, seconds)| state.leases.checkpoint(*id, *seconds));
            Response::LeaseCheckpoint
        }
        Command::RaiseAlarm(alarm) => {
            let raised = state.alarms.insert(*alarm);
            Response::Alarms(raised.then_some(*alarm).into_iter().collect())
        }
        Command::ClearAlarm(alarm) => {
            let cleared = state.alarms.remove(alarm);
            Response::Alarms(cleared.then_some(*alarm).into_iter().collect())
        }
        Command::MemberAttributes(member) => {
            state.members.insert(member.id, member.clone());
            Response::MemberAttributes
        }
        Command::Quota { bytes, member } => {
            state.quota = Quota { bytes: *bytes, member: *member };
            Response::Quota
        }
        Command::Auth(op) => {
            Arc::make_mut(&mut state.auth).change(op).map_err(Refusal::from)?;
            Response::Auth
        }
        Command::Sent { .. } => unreachable!("taken apart, and not nested"),
    };
    Ok((response, None))
}

/// Space that a command may take, at most; what only frees some takes none.
fn space(command: &Command) -> u64 {
    match command {
        Command::Put(put) => size::cost(&put.key, &put.value),
        Command::Txn(txn) => txn::space(txn),
        Command::LeaseGrant { .. } => LEASE_BYTES_OVERHEAD,
        Command::Delete(_)
        | Command::Compact(_)
        | Command::LeaseRevoke(_)
        | Command::LeaseCheckpoint(_)
        | Command::RaiseAlarm(_)
        | Command::ClearAlarm(_)
        | Command::MemberAttributes(_)
        | Command::Quota { .. }
        | Command::Auth(_) => 0,
        Command::Sent { command, .. } => space(command),
    }
}

impl State {
    /// Under an alarm some commands are refused whatever they hold: without space those that could
    /// take more, with corrupt members all that change data.
    fn allow(&self, command: &Command) -> Result<(), Refusal> {
        let changes_data = match command {
            Command::Put(_)
            | Command::LeaseGrant { .. }
            | Command::Txn(_)
            | Command::Delete(_)
            | Command::Compact(_)
            | Command::LeaseRevoke(_) => true,
            Command::LeaseCheckpoint(_)
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::MemberAttributes(_)
            | Command::Quota { .. }
            | Command::Auth(_) => false,
            Command::Sent { command, .. } => return self.allow(command),
        };
        if changes_data && self.has_alarm(AlarmKind::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        if space(command) > 0 && self.has_alarm(AlarmKind::NoSpace) {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    /// Refuses what the quota has no room for, and raises the alarm: from then on operators know, and
    /// smaller writes do not slip in.
    fn claim_space(&mut self, command: &Command) -> Result<(), Refusal> {
        let cost = space(command);
        let quota = self.quota;
        if cost == 0 || quota.bytes == 0 || self.sizes.retained() + cost < quota.bytes {
            return Ok(());
        }
        self.alarms.insert(Alarm { member: quota.member, kind: AlarmKind::NoSpace });
        Err(Refusal::NoSpace)
    }

    /// The sender must be permitted what the command needs, as things are now: he was when it was
    /// proposed, but commands before this one may have changed that.
    fn authorise(&self, by: Option<&Sender>, command: &Command) -> Result<(), Refusal> {
        if !self.auth.enabled() {
            return Ok(());
        }
        Ok(command.each(&mut |need| self.auth.permits(by, need, &self.leases))?)
    }

    fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Makes a revision of what `steps` do, or nothing if they are refused.
    fn revise<R: RowsMut>(
        &mut self,
        rows: &R,
        steps: impl FnOnce(&mut Draft<'_, R>) -> Result<Response, Error>,
    ) -> Result<Run, Error> {
        let mut draft = Draft {
            rows,
            leases: &self.leases,
            compacted: self.compacted,
            base: self.revision,
            changes: Vec::new(),
        };
        match steps(&mut draft) {
            Ok(response) => {
                let changes = draft.changes;
                Ok((response, self.commit(changes)))
            }
            Err(error) => {
                draft.undo();
                Err(error)
            }
        }
    }

    fn commit(&mut self, changes: Vec<draft::Change>) -> Option<(Arc<Revised>, Vec<Trace>)> {
        if changes.is_empty() {
            return None;
        }
        self.revision = self.revision.next();
        self.sizes.next_revision();
        let mut traces = Vec::with_capacity(changes.len());
        let mut events = Vec::with_capacity(changes.len());
        for draft::Change { event, meta } in changes {
            assert_eq!(meta.at.main, self.revision, "a change belongs to the revision being made");
            let replaced = event.prev.as_ref().map(|prev| size::cost(&prev.key, &prev.value));
            let new = size::cost(&event.kv.key, &event.kv.value);
            self.sizes.change(new, replaced, meta.is_tombstone());
            let lease = event.prev.as_ref().map_or(LeaseId::NONE, |prev| prev.lease);
            self.leases.move_key(&event.kv.key, lease, event.kv.lease);
            traces.push(Trace { links: meta.links, dead: self.sizes.dead });
            events.push(event);
        }
        Some((Arc::new(Revised { revision: self.revision, events }), traces))
    }

    /// Deletes the keys of a lease in one revision, in key order, and then the lease.
    fn revoke(&mut self, rows: &impl RowsMut, id: LeaseId) -> Result<Run, Error> {
        let lease = self.leases.get(id).ok_or(Refusal::LeaseNotFound)?;
        let keys: Vec<_> = lease.keys.iter().cloned().collect();
        let run = self.revise(rows, |draft| {
            for key in keys {
                draft.delete(&DeleteRange { range: KeyRange::Key(key), prev_kv: false })?;
            }
            Ok(Response::LeaseRevoke)
        })?;
        self.leases.remove(id);
        Ok(run)
    }

    /// Marks history before a revision as forgotten. The rows go later, in the background.
    fn compact(&mut self, rows: &impl RowsMut, upto: Revision) -> Result<Response, Error> {
        if upto <= self.compacted {
            return Err(Refusal::Compacted { compacted: self.compacted }.into());
        }
        if upto > self.revision {
            return Err(Refusal::FutureRevision { current: self.revision }.into());
        }
        if let Some(dead) = rows.dead(upto)? {
            self.sizes.freed = dead;
        }
        self.compacted = upto;
        Ok(Response::Compact)
    }
}
