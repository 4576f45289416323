//! The language of the log.
//!
//! Every change of the store is a [`Command`], agreed on by raft, written to the log in the
//! encoding of [`encode`], and applied by `machine` in log order. A command holds all that applying
//! it needs: whatever depends on a clock, on randomness, on a flag of one member or on the
//! request's sender has been decided by the proposer, so that applying the same log gives the same
//! bytes everywhere.
//!
//! The words used here are those of the whole crate. `rpc/convert.rs` translates protobuf into
//! them; nothing else knows the wire. Questions ([`RangeQuery`]) live here too, because a
//! transaction holds questions beside changes.
//!
//! A command that cannot be carried out is *refused* ([`Refusal`]): the refusal is as much a part
//! of the deterministic result as an answer is. Texts and status codes for refusals are chosen in
//! `rpc/status.rs` only.

mod auth;
mod codec;

use bytes::Bytes;

pub use auth::{Access, AuthOp, AuthRefusal, Login, PasswordHash, Permission, ROOT, Sender, User};
pub use codec::{DecodeError, decode, decode_role, decode_user, encode, encode_role, encode_user};

/// A point in the history of the whole store. The empty store is at revision 1; each command that
/// changes a key takes the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of a store that has never been written.
    pub const FIRST: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease; zero means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// What a key without a lease carries.
    pub const NONE: Self = Self(0);
}

/// Names a member of the cluster; equal to its raft node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// One version of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// When this generation of the key began.
    pub create: Revision,
    /// When this version was written.
    pub modified: Revision,
    /// Counts the writes of this generation from 1; a tombstone has 0.
    pub version: i64,
    pub lease: LeaseId,
}

/// Which keys an operation is about, after etcd's rule for `key` and `range_end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// From the first key (included) to the second (excluded); empty when they are not ascending.
    Span(Bytes, Bytes),
    /// The key and everything after it.
    From(Bytes),
}

impl KeyRange {
    /// Reads the pair as the wire means it: no end is a single key, an end of one zero byte is
    /// open. A start of one zero byte is the smallest possible key, so with an open end the range
    /// is everything.
    #[must_use]
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        match &range_end[..] {
            [] => Self::Key(key),
            [0] => Self::From(key),
            _ => Self::Span(key, range_end),
        }
    }

    /// Everything there is.
    #[must_use]
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// The smallest key the range may hold.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) | Self::Span(key, _) | Self::From(key) => key,
        }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Span(start, end) => start <= key && key < &end[..],
            Self::From(start) => start <= key,
        }
    }

    /// True for a range that no key can be in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span(start, end) if end <= start)
    }
}

/// The order in which a range answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// What a range is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Modified,
    Value,
}

/// A question about a range of keys: every option of etcd's `RangeRequest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    pub range: KeyRange,
    /// Zero or less asks for the newest state.
    pub revision: Revision,
    /// The largest number of rows to return; zero or less is no limit.
    pub limit: i64,
    pub order: SortOrder,
    pub target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    /// May be answered from local state without asking the others. Means nothing to `machine`.
    pub serializable: bool,
    /// Bounds are inclusive; zero is no bound.
    pub min_modified: Revision,
    pub max_modified: Revision,
    pub min_create: Revision,
    pub max_create: Revision,
}

impl RangeQuery {
    /// Asks for all of a range, newest state, by key.
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: Revision(0),
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            serializable: false,
            min_modified: Revision(0),
            max_modified: Revision(0),
            min_create: Revision(0),
            max_create: Revision(0),
        }
    }

    /// True when rows are to be chosen by their revisions.
    #[must_use]
    pub fn has_filters(&self) -> bool {
        [self.min_modified, self.max_modified, self.min_create, self.max_create]
            .iter()
            .any(|bound| bound.0 != 0)
    }
}

/// Writes one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    /// The lease to attach; none detaches the key from the one it had.
    pub lease: LeaseId,
    /// Answer with the version that was replaced.
    pub prev_kv: bool,
    /// Keep the present value, which must exist.
    pub ignore_value: bool,
    /// Keep the present lease; the key must exist.
    pub ignore_lease: bool,
}

/// Deletes all keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    pub range: KeyRange,
    /// Answer with the versions that were deleted.
    pub prev_kv: bool,
}

/// The side of a comparison that is given, which also says what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(Revision),
    Modified(Revision),
    Lease(LeaseId),
    Value(Bytes),
}

/// How what is stored must relate to what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// A condition of a transaction; on a range, every key must meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub target: CompareTarget,
    pub result: CompareResult,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Range(RangeQuery),
    Put(Put),
    Delete(DeleteRange),
    Txn(Txn),
}

/// If all compares hold, the `success` steps, else the `failure` steps; all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl Txn {
    /// True when no step can change anything, so that the transaction need not be replicated. As
    /// in etcd a nested transaction counts as a change, whatever is in it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }
}

/// What is wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

/// A standing alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub member: MemberId,
    pub kind: AlarmKind,
}

/// What a member tells the others about itself. Its peer URLs and its vote are raft's membership,
/// which is kept there alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub client_urls: Vec<String>,
}

/// One entry of the log holds any number of these; each takes its own revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(Put),
    Delete(DeleteRange),
    Txn(Txn),
    /// Forgets the history before a revision.
    Compact(Revision),
    /// The id and the time to live in seconds, as the proposer settled them.
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
    /// Ends a lease and deletes its keys.
    LeaseRevoke(LeaseId),
    /// Seconds that remain of each lease, so that a new leader does not start it afresh.
    LeaseCheckpoint(Vec<(LeaseId, i64)>),
    RaiseAlarm(Alarm),
    ClearAlarm(Alarm),
    MemberAttributes(Member),
    /// The bytes the store may hold, and the member to name should it hold more. Zero is no
    /// bound. It is a flag of each member, hence settled through the log.
    Quota {
        bytes: u64,
        member: MemberId,
    },
    /// A change of users, roles and permissions.
    Auth(AuthOp),
    /// A command and who sent it; so every command comes while logging in is required.
    Sent {
        by: Sender,
        command: Box<Self>,
    },
}

impl Command {
    /// Who sent it, if it says so, and what is to be done.
    #[must_use]
    pub fn parts(&self) -> (Option<&Sender>, &Self) {
        match self {
            Self::Sent { by, command } => (Some(by), command),
            command => (None, command),
        }
    }

    /// The same, said to be sent by somebody.
    #[must_use]
    pub fn by(self, by: Sender) -> Self {
        Self::Sent { by, command: Box::new(self) }
    }
}

/// What a range holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The store's revision when the question was answered, not the one asked about.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// The limit left rows out.
    pub more: bool,
    /// All keys of the range, whatever the limit and the filters.
    pub count: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    pub revision: Revision,
    pub prev: Option<KeyValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    pub revision: Revision,
    pub deleted: i64,
    pub prevs: Vec<KeyValue>,
}

/// One answer for each step of the branch that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    pub succeeded: bool,
    pub answers: Vec<OpAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    Range(RangeAnswer),
    Put(PutAnswer),
    Delete(DeleteAnswer),
    Txn(TxnAnswer),
}

/// The answer to a command; each variant belongs to the command of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Put(PutAnswer),
    Delete(DeleteAnswer),
    Txn(TxnAnswer),
    Compact,
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
    LeaseRevoke,
    LeaseCheckpoint,
    /// The alarms that the command raised or cleared: none if nothing changed.
    Alarms(Vec<Alarm>),
    MemberAttributes,
    Quota,
    Auth,
}

/// Why a command or a question was not carried out. Equal on every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the revision has been compacted; the oldest is {compacted}")]
    Compacted { compacted: Revision },
    #[error("the revision lies in the future; the newest is {current}")]
    FutureRevision { current: Revision },
    #[error("no such lease")]
    LeaseNotFound,
    #[error("the lease exists already")]
    LeaseExists,
    #[error("the time to live is too large")]
    LeaseTtlTooLarge,
    #[error("the key is empty")]
    EmptyKey,
    #[error("no such key")]
    KeyNotFound,
    #[error("a value was given beside ignore_value")]
    ValueProvided,
    #[error("a lease was given beside ignore_lease")]
    LeaseProvided,
    #[error("a transaction changes one key twice")]
    DuplicateKey,
    #[error("the space quota is used up")]
    NoSpace,
    #[error("the members disagree about the data")]
    Corrupt,
    #[error(transparent)]
    Auth(#[from] AuthRefusal),
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision after the command.
    pub revision: Revision,
    pub result: Result<Response, Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// A change of one key, as watchers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// Of a deletion only `key` and `modified` are set.
    pub kv: KeyValue,
    /// What the change replaced; absent for a new key and where history no longer has it.
    pub prev: Option<KeyValue>,
}

impl Event {
    /// By how many the live keys have become more.
    #[must_use]
    pub fn growth(&self) -> i64 {
        match self.kind {
            EventKind::Put if self.kv.version == 1 => 1,
            EventKind::Put => 0,
            EventKind::Delete => -1,
        }
    }
}

/// All changes of one revision, in the order they were made. Watchers get it whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revised {
    pub revision: Revision,
    pub events: Vec<Event>,
}
