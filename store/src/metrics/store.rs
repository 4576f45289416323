//! What the parts of the store know of themselves, asked when the page is.

use super::page::{Kind, Page, SECONDS_PER_NANO};
use super::process;
use crate::command::{AlarmKind, KeyRange, RangeQuery};
use crate::histogram::Histogram;
use crate::limits::SLOW_READS_MAX;
use crate::rpc::{API_VERSION, Member, SERVER_VERSION};

/// Keys, revisions and their size.
pub(super) fn data(page: &mut Page, member: &Member) {
    let view = member.reader.view();
    let sizes = view.sizes();
    let mut all = RangeQuery::new(KeyRange::all());
    all.count_only = true;
    // A database that cannot be read says so elsewhere.
    if let Ok(keys) = view.range(&all) {
        page.gauge("etcd_debugging_mvcc_keys_total", "Live keys.", keys.count);
    }
    let name = "etcd_mvcc_db_total_size_in_bytes";
    page.gauge(name, "Bytes of retained revisions, as the quota counts them.", sizes.retained);
    let name = "etcd_mvcc_db_total_size_in_use_in_bytes";
    page.gauge(name, "The same: a defragmentation has nothing to give back.", sizes.retained);
    page.gauge("store_db_file_bytes", "The file of the database.", sizes.file);
    let quota = member.quota_bytes.unwrap_or(0);
    page.gauge("etcd_server_quota_backend_bytes", "The space quota.", quota);
    let name = "etcd_debugging_mvcc_current_revision";
    page.gauge(name, "The newest revision.", view.revision().0);
    let name = "etcd_debugging_mvcc_compact_revision";
    page.gauge(
        name,
        "The revision of the last compaction; -1 before the first.",
        view.compacted().0,
    );
    let name = "etcd_debugging_server_alarms";
    page.family(name, Kind::Gauge, "1 for each alarm that stands.");
    let me = format!("{:x}", member.ids.member.0);
    for alarm in view.alarms() {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        page.sample(name, &[("alarm_type", kind), ("server_id", &me)], 1);
    }
    let reading = SLOW_READS_MAX - member.slow_reads.available_permits();
    let name = "etcd_mvcc_db_open_read_transactions";
    page.gauge(name, "Long reads at work.", reading);
}

/// The disk: the log, and the database behind it.
pub(super) fn disk(page: &mut Page, member: &Member) {
    let timings = &member.wal;
    let name = "etcd_disk_wal_fsync_duration_seconds";
    page.histogram(name, "Time of each sync of the log.", &timings.sync, SECONDS_PER_NANO);
    let name = "etcd_disk_wal_write_duration_seconds";
    page.histogram(name, "Time of each write to the log.", &timings.write, SECONDS_PER_NANO);
    let name = "etcd_disk_wal_write_bytes_total";
    page.gauge(name, "Bytes written to the log.", timings.bytes());
    let counters = member.reader.counters();
    let name = "etcd_disk_backend_commit_duration_seconds";
    let help = "Time of each commit to the database.";
    page.histogram(name, help, &counters.commit, SECONDS_PER_NANO);
    let name = "etcd_debugging_mvcc_db_compaction_keys_total";
    page.counter(name, "Versions removed by compaction.", counters.versions_removed());
    let name = "etcd_debugging_mvcc_db_compaction_last";
    let at = counters.since_compaction().zip(process::unix_now());
    let at = at.map_or(0.0, |(ago, now)| (now - ago.as_secs_f64()).round());
    page.gauge(name, "When a compaction was done last, as a Unix time; 0 before.", at);
    let name = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds";
    page.histogram(name, "Time of each batch of removal.", &counters.pauses, 1.0);
    let name = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds";
    page.histogram(name, "Work of each compaction.", &counters.compactions, 1.0);
    // What only a member that is sent another's snapshot does.
    let none = Histogram::of_disk();
    let name = "etcd_snap_db_fsync_duration_seconds";
    page.histogram(name, "Time to sync a snapshot that was received.", &none, SECONDS_PER_NANO);
    let none = Histogram::doubling(100_000_000, 10);
    let name = "etcd_snap_db_save_total_duration_seconds";
    page.histogram(name, "Time to save a snapshot that was received.", &none, SECONDS_PER_NANO);
}

/// Leases, and who may use the store.
pub(super) fn rights(page: &mut Page, member: &Member) {
    let (renewed, expired) = member.leases.counts();
    page.counter("etcd_debugging_lease_renewed_total", "Times a lease was renewed.", renewed);
    page.counter("etcd_debugging_server_lease_expired_total", "Leases that expired.", expired);
    let revision = member.reader.view().auth().revision();
    page.gauge("etcd_debugging_auth_revision", "Revision of users and roles.", revision);
}

/// Who watches.
pub(super) fn watches(page: &mut Page, member: &Member) {
    let (watchers, streams) = member.watching.counts();
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watchers);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", streams);
    let (slow, pending) = member.watching.backlog();
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind.", slow);
    page.gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", pending);
    page.counter("etcd_debugging_mvcc_events_total", "Events sent.", member.watching.sent());
}

/// Consensus.
pub(super) fn raft(page: &mut Page, member: &Member) {
    use std::sync::atomic::Ordering::Relaxed;
    let raft = member.raft.status();
    let counts = member.raft.counts();
    let me = member.ids.member.0;
    let has_leader = u8::from(raft.leader.is_some());
    let is_leader = u8::from(raft.leader == Some(me));
    page.gauge("etcd_server_has_leader", "1 if there is a leader.", has_leader);
    page.gauge("etcd_server_is_leader", "1 if it is this member.", is_leader);
    page.gauge("etcd_server_is_learner", "1 if this member is a learner.", 0);
    let name = "etcd_server_leader_changes_seen_total";
    page.counter(name, "Leaders seen.", counts.leader_changes.load(Relaxed));
    let name = "etcd_server_learner_promote_successes";
    page.counter(name, "Learners made voters.", 0);
    let name = "etcd_server_heartbeat_send_failures_total";
    page.counter(name, "Heartbeats that could not be sent.", 0);
    let name = "etcd_server_snapshot_apply_in_progress_total";
    page.gauge(name, "1 while a snapshot that was received is applied.", 0);
    page.gauge("etcd_server_proposals_committed_total", "Entries agreed on.", raft.committed);
    page.gauge("etcd_server_proposals_applied_total", "Entries applied.", raft.applied);
    let name = "etcd_server_proposals_pending";
    page.gauge(name, "Proposals that wait for an answer.", member.raft.pending());
    let name = "etcd_server_proposals_failed_total";
    page.counter(name, "Proposals without an answer.", counts.proposals_failed.load(Relaxed));
    let name = "etcd_server_read_indexes_failed_total";
    page.counter(name, "Reads that got no leave.", counts.reads_failed.load(Relaxed));
    let name = "etcd_server_slow_read_indexes_total";
    page.counter(name, "Reads that got no leave in time.", counts.reads_late.load(Relaxed));
    let name = "etcd_network_known_peers";
    page.family(name, Kind::Gauge, "1 for each member that this one knows.");
    let id = format!("{me:x}");
    page.sample(name, &[("Local", &id), ("Remote", &id)], 1);
}

/// Who this is, and what is turned on.
pub(super) fn identity(page: &mut Page, member: &Member) {
    let name = "etcd_server_version";
    page.family(name, Kind::Gauge, "1, with the release of etcd that this store answers like.");
    page.sample(name, &[("server_version", SERVER_VERSION)], 1);
    let name = "etcd_cluster_version";
    page.family(name, Kind::Gauge, "1, with the level of the cluster.");
    let cluster = API_VERSION.rsplit_once('.').map_or(API_VERSION, |(minor, _)| minor);
    page.sample(name, &[("cluster_version", cluster)], 1);
    let name = "etcd_server_id";
    page.family(name, Kind::Gauge, "1, with the id of this member.");
    page.sample(name, &[("server_id", &format!("{:x}", member.ids.member.0))], 1);
    let name = "etcd_server_feature_enabled";
    page.family(name, Kind::Gauge, "1 for each feature gate that is on.");
    for (gate, stage, on) in member.gates.iter() {
        page.sample(name, &[("name", gate), ("stage", stage.as_str())], u8::from(on));
    }
}
