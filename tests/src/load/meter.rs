//! What a process has used, as the kernel counts it.

use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

/// CPU time, in user space and for the kernel's work on its behalf.
pub fn cpu(pid: Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold blanks; fields are counted behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel's unit for user space is 1/100 s on every architecture we build for.
    Duration::from_millis(ticks * 10)
}

/// Memory it holds now, in bytes.
pub fn resident(pid: Pid) -> u64 {
    kib(pid, "VmRSS:")
}

/// The most memory it ever held, in bytes.
pub fn peak(pid: Pid) -> u64 {
    kib(pid, "VmHWM:")
}

/// Bytes written so far to the device that a folder lies on, by whomever; zero where the kernel does
/// not tell. What it counts for a single process is what was made dirty, in units of up to many
/// pages, which for small writes is a multiple of what reaches the disk.
pub fn written(dir: &Path) -> u64 {
    const SECTOR: u64 = 512;
    let Ok(found) = std::fs::metadata(dir) else { return 0 };
    let (major, minor) =
        (nix::sys::stat::major(found.st_dev()), nix::sys::stat::minor(found.st_dev()));
    let disks = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let sectors = disks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        is_it.then(|| fields.get(9)?.parse::<u64>().ok()).flatten()
    });
    sectors.unwrap_or_default() * SECTOR
}

fn kib(pid: Pid, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    number(&status, name) * 1024
}

/// The number behind a name at the start of a line.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Whom to watch.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The server's process, where it runs here.
    pub pid: Option<Pid>,
    /// A folder on the disk that it writes to, where that is known.
    pub dir: Option<PathBuf>,
}

/// A reading of the two counters that only grow.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    cpu: Duration,
    written: u64,
}

impl Reading {
    /// Reads them now; zero where there is nothing to look at.
    pub fn now(subject: &Subject) -> Self {
        Self {
            cpu: subject.pid.map_or(Duration::ZERO, cpu),
            written: subject.dir.as_deref().map_or(0, written),
        }
    }

    /// As if the process had been started at this moment.
    pub fn newborn(subject: &Subject) -> Self {
        Self { cpu: Duration::ZERO, ..Self::now(subject) }
    }

    /// CPU time and bytes written since then.
    pub fn since(subject: &Subject, before: Self) -> (Duration, u64) {
        let now = Self::now(subject);
        (now.cpu.saturating_sub(before.cpu), now.written.saturating_sub(before.written))
    }
}

#[cfg(test)]
mod tests {
    //! On this very process.

    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let pid = nix::unistd::getpid();
        let subject = Subject { pid: Some(pid), dir: None };
        let before = Reading::now(&subject);
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(begin);
        }
        let (used, _) = Reading::since(&subject, before);
        assert!(used >= Duration::from_millis(20), "{used:?} of 100 ms of work");
        assert!(peak(pid) >= resident(pid) / 2 && resident(pid) > 1 << 20);
    }
}
