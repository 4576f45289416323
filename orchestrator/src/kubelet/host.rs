//! What this node is: its capacity, its addresses, and what this process may do.

use std::collections::BTreeSet;

use super::cgroup;
use super::pod::oci::Host;

/// Names of the kernel's capabilities, by number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities named in the text of a `/proc/<pid>/status`: what may be passed on.
pub fn capabilities(status: &str) -> BTreeSet<String> {
    let mask = |field: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    let held = mask("CapBnd:") & mask("CapEff:");
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| held >> number & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// Facts about the node that shape every container.
pub fn host() -> Host {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = capabilities(&status);
    // Lowering the score below one's own needs a capability that not every root has.
    let own = std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let oom_score_floor = if capabilities.contains("CAP_SYS_RESOURCE") { -1000 } else { own };
    Host { cgroup_v2: cgroup::is_v2(), capabilities, oom_score_floor, memory: memory() }
}

/// The node's memory in bytes.
pub fn memory() -> i64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
            line.strip_suffix(" kB")?.trim().parse::<i64>().ok()
        })
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// The node's processors.
pub fn processors() -> i64 {
    std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_number() {
        let set = capabilities("CapEff:\t0000000000000021\nCapBnd:\t00000000000000ff\n");
        assert_eq!(set, BTreeSet::from(["CAP_CHOWN".to_owned(), "CAP_KILL".to_owned()]));
    }
}
