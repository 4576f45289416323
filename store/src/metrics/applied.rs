//! What is counted of every command as it is applied, on each member alike.
//!
//! Commands are applied in batches, a batch being one entry of the log. It is timed as a whole, and
//! each of its commands is given its share: what a put costs beside five hundred others is what it
//! costs. The counts of a batch are gathered first and added once, for the apply thread is the one
//! that nothing may slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::page::{Kind, Page, SECONDS_PER_NANO};
use crate::command::{AuthOp, Command, OpAnswer, Outcome, Response, TxnAnswer};
use crate::histogram::{Histogram, nanos};

/// The names of commands, as etcd has them where it has the command.
const OPS: [&str; 21] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "ClusterMemberAttrSet",
    "QuotaSet",
    "AuthEnable",
    "AuthDisable",
    "AuthUserAdd",
    "AuthUserDelete",
    "AuthUserChangePassword",
    "AuthUserGrantRole",
    "AuthUserRevokeRole",
    "AuthRoleAdd",
    "AuthRoleDelete",
    "AuthRoleGrantPermission",
    "AuthRoleRevokePermission",
];

/// The place of a command's name.
fn op(command: &Command) -> usize {
    match command {
        Command::Put(_) => 0,
        Command::Delete(_) => 1,
        Command::Txn(_) => 2,
        Command::Compact(_) => 3,
        Command::LeaseGrant { .. } => 4,
        Command::LeaseRevoke(_) => 5,
        Command::LeaseCheckpoint(_) => 6,
        Command::RaiseAlarm(_) | Command::ClearAlarm(_) => 7,
        Command::MemberAttributes(_) => 8,
        Command::Quota { .. } => 9,
        Command::Auth(change) => match change {
            AuthOp::Enable => 10,
            AuthOp::Disable => 11,
            AuthOp::UserAdd { .. } => 12,
            AuthOp::UserDelete { .. } => 13,
            AuthOp::UserChangePassword { .. } => 14,
            AuthOp::UserGrantRole { .. } => 15,
            AuthOp::UserRevokeRole { .. } => 16,
            AuthOp::RoleAdd { .. } => 17,
            AuthOp::RoleDelete { .. } => 18,
            AuthOp::RoleGrantPermission { .. } => 19,
            AuthOp::RoleRevokePermission { .. } => 20,
        },
        Command::Sent { command, .. } => op(command),
    }
}

/// A command without its sender.
fn unsigned(command: &Command) -> &Command {
    match command {
        Command::Sent { command, .. } => command,
        command => command,
    }
}

/// Steps of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    ranges: u64,
    puts: u64,
    deletes: u64,
    /// Transactions of more than one step.
    txns: u64,
    /// Keys and values put outside transactions.
    put_bytes: u64,
}

impl Steps {
    fn count(&mut self, command: &Command, outcome: &Outcome) {
        match (command, &outcome.result) {
            (Command::Put(put), Ok(_)) => {
                self.puts += 1;
                self.put_bytes += (put.key.len() + put.value.len()) as u64;
            }
            (Command::Delete(_), Ok(_)) => self.deletes += 1,
            (Command::Txn(_), Ok(Response::Txn(answer))) => {
                self.txns += u64::from(answer.answers.len() > 1);
                self.count_txn(answer);
            }
            _ => {}
        }
    }

    /// Transactions nest no deeper than the machine lets them.
    fn count_txn(&mut self, answer: &TxnAnswer) {
        for answer in &answer.answers {
            match answer {
                OpAnswer::Range(_) => self.ranges += 1,
                OpAnswer::Put(_) => self.puts += 1,
                OpAnswer::Delete(_) => self.deletes += 1,
                OpAnswer::Txn(nested) => self.count_txn(nested),
            }
        }
    }
}

/// Counts of all that was applied since the start.
#[derive(Debug)]
pub(super) struct AppliedCounts {
    /// By command, and by whether it was carried out.
    times: [[Histogram; 2]; OPS.len()],
    ranges: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    txns: AtomicU64,
    put_bytes: AtomicU64,
    slow: AtomicU64,
    granted: AtomicU64,
    revoked: AtomicU64,
    /// Seconds to live, as granted.
    ttls: Histogram,
}

impl AppliedCounts {
    pub(super) fn new() -> Self {
        let count = || AtomicU64::new(0);
        Self {
            times: std::array::from_fn(|_| [Histogram::of_memory(), Histogram::of_memory()]),
            ranges: count(),
            puts: count(),
            deletes: count(),
            txns: count(),
            put_bytes: count(),
            slow: count(),
            granted: count(),
            revoked: count(),
            ttls: Histogram::doubling(1, 24),
        }
    }

    /// Notes a batch; `slow` is whether it took longer than the operator wants.
    pub(super) fn note(
        &self,
        commands: &[Command],
        outcomes: &[Outcome],
        took: Duration,
        slow: bool,
    ) {
        let mut steps = Steps::default();
        let mut ops = [[0_u64; 2]; OPS.len()];
        for (command, outcome) in commands.iter().map(unsigned).zip(outcomes) {
            ops[op(command)][usize::from(outcome.result.is_err())] += 1;
            steps.count(command, outcome);
            match (command, &outcome.result) {
                (Command::LeaseGrant { .. }, Ok(Response::LeaseGrant { ttl, .. })) => {
                    self.granted.fetch_add(1, Ordering::Relaxed);
                    self.ttls.observe(u64::try_from(*ttl).unwrap_or(0));
                }
                (Command::LeaseRevoke(_), Ok(_)) => {
                    self.revoked.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        let share = nanos(took) / commands.len().max(1) as u64;
        for (times, counts) in self.times.iter().zip(ops) {
            for (times, count) in times.iter().zip(counts).filter(|(_, count)| *count > 0) {
                times.observe_many(share, count);
            }
        }
        let sums = [
            (&self.ranges, steps.ranges),
            (&self.puts, steps.puts),
            (&self.deletes, steps.deletes),
            (&self.txns, steps.txns),
            (&self.put_bytes, steps.put_bytes),
            (&self.slow, u64::from(slow)),
        ];
        for (sum, more) in sums.into_iter().filter(|(_, more)| *more > 0) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// `ranges` are those that were answered without the log.
    pub(super) fn render(&self, page: &mut Page, ranges: u64) {
        let name = "etcd_server_apply_duration_seconds";
        page.family(
            name,
            Kind::Histogram,
            "A command's share of the time its entry took to apply.",
        );
        for (op, times) in OPS.iter().zip(&self.times) {
            for (times, success) in times.iter().zip(["true", "false"]) {
                if times.count() > 0 {
                    let labels = [("op", *op), ("success", success), ("version", "v3")];
                    page.distribution(name, &labels, times, SECONDS_PER_NANO);
                }
            }
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ranges = of(&self.ranges) + ranges;
        page.counter("etcd_mvcc_range_total", "Ranges read.", ranges);
        page.counter("etcd_mvcc_put_total", "Keys put.", of(&self.puts));
        page.counter("etcd_mvcc_delete_total", "Ranges deleted.", of(&self.deletes));
        page.counter("etcd_mvcc_txn_total", "Transactions of several steps.", of(&self.txns));
        let name = "etcd_debugging_mvcc_total_put_size_in_bytes";
        page.gauge(name, "Bytes of keys and values put.", of(&self.put_bytes));
        let name = "etcd_debugging_lease_granted_total";
        page.counter(name, "Leases granted.", of(&self.granted));
        let name = "etcd_debugging_lease_revoked_total";
        page.counter(name, "Leases revoked.", of(&self.revoked));
        let name = "etcd_debugging_lease_ttl_total";
        page.histogram(name, "Seconds to live that leases were granted.", &self.ttls, 1.0);
        let name = "etcd_server_slow_apply_total";
        page.counter(
            name,
            "Entries that took longer to apply than --warning-apply-duration.",
            of(&self.slow),
        );
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{Put, PutAnswer, Refusal, Revision, Txn};

    #[test]
    fn steps_of_taken_branches_are_counted_and_refused_commands_are_not() {
        let counts = AppliedCounts::new();
        let put = Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            ..Default::default()
        };
        let done = |result| Outcome { revision: Revision(2), result };
        let nested = TxnAnswer {
            succeeded: true,
            answers: vec![OpAnswer::Put(PutAnswer::default()), OpAnswer::Range(Default::default())],
        };
        let answer = TxnAnswer {
            succeeded: true,
            answers: vec![OpAnswer::Txn(nested), OpAnswer::Delete(Default::default())],
        };
        counts.note(
            &[Command::Put(put.clone()), Command::Put(put), Command::Txn(Txn::default())],
            &[
                done(Ok(Response::Put(PutAnswer::default()))),
                done(Err(Refusal::LeaseNotFound)),
                done(Ok(Response::Txn(answer))),
            ],
            Duration::from_millis(300),
            true,
        );
        let mut page = Page::new(0);
        counts.render(&mut page, 5);
        let text = page.into_text();
        for line in [
            "etcd_mvcc_put_total 2",
            "etcd_mvcc_range_total 6",
            "etcd_mvcc_delete_total 1",
            "etcd_mvcc_txn_total 1",
            "etcd_debugging_mvcc_total_put_size_in_bytes 8",
            "etcd_server_slow_apply_total 1",
            "etcd_server_apply_duration_seconds_sum{op=\"Put\",success=\"true\",version=\"v3\"} 0.1",
            "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"false\",version=\"v3\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
