//! What the replicated log is made of, in openraft's terms, and how it is written.
//!
//! An entry carries one [`Batch`]: all commands that waited when it was made. A batch is encoded
//! once, where it is proposed, and never decoded on the member that proposed it: the commands
//! themselves travel along in memory. What comes from the disk, or one day from a peer, has only
//! the bytes and is decoded when it is applied.
//!
//! Terms name leaders (`leader_id_std`): etcd's clients assume one leader per term.

use crate::command::{Command, Outcome, decode};
use crate::wal;
use bytes::{Buf, BufMut, Bytes};
use openraft::alias::{LogIdOf, StoredMembershipOf, VoteOf};
use openraft::vote::{RaftLeaderId, leader_id_std::CommittedLeaderId};
use openraft::{EntryPayload, Membership, RaftTypeConfig, impls};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The types openraft works with; they do not leave this folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Batch;
    type R = Vec<Outcome>;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Batch, u64, Peer>;
    type Entry = impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = impls::TokioRuntime;
    type Responder<T>
        = Answer<T>
    where
        T: Send + 'static;
    type Batch<T>
        = impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = impls::BoxedErrorSource;
}

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;

/// Where a member is reached by its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub urls: Vec<String>,
}

/// The commands of one entry.
#[derive(Clone)]
pub(crate) struct Batch {
    /// As `command::encode` wrote them.
    pub(crate) encoded: Bytes,
    /// The same, where they are at hand.
    pub(crate) commands: Option<Arc<Vec<Command>>>,
}

impl Batch {
    /// The commands, decoded if need be.
    pub(crate) fn commands(&self) -> Result<Arc<Vec<Command>>, crate::command::DecodeError> {
        match &self.commands {
            Some(commands) => Ok(commands.clone()),
            None => decode(self.encoded.clone()).map(Arc::new),
        }
    }
}

// Commands hold users' data, so neither form shows them.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.encoded.len())
    }
}

/// A function that openraft calls with the result of a proposal.
pub(crate) struct Answer<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> openraft::raft::responder::Responder<Types, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// Tags of entry bodies in the log. They are on disk: never renumber.
const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(crate) fn log_id(id: wal::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term), id.index)
}

pub(crate) fn wal_id(id: &LogId) -> wal::LogId {
    wal::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn vote(vote: wal::Vote) -> Vote {
    let wal::Vote { term, node, committed } = vote;
    if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) }
}

pub(crate) fn wal_vote(vote: &Vote) -> wal::Vote {
    let leader = vote.leader_id;
    wal::Vote { term: leader.term, node: leader.voted_for, committed: vote.committed }
}

/// An entry as the log keeps it.
pub(crate) fn to_wal(entry: &Entry) -> wal::Entry {
    let (tag, body) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (COMMANDS, batch.encoded.clone()),
        EntryPayload::Membership(membership) => {
            let mut body = Vec::new();
            put_membership(&mut body, membership);
            (MEMBERSHIP, body.into())
        }
    };
    wal::Entry { id: wal_id(&entry.log_id), tag, body }
}

/// An entry as the log kept it; the commands stay encoded.
pub(crate) fn from_wal(entry: wal::Entry) -> Result<Entry, Malformed> {
    let payload = match entry.tag {
        BLANK => EntryPayload::Blank,
        COMMANDS => EntryPayload::Normal(Batch { encoded: entry.body, commands: None }),
        MEMBERSHIP => {
            let mut body = entry.body;
            EntryPayload::Membership(get_membership(&mut body)?)
        }
        _ => return Err(Malformed),
    };
    Ok(Entry { log_id: log_id(entry.id), payload })
}

/// Bytes that are no membership, or an entry of an unknown kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of the replicated log is malformed")]
pub(crate) struct Malformed;

/// What Raft must know about the applied state beyond its index. The state machine keeps it as
/// opaque bytes, in the same transaction as the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedState {
    /// Term of the last applied entry.
    pub(crate) term: u64,
    pub(crate) membership: StoredMembership,
}

const STATE_VERSION: u8 = 1;

impl AppliedState {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![STATE_VERSION];
        out.put_u64_le(self.term);
        match self.membership.log_id() {
            None => out.put_u8(0),
            Some(id) => {
                out.put_u8(1);
                out.put_u64_le(id.leader_id.term);
                out.put_u64_le(id.index);
            }
        }
        put_membership(&mut out, self.membership.membership());
        out.into()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.try_get_u8().map_err(|_| Malformed)? != STATE_VERSION {
            return Err(Malformed);
        }
        let long = |bytes: &mut Bytes| bytes.try_get_u64_le().map_err(|_| Malformed);
        let term = long(&mut bytes)?;
        let id = match bytes.try_get_u8().map_err(|_| Malformed)? {
            0 => None,
            1 => {
                let term = long(&mut bytes)?;
                Some(log_id(wal::LogId { term, index: long(&mut bytes)? }))
            }
            _ => return Err(Malformed),
        };
        let membership = StoredMembership::new(id, get_membership(&mut bytes)?);
        if bytes.is_empty() { Ok(Self { term, membership }) } else { Err(Malformed) }
    }
}

/// Counts and ids in order: voters of each configuration, then every node with its URLs.
fn put_membership(out: &mut Vec<u8>, membership: &Membership<u64, Peer>) {
    let count = |length: usize| u32::try_from(length).expect("a cluster has few members");
    let configs = membership.get_joint_config();
    out.put_u32_le(count(configs.len()));
    for voters in configs {
        out.put_u32_le(count(voters.len()));
        voters.iter().for_each(|id| out.put_u64_le(*id));
    }
    out.put_u32_le(count(membership.nodes().count()));
    for (id, peer) in membership.nodes() {
        out.put_u64_le(*id);
        out.put_u32_le(count(peer.urls.len()));
        for url in &peer.urls {
            out.put_u32_le(count(url.len()));
            out.put_slice(url.as_bytes());
        }
    }
}

fn get_membership(bytes: &mut Bytes) -> Result<Membership<u64, Peer>, Malformed> {
    let count = |bytes: &mut Bytes| bytes.try_get_u32_le().map_err(|_| Malformed);
    let id = |bytes: &mut Bytes| bytes.try_get_u64_le().map_err(|_| Malformed);
    // Nothing is reserved for a count: each item takes bytes that must be there.
    let mut configs = Vec::new();
    for _ in 0..count(bytes)? {
        let mut voters = BTreeSet::new();
        for _ in 0..count(bytes)? {
            voters.insert(id(bytes)?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..count(bytes)? {
        let (node, mut urls) = (id(bytes)?, Vec::new());
        for _ in 0..count(bytes)? {
            let length = count(bytes)? as usize;
            if length > bytes.len() {
                return Err(Malformed);
            }
            let url = bytes.split_to(length);
            urls.push(str::from_utf8(&url).map_err(|_| Malformed)?.to_owned());
        }
        nodes.insert(node, Peer { urls });
    }
    Membership::new(configs, nodes).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership<u64, Peer> {
        let peer = |url: &str| Peer { urls: vec![url.to_owned()] };
        let nodes =
            BTreeMap::from([(1, peer("http://a:2380")), (2, peer("")), (9, Peer::default())]);
        Membership::new(vec![BTreeSet::from([1, 2])], nodes).expect("well-formed")
    }

    #[test]
    fn entries_survive_the_log() {
        let id = log_id(wal::LogId { term: 3, index: 7 });
        for payload in [EntryPayload::Blank, EntryPayload::Membership(membership())] {
            let entry = Entry { log_id: id, payload };
            assert_eq!(
                from_wal(to_wal(&entry)).expect("own bytes").payload.type_str(),
                entry.payload.type_str()
            );
            assert_eq!(to_wal(&from_wal(to_wal(&entry)).expect("own bytes")), to_wal(&entry));
        }
        let unknown = wal::Entry { id: wal_id(&id), tag: 9, body: Bytes::new() };
        assert_eq!(from_wal(unknown).err(), Some(Malformed));
    }

    #[test]
    fn applied_state_survives_and_every_cut_is_refused() {
        let id = log_id(wal::LogId { term: 3, index: 7 });
        let state =
            AppliedState { term: 4, membership: StoredMembership::new(Some(id), membership()) };
        let bytes = state.encode();
        assert_eq!(AppliedState::decode(bytes.clone()), Ok(state));
        for length in 0..bytes.len() {
            assert_eq!(AppliedState::decode(bytes.slice(..length)), Err(Malformed), "{length}");
        }
        let empty = AppliedState::default();
        assert_eq!(AppliedState::decode(empty.encode()), Ok(empty));
    }
}
