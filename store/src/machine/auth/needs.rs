//! What a request needs: the normalised request.
//!
//! However a request is put (alone, as a step of a transaction, in the branch that will not be
//! taken, nested), it comes down to keys read, keys written, and leases touched. [`Needs::each`]
//! names them one by one, in etcd's order, and the first that is not permitted refuses the whole
//! request before anything is done.
//!
//! Three things are easily forgotten, and each has been a hole in etcd:
//! - a condition of a transaction reads: its outcome tells what a key holds;
//! - `prev_kv` reads what a put or a delete replaces;
//! - a key attached to a lease dies with it, and whoever may write all keys of a lease may revoke
//!   it. So attaching needs the right to write all keys that are attached already.

use bytes::Bytes;

use crate::command::{Command, DeleteRange, KeyRange, LeaseId, Op, Put, RangeQuery, Txn};

/// What is to be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
}

/// One thing that a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// To have logged in, as anybody.
    Login,
    /// The role `root`.
    Root,
    /// To be this user, or root.
    User(&'a str),
    /// To have this role, or root.
    Role(&'a str),
    /// Access to one key.
    Key(Act, &'a Bytes),
    /// Access to all keys of a range.
    Keys(Act, &'a KeyRange),
    /// Access to all keys attached to a lease; nothing if there is no such lease.
    Lease(Act, LeaseId),
}

/// What takes the needs of a request one by one; the first refusal ends it.
pub type Visit<'v, 'a, R> = &'v mut dyn FnMut(Need<'a>) -> Result<(), R>;

/// A request whose needs are known.
pub trait Needs {
    /// Names the needs to `visit` until it refuses one.
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R>;
}

impl Needs for Need<'_> {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        visit(*self)
    }
}

impl Needs for RangeQuery {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        visit(Need::Keys(Act::Read, &self.range))
    }
}

impl Needs for Put {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        visit(Need::Key(Act::Write, &self.key))?;
        if self.lease != LeaseId::NONE {
            visit(Need::Lease(Act::Write, self.lease))?;
        }
        if self.prev_kv {
            visit(Need::Key(Act::Read, &self.key))?;
        }
        Ok(())
    }
}

impl Needs for DeleteRange {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        visit(Need::Keys(Act::Write, &self.range))?;
        if self.prev_kv {
            visit(Need::Keys(Act::Read, &self.range))?;
        }
        Ok(())
    }
}

impl Needs for Txn {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        for compare in &self.compares {
            visit(Need::Keys(Act::Read, &compare.range))?;
        }
        self.success.iter().chain(&self.failure).try_for_each(|op| op.each(visit))
    }
}

impl Needs for Op {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        match self {
            Self::Range(query) => query.each(visit),
            Self::Put(put) => put.each(visit),
            Self::Delete(delete) => delete.each(visit),
            Self::Txn(txn) => txn.each(visit),
        }
    }
}

impl Needs for Command {
    fn each<'a, R>(&'a self, visit: Visit<'_, 'a, R>) -> Result<(), R> {
        match self {
            Self::Put(put) => put.each(visit),
            Self::Delete(delete) => delete.each(visit),
            Self::Txn(txn) => txn.each(visit),
            Self::LeaseGrant { .. } => visit(Need::Login),
            Self::LeaseRevoke(id) => {
                visit(Need::Login)?;
                visit(Need::Lease(Act::Write, *id))
            }
            Self::Compact(_) | Self::RaiseAlarm(_) | Self::ClearAlarm(_) | Self::Auth(_) => {
                visit(Need::Root)
            }
            // Only the store itself makes these; no request comes down to them.
            Self::LeaseCheckpoint(_) | Self::MemberAttributes(_) | Self::Quota { .. } => Ok(()),
            Self::Sent { command, .. } => command.each(visit),
        }
    }
}
