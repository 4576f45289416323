//! Raft's part of a stored state, in words that the rest of the store understands: who the members
//! are, for copies of the store, and how to make that part for a copy's first start.

use super::types::AppliedState;
use crate::fault::Fault;
use bytes::Bytes;

/// What the engine keeps for Raft, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Of the last applied entry.
    pub term: u64,
    pub members: Vec<DescribedMember>,
}

/// A member of the cluster, as of the last applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    pub id: u64,
    pub urls: Vec<String>,
    pub is_voter: bool,
}

/// Reads what the engine keeps for Raft. Nothing was kept before the first entry.
pub fn describe(kept: Bytes) -> Result<Described, Fault> {
    if kept.is_empty() {
        return Ok(Described::default());
    }
    let state = AppliedState::decode(kept)
        .map_err(|error| Fault::Damaged(format!("the consensus state: {error}")))?;
    let membership = state.membership.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let members = membership.nodes().map(|(id, peer)| DescribedMember {
        id: *id,
        urls: peer.urls.clone(),
        is_voter: voters.contains(id),
    });
    Ok(Described { term: state.term, members: members.collect() })
}
