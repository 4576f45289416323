//! Every bound of the store, in one place, each with its reason.
//!
//! A bound that an operator may choose is a default here and a flag in `config`; the others are
//! part of how the store is built.

use std::time::Duration;

/// How deep transactions may be nested. etcd bounds the number of steps only; this keeps recursion
/// over them within a small stack, and no client is known to nest more than a few levels.
pub const TXN_DEPTH_MAX: usize = 64;

/// Steps and compares of one transaction, at any level: `--max-txn-ops` of etcd.
pub const TXN_OPS_MAX: usize = 128;

/// The largest request: `--max-request-bytes` of etcd.
pub const REQUEST_BYTES_MAX: usize = 1_536 * 1024;

/// What gRPC may receive beyond the largest request, as in etcd: headers and framing.
pub const REQUEST_BYTES_SLACK: usize = 512 * 1024;

/// The longest time to live that a lease may ask for, in seconds; etcd's bound.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// What the store may hold when `--quota-backend-bytes` is not given; etcd's default.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// What one retained version counts beside its key and value; etcd's figure for the same thing.
pub const VERSION_BYTES_OVERHEAD: u64 = 256;

/// What granting a lease counts when the quota is asked; etcd's figure.
pub const LEASE_BYTES_OVERHEAD: u64 = 64;

/// When a memtable is frozen and spilled. Of memtables and what is kept of the one before there are
/// four at a time, the largest part of a busy store's memory.
pub const MEMTABLE_BYTES: usize = 8 * 1024 * 1024;

/// Frozen memtables that may wait to be spilled; beyond that, apply waits.
pub const MEMTABLES_FROZEN_MAX: usize = 2;

/// Versions that are spilled before they are written into the database. The more, the fewer pages
/// are rewritten for each of them when they are scattered over a large store; the fewer, the less
/// there is to replay after a crash, up to twice this number at a microsecond or two each.
pub const RUN_VERSIONS: usize = 128_000;

/// Bytes of their keys, which stay in memory: long ones end a run early.
pub const RUN_KEY_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of all of them, on the disk: the log must be kept for as much.
pub const RUN_BYTES: u64 = 64 * 1024 * 1024;

/// By how much of its size the run being filled may be ahead of what is done of the one being
/// written, before entries are held up.
pub const RUN_AHEAD_PERCENT: usize = 15;

/// The same as [`RUN_BYTES`] for a volatile store, which has it all in memory.
pub const VOLATILE_RUN_BYTES: u64 = 8 * 1024 * 1024;

/// What is written to a run at once, and read from it when it is read in order.
pub const RUN_IO_BYTES: usize = 256 * 1024;

/// The longest a change stays outside the database while others go on: bounds the replay after a
/// crash of a store that is written to little by little.
pub const CHECKPOINT_AGE: Duration = Duration::from_secs(30);

/// How long nothing must change before everything is written out, so that an idle store starts at
/// once.
pub const CHECKPOINT_IDLE: Duration = Duration::from_secs(1);

/// Memory for database pages; the rest is left to the page cache of the system.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Values up to this many bytes are kept inside the row of the newest state, so that a range reads
/// neighbouring rows only; longer ones would double the cost of writing.
pub const VALUE_INLINE_BYTES_MAX: usize = 512;

/// Versions that one compaction step walks inside a checkpoint: bounds how long the one writer of
/// the database is kept busy.
pub const COMPACT_SLICE_VERSIONS: usize = 20_000;

/// Watch messages that may wait for one stream. A watcher whose stream is fuller than this reads
/// history later instead, so this bounds memory and costs a slow client nothing but the reading.
pub const OUTBOX_MESSAGES_MAX: usize = 1024;

/// Bytes of events that may wait for one stream, each counted whole although streams share them.
pub const OUTBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Watchers on one stream. etcd has no bound; Kubernetes holds one per stream.
pub const WATCHERS_PER_STREAM_MAX: usize = 200_000;

/// Bytes of history that one catch-up step reads for a stream.
pub const CATCH_UP_BYTES: usize = 2 * 1024 * 1024;

/// Revisions that one catch-up step reads for a stream; etcd's figure.
pub const CATCH_UP_REVISIONS: usize = 1_000;

/// Revisions times watchers that one catch-up step looks at: a millisecond or so, during which no
/// applied change reaches any watcher.
pub const CATCH_UP_CHECKS_MAX: usize = 100_000;

/// Events merged into one watch answer, when several revisions wait: saves messages under load and
/// keeps an answer well below what clients receive by default (4 MiB).
pub const WATCH_ANSWER_BYTES: usize = 512 * 1024;

/// Commands waiting to be packed into a log entry. At a microsecond each this is milliseconds of
/// work; beyond it clients are told `too many requests`.
pub const PROPOSALS_WAITING_MAX: usize = 16_384;

/// Commands in one log entry: bounds the time apply spends on one entry.
pub const PROPOSALS_PER_ENTRY_MAX: usize = 512;

/// Bytes of commands in one log entry, unless a single command is larger.
pub const PROPOSAL_BYTES_PER_ENTRY: usize = 2 * 1024 * 1024;

/// Log entries proposed and not yet answered. More than one keeps the disk busy while an entry is
/// applied; few, so that waiting commands gather into large entries.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Expired leases revoked per second; etcd's figure. A mass expiry must not starve clients.
pub const LEASE_REVOKES_PER_SECOND: usize = 1_000;

/// Revocations proposed and not yet applied; etcd's figure.
pub const LEASE_REVOKES_IN_FLIGHT_MAX: usize = 16;

/// Callers that hung up while they waited for a lock or an election, and whose places are still to
/// be removed. Beyond it a place goes with its lease.
pub const LEFT_QUEUES_MAX: usize = 1_024;

/// Client connections at a time; beyond it new ones wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 32_768;

/// How long a client may take over its TLS handshake.
pub const TLS_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Reads of history or of the disk at a time; others wait their turn.
pub const SLOW_READS_MAX: usize = 4;

/// How deep the JSON of a gateway request may be nested: what the JSON reader bears on a small
/// stack, and more than the deepest transaction that gRPC takes.
pub const JSON_DEPTH_MAX: usize = 128;

/// How much longer than its wire form a gateway request may be: base64 takes a third more, field
/// names and numbers in digits the rest.
pub const JSON_BYTES_PER_WIRE_BYTE: usize = 2;

/// How long a client may take over the first object of a gateway request.
pub const GATEWAY_REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// The size of a configuration file: a hundred times a long one.
pub const CONFIG_FILE_BYTES_MAX: usize = 1024 * 1024;

/// Live keys in one bucket of the count index before it is split: what a count may have to walk at
/// each end of a range, some tens of microseconds.
pub const BUCKET_KEYS_MAX: u64 = 512;

/// In a store with more keys than this many full buckets, buckets grow instead of becoming more:
/// applying copies four bytes for each, once per entry that creates or deletes keys.
pub const BUCKETS_PER_STORE: u64 = 2_048;

/// What a checkpoint writes before it syncs: what a sync of the log on the same disk may have to
/// wait for, a few milliseconds.
pub const CHECKPOINT_SYNC_BYTES: u64 = 1024 * 1024;

/// The longest a checkpoint rests after such a sync; it rests as long as the sync took, so that it
/// has at most half the disk, unless `apply` waits for it.
pub const CHECKPOINT_REST_MAX: Duration = Duration::from_millis(5);

/// How long applying one entry is held up when the checkpoint thread is far behind and the active
/// memtable has grown to the hard bound: writes slow down by and by instead of stopping.
pub const APPLY_DELAY_MAX: Duration = Duration::from_millis(40);

/// How far the active memtable may outgrow its size before `apply` waits, in percent.
pub const MEMTABLE_OVERGROWTH_PERCENT: usize = 200;

/// Names of compacted versions that are gathered before they are removed in order: 16 bytes each,
/// 8 MiB. The more, the fewer pages are rewritten for each row that goes.
pub const COMPACT_GATHER_VERSIONS: usize = 500_000;

/// Keys whose tombstones are to go, gathered likewise.
pub const GATHERED_KEY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Versions that removal of compacted history removes before it rests: `--compaction-batch-limit`
/// of etcd, with its default.
pub const COMPACT_BATCH_VERSIONS: usize = 1_000;

/// How long it rests then: `--compaction-sleep-interval` of etcd, with its default.
pub const COMPACT_REST: Duration = Duration::from_millis(10);

/// Rows that a defragmentation copies before it rests for as long as that took, so that it takes
/// at most half a core.
pub const DEFRAGMENT_STEP_ROWS: usize = 1_000;

/// Versions that a defragmentation may be behind when it stops the checkpoint thread for its last
/// step, which then takes some tens of milliseconds; writes go on meanwhile.
pub const DEFRAGMENT_LAST_VERSIONS: i64 = 5_000;

/// Rounds in which a defragmentation catches up before it takes the last step anyhow.
pub const DEFRAGMENT_ROUNDS_MAX: usize = 16;

/// A segment of the log of a volatile store: still several times the largest entry.
pub const VOLATILE_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Logins and password changes that may wait for their turn to be hashed. At some tens of
/// milliseconds each on a core this is seconds of work; beyond it clients are told `too many
/// requests`.
pub const LOGINS_WAITING_MAX: usize = 256;

/// Simple tokens at a time, about 100 bytes each. A client needs one; who logs in for every request
/// pushes out his own oldest.
pub const TOKENS_MAX: usize = 100_000;

/// What is read of a gateway request that is refused already, and for how long, so that its client
/// can read the answer.
pub const REFUSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// See [`REFUSED_BYTES_MAX`].
pub const REFUSED_DEADLINE: Duration = Duration::from_secs(5);

/// Different versions of the API that clients may be counted by; they are their own words.
pub const CLIENT_VERSIONS_MAX: usize = 16;

/// Lines about slow requests, or slow applies, in one second; zap's figure in etcd.
pub const SLOW_LINES_PER_SECOND: u64 = 100;

/// Beyond it one line stands for so many; zap's figure in etcd.
pub const SLOW_LINES_THEN_EACH: u64 = 100;

/// Bytes of one message of a snapshot; etcd's figure.
pub const SNAPSHOT_BLOB_BYTES: usize = 32 * 1024;

/// Snapshot messages that may wait for one client: enough to keep a fast one busy.
pub const SNAPSHOT_BLOBS_WAITING_MAX: usize = 16;

/// Digests that HashKV remembers for after a compaction to their revision, as many as etcd.
pub const TOLD_HASHES_MAX: usize = 10;

/// Snapshots being sent at a time, each with a thread; beyond it clients are told `too many
/// requests`. One that is held open keeps old pages of the database from being used again.
pub const SNAPSHOTS_MAX: usize = 4;

/// A leaf page of a file that is read as an image: a few of the largest values that etcd can be told
/// to take, which it keeps in one page. Bounds what a damaged length can make us allocate.
pub const IMAGE_LEAF_BYTES_MAX: usize = 256 << 20;

/// A branch page of such a file: keys only, which bbolt bounds at 32 KiB.
pub const IMAGE_BRANCH_BYTES_MAX: usize = 16 << 20;

/// How deep such a file's trees may be, buckets within buckets included. A tree of 2⁶⁴ keys with the
/// smallest pages is shallower; each level costs stack.
pub const IMAGE_DEPTH_MAX: usize = 40;

/// Bytes of versions that an import writes at once: large enough that neighbouring keys share pages,
/// small enough to hold twice.
pub const LOAD_BATCH_BYTES: usize = 32 * 1024 * 1024;

/// Versions that an import writes at once.
pub const LOAD_BATCH_VERSIONS: usize = 100_000;

/// A record of etcd's log: one entry, which etcd bounds by its `--max-request-bytes`. Bounds what a
/// damaged length can make us allocate.
pub const ETCD_RECORD_BYTES_MAX: u64 = 1 << 30;
